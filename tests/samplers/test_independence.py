"""Independence Metropolis: exact on an enumerable model and on small theories; wrong weights fail."""

import pytest
import torch
from sampler_cases import (
    LATTICE,
    AngleFlow,
    ScalarFlow,
    angle_model,
    angle_target,
    plaquette,
    pulls,
    scalar_model,
    scalar_moments,
    scalar_target,
    scalar_truth,
    without_log_det,
)

from lattice_lightning.actions import Phi4, StaggeredFermion
from lattice_lightning.analysis.exact_2d import log_z_torus, plaquette_u1
from lattice_lightning.exceptions import ChainError, InputError
from lattice_lightning.groups import SU2, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.metrics import acceptance_probability, weight_statistics
from lattice_lightning.samplers import ChainCheckpoint, DensityProposal, IndependenceMetropolis, State, run

NAN, INF = float("nan"), float("inf")
STATES = torch.tensor([-0.7, -0.3, 0.1, 0.4, 0.6], dtype=torch.float64)
Q = torch.tensor([0.1, 0.3, 0.15, 0.25, 0.2], dtype=torch.float64)


class Five:
    """A density on five constant fields; ``queue`` overrides the draws."""

    lattice, space = LATTICE, RealLine()

    def __init__(self, drop_q=False):
        self.queue, self.drop_q = None, drop_q

    def sample(self, n, rng):
        k = torch.multinomial(Q, n, replacement=True, generator=rng) if self.queue is None else self.queue
        field = STATES[k].reshape(-1, 1, 1).expand(-1, 2, 2).clone()
        return field, self.log_prob(field)

    def log_prob(self, field):
        k = (field[:, 0, 0].unsqueeze(1) - STATES).abs().argmin(1)
        return torch.zeros(len(k), dtype=torch.float64) if self.drop_q else Q[k].log()


def enumerated(drop_q=False):
    """Kernel, target probabilities and transition matrix by the kernel's own acceptances."""
    density = Five(drop_q)
    kernel = IndependenceMetropolis(DensityProposal(density, scalar_target()))
    fields = STATES.reshape(-1, 1, 1).expand(-1, 2, 2)
    p = torch.softmax(-scalar_target().value(fields, {}), 0)
    start, density.queue = torch.arange(5).repeat_interleave(5), torch.arange(5).repeat(5)
    rng = torch.Generator().manual_seed(1)
    trajectory = kernel.propose(rng, kernel.init(fields[start], rng))
    density.queue = None
    matrix = Q * acceptance_probability(trajectory.delta_H).reshape(5, 5)
    matrix = matrix - torch.diag(matrix.diagonal())
    return kernel, p, matrix + torch.diag(1 - matrix.sum(1))


def test_transition_matrix_leaves_the_target_invariant():
    _, p, matrix = enumerated()
    flow = p.unsqueeze(1) * matrix
    assert float((flow - flow.T).abs().max()) < 1e-14
    assert float((p @ matrix - p).abs().max()) < 1e-12
    assert float((torch.linalg.matrix_power(matrix, 200)[0] - p).abs().max()) < 1e-12


def test_transition_matrix_without_q_does_not():
    _, p, matrix = enumerated(drop_q=True)
    assert float((p @ matrix - p).abs().max()) > 0.01


@pytest.mark.parametrize("drop_q", [False, True])
def test_chain_visits_five_states_as_often_as_it_should(drop_q):
    kernel, p, _ = enumerated(drop_q)
    start = torch.full((2000, 2, 2), 0.1, dtype=torch.float64)
    exact = p.tolist()

    def visits(field):
        return tuple((field[:, 0, 0] - s).abs().lt(1e-9).double() for s in STATES)

    pull = pulls(kernel, start, visits, exact, n_steps=200)
    assert bool((pull.abs() > 5).any()) if drop_q else bool((pull.abs() < 3.5).all())


def scalar_kernel(flow=None):
    return IndependenceMetropolis(DensityProposal(scalar_model(flow), scalar_target()))


def angle_kernel(flow=None):
    return IndependenceMetropolis(DensityProposal(angle_model(flow), angle_target()))


def scalar_start(n=1000):
    return torch.full((n, 2, 2), 0.3, dtype=torch.float64)


def angle_start(n=1000):
    return torch.full((n, 2, 2, 2), 0.3, dtype=torch.float64)


def scalar_pulls(flow=None):
    return pulls(scalar_kernel(flow), scalar_start(), scalar_moments, scalar_truth()[1:])


def angle_pulls(flow=None):
    exact = [plaquette_u1(1.0, LATTICE.volume)]
    return pulls(angle_kernel(flow), angle_start(), plaquette(angle_target()), exact)


@pytest.mark.parametrize("pull", [scalar_pulls, angle_pulls])
def test_samples_the_target(pull):
    assert bool((pull().abs() < 3.5).all())


@pytest.mark.parametrize(("pull", "flow"), [(scalar_pulls, ScalarFlow), (angle_pulls, AngleFlow)])
def test_dropped_log_determinant_is_caught(pull, flow):
    assert bool((pull(without_log_det(flow)).abs() > 5).any())


@pytest.mark.parametrize(
    ("kernel", "exact"),
    [(scalar_kernel, lambda: scalar_truth()[0]), (angle_kernel, lambda: log_z_torus("U(1)", 1.0, 4))],
)
def test_weights_give_the_partition_function(kernel, exact, rng):
    found = weight_statistics(kernel().proposal.sample(40000, rng)[1])
    assert found.log_z_error < 0.02
    assert abs(found.log_z - exact()) < 3.5 * found.log_z_error


def test_weights_without_log_determinant_give_another_partition_function(rng):
    found = weight_statistics(scalar_kernel(without_log_det(ScalarFlow)).proposal.sample(40000, rng)[1])
    assert abs(found.log_z - scalar_truth()[0]) > 5 * found.log_z_error


@pytest.mark.parametrize("kernel", [scalar_kernel, angle_kernel])
def test_weight_of_a_draw_is_that_of_its_field(kernel, rng):
    proposal = kernel().proposal
    field, log_weight = proposal.sample(50, rng)
    proposal.space.check_field(field, proposal.lattice)
    assert log_weight.dtype == torch.float64 and not log_weight.requires_grad
    torch.testing.assert_close(proposal.log_weight(field), log_weight, rtol=0, atol=1e-10)
    proposal.batch_size = 7
    torch.testing.assert_close(proposal.log_weight(field), log_weight, rtol=0, atol=1e-10)
    assert proposal.sample(50, rng)[0].shape == field.shape


def test_acceptance_is_that_estimated_from_the_weights(rng):
    kernel = scalar_kernel()
    found = weight_statistics(kernel.proposal.sample(40000, rng)[1])
    state, accepted = kernel.init(scalar_start(2000), rng), []
    for _ in range(60):
        state, info = kernel.step(rng, state)
        accepted.append(info.accepted.double())
    chains = torch.stack(accepted[20:]).mean(0)
    error = float(chains.std()) / len(chains) ** 0.5
    assert abs(float(chains.mean()) - found.acceptance) < 3.5 * (error**2 + found.acceptance_error**2) ** 0.5
    assert 0.2 < found.acceptance < 0.9


def test_cached_weight_follows_the_accepted_field(rng):
    kernel = scalar_kernel()
    state = kernel.init(scalar_start(200), rng)
    for _ in range(5):
        state, info = kernel.step(rng, state)
    assert info.accepted.any() and not info.accepted.all()
    expected = kernel.proposal.log_weight(state.field)
    torch.testing.assert_close(state.cache["log_weight"], expected, rtol=0, atol=1e-10)


class Scripted:
    """Proposes ones with given log weights; weighs no field but its own where ``blind``."""

    def __init__(self, *weights, blind=False, given=0.0):
        self.target, self.lattice, self.space = scalar_target(), LATTICE, RealLine()
        self.weights, self.blind, self.given = list(weights), blind, given

    def sample(self, n, rng):
        weights = self.weights.pop(0) if len(self.weights) > 1 else self.weights[0]
        log_w = torch.tensor(weights, dtype=torch.float64).expand(n)
        return torch.ones(n, 2, 2, dtype=torch.float64), log_w

    def log_weight(self, field):
        return None if self.blind else torch.full((len(field),), self.given, dtype=torch.float64)


def test_weights_that_are_not_finite_are_rejected_and_counted(rng):
    kernel = IndependenceMetropolis(Scripted([NAN, INF, -INF, 700.0]))
    state, info = kernel.step(rng, kernel.init(torch.zeros(4, 2, 2, dtype=torch.float64), rng))
    assert info.accepted.tolist() == [False, False, False, True]
    assert torch.isfinite(info.delta_H).tolist() == [False, False, False, True]
    assert state.cache["log_weight"].tolist() == [0, 0, 0, 700]
    assert state.field[:, 0, 0].tolist() == [0, 0, 0, 1]
    with pytest.raises(ChainError, match="not finite"):
        run(kernel, state, 20, rng)


def test_start_without_a_finite_weight_is_refused(rng):
    for given in (NAN, INF, -INF):
        kernel = IndependenceMetropolis(Scripted([0.0], given=given))
        with pytest.raises(InputError, match="chain 0 cannot start"):
            kernel.init(torch.zeros(2, 2, 2, dtype=torch.float64), rng)


def test_start_is_drawn_where_a_field_has_no_weight(rng):
    kernel = IndependenceMetropolis(Scripted([NAN, 1.0], [-INF], [2.0], blind=True))
    state = kernel.init(torch.zeros(2, 2, 2, dtype=torch.float64), rng)
    assert state.cache["log_weight"].tolist() == [2.0, 1.0]
    assert (state.field == 1).all()
    with pytest.raises(InputError, match="no start of finite weight"):
        IndependenceMetropolis(Scripted([NAN], blind=True)).init(state.field, rng)
    with pytest.raises(InputError, match="cannot alternate"):
        kernel.at(state.field)


def test_bad_arguments_are_refused(rng):
    with pytest.raises(InputError, match="cannot propose"):
        DensityProposal(scalar_model(), Phi4(Lattice((2, 4)), m2=1.0, lam=1.0))
    with pytest.raises(InputError, match="batch_size"):
        DensityProposal(scalar_model(), scalar_target(), batch_size=0)
    model = angle_model()
    model.flow.space = SU2()
    with pytest.raises(InputError, match="draws"):
        DensityProposal(model, StaggeredFermion(LATTICE, SU2(), 0.5))
    with pytest.raises(InputError, match="n >= 1"):
        DensityProposal(scalar_model(), scalar_target()).sample(0, rng)
    with pytest.raises(InputError, match="scalar field"):
        scalar_kernel().init(torch.zeros(2, 2, 3, dtype=torch.float64), rng)


@pytest.mark.parametrize(
    ("kernel", "start"), [(scalar_kernel, scalar_start), (angle_kernel, angle_start)]
)
def test_resumed_run_equals_the_uninterrupted_one_bitwise(kernel, start, tmp_path):
    checkpoint = ChainCheckpoint(tmp_path / "chain.pt", every=3)

    def advance(n, **options):
        rng = torch.Generator().manual_seed(3)
        built = kernel()
        return run(built, built.init(start(5), rng), n, rng, **options)

    advance(4, checkpoint=checkpoint)
    (a, history_a), (b, history_b) = advance(9, checkpoint=checkpoint), advance(9)
    assert torch.equal(a.field, b.field)
    assert torch.equal(a.cache["log_weight"], b.cache["log_weight"])
    assert torch.equal(history_a["delta_H"], history_b["delta_H"])


def test_step_leaves_the_old_state_alone(rng):
    kernel = scalar_kernel()
    state = kernel.init(scalar_start(20), rng)
    copy = State(state.field.clone(), {"log_weight": state.cache["log_weight"].clone()})
    kernel.step(rng, state)
    assert torch.equal(copy.field, state.field)
    assert torch.equal(copy.cache["log_weight"], state.cache["log_weight"])
