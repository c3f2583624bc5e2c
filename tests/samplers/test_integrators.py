"""Integrators: accuracy against tiny steps, order, reversibility, area, several time scales."""

from functools import cache
from math import log

import pytest
import torch

from lattice_lightning.actions import Phi4, StaggeredFermion, SumAction, WilsonGauge
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.samplers import HMC, SCHEMES, Level, SelfLearningHMC, integrate
from lattice_lightning.testing import assert_reversible

ORDER = {"leapfrog": 2, "omelyan2": 2, "omelyan4": 4}
LATTICE = Lattice((4, 4))
THEORIES = {
    "phi4": Phi4(LATTICE, m2=-0.5, lam=0.7),
    "U1": WilsonGauge(LATTICE, U1(), 2.0),
    "SU2": WilsonGauge(LATTICE, SU2(), 2.0),
    "SU3": WilsonGauge(LATTICE, SUN(3), 4.0),
}


@pytest.fixture(params=THEORIES)
def action(request):
    return THEORIES[request.param]


def phase_space_point(action, n_chains, rng):
    field = action.space.hot(action.lattice, n_chains, rng)
    return field, action.space.momentum(field, rng)


def evolve(action, point, scheme, n_steps, length=1.0):
    force = lambda field: action.force(field, {})  # noqa: E731
    return integrate(action.space, *point, [(Level(n_steps, scheme), force)], length)


def rms_dH(action, point, scheme, n_steps):
    field, momentum = point
    end, last = evolve(action, point, scheme, n_steps, length=0.5)
    change = action.value(end, {}) - action.value(field, {})
    change += action.space.kinetic(last) - action.space.kinetic(momentum)
    return float(change.square().mean().sqrt())


@cache
def reference_trajectory(theory, length=0.25, n=60):
    """Explicit midpoint (Runge-Kutta) steps, small enough that only the tested scheme errs."""
    action, h = THEORIES[theory], length / n
    start = phase_space_point(action, 2, torch.Generator().manual_seed(11))
    field, momentum = start
    for _ in range(n):
        middle = action.space.evolve(field, 0.5 * h * momentum)
        half = momentum - 0.5 * h * action.force(field, {})
        field, momentum = action.space.evolve(field, h * half), momentum - h * action.force(middle, {})
    return start, (field, momentum)


@pytest.mark.parametrize("theory", THEORIES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_trajectory_follows_hamiltons_equations(scheme, theory):
    start, expected = reference_trajectory(theory)
    for got, wanted in zip(evolve(THEORIES[theory], start, scheme, 20, 0.25), expected, strict=True):
        assert (got - wanted).abs().max() < 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_order_of_the_energy_violation(action, scheme, rng):
    point = phase_space_point(action, 16, rng)
    coarse, fine = (rms_dH(action, point, scheme, n) for n in (8, 16))
    assert log(coarse / fine, 2) == pytest.approx(ORDER[scheme], abs=0.25)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_momentum_turned_round_runs_back(action, scheme, rng):
    point = phase_space_point(action, 4, rng)
    end, last = evolve(action, point, scheme, 8)
    back, momentum = evolve(action, (end, -last), scheme, 8)
    assert (back - point[0]).abs().max() < 1e-9
    assert (momentum + point[1]).abs().max() < 1e-9


def test_negative_length_runs_backwards(action, rng):
    point = phase_space_point(action, 4, rng)
    back, momentum = evolve(action, evolve(action, point, "omelyan2", 8), "omelyan2", 8, -1.0)
    assert (back - point[0]).abs().max() < 1e-9
    assert (momentum - point[1]).abs().max() < 1e-9


def staggered(tolerance_md, group, lattice=LATTICE):
    fermion = StaggeredFermion(
        lattice, group, 0.1, tolerance_md=tolerance_md, tolerance_accept=1e-13, compiled=False
    )
    return SumAction({"gauge": WilsonGauge(lattice, group, 2.0), "fermion": fermion})


@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
def test_hamiltonian_is_reversible_with_tight_solver(group, rng):
    kernel = HMC(staggered(1e-12, group), levels=6)
    error = assert_reversible(kernel, group.hot(LATTICE, 8, rng), rng, tolerance=1e-9)
    print(f"{group.name}: reversal error of H {error:.1e} at 1e-12")


def test_loose_solver_costs_reversibility_within_bounds(rng, record_property):
    # 4x4 has eight distinct eigenvalues, where conjugate gradients are exact after eight steps
    group, lattice = SU2(), Lattice((8, 8))
    kernel = HMC(staggered(1e-6, group, lattice), levels=6)
    error = assert_reversible(kernel, group.hot(lattice, 16, rng), rng, tolerance=1e-4)
    assert error > 1e-10
    record_property("reversal_error", error)
    print(f"SU(2): reversal error of H {error:.1e} at 1e-6")


def test_reversibility_check_catches_a_drifting_motion(rng):
    class Drifting(RealLine):
        def evolve(self, field, omega):
            return field + omega + 1e-3 * omega.square()

    action = Phi4(LATTICE, m2=1.0, lam=0.5, space=Drifting())
    with pytest.raises(AssertionError, match="reversibility"):
        assert_reversible(HMC(action), torch.ones(2, 4, 4, dtype=torch.float64), rng)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_phase_space_volume_is_conserved(scheme):
    """det of the Jacobian of (q, p) -> (q', p') by autograd, three coupled anharmonic oscillators."""
    coupling = torch.tensor([[2.0, 0.3, 0.1], [0.3, 1.0, -0.4], [0.1, -0.4, 3.0]], dtype=torch.float64)
    level = Level(3, scheme)

    def flow(point):
        q, p = point[:3], point[3:]
        kicks, drifts = SCHEMES[scheme]
        # integrate() itself has no gradients: the same kicks and drifts, one step after another
        h = 0.4 / level.n_steps
        for _ in range(level.n_steps):
            for kick, drift in zip(kicks, (*drifts, 0.0), strict=True):
                p = p - kick * h * (coupling @ q + 0.5 * q**3)
                q = q + drift * h * p
        return torch.cat([q, p])

    point = torch.tensor([0.3, -0.5, 0.8, 1.1, -0.2, 0.4], dtype=torch.float64)
    force = lambda q: q @ coupling + 0.5 * q**3  # noqa: E731
    got = integrate(RealLine(), point[None, :3], point[None, 3:], [(level, force)], 0.4)
    assert torch.allclose(torch.cat(got, 1)[0], flow(point), atol=1e-14)
    jacobian = torch.autograd.functional.jacobian(flow, point)
    assert abs(float(torch.linalg.det(jacobian)) - 1) < 1e-12


def test_phase_space_volume_by_finite_differences(rng):
    """The same of integrate() itself, with two time scales."""
    action = Phi4(Lattice((2, 2)), m2=0.5, lam=1.0)
    outer = lambda q: 4 * q**3  # noqa: E731
    inner = lambda q: action.force(q, {}) - outer(q)  # noqa: E731
    levels = [(Level(2, "omelyan2"), outer), (Level(2, "leapfrog"), inner)]

    def flow(points):
        q, p = (points[:, i : i + 4].reshape(-1, 2, 2) for i in (0, 4))
        return torch.cat([t.flatten(1) for t in integrate(action.space, q, p, levels, 0.7)], 1)

    point, h = torch.randn(8, generator=rng, dtype=torch.float64), 1e-3
    steps = h * torch.eye(8, dtype=torch.float64)
    f = {k: flow(point + k * steps) for k in (-2, -1, 1, 2)}
    jacobian = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
    assert abs(float(torch.linalg.det(jacobian)) - 1) < 1e-9


def two_terms():
    gauge = WilsonGauge(LATTICE, SU2(), 2.0)
    return SumAction({"strong": gauge, "weak": WilsonGauge(LATTICE, SU2(), 0.02)})


def ends(kernel, rng):
    state = kernel.init(kernel.space.hot(LATTICE, 4, rng), rng)
    return kernel.propose(rng, state)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_terms_on_one_named_level_equal_the_plain_integrator(scheme):
    plain = HMC(two_terms(), levels=[Level(4, scheme)])
    named = HMC(two_terms(), levels=[Level(4, scheme, terms=["weak", "strong"])])
    a, b = (ends(k, torch.Generator().manual_seed(3)) for k in (plain, named))
    assert torch.allclose(a.end, b.end, atol=1e-13)


def test_nested_leapfrog_is_leapfrog_of_small_steps_when_the_outer_force_vanishes():
    """One outer step of n inner ones, with beta = 0 outside, is n steps."""
    group = SU2()
    zero, gauge = WilsonGauge(LATTICE, group, 0.0), WilsonGauge(LATTICE, group, 2.0)
    levels = [Level(2, "leapfrog", ("zero",)), Level(3, "leapfrog", ("gauge",))]
    nested = HMC(SumAction({"zero": zero, "gauge": gauge}), levels=levels)
    single = HMC(gauge, levels=[Level(6, "leapfrog")])
    a, b = (ends(k, torch.Generator().manual_seed(3)) for k in (nested, single))
    assert torch.allclose(a.end, b.end, atol=1e-13)
    assert torch.allclose(a.delta_H, b.delta_H, atol=1e-12)


def test_inner_level_of_the_strong_term_tames_it():
    coarse = HMC(two_terms(), levels=[Level(3)])
    nested = HMC(two_terms(), levels=[Level(3, terms=("weak",)), Level(4, terms=("strong",))])
    a, b = (ends(k, torch.Generator().manual_seed(3)) for k in (coarse, nested))
    assert b.delta_H.abs().max() < 0.05 * a.delta_H.abs().max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, "euler"), "unknown integrator 'euler': expected one of leapfrog"),
        ((0,), "at least one step, got n_steps=0"),
        ((2.5,), "n_steps=2.5"),
    ],
)
def test_bad_level(arguments, message):
    with pytest.raises(InputError, match=message):
        Level(*arguments)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([], "at least one level"),
        ([Level(2, terms=("weak",)), Level(2)], "every level of several needs terms"),
        ([Level(2, terms=("weka",)), Level(2, terms=("strong",))], r"\['strong', 'weak'\], got"),
        ([Level(2, terms=("weak",))], "share out the terms"),
        ([Level(2, terms=("weak", "strong")), Level(2, terms=("weak",))], "once each"),
    ],
)
def test_bad_sharing_of_terms(levels, message):
    with pytest.raises(InputError, match=message):
        HMC(two_terms(), levels=levels)


def test_bad_kernel_arguments():
    with pytest.raises(InputError, match="trajectory_length must be positive, got 0"):
        HMC(two_terms(), trajectory_length=0)
    with pytest.raises(InputError, match="cannot guide"):
        SelfLearningHMC(two_terms(), Phi4(LATTICE, 1.0, 1.0))
    with pytest.raises(InputError, match="cannot guide"):
        SelfLearningHMC(two_terms(), WilsonGauge(Lattice((4, 2)), SU2(), 1.0))
