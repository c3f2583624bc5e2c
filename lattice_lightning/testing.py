"""Checks for your own actions, models and kernels; the package's tests are made of them.

Each draws its own random fields from a generator, raises AssertionError that names the worst chain,
and returns the largest deviation.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lattice_lightning.actions import Action
from lattice_lightning.groups import Group
from lattice_lightning.lattice import Lattice
from lattice_lightning.samplers import SelfLearningHMC

__all__ = [
    "assert_charge_conjugation",
    "assert_force",
    "assert_gauge_covariant",
    "assert_gauge_invariant",
    "assert_jacobian",
    "assert_reversible",
    "assert_rotation_covariant",
    "assert_translation_covariant",
    "permute_axes",
    "reflect",
    "translate",
]

LinkFunction = Callable[[Tensor], Tensor]


def _worst(difference: Tensor, tolerance: float, what: str) -> float:
    per_chain = difference.detach().abs().flatten(1).amax(1)
    if not bool((per_chain <= tolerance).all()):
        chain = int(per_chain.argmax())
        raise AssertionError(
            f"{what}: off by {float(per_chain[chain]):.2e} in chain {chain}, allowed {tolerance:.0e}"
        )
    return float(per_chain.max())


def _distance(group: Group, a: Tensor, b: Tensor) -> Tensor:
    # angles are equal up to 2 pi
    return torch.remainder(a - b + torch.pi, 2 * torch.pi) - torch.pi if group.name == "U(1)" else a - b


def assert_gauge_covariant(
    function: LinkFunction,
    group: Group,
    lattice: Lattice,
    rng: torch.Generator,
    n_chains: int = 2,
    tolerance: float = 1e-10,
) -> float:
    """f(U^G) = f(U)^G for a map of links to links in the public layout.

    Example:
        >>> from lattice_lightning.groups import SU2
        >>> from lattice_lightning.models import CovNet
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> network = CovNet(lattice, group, init_scale=0.1)
        >>> rng = torch.Generator().manual_seed(1)
        >>> assert_gauge_covariant(network.transform, group, lattice, rng) < 1e-10
        True
    """
    links = group.hot(lattice, n_chains, rng)
    g = group.haar((n_chains, *lattice.shape), rng)
    with torch.no_grad():
        left = function(group.transform(links, g, lattice))
        right = group.transform(function(links), g, lattice)
    return _worst(_distance(group, left, right), tolerance, "gauge covariance f(U^G) = f(U)^G")


def assert_gauge_invariant(
    function: LinkFunction,
    group: Group,
    lattice: Lattice,
    rng: torch.Generator,
    n_chains: int = 2,
    tolerance: float = 1e-9,
) -> float:
    """f(U^G) = f(U) for a function of links with one row a chain."""
    links = group.hot(lattice, n_chains, rng)
    g = group.haar((n_chains, *lattice.shape), rng)
    with torch.no_grad():
        difference = function(group.transform(links, g, lattice)) - function(links)
    return _worst(difference.reshape(n_chains, -1), tolerance, "gauge invariance f(U^G) = f(U)")


def translate(lattice: Lattice, links: Tensor, mu: int, steps: int = 1) -> Tensor:
    """Links moved along an axis, public layout ``[batch, mu, *lattice, ...]``."""
    return torch.roll(links, steps, dims=2 + mu)


def permute_axes(lattice: Lattice, links: Tensor, order: Sequence[int]) -> Tensor:
    """Links with the axes renamed, for lattices whose extents allow it."""
    d = lattice.ndim
    matrix = range(2 + d, links.ndim)
    return links[:, list(order)].permute(0, 1, *(2 + a for a in order), *matrix).contiguous()


def reflect(group: Group, lattice: Lattice, links: Tensor, mu: int) -> Tensor:
    """Links under x_mu -> -x_mu: U'_mu(n) = U_mu(-n - mu)^dag, U'_nu(n) = U_nu(-n)."""
    axis = 2 + mu
    # n -> -n modulo the extent
    flipped = torch.roll(torch.flip(links, (axis,)), 1, dims=axis)
    along = torch.roll(flipped[:, mu], -1, dims=1 + mu)
    flipped = flipped.clone()
    flipped[:, mu] = -along if group.name == "U(1)" else along.mH
    return flipped


def assert_translation_covariant(
    function: LinkFunction, group: Group, lattice: Lattice, rng: torch.Generator, tolerance: float = 1e-10
) -> float:
    """f(T U) = T f(U) for steps along every axis."""
    links, worst = group.hot(lattice, 2, rng), 0.0
    with torch.no_grad():
        for mu in range(lattice.ndim):
            left, right = function(translate(lattice, links, mu)), translate(lattice, function(links), mu)
            what = f"translation along axis {mu}"
            worst = max(worst, _worst(_distance(group, left, right), tolerance, what))
    return worst


def assert_rotation_covariant(
    function: LinkFunction,
    group: Group,
    lattice: Lattice,
    rng: torch.Generator,
    spatial_only: bool = False,
    tolerance: float = 1e-10,
) -> float:
    """f(R U) = R f(U) for exchanges of two axes of equal extent and reflections of every axis."""
    links, d, worst = group.hot(lattice, 2, rng), lattice.ndim, 0.0
    last = d - 1 if spatial_only else d
    with torch.no_grad():
        for a in range(d):
            left = function(reflect(group, lattice, links, a))
            right = reflect(group, lattice, function(links), a)
            worst = max(worst, _worst(_distance(group, left, right), tolerance, f"reflection of axis {a}"))
        for a in range(last):
            for b in range(a + 1, last):
                if lattice.shape[a] != lattice.shape[b]:
                    continue
                order = list(range(d))
                order[a], order[b] = b, a
                left = function(permute_axes(lattice, links, order))
                right = permute_axes(lattice, function(links), order)
                what = f"exchange of axes {a} and {b}"
                worst = max(worst, _worst(_distance(group, left, right), tolerance, what))
    return worst


def assert_charge_conjugation(
    function: LinkFunction, group: Group, lattice: Lattice, rng: torch.Generator, tolerance: float = 1e-10
) -> float:
    """f(U^*) = f(U)^*."""
    links = group.hot(lattice, 2, rng)

    def conjugate(field: Tensor) -> Tensor:
        return -field if group.name == "U(1)" else field.conj().resolve_conj()

    with torch.no_grad():
        left, right = function(conjugate(links)), conjugate(function(links))
    return _worst(_distance(group, left, right), tolerance, "charge conjugation f(U*) = f(U)*")


def assert_force(
    action: Action,
    field: Tensor,
    aux: Mapping[str, Tensor],
    rng: torch.Generator,
    step: float = 1e-3,
    tolerance: float = 1e-7,
) -> float:
    """Force against a fourth-order finite difference of the value in a random algebra direction.

    Args:
        action: its MD solver tolerance must be tight (1e-12) for a tight check.
        field: public layout.
        aux: auxiliary fields, as from ``refresh``.
        rng: draws the direction.
        step: of the finite difference.
        tolerance: allowed deviation relative to the size of the derivative.

    Example:
        >>> from lattice_lightning.actions import WilsonGauge
        >>> from lattice_lightning.groups import SU2
        >>> lattice, group = Lattice((4, 4)), SU2()
        >>> rng = torch.Generator().manual_seed(1)
        >>> action = WilsonGauge(lattice, group, beta=2.0)
        >>> assert_force(action, group.hot(lattice, 2, rng), {}, rng) < 1e-8
        True
    """
    direction = action.space.momentum(field, rng)
    direction = direction / direction.flatten(1).norm(dim=1).reshape(-1, *[1] * (direction.ndim - 1))

    def value(t: float) -> Tensor:
        return action.value(action.space.evolve(field, t * direction), aux)

    difference = 8 * (value(step) - value(-step)) - (value(2 * step) - value(-2 * step))
    expected = difference / (12 * step)
    force = action.force(field, aux)
    got = (force * direction).flatten(1).sum(1)
    scale = torch.maximum(force.flatten(1).norm(dim=1) / force[0].numel() ** 0.5, torch.ones_like(got))
    return _worst(((got - expected) / scale).unsqueeze(1), tolerance, f"force of {type(action).__name__}")


def assert_jacobian(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, tolerance: float = 1e-9
) -> float:
    """Claimed log|det J| of a map (value, log-determinant) against autograd's Jacobian.

    Args:
        function: ``[batch, ...] -> ([batch, ...], [batch])``, chain by chain.
        x: real points ``[batch, ...]``, small.
        tolerance: allowed deviation.
    """
    _, claimed = function(x)
    found = []
    for point in x:
        jacobian = torch.autograd.functional.jacobian(
            lambda p: function(p.unsqueeze(0))[0].squeeze(0), point
        )
        n = point.numel()
        found.append(torch.linalg.slogdet(jacobian.reshape(n, n))[1])
    return _worst((claimed - torch.stack(found)).unsqueeze(1), tolerance, "log-determinant")


def assert_reversible(
    kernel: SelfLearningHMC, field: Tensor, rng: torch.Generator, tolerance: float = 1e-9
) -> float:
    """|change of H| after a trajectory forward and back stays below the tolerance in every chain."""
    error = kernel.reversal_error(rng, kernel.init(field, rng))
    return _worst(error.unsqueeze(1), tolerance, "reversibility")
