"""Sets of one ensemble for training, correction and use, apart in Markov time."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from lattice_lightning.analysis.errors import Array
from lattice_lightning.exceptions import InputError

__all__ = ["MarkovSets"]


@dataclass(frozen=True)
class MarkovSets:
    """Steps of the chains that train, correct and stay unlabelled, apart in Markov time.

    Args:
        train: first step and the one after the last.
        correction: the same for the labels that correct.
        unlabelled: the same for the configurations without labels.
        gap: steps that must lie between any two sets, several tau_int.

    Raises:
        InputError: for an empty set, or two sets closer than the gap.

    Example:
        >>> sets = MarkovSets.in_order(n_train=100, n_correction=200, n_unlabelled=500, gap=20)
        >>> sets.correction, sets.n_steps
        ((120, 320), 840)
    """

    train: tuple[int, int]
    correction: tuple[int, int]
    unlabelled: tuple[int, int]
    gap: int

    def __post_init__(self) -> None:
        """Refuse sets that overlap or lie too close."""
        if self.gap < 1:
            raise InputError(f"the gap between sets must be at least 1 step, got {self.gap}")
        named = {name: getattr(self, name) for name in ("train", "correction", "unlabelled")}
        for name, (first, end) in named.items():
            if not 0 <= first < end:
                raise InputError(f"the {name} set needs 0 <= first < end, got steps {first} to {end}")
        ordered = sorted(named.items(), key=lambda item: item[1])
        for (one, (_, end)), (other, (first, _)) in pairwise(ordered):
            if first < end:
                raise InputError(
                    f"the {one} and {other} sets overlap: {one} ends before step {end}, {other} begins at "
                    f"{first}; a correction on configurations that were trained on is biased"
                )
            if first - end < self.gap:
                raise InputError(
                    f"{first - end} steps lie between the {one} and {other} sets, the gap asks for "
                    f"{self.gap}; leave more steps out"
                )

    @classmethod
    def in_order(cls, n_train: int, n_correction: int, n_unlabelled: int, gap: int) -> "MarkovSets":
        """Training, correction and unlabelled steps one after another, a gap between them."""
        first = n_train + gap
        second = first + n_correction + gap
        return cls((0, n_train), (first, first + n_correction), (second, second + n_unlabelled), gap)

    @property
    def n_steps(self) -> int:
        """Steps that a chain must have."""
        return max(end for _, end in (self.train, self.correction, self.unlabelled))

    def take(self, series: Tensor | Array, name: str) -> Array:
        """The part ``[chains, steps]`` of a series that belongs to a set.

        Raises:
            InputError: for a series that is shorter than the sets, or another name.
        """
        if name not in ("train", "correction", "unlabelled"):
            raise InputError(f"the sets are train, correction and unlabelled, got {name!r}")
        data = series.detach().cpu().numpy() if isinstance(series, Tensor) else np.asarray(series)
        if data.ndim < 2 or data.shape[1] < self.n_steps:
            raise InputError(f"the sets need a series of {self.n_steps} steps, got shape {data.shape}")
        first, end = getattr(self, name)
        part: Array = data[:, first:end]
        return part
