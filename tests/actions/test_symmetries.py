"""Lattice symmetries of the staggered action: with its signs they hold, without them they do not."""

import numpy as np
import pytest
import torch
from conversions import dense_operator

from lattice_lightning.actions import StaggeredFermion
from lattice_lightning.groups import SU2, SUN, U1
from lattice_lightning.lattice import Lattice
from lattice_lightning.testing import permute_axes, reflect, translate


def label(value):
    return getattr(value, "name", str(value))


GROUPS = pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
CASES = [
    (U1(), (4, 4), (1, -1)),
    (SU2(), (4, 4), (1, -1)),
    (SUN(3), (4, 2), (-1, -1)),
    (SU2(), (4, 2, 4), (1, 1, -1)),
    (SU2(), (4, 2, 2, 4), (1, 1, 1, -1)),
    (SUN(3), (2, 2, 2, 4), (1, 1, 1, -1)),
]
LATTICES = pytest.mark.parametrize("group, shape, boundary", CASES, ids=label)


def build(shape, boundary, group):
    return StaggeredFermion(
        Lattice(shape), group, 0.3, boundary, even_sites_only=False,
        tolerance_md=1e-12, tolerance_accept=1e-12, compiled=False,
    )  # fmt: skip


def draw(action, rng):
    links = action.space.hot(action.lattice, 1, rng)
    aux, value = action.refresh(links, rng)
    packed = aux["fermion"].permute(4, 3, 2, 1, 0)
    return links, action.operator.unpack_field(packed[..., 0, :], packed[..., 1, :]), float(value)


def value(action, links, psi):
    packed = torch.stack([action.operator.pack_field(psi, p).permute(3, 2, 1, 0) for p in (0, 1)], 1)
    return float(action.value(links, {"fermion": packed}))


def log_det(action, links):
    return np.linalg.slogdet(dense_operator(action.operator, links, action.mass))[1]


def crossing(x, mu, boundary):
    """The boundary moved by the symmetry moves back with a sign on the first slice."""
    return torch.where((x[mu] == 0) & (boundary[mu] < 0), -1.0, 1.0)


def translation_signs(x, mu, boundary):
    return (1.0 - 2 * (x[mu + 1 :].sum(0) % 2)) * crossing(x, mu, boundary)


def reflection_signs(x, mu, boundary):
    return (1.0 - 2 * (x[mu] % 2)) * crossing(x, mu, boundary)


def check(action, links, psi, signs, expected):
    signs = signs.unsqueeze(-1)
    assert value(action, links, signs * psi) == pytest.approx(expected, rel=1e-9)
    if (signs != signs.flatten()[0]).any():
        # negative control
        assert value(action, links, psi) != pytest.approx(expected, rel=1e-4)


@LATTICES
def test_translations(group, rng, shape, boundary):
    action = build(shape, boundary, group)
    links, psi, expected = draw(action, rng)
    for mu in range(len(shape)):
        signs = translation_signs(action.lattice.coordinates(), mu, boundary)
        moved = torch.roll(psi, 1, dims=1 + mu)
        check(action, translate(action.lattice, links, mu), moved, signs, expected)


@LATTICES
def test_reflections(group, rng, shape, boundary):
    action = build(shape, boundary, group)
    links, psi, expected = draw(action, rng)
    for mu in range(len(shape)):
        signs = reflection_signs(action.lattice.coordinates(), mu, boundary)
        moved = torch.roll(torch.flip(psi, (1 + mu,)), 1, dims=1 + mu)
        check(action, reflect(group, action.lattice, links, mu), moved, signs, expected)


@pytest.mark.parametrize(
    "group, shape, boundary, a",
    [
        (U1(), (4, 4), (-1, -1), 0),
        (SU2(), (4, 4, 2), (1, 1, -1), 0),
        (SUN(3), (2, 4, 4), (1, -1, -1), 1),
        (SU2(), (2, 4, 4, 2), (1, 1, 1, -1), 1),
        (SUN(3), (2, 2, 2, 4), (-1, -1, 1, -1), 0),
    ],
    ids=label,
)
def test_exchange_of_neighbouring_axes(group, rng, shape, boundary, a):
    action = build(shape, boundary, group)
    links, psi, expected = draw(action, rng)
    order = list(range(len(shape)))
    order[a], order[a + 1] = a + 1, a
    x = action.lattice.coordinates()
    signs = 1.0 - 2 * (x[a] * x[a + 1] % 2)
    moved = psi.transpose(1 + a, 2 + a)
    check(action, permute_axes(action.lattice, links, order), moved, signs, expected)


@LATTICES
def test_determinant_under_translations_and_reflections(group, rng, shape, boundary):
    action = build(shape, boundary, group)
    links = group.hot(action.lattice, 1, rng)
    expected = log_det(action, links)
    for mu in range(len(shape)):
        for image in (translate(action.lattice, links, mu), reflect(group, action.lattice, links, mu)):
            assert log_det(action, image) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2)])
@GROUPS
def test_determinant_under_exchange_of_axes_with_equal_boundaries(group, rng, shape):
    boundary = (-1, -1, 1)[: len(shape)]
    action = build(shape, boundary, group)
    links = group.hot(action.lattice, 1, rng)
    exchanged = permute_axes(action.lattice, links, [1, 0, 2][: len(shape)])
    assert log_det(action, exchanged) == pytest.approx(log_det(action, links), abs=1e-10)


@GROUPS
def test_determinant_negative_controls(group, rng):
    action = build((4, 4), (1, -1), group)
    links = group.hot(action.lattice, 1, rng)
    expected = log_det(action, links)
    # only time is antiperiodic
    assert log_det(action, permute_axes(action.lattice, links, [1, 0])) != pytest.approx(expected, abs=1e-3)
    # one direction left behind
    half = links.clone()
    half[:, 0] = translate(action.lattice, links, 1)[:, 0]
    assert log_det(action, half) != pytest.approx(expected, abs=1e-3)
    # the reflected links not moved back by one
    wrong = reflect(group, action.lattice, links, 0)
    wrong[:, 0] = torch.roll(wrong[:, 0], 1, dims=1)
    assert log_det(action, wrong) != pytest.approx(expected, abs=1e-3)


@GROUPS
def test_determinant_under_charge_conjugation(group, rng):
    action = build((4, 4), (1, -1), group)
    links = group.hot(action.lattice, 1, rng)
    conjugate = -links if group.name == "U(1)" else links.conj().resolve_conj()
    assert log_det(action, conjugate) == pytest.approx(log_det(action, links), abs=1e-10)
