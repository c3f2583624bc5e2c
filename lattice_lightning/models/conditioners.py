"""Periodic convolutional networks, which steer coupling layers, in two, three and four dimensions."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lattice_lightning.exceptions import InputError
from lattice_lightning.lattice import Lattice

__all__ = ["ConvNet", "PeriodicConv"]

ACTIVATIONS = {"leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "relu": nn.ReLU}


def _fold(field: Tensor, ndim: int) -> Tensor:
    """Four-dimensional fields as a batch of three-dimensional ones, x in the batch."""
    return field.transpose(1, 2).flatten(0, 1) if ndim == 4 else field


def _padded(field: Tensor, ndim: int, kernel_size: int) -> Tensor:
    """The field with its periodic images as far as the kernel reaches, as torch's convolutions take it."""
    half = kernel_size // 2
    folded = _fold(field, ndim)
    if half:
        folded = nn.functional.pad(folded, [half] * (2 * min(ndim, 3)), mode="circular")
    if ndim < 4:
        return folded
    slices = folded.unflatten(0, (field.shape[0], field.shape[2]))
    copies = [torch.roll(slices, half - j, dims=1) for j in range(kernel_size)]
    return torch.cat(copies, 2).flatten(0, 1)


def _kernel(weight: Tensor, ndim: int) -> Tensor:
    return weight.transpose(1, 2).flatten(1, 2) if ndim == 4 else weight


def _convolve(field: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    ndim = weight.ndim - 2
    convolution = nn.functional.conv2d if ndim == 2 else nn.functional.conv3d
    y: Tensor = convolution(_padded(field, ndim, weight.shape[-1]), _kernel(weight, ndim), bias)
    return y.unflatten(0, (field.shape[0], field.shape[2])).transpose(1, 2) if ndim == 4 else y


class _Convolution(torch.autograd.Function):
    """Periodic convolution whose gradient by the field is the one with the mirrored kernel.

    Torch's own backward pass through the padding takes 1.5 (batch 64) to 2 (batch 1024) times as long.
    """

    @staticmethod
    def forward(ctx: Any, field: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # not the padded field: intermediates would break second derivatives
        ctx.save_for_backward(field, weight)
        return _convolve(field, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (field, weight) = gradients, ctx.saved_tensors
        ndim, k = weight.ndim - 2, weight.shape[-1]
        by_field = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            mirrored = weight.flip(tuple(range(2, weight.ndim))).transpose(0, 1)
            by_field = _convolve(gradient, mirrored, None)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            ones = [1] * min(ndim, 3)
            zeros = [0] * min(ndim, 3)
            _, by_weight, by_bias = torch.ops.aten.convolution_backward(
                _fold(gradient, ndim), _padded(field, ndim, k), _kernel(weight, ndim), [weight.shape[0]],
                ones, zeros, ones, False, zeros, 1, [False, True, True],
            )
            if ndim == 4:
                by_weight = by_weight.unflatten(1, (k, weight.shape[1])).transpose(1, 2)
        return by_field, by_weight, by_bias if ctx.needs_input_grad[2] else None


class PeriodicConv(nn.Module):
    """Convolution with periodic boundaries, translation covariant on every lattice.

    Four dimensions, which torch lacks, are one three-dimensional convolution of the field's copies
    shifted along x, with x in the batch.

    Args:
        ndim: 2, 3 or 4.
        in_channels: channels in.
        out_channels: channels out.
        kernel_size: odd extent of the kernel along every axis.
        bias: whether a constant is added.
        rng: generator of the initial weights, uniform in +-1/sqrt(fan in); None for torch's default one.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        bias: bool = True,
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if ndim not in (2, 3, 4):
            raise InputError(f"convolutions exist in 2, 3 and 4 dimensions, got {ndim}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InputError(f"the kernel of a convolution needs an odd extent, got {kernel_size}")
        shape = (out_channels, in_channels, *[kernel_size] * ndim)
        bound = prod(shape[1:]) ** -0.5
        self.weight = nn.Parameter(bound * (2 * torch.rand(shape, generator=rng) - 1))
        offset = bound * (2 * torch.rand(out_channels, generator=rng) - 1) if bias else None
        self.bias = None if offset is None else nn.Parameter(offset)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, *lattice]`` to ``[batch, out_channels, *lattice]``."""
        if torch.compiler.is_compiling():
            return _convolve(x, self.weight, self.bias)
        y: Tensor = _Convolution.apply(x, self.weight, self.bias)
        return y


class ConvNet(nn.Module):
    """Convolutions with activations between them, translation covariant.

    It computes in the dtype of its weights and returns the dtype of its argument.

    Args:
        ndim: dimensions of the lattice, 2, 3 or 4.
        in_channels: channels in.
        out_channels: channels out.
        hidden: channels of the hidden layers.
        kernel_size: odd extent of the kernels.
        activation: ``leaky_relu``, ``tanh``, ``silu`` or ``relu``.
        final_tanh: whether the output goes through tanh, which bounds it by one.
        final_bias: whether the last layer adds a constant.
        init_scale: factor on the initial weights of the last layer; at 0 the output is 0.
        dtype: of the weights.
        rng: generator of the initial weights.

    Example:
        >>> net = ConvNet(ndim=4, in_channels=1, out_channels=2, init_scale=0.0)
        >>> net(torch.zeros(3, 1, 2, 2, 2, 4, dtype=torch.float64)).shape
        torch.Size([3, 2, 2, 2, 2, 4])
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        hidden: Sequence[int] = (8, 8),
        kernel_size: int = 3,
        activation: str = "leaky_relu",
        final_tanh: bool = False,
        final_bias: bool = True,
        init_scale: float = 1.0,
        dtype: torch.dtype = torch.float32,
        rng: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise InputError(f"an activation is one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        channels = [in_channels, *hidden, out_channels]
        modules: list[nn.Module] = []
        for k, (a, b) in enumerate(pairwise(channels)):
            bias = final_bias or k < len(hidden)
            modules += [PeriodicConv(ndim, a, b, kernel_size, bias, rng), ACTIVATIONS[activation]()]
        modules.pop()
        last = modules[-1]
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.mul_(init_scale)
        if final_tanh:
            modules.append(nn.Tanh())
        self.kernel_size = kernel_size
        self.net = nn.Sequential(*modules).to(dtype)

    def check_lattice(self, lattice: Lattice) -> None:
        """Raise InputError where the kernel would wrap around an axis more than once."""
        if min(lattice.shape) < self.kernel_size // 2:
            raise InputError(
                f"kernels of extent {self.kernel_size} need extents of at least {self.kernel_size // 2}, "
                f"got the lattice {lattice.shape}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, *lattice]`` to ``[batch, out_channels, *lattice]``."""
        weight = next(self.net.parameters())
        y: Tensor = self.net(x.to(weight.dtype))
        return y.to(x.dtype)
