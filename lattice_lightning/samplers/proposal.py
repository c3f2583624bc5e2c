"""Proposals with importance weights: what independence Metropolis and reweighting draw from.

A proposal draws fields x with log w(x) = log p~(x) - log q(x) = -S(x) - log q(x), where q is a
normalised density in the measure of the fields (Lebesgue, or normalised Haar), so that E_q[w] = Z.
"""

from typing import Protocol

import torch
from torch import Tensor

from lattice_lightning.actions import Action
from lattice_lightning.actions.scaled import require_bosonic
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice

__all__ = ["Density", "DensityProposal", "WeightedProposal"]


class WeightedProposal(Protocol):
    """Draws fields with their log weights for a target."""

    target: Action
    lattice: Lattice
    space: FieldSpace

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """n independent fields, public layout, and log w, ``[n]``, in double precision."""
        ...

    def log_weight(self, field: Tensor) -> Tensor | None:
        """log w of given fields, ``[batch]``; None where a field alone does not determine it."""
        ...


class Density(Protocol):
    """A normalised density that can be drawn from and evaluated, as a FlowModel."""

    @property
    def lattice(self) -> Lattice:
        """The lattice."""
        ...

    @property
    def space(self) -> FieldSpace:
        """What the field lives on."""
        ...

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """n independent fields and their log q, ``[n]``."""
        ...

    def log_prob(self, field: Tensor) -> Tensor:
        """log q of given fields, ``[batch]``."""
        ...


class DensityProposal:
    """Draws from a density q, weighs with the target: log w = -S - log q.

    Log weights that are not finite are handed on as they are; who takes them rejects and counts.
    Links are put back on the group where rounding took them off, before S is evaluated.

    Args:
        density: a :class:`Density`, such as a trained flow model.
        target: the action S, of the field alone.
        batch_size: fields drawn or evaluated at once; None for all.

    Raises:
        InputError: when density and target live on different fields, for a target with
            pseudofermions, or a batch size below one.

    Example:
        >>> from lattice_lightning.actions import Phi4
        >>> from lattice_lightning.lattice import Lattice
        >>> from lattice_lightning.models import FlowModel, FourierFlow, GaussianPrior
        >>> lattice = Lattice((4, 4))
        >>> model = FlowModel(GaussianPrior(lattice), FourierFlow(lattice, m2=1.0))
        >>> proposal = DensityProposal(model, Phi4(lattice, 1.0, lam=0.0))
        >>> field, log_w = proposal.sample(3, torch.Generator().manual_seed(1))
        >>> bool(log_w.std() < 1e-10)
        True
    """

    def __init__(self, density: Density, target: Action, batch_size: int | None = None) -> None:
        if density.lattice != target.lattice or density.space.name != target.space.name:
            raise InputError(
                f"a density on {density.space.name}, lattice {density.lattice.shape}, cannot propose for "
                f"a target on {target.space.name}, lattice {target.lattice.shape}"
            )
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size must be at least 1, or null for all at once, got {batch_size}")
        require_bosonic(target, "an importance weight")
        self.density, self.target, self.batch_size = density, target, batch_size
        self.lattice, self.space = target.lattice, target.space

    @torch.no_grad()
    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """n independent fields and log w, ``[n]``."""
        if n < 1:
            raise InputError(f"expected a number of fields n >= 1, got {n}")
        size = self.batch_size or n
        fields, weights = [], []
        for first in range(0, n, size):
            field, log_q = self.density.sample(min(size, n - first), rng)
            double = torch.complex128 if field.is_complex() else torch.float64
            field = self.space.reunitarise(field.to(double))
            fields.append(field)
            weights.append(self._weigh(field, log_q))
        return torch.cat(fields), torch.cat(weights)

    @torch.no_grad()
    def log_weight(self, field: Tensor) -> Tensor:
        """log w of given fields, ``[batch]``, by the inverse of the flow."""
        chunks = field.split(self.batch_size or max(len(field), 1))
        return torch.cat([self._weigh(chunk, self.density.log_prob(chunk)) for chunk in chunks])

    def _weigh(self, field: Tensor, log_q: Tensor) -> Tensor:
        return -self.target.value(field, {}).double() - log_q.double()
