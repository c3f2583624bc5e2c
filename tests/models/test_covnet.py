"""Stout and APE layers against sums written out site by site."""

import numpy as np
import pytest
import reference
import torch
from link_map_cases import GROUPS, assert_equals_naive, randomise

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SUN, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import ApeLayer, CovNet, LinkMapStack, StoutLayer


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("shape", [(4, 4), (2, 4), (2, 3, 4), (2, 2, 2, 3)])
def test_stout_layer_is_the_naive_sum(name, shape, rng):
    lattice, group = Lattice(shape), GROUPS[name]
    layer = randomise(StoutLayer(lattice, group))
    rho = [float(p.detach()) for p in (layer.rho_plaquette, layer.rho_space, layer.rho_time)]
    assert_equals_naive(layer, group.hot(lattice, 2, rng), lambda u: reference.stout(u, shape, *rho))


def test_covnet_is_two_layers_one_after_the_other(rng):
    lattice, group = Lattice((4, 4)), GROUPS["SU2"]
    network = randomise(CovNet(lattice, group))
    weights = [[float(p.detach()) for p in layer.parameters()] for layer in network.layers]

    def naive(u):
        for rho in weights:
            u = reference.stout(u, lattice.shape, *rho)
        return u

    assert_equals_naive(network, group.hot(lattice, 2, rng), naive)


def test_layers_without_straight_loops_have_none(rng):
    lattice, group = Lattice((4, 4)), GROUPS["SU3"]
    layer = randomise(StoutLayer(lattice, group, straight_loops=False))
    rho = float(layer.rho_plaquette.detach())
    assert len(list(layer.parameters())) == 1
    assert_equals_naive(layer, group.hot(lattice, 1, rng), lambda u: reference.stout(u, lattice.shape, rho))


@pytest.mark.parametrize("group", [GROUPS["U1"], GROUPS["SU2"], SUN(2)], ids=["U1", "SU2", "SUN2"])
@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 4)])
def test_ape_layer_is_the_naive_sum(group, shape, rng):
    lattice = Lattice(shape)
    layer = randomise(ApeLayer(lattice, group))
    alpha, d = float(layer.alpha.detach()), len(shape)

    def naive(u):
        result = np.empty_like(u)
        for site in reference.sites(shape):
            for mu in range(d):
                staples = reference.staple_sum(u, site, mu, shape)
                mixed = (1 - alpha) * u[(mu, *site)] + alpha / (2 * (d - 1)) * staples
                # of a multiple r of an SU(2) matrix the determinant is r^2
                modulus = abs(np.linalg.det(mixed)) ** (1 / len(mixed))
                result[(mu, *site)] = mixed / modulus
        return result

    assert_equals_naive(layer, group.hot(lattice, 2, rng), naive)


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 6), ({"n_layers": 3}, 9), ({"straight_loops": False}, 2), ({"kind": "ape"}, 2)],
)
def test_number_of_parameters(options, count):
    network = CovNet(Lattice((4, 4)), GROUPS["SU2"], **options)
    assert sum(p.numel() for p in network.parameters()) == count


def test_initial_weights_follow_seed_and_scale():
    def weights(**options):
        return torch.stack(list(CovNet(Lattice((4, 4)), GROUPS["SU2"], **options).parameters())).detach()

    assert not weights(init_scale=0.0).any()
    assert torch.equal(weights(init_scale=0.1, seed=3), weights(init_scale=0.1, seed=3))
    assert not torch.equal(weights(init_scale=0.1, seed=3), weights(init_scale=0.1, seed=4))
    torch.testing.assert_close(weights(init_scale=0.2, seed=3), 2 * weights(init_scale=0.1, seed=3))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda lattice: CovNet(lattice, GROUPS["SU2"], kind="hyp"), "'hyp'.*stout or ape"),
        (lambda lattice: CovNet(lattice, GROUPS["SU2"], n_layers=0), "at least one layer, got 0"),
        (lambda lattice: CovNet(lattice, GROUPS["SU3"], kind="ape"), r"SU\(3\); use stout"),
        (lambda lattice: ApeLayer(lattice, GROUPS["SU3"]), r"SU\(3\); use stout"),
        (lambda lattice: StoutLayer(lattice, RealLine()), "StoutLayer maps gauge links, got a field of R"),
        (lambda lattice: ApeLayer(lattice, RealLine()), "ApeLayer maps gauge links"),
        (lambda lattice: LinkMapStack([]), "at least one layer"),
    ],
)
def test_bad_input_is_refused(make, match):
    with pytest.raises(InputError, match=match):
        make(Lattice((4, 4)))


def test_links_of_another_group_are_refused(rng):
    lattice = Lattice((4, 4))
    with pytest.raises(InputError, match=r"SU\(2\) on the lattice \(4, 4\)"):
        CovNet(lattice, GROUPS["SU2"]).transform(GROUPS["SU3"].hot(lattice, 1, rng))
