import numpy as np
import pytest
import reference
from conversions import matrices, packed_matrices
from reference import sites

from lattice_lightning.gauge import extended_staples, staple_sum, straight_loop
from lattice_lightning.lattice import Lattice
from lattice_lightning.testing import assert_gauge_covariant

SHAPES = [(4, 3), (3, 2, 4), (2, 3, 2, 4)]
TOLERANCE = {"rtol": 0, "atol": 1e-12}


@pytest.mark.parametrize("shape", SHAPES)
def test_staple_sum(group, rng, shape):
    lattice = Lattice(shape)
    links = group.hot(lattice, 2, rng)
    got = packed_matrices(group, staple_sum(group, lattice, group.pack(links)))[1]
    u = matrices(group, links)[1]
    for mu in range(lattice.ndim):
        for site in sites(shape):
            expected = reference.staple_sum(u, site, mu, shape)
            np.testing.assert_allclose(got[(mu, *site)], expected, **TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_plaquette_closes_four_staples(group, rng, shape):
    lattice = Lattice(shape)
    links = group.hot(lattice, 1, rng)
    packed = group.pack(links)
    closed = float(group.inner(staple_sum(group, lattice, packed), packed).sum())
    plaquettes = reference.mean_plaquette(matrices(group, links)[0], shape)
    n_loops = lattice.n_planes * lattice.volume * group.n_colors
    assert closed == pytest.approx(4 * n_loops * plaquettes, abs=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sign", [1, -1])
def test_extended_staples(group, rng, shape, sign):
    lattice = Lattice(shape)
    links = group.hot(lattice, 1, rng)
    u = matrices(group, links)[0]
    for nu in range(lattice.ndim):
        found = list(extended_staples(group, lattice, group.pack(links), nu, sign, 3))
        assert len(found) == 3
        for s, (staples, directions) in enumerate(found, start=1):
            assert directions == [mu for mu in range(lattice.ndim) if mu != nu]
            got = packed_matrices(group, staples)[0]
            for position, mu in enumerate(directions):
                for site in list(sites(shape))[::3]:
                    expected = reference.staple(u, site, mu, nu, sign, s, shape)
                    np.testing.assert_allclose(got[(position, *site)], expected, **TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
def test_straight_loops_and_their_traces(group, rng, shape):
    lattice = Lattice(shape)
    links = group.hot(lattice, 2, rng)
    u = matrices(group, links)[1]
    for mu in range(lattice.ndim):
        got = packed_matrices(group, straight_loop(group, lattice, group.pack(links), mu))[1]
        for site in sites(shape):
            expected, end = reference.walk(u, site, [mu + 1] * shape[mu], shape)
            assert end == site
            np.testing.assert_allclose(got[site], expected, **TOLERANCE)
        traces = np.trace(got, axis1=-2, axis2=-1)
        assert traces.mean() == pytest.approx(reference.polyakov(u, shape, mu), abs=1e-12)


def test_staples_transform_like_their_link(group, rng):
    lattice = Lattice((3, 4, 2))
    # U(1): the phase of the sum
    assert_gauge_covariant(
        lambda u: group.unpack(staple_sum(group, lattice, group.pack(u))), group, lattice, rng
    )
