"""Stochastic traces of D^-n, and moments of the condensate, against dense inverses and determinants."""

from math import factorial

import numpy as np
import pytest
import torch
from reference import staggered_matrix

from lattice_lightning.analysis import judge_pulls
from lattice_lightning.exceptions import ConvergenceError, InputError
from lattice_lightning.fermions import EVEN, StaggeredOperator
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import ChiralCondensate, InverseTraces, traces
from lattice_lightning.observables.traces import condensate_moment

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


def repeated(observable, field, rounds, rng):
    """Measurements of one configuration, few enough at a time that the hop stays uncompiled."""
    links = copies(field, 1000 // (observable.lattice.volume // 2))
    measured = [observable.measure(links, rng) for _ in range(rounds)]
    return {name: torch.cat([values[name] for values in measured]) for name in measured[0]}


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


ALL = {"U1": U1(), **GROUPS}


def kinetic(group, links, shape):
    """K = D - m of one configuration, from the slow reference."""
    matrices = (torch.exp(1j * links)[..., None, None] if group.name == "U(1)" else links).numpy()
    return staggered_matrix(matrices, shape, 0.0)


def dense_traces(group, links, shape, mass):
    """Tr D^-n / V, n from 1 to 4."""
    k = kinetic(group, links, shape)
    inverse = np.linalg.inv(mass * np.eye(len(k)) + k)
    volume = np.prod(shape)
    return {n: np.linalg.matrix_power(inverse, n).trace().real / volume for n in POWERS}


def written_out(traces, volume, n_fields=1):
    """M_j / V^j from exact traces, as the formulas are printed."""
    sign = {1: 1, 2: -1, 3: 2, 4: -6}
    q1, q2, q3, q4 = (n_fields * sign[n] * volume * traces[n] for n in POWERS)
    moments = [
        q1,
        q1**2 + q2,
        q1**3 + 3 * q1 * q2 + q3,
        q1**4 + 6 * q1**2 * q2 + 3 * q2**2 + 4 * q1 * q3 + q4,
    ]
    return {j: moment / volume**j for j, moment in enumerate(moments, 1)}


@pytest.mark.parametrize("n_fields", [1, 2, 3])
@pytest.mark.parametrize("name", ALL)
def test_moments_are_mass_derivatives_of_the_determinant(name, n_fields, rng):
    """The determinant at complex masses on a circle gives its Taylor coefficients exactly."""
    group, radius, n_points = ALL[name], 0.1, 256
    links = group.hot(LATTICE, 1, rng)[0]
    k = kinetic(group, links, LATTICE.shape)
    circle = radius * np.exp(2j * np.pi * np.arange(n_points) / n_points)
    assert n_points > n_fields * len(k), "more points than the degree of the polynomial"
    values = np.linalg.det(k + (MASS + circle)[:, None, None] * np.eye(len(k))) ** n_fields
    coefficients = np.fft.fft(values).real / n_points

    exact = dense_traces(group, links, LATTICE.shape, MASS)
    # four sources that agree: their products are those of the exact traces
    sources = {n: torch.full((4, 1), float(trace), dtype=torch.float64) for n, trace in exact.items()}
    for j in POWERS:
        derivative = factorial(j) * coefficients[j] / radius**j / coefficients[0]
        target = pytest.approx(derivative / LATTICE.volume**j, rel=1e-8)
        assert float(condensate_moment(j, sources, LATTICE.volume, n_fields)) == target, j
        assert written_out(exact, LATTICE.volume, n_fields)[j] == target, j
        for n in range(2, j + 1):
            # one trace of the wrong sign
            wrong = {**sources, n: -sources[n]}
            assert float(condensate_moment(j, wrong, LATTICE.volume, n_fields)) != pytest.approx(
                derivative / LATTICE.volume**j, rel=1e-6
            ), (j, n)


def moment_pulls(group, shape, field, exact, rng, rounds, n_fields=1):
    """Pulls of all moments and powers, from a mean of many measurements with four sources each."""
    lattice = Lattice(shape)
    observable = InverseTraces(lattice, group, MASS, n_sources=4, moments=4, n_fields=n_fields)
    values = repeated(observable, field, rounds, rng)
    target = {f"condensate_moment_{j}": m for j, m in written_out(exact, lattice.volume, n_fields).items()}
    target |= {f"condensate_power_{j}": exact[1] ** j for j in (2, 3, 4)}
    return {
        name: (float(values[name].mean()) - t) / (float(values[name].std()) / len(values[name]) ** 0.5)
        for name, t in target.items()
    }


def collect(many):
    """Pulls by name: names share their sources, so that each is judged alone."""
    return {name: [pulls[name] for pulls in many] for name in many[0]}


def test_moments_are_unbiased_with_few_sources(rng, monkeypatch):
    cases = []
    for shape in ((4, 4), (2, 2, 2, 4)):
        for group in ALL.values():
            field = group.hot(Lattice(shape), 1, rng)[0]
            cases.append((group, shape, field, dense_traces(group, field, shape, MASS)))
    for name, pulls in collect([moment_pulls(*case, rng, 6) for case in cases]).items():
        assert judge_pulls(pulls).ok, (name, pulls)

    # products of means are not: the same source enters twice
    def naive(factors):
        return torch.stack([factor.mean(0) for factor in factors]).prod(0)

    monkeypatch.setattr(traces, "distinct_products", naive)
    for name, pulls in collect([moment_pulls(*case, rng, 12) for case in cases[:3]]).items():
        if name != "condensate_moment_1":
            assert max(map(abs, pulls)) > 5, (name, pulls)


def test_moments_of_the_free_field(rng):
    """Plane waves: D has the eigenvalues m +- i sqrt(sum_mu sin^2 p_mu), antiperiodic in time."""
    many, n_fields = [], 2
    for shape in ((4, 4), (2, 4, 4)):
        lattice = Lattice(shape)
        momenta = lattice.momenta()
        momenta[-1] += np.pi / shape[-1]
        root = momenta.sin().square().sum(0).sqrt().flatten()
        for group in ALL.values():
            exact = {
                n: group.n_colors * float(((MASS + 1j * root) ** -n).real.sum()) / lattice.volume
                for n in POWERS
            }
            field = group.cold(lattice, 1)[0]
            many.append(moment_pulls(group, shape, field, exact, rng, 6, n_fields))
    for name, pulls in collect(many).items():
        assert judge_pulls(pulls).ok, (name, pulls)


def test_jackknife_noise_is_the_scatter_of_repeated_calls(rng):
    group = SU2()
    links = group.hot(LATTICE, 1, rng)[0]
    observable = InverseTraces(LATTICE, group, MASS, n_sources=12, moments=4)
    values = repeated(observable, links, 12, rng)
    for j in POWERS:
        name = f"condensate_moment_{j}"
        scatter, noise = float(values[name].var()), float(values[f"{name}_noise"].mean())
        # the jackknife errs upwards, by the terms beyond the linear one
        assert 0.85 < noise / scatter < 1.3, (name, noise / scatter)
    torch.testing.assert_close(values["condensate_moment_1_noise"], values["trace_inverse_1_noise"])


def test_moments_come_from_the_same_solves(rng):
    links, state = SU2().hot(LATTICE, 2, rng), rng.get_state()

    def measure(**options):
        rng.set_state(state)
        return InverseTraces(LATTICE, SU2(), MASS, n_sources=3, **options).measure(links, rng)

    without, found = measure(), measure(moments=3, n_fields=2)
    assert set(found) - set(without) == {
        "condensate_power_2",
        "condensate_power_3",
        "condensate_moment_1",
        "condensate_moment_1_noise",
        "condensate_moment_2",
        "condensate_moment_2_noise",
        "condensate_moment_3",  # no noise: three sources for three factors
    }
    for name, value in found.items():
        assert value.shape == (2,) and value.dtype == torch.float64
        assert name not in without or torch.equal(value, without[name])
    torch.testing.assert_close(found["condensate_moment_1"], 2 * found["trace_inverse_1"])


@pytest.mark.parametrize("n_sources", [1, 3])
@pytest.mark.parametrize("name", ALL)
def test_condensate_is_the_plain_sum_bit_for_bit(name, n_sources, rng):
    """Published numbers rest on this order of operations."""
    group = ALL[name]
    links, state = group.hot(LATTICE, 3, rng), rng.get_state()
    found = ChiralCondensate(LATTICE, group, MASS, n_sources).measure(links, rng)["chiral_condensate"]
    end = rng.get_state()
    rng.set_state(state)
    operator = StaggeredOperator(LATTICE, group)
    matrices, total = operator.hop_matrices(group.pack(links)), torch.zeros(3, dtype=torch.float64)
    for _ in range(n_sources):
        xi = operator.gaussian(3, rng)
        total += (xi * operator.solve(matrices, xi, [MASS], EVEN, 1e-8, 5000).x[0]).sum((0, 1, 2))
    assert torch.equal(found, 2 * MASS / (LATTICE.volume * n_sources) * total)
    assert torch.equal(rng.get_state(), end)


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
        ((LATTICE, SU2(), 0.1, (1,), 4, None, 0.0), "expected 0 < tolerance < 1 .* got 0.0, 5000"),
        ((LATTICE, SU2(), 0.1, (1,), 4, None, 1e-8, 0), "max_iterations >= 1, got 1e-08, 0"),
        ((LATTICE, SU2(), 0.1, POWERS, 4, None, 1e-8, 9, 5), "moments from 0 to 4 .* got moments=5"),
        ((LATTICE, SU2(), 0.1, POWERS, 4, None, 1e-8, 9, -1), "got moments=-1"),
        ((LATTICE, SU2(), 0.1, POWERS, 4, None, 1e-8, 9, 2, 0), "whole number .* n_fields=0"),
        ((LATTICE, SU2(), 0.1, POWERS, 4, None, 1e-8, 9, 2, 0.5), "n_fields=0.5"),
        (
            (LATTICE, SU2(), 0.1, (1, 3), 4, None, 1e-8, 9, 3),
            r"moments=3 needs powers \[1, 2, 3\] and n_sources >= 3, got powers \[1, 3\] and n_sources=4",
        ),
        ((LATTICE, SU2(), 0.1, POWERS, 2, None, 1e-8, 9, 3), r"n_sources >= 3, got .* n_sources=2"),
        ((Lattice((4, 3)), SU2(), 0.1), "even extents, but extent 1"),
        ((LATTICE, RealLine(), 0.1), "need a gauge group, got R"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        InverseTraces(*arguments)
