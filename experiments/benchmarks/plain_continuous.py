"""The continuous flow of 2207.00283 in plain torch, to time ContinuousFlow(PlaneWaves.local) against.

dx/ds = sum_n W_n h_n(x), h_n the waves sin(k w x) and x itself, W_n a dense matrix [V, V] filled from one
number for every orbit of displacements; 50 classical Runge-Kutta steps, autograd through all of them.
"""

import torch
from torch import Tensor, nn


class PlainContinuous(nn.Module):
    """Coefficients ``[2 n_steps + 1, n, J]`` at every point where the scheme needs them.

    Args:
        shape: extents of the lattice.
        kernels: one function of the displacement for every orbit, ``[J, *shape]``.
        harmonics: number of waves.
        frequency: w.
        n_steps: Runge-Kutta steps.
    """

    kernels: Tensor
    displacement: Tensor

    def __init__(
        self, shape: tuple[int, int], kernels: Tensor, harmonics: int, frequency: float, n_steps: int
    ) -> None:
        super().__init__()
        self.shape, self.n_steps = shape, n_steps
        self.waves = frequency * torch.arange(1, harmonics + 1, dtype=torch.float64)
        x, y = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
        x, y = x.flatten(), y.flatten()
        dx, dy = (x[:, None] - x) % shape[0], (y[:, None] - y) % shape[1]
        self.register_buffer("displacement", (dx * shape[1] + dy).contiguous())
        self.register_buffer("kernels", kernels.flatten(1))
        self.theta = nn.Parameter(torch.zeros(2 * n_steps + 1, harmonics + 1, len(kernels)))

    def velocity(self, x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and divergence of ``[batch, V]``."""
        waves = self.waves.to(x)
        angle = x.unsqueeze(-1) * waves
        h = torch.cat([torch.sin(angle), x.unsqueeze(-1)], -1)
        dh = torch.cat([waves * torch.cos(angle), torch.ones_like(x).unsqueeze(-1)], -1)
        kernel = theta @ self.kernels
        matrix = kernel[:, self.displacement]
        return torch.einsum("nyx,bxn->by", matrix, h), (dh * kernel[:, 0]).sum((1, 2))

    def forward(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """Integrate from 0 to 1."""
        x, h = field.flatten(1), 1.0 / self.n_steps
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for k in range(self.n_steps):
            a, b, c = self.theta[2 * k : 2 * k + 3].to(x.dtype)
            k1, d1 = self.velocity(x, a)
            k2, d2 = self.velocity(x + h / 2 * k1, b)
            k3, d3 = self.velocity(x + h / 2 * k2, b)
            k4, d4 = self.velocity(x + h * k3, c)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            total = total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        return x.unflatten(1, self.shape), total
