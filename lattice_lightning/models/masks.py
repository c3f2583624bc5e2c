"""Which sites a coupling layer moves: checkerboard and stripes.

A mask is a small value; its tensors follow from a lattice when they are asked for and are kept for each
(mask, shape, device), so that the weights of a coupling can go to another lattice.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.lattice import Lattice

__all__ = ["Checkerboard", "Mask", "Stripes", "alternating_masks"]


class Mask(ABC):
    """A set of active sites, which move; the others are frozen and steer them."""

    @abstractmethod
    def check(self, lattice: Lattice) -> None:
        """Raise InputError unless the mask is periodic on that lattice."""

    @abstractmethod
    def build(self, lattice: Lattice, device: torch.device | str = "cpu") -> Tensor:
        """True on active sites, ``[*lattice]``, computed anew."""

    @abstractmethod
    def n_active(self, lattice: Lattice) -> int:
        """Number of active sites."""

    @abstractmethod
    def translations(self, lattice: Lattice) -> list[tuple[int, ...]]:
        """Displacements that generate all translations under which the mask is invariant."""

    def fits(self, lattice: Lattice) -> bool:
        """Whether the mask is periodic on that lattice."""
        try:
            self.check(lattice)
        except InputError:
            return False
        return True

    def active(self, lattice: Lattice, device: torch.device | str = "cpu") -> Tensor:
        """True on active sites, ``[*lattice]``; shared, not to be written to."""
        # the compiler traces through caches, with a warning; what it then computes is a constant
        if torch.compiler.is_compiling():
            return self.build(lattice, device)
        return _active(self, lattice, str(device))

    def sites(self, lattice: Lattice, device: torch.device | str = "cpu") -> Tensor:
        """Flat indices of the active sites, ``[n_active]``; shared, not to be written to."""
        if torch.compiler.is_compiling():
            return _first_sites(self, lattice, device)
        return _sites(self, lattice, str(device))


def _first_sites(mask: Mask, lattice: Lattice, device: torch.device | str) -> Tensor:
    # unlike nonzero it has a shape that is known beforehand
    frozen = (~mask.build(lattice, device)).flatten().to(torch.int8)
    return frozen.argsort(stable=True)[: mask.n_active(lattice)]


@lru_cache(maxsize=256)
def _active(mask: Mask, lattice: Lattice, device: str) -> Tensor:
    # an inference tensor kept here could never enter a later training step
    with torch.inference_mode(False):
        return mask.build(lattice, device)


@lru_cache(maxsize=256)
def _sites(mask: Mask, lattice: Lattice, device: str) -> Tensor:
    with torch.inference_mode(False):
        return _first_sites(mask, lattice, device)


def _unit(lattice: Lattice, mu: int, steps: int) -> tuple[int, ...]:
    return tuple(steps if axis == mu else 0 for axis in range(lattice.ndim))


@dataclass(frozen=True)
class Checkerboard(Mask):
    """Active where the sum of the coordinates has this parity; needs even extents.

    Args:
        parity: 0 or 1.

    Example:
        >>> Checkerboard(0).active(Lattice((2, 4))).int().tolist()
        [[1, 0, 1, 0], [0, 1, 0, 1]]
    """

    parity: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no parity."""
        if self.parity not in (0, 1):
            raise InputError(f"the parity of a checkerboard is 0 or 1, got {self.parity!r}")

    def check(self, lattice: Lattice) -> None:
        """Raise InputError for odd extents."""
        lattice.require_even("a checkerboard mask")

    def build(self, lattice: Lattice, device: torch.device | str = "cpu") -> Tensor:
        """True on active sites, ``[*lattice]``."""
        return lattice.parity(device) == self.parity

    def n_active(self, lattice: Lattice) -> int:
        """Half of the sites."""
        return lattice.volume // 2

    def translations(self, lattice: Lattice) -> list[tuple[int, ...]]:
        """Diagonal steps, and two steps along an axis."""
        diagonal = [
            tuple(1 if axis in (0, mu) else 0 for axis in range(lattice.ndim))
            for mu in range(1, lattice.ndim)
        ]
        return [_unit(lattice, 0, 2), *diagonal]


@dataclass(frozen=True)
class Stripes(Mask):
    """Active on every ``period``-th hyperplane orthogonal to an axis.

    Args:
        axis: the axis that the stripes are orthogonal to.
        offset: coordinate of the first active hyperplane, below the period.
        period: distance of active hyperplanes, at least 2; must divide the extent.

    Example:
        >>> Stripes(axis=1, offset=1, period=3).active(Lattice((2, 6))).int().tolist()
        [[0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0]]
    """

    axis: int = 0
    offset: int = 0
    period: int = 2

    def __post_init__(self) -> None:
        """Refuse impossible stripes."""
        if self.axis < 0 or self.period < 2 or not 0 <= self.offset < self.period:
            raise InputError(
                f"stripes need axis >= 0, period >= 2 and 0 <= offset < period, got axis={self.axis}, "
                f"offset={self.offset}, period={self.period}"
            )

    def check(self, lattice: Lattice) -> None:
        """Raise InputError unless the period divides the extent of the axis."""
        if self.axis >= lattice.ndim or lattice.shape[self.axis] % self.period:
            raise InputError(
                f"stripes of period {self.period} along axis {self.axis} do not fit on the lattice "
                f"{lattice.shape}; use an extent that is a multiple of {self.period}"
            )

    def build(self, lattice: Lattice, device: torch.device | str = "cpu") -> Tensor:
        """True on active sites, ``[*lattice]``."""
        return lattice.coordinates(device)[self.axis] % self.period == self.offset

    def n_active(self, lattice: Lattice) -> int:
        """One site of every period."""
        return lattice.volume // self.period

    def translations(self, lattice: Lattice) -> list[tuple[int, ...]]:
        """One step along the stripes, a period across."""
        return [_unit(lattice, mu, self.period if mu == self.axis else 1) for mu in range(lattice.ndim)]


def alternating_masks(kind: str, n: int, ndim: int, period: int = 2) -> tuple[Mask, ...]:
    """Masks of n successive couplings, so that every site moves as often as any other.

    Args:
        kind: ``checkerboard`` (even, odd, ...), ``stripes`` (all offsets of an axis, then the next
            axis), or ``mixed`` (both parities, then both stripes of an axis, ...).
        n: number of couplings.
        ndim: dimensions of the lattice.
        period: of the stripes.

    Raises:
        InputError: for another kind.
    """
    checkers: list[Mask] = [Checkerboard(0), Checkerboard(1)]
    stripes: list[list[Mask]] = [
        [Stripes(axis, offset, period) for offset in range(period)] for axis in range(ndim)
    ]
    cycles: dict[str, list[Mask]] = {
        "checkerboard": checkers,
        "stripes": [mask for of_axis in stripes for mask in of_axis],
        "mixed": [mask for of_axis in stripes for mask in [*checkers, *of_axis]],
    }
    if kind not in cycles:
        raise InputError(f"a mask is one of {', '.join(cycles)}, got {kind!r}")
    cycle = cycles[kind]
    return tuple(cycle[k % len(cycle)] for k in range(n))
