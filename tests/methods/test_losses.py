"""The three losses, their gradients and the closed form, against numpy."""

import numpy as np
import pytest
import torch
from link_map_cases import randomise
from toy_systems import effective, hmc, start, target

from lattice_lightning.data import batch_of
from lattice_lightning.exceptions import InputError
from lattice_lightning.methods import ActionRegression, action_regression, fit_linear
from lattice_lightning.models import CovNet
from lattice_lightning.samplers import SelfLearningHMC

MASSES = (0.5, 0.9)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def module(loss="pairs", linear="closed_form", network=False, **options):
    action = target()
    net = randomise(CovNet(action.lattice, action.space, n_layers=1)) if network else None
    guide = effective(action, MASSES, network=net)
    with torch.no_grad():
        guide.coefficients.copy_(torch.tensor([1.1, 0.7, 0.2]))
    needs = network or linear == "gradient"
    return ActionRegression(guide, loss, linear, optimizer=sgd if needs else None, **options)


@pytest.fixture(scope="module")
def batches():
    """Three trajectories of four chains."""
    kernel = hmc()
    rng = torch.Generator().manual_seed(3)
    state, result = kernel.init(start(kernel), rng), []
    for _ in range(3):
        trajectory = kernel.propose(rng, state)
        state, _ = kernel.decide(rng, trajectory)
        result.append(batch_of(trajectory))
    return result


def terms(method, field, aux):
    """Terms of the effective action [terms, batch] as an array."""
    guide = method.effective
    with torch.no_grad():
        return guide.term_values(guide.space.pack(field), aux).numpy()


def differences(method, batch):
    features = terms(method, batch["end"], batch["aux"]) - terms(method, batch["start"], batch["aux"])
    return features, (batch["action_end"] - batch["action_start"]).numpy()


def test_fit_linear_is_least_squares_for_terms_of_any_size(rng):
    f = torch.randn(4, 30, generator=rng, dtype=torch.float64)
    y = torch.randn(30, generator=rng, dtype=torch.float64)
    scale = torch.tensor([1.0, 1e6, 1e-5, 30.0], dtype=torch.float64)
    expected, *_ = np.linalg.lstsq(f.T.numpy(), y.numpy(), rcond=None)
    scaled = scale[:, None] * f
    found = fit_linear(scaled @ scaled.T, scaled @ y, ridge=0.0)
    np.testing.assert_allclose((scale * found).numpy(), expected, rtol=1e-10)


def test_ridge_is_relative_to_the_diagonal(rng):
    """The minimum of |y - c f|^2 + ridge sum_k |f_k|^2 c_k^2, by an extended least squares."""
    f = torch.randn(3, 20, generator=rng, dtype=torch.float64) * torch.tensor([[1.0], [50.0], [0.1]])
    y = torch.randn(20, generator=rng, dtype=torch.float64)
    ridge = 0.3
    extended = np.vstack([f.T.numpy(), np.diag(np.sqrt(ridge) * f.norm(dim=1).numpy())])
    expected, *_ = np.linalg.lstsq(extended, np.append(y.numpy(), np.zeros(3)), rcond=None)
    np.testing.assert_allclose(fit_linear(f @ f.T, f @ y, ridge).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("loss", ["pairs", "variance", "absolute"])
def test_losses_are_their_formulas(loss, network, batches):
    method, batch = module(loss, "gradient", network), batches[0]
    c = method.effective.coefficients.detach().numpy()
    if loss == "pairs":
        features, change = differences(method, batch)
        expected = 0.5 * np.mean((change - c @ features) ** 2)
    else:
        delta = batch["action_end"].numpy() - c @ terms(method, batch["end"], batch["aux"])
        expected = 0.5 * np.mean(delta**2) if loss == "absolute" else np.var(delta)
    assert float(method.loss(batch).detach()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("loss", ["pairs", "variance", "absolute"])
def test_gradients_are_finite_differences(loss, batches):
    method = module(loss, "gradient", network=True)
    method.loss(batches[0]).backward()
    step = 1e-4
    for name, parameter in method.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for k in range(len(flat)):
            values = []
            for t in (step, -step):
                flat[k] += t
                values.append(float(method.loss(batches[0]).detach()))
                flat[k] -= t
            expected = (values[0] - values[1]) / (2 * step)
            assert float(gradient[k]) == pytest.approx(expected, rel=1e-5, abs=1e-6), f"{name}[{k}]"


def test_variance_over_ranks_has_the_joint_gradient(batches, monkeypatch):
    """Two ranks that know the joint mean: the mean of their gradients is that of the joint batch."""
    method, batch = module("variance", "gradient", network=True), batches[0]

    def gradient(part):
        method.zero_grad()
        method.loss(part).backward()
        return torch.cat([p.grad.flatten() for p in method.parameters()])

    joint = gradient(batch)
    c = method.effective.coefficients.detach().numpy()
    delta = batch["action_end"].numpy() - c @ terms(method, batch["end"], batch["aux"])
    monkeypatch.setattr(action_regression, "_mean_over_ranks", lambda value: torch.tensor(delta.mean()))
    halves = [torch.arange(4) < 2, torch.arange(4) >= 2]
    parts = [gradient(action_regression._select(batch, keep)) for keep in halves]
    torch.testing.assert_close(sum(parts) / 2, joint, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("forgetting", [None, 0.5, 1.0])
def test_closed_form_minimises_the_weighted_pair_loss_of_batches_seen(forgetting, batches):
    """Older batches weigh forgetting^age; without a network nothing moves, and nothing is forgotten."""
    network = forgetting is not None
    options = {"forgetting": forgetting} if network else {"forgetting": 0.5}
    method = module(network=network, ridge=0.0, **options)
    for batch in batches:
        method.loss(batch)
    weights = (forgetting or 1.0) ** np.arange(2, -1, -1.0)
    pairs = [differences(method, batch) for batch in batches]

    def total(c):
        return sum(w * np.sum((y - c @ f) ** 2) for w, (f, y) in zip(weights, pairs, strict=True))

    found = method.effective.coefficients.detach().numpy().copy()
    f = np.hstack([np.sqrt(w) * f for w, (f, _) in zip(weights, pairs, strict=True)])
    y = np.hstack([np.sqrt(w) * y for w, (_, y) in zip(weights, pairs, strict=True)])
    expected, *_ = np.linalg.lstsq(f.T, y, rcond=None)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    for k in range(len(found)):
        for change in (1e-3, -1e-3):
            moved = found.copy()
            moved[k] += change
            assert total(moved) > total(found)


def test_closed_form_coefficients_carry_no_gradient(batches):
    method = module(network=True)
    method.loss(batches[0]).backward()
    assert method.effective.coefficients.grad is None
    assert all(p.grad is not None for p in method.effective.network.parameters())


@pytest.mark.parametrize("linear", ["closed_form", "fixed", "gradient"])
def test_pair_loss_is_each_chains_and_changes_nothing(linear, batches):
    method, batch = module(linear=linear), batches[0]
    features, change = differences(method, batch)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    c = before["effective.coefficients"].numpy()
    losses = method.pair_loss(batch)
    np.testing.assert_allclose(losses.numpy(), 0.5 * (change - c @ features) ** 2, rtol=1e-8)
    assert not losses.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


@pytest.mark.parametrize(("loss", "linear"), [("pairs", "closed_form"), ("variance", "gradient")])
def test_chains_whose_trajectory_failed_are_left_out(loss, linear, batches):
    failed, keep = dict(batches[0]), torch.tensor([True, False, True, True])
    for name in ("end", "action_end"):
        failed[name] = failed[name].clone()
        failed[name][1] = float("nan")
    with_failure, without = module(loss, linear), module(loss, linear)
    got = with_failure.loss(failed)
    torch.testing.assert_close(got, without.loss(action_regression._select(batches[0], keep)))
    assert torch.equal(with_failure.effective.coefficients, without.effective.coefficients)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"loss": "force"}, "unknown loss 'force'"),
        ({"linear": "free"}, "unknown linear='free'"),
        ({"loss": "variance"}, "closed-form coefficients minimise the pair loss, not 'variance'"),
        ({"loss": "absolute"}, "not 'absolute'; use linear=gradient"),
        ({"linear": "gradient"}, "needs an optimizer"),
        ({"forgetting": 0.0}, "0 < forgetting <= 1"),
        ({"forgetting": 1.1}, "0 < forgetting <= 1"),
        ({"ridge": -1.0}, "ridge >= 0"),
    ],
)
def test_contradicting_options_are_refused(options, match):
    with pytest.raises(InputError, match=match):
        ActionRegression(effective(target()), **options)


def test_a_network_needs_an_optimizer():
    action = target()
    guide = effective(action, network=CovNet(action.lattice, action.space))
    with pytest.raises(InputError, match="needs an optimizer"):
        ActionRegression(guide)


def test_kernel_is_guided_by_the_action_being_trained():
    method, action = module(), target()
    kernel = method.kernel(action, trajectory_length=0.5, levels=2)
    assert isinstance(kernel, SelfLearningHMC)
    assert kernel.target is action and kernel.effective is method.effective
    assert kernel.trajectory_length == 0.5 and kernel.levels[0].n_steps == 2
