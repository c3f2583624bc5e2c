"""Ordered products of links along paths.

A path is a sequence of signed directions counted from one, ``+1`` forward in x, ``-2`` backward in
y; it starts at n. ``(1, 2, -1, -2)`` is the plaquette U_x(n) U_y(n+x) U_x(n+y)^dag U_y(n)^dag.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import Group
from lattice_lightning.lattice import Lattice

__all__ = ["Loop", "is_closed", "path_product", "rectangle_path", "wilson_loops"]

Loop = Sequence[int]


def is_closed(path: Loop, ndim: int) -> bool:
    """Whether the path returns to its start without winding around the lattice."""
    return all(path.count(mu + 1) == path.count(-mu - 1) for mu in range(ndim))


def path_product(group: Group, lattice: Lattice, links: Tensor, path: Loop) -> Tensor:
    """Product of packed links along a path from every site, ``[*components, *lattice, batch]``.

    Args:
        group: owner of the packed arithmetic.
        lattice: the lattice.
        links: packed links ``[*components, mu, *lattice, batch]``.
        path: signed directions, at least one.

    Raises:
        InputError: for an empty path or a direction that the lattice does not have.
    """
    if not path or any(step == 0 or abs(step) > lattice.ndim for step in path):
        raise InputError(
            f"a path is a non-empty sequence of directions -{lattice.ndim}..-1, 1..{lattice.ndim}, "
            f"got {tuple(path)}"
        )
    position = [0] * lattice.ndim
    result: Tensor | None = None
    for step in path:
        mu = abs(step) - 1
        if step < 0:
            position[mu] -= 1
        link = lattice.direction_packed(links, mu)
        for nu, steps in enumerate(position):
            if steps:
                link = lattice.shift_packed(link, nu, steps)
        if step > 0:
            position[mu] += 1
        if result is None:
            result = link if step > 0 else group.adjoint(link)
        else:
            result = group.mul(result, link) if step > 0 else group.mul_nh(result, link)
    assert result is not None
    return result


def rectangle_path(mu: int, nu: int, r: int, s: int) -> tuple[int, ...]:
    """Closed r x s rectangle in the plane of axes mu and nu."""
    a, b = mu + 1, nu + 1
    return (a,) * r + (b,) * s + (-a,) * r + (-b,) * s


def wilson_loops(
    group: Group, lattice: Lattice, links: Tensor, r: int, s: int
) -> Tensor:
    """Re tr W_{r x s}(n), ``[planes, *lattice, batch]``, planes mu < nu with extent r along mu.

    Built from straight lines: a rectangle is L_mu(n) L_nu(n+r mu) L_mu(n+s nu)^dag L_nu(n)^dag.
    """
    if r > min(lattice.shape) or s > min(lattice.shape) or min(r, s) < 1:
        raise InputError(
            f"a {r}x{s} Wilson loop does not fit the lattice {lattice.shape}; "
            "use sides between 1 and the smallest extent"
        )
    lines = {}
    for length in {r, s}:
        for mu in range(lattice.ndim):
            lines[mu, length] = path_product(group, lattice, links, (mu + 1,) * length)
    planes = []
    for mu in range(lattice.ndim):
        for nu in range(mu + 1, lattice.ndim):
            along, up = lines[mu, r], lines[nu, s]
            first = group.mul(along, lattice.shift_packed(up, mu, r))
            second = group.mul(up, lattice.shift_packed(along, nu, s))
            planes.append(group.inner(first, second))
    return torch.stack(planes)
