"""Every link map of the package, on small lattices in two to four dimensions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from lattice_lightning.groups import SU2, SUN, U1, Group
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import ApeLayer, Cask, CaskBlock, CovNet, LinkMap, LinkMapStack, StoutLayer

GROUPS = {"U1": U1(), "SU2": SU2(), "SU3": SUN(3)}
SHAPES = {"2d": (4, 4), "3d": (3, 3, 4), "4d": (3, 3, 3, 3)}


@dataclass(frozen=True)
class Kind:
    """A map: how to make it, what it is symmetric under, what it is tried on beside two dimensions.

    ``reflects``: the published closing U' = exp(k [C (U^V)^dag]_TA) U is covariant under x_mu -> -x_mu
    on the links along mu only where U^V commutes with U, that is for U(1) or at rho^V = 0.
    """

    make: Callable[[Lattice, Group], LinkMap]
    same_in_time: bool = True
    reflects: bool = True
    also: str = "3d-SU2"
    groups: str = "U1 SU2 SU3"


def stack(lattice, group):
    return LinkMapStack([CovNet(lattice, group, n_layers=1), CaskBlock(lattice, group, s_max=1)])


KINDS = {
    "stout": Kind(StoutLayer, same_in_time=False, also="3d-SU3"),
    "stout_without_loops": Kind(partial(StoutLayer, straight_loops=False)),
    "ape": Kind(ApeLayer, groups="U1 SU2"),
    "covnet": Kind(CovNet, same_in_time=False, also="4d-SU2"),
    "covnet_ape": Kind(partial(CovNet, kind="ape"), also="4d-SU2", groups="U1 SU2"),
    "block_s1": Kind(partial(CaskBlock, s_max=1)),
    "block_s2_heads3": Kind(partial(CaskBlock, s_max=2, n_heads=3), also="3d-SU2 4d-SU2"),
    "block_s3": Kind(partial(CaskBlock, s_max=3), also=""),
    "block_output_stout": Kind(partial(CaskBlock, s_max=2, output_stout=True)),
    "block_lengths": Kind(partial(CaskBlock, s_max=2, n_heads=2, length_weights=True)),
    "block_offsets": Kind(partial(CaskBlock, s_max=2, n_heads=2, offsets=True)),
    "block_straight": Kind(
        partial(CaskBlock, s_max=1, offsets=True, straight_loops=True), same_in_time=False, also="3d-SU3"
    ),
    "block_unbounded": Kind(partial(CaskBlock, s_max=1, bounded=False), also="3d-SU3"),
    "block_published": Kind(partial(CaskBlock, s_max=2, closing="value"), reflects=False),
    "cask_published": Kind(partial(Cask, n_blocks=2, s_max=1, closing="value"), reflects=False, also=""),
    "cask": Kind(partial(Cask, n_blocks=2, s_max=2), also=""),
    "cask_on_covnet": Kind(
        partial(Cask, s_max=2, covnet_layers=1, n_heads=3, output_stout=True, length_weights=True),
        same_in_time=False,
    ),
    "stack": Kind(stack, same_in_time=False),
}


def randomise(network: LinkMap, seed: int = 7, scale: float = 0.1) -> LinkMap:
    """Random weights, none of them zero."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * (0.5 + torch.rand(parameter.shape, generator=rng, dtype=torch.float64)))
    return network


@dataclass(frozen=True)
class Case:
    """A map with random weights on a lattice with a group."""

    kind: Kind
    group: Group
    lattice: Lattice

    def network(self, seed: int = 7) -> LinkMap:
        return randomise(self.kind.make(self.lattice, self.group), seed)

    def links(self, rng: torch.Generator, n_chains: int = 2) -> torch.Tensor:
        return self.group.hot(self.lattice, n_chains, rng)


CASES = [
    pytest.param(Case(kind, GROUPS[group], Lattice(SHAPES[shape])), id=f"{name}-{shape}-{group}")
    for name, kind in KINDS.items()
    for shape, group in [
        *(("2d", group) for group in kind.groups.split()),
        *(tuple(extra.split("-")) for extra in kind.also.split()),
    ]
]


def matrices(links):
    """Links of every chain as arrays [mu, *lattice, N, N]."""
    if not links.is_complex():
        links = torch.exp(1j * links)[..., None, None]
    return links.numpy()


def assert_equals_naive(network, links, naive):
    """The map of every chain against a function of one array of matrices."""
    with torch.no_grad():
        mapped = matrices(network.transform(links))
    for got, chain in zip(mapped, matrices(links), strict=True):
        np.testing.assert_allclose(got, naive(chain), rtol=0, atol=1e-12)
