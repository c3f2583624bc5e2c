"""Annealed importance sampling: E[w] is Z, moments are right, wrong weights fail, layers too."""

import pytest
import torch
from sampler_cases import (
    LATTICE,
    AngleFlow,
    ScalarFlow,
    angle_target,
    pulls,
    scalar_moments,
    scalar_target,
    scalar_truth,
    without_log_det,
)

from lattice_lightning.actions import MixedAction, Phi4, ScaledAction, StaggeredFermion, WilsonGauge
from lattice_lightning.analysis.exact_2d import log_z_torus
from lattice_lightning.exceptions import ChainError, InputError
from lattice_lightning.groups import SU2, U1
from lattice_lightning.lattice import Lattice
from lattice_lightning.metrics import weight_statistics
from lattice_lightning.models import FreeFieldPrior, GaussianPrior, HaarPrior
from lattice_lightning.samplers import (
    AnnealedImportanceSampling,
    ChainCheckpoint,
    IndependenceMetropolis,
    Kernel,
    Level,
    Trajectory,
    run,
)
from lattice_lightning.testing import assert_force

FOUR = Lattice((4, 4))


class Late(AnnealedImportanceSampling):
    """Takes the change of the action after the Markov step instead of before it."""

    def _paths(self, n, rng, accepted):
        field = self.prior.sample(n, rng)
        log_weight = -self._actions[0].value(field, {}) - self.prior.log_prob(field)
        for t, kernel in enumerate(self._kernels):
            field, _ = self._relax(kernel, field, rng, accepted[t])
            field, change = self._change(t, field)
            log_weight = log_weight + change
        return field, log_weight


class Gentle(ScalarFlow):
    """A layer that leaves some way to the next one."""

    bend, scale = 0.2, 0.75


class GentleAngles(AngleFlow):
    """The same for angles."""

    bend = 0.05


class RandomWalk(Kernel):
    """Metropolis with Gaussian steps."""

    name = "metropolis"

    def __init__(self, target):
        self.target, self.lattice, self.space = target, target.lattice, target.space

    def propose(self, rng, state):
        end = state.field + 0.4 * self.space.momentum(state.field, rng)
        before, after = self.target.value(state.field, {}), self.target.value(end, {})
        return Trajectory(state.field, end, {}, before, after, after - before)


def scalar(kind=AnnealedImportanceSampling, prior=None, n_steps=4, **options):
    options = {"trajectory_length": 0.7, "levels": 3} | options
    return kind(prior or GaussianPrior(LATTICE), scalar_target(), n_steps, **options)


def u1(kind=AnnealedImportanceSampling, beta=2.0, n_steps=8, **options):
    options = {"trajectory_length": 0.7, "levels": 3} | options
    return kind(HaarPrior(FOUR, U1()), angle_target(beta, FOUR), n_steps, **options)


def su2():
    prior, target = HaarPrior(LATTICE, SU2()), WilsonGauge(LATTICE, SU2(), 2.0)
    return AnnealedImportanceSampling(prior, target, 4, levels=3)


def z_scalar():
    return scalar_truth()[0]


CASES = {
    "gaussian": (scalar, z_scalar, 8000),
    "free field": (lambda: scalar(prior=FreeFieldPrior(LATTICE, m2=0.5)), z_scalar, 8000),
    "metropolis": (lambda: scalar(kernel=RandomWalk, kernel_steps=3), z_scalar, 8000),
    "schedule": (lambda: scalar(schedule=[0.1, 0.3, 0.3, 1.0]), z_scalar, 8000),
    "layers": (lambda: scalar(n_steps=2, layers=[Gentle(), Gentle()]), z_scalar, 8000),
    "U1": (lambda: u1(n_steps=32), lambda: log_z_torus("U(1)", 2.0, 16), 1500),
    "SU2": (su2, lambda: log_z_torus("SU(2)", 2.0, 4), 2000),
}
WRONG = {
    "late": (lambda: scalar(Late), z_scalar, 8000),
    "late U1": (lambda: u1(Late), lambda: log_z_torus("U(1)", 2.0, 16), 4000),
    "layers without log det": (
        lambda: scalar(n_steps=2, layers=[without_log_det(Gentle)] * 2), z_scalar, 8000,
    ),
}


def z_pull(case):
    make, exact, n = case
    _, log_weight = make().sample(n, torch.Generator().manual_seed(7))
    found = weight_statistics(log_weight)
    pull = (found.log_z - exact()) / found.log_z_error
    print("ess", found.ess, "log z", found.log_z, "error", found.log_z_error, "pull", pull)
    return pull, found


@pytest.mark.parametrize("name", CASES)
def test_mean_weight_is_the_partition_function(name):
    pull, found = z_pull(CASES[name])
    assert found.log_z_error < 0.1
    assert abs(pull) < 3.5


@pytest.mark.parametrize("name", WRONG)
def test_wrong_weights_are_caught(name):
    assert abs(z_pull(WRONG[name])[0]) > 5


def test_weighted_moments_are_those_of_the_target():
    field, log_weight = scalar().sample(20000, torch.Generator().manual_seed(7))
    w = torch.softmax(log_weight, 0)
    for value, exact in zip(scalar_moments(field), scalar_truth()[1:], strict=True):
        mean = (w * value).sum()
        error = (w * (value - mean)).square().sum().sqrt()
        assert abs(float(mean - exact)) < 3.5 * float(error)


def test_more_steps_are_better():
    ess = [z_pull((lambda n=n: u1(n_steps=n), lambda: 0.0, 2000))[1].ess for n in (2, 8)]
    assert ess[1] > 2 * ess[0]


@pytest.mark.parametrize("kind", [AnnealedImportanceSampling, Late])
def test_independence_metropolis_on_paths(kind):
    kernel = IndependenceMetropolis(scalar(kind, n_steps=2))
    start = torch.zeros(1000, 2, 2, dtype=torch.float64)
    pull = pulls(kernel, start, scalar_moments, scalar_truth()[1:], n_steps=40)
    assert bool((pull.abs() < 3.5).all()) if kind is not Late else bool((pull.abs() > 5).any())


def test_resumed_chain_equals_the_uninterrupted_one_bitwise(tmp_path):
    checkpoint = ChainCheckpoint(tmp_path / "chain.pt", every=3)

    def advance(n, **options):
        rng, kernel = torch.Generator().manual_seed(3), IndependenceMetropolis(u1(n_steps=2))
        state = kernel.init(torch.zeros(3, 2, 4, 4, dtype=torch.float64), rng)
        return run(kernel, state, n, rng, **options)

    advance(4, checkpoint=checkpoint)
    (a, history_a), (b, history_b) = advance(9, checkpoint=checkpoint), advance(9)
    assert torch.equal(a.field, b.field)
    assert torch.equal(a.cache["log_weight"], b.cache["log_weight"])
    assert torch.equal(history_a["delta_H"], history_b["delta_H"])


def test_cost_and_acceptance_are_counted(rng):
    sampler = scalar(n_steps=3, levels=5, kernel_steps=2, batch_size=4)
    field, log_weight = sampler.sample(10, rng)
    assert field.shape == (10, 2, 2) and log_weight.shape == (10,)
    # a trajectory of five Omelyan steps takes eleven forces
    assert sampler.force_evaluations == 3 * 2 * 11
    assert sampler.acceptance.shape == (3,)
    assert bool(((sampler.acceptance > 0.5) & (sampler.acceptance <= 1)).all())
    assert sampler.log_weight(field) is None


def test_terms_may_have_time_scales_of_their_own(rng):
    levels = [Level(2, terms=("target",)), Level(2, terms=("prior",))]
    sampler = scalar(n_steps=3, levels=levels)
    _, log_weight = sampler.sample(10, rng)
    assert bool(torch.isfinite(log_weight).all())
    # two Omelyan steps of the outer level
    assert sampler.force_evaluations == 3 * 5


def test_trajectories_that_always_fail_are_an_error(rng):
    class Diverging(Phi4):
        def force(self, field, aux, *, strict=True):
            return torch.full_like(field, torch.nan)

    prior = FreeFieldPrior(Lattice((2, 2)), 1.0)
    sampler = AnnealedImportanceSampling(prior, Diverging(Lattice((2, 2)), 1.0, 0.5), 12)
    with pytest.raises(ChainError, match="not finite"):
        sampler.sample(8, rng)


def test_layer_that_fails_gives_a_weight_that_is_not_finite(rng):
    class Broken(ScalarFlow):
        def forward(self, field):
            x, log_det = super().forward(field)
            x[1] = torch.nan
            return x, log_det

    _, log_weight = scalar(n_steps=2, layers=[ScalarFlow(), Broken()]).sample(4, rng)
    assert torch.isfinite(log_weight).tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps"),
        ({"kernel_steps": 0}, "kernel_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"schedule": [0.5, 0.2, 0.9, 1.0]}, "schedule"),
        ({"schedule": [0.1, 0.2, 0.9]}, "schedule"),
        ({"schedule": [0.1, 0.2, 0.9, 0.95]}, "schedule"),
        ({"schedule": [-0.1, 0.2, 0.9, 1.0]}, "schedule"),
        ({"layers": [ScalarFlow()]}, "as many layers"),
        ({"prior": GaussianPrior(FOUR)}, "cannot be annealed"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        scalar(**options)


def test_mixed_action_goes_from_one_action_to_the_other(rng):
    start, end = WilsonGauge(FOUR, SU2(), 1.0), WilsonGauge(FOUR, SU2(), 3.0)
    links = SU2().hot(FOUR, 3, rng)
    for c in (0.0, 0.25, 1.0):
        mixed, plain = MixedAction(start, end, c), WilsonGauge(FOUR, SU2(), 1.0 + 2 * c)
        torch.testing.assert_close(mixed.value(links, {}), plain.value(links, {}))
        torch.testing.assert_close(mixed.energy(links), plain.value(links, {}))
        torch.testing.assert_close(mixed.force(links, {}), plain.force(links, {}))
        assert mixed.n_forces == (c > 0)
    scalars = MixedAction(Phi4(FOUR, 1.0, 0.0), Phi4(FOUR, -1.0, 2.0), 0.3)
    assert_force(scalars, scalars.space.hot(FOUR, 2, rng), {}, rng)
    gauge = ScaledAction(angle_target(2.0, FOUR), 0.0)
    assert gauge.force(U1().hot(FOUR, 2, rng), {}).shape == (2, 2, 4, 4, 1)


def test_scaling_refuses_pseudofermions_and_infinity():
    with pytest.raises(InputError, match="draws"):
        ScaledAction(StaggeredFermion(FOUR, SU2(), 0.5), 0.5)
    with pytest.raises(InputError, match="finite number"):
        ScaledAction(scalar_target(), float("inf"))


def test_angle_layers_with_hmc():
    def make():
        layers = [GentleAngles() for _ in range(8)]
        return AnnealedImportanceSampling(
            HaarPrior(LATTICE, U1()), angle_target(), 8, 0.7, levels=3, layers=layers
        )

    pull, found = z_pull((make, lambda: log_z_torus("U(1)", 1.0, 4), 4000))
    assert abs(pull) < 3.5 and found.log_z_error < 0.1
