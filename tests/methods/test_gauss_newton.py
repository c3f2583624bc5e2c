"""Gauss-Newton: its Jacobian, its update, and weights planted in an action that it must find."""

import numpy as np
import pytest
import torch
import toy_systems as toy

from lattice_lightning.exceptions import InputError
from lattice_lightning.methods import ActionRegression
from lattice_lightning.methods.gauss_newton import RecursiveLeastSquares, pair_jacobian
from lattice_lightning.models import ApeLayer, Cask, CovNet, LinkMap

NETWORKS = {
    "covnet": lambda *where: CovNet(*where, n_layers=2, init_scale=0.05),
    "ape": lambda *where: ApeLayer(*where, init_scale=0.05),
    "cask": lambda *where: Cask(
        *where, n_heads=2, s_max=2, output_stout=True, length_weights=True, init_scale=0.05
    ),
}


def trajectory(n_chains=3, seed=5):
    kernel = toy.hmc(toy.target())
    rng = torch.Generator().manual_seed(seed)
    return kernel.propose(rng, kernel.init(toy.start(kernel, n_chains), rng))


def model(network=None, **options):
    action = toy.target()
    made = None if network is None else network(action.lattice, action.space)
    return toy.effective(action, network=made, **options)


def change(effective, t):
    with torch.no_grad():
        return effective.value(t.end, t.aux) - effective.value(t.start, t.aux)


@pytest.mark.parametrize("name", NETWORKS)
def test_jacobian_is_the_finite_difference_of_every_chain(name):
    effective, t = model(NETWORKS[name], masses=(0.6, 0.9)), trajectory()
    predicted, jacobian = pair_jacobian(effective, t.start, t.end, t.aux)
    torch.testing.assert_close(predicted, change(effective, t), rtol=0, atol=1e-9)
    step, row = 1e-4, 0
    for parameter in effective.parameters():
        flat = parameter.data.view(-1)
        for i in range(flat.numel()):
            ends = []
            for sign in (1, -1):
                flat[i] += sign * step
                ends.append(change(effective, t))
                flat[i] -= sign * step
            expected = (ends[0] - ends[1]) / (2 * step)
            torch.testing.assert_close(jacobian[row], expected, rtol=1e-5, atol=1e-6)
            row += 1
    assert row == len(jacobian)


def test_jacobian_by_a_learned_mass():
    effective, t = model(masses=(0.6, 0.9), learn_masses=True, polyakov=True), trajectory()
    _, jacobian = pair_jacobian(effective, t.start, t.end, t.aux)
    assert len(jacobian) == 5 + 2
    step = 1e-4
    for i in range(2):
        ends = []
        for sign in (1, -1):
            effective.mass_weights.data[i] += sign * step
            ends.append(change(effective, t))
            effective.mass_weights.data[i] -= sign * step
        torch.testing.assert_close(jacobian[5 + i], (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)


def test_a_free_mass_finds_the_target():
    """With m_h free nothing is learned but m: why the bound on the masses is there."""
    kernel, effective = toy.hmc(toy.target()), model(masses=(0.5,), learn_masses=True)
    method = ActionRegression(effective, solver="gauss_newton", weight_scale=0.05)
    rng = torch.Generator().manual_seed(5)
    state = kernel.init(toy.start(kernel, 8), rng)
    for _ in range(30):
        t = kernel.propose(rng, state)
        batch = {
            "start": t.start, "end": t.end, "aux": dict(t.aux), "action_start": t.action_start,
            "action_end": t.action_end,
        }
        loss = method.loss(batch)
        state, _ = kernel.decide(rng, t)
    assert effective.mass_weights.item() == pytest.approx(toy.MASS, abs=0.01)
    assert effective.coefficients.tolist() == pytest.approx([1, 1], abs=0.01)
    assert loss.item() < 1e-3


def test_update_is_least_squares_with_a_prior(rng):
    """After any number of batches of a linear model: the ridge solution of all data."""
    n, scale, noise = 4, 2.0, 1.0
    truth = torch.randn(n, generator=rng, dtype=torch.float64)
    jacobian = torch.randn(n, 60, generator=rng, dtype=torch.float64)
    target = truth @ jacobian
    # residuals of unit size fix the prior, which is in their units
    solver = RecursiveLeastSquares(torch.full((n,), 1e6), forgetting=1.0, ridge=0.0)
    theta, normal = torch.zeros(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    for k in range(0, 60, 6):
        batch = slice(k, k + 6)
        theta += solver.step(normal, jacobian[:, batch], target[batch] - theta @ jacobian[:, batch])
    np.testing.assert_allclose(theta.numpy(), truth.numpy(), atol=1e-7)
    # one batch with a prior of finite width
    residual = target / target.square().mean().sqrt() * noise
    delta = RecursiveLeastSquares(torch.full((n,), scale), 1.0, 0.0).step(
        torch.zeros(n, n, dtype=torch.float64), jacobian, residual
    )
    expected = np.linalg.solve(
        (jacobian @ jacobian.T).numpy() + np.eye(n) * noise / scale**2, (jacobian @ residual).numpy()
    )
    np.testing.assert_allclose(delta.numpy(), expected, rtol=1e-10)


def test_update_is_bounded_and_leaves_fixed_parameters(rng):
    jacobian = 1e-3 * torch.randn(3, 20, generator=rng, dtype=torch.float64)
    residual = torch.randn(20, generator=rng, dtype=torch.float64)
    solver = RecursiveLeastSquares(torch.tensor([0.0, 1e-6, float("inf")]), 1.0, 0.0)
    delta = solver.step(torch.zeros(3, 3, dtype=torch.float64), jacobian, residual)
    assert delta[0] == 0
    assert 0 < abs(float(delta[1])) <= 1e-6
    assert abs(float(delta[2])) > 1


@pytest.mark.parametrize("name", ["covnet", "cask"])
def test_planted_weights_are_found(name):
    """A target whose change is that of the model at known weights: they are recovered exactly."""
    planted, learner = model(NETWORKS[name]), model(NETWORKS[name])
    with torch.no_grad():
        planted.coefficients.copy_(torch.tensor([1.05, 0.9]))
        rng = torch.Generator().manual_seed(8)
        for parameter in learner.network.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    method = ActionRegression(learner, solver="gauss_newton", weight_scale=0.05, forgetting=0.9)
    losses = []
    for seed in range(30):
        t = trajectory(8, seed)
        action = {"action_start": planted.value(t.start, t.aux), "action_end": planted.value(t.end, t.aux)}
        batch = {"start": t.start, "end": t.end, "aux": t.aux, **action}
        losses.append(float(method.loss(batch)))
    assert losses[-1] < 1e-6 * losses[0]
    assert learner.coefficients.tolist() == pytest.approx([1.05, 0.9], abs=1e-3)


def test_linear_coefficients_stay_where_they_are_fixed():
    effective, t = model(NETWORKS["covnet"]), trajectory()
    method = ActionRegression(effective, solver="gauss_newton", linear="fixed")
    before = [p.detach().clone() for p in effective.parameters()]
    batch = {"start": t.start, "end": t.end, "aux": t.aux,
             "action_start": t.action_start, "action_end": t.action_end}
    method.loss(batch)
    assert torch.equal(effective.coefficients, before[0])
    for parameter, old in zip(effective.network.parameters(), before[1:], strict=True):
        assert not torch.equal(parameter, old)


class Mixing(LinkMap):
    """Weights that meet another axis than that of the chains."""

    def __init__(self, lattice, group):
        super().__init__(lattice, group)
        self.weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, links):
        return links + self.weight.reshape(4, *[1] * (links.ndim - 1)) * links.roll(1, 0)


def test_a_network_without_weights_for_each_chain_is_refused():
    t = trajectory()
    with pytest.raises(InputError, match="Mixing cannot take weights with a last axis of chains"):
        pair_jacobian(model(Mixing), t.start, t.end, t.aux)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"solver": "newton"}, "unknown solver 'newton'"),
        ({"solver": "gauss_newton", "loss": "variance", "linear": "fixed"}, "minimises the pair loss"),
        ({"solver": "gauss_newton", "linear": "gradient"}, "minimises the pair loss"),
        ({"solver": "gauss_newton", "weight_scale": 0}, "weight_scale must be positive"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(InputError, match=match):
        ActionRegression(model(NETWORKS["covnet"]), optimizer=torch.optim.Adam, **options)
