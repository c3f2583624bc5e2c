"""The one accept step, and what a kernel does with failures and rounding."""

from math import exp

import pytest
import torch

from lattice_lightning.actions import Phi4, StaggeredFermion, SumAction, WilsonGauge
from lattice_lightning.exceptions import ConvergenceError, InputError
from lattice_lightning.groups import SU2
from lattice_lightning.lattice import Lattice
from lattice_lightning.samplers import HMC, State, Trajectory, accept

LATTICE = Lattice((2, 2))
NAN, INF = float("nan"), float("inf")


def proposal(deltas):
    delta = torch.tensor(deltas, dtype=torch.float64)
    start = torch.zeros(len(deltas), 2, 2, dtype=torch.float64)
    return Trajectory(start, start + 1, {}, delta, delta, delta)


@pytest.mark.parametrize("deltas", [[0.0] * 4, [NAN, INF, -INF, 900.0], [-900.0] * 4])
def test_one_uniform_a_chain_is_drawn_in_any_case(deltas, rng):
    expected = torch.Generator().manual_seed(rng.initial_seed())
    torch.rand(4, generator=expected, dtype=torch.float64)
    accept(proposal(deltas), rng)
    assert torch.equal(rng.get_state(), expected.get_state())


def test_metropolis_probability(rng):
    n, deltas = 20000, (-1.0, 0.0, 0.3, 2.0)
    _, accepted = accept(proposal([d for d in deltas for _ in range(n)]), rng)
    for delta, rate in zip(deltas, accepted.reshape(4, n).double().mean(1), strict=True):
        p = min(1.0, exp(-delta))
        assert abs(float(rate) - p) <= 4 * (p * (1 - p) / n) ** 0.5


def test_not_finite_is_rejected_chain_by_chain(rng):
    trajectory = proposal([-1.0, NAN, INF, -INF, -1.0])
    trajectory.end[1] = NAN
    field, accepted = accept(trajectory, rng)
    assert accepted.tolist() == [True, False, False, False, True]
    assert field[:, 0, 0].tolist() == [1, 0, 0, 0, 1]


class BadForce(Phi4):
    """Force nan in chain 1."""

    def force(self, field, aux, *, strict=True):
        force = super().force(field, aux, strict=strict)
        force[1] = NAN
        return force


def test_nan_in_the_force_rejects_its_chain_only(rng):
    bad, good = (HMC(kind(LATTICE, m2=1.0, lam=0.5), levels=20) for kind in (BadForce, Phi4))
    start = torch.ones(3, 2, 2, dtype=torch.float64)
    (state, info), (other, _) = (
        k.step(torch.Generator().manual_seed(2), k.init(start, rng)) for k in (bad, good)
    )
    assert not info.accepted[1] and torch.isnan(info.delta_H[1])
    assert torch.equal(state.field[1], start[1])
    assert torch.equal(state.field[[0, 2]], other.field[[0, 2]])


def fermionic(**options):
    fermion = StaggeredFermion(LATTICE, SU2(), mass=0.1, **options)
    return HMC(SumAction({"gauge": WilsonGauge(LATTICE, SU2(), 1.0), "fermion": fermion}), levels=3)


def test_solver_that_fails_inside_a_trajectory_rejects(rng):
    kernel = fermionic()
    state = kernel.init(SU2().hot(LATTICE, 4, rng), rng)
    refresh = kernel.target.refresh

    def refresh_then_fail(field, generator):
        result = refresh(field, generator)
        kernel.target.terms["fermion"].max_iterations = 1
        return result

    kernel.target.refresh = refresh_then_fail
    after, info = kernel.step(rng, state)
    assert not info.accepted.any() and torch.isnan(info.delta_H).all()
    assert torch.allclose(after.field, state.field, atol=1e-15)


def test_solver_that_fails_at_the_start_is_an_error(rng):
    kernel = fermionic(max_iterations=1)
    with pytest.raises(ConvergenceError, match="within 1 iterations"):
        kernel.step(rng, kernel.init(SU2().hot(LATTICE, 4, rng), rng))


def test_state_is_reunitarised_after_the_step_and_not_inside(rng):
    kernel, group = HMC(WilsonGauge(LATTICE, SU2(), 2.0), levels=8), SU2()
    off = group.hot(LATTICE, 4, rng) * (1 + 1e-6)
    assert group.defect(off).min() > 1e-6
    trajectory = kernel.propose(rng, State(off))
    assert group.defect(trajectory.end).min() > 1e-6
    state, _ = kernel.decide(rng, trajectory)
    assert group.defect(state.field).max() < 1e-14


def test_init_copies_and_checks_the_field(rng):
    kernel = HMC(Phi4(LATTICE, m2=1.0, lam=0.5))
    field = torch.zeros(3, 2, 2, dtype=torch.float64)
    state = kernel.init(field, rng)
    field += 1
    assert (state.field == 0).all()
    with pytest.raises(InputError, match="scalar field on the lattice"):
        kernel.init(torch.zeros(3, 2, 3, dtype=torch.float64), rng)


def test_step_leaves_the_old_state_alone(rng):
    kernel = HMC(WilsonGauge(LATTICE, SU2(), 2.0))
    state = kernel.init(SU2().hot(LATTICE, 4, rng), rng)
    before = state.field.clone()
    kernel.step(rng, state)
    assert torch.equal(state.field, before)
