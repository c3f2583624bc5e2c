"""Stout smearing (hep-lat/0311018), isotropic.

U'_mu(n) = exp(i Q_mu(n)) U_mu(n), Q = (i/2) (Omega^dag - Omega) minus its trace part (eq. 2),
Omega_mu(n) = rho C_mu(n) U_mu(n)^dag (eq. 1), C_mu(n) the sum of the 2(d-1) staples: i Q = [Omega]_TA.
U(1) keeps the trace. The covariant network (:mod:`lattice_lightning.models.covnet`) has 2 [Omega]_TA in
the exponent: rho is twice its plaquette weight.

One step follows minus the gradient of the Wilson action: in U' = exp(i w_a T_a) U,
w_a = -(2 N rho / beta) dS/dw_a (U(1): -(rho / beta) dS/dw).
"""

from math import isfinite

from torch import Tensor

from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge.staples import staple_sum
from lattice_lightning.groups import Group
from lattice_lightning.lattice import Lattice

__all__ = ["stout"]


def stout(group: Group, lattice: Lattice, links: Tensor, rho: float, n_steps: int = 1) -> Tensor:
    """Smeared links, packed like the links ``[*components, mu, *lattice, batch]``.

    A weak transverse wave of momentum p shrinks by 1 - rho phat^2 a step, phat^2 <= 4d: above
    rho = 1/(2d) the shortest waves grow instead.

    Args:
        group: gauge group.
        lattice: the lattice.
        links: packed links.
        rho: weight of the staples.
        n_steps: number of steps, 0 for none.

    Raises:
        InputError: for a weight that is not finite or a negative number of steps.

    Example:
        >>> import torch
        >>> from lattice_lightning.groups import SU2
        >>> group, lattice = SU2(), Lattice((4, 4))
        >>> links = group.pack(group.hot(lattice, 2, torch.Generator().manual_seed(1)))
        >>> smeared = stout(group, lattice, links, rho=0.1, n_steps=3)
        >>> float(group.defect(group.unpack(smeared)).max()) < 1e-14
        True
    """
    if not isfinite(rho) or n_steps != int(n_steps) or n_steps < 0:
        raise InputError(
            f"stout smearing needs a finite rho and 0, 1, 2, ... steps, got rho = {rho} and "
            f"n_steps = {n_steps}; a usual choice is rho = 0.1 and 3 steps"
        )
    for _ in range(int(n_steps)):
        omega = group.mul_nh(staple_sum(group, lattice, links), links)
        links = group.mul(group.exp(rho * group.project(omega)), links)
    return links
