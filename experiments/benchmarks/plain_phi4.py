"""The phi^4 flow of the tutorial 2101.08176 in plain torch, to time and to check RealNVP against.

Written from its sections 3 and 4: nothing of this package, torch's own convolutions with circular padding,
masks multiplied in, 16 affine couplings, Adam. Run as a script it trains both from the same seeds at the
tutorial's budget and prints their figures of merit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def make_conv_net(
    in_channels: int, out_channels: int, hidden: Sequence[int], kernel_size: int, final_tanh: bool
) -> nn.Sequential:
    """Convolutions with circular padding and LeakyReLU between them."""
    sizes = [in_channels, *hidden, out_channels]
    layers: list[nn.Module] = []
    for k in range(len(sizes) - 1):
        layers.append(
            nn.Conv2d(
                sizes[k], sizes[k + 1], kernel_size, padding=kernel_size // 2, padding_mode="circular"
            )
        )
        if k < len(sizes) - 2:
            layers.append(nn.LeakyReLU())
        elif final_tanh:
            layers.append(nn.Tanh())
    return nn.Sequential(*layers)


def checker_mask(shape: Sequence[int], parity: int) -> Tensor:
    """1 on frozen sites."""
    checker = torch.ones(*shape) - parity
    checker[::2, ::2] = parity
    checker[1::2, 1::2] = parity
    return checker


class AffineCoupling(nn.Module):
    """x -> x exp(s) + t on the sites where the mask is 0."""

    mask: Tensor

    def __init__(self, net: nn.Module, shape: Sequence[int], parity: int) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mask", checker_mask(shape, parity))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The field and the log-determinant."""
        x_frozen, x_active = self.mask * x, (1 - self.mask) * x
        out = self.net(x_frozen.unsqueeze(1))
        s, t = out[:, 0], out[:, 1]
        fx = (1 - self.mask) * t + x_active * torch.exp(s) + x_frozen
        return fx, torch.sum((1 - self.mask) * s, dim=(1, 2))


class PlainPhi4(nn.Module):
    """Prior N(0, 1) and n_layers affine couplings."""

    def __init__(
        self, shape: Sequence[int] = (8, 8), n_layers: int = 16, hidden: Sequence[int] = (8, 8)
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.layers = nn.ModuleList(
            AffineCoupling(make_conv_net(1, 2, hidden, 3, True), shape, k % 2) for k in range(n_layers)
        )

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All couplings."""
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        return x, total

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Fields and log q in the dtype of the weights."""
        dtype = next(self.parameters()).dtype
        z = torch.randn(n, *self.shape, generator=rng, dtype=dtype, device=rng.device)
        x, log_det = self.transform(z)
        return x, torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=(1, 2)) - log_det


def plain_action(x: Tensor, m2: float = -4.0, lam: float = 8.0) -> Tensor:
    """S of phi^4."""
    density = m2 * x**2 + lam * x**4
    for mu in (1, 2):
        density = density + 2 * x**2 - x * torch.roll(x, -1, mu) - x * torch.roll(x, 1, mu)
    return torch.sum(density, dim=(1, 2))


def plain_step(model: PlainPhi4, optimizer: torch.optim.Optimizer, n: int, rng: torch.Generator) -> None:
    """One step of reverse KL, reparametrised."""
    optimizer.zero_grad()
    x, log_q = model.sample(n, rng)
    loss = (log_q + plain_action(x)).mean()
    loss.backward()
    optimizer.step()


def compare(seeds: Sequence[int] = (1, 2), n_steps: int = 2500, n: int = 32768) -> None:
    """Train this network and RealNVP at the tutorial's budget and print ESS and acceptance."""
    import time

    from lattice_lightning.actions import Phi4
    from lattice_lightning.lattice import Lattice
    from lattice_lightning.metrics import weight_statistics
    from lattice_lightning.models import FlowModel, GaussianPrior, RealNVP

    lattice = Lattice((8, 8))
    target = Phi4(lattice, m2=-4.0, lam=8.0)
    for seed in seeds:
        torch.manual_seed(seed)
        plain = PlainPhi4()
        torch.manual_seed(seed)
        ours = FlowModel(GaussianPrior(lattice), RealNVP(lattice))
        for name, model in (("plain", plain), ("RealNVP", ours)):
            rng = torch.Generator().manual_seed(seed)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
            started = time.perf_counter()
            for _ in range(n_steps):
                if isinstance(model, PlainPhi4):
                    plain_step(model, optimizer, 64, rng)
                    continue
                optimizer.zero_grad()
                field, log_q = model.sample(64, rng, torch.float32)
                (log_q + target.energy(field)).mean().backward()
                optimizer.step()
            seconds = time.perf_counter() - started
            rng = torch.Generator().manual_seed(seed + 1000)
            double = model.double()
            with torch.no_grad():
                draws = [double.sample(1024, rng) for _ in range(n // 1024)]
                log_w = torch.cat([-target.energy(x) - log_q for x, log_q in draws])
            found = weight_statistics(log_w)
            print(
                f"seed {seed} {name}: {n_steps / seconds:.0f} steps/s, acceptance {found.acceptance:.3f} "
                f"+- {found.acceptance_error:.3f}, ESS {found.ess:.3f} +- {found.ess_error:.3f}, "
                f"F {-float(log_w.mean()):.3f}, var log w {found.var_log_w:.3f}, log Z {found.log_z:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    compare()
