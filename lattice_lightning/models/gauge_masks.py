"""Which plaquettes of a two-dimensional torus a gauge coupling moves, and the loops that it may see.

A coupling moves the links of one direction mu on every fourth line across nu (2003.06413, section III;
2101.08176, section 5). With the loop P(n) = U_mu(n) U_nu(n + mu) U_mu(n + nu)^dag U_nu(n)^dag, counted
by the coordinate of n along nu minus the offset, modulo 4:

    0  active: starts with the moved link      1, 2  frozen      3  passive: ends on the moved link

Tensors are oriented: axes (mu, nu) in place of (x, y).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.lattice import Lattice

__all__ = ["GaugeStripes", "gauge_stripes"]

PERIOD = 4


@dataclass(frozen=True)
class GaugeStripes:
    """Stripes of one direction.

    Args:
        mu: direction of the links that move, 0 or 1.
        offset: coordinate of the first stripe along the other direction, 0 to 3.

    Raises:
        InputError: for another direction or offset.

    Example:
        >>> GaugeStripes(mu=0, offset=1).rows(Lattice((4, 8)), 0).tolist()
        [1, 5]
    """

    mu: int
    offset: int

    def __post_init__(self) -> None:
        """Refuse what is no stripe."""
        if self.mu not in (0, 1) or not 0 <= self.offset < PERIOD:
            raise InputError(
                f"a gauge coupling needs mu = 0 or 1 and 0 <= offset < {PERIOD}, got mu={self.mu}, "
                f"offset={self.offset}"
            )

    @property
    def nu(self) -> int:
        """The other direction."""
        return 1 - self.mu

    def check(self, lattice: Lattice) -> None:
        """Raise InputError unless the lattice has two dimensions and the stripes fit.

        Raises:
            InputError: naming the extent that is no multiple of 4.
        """
        if lattice.ndim != 2:
            raise InputError(f"gauge couplings are for two dimensions, got the lattice {lattice.shape}")
        extent = lattice.shape[self.nu]
        if extent % PERIOD:
            raise InputError(
                f"a gauge coupling of links along axis {self.mu} needs an extent of axis {self.nu} that is "
                f"a multiple of {PERIOD}, got {extent} in {lattice.shape}; use "
                f"{PERIOD * max(1, round(extent / PERIOD))}"
            )

    def rows(self, lattice: Lattice, kind: int, device: torch.device | str = "cpu") -> Tensor:
        """Coordinates along nu of the lines of a kind, 0 (active) to 3 (passive)."""
        first = (self.offset + kind) % PERIOD
        return torch.arange(first, lattice.shape[self.nu], PERIOD, device=device)

    def indicator(self, lattice: Lattice, kinds: tuple[int, ...], like: Tensor) -> Tensor:
        """1 on lines of these kinds and 0 elsewhere, ``[L_nu]``."""
        kind = (torch.arange(lattice.shape[self.nu], device=like.device) - self.offset) % PERIOD
        return torch.isin(kind, torch.tensor(kinds, device=like.device)).to(like.dtype)


def gauge_stripes(n_layers: int) -> list[GaugeStripes]:
    """Masks of n couplings: directions alternate, offsets follow every two; 8 move every link once.

    Example:
        >>> [(m.mu, m.offset) for m in gauge_stripes(4)]
        [(0, 0), (1, 0), (0, 1), (1, 1)]
    """
    return [GaugeStripes(k % 2, (k // 2) % PERIOD) for k in range(n_layers)]
