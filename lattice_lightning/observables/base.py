"""What an observable is: a field to one real number a chain."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["Observable"]


class Observable(ABC):
    """Measures one or several named quantities.

    Measurements draw from their own generator, so that switching one on does not change a chain.
    """

    @abstractmethod
    def measure(self, field: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Values by name, ``[batch]`` each, from a field in the public layout."""
