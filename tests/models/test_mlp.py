"""Fully connected networks: shape, size, determinism, what they refuse."""

import pytest
import torch
from torch import nn

from lattice_lightning.exceptions import InputError
from lattice_lightning.models.mlp import MLP


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh", "relu"])
def test_every_parameter_gets_a_gradient(activation):
    network = MLP(3, (16, 16), activation)
    out = network(normal(50, 3))
    assert out.shape == (50,) and out.dtype == torch.float64
    out.square().sum().backward()
    assert all(bool((p.grad != 0).any()) for p in network.parameters())
    # 3 * 16 + 16, 16 * 16 + 16, 16 + 1
    assert sum(p.numel() for p in network.parameters()) == 64 + 272 + 17


def test_without_hidden_layers_it_is_linear():
    network, x = MLP(4, ()), normal(6, 4)
    weight, bias = (p.detach() for p in network.parameters())
    torch.testing.assert_close(network(x), x @ weight[0] + bias[0])
    a, b = MLP(4, (8,)), normal(6, 4, seed=2)
    assert float((a(x + b) - a(x) - a(b)).detach().abs().max()) > 0.05


def test_outputs_are_of_order_one_at_the_start():
    spread = torch.stack([MLP(40, (64, 64), seed=s)(normal(200, 40)).detach().std() for s in range(20)])
    assert 0.1 < float(spread.min()) and float(spread.max()) < 2


def test_weights_follow_from_the_seed_and_not_from_the_global_state():
    before = torch.get_rng_state()
    first = MLP(3, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    second, other = MLP(3, seed=5).state_dict(), MLP(3, seed=6).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["net.0.weight"], other["net.0.weight"])


def test_global_state_is_what_torch_layers_draw_from():
    # the control of the test above
    before = torch.get_rng_state()
    nn.Linear(3, 3)
    assert not torch.equal(torch.get_rng_state(), before)


def test_bad_options():
    with pytest.raises(InputError, match=r"n_features and hidden widths >= 1, got 0, \(64, 64\)"):
        MLP(0)
    with pytest.raises(InputError, match=r"got 2, \(4, 0\)"):
        MLP(2, (4, 0))
    with pytest.raises(InputError, match="an activation is one of gelu, silu, tanh, relu, got 'sine'"):
        MLP(2, activation="sine")
