"""Chiral condensate against the trace of a dense inverse."""

import numpy as np
import pytest
import torch
from reference import condensate, staggered_matrix

from lattice_lightning.analysis import judge_pulls
from lattice_lightning.exceptions import ConvergenceError, InputError
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import ChiralCondensate

# copies of one configuration, few enough that the hop stays uncompiled
N = 120
GROUPS = {"U1": U1(), "SU2": SU2(), "SU3": SUN(3)}


def dense(group, field):
    return (torch.exp(1j * field)[..., None, None] if group.name == "U(1)" else field).numpy()


def many_sources(observable, links, rng):
    values = observable.measure(links.expand(N, *links.shape).contiguous(), rng)["chiral_condensate"]
    return float(values.mean()), float(values.std()) / N**0.5


@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 2)], ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_stochastic_trace_meets_the_exact_one(name, shape, rng):
    group, lattice, mass = GROUPS[name], Lattice(shape), 0.3
    observable = ChiralCondensate(lattice, group, mass, n_sources=4)
    pulls = []
    for links in group.hot(lattice, 3, rng):
        exact = condensate(dense(group, links), shape, mass)
        mean, error = many_sources(observable, links, rng)
        pulls.append((mean - exact) / error)
    assert judge_pulls(pulls).ok, pulls


@pytest.mark.parametrize("boundary", [(1, 1), (-1, -1)])
def test_boundary_phases(boundary, rng):
    group, lattice, mass = SU2(), Lattice((2, 4)), 0.2
    links = group.cold(lattice, 1)[0]
    d = staggered_matrix(links.numpy(), lattice.shape, mass, boundary)
    observable = ChiralCondensate(lattice, group, mass, n_sources=10, boundary=boundary)
    mean, error = many_sources(observable, links, rng)
    assert abs(mean - np.trace(np.linalg.inv(d)).real / lattice.volume) < 3.5 * error


def test_more_sources_average_the_noise(rng):
    group, lattice = SU2(), Lattice((4, 4))
    links = group.hot(lattice, 1, rng)[0]
    one, nine = (
        many_sources(ChiralCondensate(lattice, group, 0.3, n_sources=n), links, rng)[1] for n in (1, 9)
    )
    assert one / nine == pytest.approx(3, rel=0.25)


def test_heavy_quark_limit(rng):
    lattice, group, mass = Lattice((4, 4)), SUN(3), 1e4
    value = ChiralCondensate(lattice, group, mass, n_sources=50).measure(group.hot(lattice, 4, rng), rng)
    assert torch.allclose(value["chiral_condensate"] * mass / 3, torch.ones(4).double(), atol=0.1)


def test_gauge_invariance_within_the_noise(rng):
    group, lattice = SU2(), Lattice((4, 4))
    links = group.hot(lattice, 1, rng)
    turned = group.transform(links, group.haar((1, 4, 4), rng), lattice)
    observable = ChiralCondensate(lattice, group, 0.2, n_sources=10)
    (a, error_a), (b, error_b) = (many_sources(observable, f[0], rng) for f in (links, turned))
    assert abs(a - b) < 3.5 * np.hypot(error_a, error_b)


def test_failed_solve_is_an_error(rng):
    observable = ChiralCondensate(Lattice((4, 4)), SU2(), 0.1, max_iterations=2)
    with pytest.raises(ConvergenceError, match=r"chiral condensate: .* within 2 iterations"):
        observable.measure(SU2().hot(Lattice((4, 4)), 2, rng), rng)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((Lattice((4, 4)), SU2(), 0.0), "mass > 0 and n_sources >= 1, got 0"),
        ((Lattice((4, 4)), SU2(), 0.1, 0), "got 0.1, 0"),
        ((Lattice((4, 3)), SU2(), 0.1), "even extents, but extent 1"),
        ((Lattice((4, 4)), RealLine(), 0.1), "need a gauge group, got R"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        ChiralCondensate(*arguments)
