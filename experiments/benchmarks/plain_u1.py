"""The U(1) flow of the tutorial 2101.08176 in plain torch, to time U1Flow against.

Written from its section 5: nothing of this package. Every coupling works on the whole lattice and
multiplies masks in, with tangents and torch's own convolutions.
"""

from collections.abc import Sequence
from math import log, pi

import torch
from plain_phi4 import make_conv_net
from torch import Tensor, nn


def _wrap(x: Tensor) -> Tensor:
    return torch.remainder(x + pi, 2 * pi) - pi


def plaquette(x: Tensor) -> Tensor:
    """Plaquette angles, ``[batch, L, L]``."""
    return x[:, 0] + torch.roll(x[:, 1], -1, 1) - torch.roll(x[:, 0], -1, 2) - x[:, 1]


class PlainCoupling(nn.Module):
    """Moves every fourth plaquette by a mixture of tangent maps and a shift."""

    links: Tensor
    active: Tensor
    frozen: Tensor

    def __init__(self, net: nn.Module, extent: int, mu: int, offset: int) -> None:
        super().__init__()
        self.net = net
        line = torch.arange(extent).sub(offset).remainder(4)
        across = (line == 0).float().expand(extent, extent)
        frozen = ((line == 1) | (line == 2)).float().expand(extent, extent)
        if mu == 1:
            across, frozen = across.T, frozen.T
        links = torch.zeros(2, extent, extent)
        links[mu] = across
        self.register_buffer("links", links)
        self.register_buffer("active", across.clone())
        self.register_buffer("frozen", frozen.clone())
        self.mu = mu

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The links and the log-determinant."""
        # loops run along the moved link first, and the network's axes with them
        p = plaquette(x) if self.mu == 0 else -plaquette(x)
        features = torch.stack([torch.cos(p), torch.sin(p)], 1) * self.frozen
        out = self.net(features.transpose(2, 3)).transpose(2, 3) if self.mu == 1 else self.net(features)
        s, t = out[:, :-1], out[:, -1]
        angle = _wrap(self.active * p)
        half = angle.unsqueeze(1) / 2
        image = (2 * torch.atan(torch.exp(s) * torch.tan(half))).mean(1)
        local = -torch.log(torch.exp(-s) * torch.cos(half) ** 2 + torch.exp(s) * torch.sin(half) ** 2)
        log_det = (self.active * (torch.logsumexp(local, 1) - log(s.shape[1]))).sum(dim=(1, 2))
        change = self.active * (image + t - angle)
        moved = torch.stack((change, change), 1)
        return self.links * _wrap(x + moved) + (1 - self.links) * x, log_det


class PlainU1(nn.Module):
    """Haar links and n_layers couplings; log q with respect to d theta / 2 pi."""

    def __init__(self, extent: int = 16, n_layers: int = 16, hidden: Sequence[int] = (8, 8)) -> None:
        super().__init__()
        self.extent = extent
        self.layers = nn.ModuleList(
            PlainCoupling(make_conv_net(2, 3, hidden, 3, False), extent, k % 2, (k // 2) % 4)
            for k in range(n_layers)
        )

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All couplings."""
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        return x, total

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Links and log q in the dtype of the weights."""
        dtype = next(self.parameters()).dtype
        z = torch.rand(n, 2, self.extent, self.extent, generator=rng, dtype=dtype, device=rng.device)
        x, log_det = self.transform(2 * pi * z - pi)
        return x, -log_det


def plain_u1_action(x: Tensor, beta: float) -> Tensor:
    """S of the Wilson action."""
    return beta * (1 - torch.cos(plaquette(x))).sum(dim=(1, 2))
