import itertools

import pytest
import torch

from lattice_lightning.exceptions import InputError
from lattice_lightning.lattice import Lattice

SHAPES = [(3, 4), (2, 3, 4), (2, 3, 4, 5)]


def sites(lattice):
    return itertools.product(*(range(extent) for extent in lattice.shape))


def moved(site, mu, steps, lattice):
    return tuple((x + steps * (nu == mu)) % lattice.shape[nu] for nu, x in enumerate(site))


@pytest.mark.parametrize("shape", SHAPES)
def test_counts(shape):
    lattice = Lattice(shape)
    assert lattice.ndim == len(shape)
    assert lattice.volume == len(list(sites(lattice)))
    assert lattice.n_planes == len(list(itertools.combinations(shape, 2)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, -1, 2])
def test_shift_reads_the_neighbour_ahead_in_both_layouts(shape, steps, rng):
    lattice = Lattice(shape)
    public = torch.randn(2, *shape, 3, generator=rng)
    packed = torch.randn(3, *shape, 2, generator=rng)
    for mu in range(lattice.ndim):
        a, b = lattice.shift(public, mu, steps), lattice.shift_packed(packed, mu, steps)
        for site in sites(lattice):
            source = moved(site, mu, steps, lattice)
            assert torch.equal(a[(slice(None), *site)], public[(slice(None), *source)])
            assert torch.equal(b[(slice(None), *site)], packed[(slice(None), *source)])


@pytest.mark.parametrize("shape", SHAPES)
def test_direction_of_packed_links(shape, rng):
    lattice = Lattice(shape)
    links = torch.randn(4, lattice.ndim, *shape, 2, generator=rng)
    for mu in range(lattice.ndim):
        assert torch.equal(lattice.direction_packed(links, mu), links[:, mu])


@pytest.mark.parametrize("shape", SHAPES)
def test_coordinates_parity_and_momenta(shape):
    lattice = Lattice(shape)
    coordinates, parity, momenta = lattice.coordinates(), lattice.parity(), lattice.momenta()
    for site in sites(lattice):
        index = (slice(None), *site)
        assert tuple(coordinates[index].tolist()) == site
        assert parity[site] == sum(site) % 2
        expected = [2 * torch.pi * k / extent for k, extent in zip(site, shape, strict=True)]
        assert momenta[index].tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    "shape", [(4,), (4,) * 5, (4, 1), (4, 0), (4, -4), (4.5, 4), ("a", 4), 4, None, "44"]
)
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"extents|sequence of integers"):
        Lattice(shape)


def test_shape_is_normalised_so_that_equal_lattices_are_equal():
    assert Lattice([4, 6]) == Lattice((4, 6))
    assert hash(Lattice([4, 6])) == hash(Lattice((4, 6)))


def test_require_even_names_the_odd_extent_and_the_remedy():
    Lattice((4, 6)).require_even("a test")
    with pytest.raises(InputError, match=r"a test needs even.*extent 1 of \(4, 5\) is 5.*use 4 or 6"):
        Lattice((4, 5)).require_even("a test")
