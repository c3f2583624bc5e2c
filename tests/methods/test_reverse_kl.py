"""Reverse KL: estimators against quadrature, averages, annealing, resuming, precision."""

from copy import deepcopy
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from scipy.stats import f as f_distribution
from scipy.stats import norm
from tiny_flows import Scale, bent, couplings, phi4
from torch import nn

from lattice_lightning.actions import GaussianAction, Phi4
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2
from lattice_lightning.lattice import Lattice
from lattice_lightning.methods import (
    Annealing,
    ReverseKL,
    StepIndices,
    WeightAverage,
    gather_draws,
    step_generator,
)
from lattice_lightning.metrics import independence_acceptance
from lattice_lightning.models import FlowModel, GaussianPrior
from lattice_lightning.pipeline.fit import quiet_lightning

ESTIMATORS = ["reparametrised", "path", "reinforce"]
SEED = 4


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def reverse_kl(model, target, batch_size=64, epochs=1, steps=10, optimizer=adam, **options):
    return ReverseKL(model, target, batch_size, epochs, steps, optimizer, **{"seed": SEED, **options})


def fit(method, tmp_path, epochs=None, callbacks=(), resume=None, logger=False):
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs or method.n_epochs, logger=logger, callbacks=list(callbacks),
            enable_checkpointing=bool(callbacks), enable_progress_bar=False, enable_model_summary=False,
            inference_mode=False, log_every_n_steps=1, default_root_dir=tmp_path,
        )
        trainer.fit(method, ckpt_path=resume, weights_only=True if resume else None)
    return trainer


def gradient(method, loss):
    """Of all weights, in one vector."""
    parameters = [p for p in method.model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters)
    return torch.cat([g.double().flatten() for g in found])


def gradients(method, n, step=0):
    """Rows of independent estimates."""
    rows = [gradient(method, method.loss(step_generator(SEED, k), step)[0]) for k in range(n)]
    return torch.stack(rows)


def quadrature(model, integrand, nodes=12):
    """E over the unit Gaussian latent of four sites, by Gauss and Hermite."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    latent = torch.tensor(list(product(points, repeat=4)), dtype=torch.float64).reshape(-1, 2, 2)
    weight = torch.tensor([np.prod(w) for w in product(weights, repeat=4)], dtype=torch.float64)
    field, log_det = model.flow(latent)
    return (weight * integrand(field, model.prior.log_prob(latent) - log_det)).sum()


def significance(rows, expected):
    """Sigma at which the mean of the rows differs from the truth (Hotelling's T^2)."""
    n, p = rows.shape
    off = rows.mean(0) - expected
    t2 = float(n * off @ torch.linalg.solve(torch.cov(rows.T).reshape(p, p), off))
    log_p = f_distribution.logsf(t2 * (n - p) / (p * (n - 1)), p, n - p)
    return float(norm.isf(np.exp(max(log_p, -700)) / 2))


@pytest.fixture(scope="module")
def truth():
    """Gradient of KL(q | phi^4) - log Z, and of it with the target halved."""
    target = phi4((2, 2), -0.5, 1.0)
    found = {}
    for factor in (1.0, 0.5):
        method = reverse_kl(bent(), target)
        found[factor] = gradient(
            method, quadrature(method.model, lambda x, q, c=factor: q + c * target.energy(x))
        )
    return found


def test_quadrature_has_converged(truth):
    target, method = phi4((2, 2), -0.5, 1.0), reverse_kl(bent(), phi4((2, 2), -0.5, 1.0))
    other = gradient(method, quadrature(method.model, lambda x, q: q + target.energy(x), nodes=10))
    torch.testing.assert_close(other, truth[1.0], rtol=1e-7, atol=1e-7)
    assert bool((other.abs() > 0.02).all())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient_is_that_of_the_integrated_divergence(estimator, truth):
    method = reverse_kl(bent(), phi4((2, 2), -0.5, 1.0), estimator=estimator)
    assert significance(gradients(method, 250), truth[1.0]) < 3.5


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient_of_the_annealed_divergence(estimator, truth):
    method = reverse_kl(
        bent(), phi4((2, 2), -0.5, 1.0), estimator=estimator, annealing={"start": 0.5, "steps": 10}
    )
    rows = gradients(method, 150)
    assert significance(rows, truth[0.5]) < 3.5
    assert significance(rows, truth[1.0]) > 5


@pytest.mark.parametrize("batch_size", [2, 4])
def test_baseline_is_unbiased_down_to_two_draws(batch_size, truth):
    method = reverse_kl(bent(), phi4((2, 2), -0.5, 1.0), batch_size, estimator="reinforce")
    rows = gradients(method, 800)
    assert significance(rows, truth[1.0]) < 3.5
    # a baseline with the draw itself in it
    assert significance(rows * (batch_size - 1) / batch_size, truth[1.0]) > 5


class Dropped(Scale):
    """A scale whose log-determinant is left out."""

    def forward(self, field):
        x, log_det = super().forward(field)
        return x, 0 * log_det

    def inverse(self, field):
        z, log_det = super().inverse(field)
        return z, 0 * log_det


def test_a_dropped_log_determinant_is_seen(truth):
    model = bent()
    model.flow.layers[-1] = Dropped(model.lattice, -0.2, 0.1)
    method = reverse_kl(model, phi4((2, 2), -0.5, 1.0))
    assert significance(gradients(method, 250), truth[1.0]) > 5


def test_a_path_gradient_without_log_q_is_seen(truth):
    model = bent()
    model.log_prob = lambda x: 0 * x.flatten(1).sum(1)
    method = reverse_kl(model, phi4((2, 2), -0.5, 1.0), estimator="path")
    assert significance(gradients(method, 250), truth[1.0]) > 5


def test_score_without_a_baseline_has_more_variance_and_the_same_mean(truth):
    method = reverse_kl(bent(), phi4((2, 2), -0.5, 1.0), estimator="reinforce")
    with_baseline, without = gradients(method, 100), []
    # heavy tails: many batches before their mean is normal
    for k in range(500):
        with torch.no_grad():
            x, log_q = method.model.sample(64, step_generator(SEED, k))
            value = log_q + method.target.energy(x) + 10
        without.append(gradient(method, (value * method.model.log_prob(x)).mean()))
    without = torch.stack(without)
    assert significance(without, truth[1.0]) < 3.5
    assert float(without.var(0).sum()) > 1.5 * float(with_baseline.var(0).sum())


def test_path_gradient_vanishes_where_the_model_is_the_target():
    lattice = Lattice((2, 2))
    target = GaussianAction(lattice, torch.full((2, 2), 4.0, dtype=torch.float64))
    model = FlowModel(GaussianPrior(lattice), Scale(lattice, scale=float(np.log(0.5))))
    norms = {}
    for estimator in ESTIMATORS:
        method = reverse_kl(model, target, 32, estimator=estimator)
        loss, logged = method.loss(step_generator(SEED, 0))
        norms[estimator] = float(gradient(method, loss).norm())
        assert float(loss.detach()) == pytest.approx(-target.log_z, abs=1e-12)
        assert float(logged["batch_ess"]) == pytest.approx(1) and float(logged["batch_var_log_w"]) < 1e-24
    assert norms["path"] < 1e-12 and norms["reinforce"] < 1e-12 < 0.01 < norms["reparametrised"]


# -- the terms of the loss -----------------------------------------------------------------------


def test_annealing_rises_linearly_over_the_whole_training():
    annealing = Annealing(start=0.2, steps=8)
    assert [annealing.factor(s) for s in (0, 2, 4, 8, 100)] == pytest.approx([0.2, 0.4, 0.6, 1.0, 1.0])
    method = reverse_kl(couplings(n=1), phi4(), steps=4, annealing={"start": 0.2, "steps": 8})
    seen = [float(method.loss(step_generator(0, s), s)[1]["annealing"]) for s in range(10)]
    assert seen == pytest.approx([annealing.factor(s) for s in range(10)])
    assert reverse_kl(couplings(n=1), phi4()).factor(0) == 1


def test_annealing_with_the_prior_starts_from_it():
    lattice = Lattice((4, 4))
    model = FlowModel(GaussianPrior(lattice, sigma=0.5), Scale(lattice))
    options = {"annealing": {"start": 0.0, "steps": 4, "prior": True}, "estimator": "path"}
    method = reverse_kl(model, phi4(), **options)
    assert float(gradient(method, method.loss(step_generator(1, 0), 0)[0]).norm()) < 1e-10
    # half way, on the same draws
    loss, logged = method.loss(step_generator(1, 0), 2)
    x, log_q = model.sample(64, step_generator(1, 0))
    mixture = 0.5 * phi4().energy(x) + 0.5 * model.prior.action().energy(x)
    assert float(loss.detach()) == pytest.approx(float((mixture + log_q).mean().detach()), rel=1e-12)
    assert float(logged["loss"]) == pytest.approx(float((phi4().energy(x) + log_q).mean().detach()), rel=1e-12)


@pytest.mark.parametrize("as_sequence", [False, True])
def test_forward_term_adds_its_own_gradient(as_sequence, rng):
    fields = torch.randn(40, 2, 2, generator=rng, dtype=torch.float64)
    stored = list(fields.reshape(10, 4, 2, 2)) if as_sequence else fields
    model, target = bent(), phi4((2, 2))
    without = reverse_kl(model, target, 8)
    with_term = reverse_kl(model, target, 8, forward_kl={"weight": 0.3, "fields": stored})
    loss, logged = with_term.loss(step_generator(2, 0))
    # the same draws come first, then the choice of fields
    draws = step_generator(2, 0)
    model.prior.sample(8, draws)
    chosen = fields[torch.randint(40, (8,), generator=draws)]
    expected = -model.log_prob(chosen).mean()
    assert float(logged["forward_kl"]) == pytest.approx(float(expected.detach()), rel=1e-12)
    difference = gradient(with_term, loss) - gradient(without, without.loss(step_generator(2, 0))[0])
    torch.testing.assert_close(difference, 0.3 * gradient(without, expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("parts", [2, 3, 16])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_micro_batches_have_the_gradient_of_the_batch(estimator, parts, rng):
    options = {
        "estimator": estimator, "annealing": {"start": 0.3, "steps": 5},
        "forward_kl": {"weight": 0.5, "fields": torch.randn(9, 2, 2, generator=rng, dtype=torch.float64)},
    }
    whole, split = (reverse_kl(bent(), phi4((2, 2)), 16, micro_batches=k, **options) for k in (1, parts))
    losses = [m.loss(step_generator(3, 0), 1) for m in (whole, split)]
    torch.testing.assert_close(losses[1][0], losses[0][0], rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradient(split, losses[1][0]), gradient(whole, losses[0][0]), rtol=1e-10, atol=1e-12
    )
    for name, value in losses[0][1].items():
        assert float(losses[1][1][name]) == pytest.approx(float(value), rel=1e-10), name


class TrainedPrior(GaussianPrior):
    """A Gaussian whose width is a weight."""

    def __init__(self, lattice):
        super().__init__(lattice)
        self.log_sigma = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def sample(self, n, rng):
        return self.log_sigma.exp() * super().sample(n, rng)

    def log_prob(self, field):
        return super().log_prob(field * (-self.log_sigma).exp()) - self.lattice.volume * self.log_sigma


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_prior_with_a_weight(estimator, parts):
    lattice = Lattice((2, 2))
    model = FlowModel(TrainedPrior(lattice), Scale(lattice))
    # e^{2a} of the two widths enter only together, so their gradients are equal
    target = GaussianAction(lattice, torch.full((2, 2), 4.0, dtype=torch.float64))
    method = reverse_kl(model, target, 512, estimator=estimator, micro_batches=parts)
    rows = torch.stack([gradient(method, method.loss(step_generator(5, k))[0])[:2] for k in range(40)])
    expected = 4 * (4 * np.exp(0.2) - 1)
    assert significance(rows[:, :1], torch.tensor([expected], dtype=torch.float64)) < 3.5
    torch.testing.assert_close(rows[:, 0], rows[:, 1], rtol=1e-10, atol=1e-10)


# -- draws that are not finite ---------------------------------------------------------------------


class Holes(Phi4):
    """phi^4, not defined for a field whose first site exceeds a bound."""

    bound = 2.0

    def value(self, field, aux, *, strict=True):
        found = super().value(field, aux)
        first = field.flatten(1)[:, 0]
        return torch.where(first > self.bound, torch.sqrt(self.bound - first) * found, found)


def test_few_draws_without_a_weight_are_dropped_and_counted():
    model, target = bent(), Holes(Lattice((2, 2)), 1.0, 1.0)
    target.bound = 2.2
    method = reverse_kl(model, target, 1000)
    rng = step_generator(SEED, 0)
    x, _ = model.sample(1000, rng)
    bad = x.flatten(1)[:, 0] > 2.2
    assert 0 < int(bad.sum()) <= 8
    loss, logged = method.loss(step_generator(SEED, 0))
    x, log_q = model.sample(1000, step_generator(SEED, 0))
    expected = (phi4((2, 2)).energy(x) + log_q)[~bad].mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    torch.testing.assert_close(gradient(method, loss), gradient(method, expected), rtol=1e-9, atol=1e-9)
    assert int(method.n_dropped) == int(bad.sum()) and int(method.n_drawn) == 1000
    assert bool(torch.isfinite(torch.stack(list(logged.values()))).all())


def test_many_draws_without_a_weight_stop_with_step_and_rate(tmp_path):
    target = Holes(Lattice((2, 2)), 1.0, 1.0)
    target.bound = 0.5
    with pytest.raises(InputError, match=r"step 0 \(learning rate 0.01\): .* of 64 draws .*lower the learning rate"):
        fit(reverse_kl(bent(), target), tmp_path)


def test_weights_that_are_not_finite_stop(tmp_path):
    method = reverse_kl(bent(), phi4((2, 2)))
    with torch.no_grad():
        next(method.model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match=r"step 0 .*64 of 64 draws"):
        fit(method, tmp_path)


def test_gradient_that_is_not_finite_stops_before_the_weights_are_lost(tmp_path):
    class Cusp(Phi4):
        def value(self, field, aux, *, strict=True):
            return super().value(field, aux) + (0 * field.flatten(1)).sum(1).abs().sqrt()

    method = reverse_kl(bent(), Cusp(Lattice((2, 2)), 1.0, 1.0))
    before = deepcopy(method.model.state_dict())
    with pytest.raises(InputError, match=r"gradient of step 0 .* is not finite"):
        fit(method, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in method.model.state_dict().items())


# -- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_training_lowers_the_loss_and_raises_the_sample_size(estimator, tmp_path):
    method = reverse_kl(couplings(), phi4(), steps=60, estimator=estimator, ema=0.9)

    def judge():
        log_w = method.log_weights(1000, step_generator(77, 0))
        return -float(log_w.mean()), float(torch.exp(log_w - log_w.logsumexp(0)).square().sum() ** -1 / 1000)

    before = judge()
    fit(method, tmp_path)
    after = judge()
    assert after[0] < before[0] - 1, (before, after)
    assert after[1] > 10 * before[1] and after[1] > 0.1, (before, after)


def test_single_precision_training_has_double_precision_weights(tmp_path):
    method = reverse_kl(couplings(), phi4(), steps=40, precision="32", label="flow")
    assert method.loss(step_generator(1, 0))[0].dtype == torch.float32
    trainer = fit(method, tmp_path)
    assert float(trainer.callback_metrics["flow/batch_ess"]) > 0.1
    log_w = method.log_weights(8, step_generator(1, 0), batch_size=3)
    model = method.sampling_model()
    field, log_q = model.sample(8, step_generator(1, 0))
    assert log_w.dtype == field.dtype == log_q.dtype == torch.float64
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert float((model.log_prob(field) - log_q).abs().max()) < 1e-12


def test_direct_draws_in_batches(tmp_path):
    method = reverse_kl(couplings(n=2), phi4())
    found = method.log_weights(7, rng := step_generator(1, 0), batch_size=3)
    again, expected = step_generator(1, 0), []
    for n in (3, 3, 1):
        x, log_q = method.model.sample(n, again)
        expected.append((-phi4().energy(x) - log_q).detach())
    assert torch.equal(found, torch.cat(expected)) and torch.equal(rng.get_state(), again.get_state())
    assert not found.requires_grad


def test_kernel_samples_the_target_with_the_weights_now(tmp_path):
    method = reverse_kl(couplings(), phi4(), steps=40, ema=0.9)
    fit(method, tmp_path)
    kernel, rng = method.kernel(phi4(), batch_size=8), step_generator(9, 0)
    state = kernel.init(method.sampling_model().sample(16, rng)[0], rng)
    state, info = kernel.step(rng, state)
    assert 0 < int(info.accepted.sum()) < 16 and state.field.dtype == torch.float64
    field = state.field
    expected = -phi4().energy(field) - method.average.model.log_prob(field)
    torch.testing.assert_close(state.cache["log_weight"], expected.detach(), rtol=0, atol=1e-9)


def test_gradient_is_clipped_by_its_norm(tmp_path):
    sgd = partial(torch.optim.SGD, lr=1.0)
    method = reverse_kl(bent(), phi4((2, 2), 8.0, 8.0), steps=1, optimizer=sgd, gradient_clip=0.01)
    before = [p.detach().clone() for p in method.model.parameters()]
    full = gradient(method, method.loss(method.generator(0))[0])
    fit(method, tmp_path)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, method.model.parameters(), strict=True)])
    torch.testing.assert_close(moved.detach(), full * 0.01 / full.norm(), rtol=1e-3, atol=1e-9)
    assert float(full.norm()) > 1


def test_scheduler_steps_every_batch(tmp_path):
    halve = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    trainer = fit(reverse_kl(bent(), phi4((2, 2)), steps=5, scheduler=halve), tmp_path)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**5)


# -- averaged weights ------------------------------------------------------------------------------


def test_average_is_the_one_worked_out_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(7.0)
    average, expected = WeightAverage(model, 0.25), 7.0
    for weight, decay in ((1.0, 0.1), (2.0, 2 / 11), (3.0, 0.25), (4.0, 0.25)):
        model.weight.data.fill_(weight)
        average.update(model)
        expected = decay * expected + (1 - decay) * weight
        assert float(average.model.weight) == pytest.approx(expected, rel=1e-6)
    assert float(model.weight.detach()) == 4 and int(average.count) == 4


def test_average_follows_the_training_and_is_sampled_with(tmp_path):
    method = reverse_kl(bent(), phi4((2, 2)), steps=6, ema=0.5)
    by_hand = WeightAverage(method.model, 0.5)
    step = method.on_train_batch_end

    def both(*args):
        step(*args)
        by_hand.update(method.model)

    method.on_train_batch_end = both
    fit(method, tmp_path)
    for a, b in zip(by_hand.model.parameters(), method.sampling_model().parameters(), strict=True):
        assert torch.equal(a, b)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(method.model.parameters(), method.sampling_model().parameters(), strict=True)
    )


def test_model_to_sample_with_is_frozen_and_apart():
    method = reverse_kl(bent(), phi4((2, 2)))
    model = method.sampling_model()
    assert not any(p.requires_grad for p in model.parameters())
    before = [p.clone() for p in model.parameters()]
    with torch.no_grad():
        for p in method.model.parameters():
            p.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.requires_grad for p in method.model.parameters())


# -- resuming --------------------------------------------------------------------------------------


def saver(path):
    return ModelCheckpoint(
        path, filename="last", every_n_epochs=1, save_on_train_epoch_end=True, enable_version_counter=False
    )


@pytest.mark.parametrize("estimator", ["path", "reinforce"])
def test_resumed_run_is_bitwise_the_uninterrupted_one(estimator, tmp_path):
    def fresh(seed=SEED):
        cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=12)
        return reverse_kl(
            couplings(n=2), phi4(), 16, epochs=3, steps=4, estimator=estimator, scheduler=cosine, ema=0.9,
            annealing={"start": 0.1, "steps": 10}, precision="32", seed=seed,
        )

    whole = fresh()
    fit(whole, tmp_path, callbacks=[saver(tmp_path / "whole")])
    interrupted = fresh()
    fit(interrupted, tmp_path, epochs=2, callbacks=[saver(tmp_path / "part")])
    resumed = fresh()
    fit(resumed, tmp_path, callbacks=[saver(tmp_path / "part")], resume=tmp_path / "part" / "last.ckpt")
    a, b = (torch.load(tmp_path / f / "last.ckpt", weights_only=True) for f in ("whole", "part"))
    assert a["global_step"] == b["global_step"] == 12
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert any(name.startswith("average.model") for name in a["state_dict"])
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    for one, other in zip(
        a["optimizer_states"][0]["state"].values(), b["optimizer_states"][0]["state"].values(), strict=True
    ):
        assert all(torch.equal(one[k], other[k]) for k in one)
    assert a["lr_schedulers"] == b["lr_schedulers"]
    # the check can fail: other draws, other weights
    fit(other := fresh(seed=SEED + 1), tmp_path)
    assert not torch.equal(next(other.model.parameters()), next(whole.model.parameters()))


def test_steps_ranks_and_seeds_draw_different_numbers():
    method = reverse_kl(bent(), phi4((2, 2)), steps=4)
    first = {float(torch.rand(1, generator=method.generator(s))) for s in range(50)}
    first |= {float(torch.rand(1, generator=step_generator(SEED, 0, r))) for r in range(1, 50)}
    first |= {float(torch.rand(1, generator=step_generator(s, 0))) for s in range(100, 150)}
    assert len(first) == 149
    assert list(method.train_dataloader()) == [0, 1, 2, 3] and len(method.train_dataloader()) == 4
    with pytest.raises(InputError, match="at least one step"):
        StepIndices(0)


def test_weights_and_origin_go_through_a_file(tmp_path):
    method = reverse_kl(couplings(n=2), phi4(), steps=3, ema=0.9)
    method.origin = {"row": "flow", "config": {"seed": 1}}
    trainer = fit(method, tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    payload = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert payload["origin"] == method.origin
    other = reverse_kl(couplings(n=2), phi4(), ema=0.9)
    other.load_state_dict(payload["state_dict"])
    found = [m.log_weights(16, step_generator(1, 0)) for m in (method, other)]
    assert torch.equal(*found) and int(other.n_drawn) == 3 * 64
    assert not torch.equal(found[0], reverse_kl(couplings(n=2), phi4()).log_weights(16, step_generator(1, 0)))


# -- figures of a batch ----------------------------------------------------------------------------


def test_acceptance_of_gaussian_log_weights_is_the_known_one():
    rng, sigma = torch.Generator().manual_seed(3), 1.2
    found = torch.stack(
        [
            independence_acceptance(sigma * torch.randn(5000, generator=rng, dtype=torch.float64))
            for _ in range(40)
        ]
    )
    expected = torch.erfc(torch.tensor(sigma / 2))
    assert abs(float(found.mean() - expected)) < 3.5 * float(found.std()) / 40**0.5 + 1e-3


def test_acceptance_is_the_sum_over_pairs(rng):
    log_w = 3 * torch.randn(9, generator=rng, dtype=torch.float64)
    w = log_w.exp()
    pairs = [min(w[i], w[j]) for i in range(9) for j in range(9) if i != j]
    assert float(independence_acceptance(log_w)) == pytest.approx(float(sum(pairs) / 72 / w.mean()), rel=1e-12)
    assert float(independence_acceptance(log_w + 1000)) == pytest.approx(float(sum(pairs) / 72 / w.mean()))


def test_figures_of_a_batch_are_those_of_its_draws():
    method = reverse_kl(bent(), phi4((2, 2)), 32)
    _, logged = method.loss(step_generator(1, 0))
    x, log_q = method.model.sample(32, step_generator(1, 0))
    log_w = (-phi4((2, 2)).energy(x) - log_q).detach()
    w = log_w.exp()
    assert float(logged["loss"]) == pytest.approx(-float(log_w.mean()), rel=1e-12)
    assert float(logged["batch_var_log_w"]) == pytest.approx(float(log_w.var()), rel=1e-10)
    assert float(logged["batch_ess"]) == pytest.approx(float(w.mean() ** 2 / w.square().mean()), rel=1e-10)
    assert torch.equal(gather_draws(log_w[None], 32)[0], log_w)


def test_figures_of_ranks_stand_side_by_side(monkeypatch):
    """Two ranks, one of them with a draw less; the sum over ranks is played by hand."""
    from lattice_lightning.methods import flow_method

    columns = [torch.arange(6.0, dtype=torch.float64).reshape(2, 3), torch.tensor([[7.0, 8.0], [9.0, -torch.inf]])]
    sent = []
    monkeypatch.setattr(flow_method, "joined", lambda: True)
    monkeypatch.setattr(flow_method.dist, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(flow_method.dist, "get_rank", lambda r=rank: r)
        monkeypatch.setattr(flow_method, "sum_over_ranks", lambda t: sent.append(t.clone()))
        gather_draws(columns[rank], 3)
    for rank in (0, 1):
        monkeypatch.setattr(flow_method.dist, "get_rank", lambda r=rank: r)
        monkeypatch.setattr(flow_method, "sum_over_ranks", lambda t, other=sent[1 - rank]: t.add_(other))
        assert torch.equal(gather_draws(columns[rank], 3), torch.cat([c.double() for c in columns], 1))


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "forward"}, "expected one of reparametrised, path, reinforce"),
        ({"precision": "16"}, "precision of the draws in training is 64 or 32"),
        ({"batch_size": 1}, "batch_size >= 2"),
        ({"micro_batches": 65}, "micro_batches <= batch_size"),
        ({"ema": 1.0}, r"decay of averaged weights must be in \[0, 1\)"),
        ({"gradient_clip": 0.0}, "gradient_clip must be positive"),
        ({"epochs": 0}, "at least one epoch"),
        ({"annealing": {"begin": 0.1}}, "annealing takes start, steps, prior"),
        ({"annealing": {"start": 2.0}}, "0 <= start <= 1"),
        ({"forward_kl": {"weight": 0.0, "fields": torch.zeros(1, 2, 2)}}, "weight > 0"),
        ({"forward_kl": {"weight": 1.0, "fields": torch.zeros(1, 3, 2)}}, r"\[batch, 2, 2\]"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        reverse_kl(bent(), phi4((2, 2)), **options)


def test_target_on_another_field_is_refused():
    from lattice_lightning.actions import WilsonGauge

    for target in (phi4((4, 4)), WilsonGauge(Lattice((2, 2)), SU2(), 1.0)):
        with pytest.raises(InputError, match="the flow lives on"):
            reverse_kl(bent(), target)


def test_flow_without_weights_is_refused():
    model = bent().requires_grad_(False)
    with pytest.raises(InputError, match="no trainable weight"):
        reverse_kl(model, phi4((2, 2))).configure_optimizers()


def test_flow_that_does_not_compile_trains_in_plain_torch(tmp_path, monkeypatch):
    def no_compiler(function, **options):
        def call(*args):
            raise RuntimeError("no C++ compiler")

        return call

    compiled, plain = (reverse_kl(bent(), phi4((2, 2)), steps=2, compile=c) for c in (True, False))
    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.warns(RuntimeWarning, match="the flow does not compile .* trains in plain torch"):
        fit(compiled, tmp_path)
    fit(plain, tmp_path)
    for a, b in zip(compiled.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_compiled_flow_is_called_in_training_only(tmp_path, monkeypatch):
    calls = []

    def counting(function, **options):
        def call(*args):
            calls.append(len(args[0]))
            return function(*args)

        return call

    monkeypatch.setattr(torch, "compile", counting)
    method = reverse_kl(bent(), phi4((2, 2)), 12, steps=2, compile=True, micro_batches=2)
    fit(method, tmp_path)
    assert calls == [6] + 2 * [6, 6]
    method.log_weights(5, step_generator(0, 0))
    assert len(calls) == 5 and not any("compiled" in name for name in method.state_dict())


@pytest.mark.slow
def test_compiled_training_agrees_with_plain_torch(tmp_path):
    methods = [reverse_kl(couplings(n=2), phi4(), steps=3, compile=c, ema=0.5) for c in (True, False)]
    for method in methods:
        fit(method, tmp_path)
    for a, b in zip(methods[0].parameters(), methods[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert methods[0].model.flow._compiled_call_impl is not None
