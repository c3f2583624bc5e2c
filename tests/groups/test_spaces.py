"""Names, checks of fields, the way back onto the group, gauge transformations."""

import math

import numpy as np
import pytest
import torch
from conversions import matrices
from reference import sites, step

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, SUN, U1, RealLine, from_name
from lattice_lightning.lattice import Lattice


@pytest.mark.parametrize(
    "name, kind, n_generators",
    [
        ("U(1)", U1, 1),
        ("u1", U1, 1),
        ("SU(2)", SU2, 3),
        ("su_2", SU2, 3),
        ("SU(3)", SUN, 8),
        ("SU5", SUN, 24),
    ],
)
def test_groups_by_name(name, kind, n_generators):
    group = from_name(name)
    assert type(group) is kind
    assert group.n_generators == n_generators


@pytest.mark.parametrize("name", ["R", "real"])
def test_the_real_line_by_name(name):
    assert isinstance(from_name(name), RealLine)


@pytest.mark.parametrize(
    "name, hint", [("SU(x)", r"did you mean SU\("), ("Sp(4)", "expected U"), ("", "expected U")]
)
def test_unknown_names(name, hint):
    with pytest.raises(InputError, match=hint):
        from_name(name)


@pytest.mark.parametrize("make", [lambda: from_name("SU(1)"), lambda: SUN(0)])
def test_too_few_colours(make):
    with pytest.raises(InputError, match=r"N >= 2.*use U1"):
        make()


def test_check_field(group):
    lattice = Lattice((4, 6))
    field = group.cold(lattice, 2)
    group.check_field(field, lattice)
    wrong_kind = field + 0j if group.name == "U(1)" else field.real
    for bad in (field[:, :1], field[:, :, :3], wrong_kind):
        with pytest.raises(InputError, match=r"on the lattice \(4, 6\) needs .* of shape \[batch, 2, 4, 6"):
            group.check_field(bad, lattice)


def test_check_field_of_another_group():
    lattice = Lattice((4, 4))
    with pytest.raises(InputError, match=r"SU\(3\).*\[batch, 2, 4, 4, 3, 3\].*got.*\[1, 2, 4, 4, 2, 2\]"):
        SUN(3).check_field(SU2().cold(lattice, 1), lattice)


@pytest.mark.parametrize("bad", [torch.zeros(2, 4, 3), torch.zeros(4, 4), torch.zeros(1, 4, 4) + 0j])
def test_check_scalar_field(bad):
    RealLine().check_field(torch.zeros(2, 4, 4), Lattice((4, 4)))
    with pytest.raises(InputError, match=r"real tensor of shape \[batch, 4, 4\]"):
        RealLine().check_field(bad, Lattice((4, 4)))


def test_scalars_with_components(rng):
    space, lattice = RealLine(n_components=3), Lattice((4, 6))
    field = space.hot(lattice, 2, rng)
    assert field.shape == space.cold(lattice, 2).shape == (2, 4, 6, 3)
    space.check_field(field, lattice)
    assert space.momentum(field, rng).shape == field.shape
    assert torch.equal(space.evolve(field, field), 2 * field)
    assert space.defect(field).tolist() == [0, 0]


@pytest.mark.parametrize(
    "angle",
    [0.0, 3.0, -3.0, 7.0, -7.0, 1e6, math.pi, -math.pi, 3 * math.pi, math.nextafter(math.pi, 4)],
)
def test_angles_wrap_into_the_half_open_interval(angle):
    wrapped = float(U1().reunitarise(torch.tensor([angle], dtype=torch.float64)))
    assert -math.pi < wrapped <= math.pi
    assert math.isclose(math.cos(wrapped), math.cos(angle), abs_tol=1e-9)
    assert math.isclose(math.sin(wrapped), math.sin(angle), abs_tol=1e-9)


def test_evolution_of_angles_does_not_wrap():
    field, omega = torch.full((1, 2, 2, 2), 3.0), torch.full((1, 2, 2, 2, 1), 3.0)
    assert torch.equal(U1().evolve(field, omega), torch.full((1, 2, 2, 2), 6.0))


def test_reunitarise_leads_back_and_leaves_the_group_alone(group, rng):
    links = group.hot(Lattice((4, 4)), 3, rng)
    torch.testing.assert_close(group.reunitarise(links), links, rtol=0, atol=1e-13)
    if group.name == "U(1)":
        return
    noise = 1e-6 * torch.randn(links.shape, generator=rng, dtype=torch.float64)
    mended = group.reunitarise(links + noise)
    assert group.defect(links + noise).min() > 1e-7
    assert group.defect(mended).max() < 1e-13
    torch.testing.assert_close(mended, links, rtol=0, atol=2e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_defect_names_the_chain_that_is_not_finite(group, bad):
    links = group.cold(Lattice((2, 2)), 3)
    links[1, 0, 0, 1] = bad
    assert group.defect(links).isinf().tolist() == [False, True, False]
    assert RealLine().defect(torch.tensor([[0.0, 1.0], [bad, 1.0]])).isinf().tolist() == [False, True]


def test_reunitarise_does_not_hide_nan(group):
    links = group.cold(Lattice((2, 2)), 2)
    links[0] = float("nan")
    assert group.defect(group.reunitarise(links)).isinf().tolist() == [True, False]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 2), (2, 2, 3, 2)])
def test_gauge_transformation(group, rng, shape):
    lattice = Lattice(shape)
    links, rotation = group.hot(lattice, 2, rng), group.haar((2, *shape), rng)
    u, g = matrices(group, links)[1], matrices(group, rotation)[1]
    got = matrices(group, group.transform(links, rotation, lattice))[1]
    for site in sites(shape):
        for mu in range(len(shape)):
            expected = g[site] @ u[(mu, *site)] @ g[step(site, mu, 1, shape)].conj().T
            np.testing.assert_allclose(got[(mu, *site)], expected, rtol=0, atol=1e-13)
