"""The callback: acceptance during training, one long run with the trained parameters after it."""

import pytest
import torch
from pytorch_lightning import Trainer
from toy_systems import effective, hmc, start, target

from lattice_lightning.callbacks import (
    ExactSampling,
    MetricsCsv,
    SamplingPlan,
    read_metrics,
    sample_exactly,
)
from lattice_lightning.data import PairStream, TrajectoryData
from lattice_lightning.methods import ActionRegression
from lattice_lightning.models import CovNet
from lattice_lightning.observables import Plaquette
from lattice_lightning.pipeline.fit import quiet_lightning
from lattice_lightning.samplers import SelfLearningHMC

OPTIONS = {"levels": 3, "trajectory_length": 0.5}
SEED = 40


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    kernel = hmc()
    return PairStream(kernel, lambda: start(kernel), tmp_path_factory.mktemp("stream"), 1)


def fit(stream, tmp_path, epochs=2, label="", logger=False, **options):
    """Module and callback after a short training."""
    action = target(md=1e-7, accept=1e-10)
    guide = effective(action, network=CovNet(action.lattice, action.space, n_layers=1))
    module = ActionRegression(
        guide, optimizer=lambda p: torch.optim.Adam(p, lr=0.01), label=label
    )
    callback = ExactSampling(action, lambda: start(hmc(action)), OPTIONS, seed=SEED, **options)
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs, logger=logger, callbacks=[callback],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            inference_mode=False, reload_dataloaders_every_n_epochs=1, log_every_n_steps=1,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, TrajectoryData(stream, 1, 2))
    return module, callback, trainer


def acceptance_by_hand(module, n_steps):
    """Mean of min(1, exp(-dH)) of a fresh run with the callback's seed."""
    action = target(md=1e-7, accept=1e-10)
    kernel = SelfLearningHMC(action, module.effective, **OPTIONS)
    rng = torch.Generator().manual_seed(SEED)
    state, probabilities = kernel.init(start(kernel), rng), []
    for _ in range(n_steps):
        state, info = kernel.step(rng, state)
        probabilities.append(torch.exp(-info.delta_H).clamp(max=1))
    return float(torch.stack(probabilities).mean())


def test_short_runs_log_the_acceptance_of_the_parameters_now(stream, tmp_path):
    csv = MetricsCsv(tmp_path / "metrics.csv", "covnet")
    module, _, trainer = fit(stream, tmp_path, label="covnet", logger=csv, n_short=3)
    logged = [e for e in read_metrics(csv.path) if e["metric"] == "acceptance"]
    assert [e["epoch"] for e in logged] == [0, 1]
    assert all(0 < e["value"] < 1 for e in logged)
    assert logged[0]["value"] != logged[1]["value"]
    last = float(trainer.callback_metrics["covnet/acceptance"])
    assert last == pytest.approx(acceptance_by_hand(module, 3), rel=1e-6)


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (10, [4])])
def test_short_runs_come_every_n_epochs_and_at_the_end(every, expected, stream, tmp_path):
    csv = MetricsCsv(tmp_path / "metrics.csv", "")
    fit(stream, tmp_path, epochs=5, logger=csv, every_n_epochs=every, n_short=1)
    assert [e["epoch"] for e in read_metrics(csv.path) if e["metric"] == "acceptance"] == expected


def test_no_short_runs_where_none_are_asked_for(stream, tmp_path):
    _, callback, trainer = fit(stream, tmp_path, n_short=0)
    assert "acceptance" not in trainer.callback_metrics and callback.result is None


def test_sampling_does_not_disturb_training(stream, tmp_path):
    with_sampling, _, _ = fit(stream, tmp_path, n_short=2, long=SamplingPlan(1, 1))
    without, _, _ = fit(stream, tmp_path, n_short=0)
    for (name, a), b in zip(
        with_sampling.state_dict().items(), without.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_long_run_samples_with_the_trained_parameters(stream, tmp_path):
    action = target(md=1e-7, accept=1e-10)
    plaquette, plan = Plaquette(action.lattice, action.space), SamplingPlan(2, 4, measure_every=2)
    module, callback, _ = fit(stream, tmp_path, n_short=0, long=plan, observables=[plaquette])
    assert callback.result.history["plaquette"].shape == (4, 2)
    kernel = SelfLearningHMC(action, module.effective, **OPTIONS)
    again = sample_exactly(kernel, start(kernel), plan, [plaquette], SEED + 1000)
    for name, series in again.history.as_dict().items():
        assert torch.equal(callback.result.history[name], series), name
    assert torch.equal(callback.result.state.field, again.state.field)
