"""Training without data: steps that are numbered, and a generator for each number.

A model that trains on its own draws needs no batches from outside, only to know which step it is at.
The random numbers of a step follow from its number, so that a run resumed at an epoch's end draws what
the uninterrupted one would, and no generator state is saved.
"""

from collections.abc import Iterator

import torch

from lattice_lightning.exceptions import InputError
from lattice_lightning.seeds import derive_seed

__all__ = ["StepIndices", "step_generator"]


class StepIndices:
    """An epoch of n steps: yields 0 ... n - 1.

    A sized iterable and no DataLoader: there is nothing to load, shuffle or split over ranks.

    Args:
        n: steps an epoch.

    Raises:
        InputError: for less than one step.

    Example:
        >>> list(StepIndices(3)), len(StepIndices(3))
        ([0, 1, 2], 3)
    """

    def __init__(self, n: int) -> None:
        if n < 1:
            raise InputError(f"an epoch needs at least one step, got steps_per_epoch={n}")
        self.n = int(n)

    def __len__(self) -> int:
        """Number of steps."""
        return self.n

    def __iter__(self) -> Iterator[int]:
        """The indices in order."""
        return iter(range(self.n))


def step_generator(
    seed: int, step: int, rank: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """The generator of one training step on one rank, unrelated to those of other steps and runs.

    Example:
        >>> a, b = (torch.rand(2, generator=step_generator(1, step)) for step in (7, 7))
        >>> torch.equal(a, b)
        True
    """
    rng = torch.Generator(device)
    rng.manual_seed(derive_seed(seed, "step", int(step), int(rank)))
    return rng
