"""What every link map owes: the group, its symmetries, gradients, identity, files."""

from itertools import combinations

import pytest
import torch
from link_map_cases import CASES, KINDS, randomise

from lattice_lightning.groups import SU2, SUN
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import CaskBlock
from lattice_lightning.testing import (
    assert_charge_conjugation,
    assert_gauge_covariant,
    assert_rotation_covariant,
    assert_translation_covariant,
    permute_axes,
)

every_map = pytest.mark.parametrize("case", CASES)
TOLERANCE = 1e-12


def distance(case, a, b):
    """Largest difference, angles up to 2 pi."""
    if case.group.name == "U(1)":
        return float((torch.exp(1j * a) - torch.exp(1j * b)).abs().max())
    return float((a - b).abs().max())


def without_value_weights(network):
    with torch.no_grad():
        for block in network.modules():
            if isinstance(block, CaskBlock):
                block.rho[2] = 0


def functional(case, rng):
    """A real number of the links, with no symmetry."""
    links = case.links(rng)
    shape = case.group.pack(links).shape
    weight = torch.randn(shape, generator=rng, dtype=torch.float64)
    return lambda network: (weight * network(case.group.pack(links))).sum()


@every_map
def test_output_is_on_the_group_and_moved(case, rng):
    links = case.links(rng)
    with torch.no_grad():
        mapped = case.network().transform(links)
    case.group.check_field(mapped, case.lattice)
    assert float(case.group.defect(mapped).max()) < TOLERANCE
    assert distance(case, mapped, links) > 1e-3


@every_map
def test_packed_output_has_unit_norm(case, rng):
    # angles forget the modulus of a U(1) link, so look before they are taken
    with torch.no_grad():
        packed = case.network()(case.group.pack(case.links(rng)))
    assert float((case.group.inner(packed, packed) - case.group.n_colors).abs().max()) < TOLERANCE


@every_map
def test_gauge_covariance(case, rng):
    assert_gauge_covariant(case.network().transform, case.group, case.lattice, rng, tolerance=TOLERANCE)


@every_map
def test_translations(case, rng):
    assert_translation_covariant(
        case.network().transform, case.group, case.lattice, rng, tolerance=TOLERANCE
    )


@every_map
def test_exchanges_of_axes(case, rng):
    network, links = case.network(), case.links(rng)
    d = case.lattice.ndim
    space = range(d if case.kind.same_in_time else d - 1)
    for a, b in combinations(space, 2):
        if case.lattice.shape[a] != case.lattice.shape[b]:
            continue
        order = list(range(d))
        order[a], order[b] = b, a
        with torch.no_grad():
            left = network.transform(permute_axes(case.lattice, links, order))
            right = permute_axes(case.lattice, network.transform(links), order)
        assert distance(case, left, right) < TOLERANCE, (a, b)


@every_map
def test_rotations_and_reflections(case, rng):
    network = case.network()
    if not case.kind.reflects and case.group.name != "U(1)":
        without_value_weights(network)
    assert_rotation_covariant(
        network.transform, case.group, case.lattice, rng,
        spatial_only=not case.kind.same_in_time, tolerance=TOLERANCE,
    )


@every_map
def test_charge_conjugation(case, rng):
    assert_charge_conjugation(
        case.network().transform, case.group, case.lattice, rng, tolerance=TOLERANCE
    )


@every_map
def test_chains_do_not_mix(case, rng):
    network, links = case.network(), case.links(rng, n_chains=3)
    with torch.no_grad():
        assert distance(case, network.transform(links)[1:2], network.transform(links[1:2])) < 1e-14


@every_map
def test_gradient_reaches_every_parameter(case, rng):
    network = case.network()
    functional(case, rng)(network).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert bool((parameter.grad.abs() > 1e-6).all()), f"{name}: {parameter.grad}"


@every_map
def test_gradient_by_parameters_is_the_finite_difference(case, rng):
    network, value = case.network(), functional(case, rng)
    parameters = list(network.parameters())
    directions = [torch.randn(p.shape, generator=rng, dtype=torch.float64) for p in parameters]
    gradients = torch.autograd.grad(value(network), parameters)
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))

    def moved(t):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(t * d)
            result = float(value(network))
            for p, d in zip(parameters, directions, strict=True):
                p.sub_(t * d)
        return result

    h = 1e-4
    found = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-7)


@every_map
def test_weights_for_each_chain(case, rng):
    """Weights with a last axis of chains: every chain as if mapped alone with its own."""
    networks, links = [case.network(seed=s) for s in (7, 8)], case.links(rng, n_chains=2)
    pairs = zip(*(n.named_parameters() for n in networks), strict=True)
    each = {name: torch.stack([a, b], -1) for (name, a), (_, b) in pairs}
    with torch.no_grad():
        joint = torch.func.functional_call(networks[0], each, (case.group.pack(links),))
        for chain, network in enumerate(networks):
            alone = network(case.group.pack(links[chain : chain + 1]))
            torch.testing.assert_close(joint[..., chain : chain + 1], alone, rtol=0, atol=1e-13)


@every_map
def test_identity_after_reset(case, rng):
    network, links = case.network(), case.links(rng)
    network.reset_to_identity()
    with torch.no_grad():
        assert distance(case, network.transform(links), links) < 1e-14


@every_map
def test_reset_map_can_be_trained(case, rng):
    network = case.network()
    network.reset_to_identity()
    functional(case, rng)(network).backward()
    assert any(bool((p.grad != 0).any()) for p in network.parameters())


@every_map
def test_saved_and_loaded_map_is_bitwise_the_same(case, rng, tmp_path):
    network, links = case.network(), case.links(rng)
    torch.save(network.state_dict(), tmp_path / "map.pt")
    other = case.network(seed=8)
    with torch.no_grad():
        before = other.transform(links)
        other.load_state_dict(torch.load(tmp_path / "map.pt", weights_only=True))
        assert not torch.equal(before, network.transform(links))
        assert torch.equal(other.transform(links), network.transform(links))


@pytest.mark.parametrize("name", KINDS)
def test_both_implementations_of_su2_agree(name, rng):
    lattice = Lattice((4, 4))
    links = SU2().hot(lattice, 2, rng)
    special, general = (randomise(KINDS[name].make(lattice, group)) for group in (SU2(), SUN(2)))
    with torch.no_grad():
        torch.testing.assert_close(general.transform(links), special.transform(links), rtol=0, atol=1e-13)
