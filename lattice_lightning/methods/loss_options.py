"""What a loss on a flow's own draws can be helped with: annealing of the target, stored fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError

__all__ = ["Annealing", "ForwardKL", "from_options"]


@dataclass(frozen=True)
class Annealing:
    """A factor c on the target action that rises linearly to one.

    Args:
        start: c of the first step, in [0, 1].
        steps: steps until c = 1.
        prior: add (1 - c) times the action of the model's prior, so that c = 0 is the prior itself.
    """

    start: float = 0.2
    steps: int = 500
    prior: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.start <= 1 or self.steps < 1:
            raise InputError(
                f"annealing needs 0 <= start <= 1 and steps >= 1, got {self.start}, {self.steps}"
            )

    def factor(self, step: int) -> float:
        """The factor c at a step of the whole training.

        Example:
            >>> [Annealing(0.5, 4).factor(step) for step in (0, 2, 4, 9)]
            [0.5, 0.75, 1.0, 1.0]
        """
        return self.start + (1 - self.start) * min(1.0, step / self.steps)


@dataclass(frozen=True)
class ForwardKL:
    """Weight of -mean log q at stored fields of the target, against modes that q has lost.

    Args:
        weight: of the term, positive.
        fields: ``[n, ...]`` in the public layout, or a sequence of such (an ensemble), each step takes
            a batch of them at random.
    """

    weight: float
    fields: Tensor | Sequence[Tensor]

    def __post_init__(self) -> None:
        """Check the weight."""
        if not self.weight > 0 or len(self.fields) == 0:
            raise InputError(
                f"forward_kl needs weight > 0 and at least one field, got {self.weight}, {len(self.fields)}"
            )

    def joined(self) -> Tensor:
        """All fields in one tensor."""
        fields = self.fields
        if isinstance(fields, Tensor):
            return fields
        return torch.cat([fields[i] for i in range(len(fields))])


def from_options(kind: type, given: Any, name: str) -> Any:
    """An instance of a dataclass from its arguments as a mapping; None and instances pass."""
    if given is None or isinstance(given, kind):
        return given
    try:
        return kind(**given)
    except TypeError as error:
        known = ", ".join(kind.__dataclass_fields__)  # type: ignore[attr-defined]
        raise InputError(f"{name} takes {known} (or null), got {given!r}") from error
