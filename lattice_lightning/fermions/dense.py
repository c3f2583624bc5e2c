"""The staggered operator as a dense matrix, for small lattices and as a reference.

K couples even with odd sites only; with A = K_eo (rows even, columns odd, colour innermost) and
K_oe = -A^dag, (D D^dag)_ee = m^2 + A A^dag. Nothing is shared with the hop and its solver but the
conventions and the check of what it is given: neighbours, signs and phases are worked out from
coordinates, here once more.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.exceptions import ConvergenceError, InputError
from lattice_lightning.fermions.staggered import staggered_setting
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice

__all__ = ["MAX_DENSE_SIZE", "DenseStaggeredOperator"]

#: rows of the largest matrix that is built: 6^4 of SU(2) has 1296, a chain takes 27 MB
MAX_DENSE_SIZE = 2048


class DenseStaggeredOperator:
    """Builds A = K_eo of all chains, differentiable in the links.

    Args:
        lattice: even extents.
        group: U(1) or SU(N), fermions in the fundamental representation.
        boundary: +1 (periodic) or -1 (antiperiodic) for each direction; default antiperiodic in
            time only.

    Raises:
        InputError: for odd extents, a field without gauge group, phases that are not +-1, or more than
            ``MAX_DENSE_SIZE`` rows.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> operator = DenseStaggeredOperator(lattice, group)
        >>> operator.hops(group.pack(group.cold(lattice, 3))).shape
        torch.Size([3, 16, 16])
    """

    def __init__(
        self, lattice: Lattice, group: FieldSpace, boundary: Sequence[int] | None = None
    ) -> None:
        self.group, boundary = staggered_setting(lattice, group, boundary)
        self.size = lattice.volume // 2 * self.group.n_colors
        if self.size > MAX_DENSE_SIZE:
            raise InputError(
                f"a dense matrix of {self.size} rows is too large, at most {MAX_DENSE_SIZE}: use a smaller "
                "lattice, or StaggeredFermion"
            )
        self.lattice = lattice
        x = lattice.coordinates().flatten(1)
        extents = torch.tensor(lattice.shape).unsqueeze(1)
        strides = torch.tensor([extents[mu + 1 :].prod() for mu in range(lattice.ndim)]).unsqueeze(1)
        even = x.sum(0) % 2 == 0
        rank = torch.empty(lattice.volume, dtype=torch.int64)
        for sites in (even, ~even):
            rank[sites] = torch.arange(lattice.volume // 2)
        rows, columns, signs = [], [], []
        for mu, phase in enumerate(boundary):
            ahead = x.clone()
            ahead[mu] = (x[mu] + 1) % extents[mu]
            there = rank[(ahead * strides).sum(0)]
            sign = (-1.0) ** x[:mu].sum(0)
            sign[x[mu] == extents[mu] - 1] *= phase
            # a link that starts on an odd site is the hop back from the even site at its end
            rows.append(torch.where(even, rank, there))
            columns.append(torch.where(even, there, rank))
            signs.append(0.5 * sign)
        self._even, self._signs = even, torch.stack(signs).double()
        half = lattice.volume // 2
        # pairs of sites in a matrix of sites, [mu * V]; twice the same on extents of two
        self._places = (torch.stack(rows) * half + torch.stack(columns)).flatten()

    def hops(self, links: Tensor) -> Tensor:
        """A = K_eo ``[batch, V/2 N, V/2 N]``, complex, from packed links."""
        matrices = self.group.to_matrix(links)
        # [batch, mu, V, N, N]
        u = torch.complex(matrices[0], matrices[1]).flatten(3, -2).permute(4, 2, 3, 0, 1)
        device, n, half = u.device, self.group.n_colors, self.lattice.volume // 2
        even = self._even.to(device)[:, None, None]
        blocks = torch.where(even, u, -u.mH) * self._signs.to(device, matrices.dtype)[:, :, None, None]
        sites = u.new_zeros(u.shape[0], half * half, n, n)
        sites = sites.index_add(1, self._places.to(device), blocks.flatten(1, 2))
        matrix = sites.reshape(-1, half, half, n, n).permute(0, 1, 3, 2, 4)
        return matrix.reshape(-1, self.size, self.size)

    def normal(self, hops: Tensor, mass: float) -> Tensor:
        """(D D^dag)_ee = m^2 + A A^dag, ``[batch, V/2 N, V/2 N]``."""
        normal = hops @ hops.mH
        normal.diagonal(dim1=1, dim2=2).add_(mass**2)
        return normal

    def factor(self, hops: Tensor, mass: float, *, strict: bool = True) -> tuple[Tensor, Tensor]:
        """Cholesky factor of :meth:`normal`, and by chain ``[batch]`` 0 where there is one.

        Raises:
            ConvergenceError: where there is none, if strict.
        """
        factor, failed = torch.linalg.cholesky_ex(self.normal(hops, mass))
        if strict and bool(failed.any()):
            raise ConvergenceError(
                f"the dense operator of mass {mass} has no Cholesky factor in chain "
                f"{int(failed.argmax())}: its links are not finite, or the mass is lost in rounding"
            )
        return factor, failed
