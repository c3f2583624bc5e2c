"""Fitting a sweep end to end: weights, log Z, plaquette, a wrong log-determinant, resuming, bad input."""

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from lattice_lightning.actions import GaugeAction, WilsonGauge
from lattice_lightning.analysis.exact_2d import log_z_torus, plaquette_torus
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.methods import SweepRegression
from lattice_lightning.metrics import effective_sample_size
from lattice_lightning.models import FlowModel, GaussianPrior, GroupSweep, HaarPrior, LoopFlow
from lattice_lightning.pipeline.fit import quiet_lightning

BETA, N_DRAWS = 2.0, 2048


def make(shape=(4, 4), group=None, beta=BETA, n_rest=3, n_nodes=5, degree=2, **options):
    group, lattice = group or SU2(), Lattice(shape)
    flow = GroupSweep(
        lattice, group, n_rest, degree=degree, pair_degree=degree, n_nodes=n_nodes, n_steps=6
    )
    options = {"n_chains": 64, "n_measure": 8, "separation": 1, "n_thermalise": 2, "seed": 3, **options}
    return SweepRegression(FlowModel(HaarPrior(lattice, group), flow), WilsonGauge(lattice, group, beta), **options)


def fit(method, folder, epochs=None, resume=None):
    with quiet_lightning():
        saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs or method.n_epochs, logger=False, callbacks=[saver],
            enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
            log_every_n_steps=1, default_root_dir=folder,
        )
        trainer.fit(method, ckpt_path=resume, weights_only=True if resume else None)
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """SU(2) at beta = 2 on 4 x 4, and draws with log w."""
    method = make()
    trainer = fit(method, tmp_path_factory.mktemp("sweep"))
    with torch.no_grad():
        field, log_q = method.model.sample(N_DRAWS, torch.Generator().manual_seed(11))
    return method, trainer, field, -method.target.value(field, {}) - log_q


def pull(log_w, values, exact):
    """Of a weighted mean."""
    w = torch.softmax(log_w, 0)
    mean = (w * values).sum()
    return float((mean - exact) / (w * (values - mean)).square().sum().sqrt())


def log_z_pull(log_w, exact):
    """Of the log of the mean weight."""
    w = (log_w - exact).exp()
    return float((w.mean() - 1) / (w.std() / len(w) ** 0.5))


def test_weights_are_even(trained):
    method, trainer, _, log_w = trained
    assert float(effective_sample_size(log_w)) > 0.9
    # one node a step, and the steps that are left over
    assert int(trainer.global_step) == method.n_epochs * method.steps_per_epoch >= 5
    logged = trainer.logged_metrics
    assert 0 < float(logged["plaquette_residual"]) < 1e-6
    assert 0 <= float(logged["loss"]) < 0.2 * float(logged["variance"])
    assert float(logged["path_acceptance"]) > 0.8


def test_log_z_and_plaquette_are_exact(trained):
    method, _, field, log_w = trained
    volume = 16
    assert abs(log_z_pull(log_w, log_z_torus("SU(2)", BETA, volume))) < 4
    plaquette = 1 - method.target.value(field, {}) / (BETA * volume)
    exact = plaquette_torus("SU(2)", BETA, volume)
    assert abs(pull(log_w, plaquette, exact)) < 4


def test_dropped_log_det_is_rejected(trained):
    """log q without a hundredth of the sweep's part, and without all of it."""
    method, _, field, log_w = trained
    with torch.no_grad():
        z, _ = method.model.flow.chain.inverse(field)
        _, back = method.model.flow.sweep.inverse(z)
    assert abs(log_z_pull(log_w + 0.01 * back, log_z_torus("SU(2)", BETA, 16))) > 5
    plaquette = 1 - method.target.value(field, {}) / (BETA * 16)
    exact = plaquette_torus("SU(2)", BETA, 16)
    assert abs(pull(log_w + back, plaquette, exact)) > 5, pull(log_w + back, plaquette, exact)
    assert abs(pull(log_w + 0.1 * back, plaquette, exact)) > 5


def test_untrained_chain_is_worse(trained):
    *_, log_w = trained
    other = make()
    other.sweep.sweep.fit(BETA)
    worse = other.log_weights(N_DRAWS, torch.Generator().manual_seed(11))
    assert float(effective_sample_size(worse)) < float(effective_sample_size(log_w)) - 0.3
    assert abs(log_z_pull(worse, log_z_torus("SU(2)", BETA, 16))) < 4


def test_trained_weights_on_another_volume(trained):
    method, _, _, _ = trained
    large = Lattice((6, 5))
    model = method.model.on(large)
    with torch.no_grad():
        field, log_q = model.sample(512, torch.Generator().manual_seed(12))
    log_w = -WilsonGauge(large, SU2(), BETA).value(field, {}) - log_q
    assert float(effective_sample_size(log_w)) > 0.9
    assert abs(log_z_pull(log_w, log_z_torus("SU(2)", BETA, 30))) < 4


def test_closed_column():
    """A chain as long as the lattice: no column to sweep."""
    method = make((3, 3), U1(), 1.5, n_nodes=5, degree=3, n_rest=4)
    for k in range(method.inner.n_visits):
        method.inner.fit_node(k)
    method.sweep.sweep.fit(1.5)
    with torch.no_grad():
        method.sweep.chain.coefficients.copy_(method.inner.flow.coefficients)
    log_w = method.log_weights(1024, torch.Generator().manual_seed(2))
    assert float(effective_sample_size(log_w)) > 0.9
    assert abs(log_z_pull(log_w, log_z_torus("U(1)", 1.5, 9))) < 4


def test_resumed_training_is_the_same_bit_for_bit(tmp_path):
    options = {"n_nodes": 5, "n_epochs": 3, "n_chains": 32, "n_measure": 2, "degree": 1}
    whole = make(**options)
    assert whole.steps_per_epoch == 2
    trainer = fit(whole, tmp_path / "whole")
    assert int(trainer.global_step) == 6
    fit(make(**options), tmp_path / "half", epochs=2)
    again = make(**options)
    fit(again, tmp_path / "half", resume=tmp_path / "half" / "epoch=1.ckpt")
    assert list(whole.state_dict()) == [
        "model.flow.layers.0.plaquette.coefficients", "model.flow.layers.1.coefficients",
    ]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
        assert float(tensor.abs().max()) > 0.01
    assert torch.equal(whole.inner.chains, again.inner.chains)
    # another seed gives other weights
    other = make(**{**options, "seed": 4})
    fit(other, tmp_path / "other")
    assert not torch.equal(other.sweep.chain.coefficients, whole.sweep.chain.coefficients)


class OtherAction(GaugeAction):
    """Not the Wilson action."""

    def packed_value(self, links, aux, *, tolerance, strict):
        return self.space.re_trace(links).flatten(0, -2).sum(0)


def test_bad_input():
    lattice, group = Lattice((4, 4)), SU2()
    model = FlowModel(HaarPrior(lattice, group), GroupSweep(lattice, group, 3))
    with pytest.raises(InputError, match="Wilson action, got OtherAction"):
        SweepRegression(model, OtherAction(lattice, group))
    loops = FlowModel(HaarPrior(lattice, group), LoopFlow(lattice, group, 1, 0))
    with pytest.raises(InputError, match="GroupSweep of Haar links, got LoopFlow"):
        SweepRegression(loops, WilsonGauge(lattice, group, 2.0))
    with pytest.raises(InputError, match="flow lives on"):
        SweepRegression(model, WilsonGauge(Lattice((4, 6)), group, 2.0))
    with pytest.raises(InputError, match="two-dimensional"):
        GroupSweep(Lattice((3, 3, 3)), group)
    with pytest.raises(InputError, match="at least 3 plaquettes, got n_rest=2"):
        GroupSweep(lattice, group, 2)
    with pytest.raises(InputError, match="field of"):
        GroupSweep(lattice, RealLine())
    with pytest.raises(InputError, match="lives on"):
        FlowModel(GaussianPrior(lattice), GroupSweep(lattice, group, 3))
    with pytest.raises(InputError, match="coefficients need at least"):
        SweepRegression(model, WilsonGauge(lattice, group, 2.0), n_chains=2, n_measure=2)
