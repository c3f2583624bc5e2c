"""Importance weights beside training: against what is known, against the draws themselves."""

from math import exp, log

import pytest
import torch
from pytorch_lightning import Trainer
from tiny_flows import Scale, couplings, phi4

from lattice_lightning.actions import GaussianAction, Phi4
from lattice_lightning.callbacks import ImportanceSampling, MetricsCsv, read_metrics
from lattice_lightning.exceptions import InputError
from lattice_lightning.lattice import Lattice
from lattice_lightning.methods import ReverseKL, step_generator
from lattice_lightning.metrics import weight_statistics
from lattice_lightning.models import FlowModel, GaussianPrior
from lattice_lightning.pipeline.fit import quiet_lightning
from lattice_lightning.seeds import derive_seed

NAMES = {"ess", "ess_error", "acceptance", "var_log_w", "log_z", "log_z_error", "failed"}
LATTICE = Lattice((2, 2))


def method(model=None, target=None, epochs=1, steps=2, **options):
    return ReverseKL(
        model or couplings(n=2), target or phi4(), 16, epochs, steps,
        lambda p: torch.optim.Adam(p, lr=0.01), **options,
    )


def fit(module, callback, tmp_path):
    csv = MetricsCsv(tmp_path / "metrics.csv", "flow")
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cpu", max_epochs=module.n_epochs, logger=csv, callbacks=[callback],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            inference_mode=False, log_every_n_steps=1, default_root_dir=tmp_path,
        )
        trainer.fit(module)
    return read_metrics(csv.path)


def draws_of(seed):
    """The callback's generator: not that of training's first step, whatever the seeds."""
    return step_generator(derive_seed(seed, "importance"), 0)


def gaussian(width_of_model):
    """A Gaussian model for a Gaussian target of unit width on four sites."""
    target = GaussianAction(LATTICE, torch.ones(2, 2, dtype=torch.float64))
    return method(FlowModel(GaussianPrior(LATTICE), Scale(LATTICE, log(width_of_model))), target)


def test_statistics_of_a_gaussian_model_are_the_known_ones():
    width = 1.2
    module = gaussian(width)
    found = ImportanceSampling(n=20000, batch_size=7000, seed=3).statistics(module)
    # log w = (width^2 - 1) z^2 / 2 + ... of four unit normals z, with a = width^2
    a = width**2
    ess = (2 * a - 1) ** 2 / a**4
    assert abs(found.ess - ess) < 3.5 * found.ess_error and found.ess_error < 0.02
    assert abs(found.log_z - module.target.log_z) < 3.5 * found.log_z_error
    assert found.var_log_w == pytest.approx(4 * (a - 1) ** 2 / 2, rel=0.1)
    # the log-determinant left out would be seen
    assert 4 * log(width) > 5 * found.log_z_error
    assert found.n == 20000 and found.n_failed == 0


def test_exact_model_has_the_effective_sample_size_one():
    found = ImportanceSampling(n=200).statistics(gaussian(1.0))
    assert found.ess == pytest.approx(1) and found.acceptance == pytest.approx(1)
    assert found.var_log_w < 1e-24 and exp(found.log_z - gaussian(1.0).target.log_z) == pytest.approx(1)


class Forbidden(Phi4):
    """No action for a field with a negative first site."""

    def value(self, field, aux, *, strict=True):
        return torch.where(field[:, 0, 0] < 0, torch.nan, super().value(field, aux))


def test_draws_without_a_weight_count_as_zero():
    model = FlowModel(GaussianPrior(LATTICE), Scale(LATTICE))
    found = ImportanceSampling(n=500).statistics(method(model, Forbidden(LATTICE, 1.0, 0.5)))
    log_w = method(model, Phi4(LATTICE, 1.0, 0.5)).log_weights(500, draws_of(0))
    x, _ = model.sample(500, draws_of(0))
    bad = x[:, 0, 0] < 0
    assert found.n_failed == int(bad.sum()) > 200
    w = torch.where(bad, 0, log_w.exp())
    assert found.ess == pytest.approx(float(w.mean() ** 2 / w.square().mean()))
    assert found.log_z == pytest.approx(float(w.mean().log()))


def test_logs_the_averaged_weights_of_the_epochs_end(tmp_path):
    module = method(epochs=2, ema=0.8, label="flow")
    entries = fit(module, ImportanceSampling(n=64, batch_size=30, seed=5), tmp_path)
    logged = {(e["metric"], e["epoch"]): e["value"] for e in entries}
    assert {name for name, _ in logged} >= NAMES | {"loss", "batch_ess"}
    assert logged["ess", 0] != logged["ess", 1]
    # the last values are those of the module as training left it
    expected = weight_statistics(module.log_weights(64, draws_of(5), 30))
    for name in NAMES - {"failed"}:
        assert logged[name, 1] == pytest.approx(getattr(expected, name), rel=1e-5), name
    assert logged["failed", 1] == 0


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2]), (2, [1, 2]), (5, [2])])
def test_comes_every_n_epochs_and_at_the_end(every, expected, tmp_path):
    entries = fit(method(epochs=3, steps=1), ImportanceSampling(every, n=8), tmp_path)
    assert [e["epoch"] for e in entries if e["metric"] == "log_z"] == expected


def test_does_not_disturb_training(tmp_path):
    modules = [method(epochs=2), method(epochs=2)]
    for module, every in zip(modules, (1, 2), strict=True):
        fit(module, ImportanceSampling(every, n=8), tmp_path)
    for a, b in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("options", [{"n": 1}, {"batch_size": 0}, {"every_n_epochs": 0}])
def test_numbers_below_one_are_refused(options):
    with pytest.raises(InputError, match="expected every_n_epochs >= 1"):
        ImportanceSampling(**options)
