"""CASK blocks against loops over sites, heads, directions and lengths."""

import numpy as np
import pytest
import reference
import torch
from link_map_cases import GROUPS, assert_equals_naive, randomise

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import Cask, CaskBlock, StoutLayer


@pytest.mark.parametrize(
    ("name", "shape", "n_heads", "s_max"),
    [
        ("U1", (4, 4), 1, 2),
        ("SU2", (4, 4), 1, 1),
        ("SU2", (4, 4), 1, 2),
        ("SU2", (4, 4), 1, 3),
        ("SU2", (4, 4), 3, 2),
        ("SU2", (2, 3, 4), 1, 1),
        ("SU2", (2, 2, 2, 3), 2, 1),
        ("SU3", (4, 4), 1, 3),
        ("SU3", (3, 4), 3, 2),
    ],
)
@pytest.mark.parametrize("closing", ["link", "value"])
def test_block_is_the_naive_sum(name, shape, n_heads, s_max, closing, rng):
    lattice, group = Lattice(shape), GROUPS[name]
    block = randomise(CaskBlock(lattice, group, n_heads=n_heads, s_max=s_max, closing=closing))
    rho = block.rho.detach().numpy()
    links = group.hot(lattice, 1, rng)
    assert_equals_naive(block, links, lambda u: reference.cask(u, shape, rho, s_max, closing))


@pytest.mark.parametrize("closing", ["link", "value"])
@pytest.mark.parametrize("name", ["U1", "SU2", "SU3"])
def test_offsets_and_straight_loops_are_the_naive_sum(name, closing, rng):
    lattice, group = Lattice((3, 4)), GROUPS[name]
    block = randomise(
        CaskBlock(lattice, group, 2, s_max=2, closing=closing, offsets=True, straight_loops=True)
    )
    rho, offset, straight = (
        p.detach().numpy() for p in (block.rho, block.offset, block.rho_straight)
    )
    straight = straight * [1, -2]
    with torch.no_grad():
        block.rho_straight.copy_(torch.from_numpy(straight))
    links = group.hot(lattice, 1, rng)

    def naive(order):
        return lambda u: reference.cask(
            u, lattice.shape, rho, 2, closing, offset=offset, straight=straight[order]
        )

    assert_equals_naive(block, links, naive([0, 1]))
    with pytest.raises(AssertionError):  # space for time
        assert_equals_naive(block, links, naive([1, 0]))


def test_offsets_smear_where_the_attention_is_zero(rng):
    """At rho = 0 what is left is stout smearing by staples of every length, of first order."""
    lattice, group = Lattice((4, 4)), GROUPS["SU2"]
    block = CaskBlock(lattice, group, s_max=1, init_scale=0.0, offsets=True, straight_loops=True)
    stout = randomise(StoutLayer(lattice, group))
    links = group.hot(lattice, 2, rng)
    with torch.no_grad():
        torch.testing.assert_close(block.transform(links), links, rtol=0, atol=1e-14)
        block.offset.fill_(2 * float(stout.rho_plaquette))
        block.rho_straight.copy_(2 * torch.stack([stout.rho_space, stout.rho_time]))
        torch.testing.assert_close(
            block.transform(links), stout.transform(links), rtol=0, atol=1e-13
        )


def test_unbounded_block_has_no_tanh(rng, monkeypatch):
    monkeypatch.setattr(reference.np, "tanh", lambda x: x)
    lattice, group = Lattice((3, 4)), GROUPS["SU2"]
    block = randomise(CaskBlock(lattice, group, s_max=2, bounded=False), scale=0.03)
    rho = block.rho.detach().numpy()
    links = group.hot(lattice, 1, rng)
    assert_equals_naive(block, links, lambda u: reference.cask(u, lattice.shape, rho, 2))


@pytest.mark.parametrize("name", ["SU2", "SU3"])
def test_output_stout_smears_with_staples_of_the_attention_links(name, rng):
    """U' = exp(rho^O [2 staples(U^A) U^dag]_TA) U."""
    lattice, group = Lattice((3, 4)), GROUPS[name]
    block = randomise(CaskBlock(lattice, group, s_max=2, output_stout=True))
    rho, rho_out = block.rho.detach().numpy(), float(block.rho_out.detach())

    def naive(u):
        attended, result = reference.cask(u, lattice.shape, rho, 2), np.empty_like(u)
        for site in reference.sites(lattice.shape):
            for mu in range(lattice.ndim):
                staples = reference.staple_sum(attended, site, mu, lattice.shape)
                q = reference.traceless_antihermitian(2 * staples @ reference.dag(u[(mu, *site)]))
                result[(mu, *site)] = reference.exponential(rho_out * q) @ u[(mu, *site)]
        return result

    assert_equals_naive(block, group.hot(lattice, 1, rng), naive)


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0)])
def test_length_weights_switch_lengths_off(weights, rng):
    lattice, group = Lattice((4, 4)), GROUPS["SU3"]
    weighted = randomise(CaskBlock(lattice, group, n_heads=2, s_max=3, length_weights=True))
    plain = CaskBlock(lattice, group, n_heads=2, s_max=int(sum(weights)))
    with torch.no_grad():
        weighted.length_weight.copy_(torch.tensor(weights).double())
        plain.rho.copy_(weighted.rho)
        links = group.hot(lattice, 2, rng)
        torch.testing.assert_close(
            weighted.transform(links), plain.transform(links), rtol=0, atol=1e-14
        )


def test_heads_add_up(rng):
    """Two equal heads are one head with its lengths weighed twice."""
    lattice, group = Lattice((4, 4)), GROUPS["SU2"]
    two = CaskBlock(lattice, group, n_heads=2, s_max=2)
    one = randomise(CaskBlock(lattice, group, s_max=2, length_weights=True))
    with torch.no_grad():
        two.rho.copy_(one.rho.expand(3, 2))
        one.length_weight.fill_(2)
        links = group.hot(lattice, 2, rng)
        torch.testing.assert_close(two.transform(links), one.transform(links), rtol=0, atol=1e-13)


def one_step_of_descent(block, rng):
    links = block.group.pack(block.group.hot(block.lattice, 2, rng))
    weight = torch.randn(links.shape, generator=rng, dtype=torch.float64)
    (weight * block(links)).sum().backward()
    with torch.no_grad():
        return block.rho - 0.01 * block.rho.grad


def test_equal_heads_stay_equal(rng):
    block = CaskBlock(Lattice((4, 4)), GROUPS["SU2"], n_heads=3, s_max=2)
    with torch.no_grad():
        block.rho.copy_(torch.tensor([[0.1], [-0.05], [0.07]]).expand(3, 3))
    after = one_step_of_descent(block, rng)
    torch.testing.assert_close(after, after[:, :1].expand(3, 3), rtol=0, atol=1e-14)
    assert bool((after != block.rho).all())


def test_random_heads_begin_and_stay_different(rng):
    block = CaskBlock(Lattice((4, 4)), GROUPS["SU2"], n_heads=3, s_max=2, rng=rng)
    for rho in (block.rho.detach(), one_step_of_descent(block, rng)):
        assert len(set(rho.flatten().tolist())) == 9


@pytest.mark.parametrize("bounded", [True, False])
def test_attention_is_bounded_only_where_asked(bounded):
    block = CaskBlock(Lattice((4, 4)), GROUPS["SU2"], bounded=bounded)
    # |a~| <= 2N: the tangent alone comes close to its pole at 2 (N + 0.01)
    largest = float(block._activation(torch.linspace(-4, 4, 801, dtype=torch.float64)).max())
    assert (largest < 1) if bounded else (100 < largest < 1000)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 3),
        ({"n_heads": 2}, 6),
        ({"n_blocks": 2, "n_heads": 2}, 12),
        ({"output_stout": True}, 4),
        ({"length_weights": True}, 6),
        ({"covnet_layers": 2}, 9),
        ({"n_heads": 2, "offsets": True}, 12),
        ({"n_blocks": 2, "straight_loops": True}, 10),
    ],
)
def test_number_of_parameters(options, count):
    network = Cask(Lattice((4, 4)), GROUPS["SU2"], **options)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"s_max": 4}, r"s_max=4 steps do not fit the lattice \(4, 6\): use s_max from 1 to 3"),
        ({"s_max": 0}, "s_max=0"),
        ({"n_heads": 0}, "at least one head, got n_heads=0"),
        ({"n_blocks": 0}, "at least one block, got n_blocks=0"),
        ({"closing": "key"}, "unknown closing 'key': expected link or value"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(InputError, match=match):
        Cask(Lattice((4, 6)), GROUPS["SU2"], **options)


def test_scalar_fields_are_refused():
    with pytest.raises(InputError, match="CaskBlock maps gauge links, got a field of R"):
        CaskBlock(Lattice((4, 4)), RealLine())
