import numpy as np
import pytest
from conversions import matrices, packed_matrices
from reference import mean_plaquette, rectangle, sites, walk

from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import path_product, rectangle_path, wilson_loops
from lattice_lightning.gauge.paths import is_closed
from lattice_lightning.groups import SU2, SUN, U1
from lattice_lightning.lattice import Lattice

SHAPES = [(4, 3), (2, 3, 4), (3, 2, 3, 4)]
PATHS = [(1,), (-2,), (1, 2, -1, -2), (2, 1, 1, -2, -1, -1), (-1, -1, 2, 1), (2, 2, 2, 2, 2), (1, -1)]
TOLERANCE = {"rtol": 0, "atol": 1e-12}


def naive(u, shape, path):
    result = np.empty((*shape, *u.shape[-2:]), dtype=complex)
    for site in sites(shape):
        result[site] = walk(u, site, path, shape)[0]
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_path_products(group, rng, shape):
    lattice = Lattice(shape)
    links = group.hot(lattice, 2, rng)
    paths = [*PATHS, (-len(shape), 1, len(shape), len(shape))]
    for path in paths:
        got = packed_matrices(group, path_product(group, lattice, group.pack(links), path))
        for chain, u in enumerate(matrices(group, links)):
            np.testing.assert_allclose(got[chain], naive(u, shape, path), **TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
def test_open_paths_transform_at_their_ends(group, rng, shape):
    lattice, path = Lattice(shape), (1, 2, 2, -1, -1)
    links, rotation = group.hot(lattice, 1, rng), group.haar((1, *shape), rng)
    before, after = (
        packed_matrices(group, path_product(group, lattice, group.pack(u), path))[0]
        for u in (links, group.transform(links, rotation, lattice))
    )
    g = matrices(group, rotation)[0]
    for site in sites(shape):
        end = walk(matrices(group, links)[0], site, path, shape)[1]
        np.testing.assert_allclose(after[site], g[site] @ before[site] @ g[end].conj().T, **TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("r, s", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_wilson_loops(group, rng, shape, r, s):
    lattice, d = Lattice(shape), len(shape)
    links = group.hot(lattice, 2, rng)
    got = wilson_loops(group, lattice, group.pack(links), r, s)
    assert got.shape == (lattice.n_planes, *shape, 2)
    planes = [(mu, nu) for mu in range(d) for nu in range(mu + 1, d)]
    u = matrices(group, links)[1]
    for plane, (mu, nu) in enumerate(planes):
        expected = np.trace(naive(u, shape, rectangle(mu, nu, r, s)), axis1=-2, axis2=-1).real
        np.testing.assert_allclose(got[plane, ..., 1], expected, **TOLERANCE)


@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
def test_mean_plaquette(group, rng):
    lattice = Lattice((2, 4, 3, 2))
    links = group.hot(lattice, 2, rng)
    loops = wilson_loops(group, lattice, group.pack(links), 1, 1).flatten(0, -2).mean(0) / group.n_colors
    expected = [mean_plaquette(u, lattice.shape) for u in matrices(group, links)]
    np.testing.assert_allclose(loops, expected, **TOLERANCE)


def test_wilson_loop_as_wide_as_the_lattice(rng):
    lattice, group = Lattice((3, 4)), SU2()
    links = group.hot(lattice, 1, rng)
    got = wilson_loops(group, lattice, group.pack(links), 3, 2)[0, ..., 0]
    loops = naive(matrices(group, links)[0], lattice.shape, rectangle(0, 1, 3, 2))
    np.testing.assert_allclose(got, np.trace(loops, axis1=-2, axis2=-1).real, **TOLERANCE)


def test_rectangle_paths_are_closed_and_straight_lines_are_not():
    assert rectangle_path(0, 1, 2, 1) == (1, 1, 2, -1, -1, -2)
    assert is_closed(rectangle_path(0, 1, 2, 3), 2)
    assert not is_closed((1,) * 4, 2)


@pytest.mark.parametrize("path", [(), (0,), (3,), (1, -3)])
def test_impossible_paths(path):
    group, lattice = SU2(), Lattice((2, 2))
    with pytest.raises(InputError, match=r"directions -2\.\.-1, 1\.\.2, got"):
        path_product(group, lattice, group.pack(group.cold(lattice, 1)), path)


@pytest.mark.parametrize("r, s", [(4, 1), (1, 4), (0, 1)])
def test_wilson_loops_that_do_not_fit(r, s):
    group, lattice = SU2(), Lattice((3, 4))
    with pytest.raises(InputError, match=rf"{r}x{s} Wilson loop does not fit"):
        wilson_loops(group, lattice, group.pack(group.cold(lattice, 1)), r, s)
