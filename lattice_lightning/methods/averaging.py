"""Exponential moving average of a model's weights: what to sample with after a noisy training."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from lattice_lightning.exceptions import InputError

__all__ = ["WeightAverage"]


class WeightAverage(nn.Module):
    """w_avg <- d w_avg + (1 - d) w after every step, d = min(decay, (1 + t) / (10 + t)).

    The decay grows with the step t, so that the random start is forgotten within some ten steps.
    Weights and count are in the state dict, and so resume. Buffers are copied, not averaged.

    Args:
        model: what is averaged; copied, never changed.
        decay: of the late average, in [0, 1).

    Raises:
        InputError: for another decay.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(model, decay=0.99)
        >>> average.update(model)
        >>> torch.equal(average.model.weight, model.weight)
        True
    """

    count: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise InputError(f"the decay of averaged weights must be in [0, 1), got ema={decay}")
        self.model, self.decay = deepcopy(model).requires_grad_(False), float(decay)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of one more step."""
        step = int(self.count)
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            mean.lerp_(weight.to(mean), 1 - decay)
        for copy, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            copy.copy_(buffer)
        self.count += 1
