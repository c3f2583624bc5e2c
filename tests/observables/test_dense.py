"""The exact condensate against the trace of the reference's inverse, and against stochastic sources."""

import pytest
import torch
from conversions import matrices
from reference import condensate

from lattice_lightning.exceptions import ConvergenceError, InputError
from lattice_lightning.groups import SU2, SUN, U1
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import ChiralCondensate, DenseCondensate


@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
@pytest.mark.parametrize("shape", [(4, 6), (2, 2, 4, 2)], ids=str)
def test_trace_of_the_inverse(group, shape, rng):
    links = group.hot(Lattice(shape), 2, rng)
    before = rng.get_state()
    values = DenseCondensate(Lattice(shape), group, 0.2).measure(links, rng)["chiral_condensate"]
    expected = [condensate(u, shape, 0.2) for u in matrices(group, links)]
    assert values.tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(rng.get_state(), before)


def test_stochastic_sources_scatter_about_it(rng):
    lattice, group, n = Lattice((2, 4)), SU2(), 400
    links = group.hot(lattice, 1, rng)
    boundary = (-1, 1)
    exact = float(DenseCondensate(lattice, group, 0.3, boundary).measure(links, rng)["chiral_condensate"])
    noisy = ChiralCondensate(lattice, group, 0.3, n_sources=2, boundary=boundary)
    values = noisy.measure(links.expand(n, *links.shape[1:]).contiguous(), rng)["chiral_condensate"]
    error = float(values.std()) / n**0.5
    assert abs(float(values.mean()) - exact) < 3.5 * error
    # negative control: the usual boundary is another condensate
    other = float(DenseCondensate(lattice, group, 0.3).measure(links, rng)["chiral_condensate"])
    assert abs(float(values.mean()) - other) > 5 * error


def test_errors(rng):
    lattice, group = Lattice((4, 4)), SU2()
    with pytest.raises(InputError, match="must be positive and finite, got mass=0"):
        DenseCondensate(lattice, group, 0.0)
    links = group.hot(lattice, 2, rng)
    links[1, 0, 0, 0] = float("nan")
    with pytest.raises(ConvergenceError, match="no Cholesky factor in chain 1: its links are not finite"):
        DenseCondensate(lattice, group, 0.3).measure(links, rng)
