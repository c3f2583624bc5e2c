"""The trivializing flow of a single plaquette: Haar measure to exp(beta Re tr P / N), almost exactly.

A class function W(P) = sum_i theta_i re^{a_i} im^{b_i} of re + i im = tr P / N makes the velocity
d_a W, which moves eigenvalues e^{i th_j} and keeps eigenvectors: a spectral flow (2008.05456) without
canonical order of eigenvalues, equivariant under their permutations. At the density exp(-s beta (1 - re))
the continuity equation Laplacian W + s beta d W . d re = -beta (re - <re>) (0907.5491) is solved by least
squares with exact quadrature over the maximal torus. log det is that of the discretised map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.models.class_torus import determinant, diagonalise, log_haar_ratio, solve, torus_grid
from lattice_lightning.models.continuous import node_weights
from lattice_lightning.models.loop_velocity import default_monomials
from lattice_lightning.models.plaquette_potential import Monomial, casimir

__all__ = ["ClassFlow"]

#: from the error of the integrator, at most 1e-2, to rounding
NEWTON_STEPS = 3


class ClassFlow(nn.Module):
    """Map of group elements P = V e^{i th} V^dag to V e^{i th'} V^dag, with log det by the Haar measure.

    Zero coefficients are the identity.

    Args:
        group: gauge group.
        degree: of the class functions.
        n_nodes: nodes of the coefficients in s, interpolated by cubics.
        n_steps: Runge-Kutta steps.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> flow = ClassFlow(SU2(), degree=6)
        >>> flow.fit(beta=2.7) < 1e-6
        True
        >>> p = SU2().haar((5,), torch.Generator().manual_seed(1))
        >>> q, log_det = flow(p)
        >>> log_w = 2.7 * (q.diagonal(dim1=-2, dim2=-1).sum(-1).real / 2 - 1) + log_det
        >>> bool(log_w.std() < 1e-4)
        True
    """

    def __init__(self, group: FieldSpace, degree: int = 6, n_nodes: int = 33, n_steps: int = 16) -> None:
        super().__init__()
        if not isinstance(group, Group):
            raise InputError(f"class functions need a gauge group, got a field of {group.name}")
        if degree < 1 or n_nodes < 2 or n_steps < 1:
            raise InputError(
                f"expected degree >= 1, n_nodes >= 2, n_steps >= 1, got {degree}, {n_nodes}, {n_steps}"
            )
        self.group, self.n_steps = group, int(n_steps)
        self.monomials: list[Monomial] = default_monomials(group, degree)
        self.coefficients = nn.Parameter(
            torch.zeros(n_nodes, len(self.monomials), dtype=torch.float64)
        )

    # -- class functions on the torus ----------------------------------------------------------

    def _invariants(self, angles: Tensor) -> tuple[Tensor, ...]:
        """re, im and the inner products of their gradients, rr, ri, ii."""
        n = self.group.n_colors
        re, im = angles.cos().mean(-1), angles.sin().mean(-1)
        if n == 1:
            return re, im, im * im, -re * im, re * re
        # sum_a tr(T_a X) tr(T_a Y) = [tr XY - tr X tr Y / N] / 2
        square_re = (2 * angles).cos().sum(-1) - n * (re * re - im * im)
        square_im = (2 * angles).sin().sum(-1) - 2 * n * re * im
        modulus = n - n * (re * re + im * im)
        scale = 1 / (4 * n * n)
        return (
            re, im, scale * (modulus - square_re), -scale * square_im, scale * (modulus + square_re)
        )

    def _terms(self, invariants: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """d W_i / d re, d W_i / d im and Laplacian by one link, ``[terms, ...]``."""
        re, im, rr, ri, ii = invariants
        top = max(max(m) for m in self.monomials)
        powers_re, powers_im = [torch.ones_like(re)], [torch.ones_like(im)]
        for _ in range(top):
            powers_re.append(powers_re[-1] * re)
            powers_im.append(powers_im[-1] * im)
        zero = torch.zeros_like(re)

        def f(factor: int, a: int, b: int) -> Tensor:
            return factor * powers_re[a] * powers_im[b] if factor else zero

        c_f = casimir(self.group)
        d_re = torch.stack([f(a, a - 1, b) for a, b in self.monomials])
        d_im = torch.stack([f(b, a, b - 1) for a, b in self.monomials])
        laplacian = torch.stack(
            [
                f(a * (a - 1), a - 2, b) * rr + f(2 * a * b, a - 1, b - 1) * ri
                + f(b * (b - 1), a, b - 2) * ii - c_f * (a + b) * f(1, a, b)
                for a, b in self.monomials
            ]
        )
        return d_re, d_im, laplacian

    def _tables(self, sign: float) -> tuple[Tensor, list[tuple[int, int]]]:
        """Coefficients of W's derivatives re, im, re re, re im, im im at all stages, ``[stages, 5, m]``.

        And the m exponents of re and im that they multiply.
        """
        derivatives = [
            ((a, a - 1, b), (b, a, b - 1), (a * (a - 1), a - 2, b), (a * b, a - 1, b - 1),
             (b * (b - 1), a, b - 2))
            for a, b in self.monomials
        ]
        powers = sorted({(c, d) for five in derivatives for factor, c, d in five if factor})
        where = torch.zeros(len(self.monomials), 5, len(powers), dtype=torch.float64)
        for i, five in enumerate(derivatives):
            for k, (factor, c, d) in enumerate(five):
                if factor:
                    where[i, k, powers.index((c, d))] = factor
        weights = node_weights(len(self.coefficients), 2 * self.n_steps + 1)
        stages = weights.to(self.coefficients) @ self.coefficients
        table = torch.einsum("si,ikm->skm", stages, where.to(self.coefficients))
        return table if sign > 0 else table.flip(0), powers

    def _speed(
        self, angles: Tensor, jacobian: Tensor, table: Tensor, powers: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """d th_j / ds of the free angles ``[f, n]`` and of their derivatives ``[f, f, n]``."""
        colors = self.group.n_colors
        sin, cos = angles.sin(), angles.cos()
        if colors == 1:
            re, im = cos[0], sin[0]
            s, c, s_last, c_last, scale = sin, cos, sin, cos, 1.0
        else:
            last = -_sum(angles)
            sin_last, cos_last = last.sin(), last.cos()
            re, im = (_sum(cos) + cos_last) / colors, (_sum(sin) + sin_last) / colors
            s, c, s_last, c_last = sin - im, cos - re, sin - sin_last, cos - cos_last
            scale = 1 / (2 * colors)
        re_powers, im_powers = [torch.ones_like(re), re], [torch.ones_like(im), im]
        for _ in range(2, max(a for a, _ in powers) + 1):
            re_powers.append(re_powers[-1] * re)
        for _ in range(2, max(b for _, b in powers) + 1):
            im_powers.append(im_powers[-1] * im)
        products = torch.stack([re_powers[a] * im_powers[b] if b else re_powers[a] for a, b in powers])
        g_re, g_im, g_rr, g_ri, g_ii = ((scale * table) @ products).unbind(0)
        speed = g_im * c - g_re * s
        # the last angle is minus the sum of the others
        d_re = _sum((-s_last / colors)[:, None] * jacobian)
        d_im = _sum((c_last / colors)[:, None] * jacobian)
        change = (
            (g_ri * d_re + g_ii * d_im) * c[:, None] - (g_rr * d_re + g_ri * d_im) * s[:, None]
            - (g_im * sin + g_re * cos)[:, None] * jacobian
        )
        return speed, change if colors == 1 else change + (g_re * d_im - g_im * d_re)

    def _carry(self, angles: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        """Free angles ``[f, n]`` and their Jacobian ``[f, f, n]``, of the discretised map."""
        jacobian = torch.eye(len(angles), dtype=angles.dtype, device=angles.device)
        jacobian = jacobian[:, :, None].expand(-1, -1, angles.shape[1])
        table, powers = self._tables(sign)
        table, h = table.to(angles), sign / self.n_steps
        for k in range(self.n_steps):
            begin, middle, end = table[2 * k : 2 * k + 3]
            k1, j1 = self._speed(angles, jacobian, begin, powers)
            k2, j2 = self._speed(angles + h / 2 * k1, jacobian + h / 2 * j1, middle, powers)
            k3, j3 = self._speed(angles + h / 2 * k2, jacobian + h / 2 * j2, middle, powers)
            k4, j4 = self._speed(angles + h * k3, jacobian + h * j3, end, powers)
            angles = angles + h / 6 * (k1 + 2 * (k2 + k3) + k4)
            jacobian = jacobian + h / 6 * (j1 + 2 * (j2 + j3) + j4)
        return angles, jacobian

    def carry(self, angles: Tensor, sign: float = 1.0) -> tuple[Tensor, Tensor]:
        """Eigenangles ``[..., N]`` by the map (sign -1: its inverse), and log det by the Haar measure.

        Angles of SU(N) add up to zero.
        """
        colors = self.group.n_colors
        flat = angles.reshape(-1, colors).T[: max(colors - 1, 1)]
        moved, jacobian = self._carry(flat, sign)
        if sign < 0:
            # integrating back is the inverse to the order of the scheme; Newton's steps make it that
            for _ in range(NEWTON_STEPS):
                forth, jacobian = self._carry(moved, 1.0)
                moved = moved + solve(jacobian, flat - forth)
            _, jacobian = self._carry(moved, 1.0)
        begin, end = (flat, moved) if sign > 0 else (moved, flat)
        log_det = determinant(jacobian).abs().log()
        if colors > 1:
            log_det = log_det + log_haar_ratio(begin, end, jacobian)
            moved = torch.cat([moved, -moved.sum(0, keepdim=True)])
        return moved.T.reshape(angles.shape), sign * log_det.reshape(angles.shape[:-1])

    # -- matrices ------------------------------------------------------------------------------

    def forward(self, elements: Tensor) -> tuple[Tensor, Tensor]:
        """Public elements ``[..., N, N]`` (U(1): angles ``[...]``) and log det ``[...]``."""
        return self._map(elements, 1.0)

    def inverse(self, elements: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse, to rounding, and its log det."""
        return self._map(elements, -1.0)

    def _map(self, elements: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        if self.group.n_colors == 1:
            moved, log_det = self.carry(elements.unsqueeze(-1), sign)
            return self.group.reunitarise(moved.squeeze(-1)), log_det
        if self.group.n_colors == 2:
            return self._map_su2(elements, sign)
        angles, vectors = diagonalise(elements)
        moved, log_det = self.carry(angles, sign)
        phases = torch.polar(torch.ones_like(moved), moved)
        return (vectors * phases.unsqueeze(-2)) @ vectors.mH, log_det

    def _map_su2(self, elements: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        """cos th + i sin th n.sigma, of which th moves."""
        axis = 0.5 * (elements - elements.mH)
        cos = elements.real.diagonal(dim1=-2, dim2=-1).sum(-1) / 2
        squared = torch.view_as_real(axis).square().sum((-3, -2, -1)) / 2
        # the unit matrix and minus it have no axis, and need none
        sin = squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()
        angle = torch.atan2(sin, cos)
        moved, log_det = self.carry(torch.stack([angle, -angle], -1), sign)
        stretched = (moved[..., 0].sin() / sin)[..., None, None] * axis
        return stretched + torch.diag_embed(moved[..., :1].cos().expand(*sin.shape, 2)), log_det

    # -- fit -----------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, beta: float, n_points: int | None = None) -> float:
        """Solve the continuity equation for exp(beta Re tr P / N); returns the largest residual variance.

        Args:
            beta: coupling, S = beta (1 - Re tr P / N) for a single plaquette.
            n_points: quadrature points an axis; by default enough for any beta below 30.

        Raises:
            InputError: where the steps are so few that the inverse is not found.
        """
        n = self.group.n_colors
        n_points = n_points or (256 if n < 3 else 96 if n == 3 else 24)
        angles, haar = torus_grid(n, n_points)
        invariants = self._invariants(angles)
        d_re, d_im, laplacian = self._terms(invariants)
        re, _, rr, ri, _ = invariants
        worst = 0.0
        for node, s in enumerate(torch.linspace(0, 1, len(self.coefficients)).tolist()):
            weight = haar * torch.exp(s * beta * (re - 1))
            weight = weight / weight.sum()
            rows = laplacian + s * beta * (d_re * rr + d_im * ri)
            rows = rows - (rows * weight).sum(1, keepdim=True)
            wanted = -beta * (re - (re * weight).sum())
            root = weight.sqrt()
            scale = (rows.square() * weight).sum(1).sqrt().clamp_min(1e-300)
            solution = torch.linalg.lstsq(
                (rows * root / scale[:, None]).T, (wanted * root)[:, None], driver="gelsd", rcond=1e-12
            ).solution[:, 0]
            theta = solution / scale
            residual = float(((wanted - theta @ rows).square() * weight).sum())
            worst = max(worst, residual)
            self.coefficients[node] = theta.to(self.coefficients)
        some = angles[:: -(-len(angles) // 1024)].to(self.coefficients)
        off = (self.carry(self.carry(some)[0], -1.0)[0] - some).abs().amax()
        if not float(off) < 1e-9:
            raise InputError(
                f"{self.n_steps} steps at beta={beta} invert to {float(off):.0e}: raise n_steps"
            )
        return worst


def _sum(x: Tensor) -> Tensor:
    """Over the first axis, which is short."""
    rows = x.unbind(0)
    total = rows[0]
    for row in rows[1:]:
        total = total + row
    return total
