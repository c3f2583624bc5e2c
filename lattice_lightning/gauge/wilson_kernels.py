"""dS/dw_a of the Wilson action in closed form, fused: no graph, no products kept.

S = beta sum (1 - Re tr P / N), U -> exp(i w_a T_a) U. With the sum A of the 2(d-1) staples of a link
dS/dw_a = (beta / N) Im tr[T_a U A^dag]; for U(1) the sum of beta sin of the oriented plaquettes. Links and
adjoint links stand in one list, so that a staple is the product of three of its entries, whichever side
it lies on, and one table says which.

Layout of molecular dynamics: sites of all directions flattened, ``[*components, d V, batch]``; U(1) as
angles ``[d V, batch]``.
"""

from functools import cache
from math import sqrt

import torch
from torch import Tensor

from lattice_lightning.groups import SU2, SUN, U1, Group
from lattice_lightning.groups.compiled import Fused
from lattice_lightning.lattice import Lattice

__all__ = [
    "angle_force",
    "angle_tables",
    "one_minus_cosine",
    "quaternion_force",
    "staple_table",
    "su3_force",
    "wilson_force",
    "wilson_sum",
]

Row = list[tuple[Tensor, Tensor]]


def _links(lattice: Lattice) -> Tensor:
    """Number of the link of direction mu at every site, ``[d, *lattice]``."""
    return torch.arange(lattice.ndim * lattice.volume).reshape(lattice.ndim, *lattice.shape)


@cache
def staple_table(lattice: Lattice, device: torch.device) -> Tensor:
    """Entries of (links, adjoint links) whose product is a staple, ``[3, 2(d - 1), d V]``."""
    link, n_links = _links(lattice), lattice.ndim * lattice.volume
    staples = []
    for k in range(lattice.ndim - 1):
        above, below = [], []
        for mu in range(lattice.ndim):
            nu = [axis for axis in range(lattice.ndim) if axis != mu][k]
            along, across = link[mu], link[nu]
            ahead = torch.roll(across, -1, mu)
            above.append(torch.stack([across, torch.roll(along, -1, nu), ahead + n_links]).flatten(1))
            back = torch.stack([across + n_links, along, ahead]).roll(1, 1 + nu)
            below.append(back.flatten(1))
        staples += [torch.cat(above, 1), torch.cat(below, 1)]
    return torch.stack(staples, 1).to(device)


@cache
def angle_tables(lattice: Lattice, device: torch.device) -> tuple[Tensor, Tensor]:
    """Links of every plaquette ``[4, planes V]``, and the plaquettes of every link ``[2(d - 1), d V]``.

    The first half of the second are those that pass the link forwards.
    """
    link = _links(lattice)
    corners = list[Tensor]()
    number = dict[tuple[int, int], Tensor]()
    for mu in range(lattice.ndim):
        for nu in range(mu + 1, lattice.ndim):
            plane = torch.arange(lattice.volume).reshape(lattice.shape) + len(corners) * lattice.volume
            number[mu, nu] = plane
            sides = [link[mu], link[nu].roll(-1, mu), link[mu].roll(-1, nu), link[nu]]
            corners.append(torch.stack(sides).flatten(1))
    forwards, backwards = [], []
    for mu in range(lattice.ndim):
        ahead, behind = [], []
        for nu in range(lattice.ndim):
            if nu != mu:
                plane = number[min(mu, nu), max(mu, nu)]
                passed = (plane, plane.roll(1, nu))
                # mu runs forwards at the bottom of its plaquette, nu at its far side
                ahead.append(passed[0] if mu < nu else passed[1])
                behind.append(passed[1] if mu < nu else passed[0])
        forwards.append(torch.stack(ahead).flatten(1))
        backwards.append(torch.stack(behind).flatten(1))
    passing = torch.cat([torch.cat(forwards, 1), torch.cat(backwards, 1)])
    return torch.cat(corners, 1).to(device), passing.to(device)


def _angles(theta: Tensor, beta: Tensor, corners: Tensor, passing: Tensor) -> Tensor:
    angle = theta[corners[0]] + theta[corners[1]] - theta[corners[2]] - theta[corners[3]]
    sine = beta * torch.sin(angle)
    half = passing.shape[0] // 2
    force = sine[passing[0]] - sine[passing[half]]
    for k in range(1, half):
        force = force + sine[passing[k]] - sine[passing[half + k]]
    return force.unsqueeze(0)


def _one_minus_cosine(theta: Tensor, corners: Tensor) -> Tensor:
    angle = theta[corners[0]] + theta[corners[1]] - theta[corners[2]] - theta[corners[3]]
    return 1 - torch.cos(angle)


def _times(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [
        a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
        a[0] * b[1] + a[1] * b[0] - a[2] * b[3] + a[3] * b[2],
        a[0] * b[2] + a[2] * b[0] - a[3] * b[1] + a[1] * b[3],
        a[0] * b[3] + a[3] * b[0] - a[1] * b[2] + a[2] * b[1],
    ]


def _quaternions(u: Tensor, beta: Tensor, table: Tensor) -> Tensor:
    both = torch.cat([u, torch.cat([u[:1], -u[1:]])], 1)
    a, b, c = ([both[i][table[p]] for i in range(4)] for p in range(3))
    s0, s1, s2, s3 = (component.sum(0) for component in _times(_times(a, b), c))
    # the vector part of U A^dag times tr[T_a (i sigma_b)] = i delta_ab
    half = 0.5 * beta
    return torch.stack(
        [
            half * (u[1] * s0 - u[0] * s1 + u[2] * s3 - u[3] * s2),
            half * (u[2] * s0 - u[0] * s2 + u[3] * s1 - u[1] * s3),
            half * (u[3] * s0 - u[0] * s3 + u[1] * s2 - u[2] * s1),
        ]
    )


def _row_times(row: Row, matrix: list[Row]) -> Row:
    product = []
    for k in range(len(row)):
        real = imag = None
        for j, (ar, ai) in enumerate(row):
            br, bi = matrix[j][k]
            r, i = ar * br - ai * bi, ar * bi + ai * br
            real, imag = (r, i) if real is None or imag is None else (real + r, imag + i)
        assert real is not None and imag is not None
        product.append((real, imag))
    return product


def _su3(u: Tensor, beta: Tensor, table: Tensor) -> Tensor:
    adjoint = torch.stack([u[0].transpose(0, 1), -u[1].transpose(0, 1)])
    both = torch.cat([u, adjoint], 3)
    n = range(3)
    # a row of the product needs a row of the first factor only: rows along an axis
    row = [(both[0, :, j][:, table[0]], both[1, :, j][:, table[0]]) for j in n]
    for p in (1, 2):
        row = _row_times(row, [[(both[0, j, k][table[p]], both[1, j, k][table[p]]) for k in n] for j in n])
    summed = [(real.sum(1), imag.sum(1)) for real, imag in row]
    closed = _row_times(summed, [[(u[0, k, j], -u[1, k, j]) for k in n] for j in n])
    # M = A U^dag: (beta / N) Im tr[T_a U A^dag] = -(beta / N) Im tr[T_a M]
    real = [[closed[k][0][i] for k in n] for i in n]
    imag = [[closed[k][1][i] for k in n] for i in n]
    factor = -beta / 6
    force = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        force += [factor * (imag[i][j] + imag[j][i]), factor * (real[i][j] - real[j][i])]
    force.append(factor * (imag[0][0] - imag[1][1]))
    force.append(factor / sqrt(3) * (imag[0][0] + imag[1][1] - 2 * imag[2][2]))
    return torch.stack(force)


#: angles ``[d V, batch]``, beta ``[]``, and both tables; the force ``[1, d V, batch]``
angle_force = Fused(_angles)
#: angles ``[d V, batch]`` and the links of every plaquette; 1 - cos, ``[planes V, batch]``
one_minus_cosine = Fused(_one_minus_cosine)
#: links ``[4, d V, batch]``, beta ``[]``, table; the force ``[3, d V, batch]``
quaternion_force = Fused(_quaternions)
#: links ``[2, 3, 3, d V, batch]``, beta ``[]``, table; the force ``[8, d V, batch]``
su3_force = Fused(_su3)


def wilson_force(group: Group, lattice: Lattice, links: Tensor, beta: float) -> Tensor | None:
    """dS/dw_a of links in the layout of molecular dynamics, ``[n_generators, mu, *lattice, batch]``.

    None for groups without a kernel: SU(N) for N > 3, and SU(2) as ``SUN(2)``.
    """
    coupling = torch.tensor(beta, dtype=links.dtype, device=links.device)
    flat = links.flatten(-lattice.ndim - 2, -2)
    if isinstance(group, U1):
        force = angle_force(flat, coupling, *angle_tables(lattice, links.device))
    elif isinstance(group, SU2):
        force = quaternion_force(flat, coupling, staple_table(lattice, links.device))
    elif isinstance(group, SUN) and group.n_colors == 3:
        force = su3_force(flat, coupling, staple_table(lattice, links.device))
    else:
        return None
    return force.view(-1, *links.shape[-lattice.ndim - 2 :])


def wilson_sum(group: Group, lattice: Lattice, links: Tensor) -> Tensor | None:
    """Sum of 1 - Re tr P / N over all plaquettes, ``[batch]``; None for groups without a kernel: SU(N)."""
    if not isinstance(group, U1):
        return None
    return one_minus_cosine(links.flatten(0, -2), angle_tables(lattice, links.device)[0]).sum(0)
