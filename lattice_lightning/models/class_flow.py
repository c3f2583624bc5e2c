"""The trivializing flow of a single plaquette: Haar measure to exp(beta Re tr P / N), almost exactly.

A class function W(P) = sum_i theta_i re^{a_i} im^{b_i} of re + i im = tr P / N makes the velocity
d_a W, which moves eigenvalues e^{i th_j} and keeps eigenvectors: a spectral flow (2008.05456) without
canonical order of eigenvalues, equivariant under their permutations. At the density exp(-s beta (1 - re))
the continuity equation Laplacian W + s beta d W . d re = -beta (re - <re>) (0907.5491) is solved by least
squares with exact quadrature over the maximal torus. log det is that of the discretised map.
"""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor, nn

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.models.continuous import node_weights
from lattice_lightning.models.loop_velocity import default_monomials
from lattice_lightning.models.plaquette_potential import Monomial, casimir

__all__ = ["ClassFlow", "torus_grid"]

#: from the error of the integrator, at most 1e-2, to rounding
NEWTON_STEPS = 3


def torus_grid(n_colors: int, n_points: int) -> tuple[Tensor, Tensor]:
    """Eigenangles of SU(N), ``[points, N]``, with weights of the Haar measure that sum to one.

    Trapezoidal, so exact for class functions of degree below ``n_points``; U(1) has one angle.
    """
    axis = (torch.arange(n_points, dtype=torch.float64) + 0.5) * (2 * pi / n_points) - pi
    if n_colors == 1:
        return axis[:, None], torch.full((n_points,), 1 / n_points, dtype=torch.float64)
    free = torch.meshgrid(*[axis] * (n_colors - 1), indexing="ij")
    angles = torch.stack([f.flatten() for f in free], 1)
    angles = torch.cat([angles, -angles.sum(1, keepdim=True)], 1)
    weights = _haar_density(angles)
    return angles, weights / weights.sum()


def _haar_density(angles: Tensor) -> Tensor:
    """prod_{i<j} |e^{i th_i} - e^{i th_j}|^2."""
    density = torch.ones_like(angles[..., 0])
    for i in range(angles.shape[-1]):
        for j in range(i):
            density = density * (2 * torch.sin((angles[..., i] - angles[..., j]) / 2)).square()
    return density


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

    def _tables(self, sign: float) -> Tensor:
        """Coefficients of W's derivatives re, im, re re, re im, im im at all stages, ``[stages, 5, m]``.

        m counts the products of powers of :meth:`_products`.
        """
        top = max(max(m) for m in self.monomials) + 1
        where = torch.zeros(len(self.monomials), 5, top * top, dtype=torch.float64)
        for i, (a, b) in enumerate(self.monomials):
            derivatives = (
                (a, a - 1, b), (b, a, b - 1), (a * (a - 1), a - 2, b), (a * b, a - 1, b - 1),
                (b * (b - 1), a, b - 2),
            )
            for k, (factor, c, d) in enumerate(derivatives):
                if factor:
                    where[i, k, c * top + d] = factor
        stages = node_weights(len(self.coefficients), 2 * self.n_steps + 1).to(self.coefficients)
        table = torch.einsum("si,ikm->skm", stages @ self.coefficients, where.to(self.coefficients))
        return table if sign > 0 else table.flip(0)

    def _speed(self, angles: Tensor, jacobian: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """d th_j / ds of ``[N, n]`` angles and of their derivatives ``[N, N - 1, n]``."""
        colors = self.group.n_colors
        sin, cos = angles.sin(), angles.cos()
        re, im = cos.mean(0), sin.mean(0)
        top = round(table.shape[1] ** 0.5)
        ones = torch.ones_like(re)
        powers = [ones], [ones]
        for _ in range(top - 1):
            powers[0].append(powers[0][-1] * re)
            powers[1].append(powers[1][-1] * im)
        products = (torch.stack(powers[0])[:, None] * torch.stack(powers[1])[None]).flatten(0, 1)
        g_re, g_im, g_rr, g_ri, g_ii = (table @ products).unbind(0)
        s, c = (sin, cos) if colors == 1 else (sin - im, cos - re)
        scale = 1.0 if colors == 1 else 1 / (2 * colors)
        speed = scale * (g_im * c - g_re * s)
        d_sin, d_cos = cos[:, None] * jacobian, -sin[:, None] * jacobian
        d_re, d_im = d_cos.mean(0), d_sin.mean(0)
        if colors > 1:
            d_sin, d_cos = d_sin - d_im, d_cos - d_re
        change_re, change_im = g_rr * d_re + g_ri * d_im, g_ri * d_re + g_ii * d_im
        change = change_im * c[:, None] - change_re * s[:, None] + g_im * d_cos - g_re * d_sin
        return speed, scale * change

    def _carry(self, angles: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        """Angles ``[N, n]`` and their Jacobian by the first N - 1, of the discretised map."""
        colors = self.group.n_colors
        free = max(colors - 1, 1)
        jacobian = torch.eye(colors, free, dtype=angles.dtype, device=angles.device)
        if colors > 1:
            jacobian[-1] = -1
        jacobian = jacobian[:, :, None].expand(-1, -1, angles.shape[1])
        table, h = self._tables(sign).to(angles), sign / self.n_steps
        for k in range(self.n_steps):
            begin, middle, end = table[2 * k : 2 * k + 3]
            k1, j1 = self._speed(angles, jacobian, begin)
            k2, j2 = self._speed(angles + h / 2 * k1, jacobian + h / 2 * j1, middle)
            k3, j3 = self._speed(angles + h / 2 * k2, jacobian + h / 2 * j2, middle)
            k4, j4 = self._speed(angles + h * k3, jacobian + h * j3, end)
            angles = angles + h / 6 * (k1 + 2 * (k2 + k3) + k4)
            jacobian = jacobian + h / 6 * (j1 + 2 * (j2 + j3) + j4)
        return angles, jacobian[:free]

    def carry(self, angles: Tensor, sign: float = 1.0) -> tuple[Tensor, Tensor]:
        """Eigenangles ``[..., N]`` by the map (sign -1: its inverse), and log det by the Haar measure."""
        flat = angles.reshape(-1, angles.shape[-1]).T
        moved, jacobian = self._carry(flat, sign)
        if sign < 0:
            # integrating back is the inverse to the order of the scheme; Newton's steps make it that
            for _ in range(NEWTON_STEPS):
                forth, jacobian = self._carry(moved, 1.0)
                miss = (flat - forth)[: len(jacobian)].movedim(0, -1)
                step = torch.linalg.solve(jacobian.movedim(-1, 0), miss.unsqueeze(-1)).squeeze(-1).T
                if self.group.n_colors > 1:
                    step = torch.cat([step, -step.sum(0, keepdim=True)])
                moved = moved + step
            _, jacobian = self._carry(moved, 1.0)
        log_det = sign * torch.linalg.det(jacobian.movedim(-1, 0)).abs().log()
        if self.group.n_colors > 1:
            before, after = _haar_density(flat.T), _haar_density(moved.T)
            # degenerate eigenvalues, as of the unit matrix, stay so
            tiny = torch.finfo(angles.dtype).tiny
            both = (before > tiny) & (after > tiny)
            log_det = log_det + (torch.where(both, after, 1.0) / torch.where(both, before, 1.0)).log()
        return moved.T.reshape(angles.shape), log_det.reshape(angles.shape[:-1])

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
        angles, vectors = _diagonalise(elements)
        moved, log_det = self.carry(angles, sign)
        phases = torch.polar(torch.ones_like(moved), moved)
        return (vectors * phases.unsqueeze(-2)) @ vectors.mH, log_det

    # -- fit -----------------------------------------------------------------------------------

    @torch.no_grad()
    def fit(self, beta: float, n_points: int | None = None) -> float:
        """Solve the continuity equation for exp(beta Re tr P / N); returns the largest residual variance.

        Args:
            beta: coupling, S = beta (1 - Re tr P / N) for a single plaquette.
            n_points: quadrature points an axis; by default enough for any beta below 30.
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
        return worst


def _diagonalise(elements: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenangles ``[..., N]`` and orthonormal eigenvectors of unitary matrices.

    Of a hermitian combination of P and P^dag, whose eigenvectors are orthonormal even where eigenvalues
    meet; another combination where the first has eigenvalues that meet and P has not.
    """
    real, imaginary = 0.5 * (elements + elements.mH), -0.5j * (elements - elements.mH)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for a, b in ((0.8, 0.6), (0.28, -0.96)):
        vectors = torch.linalg.eigh(a * real + b * imaginary)[1]
        rotated = vectors.mH @ elements @ vectors
        phases = torch.diagonal(rotated, dim1=-2, dim2=-1)
        off = rotated - torch.diag_embed(phases)
        error = off.abs().square().sum((-2, -1))
        angles = phases.angle()
        if best is not None:
            better = error < best[2]
            angles = torch.where(better.unsqueeze(-1), angles, best[0])
            vectors = torch.where(better[..., None, None], vectors, best[1])
            error = torch.minimum(error, best[2])
        best = (angles, vectors, error)
        if float(error.detach().amax()) < 1e-20:
            break
    assert best is not None
    # the determinant is one: put the angles on the plane where they add up to zero
    angles, vectors, _ = best
    excess = angles.sum(-1, keepdim=True)
    first = torch.zeros_like(angles)
    first[..., :1] = excess
    return angles - first, vectors
