"""Tunnelling between topological sectors."""

import torch
from torch import Tensor

from lattice_lightning.analysis.errors import Estimate, estimate
from lattice_lightning.exceptions import InputError

__all__ = ["tunnelling_rate"]


def tunnelling_rate(charge: Tensor) -> Estimate:
    """Fraction of steps after which the topological charge is another one, with its error.

    A chain that never tunnelled has the error of the rule of three: its rate is below three in as
    many steps.

    Args:
        charge: topological charge ``[chains, steps]``, compared as the nearest integer.

    Raises:
        InputError: for another shape, less than two steps, or a charge that is not finite.

    Example:
        >>> tunnelling_rate(torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0], [0.0, -1.0, 0.0, 0.0, 0.0]])).value
        0.375
    """
    if charge.ndim != 2 or charge.shape[1] < 2 or not bool(torch.isfinite(charge).all()):
        raise InputError(
            f"expected a finite topological charge [chains, steps >= 2], got shape {list(charge.shape)}"
        )
    rounded = charge.detach().cpu().double().round()
    return estimate((rounded[:, 1:] != rounded[:, :-1]).double(), "tunnelling", proportion=True)
