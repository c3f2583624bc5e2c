"""Pseudofermion action of one staggered field.

On the even sites, S_f = phi_e^dag (D D^dag)_ee^-1 phi_e with phi_e = (D xi)_e weighs fields with
det D: 2^{d/2} tastes, 4 in four dimensions. On all sites it is (det D)^2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lattice_lightning.actions.base import Aux, GaugeAction
from lattice_lightning.exceptions import InputError
from lattice_lightning.fermions import EVEN, ODD, StaggeredOperator
from lattice_lightning.groups import FieldSpace
from lattice_lightning.lattice import Lattice

__all__ = ["IterationCounter", "StaggeredFermion", "pseudofermion_values"]


class IterationCounter:
    """Solver iterations for each chain, by purpose, until somebody pops them."""

    def __init__(self) -> None:
        self._counts: dict[str, Tensor] = {}

    def add(self, purpose: str, iterations: Tensor) -> None:
        """Add the iterations of one solve."""
        if purpose in self._counts and self._counts[purpose].shape == iterations.shape:
            self._counts[purpose] = self._counts[purpose] + iterations
        else:
            self._counts[purpose] = iterations.clone()

    def pop(self) -> dict[str, Tensor]:
        """The counts so far; starts again from zero."""
        counts, self._counts = self._counts, {}
        return counts


def pseudofermion_values(
    operator: StaggeredOperator,
    links: Tensor,
    phi: Tensor,
    masses: Sequence[float | Tensor],
    tolerance: float,
    max_iterations: int,
    counter: IterationCounter,
    purpose: str,
    strict: bool,
    what: str,
) -> Tensor:
    """phi^dag (D D^dag)^-1 phi for all masses, ``[masses, batch]``, differentiable in the links.

    Args:
        operator: staggered operator.
        links: packed links, possibly the output of a network.
        phi: pseudofermions ``[batch, parities, V/2, N, 2]`` (one or two parities).
        masses: one value a mass; one multi-shift solve serves all. A tensor, one number or the same for
            each chain, gets its derivative.
        tolerance: relative residual; the value's error is quadratic in it.
        max_iterations: limit a solve.
        counter: receives the iterations under ``purpose``.
        purpose: ``md`` or ``accept``.
        strict: raise when a chain does not converge; otherwise its values are nan.
        what: name for messages.

    Raises:
        ConvergenceError: when ``strict`` and a chain does not converge.
    """
    operator = operator.to(links.device)
    matrices = operator.hop_matrices(links)
    numbers = [float(m.detach().flatten()[0]) if isinstance(m, Tensor) else m for m in masses]
    total: Tensor | None = None
    for parity in range(phi.shape[1]):
        b = phi[:, parity].permute(3, 2, 1, 0).contiguous()
        solution = operator.solve(matrices, b, numbers, parity, tolerance, max_iterations)
        counter.add(purpose, solution.iterations)
        if strict:
            solution.require_converged(what, tolerance, max_iterations)
        values = []
        for mass, x in zip(masses, solution.x, strict=True):
            if not bool(solution.converged.all()):
                x = torch.where(solution.converged, x, float("nan"))
            fixed = 2 * (b * x).sum((0, 1, 2)) - mass**2 * x.square().sum((0, 1, 2))
            values.append(fixed - operator.hop_norm(links, matrices, x, parity))
        total = torch.stack(values) if total is None else total + torch.stack(values)
    assert total is not None
    return total


class StaggeredFermion(GaugeAction):
    """S_f[phi, U; m] of one staggered pseudofermion field.

    Args:
        lattice: even extents.
        group: gauge group of the links.
        mass: positive bare mass.
        boundary: phase of each direction; antiperiodic in time by default.
        even_sites_only: True for det D (4 tastes in 4d), False for (det D)^2.
        tolerance_md: relative residual of solves in molecular dynamics.
        tolerance_accept: relative residual of solves for the accept step.
        max_iterations: limit a solve.
        name: key of its field in ``aux``.
        compiled: force or forbid the compiled hop.

    Raises:
        InputError: for a mass that is not positive, odd extents, or tolerances out of order.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> action = StaggeredFermion(lattice, group, mass=0.5)
        >>> aux, value = action.refresh(group.cold(lattice, 3), torch.Generator().manual_seed(1))
        >>> value.shape, aux["fermion"].shape
        (torch.Size([3]), torch.Size([3, 1, 8, 2, 2]))
    """

    def __init__(
        self,
        lattice: Lattice,
        group: FieldSpace,
        mass: float,
        boundary: Sequence[int] | None = None,
        even_sites_only: bool = True,
        tolerance_md: float = 1e-7,
        tolerance_accept: float = 1e-10,
        max_iterations: int = 5000,
        name: str = "fermion",
        compiled: bool | None = None,
    ) -> None:
        super().__init__(lattice, group)
        if not 0 < mass < float("inf"):
            raise InputError(f"the staggered mass must be positive and finite, got mass={mass}")
        if not 0 < tolerance_accept <= tolerance_md < 1:
            raise InputError(
                "expected 0 < tolerance_accept <= tolerance_md < 1, got "
                f"tolerance_accept={tolerance_accept}, tolerance_md={tolerance_md}"
            )
        self.operator = StaggeredOperator(lattice, group, boundary, compiled)
        self.mass, self.name, self.even_sites_only = float(mass), name, even_sites_only
        self.tolerances = {"md": float(tolerance_md), "accept": float(tolerance_accept)}
        self.max_iterations = int(max_iterations)
        self.counter = IterationCounter()

    def refresh(self, field: Tensor, rng: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        """phi = D xi; the value is |xi|^2 on all sites, and needs a solve on even sites only.

        (phi_e = m xi_e + K xi_o has the covariance (D D^dag)_ee, but phi_e^dag (..)^-1 phi_e is the
        norm of xi projected to half its components.)
        """
        self.space.check_field(field, self.lattice)
        operator = self.operator.to(field.device)
        with torch.no_grad():
            matrices = operator.hop_matrices(self.space.pack(field))
            xi = [operator.gaussian(field.shape[0], rng) for _ in (EVEN, ODD)]
            parities = (EVEN,) if self.even_sites_only else (EVEN, ODD)
            phi = [
                self.mass * xi[p] + operator.hop(matrices, xi[1 - p], p) for p in parities
            ]
            aux = {self.name: torch.stack([f.permute(3, 2, 1, 0) for f in phi], 1).contiguous()}
            if self.even_sites_only:
                return aux, self.value(field, aux)
            return aux, torch.stack([x.square().sum((0, 1, 2)) for x in xi]).sum(0)

    def packed_value(self, links: Tensor, aux: Aux, *, tolerance: str, strict: bool) -> Tensor:
        """S_f for each chain."""
        if self.name not in aux:
            raise InputError(
                f"the action needs the pseudofermions {self.name!r} in aux, which has "
                f"{sorted(aux)}; draw them with refresh()"
            )
        return pseudofermion_values(
            self.operator,
            links,
            aux[self.name],
            [self.mass],
            self.tolerances[tolerance],
            self.max_iterations,
            self.counter,
            tolerance,
            strict,
            f"staggered fermion {self.name!r}, mass {self.mass}",
        )[0]

    def pop_iterations(self) -> dict[str, Tensor]:
        """Iterations for each chain since the last call."""
        return self.counter.pop()
