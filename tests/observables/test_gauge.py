"""Gauge observables against naive loops over sites, on constructed fields, and gauge invariance."""

from math import cos, pi

import pytest
import torch
from reference import mean_plaquette, polyakov, rectangle, sites, walk

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import (
    Plaquette,
    PolyakovLoops,
    TopologicalCharge,
    WilsonLoop,
    plaquette,
    polyakov_loop,
)
from lattice_lightning.testing import assert_gauge_invariant

SHAPE = (4, 3, 2)


def as_matrices(group, field):
    """One configuration ``[mu, *lattice, N, N]`` for the numpy reference."""
    return (torch.exp(1j * field)[..., None, None] if group.name == "U(1)" else field).numpy()


@pytest.fixture(params=[(4, 4), SHAPE, (2, 2, 2, 4)], ids=str)
def lattice(request):
    return Lattice(request.param)


@pytest.fixture
def field(group, lattice, rng):
    return group.hot(lattice, 2, rng)


def test_plaquette_equals_the_naive_sum(group, lattice, field):
    expected = [mean_plaquette(as_matrices(group, f), lattice.shape) for f in field]
    expected = torch.tensor(expected, dtype=torch.float64)
    assert torch.allclose(plaquette(group, lattice, field), expected, atol=1e-13)


def test_polyakov_loop_of_each_direction_equals_the_naive_product(group, lattice, field):
    for mu in range(lattice.ndim):
        expected = [polyakov(as_matrices(group, f), lattice.shape, mu) for f in field]
        expected = torch.tensor(expected, dtype=torch.complex128)
        assert torch.allclose(polyakov_loop(group, lattice, field, mu), expected, atol=1e-13)


@pytest.mark.parametrize("r, s", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_wilson_loop_averages_both_orientations(group, r, s, rng):
    lattice = Lattice(SHAPE)
    field = group.hot(lattice, 1, rng)
    links, d, values = as_matrices(group, field[0]), lattice.ndim, []
    for site in sites(SHAPE):
        for mu in range(d):
            for nu in range(d):
                if mu != nu:
                    loop, _ = walk(links, site, rectangle(mu, nu, r, s), SHAPE)
                    values.append(loop.trace().real / group.n_colors)
    got = WilsonLoop(lattice, group, [(r, s)]).measure(field, rng)[f"wilson_loop_{r}x{s}"]
    assert float(got) == pytest.approx(sum(values) / len(values), abs=1e-13)


def test_cold_field(group, rng):
    lattice = Lattice((4, 4))
    field = group.cold(lattice, 2)
    measured = Plaquette(lattice, group).measure(field, rng)
    measured |= WilsonLoop(lattice, group, [(2, 3)]).measure(field, rng)
    measured |= PolyakovLoops(lattice, group).measure(field, rng)
    assert measured["plaquette"].tolist() == measured["wilson_loop_2x3"].tolist() == [1, 1]
    # not divided by N
    assert measured["polyakov_loop_x"].tolist() == [group.n_colors] * 2


def test_everything_is_gauge_invariant(group, rng):
    lattice = Lattice((4, 4))
    measures = [
        Plaquette(lattice, group),
        PolyakovLoops(lattice, group, symmetrised=group.name == "SU(2)"),
        WilsonLoop(lattice, group, [(1, 2), (2, 2)]),
    ]
    if group.name == "U(1)":
        measures.append(TopologicalCharge(lattice, group))
    for observable in measures:
        assert_gauge_invariant(
            lambda f, o=observable: torch.stack(list(o.measure(f, rng).values()), 1), group, lattice, rng
        )


def test_names_and_sign_corrected_mean(rng):
    lattice, group = Lattice((2, 2, 2, 2)), SU2()
    field = group.hot(lattice, 3, rng)
    measured = PolyakovLoops(lattice, group, symmetrised=True).measure(field, rng)
    x, y, z, t = (
        torch.tensor([polyakov(f.numpy(), (2, 2, 2, 2), mu).real for f in field], dtype=torch.float64)
        for mu in range(4)
    )
    assert torch.allclose(measured["polyakov_loop_symmetrised"], (t - x - y - z) / 4)
    assert torch.allclose(measured["polyakov_loop_z"], z)
    assert torch.equal(measured["polyakov_loop"], measured["polyakov_loop_t"])


def test_last_axis_is_time_in_two_dimensions(rng):
    lattice, group = Lattice((4, 2)), U1()
    names = PolyakovLoops(lattice, group).measure(group.hot(lattice, 1, rng), rng)
    assert list(names) == ["polyakov_loop", "polyakov_loop_x", "polyakov_loop_t"]


def instanton(extent, charge):
    """Constant field strength 2 pi Q / V on L x L: every plaquette angle is 2 pi Q / V (or wraps)."""
    x = torch.arange(extent, dtype=torch.float64)
    theta = torch.zeros(1, 2, extent, extent, dtype=torch.float64)
    strength = 2 * pi * charge / extent**2
    theta[0, 1] = strength * x[:, None]
    theta[0, 0, extent - 1] = -strength * extent * x
    return U1().reunitarise(theta)


@pytest.mark.parametrize("charge", [-3, -1, 0, 1, 2, 5])
def test_charge_of_a_constant_field_strength(charge, rng):
    lattice, group = Lattice((6, 6)), U1()
    field = instanton(6, charge)
    measured = TopologicalCharge(lattice, group).measure(field, rng)
    assert measured["topological_charge"].tolist() == [charge]
    assert measured["topological_susceptibility"].tolist() == [charge**2 / 36]
    assert float(plaquette(group, lattice, field)) == pytest.approx(cos(2 * pi * charge / 36), abs=1e-13)


def test_charge_is_the_wrapped_sum_and_an_integer(rng):
    lattice, group = Lattice((4, 6)), U1()
    field = group.hot(lattice, 20, rng)
    charge = TopologicalCharge(lattice, group).measure(field, rng)["topological_charge"]
    for f, q in zip(field, charge, strict=True):
        links, total = as_matrices(group, f), 0.0
        for site in sites(lattice.shape):
            loop, _ = walk(links, site, rectangle(0, 1, 1, 1), lattice.shape)
            total += torch.angle(torch.tensor(loop[0, 0])).item()
        assert float(q) == pytest.approx(total / (2 * pi), abs=1e-12)
        assert float(q) == round(float(q))
    assert len(charge.unique()) > 2


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Plaquette(Lattice((4, 4)), RealLine()), "the plaquette needs a gauge field, got .* R"),
        (lambda: PolyakovLoops(Lattice((4, 4)), RealLine()), "Polyakov loop needs a gauge field"),
        (lambda: PolyakovLoops(Lattice((4, 4)), SUN(3), symmetrised=True), r"got SU\(3\)"),
        (lambda: PolyakovLoops(Lattice((4, 2)), SU2(), symmetrised=True), r"on \(4, 2\); set symmetrised"),
        (lambda: WilsonLoop(Lattice((4, 2)), SU2(), [(1, 3)]), "1x3 does not fit .* sides from 1 to 2"),
        (lambda: WilsonLoop(Lattice((4, 2)), SU2(), [(0, 1)]), "0x1 does not fit"),
        (lambda: TopologicalCharge(Lattice((4, 4)), SU2()), r"U\(1\) in 2d, got SU\(2\) in 2d"),
        (lambda: TopologicalCharge(Lattice((4, 4, 4)), U1()), r"U\(1\) in 2d, got U\(1\) in 3d"),
    ],
)
def test_what_cannot_be_measured_is_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
