"""Regression of the continuity equation: exact cases, phi^4, links, resuming; HMC along the path."""

import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny_velocities import WilsonGradient

from lattice_lightning.actions import Phi4, WilsonGauge, free_kernel
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2
from lattice_lightning.lattice import Lattice
from lattice_lightning.methods import ContinuityRegression, LinearPath, QuarticPath, ScaledPath
from lattice_lightning.methods.action_path import derivative_weights
from lattice_lightning.metrics import effective_sample_size
from lattice_lightning.models import (
    ContinuousFlow,
    FlowModel,
    FourierFlow,
    FreeFieldPrior,
    GaussianFieldPrior,
    HaarPrior,
    PlaneWaves,
    step_halving,
)
from lattice_lightning.pipeline.fit import quiet_lightning
from lattice_lightning.samplers import FourierHMC, QuarticAction, run

SMALL = {"fields": [(0.0, 2), ("mean", 1)], "radius": 1, "widths": ()}


def phi4_method(shape=(6, 6), lam=6.975, n_nodes=9, n_steps=8, basis=None, path=None, **options):
    """A method for phi^4 at m2 = -4."""
    lattice = Lattice(shape)
    target = Phi4(lattice, -4.0, lam)
    flow = ContinuousFlow(lattice, PlaneWaves(lattice, **(basis or {})), n_nodes, n_steps)
    options = {"n_chains": 128, "n_thermalise": 60, "seed": 3, **options}
    return ContinuityRegression(FlowModel(GaussianFieldPrior(lattice), flow), target, path, **options)


def fit_all(method):
    """All nodes without Lightning."""
    return [method.fit_node(k) for k in range(method.n_visits)]


def fit(method, tmp_path, epochs=None, resume=None):
    with quiet_lightning():
        saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs or method.n_epochs, logger=False, callbacks=[saver],
            enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
            log_every_n_steps=1, default_root_dir=tmp_path,
        )
        trainer.fit(method, ckpt_path=resume, weights_only=True if resume else None)
    return trainer


# -- exactly solvable ------------------------------------------------------------------------------


def free_method(n_nodes=81):
    """From one free field to another: a velocity linear in the field."""
    lattice = Lattice((4, 4))
    target, prior = Phi4(lattice, 0.5, 0.0), FreeFieldPrior(lattice, 2.0)
    # five shells and the mean are the six orbits of momenta
    basis = PlaneWaves(lattice, fields=[(0.0, 0)], radius=2.3, widths=())
    model = FlowModel(prior, ContinuousFlow(lattice, basis, n_nodes, n_nodes - 1))
    path = partial(LinearPath, prior=prior.action(), hmc={"levels": 2})
    return ContinuityRegression(
        model, target, path, n_chains=12, n_measure=2, separation=1, n_relax=0, n_thermalise=0, ridge=0.0
    )


def test_free_field_to_another_mass_is_exact():
    method = free_method()
    logged = fit_all(method)
    assert all(entry["loss"] < 1e-12 * entry["variance"] for entry in logged)
    log_w = method.log_weights(256, torch.Generator().manual_seed(2))
    assert float(1 - effective_sample_size(log_w)) < 1e-6
    volume, kernel = 16, free_kernel(Lattice((4, 4)), 0.5)
    exact = 0.5 * (volume * math.log(2 * math.pi) - float(kernel.log().sum()))
    torch.testing.assert_close(log_w, torch.full_like(log_w, exact), rtol=0, atol=1e-6)


def test_fewer_nodes_leave_an_error_that_is_seen():
    method = free_method(5)
    fit_all(method)
    log_w = method.log_weights(256, torch.Generator().manual_seed(2))
    assert float(log_w.std()) > 1e-5


@pytest.mark.parametrize("n_nodes", [3, 5, 9])
def test_derivatives_of_polynomials(n_nodes):
    s = torch.linspace(0, 1, n_nodes, dtype=torch.float64)
    power = min(4, n_nodes - 1)
    torch.testing.assert_close(derivative_weights(n_nodes) @ s**power, power * s ** (power - 1))


# -- phi^4 -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    """L = 6 at E1 of 1904.12072."""
    method = phi4_method()
    return method, fit_all(method)


def test_phi4_is_learned(trained):
    method, logged = trained
    assert all(0 <= entry["loss"] < 0.01 * entry["variance"] for entry in logged[:-1])
    assert all(entry["path_acceptance"] > 0.9 for entry in logged)
    log_w = method.log_weights(1024, torch.Generator().manual_seed(2))
    assert float(effective_sample_size(log_w)) > 0.99
    halving = step_halving(method.model, 64, torch.Generator().manual_seed(5), method.target)
    assert halving.log_q < 0.01 and halving.log_w < 0.01


def test_weights_are_those_of_the_target(trained):
    method, _ = trained
    log_w = method.log_weights(1024, torch.Generator().manual_seed(2))
    # fields of the target, from another sampler
    kernel = FourierHMC(
        QuarticAction(method.model.lattice, free_kernel(method.model.lattice, -4.0), 6.975),
        free_kernel(method.model.lattice, 0.1),
    )
    rng = torch.Generator().manual_seed(4)
    state, _ = run(kernel, kernel.init(method.path.start(256, rng), rng), 60, rng)
    with torch.no_grad():
        seen = -method.target.value(state.field, {}) - method.model.log_prob(state.field)
    # for weights of variance v, E_p[log w] - E_q[log w] = v up to v^2
    expected = log_w.mean() + log_w.var()
    error = (log_w.var() / 1024 + seen.var() / 256).sqrt()
    assert abs(float((seen.mean() - expected) / error)) < 4
    # a flow that forgets a part in a hundred of its log-determinant
    with torch.no_grad():
        _, log_det = method.model.flow.inverse(state.field)
    assert abs(float(((seen + 1e-2 * log_det).mean() - expected) / error)) > 5


def test_prior_has_the_two_point_function_of_the_target(trained):
    method, _ = trained
    rng = torch.Generator().manual_seed(6)
    with torch.no_grad():
        x, _ = method.model.sample(1024, rng)
    square = x.square().mean((1, 2))
    prior = method.model.prior.sample(1024, rng).square().mean((1, 2))
    # constant along the path up to the truncation of the steps in K
    assert abs(float(prior.mean() / square.mean()) - 1) < 0.05


def test_model_runs_on_another_volume(trained):
    method, _ = trained
    model = deepcopy(method.model).on(Lattice((8, 8)))
    with torch.no_grad():
        x, log_q = model.sample(256, torch.Generator().manual_seed(7))
    log_w = -Phi4(Lattice((8, 8)), -4.0, 6.975).value(x, {}) - log_q
    assert float(effective_sample_size(log_w)) > 0.2


def test_resumed_training_is_the_same_bit_for_bit(tmp_path):
    options = {"n_nodes": 5, "n_steps": 4, "basis": SMALL, "n_epochs": 3, "shape": (4, 4), "n_thermalise": 10}
    whole = phi4_method(**options)
    assert whole.steps_per_epoch == 2
    trainer = fit(whole, tmp_path / "whole")
    assert int(trainer.global_step) == 6
    fit(phi4_method(**options), tmp_path / "half", epochs=2)
    again = phi4_method(**options)
    fit(again, tmp_path / "half", resume=tmp_path / "half" / "epoch=1.ckpt")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert torch.equal(whole.chains, again.chains)
    assert float(whole.flow.coefficients.detach().abs().max()) > 0.01
    assert not any("chains" in name for name in whole.state_dict())


# -- links -----------------------------------------------------------------------------------------


def test_scaled_path_for_links():
    lattice, group = Lattice((2, 3)), SU2()
    target = WilsonGauge(lattice, group, 0.5)
    flow = ContinuousFlow(lattice, WilsonGradient(lattice, group), 5, 4)
    method = ContinuityRegression(
        FlowModel(HaarPrior(lattice, group), flow), target, ScaledPath,
        n_chains=128, n_measure=4, n_thermalise=0, seed=2,
    )
    logged = fit_all(method)
    # leading order of the trivializing flow (0907.5491): v = -grad S / (4 C_2), C_2 = 3/4
    first = float(flow.coefficients[0].detach())
    assert abs(first / (0.5 / 3) - 1) < 0.1
    assert all(entry["loss"] < 0.2 * entry["variance"] for entry in logged)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        plain = -target.value(group.hot(lattice, 2048, rng), {})
    log_w = method.log_weights(2048, rng)
    assert float(log_w.var()) < 0.2 * float(plain.var())
    # log Z of both agree
    pair = [torch.logsumexp(w, 0) for w in (log_w, plain)]
    error = ((plain.exp() / plain.exp().mean()).var() / 2048).sqrt()
    assert abs(float((pair[0] - pair[1]) / error)) < 4


# -- HMC -------------------------------------------------------------------------------------------


class Unadjusted(FourierHMC):
    """Never rejects."""

    def propose(self, rng, state):
        trajectory = super().propose(rng, state)
        return type(trajectory)(**{**trajectory.__dict__, "delta_H": torch.zeros_like(trajectory.delta_H)})


def two_point_pulls(kind):
    """(G(p) K(p) - 1) in units of its error, one a real mode kept."""
    lattice = Lattice((4, 4))
    kernel = free_kernel(lattice, 0.5)
    hmc = kind(QuarticAction(lattice, kernel, 0.0), free_kernel(lattice, 2.0), n_steps=3, step_size=0.6)
    rng = torch.Generator().manual_seed(9)
    state = hmc.init(FreeFieldPrior(lattice, 0.5).sample(1000, rng), rng)
    values = []
    for _ in range(20):
        state, _ = hmc.step(rng, state)
        modes = torch.fft.fftn(state.field, dim=(1, 2))
        values.append((modes.real.square() + modes.imag.square()) * kernel / 16)
    means = torch.stack(values).mean(0).flatten(1)
    error = means.std(0) / len(means) ** 0.5
    independent = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    return ((means.mean(0) - 1) / error)[independent]


def test_fourier_hmc_leaves_the_free_field():
    assert float(two_point_pulls(FourierHMC).abs().max()) < 3.5
    assert float(two_point_pulls(Unadjusted).abs().max()) > 5


def test_fourier_hmc_energy(rng):
    lattice = Lattice((4, 4))
    action = QuarticAction(lattice, free_kernel(lattice, -4.0), 8.0)
    hmc = FourierHMC(action, free_kernel(lattice, 0.3), n_steps=4, step_size=0.15)
    state = hmc.init(0.4 * torch.randn(1024, 4, 4, generator=rng, dtype=torch.float64), rng)
    state, _ = run(hmc, state, 60, rng)
    deltas = []
    for _ in range(5):
        trajectory = hmc.propose(rng, state)
        torch.testing.assert_close(trajectory.action_end, action.value(trajectory.end, {}))
        state, info = hmc.decide(rng, trajectory)
        deltas.append(info.delta_H)
    weights = torch.exp(-torch.cat(deltas))
    assert abs(float((weights.mean() - 1) / (weights.std() / len(weights) ** 0.5))) < 3.5
    assert 0.6 < float(torch.cat(deltas).exp().reciprocal().clamp(max=1).mean()) < 0.999


def test_quartic_action_is_phi4(rng):
    lattice = Lattice((3, 4))
    action, phi4 = QuarticAction(lattice, free_kernel(lattice, -4.0), 8.0), Phi4(lattice, -4.0, 8.0)
    field = torch.randn(3, 3, 4, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(action.value(field, {}), phi4.value(field, {}))
    torch.testing.assert_close(action.force(field, {}), phi4.force(field, {}))


# -- options ---------------------------------------------------------------------------------------


def test_bad_options():
    lattice = Lattice((4, 4))
    target, prior = Phi4(lattice, -4.0, 8.0), GaussianFieldPrior(lattice)
    flow = ContinuousFlow(lattice, PlaneWaves(lattice, **SMALL), 5, 4)
    with pytest.raises(InputError, match="ContinuousFlow"):
        ContinuityRegression(FlowModel(prior, FourierFlow(lattice)), target)
    with pytest.raises(InputError, match="GaussianFieldPrior"):
        ContinuityRegression(FlowModel(FreeFieldPrior(lattice), flow), target)
    with pytest.raises(InputError, match="need at least"):
        ContinuityRegression(FlowModel(prior, flow), target, n_chains=2, n_measure=2)
    with pytest.raises(InputError, match="lam > 0"):
        ContinuityRegression(FlowModel(prior, flow), Phi4(lattice, 1.0, 0.0))
    with pytest.raises(InputError, match="another target"):
        ContinuityRegression(FlowModel(prior, flow), target, QuarticPath(Phi4(lattice, -4.0, 7.0)))
    with pytest.raises(InputError, match="Haar"):
        path = ScaledPath(target)
        ContinuityRegression(FlowModel(prior, flow), target, path)
