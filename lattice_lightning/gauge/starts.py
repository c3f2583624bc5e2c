"""Starting fields: cold, hot, near the identity, in a chosen centre sector."""

from cmath import exp, pi
from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.lattice import Lattice

__all__ = ["START_KINDS", "flip_centre_sector", "set_sectors", "start_field"]

START_KINDS = ("cold", "hot", "warm")


def flip_centre_sector(group: Group, lattice: Lattice, links: Tensor, sectors: Sequence[int]) -> Tensor:
    """Multiply the links of direction mu on its last slice by exp(2 pi i k_mu / N).

    The gauge action does not change; the Polyakov loop of direction mu is multiplied by the phase,
    and its fermion boundary condition with it. ``sectors`` holds one integer k_mu a direction
    (U(1): k of -1, in units of pi).

    Raises:
        InputError: unless there is one sector a direction.
    """
    if len(sectors) != lattice.ndim:
        raise InputError(
            f"expected one centre sector for each of the {lattice.ndim} directions, got {list(sectors)}"
        )
    flipped = links.clone()
    order = 2 if group.name == "U(1)" else group.n_colors
    for mu, sector in enumerate(sectors):
        if sector % order == 0:
            continue
        last = flipped[:, mu].select(1 + mu, lattice.shape[mu] - 1)
        if group.name == "U(1)":
            last += pi * (sector % 2)
        elif order == 2:
            last *= -1
        else:
            last *= exp(2j * pi * (sector % order) / order)
    return group.reunitarise(flipped) if group.name == "U(1)" else flipped


def set_sectors(
    space: FieldSpace, lattice: Lattice, field: Tensor, sectors: Sequence[int] | Sequence[Sequence[int]]
) -> Tensor:
    """Flip one centre sector a direction for all chains, or those of a list that chains take in turn.

    Raises:
        InputError: for a field without a gauge group or sectors that do not fit.
    """
    if not isinstance(space, Group):
        raise InputError(f"centre sectors need a gauge group, got {space.name}")
    choices = [list(s) if isinstance(s, Sequence) else s for s in sectors]
    if not choices or isinstance(choices[0], int):
        return flip_centre_sector(space, lattice, field, choices)  # type: ignore[arg-type]
    chains = [
        flip_centre_sector(space, lattice, field[c : c + 1], choices[c % len(choices)])  # type: ignore[arg-type]
        for c in range(len(field))
    ]
    return torch.cat(chains)


def start_field(
    space: FieldSpace,
    lattice: Lattice,
    n_chains: int,
    rng: torch.Generator,
    kind: str = "hot",
    sectors: Sequence[int] | Sequence[Sequence[int]] | None = None,
    noise: float = 0.3,
) -> Tensor:
    """Starting configurations for all chains, public layout.

    Args:
        space: group or real line.
        lattice: the lattice.
        n_chains: number of chains.
        rng: generator on the device of the field.
        kind: ``cold`` (ordered), ``hot`` (Haar), ``warm`` (ordered, then a random step of size
            ``noise`` in the algebra).
        sectors: centre sector of each direction, for all chains, or a list of such lists that the
            chains take in turn.
        noise: size of the warm start's step.

    Raises:
        InputError: for an unknown kind or sectors that do not fit.
    """
    if kind not in START_KINDS:
        raise InputError(f"unknown start {kind!r}: expected one of {', '.join(START_KINDS)}")
    if n_chains < 1:
        raise InputError(f"expected at least one chain, got n_chains={n_chains}")
    if kind == "hot":
        field = space.hot(lattice, n_chains, rng)
    else:
        field = space.cold(lattice, n_chains, rng.device)
    if kind == "warm":
        field = space.evolve(field, noise * space.momentum(field, rng))
    return field if sectors is None else set_sectors(space, lattice, field, sectors)
