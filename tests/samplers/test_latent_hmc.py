"""HMC in the latent space of nonlinear flows: force, reversibility, exactness; a dropped log det fails."""

import pytest
import torch
from sampler_cases import (
    LATTICE,
    AngleFlow,
    QuaternionFlow,
    ScalarFlow,
    angle_target,
    plaquette,
    pulls,
    scalar_moments,
    scalar_target,
    scalar_truth,
    without_log_det,
)

from lattice_lightning.actions import StaggeredFermion, WilsonGauge
from lattice_lightning.analysis.exact_2d import plaquette_su2, plaquette_u1
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2
from lattice_lightning.lattice import Lattice
from lattice_lightning.samplers import ChainCheckpoint, LatentHMC, State, TransformedAction, run
from lattice_lightning.testing import assert_force, assert_jacobian, assert_reversible


class BentScalars(ScalarFlow):
    """Far from linear."""

    bend = 0.8


class BentAngles(AngleFlow):
    """Close to folding over."""

    bend = -0.8


class BentQuaternions(QuaternionFlow):
    """Close to folding over."""

    bend = -0.8


CASES = {
    "phi4": (BentScalars, scalar_target, scalar_moments, lambda: scalar_truth()[1:]),
    "U1": (BentAngles, angle_target, plaquette(angle_target()), lambda: [plaquette_u1(1.0, 4)]),
    "SU2": (
        BentQuaternions,
        lambda: WilsonGauge(LATTICE, SU2(), 2.7),
        plaquette(WilsonGauge(LATTICE, SU2(), 2.7)),
        lambda: [plaquette_su2(2.7, 4)],
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def kernel_of(case, wrong=False, **options):
    flow, target = case[0], case[1]
    options = {"trajectory_length": 1.0, "levels": 8} | options
    return LatentHMC(target(), without_log_det(flow) if wrong else flow(), **options)


def start(kernel, n=5, seed=4):
    return kernel.space.hot(kernel.lattice, n, torch.Generator().manual_seed(seed))


def same(kernel, a, b):
    return float((kernel._components(a) - kernel._components(b)).abs().max())


def test_toy_flow_is_invertible_and_its_log_determinant_right(case, rng):
    flow = case[0]()
    z = start(flow, 3)
    x, log_det = flow.forward(z)
    back, log_back = flow.inverse(x)
    assert same(kernel_of(case), back, z) < 1e-8
    torch.testing.assert_close(log_back, -log_det, rtol=0, atol=1e-8)
    if flow.space.name != "SU(2)":
        assert_jacobian(flow, z)
        return
    # links one by one in the algebra's coordinates: x(exp(i w T) z) = exp(i w' T) x
    group, h = flow.space, 1e-5
    jacobian = []
    for a in range(3):
        w = torch.zeros(*z.shape[:-2], 3, dtype=torch.float64)
        w[..., a] = h
        moved = [group.pack(flow.forward(group.evolve(z, s * w))[0]) for s in (1, -1)]
        jacobian.append(group.project(group.mul_nh(*moved)) / (2 * h))
    columns = torch.stack(jacobian).movedim((0, 1), (-2, -1))
    found = torch.linalg.det(columns).abs().log().flatten(0, -2).sum(0)
    torch.testing.assert_close(log_det, found, rtol=0, atol=1e-6)


def test_force_is_the_finite_difference(case, rng):
    kernel = kernel_of(case)
    action = TransformedAction(kernel.target, kernel.flow)
    assert_force(action, start(kernel), {}, rng, tolerance=1e-6)
    assert not action.force(start(kernel), {}).requires_grad


def test_trajectories_are_reversible(case, rng):
    kernel = kernel_of(case)
    assert_reversible(kernel, start(kernel), rng, tolerance=1e-9)


def test_delta_H_vanishes_with_the_square_of_the_step(case):
    deltas = []
    for levels in (16, 32):
        kernel, rng = kernel_of(case, levels=levels), torch.Generator().manual_seed(2)
        deltas.append(kernel.propose(rng, kernel.init(start(kernel, 200), rng)).delta_H.abs().median())
    ratio = float(deltas[0] / deltas[1])
    assert 3 < ratio < 6


def test_samples_the_target(case):
    pull = _pulls(case)
    assert bool((pull.abs() < 3.5).all())


def test_dropped_log_determinant_is_caught(case):
    assert bool((_pulls(case, wrong=True).abs() > 5).any())


def _pulls(case, wrong=False):
    small = case is CASES["SU2"]
    kernel = kernel_of(case, wrong, levels=3 if small else 6, random_length=True)
    n = 250 if small else 1000
    return pulls(kernel, start(kernel, n), case[2], case[3](), n_steps=45)


def test_state_is_the_image_of_its_latent_field(case, rng):
    kernel = kernel_of(case, trajectory_length=2.0, levels=2)
    state = kernel.init(start(kernel, 100), rng)
    for _ in range(3):
        before = state
        state, info = kernel.step(rng, state)
    assert 0 < int(info.accepted.sum()) < 100
    assert same(kernel, kernel.flow.forward(state.cache["latent"])[0], state.field) < 1e-7
    stayed = ~info.accepted
    assert same(kernel, before.field[stayed], state.field[stayed]) < 1e-14
    kernel.space.check_field(state.field, kernel.lattice)
    assert float(kernel.space.defect(state.field).max()) < 1e-12


def test_chain_that_is_not_finite_is_rejected_alone(case, rng):
    kernel = kernel_of(case)
    state = kernel.init(start(kernel, 3), rng)
    latent = state.cache["latent"].clone()
    latent[1] = torch.nan
    after, info = kernel.step(rng, State(state.field, {"latent": latent}))
    assert torch.isfinite(info.delta_H).tolist() == [True, False, True]
    assert same(kernel, after.field[1:2], state.field[1:2]) < 1e-14


def test_start_without_a_latent_field_is_refused(case, rng):
    kernel = kernel_of(case)
    field = start(kernel, 3)
    # an inverse that stops too early
    kernel.flow.inverse = lambda x: (x * 0.99 if case[0] is not BentQuaternions else x, None)
    with pytest.raises(InputError, match="chain 0 cannot start"):
        kernel.init(field, rng)


def test_pseudofermions_and_other_fields_are_refused():
    flow = BentQuaternions()
    with pytest.raises(InputError, match="draws"):
        LatentHMC(StaggeredFermion(LATTICE, SU2(), 0.5), flow)
    with pytest.raises(InputError, match="cannot transform"):
        LatentHMC(WilsonGauge(Lattice((2, 4)), SU2(), 1.0), flow)
    with pytest.raises(InputError, match="trajectory_length"):
        LatentHMC(WilsonGauge(LATTICE, SU2(), 1.0), flow, trajectory_length=0.0)


def test_resumed_run_equals_the_uninterrupted_one_bitwise(case, tmp_path):
    checkpoint = ChainCheckpoint(tmp_path / "chain.pt", every=3)

    def advance(n, **options):
        rng = torch.Generator().manual_seed(3)
        kernel = kernel_of(case, random_length=True)
        return run(kernel, kernel.init(start(kernel), rng), n, rng, **options)

    advance(4, checkpoint=checkpoint)
    (a, history_a), (b, history_b) = advance(9, checkpoint=checkpoint), advance(9)
    assert torch.equal(a.field, b.field)
    assert torch.equal(a.cache["latent"], b.cache["latent"])
    assert torch.equal(history_a["delta_H"], history_b["delta_H"])
