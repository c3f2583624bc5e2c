"""The staggered Dirac operator.

D = m + K, K = (1/2) sum_mu eta_mu(n) [U_mu(n) d_{n+mu} - U_mu(n-mu)^dag d_{n-mu}],
eta_mu(n) = (-1)^{x_0 + ... + x_{mu-1}}; K is anti-hermitian and connects even with odd sites, so
D D^dag = m^2 - K^2 is block diagonal. Antiperiodic in time unless said otherwise: the phase of a
direction multiplies the hops across its boundary.

Fields on the sites of one parity are packed: ``[2, N, V/2, batch]``, real and imaginary parts, sites
in the order of the flattened lattice.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.fermions.hop import COMPILE_FROM, hop, hop_by_links
from lattice_lightning.fermions.solvers import Solution, multishift_cg
from lattice_lightning.groups import SU2, FieldSpace, Group
from lattice_lightning.groups.compiled import compiler_found
from lattice_lightning.lattice import Lattice

__all__ = ["EVEN", "ODD", "HopMatrices", "StaggeredOperator", "staggered_setting"]

EVEN, ODD = 0, 1
#: matrices of the hops into even and into odd sites; one tensor twice where kernels take links
HopMatrices = tuple[Tensor, Tensor]


def staggered_setting(
    lattice: Lattice, group: FieldSpace, boundary: Sequence[int] | None
) -> tuple[Group, tuple[int, ...]]:
    """The gauge group and the phase of each direction, antiperiodic in time by default.

    Raises:
        InputError: for odd extents, a field without gauge group, or phases that are not +-1.
    """
    lattice.require_even("the staggered operator")
    if not isinstance(group, Group):
        raise InputError(f"staggered fermions need a gauge group, got {group.name}")
    if boundary is None:
        boundary = (1,) * (lattice.ndim - 1) + (-1,)
    if len(boundary) != lattice.ndim or any(phase not in (1, -1) for phase in boundary):
        raise InputError(f"boundary needs {lattice.ndim} phases of +1 or -1, got {list(boundary)}")
    return group, tuple(int(phase) for phase in boundary)


class StaggeredOperator:
    """Geometry, hops and solves of the staggered operator on one lattice.

    Args:
        lattice: even extents only.
        group: U(1) or SU(N), fermions in the fundamental representation.
        boundary: +1 (periodic) or -1 (antiperiodic) for each direction; default antiperiodic in
            time only.
        compiled: force or forbid the compiled hop (default: by size).

    Raises:
        InputError: for odd extents, a field without gauge group, or phases that are not +-1.
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        boundary: Sequence[int] | None = None,
        compiled: bool | None = None,
    ) -> None:
        self.group, self.boundary = staggered_setting(lattice, group, boundary)
        self.lattice, self.compiled = lattice, compiled
        coordinates = lattice.coordinates()
        index = torch.arange(lattice.volume).reshape(lattice.shape)
        parity = lattice.parity().flatten()
        sites = [(parity == p).nonzero().flatten() for p in (EVEN, ODD)]
        position = torch.empty(lattice.volume, dtype=torch.int64)
        for p in (EVEN, ODD):
            position[sites[p]] = torch.arange(len(sites[p]))
        forward, backward, eta = [], [], []
        for mu in range(lattice.ndim):
            forward.append(torch.roll(index, -1, mu).flatten())
            backward.append(torch.roll(index, 1, mu).flatten())
            sign = 1 - 2 * (coordinates[:mu].sum(0) % 2)
            edge = coordinates[mu] == lattice.shape[mu] - 1
            eta.append(torch.where(edge, self.boundary[mu] * sign, sign).flatten())
        self._sites, self._forward, self._backward = sites, torch.stack(forward), torch.stack(backward)
        self._eta = torch.stack(eta).to(torch.float64)
        self._parity_sign = (1 - 2 * parity).to(torch.float64)
        # hop table into parity p: source positions, forward hops first
        self._tables = [
            torch.cat([position[self._forward[:, s]], position[self._backward[:, s]]])
            for s in sites
        ]
        # link of every hop, in the same order
        number = torch.arange(lattice.ndim).unsqueeze(1) * lattice.volume
        self._link_tables = [
            torch.cat([number + s, number + self._backward[:, s]]) for s in sites
        ]
        self._cuda: dict[torch.device, StaggeredOperator] = {}

    def to(self, device: torch.device) -> "StaggeredOperator":
        """The same operator with its tables on a device."""
        if device.type == "cpu":
            return self
        if device not in self._cuda:
            twin = StaggeredOperator(self.lattice, self.group, self.boundary, self.compiled)
            for name in ("_forward", "_backward", "_eta", "_parity_sign"):
                setattr(twin, name, getattr(self, name).to(device))
            twin._sites = [s.to(device) for s in self._sites]
            twin._tables = [t.to(device) for t in self._tables]
            twin._link_tables = [t.to(device) for t in self._link_tables]
            twin._cuda = {device: twin}
            self._cuda[device] = twin
        return self._cuda[device]

    # -- layouts -------------------------------------------------------------------------------

    def pack_field(self, psi: Tensor, parity: int) -> Tensor:
        """Complex ``[batch, *lattice, N]`` to the packed field of one parity."""
        flat = psi.reshape(psi.shape[0], self.lattice.volume, -1)[:, self._sites[parity]]
        return torch.stack([flat.real, flat.imag]).permute(0, 3, 2, 1).contiguous()

    def unpack_field(self, even: Tensor, odd: Tensor) -> Tensor:
        """Both parities back to complex ``[batch, *lattice, N]``."""
        full = self.join(even, odd)
        psi = torch.complex(full[0], full[1]).permute(2, 1, 0)
        return psi.reshape(psi.shape[0], *self.lattice.shape, -1)

    def join(self, even: Tensor, odd: Tensor) -> Tensor:
        """Packed fields of both parities on all sites, ``[2, N, V, batch]``."""
        full = even.new_empty(*even.shape[:2], self.lattice.volume, even.shape[3])
        full[:, :, self._sites[EVEN]] = even
        full[:, :, self._sites[ODD]] = odd
        return full

    def gaussian(self, n_chains: int, rng: torch.Generator) -> Tensor:
        """Complex normal field of one parity with <|xi|^2> = 1 per component, packed."""
        shape = (2, self.group.n_colors, self.lattice.volume // 2, n_chains)
        xi = torch.randn(shape, generator=rng, dtype=torch.float64, device=rng.device)
        return xi * 0.5**0.5

    # -- hops ----------------------------------------------------------------------------------

    def link_matrices(self, links: Tensor) -> Tensor:
        """Packed links as matrices on flattened sites, ``[2, N, N, mu, V, batch]``."""
        matrices = self.group.to_matrix(links)
        return matrices.flatten(4, 3 + self.lattice.ndim)

    def hop_matrices(self, links: Tensor) -> HopMatrices:
        """Signed hops into even and into odd sites, ``[2, N, N, 2d, V/2, batch]`` each.

        Where the hop is compiled, every link once instead, the same tensor for both (see
        :mod:`lattice_lightning.fermions.hop`).
        """
        with torch.no_grad():
            compiled = self.compiled
            if compiled is None:
                compiled = self.lattice.volume // 2 * links.shape[-1] >= COMPILE_FROM
            if compiled and compiler_found():
                by_link = self._weighted_links(links.detach())
                return by_link, by_link
            m = self.link_matrices(links.detach())
            weighted = 0.5 * self._eta.unsqueeze(-1) * m
            transposed = weighted.transpose(1, 2)
            adjoint = torch.stack([-transposed[0], transposed[1]])  # minus the adjoint
            result = []
            for parity in (EVEN, ODD):
                sites = self._sites[parity]
                ahead = weighted[..., sites, :]
                behind = torch.stack(
                    [
                        adjoint[:, :, :, mu, self._backward[mu, sites]]
                        for mu in range(self.lattice.ndim)
                    ],
                    3,
                )
                result.append(torch.cat([ahead, behind], 3).contiguous())
        return result[0], result[1]

    def hop(self, matrices: HopMatrices, psi: Tensor, target: int) -> Tensor:
        """K psi on the sites of parity ``target``, from psi on the other parity."""
        m = matrices[target]
        if m.ndim < 6:
            return hop_by_links(m, psi, self._link_tables[target], self._tables[target])
        return hop(m, psi, self._tables[target], compiled=self.compiled)

    def _weighted_links(self, links: Tensor) -> Tensor:
        """Signed links, each in one piece: ``[mu V, 4, batch]`` or ``[mu V, N, N, 2, batch]``."""
        weight = 0.5 * self._eta.flatten().unsqueeze(-1)
        flat = links.flatten(self.group.n_component_dims, -2) * weight
        if isinstance(self.group, SU2):
            return flat.transpose(0, 1).contiguous()
        return flat.permute(3, 1, 2, 0, 4).contiguous()

    def normal(self, matrices: HopMatrices, psi: Tensor, parity: int) -> Tensor:
        """-K^2 psi = K K^dag psi on one parity; D D^dag = m^2 - K^2."""
        return self.hop(matrices, self.hop(matrices, psi, 1 - parity), parity).neg_()

    def solve(
        self,
        matrices: HopMatrices,
        b: Tensor,
        masses: Sequence[float],
        parity: int,
        tolerance: float,
        max_iterations: int,
    ) -> Solution:
        """(D D^dag)^-1 b on one parity for all masses in one multi-shift solve."""
        shifts = [mass**2 for mass in masses]
        with torch.no_grad():
            return multishift_cg(
                lambda p: self.normal(matrices, p, parity), b, shifts, tolerance, max_iterations
            )

    def hop_norm(self, links: Tensor, matrices: HopMatrices, x: Tensor, parity: int) -> Tensor:
        """|K x|^2 for each chain, differentiable in the packed links, x held fixed.

        Together with X = (D D^dag)^-1 phi detached, 2 Re(phi^dag X) - m^2 |X|^2 - |K X|^2 has the
        value and the first derivative of phi^dag (D D^dag)^-1 phi.
        """
        result: Tensor = _HopNorm.apply(  # type: ignore[no-untyped-call]
            self.link_matrices(links), self, matrices, x, parity
        )
        return result

    def apply(self, links: Tensor, psi: Tensor, mass: float) -> Tensor:
        """D psi in the public layout: links ``[batch, mu, *lattice, N, N]``, psi ``[batch, *lattice, N]``.

        Example:
            >>> from lattice_lightning.groups import SU2
            >>> lattice, group = Lattice((4, 4)), SU2()
            >>> d = StaggeredOperator(lattice, group)
            >>> psi = torch.ones(1, 4, 4, 2, dtype=torch.complex128)
            >>> d.apply(group.cold(lattice, 1), psi, mass=0.5).shape
            torch.Size([1, 4, 4, 2])
        """
        operator = self.to(links.device)
        matrices = operator.hop_matrices(self.group.pack(links))
        even, odd = operator.pack_field(psi, EVEN), operator.pack_field(psi, ODD)
        return operator.unpack_field(
            mass * even + operator.hop(matrices, odd, EVEN),
            mass * odd + operator.hop(matrices, even, ODD),
        )

    def _link_gradient(self, x: Tensor, y: Tensor, parity: int) -> Tensor:
        """Gradient of |y|^2, y = K x, by the link matrices: +-eta Z(n) Z(n+mu)^dag."""
        even, odd = (x, y) if parity == EVEN else (y, x)
        z = self.join(even, odd)
        # plus where n carries y
        sign = -self._parity_sign if parity == EVEN else self._parity_sign
        ahead = z[:, :, self._forward.flatten()].unflatten(2, tuple(self._forward.shape))
        left = (sign * self._eta).unsqueeze(-1) * z.unsqueeze(2)
        lr, li = left[0].unsqueeze(1), left[1].unsqueeze(1)
        ar, ai = ahead[0].unsqueeze(0), ahead[1].unsqueeze(0)
        return torch.stack([lr * ar + li * ai, li * ar - lr * ai])


class _HopNorm(torch.autograd.Function):
    """|K x|^2 with its closed-form gradient; once differentiable, since x is detached."""

    @staticmethod
    def forward(
        ctx: Any,
        link_matrices: Tensor,
        operator: StaggeredOperator,
        matrices: HopMatrices,
        x: Tensor,
        parity: int,
    ) -> Tensor:
        y = operator.hop(matrices, x, 1 - parity)
        ctx.operator, ctx.parity = operator, parity
        ctx.save_for_backward(x, y)
        return y.square().sum((0, 1, 2))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # once_differentiable would let a sum with a differentiable term drop this one silently
        if torch.is_grad_enabled():
            raise InputError(
                "the pseudofermion action has no second derivative, since its solution is held "
                "fixed; take its gradient without create_graph"
            )
        x, y = ctx.saved_tensors
        return gradient * ctx.operator._link_gradient(x, y, ctx.parity), None, None, None, None
