"""The symmetry assertions see what they are there to see; where a map has no symmetry, they say so."""

import pytest
import torch
from link_map_cases import GROUPS, KINDS, Case, randomise

from lattice_lightning.groups import SU2
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import CovNet, StoutLayer
from lattice_lightning.testing import (
    assert_charge_conjugation,
    assert_gauge_covariant,
    assert_rotation_covariant,
    assert_translation_covariant,
)


@pytest.mark.parametrize("shape", [(4, 4), (3, 3, 3)])
def test_time_is_special_when_its_loop_weighs_more(shape, rng):
    lattice, group = Lattice(shape), SU2()
    layer = randomise(StoutLayer(lattice, group))
    assert bool(layer.rho_time != layer.rho_space)
    time = lattice.ndim - 1
    with pytest.raises(AssertionError, match=f"exchange of axes 0 and {time}"):
        assert_rotation_covariant(layer.transform, group, lattice, rng)
    with torch.no_grad():
        layer.rho_time.copy_(layer.rho_space)
    assert_rotation_covariant(layer.transform, group, lattice, rng, tolerance=1e-12)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.reflects])
def test_published_attention_breaks_reflections(name, rng):
    """exp([C (U^V)^dag]_TA) U is not its own mirror image, which is why it is not our default."""
    case = Case(KINDS[name], GROUPS["SU2"], Lattice((4, 4)))
    with pytest.raises(AssertionError, match="reflection of axis 0"):
        assert_rotation_covariant(case.network().transform, case.group, case.lattice, rng)


# -- the symmetry assertions see what they are there to see --------------------------------------

CONTROL = Case(KINDS["stout"], GROUPS["SU3"], Lattice((4, 4)))


def squared(links):
    return links @ links


def one_slice_in_another_sector(links):
    phase = torch.ones(4, dtype=torch.complex128)
    phase[1] = torch.exp(torch.tensor(2j * torch.pi / 3))
    return links * phase.reshape(1, 1, 4, 1, 1, 1)


def times_plaquette(links):
    """P_xy(n) U_mu(n): covariant, but the plaquette on one side only."""
    x, y = links[:, 0], links[:, 1]
    plaquette = x @ torch.roll(y, -1, 1) @ torch.roll(x, -1, 2).mH @ y.mH
    return plaquette.unsqueeze(1) @ links


def other_sector(links):
    return links * torch.exp(torch.tensor(2j * torch.pi / 3, dtype=torch.complex128))


@pytest.mark.parametrize(
    ("assertion", "broken", "match"),
    [
        (assert_gauge_covariant, squared, "gauge covariance"),
        (assert_translation_covariant, one_slice_in_another_sector, "translation along axis 0"),
        (assert_rotation_covariant, times_plaquette, "reflection of axis 0"),
        (assert_charge_conjugation, other_sector, "charge conjugation"),
    ],
)
def test_a_broken_map_is_caught(assertion, broken, match, rng):
    with pytest.raises(AssertionError, match=match):
        assertion(broken, CONTROL.group, CONTROL.lattice, rng)


@pytest.mark.parametrize("broken", [one_slice_in_another_sector, times_plaquette, other_sector])
def test_broken_maps_are_gauge_covariant(broken, rng):
    # each control breaks one symmetry, so that it is that assertion which sees it
    assert_gauge_covariant(broken, CONTROL.group, CONTROL.lattice, rng)


def test_error_names_the_chain(rng):
    network = randomise(CovNet(CONTROL.lattice, CONTROL.group))

    def bad_chain(links):
        mapped = network.transform(links)
        mapped[1] = mapped[1] @ mapped[1]
        return mapped

    with pytest.raises(AssertionError, match="chain 1"):
        assert_gauge_covariant(bad_chain, CONTROL.group, CONTROL.lattice, rng)
