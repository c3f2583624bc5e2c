"""Fully connected networks from features to one number."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lattice_lightning.exceptions import InputError

__all__ = ["ACTIVATIONS", "MLP", "normal_linear"]

ACTIVATIONS = {"gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "relu": nn.ReLU}


def normal_linear(n_in: int, n_out: int, rng: torch.Generator) -> nn.Linear:
    """A linear layer in double precision: weights of variance 1 / n_in, no offset at the start.

    Random numbers come from the generator alone; torch's own layers draw from the global state.
    """
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.normal_(std=n_in**-0.5, generator=rng)
        layer.bias.zero_()
    return layer


class MLP(nn.Module):
    """Layers with activations between them, double precision, one output of order one at the start.

    It expects inputs of zero mean and unit variance; :class:`.SurrogateRegression` makes them so.

    Args:
        n_features: inputs.
        hidden: width of every hidden layer; none of them for a linear map.
        activation: ``gelu``, ``silu``, ``tanh`` or ``relu``.
        seed: of the initial weights.

    Raises:
        InputError: for a width below one or another activation.

    Example:
        >>> MLP(3, hidden=(8,))(torch.zeros(5, 3, dtype=torch.float64)).shape
        torch.Size([5])
    """

    def __init__(
        self, n_features: int, hidden: Sequence[int] = (64, 64), activation: str = "gelu", seed: int = 0
    ) -> None:
        super().__init__()
        widths = [int(n_features), *(int(width) for width in hidden), 1]
        if min(widths) < 1:
            raise InputError(
                f"expected n_features and hidden widths >= 1, got {n_features}, {tuple(hidden)}"
            )
        if activation not in ACTIVATIONS:
            raise InputError(f"an activation is one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        rng = torch.Generator().manual_seed(seed)
        modules: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            modules += [normal_linear(n_in, n_out, rng), ACTIVATIONS[activation]()]
        self.n_features = widths[0]
        self.net = nn.Sequential(*modules[:-1])

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, n_features]`` to ``[batch]``."""
        out: Tensor = self.net(features)
        return out.squeeze(-1)
