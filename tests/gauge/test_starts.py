import cmath

import numpy as np
import pytest
import torch
from conversions import matrices
from reference import gauge_action, polyakov, staggered_matrix

from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import flip_centre_sector, start_field
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice

LATTICE = Lattice((2, 3, 4))


@pytest.mark.parametrize("kind", ["cold", "hot", "warm"])
def test_starts_are_fields_on_the_group(group, rng, kind):
    field = start_field(group, LATTICE, 3, rng, kind)
    group.check_field(field, LATTICE)
    assert field.shape[0] == 3
    assert group.defect(field).max() < 1e-13


def test_kinds_differ_in_disorder(group, rng):
    actions = [
        gauge_action(matrices(group, start_field(group, LATTICE, 1, rng, kind))[0], LATTICE.shape, 1.0)
        for kind in ("cold", "warm", "hot")
    ]
    n_loops = LATTICE.n_planes * LATTICE.volume
    assert abs(actions[0]) < 1e-12
    assert 0.01 * n_loops < actions[1] < 0.7 * n_loops
    assert 0.7 * n_loops < actions[2] < 1.3 * n_loops


def test_noise_of_the_warm_start_is_a_random_step(rng):
    field = start_field(U1(), Lattice((8, 8)), 50, rng, "warm", noise=0.1)
    assert float(field.std()) == pytest.approx(0.1, rel=0.05)


def test_scalar_starts(rng):
    assert torch.equal(start_field(RealLine(), LATTICE, 2, rng, "cold"), torch.zeros(2, 2, 3, 4).double())
    assert float(start_field(RealLine(), LATTICE, 200, rng, "hot").std()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("sectors", [(1, 0, 0), (0, 1, 1), (2, -1, 3)])
def test_flips_turn_polyakov_loops_and_keep_the_action(group, rng, sectors):
    links = group.hot(LATTICE, 2, rng)
    flipped = flip_centre_sector(group, LATTICE, links, sectors)
    assert group.defect(flipped).max() < 1e-13
    order = 2 if group.name == "U(1)" else group.n_colors
    old, new = matrices(group, links)[1], matrices(group, flipped)[1]
    for mu, sector in enumerate(sectors):
        turned = cmath.exp(2j * cmath.pi * sector / order) * polyakov(old, LATTICE.shape, mu)
        assert polyakov(new, LATTICE.shape, mu) == pytest.approx(turned, abs=1e-12)
    for c1 in (0.0, -1 / 12):
        before, after = (gauge_action(u, LATTICE.shape, 2.0, c1) for u in (old, new))
        assert after == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize("group", [U1(), SU2()], ids=lambda g: g.name)
def test_a_flip_is_a_change_of_the_fermion_boundary(group, rng):
    lattice = Lattice((4, 2))
    links = group.hot(lattice, 1, rng)
    flipped = flip_centre_sector(group, lattice, links, (1, 0))
    d = staggered_matrix(matrices(group, flipped)[0], lattice.shape, 0.1)
    expected = staggered_matrix(matrices(group, links)[0], lattice.shape, 0.1, boundary=[-1, -1])
    np.testing.assert_allclose(d, expected, rtol=0, atol=1e-13)


def test_flips_leave_their_argument_alone(group, rng):
    links = group.hot(LATTICE, 1, rng)
    copy = links.clone()
    flip_centre_sector(group, LATTICE, links, (1, 1, 1))
    assert torch.equal(links, copy)


def test_one_sector_for_all_chains(rng):
    field = start_field(SU2(), LATTICE, 3, rng, "cold", sectors=[0, 1, 0])
    loops = [[polyakov(u, LATTICE.shape, mu).real for mu in range(3)] for u in field.numpy()]
    assert loops == [pytest.approx([2, -2, 2])] * 3


def test_chains_take_sectors_in_turn(rng):
    sectors = [[0, 0, 0], [1, 0, 1]]
    field = start_field(SUN(3), LATTICE, 3, rng, "cold", sectors=sectors)
    third = 3 * cmath.exp(2j * cmath.pi / 3)
    loops = [[polyakov(u, LATTICE.shape, mu) for mu in range(3)] for u in field.numpy()]
    assert loops == [pytest.approx(x) for x in ([3, 3, 3], [third, 3, third], [3, 3, 3])]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kind": "lukewarm"}, "unknown start 'lukewarm': expected one of cold, hot, warm"),
        ({"n_chains": 0}, "at least one chain, got n_chains=0"),
        ({"sectors": [1, 0]}, r"one centre sector for each of the 3 directions, got \[1, 0\]"),
        ({"sectors": [[0, 0, 0], [1]]}, r"each of the 3 directions, got \[1\]"),
        ({"sectors": []}, r"each of the 3 directions, got \[\]"),
        ({"space": RealLine(), "sectors": [1, 0, 0]}, "centre sectors need a gauge group, got R"),
    ],
)
def test_errors(rng, arguments, message):
    with pytest.raises(InputError, match=message):
        start_field(**{"space": SU2(), "lattice": LATTICE, "n_chains": 2, "rng": rng, **arguments})
