"""Training with Lightning on a stream of two-dimensional trajectories."""

import pytest
import torch
from pytorch_lightning import Trainer
from toy_systems import effective, hmc, start, target

from lattice_lightning.data import PairStream, TrajectoryData
from lattice_lightning.exceptions import ChainError, InputError
from lattice_lightning.methods import ActionRegression
from lattice_lightning.models import CovNet
from lattice_lightning.pipeline.fit import quiet_lightning

N_TRAIN, N_HELD_OUT, N_CHAINS = 8, 4, 64


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.02)


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """A stream to train on and, from another seed, one to judge by."""
    made = []
    for seed, length in ((1, N_TRAIN), (2, N_HELD_OUT)):
        kernel = hmc()
        stream = PairStream(
            kernel, lambda k=kernel, s=seed: start(k, N_CHAINS, s), tmp_path_factory.mktemp("s"), seed
        )
        stream.ensure(length - 1)
        made.append(stream)
    return made


def regression(n_layers=0, **options):
    action = target(md=1e-7, accept=1e-10)
    network = CovNet(action.lattice, action.space, n_layers=n_layers) if n_layers else None
    return ActionRegression(effective(action, network=network), **options)


def fit(method, stream, tmp_path, epochs=1):
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
            reload_dataloaders_every_n_epochs=1, default_root_dir=tmp_path,
        )
        trainer.fit(method, TrajectoryData(stream, N_TRAIN, N_TRAIN))
    return trainer


def held_out_loss(method, stream):
    """Pair loss of every chain of every held-out trajectory."""
    return torch.stack([method.pair_loss(stream[i]) for i in range(N_HELD_OUT)])


def assert_lower(after, before):
    """Lower by more than four standard errors of the paired differences."""
    gain = (before - after).flatten()
    assert float(gain.mean()) > 4 * float(gain.std()) / len(gain) ** 0.5


def test_linear_coefficients_lower_the_held_out_loss(streams, tmp_path):
    method = regression()
    before = held_out_loss(method, streams[1])
    fit(method, streams[0], tmp_path)
    assert_lower(held_out_loss(method, streams[1]), before)


@pytest.mark.parametrize("linear", ["fixed", "closed_form", "gradient"])
def test_covnet_lowers_the_held_out_loss(linear, streams, tmp_path):
    method = regression(n_layers=1, linear=linear, optimizer=adam)
    before = held_out_loss(method, streams[1])
    coefficients = method.effective.coefficients.detach().clone()
    fit(method, streams[0], tmp_path, epochs=4)
    assert_lower(held_out_loss(method, streams[1]), before)
    assert torch.equal(coefficients, method.effective.coefficients) == (linear == "fixed")
    assert all(bool((p != 0).all()) for p in method.effective.network.parameters())


def test_scheduler_steps_every_batch(streams, tmp_path):
    def halve(optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    trainer = fit(regression(1, optimizer=adam, scheduler=halve), streams[0], tmp_path)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.02 * 0.5**N_TRAIN)


@pytest.mark.parametrize("linear", ["fixed", "closed_form"])
def test_idle_optimizer_leaves_coefficients_alone(linear, streams, tmp_path):
    method = regression(linear=linear)
    trainer = fit(method, streams[0], tmp_path)
    after = method.effective.coefficients.detach().clone()
    expected = torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert torch.equal(after, expected) == (linear == "fixed")
    assert trainer.global_step == N_TRAIN and method.effective.coefficients.grad is None


def test_loss_that_is_not_finite_stops_with_the_step(streams, tmp_path):
    method = regression(linear="fixed")
    with torch.no_grad():
        method.effective.coefficients[1] = float("nan")
    with pytest.raises(InputError, match="loss of step 0 is nan: lower the learning rate"):
        fit(method, streams[0], tmp_path)


def test_batch_without_a_usable_chain_stops(streams, tmp_path):
    class Failed:
        def __getitem__(self, index):
            nothing = torch.full((N_CHAINS,), float("nan"), dtype=torch.float64)
            return {**streams[0][index], "action_end": nothing}

    with pytest.raises(ChainError, match="failed in every chain of a training trajectory"):
        fit(regression(), Failed(), tmp_path)


def test_checkpoint_holds_the_origin_and_restores_the_module(streams, tmp_path):
    method = regression(n_layers=1, optimizer=adam, label="covnet")
    method.origin = {"row": "covnet", "version": "0", "config": {"seed": 1}}
    trainer = fit(method, streams[0], tmp_path)
    assert "covnet/loss" in trainer.callback_metrics
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    payload = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert payload["origin"] == method.origin
    other = regression(n_layers=1, optimizer=adam)
    other.load_state_dict(payload["state_dict"])
    assert torch.equal(other.normal_matrix, method.normal_matrix)
    assert torch.equal(held_out_loss(other, streams[1]), held_out_loss(method, streams[1]))
