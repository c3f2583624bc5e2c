"""Stout smearing against its formula in plain matrices, as descent of the Wilson action, and by waves."""

from math import cos, pi, sin

import numpy as np
import pytest
import torch
from conversions import matrices

from lattice_lightning.actions import WilsonGauge
from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import staple_sum, stout
from lattice_lightning.groups import SU2, SUN, U1
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import CovNet
from lattice_lightning.observables import plaquette
from lattice_lightning.testing import (
    assert_charge_conjugation,
    assert_gauge_covariant,
    assert_rotation_covariant,
    assert_translation_covariant,
)

SHAPES = [(4, 3), (2, 3, 4), (3, 2, 2, 2)]
SU = pytest.mark.parametrize("group", [SU2(), SUN(3), SUN(4)], ids=lambda g: g.name)


def smear(group, lattice, field, rho, n_steps=1):
    """In the public layout."""
    return group.unpack(stout(group, lattice, group.pack(field), rho, n_steps))


def formula(u, rho):
    """One step by eqs. 1-3 of hep-lat/0311018, links ``[batch, mu, *lattice, N, N]``."""
    d, n = u.ndim - 4, u.shape[-1]

    def at(x, *moves):
        for axis, steps in moves:
            x = np.roll(x, -steps, axis=1 + axis)
        return x

    def dag(x):
        return x.conj().swapaxes(-1, -2)

    result = np.empty_like(u)
    for mu in range(d):
        staples = 0
        for nu in range(d):
            if nu == mu:
                continue
            staples = staples + u[:, nu] @ at(u[:, mu], (nu, 1)) @ dag(at(u[:, nu], (mu, 1)))
            below, side = at(u[:, nu], (nu, -1)), at(u[:, nu], (nu, -1), (mu, 1))
            staples = staples + dag(below) @ at(u[:, mu], (nu, -1)) @ side
        omega = rho * staples @ dag(u[:, mu])
        q = 0.5j * (dag(omega) - omega)
        if n > 1:
            q = q - np.trace(q, axis1=-2, axis2=-1)[..., None, None] / n * np.eye(n)
        w, v = np.linalg.eigh(q)
        result[:, mu] = (v * np.exp(1j * w)[..., None, :]) @ dag(v) @ u[:, mu]
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_stout_is_the_formula_in_plain_matrices(group, shape, rng):
    lattice = Lattice(shape)
    field = group.hot(lattice, 2, rng)
    expected = matrices(group, field)
    for n_steps in range(3):
        got = matrices(group, smear(group, lattice, field, 0.12, n_steps))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
        expected = formula(expected, 0.12)
    # the comparison sees another weight and the other sign
    once = matrices(group, smear(group, lattice, field, 0.12))
    for wrong in (0.24, -0.12):
        assert abs(formula(matrices(group, field), wrong) - once).max() > 0.01


def test_the_covariant_network_at_half_the_weight(group, rng):
    lattice = Lattice((2, 3, 4))
    field = group.hot(lattice, 2, rng)
    network = CovNet(lattice, group, n_layers=2, straight_loops=False)
    for weight, equal in ((0.05, True), (0.1, False)):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(weight)
            mapped = matrices(group, network.transform(field))
        difference = abs(mapped - matrices(group, smear(group, lattice, field, 0.1, 2))).max()
        assert (difference < 1e-12) == equal


def test_symmetries(group, rng):
    lattice = Lattice((3, 4, 3))

    def smeared(field):
        return smear(group, lattice, field, 0.1, 2)

    assert_gauge_covariant(smeared, group, lattice, rng)
    assert_translation_covariant(smeared, group, lattice, rng)
    assert_rotation_covariant(smeared, group, lattice, rng)
    assert_charge_conjugation(smeared, group, lattice, rng)


@SU
def test_the_exponential_on_the_other_side_is_not_covariant(group, rng):
    lattice = Lattice((3, 4))

    def wrong(field):
        links = group.pack(field)
        omega = group.mul_nh(staple_sum(group, lattice, links), links)
        return group.unpack(group.mul(links, group.exp(0.1 * group.project(omega))))

    with pytest.raises(AssertionError, match="gauge covariance"):
        assert_gauge_covariant(wrong, group, lattice, rng)


def test_no_weight_no_step_and_cold_links_change_nothing(group, rng):
    lattice = Lattice((3, 4))
    field, cold = group.hot(lattice, 2, rng), group.cold(lattice, 1)
    packed = group.pack(field)
    assert torch.equal(stout(group, lattice, packed, 0.1, 0), packed)
    assert torch.allclose(stout(group, lattice, packed, 0.0, 3), packed, rtol=0, atol=1e-14)
    assert torch.allclose(smear(group, lattice, cold, 0.1, 2), cold, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(6, 6), (4, 4, 4, 4)])
def test_plaquette_rises_at_every_step_and_links_stay_in_the_group(group, shape, rng):
    lattice = Lattice(shape)
    field = group.hot(lattice, 4, rng)
    values = [plaquette(group, lattice, field)]
    falls = plaquette(group, lattice, smear(group, lattice, field, -0.1))
    assert (falls < values[0]).all()
    for _ in range(4):
        field = smear(group, lattice, field, 0.1)
        assert float(group.defect(field).max()) < 1e-13
        values.append(plaquette(group, lattice, field))
    assert (torch.stack(values).diff(dim=0) > 0.005).all()


def test_one_step_goes_down_the_gradient_of_the_wilson_action(group, rng):
    lattice, beta, rho = Lattice((3, 4, 2)), 2.3, 0.07
    field = group.hot(lattice, 2, rng)
    action = WilsonGauge(lattice, group, beta)
    # T = 1 of U(1) is not normalised to tr T T = 1/2
    slope = 1 / beta if group.name == "U(1)" else 2 * group.n_colors / beta
    force = action.force(field, {})
    moved = matrices(group, group.evolve(field, -slope * rho * force))
    np.testing.assert_allclose(
        matrices(group, smear(group, lattice, field, rho)), moved, rtol=0, atol=1e-12
    )
    # dS/drho = -slope |force|^2, from values of the action alone on the left
    h = 1e-4
    up, down = (action.value(smear(group, lattice, field, r), {}) for r in (h, -h))
    expected = -slope * force.square().flatten(1).sum(1)
    assert torch.allclose((up - down) / (2 * h), expected, rtol=1e-5)


@pytest.mark.parametrize("k", [(1, 0), (1, 2), (3, 1), (4, 2)], ids=str)
def test_weak_transverse_waves_shrink_by_one_minus_rho_phat_squared(k):
    group, lattice, rho = U1(), Lattice((8, 4)), 0.15
    p = [2 * pi * n / extent for n, extent in zip(k, lattice.shape, strict=True)]
    hat = [2 * sin(q / 2) for q in p]
    x = lattice.coordinates().double()
    # links sit half a step ahead of their site; the phase 0.3 keeps the shortest wave off its nodes
    wave = [torch.cos(p[0] * x[0] + p[1] * x[1] + q / 2 + 0.3) for q in p]
    field = 1e-4 * torch.stack([hat[1] * wave[0], -hat[0] * wave[1]]).unsqueeze(0)
    factor = 1 - rho * sum(2 - 2 * cos(q) for q in p)
    assert field.abs().max() > 1e-5
    assert torch.allclose(smear(group, lattice, field, rho), factor * field, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rho, n_steps", [(float("nan"), 1), (float("inf"), 1), (0.1, -1), (0.1, 1.5)])
def test_smearing_without_meaning_is_refused(rho, n_steps):
    group, lattice = SU2(), Lattice((2, 2))
    with pytest.raises(InputError, match=r"finite rho and 0, 1, 2, \.\.\. steps, got rho = .* n_steps = "):
        stout(group, lattice, group.pack(group.cold(lattice, 1)), rho, n_steps)
