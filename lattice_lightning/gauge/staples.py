"""Staples: the open paths parallel to a link, as sums and as extended (1 x s) staples."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lattice_lightning.groups import Group
from lattice_lightning.lattice import Lattice

__all__ = ["extended_staples", "staple_sum", "straight_loop"]


def extended_staples(
    group: Group, lattice: Lattice, links: Tensor, nu: int, sign: int, s_max: int
) -> Iterator[tuple[Tensor, list[int]]]:
    """Staples V_{mu, sign nu, s} = U_nu^s U_mu U_nu^{dag s} for s = 1 .. s_max and all mu != nu.

    The staple of 2s + 1 links runs s steps along ``sign * nu``, one along mu and s back; it follows
    from that of s - 1 by one more transport. Yields, for each s, the packed staples
    ``[*components, d - 1, *lattice, batch]`` and the list of their mu.
    """
    directions = [mu for mu in range(lattice.ndim) if mu != nu]
    axis = links.ndim - lattice.ndim - 2
    # unbind, not select: the gradient of a select fills a whole field with zeros
    u = links.unbind(axis)
    u_nu = u[nu]
    ahead = torch.stack([lattice.shift_packed(u_nu, mu) for mu in directions], axis)
    if sign > 0:
        left = u_nu.unsqueeze(axis).expand_as(ahead).contiguous()
    else:
        left = lattice.shift_packed(u_nu, nu, -1).unsqueeze(axis).expand_as(ahead).contiguous()
        ahead = lattice.shift_packed(ahead, nu, -1)
    staple = torch.stack([u[mu] for mu in directions], axis)
    for _ in range(s_max):
        staple = lattice.shift_packed(staple, nu, sign)
        if sign > 0:
            staple = group.mul_nh(group.mul(left, staple), ahead)
        else:
            staple = group.mul(group.mul_hn(left, staple), ahead)
        yield staple, directions


def staple_sum(group: Group, lattice: Lattice, links: Tensor) -> Tensor:
    """Sum of the 2(d-1) plaquette staples of every link, packed like the links.

    Each transforms like U_mu(n), so that Re tr[staple U^dag] summed is the sum of plaquettes.
    """
    total: list[Tensor | None] = [None] * lattice.ndim
    axis = links.ndim - lattice.ndim - 2
    for nu in range(lattice.ndim):
        for sign in (1, -1):
            for staples, directions in extended_staples(group, lattice, links, nu, sign, 1):
                for staple, mu in zip(staples.unbind(axis), directions, strict=True):
                    previous = total[mu]
                    total[mu] = staple if previous is None else previous + staple
    return torch.stack([t for t in total if t is not None], axis)


def straight_loop(group: Group, lattice: Lattice, links: Tensor, mu: int) -> Tensor:
    """Polyakov-type loop U_mu(n) U_mu(n+mu) ... around the torus from every site.

    Transforms like an adjoint field at n. It starts with the link itself.
    """
    u_mu = lattice.direction_packed(links, mu)
    loop = u_mu
    for step in range(1, lattice.shape[mu]):
        loop = group.mul(loop, lattice.shift_packed(u_mu, mu, step))
    return loop
