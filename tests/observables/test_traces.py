"""Stochastic traces of D^-n against those of a dense inverse."""

import pytest
import torch

from lattice_lightning.analysis import judge_pulls
from lattice_lightning.exceptions import ConvergenceError, InputError
from lattice_lightning.fermions import EVEN, StaggeredOperator
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import ChiralCondensate, InverseTraces

LATTICE, MASS, POWERS = Lattice((4, 4)), 0.3, (1, 2, 3, 4)
GROUPS = {"SU2": SU2(), "SU3": SUN(3)}


def dense(group, links, boundary=None):
    """D of one configuration as a matrix, a unit vector a chain."""
    size = LATTICE.volume * group.n_colors
    unit = torch.eye(size, dtype=torch.complex128).reshape(size, *LATTICE.shape, group.n_colors)
    copies = links.expand(size, *links.shape).contiguous()
    columns = StaggeredOperator(LATTICE, group, boundary).apply(copies, unit, MASS)
    return columns.reshape(size, size).T


def exact_traces(group, links, boundary=None):
    inverse = torch.linalg.inv(dense(group, links, boundary))
    return {n: float(torch.linalg.matrix_power(inverse, n).trace().real) / LATTICE.volume for n in POWERS}


def copies(links, n):
    return links.expand(n, *links.shape).contiguous()


@pytest.mark.parametrize("boundary", [None, (-1, 1)], ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_complete_basis_gives_the_exact_traces(name, boundary, rng, monkeypatch):
    group = GROUPS[name]
    links = group.hot(LATTICE, 1, rng)[0]
    observable = InverseTraces(LATTICE, group, MASS, n_sources=1, boundary=boundary, tolerance=1e-12)
    size = LATTICE.volume // 2 * group.n_colors
    basis = torch.zeros(2, group.n_colors, LATTICE.volume // 2, size, dtype=torch.float64)
    basis[0] = torch.eye(size, dtype=torch.float64).reshape(basis.shape[1:])
    monkeypatch.setattr(observable.operator, "gaussian", lambda n_chains, rng: basis)
    values = observable.measure(copies(links, size), rng)
    for n, exact in exact_traces(group, links, boundary).items():
        assert float(values[f"trace_inverse_{n}"].sum()) == pytest.approx(exact, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("name", GROUPS)
def test_many_sources_meet_the_exact_traces(name, rng):
    group = GROUPS[name]
    links = group.hot(LATTICE, 4, rng)
    values = InverseTraces(LATTICE, group, MASS, n_sources=400).measure(links, rng)
    exact = [exact_traces(group, one) for one in links]
    for n in POWERS:
        target = torch.tensor([traces[n] for traces in exact], dtype=torch.float64)
        pulls = (values[f"trace_inverse_{n}"] - target) / values[f"trace_inverse_{n}_noise"].sqrt()
        # judged for each n alone: the powers share their sources
        assert judge_pulls(pulls.tolist()).ok, (n, pulls)
        assert float(pulls.abs().max()) < 4, (n, pulls)


def test_noise_is_the_variance_of_the_mean(rng):
    group, n_sources, chains, rounds = SU2(), 4, 100, 3
    links = group.hot(LATTICE, 1, rng)[0]
    observable = InverseTraces(LATTICE, group, MASS, n_sources=n_sources)
    measured = [observable.measure(copies(links, chains), rng) for _ in range(rounds)]
    # for complex Gaussian sources the variance of xi^dag A xi is Tr A^2
    even = LATTICE.parity().flatten().repeat_interleave(group.n_colors) == EVEN
    inverse = torch.linalg.inv(dense(group, links))
    for n in POWERS:
        mean, noise = (
            torch.cat([values[f"trace_inverse_{n}{end}"] for values in measured]) for end in ("", "_noise")
        )
        power = torch.linalg.matrix_power(inverse, n)
        # D^-n on the even sites, with its hermitian part
        block = (power + power.mH)[even][:, even] / LATTICE.volume
        expected = float((block @ block).trace().real) / n_sources
        assert float(noise.mean()) == pytest.approx(float(mean.var()), rel=0.2), n
        assert float(noise.mean()) == pytest.approx(expected, rel=0.2), n


@pytest.mark.parametrize("powers", [(1,), (4, 1)], ids=str)
def test_first_power_is_the_condensate(powers, rng):
    group = SUN(3)
    links, state = group.hot(LATTICE, 3, rng), rng.get_state()
    mine = InverseTraces(LATTICE, group, MASS, powers, n_sources=3).measure(links, rng)
    rng.set_state(state)
    other = ChiralCondensate(LATTICE, group, MASS, n_sources=3).measure(links, rng)
    torch.testing.assert_close(mine["trace_inverse_1"], other["chiral_condensate"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=["U1", "SU2", "SU3"])
def test_heavy_mass_limit(group, rng):
    mass = 1e3
    values = InverseTraces(LATTICE, group, mass, n_sources=200).measure(group.hot(LATTICE, 3, rng), rng)
    for n in POWERS:
        scaled = values[f"trace_inverse_{n}"] * mass**n / group.n_colors
        error = values[f"trace_inverse_{n}_noise"].sqrt() * mass**n / group.n_colors
        assert float(error.max()) < 0.03, n
        assert float(((scaled - 1) / error).abs().max()) < 4, n


def test_names_and_iterations(rng):
    links, state = SU2().hot(LATTICE, 2, rng), rng.get_state()

    def measure(powers, n_sources):
        rng.set_state(state)
        return InverseTraces(LATTICE, SU2(), MASS, powers, n_sources).measure(links, rng)

    one, two, three = measure((2,), 1), measure((2, 1), 2), measure((3,), 1)
    assert set(one) == {"trace_inverse_2", "trace_inverse_iterations"}
    assert set(two) == {
        "trace_inverse_1",
        "trace_inverse_1_noise",
        "trace_inverse_2",
        "trace_inverse_2_noise",
        "trace_inverse_iterations",
    }
    for values in (one, two, three):
        for value in values.values():
            assert value.shape == (2,) and value.dtype == torch.float64
    # the first source alone, then a second source or a second solve on top
    assert bool((one["trace_inverse_iterations"] > 1).all())
    assert bool((two["trace_inverse_iterations"] > one["trace_inverse_iterations"]).all())
    assert bool((three["trace_inverse_iterations"] > one["trace_inverse_iterations"]).all())


def test_failed_solve_is_an_error(rng):
    observable = InverseTraces(LATTICE, SU2(), 0.1, max_iterations=2)
    with pytest.raises(ConvergenceError, match=r"inverse traces: .* within 2 iterations"):
        observable.measure(SU2().hot(LATTICE, 2, rng), rng)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((LATTICE, SU2(), 0.0), "mass > 0 and n_sources >= 1, got 0"),
        ((LATTICE, SU2(), float("nan")), "mass > 0 and n_sources >= 1, got nan"),
        ((LATTICE, SU2(), 0.1, (1,), 0), "got 0.1, 0"),
        ((LATTICE, SU2(), 0.1, ()), r"different ones of 1, 2, 3, 4, got \[\]"),
        ((LATTICE, SU2(), 0.1, (1, 2, 1)), r"got \[1, 2, 1\]"),
        ((LATTICE, SU2(), 0.1, (0, 1)), r"got \[0, 1\]"),
        ((LATTICE, SU2(), 0.1, (5,)), r"got \[5\]"),
        ((Lattice((4, 3)), SU2(), 0.1), "even extents, but extent 1"),
        ((LATTICE, RealLine(), 0.1), "need a gauge group, got R"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        InverseTraces(*arguments)
