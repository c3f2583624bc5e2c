"""Maps of group elements that move eigenvalues and keep eigenvectors, another one for every element.

2008.05456, section III, sorts the eigenvalues into a fundamental cell and bends that cell by splines. Here
a class function W(P) = sum_i theta_i re^{a_i} im^{b_i}, re + i im = tr P / N, makes the velocity d_a W,
along which the eigenangles flow for unit time: equivariant under permutations of the eigenvalues without
sorting them, so smooth where eigenvalues meet (at the cell's walls, where a spline has to be made so), and
one code for every N. What is lost is a closed form of the inverse. log det is that of the discretised map.

A step of a Runge-Kutta scheme may fold, and the density of a folded map is none. With |v|_Lip the Lipschitz
constant of the velocity a step of length h is one to one where exp(h |v|_Lip) - 1 < 1. The variances of
cos th_j and sin th_j over j add up to 1 - rho^2, rho^2 = re^2 + im^2, so by W as a function of re and im
|v|_Lip <= max [|Hessian W| (1 - rho^2) + |grad W|] / 2N over the disc. Coefficients are shrunk so that the
sum of the bounds of the terms times h stays below STEP_BOUND.
"""

from math import pi

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import FieldSpace, Group
from lattice_lightning.models.class_torus import determinant, solve
from lattice_lightning.models.plaquette_potential import Monomial
from lattice_lightning.models.unitary_eigen import Rebuild, closed, distance_ratios, eigen

__all__ = ["SpectralMap"]

NEWTON_STEPS = 20
#: largest h |v|_Lip; at most log 2
STEP_BOUND = 0.6


class SpectralMap:
    """P = V e^{i th} V^dag to V e^{i th'} V^dag, with log det by the Haar measure.

    Zero coefficients are the identity, and any are one to one. The derivatives by P and theta are those of
    the map, also where eigenvalues meet, and those of its inverse.

    Args:
        group: SU(N).
        degree: of the class functions.
        n_steps: Runge-Kutta steps; twice as many let the map be twice as far from the identity.

    Raises:
        InputError: for another group, or numbers that are not positive.

    Example:
        >>> from lattice_lightning.groups import SUN
        >>> rng = torch.Generator().manual_seed(1)
        >>> h, p = SpectralMap(SUN(3), degree=2), SUN(3).haar((5,), rng)
        >>> theta = torch.randn(len(h.monomials), 5, generator=rng, dtype=torch.float64)
        >>> q, log_det = h(p, theta)
        >>> torch.allclose(h(q, theta, inverse=True)[0], p)
        True
    """

    def __init__(self, group: FieldSpace, degree: int = 4, n_steps: int = 4) -> None:
        if not isinstance(group, Group) or group.n_colors < 2:
            raise InputError(f"spectral maps are for SU(N), got {group.name}; of U(1): PlaquetteCoupling")
        if degree < 1 or n_steps < 1:
            raise InputError(f"expected degree >= 1 and n_steps >= 1, got {degree} and {n_steps}")
        self.group, self.n_steps = group, int(n_steps)
        odd = 0 if group.n_colors == 2 else 1
        self.monomials: list[Monomial] = [
            (d - b, b) for d in range(1, degree + 1) for b in range(odd * d + 1)
        ]
        self._lipschitz = torch.tensor([_steepness(*m) for m in self.monomials]) / (2 * group.n_colors)
        derivatives = [
            ((a, a - 1, b), (b, a, b - 1), (a * (a - 1), a - 2, b), (a * b, a - 1, b - 1),
             (b * (b - 1), a, b - 2))
            for a, b in self.monomials
        ]
        self._powers = sorted({(c, d) for five in derivatives for factor, c, d in five if factor})
        self._where = torch.zeros(5, len(self._powers), len(self.monomials), dtype=torch.float64)
        for i, five in enumerate(derivatives):
            for k, (factor, c, d) in enumerate(five):
                if factor:
                    # sum_a of two traces with T_a halves
                    self._where[k, self._powers.index((c, d)), i] = factor / (2 * group.n_colors)

    def __call__(self, elements: Tensor, theta: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """Map elements, or map them back to rounding.

        Args:
            elements: ``[n, N, N]``.
            theta: coefficients of W, ``[terms, n]``, in the order of ``monomials``.
            inverse: the inverse map instead.

        Returns:
            The images and log det of the map that was asked for, ``[n]``; nan where Newton's method does
            not find the preimage.
        """
        vectors, angles = eigen(elements)
        table = self._where.to(theta).flatten(0, 1) @ self.bounded(theta)
        table = table.unflatten(0, self._where.shape[:2])
        if inverse:
            moved, jacobian, lost = self._carry_back(angles, table)
            ratios = 1 / distance_ratios(moved, angles, jacobian)
        else:
            moved, jacobian = self._carry(angles, table)
            ratios, lost = distance_ratios(angles, moved, jacobian), None
        log_det = determinant(jacobian).abs().log()
        log_det = (-log_det if inverse else log_det) + 2 * ratios.abs().log().sum(0)
        if lost is not None:
            log_det = log_det.masked_fill(lost, torch.nan)
        if vectors is None:
            # cos th + i sin th n.sigma: the second part stretches
            eye = torch.eye(2, dtype=elements.dtype, device=elements.device)
            axis = 0.5 * (elements - elements.mH)
            return ratios[0, :, None, None] * axis + moved[0].cos()[:, None, None] * eye, log_det
        image: Tensor = Rebuild.apply(elements, vectors, closed(angles), closed(moved), ratios)
        return image, log_det

    def bounded(self, theta: Tensor) -> Tensor:
        """The coefficients that are used: shrunk together, little where they are small."""
        steepness = (self._lipschitz.to(theta) @ theta.abs()) / (STEP_BOUND * self.n_steps)
        return theta * torch.rsqrt(1 + steepness.square())

    def _speed(self, angles: Tensor, jacobian: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """d th_j / ds of the free angles ``[f, n]`` and of their derivatives ``[f, f, n]``."""
        n = self.group.n_colors
        sin, cos = angles.sin(), angles.cos()
        last = -angles.sum(0)
        sin_last, cos_last = last.sin(), last.cos()
        re, im = (cos.sum(0) + cos_last) / n, (sin.sum(0) + sin_last) / n
        re_powers, im_powers = [torch.ones_like(re), re], [torch.ones_like(im), im]
        for _ in range(2, max(map(max, self._powers)) + 1):
            re_powers.append(re_powers[-1] * re)
            im_powers.append(im_powers[-1] * im)
        products = torch.stack(
            [re_powers[a] * im_powers[b] if b else re_powers[a] for a, b in self._powers]
        )
        g_re, g_im, g_rr, g_ri, g_ii = (table * products).sum(1).unbind(0)
        s, c = sin - im, cos - re
        # the last angle is minus the sum of the others
        d_re = ((sin_last - sin)[:, None] * jacobian).sum(0) / n
        d_im = ((cos - cos_last)[:, None] * jacobian).sum(0) / n
        change = (
            (g_ri * d_re + g_ii * d_im) * c[:, None] - (g_rr * d_re + g_ri * d_im) * s[:, None]
            - (g_im * sin + g_re * cos)[:, None] * jacobian + (g_re * d_im - g_im * d_re)
        )
        return g_im * c - g_re * s, change

    def _carry(self, angles: Tensor, table: Tensor, time: float = 1.0) -> tuple[Tensor, Tensor]:
        """Free angles ``[f, n]`` and their Jacobian ``[f, f, n]``, of the discretised map."""
        jacobian = torch.eye(len(angles), dtype=angles.dtype, device=angles.device)
        jacobian, h = jacobian[:, :, None].expand(-1, -1, angles.shape[1]), time / self.n_steps
        for _ in range(self.n_steps):
            k1, j1 = self._speed(angles, jacobian, table)
            k2, j2 = self._speed(angles + h / 2 * k1, jacobian + h / 2 * j1, table)
            k3, j3 = self._speed(angles + h / 2 * k2, jacobian + h / 2 * j2, table)
            k4, j4 = self._speed(angles + h * k3, jacobian + h * j3, table)
            angles = angles + h / 6 * (k1 + 2 * (k2 + k3) + k4)
            jacobian = jacobian + h / 6 * (j1 + 2 * (j2 + j3) + j4)
        return angles, jacobian

    def _carry_back(self, angles: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The free angles that are carried to these, the Jacobian there, and which were not found."""
        with torch.no_grad():
            tolerance = 16 * torch.finfo(angles.dtype).eps
            # integrating back is the inverse to the order of the scheme
            start, _ = self._carry(angles, table, -1.0)
            for _ in range(NEWTON_STEPS):
                forth, jacobian = self._carry(start, table)
                miss = angles - forth
                start = start + solve(jacobian, miss).clamp(-1, 1)
                if not bool((miss.abs() > tolerance).any()):
                    break
        # one more step carries the derivatives of the implicit function
        forth, jacobian = self._carry(start, table)
        miss = angles - forth
        start = start + solve(jacobian.detach(), miss)
        lost = ~(miss.detach().abs() < tolerance ** 0.5).all(0)
        return start, self._carry(start, table)[1], lost


def _steepness(a: int, b: int) -> float:
    """Largest |Hessian W| (1 - rho^2) + |grad W| of W = re^a im^b in the disc."""
    rho = torch.linspace(0, 1, 201, dtype=torch.float64)[:, None]
    phi = torch.linspace(0, pi / 2, 201, dtype=torch.float64)
    x, y = rho * phi.cos(), rho * phi.sin()

    def term(factor: int, c: int, d: int) -> Tensor:
        return factor * x**c * y**d if factor else torch.zeros_like(x)

    xx, xy, yy = term(a * (a - 1), a - 2, b), term(a * b, a - 1, b - 1), term(b * (b - 1), a, b - 2)
    hessian = (xx + yy).abs() / 2 + torch.hypot((xx - yy) / 2, xy)
    bound = hessian * (1 - rho * rho) + torch.hypot(term(a, a - 1, b), term(b, a, b - 1))
    # a per cent for what lies between the points
    return 1.01 * float(bound.max())
