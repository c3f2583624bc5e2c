"""Exact sampling: thermalise, discard, sample; killed anywhere, it goes on bit for bit."""

import pytest
import torch
from toy_systems import effective, start, target

from lattice_lightning.actions import Phi4
from lattice_lightning.callbacks import SamplingPlan, sample_exactly
from lattice_lightning.data import Ensemble, EnsembleWriter
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import CovNet
from lattice_lightning.observables import Observable, Plaquette
from lattice_lightning.samplers import HMC, SelfLearningHMC, run

LATTICE = Lattice((4, 4))
PLAN = SamplingPlan(n_thermalise=5, n_steps=8, measure_every=2, checkpoint_every=3)


class Killed(Exception):
    """Stands for a kill of the process."""


class Scalar(HMC):
    """HMC of phi^4 that dies in its ``fatal``-th trajectory."""

    def __init__(self, fatal=None):
        super().__init__(Phi4(LATTICE, m2=1.0, lam=1.0), levels=2)
        self.fatal, self.count = fatal, 0

    def propose(self, rng, state):
        self.count += 1
        if self.count == self.fatal:
            raise Killed
        return super().propose(rng, state)


class Noisy(Observable):
    """phi^2 with noise from the generator of measurements; dies in its ``fatal``-th measurement."""

    def __init__(self, fatal=None):
        self.fatal, self.count = fatal, 0

    def measure(self, field, rng):
        self.count += 1
        if self.count == self.fatal:
            raise Killed
        noise = torch.randn(field.shape[0], generator=rng, dtype=torch.float64)
        return {"noisy": field.square().flatten(1).mean(1) + noise}


def cold(n_chains=3):
    return torch.zeros(n_chains, *LATTICE.shape, dtype=torch.float64)


def sample(checkpoint=None, kernel=None, observable=None, seed=9, plan=PLAN, **options):
    return sample_exactly(
        kernel or Scalar(), cold(), plan, [observable or Noisy()], seed, checkpoint, **options
    )


def assert_same(a, b):
    assert torch.equal(a.state.field, b.state.field)
    series, other = a.history.as_dict(), b.history.as_dict()
    assert series.keys() == other.keys()
    for name in series:
        assert torch.equal(series[name], other[name]), name


def test_thermalisation_is_discarded_and_sampling_thinned():
    """The same chain by hand: 5 trajectories thrown away, then 8, every second one measured."""
    result, kernel = sample(), Scalar()
    rng, measure_rng = torch.Generator().manual_seed(9), torch.Generator().manual_seed(10)
    state = kernel.init(cold(), rng)
    measured, delta = [], []
    for step in range(13):
        state, info = kernel.step(rng, state)
        if step >= 5:
            delta.append(info.delta_H)
            if step % 2 == 0:
                measured.append(Noisy().measure(state.field, measure_rng)["noisy"])
    assert torch.equal(result.state.field, state.field)
    assert torch.equal(result.history["noisy"], torch.stack(measured, 1))
    assert torch.equal(result.history["delta_H"], torch.stack(delta, 1))


def test_measurements_do_not_change_the_chain():
    with_noise = sample()
    without = sample_exactly(Scalar(), cold(), PLAN, [], 9)
    assert torch.equal(with_noise.state.field, without.state.field)


@pytest.mark.parametrize("fatal", range(1, 14))
def test_killed_in_any_trajectory_it_goes_on_bit_for_bit(fatal, tmp_path):
    path = tmp_path / "chain.pt"
    with pytest.raises(Killed):
        sample(path, kernel=Scalar(fatal))
    assert_same(sample(path), sample())


@pytest.mark.parametrize("fatal", range(1, 5))
def test_killed_in_any_measurement_it_goes_on_bit_for_bit(fatal, tmp_path):
    path = tmp_path / "chain.pt"
    with pytest.raises(Killed):
        sample(path, observable=Noisy(fatal))
    assert_same(sample(path), sample())


def test_killed_again_and_again_it_arrives(tmp_path):
    path = tmp_path / "chain.pt"
    for _ in range(10):
        try:
            result = sample(path, kernel=Scalar(fatal=5))
            break
        except Killed:
            continue
    assert_same(result, sample())


def test_checkpoints_save_work(tmp_path):
    """Of 13 trajectories 11 were done when killed in the 12th; the last save was after 5 + 6."""
    path = tmp_path / "chain.pt"
    with pytest.raises(Killed):
        sample(path, kernel=Scalar(fatal=12))
    kernel = Scalar()
    sample(path, kernel=kernel)
    assert kernel.count == 2


def test_finished_run_is_only_read(tmp_path):
    path = tmp_path / "chain.pt"
    first = sample(path)
    assert_same(sample(path, kernel=Scalar(fatal=1)), first)


def test_longer_plan_goes_on_from_a_finished_run(tmp_path):
    path = tmp_path / "chain.pt"
    longer = SamplingPlan(5, 12, 2, 3)
    sample(path)
    assert_same(sample(path, plan=longer), sample(plan=longer))


def test_seconds_add_up_over_sessions(tmp_path):
    path = tmp_path / "chain.pt"
    with pytest.raises(Killed):
        sample(path, kernel=Scalar(fatal=12))
    path.with_suffix(".seconds").write_text("1000.0")
    assert 1000 < sample(path).seconds < 1100
    assert 1000 < sample(path).seconds < 1100


@pytest.mark.parametrize("fatal", [None, 7, 9, 10, 12])
def test_ensemble_of_a_resumed_run_is_that_of_an_uninterrupted_one(fatal, tmp_path):
    def stored(name, kernel):
        shape = tuple(cold().shape)
        with EnsembleWriter(tmp_path / name, shape, 4, {}, dtype=torch.float64) as writer:
            sample(tmp_path / f"{name}.pt", kernel, writer=writer, save_every=2)

    stored("whole", Scalar())
    if fatal is not None:
        with pytest.raises(Killed):
            stored("parts", Scalar(fatal))
    stored("parts", Scalar())
    whole, parts = (Ensemble(tmp_path / name) for name in ("whole", "parts"))
    assert len(parts) == len(whole) == 4
    assert all(torch.equal(parts[i], whole[i]) for i in range(4))


def test_parameters_stay_frozen():
    action = target(md=1e-7, accept=1e-10)
    guide = effective(action, network=CovNet(action.lattice, action.space, init_scale=0.05))
    before = {name: tensor.clone() for name, tensor in guide.state_dict().items()}
    kernel = SelfLearningHMC(action, guide, levels=3)
    plaquette = Plaquette(action.lattice, action.space)
    result = sample_exactly(kernel, start(kernel), SamplingPlan(1, 2), [plaquette], seed=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in guide.state_dict().items())
    assert all(p.grad is None for p in guide.parameters())
    assert result.history["plaquette"].shape == (4, 2)
    assert not result.state.field.requires_grad


def test_without_thermalisation_it_is_one_run():
    result = sample(plan=SamplingPlan(0, 4))
    rng = torch.Generator().manual_seed(9)
    _, history = run(Scalar(), Scalar().init(cold(), rng), 4, rng)
    assert torch.equal(result.history["delta_H"], history["delta_H"])
