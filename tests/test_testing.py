"""Every shipped check passes on a right object and fails on a wrong one."""

import pytest
import torch

from lattice_lightning import testing
from lattice_lightning.actions import Phi4, WilsonGauge
from lattice_lightning.gauge import staple_sum, straight_loop
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.samplers import HMC

LATTICE = Lattice((4, 4))
GROUPS = pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
MAP_CHECKS = {
    "gauge covariance": testing.assert_gauge_covariant,
    "translation": testing.assert_translation_covariant,
    "reflection|exchange": testing.assert_rotation_covariant,
    "charge conjugation": testing.assert_charge_conjugation,
}


def stout(group, rho=0.1):
    """A right link map: exp of the projected staples times the link."""

    def function(links):
        u = group.pack(links)
        omega = group.mul_nh(staple_sum(group, LATTICE, u), u)
        return group.unpack(group.mul(group.exp(rho * group.project(omega)), u))

    return function


@GROUPS
@pytest.mark.parametrize("check", MAP_CHECKS.values(), ids=MAP_CHECKS)
def test_checks_of_maps_pass_on_stout_smearing(group, rng, check):
    assert check(stout(group), group, LATTICE, rng) < 1e-10


@GROUPS
def test_gauge_covariance_fails_on_a_fixed_rotation(group, rng):
    fixed = 0.1 * torch.ones(1, 1, 1, 1, group.n_generators, dtype=torch.float64)

    def function(links):
        # U(1) has no fixed rotation to betray: mix in a neighbouring link
        if group.name == "U(1)":
            return links + 0.1 * torch.roll(links, 1, 2)
        return group.evolve(links, fixed.expand(*group.site_shape(links), -1))

    with pytest.raises(AssertionError, match=r"gauge covariance .*: off by .* in chain [01], allowed"):
        testing.assert_gauge_covariant(function, group, LATTICE, rng)


@GROUPS
def test_translation_covariance_fails_on_a_marked_site(group, rng):
    def function(links):
        out = links.clone()
        out[:, :, 1, 2] = group.cold(LATTICE, 1)[:, :, 1, 2]
        return out

    with pytest.raises(AssertionError, match="translation along axis 0"):
        testing.assert_translation_covariant(function, group, LATTICE, rng)


def one_direction_smeared(group, mu):
    def function(links):
        out = links.clone()
        out[:, mu] = stout(group)(links)[:, mu]
        return out

    return function


@GROUPS
def test_rotation_covariance_fails_on_a_preferred_axis(group, rng):
    function = one_direction_smeared(group, 0)
    with pytest.raises(AssertionError, match="exchange of axes 0 and 1"):
        testing.assert_rotation_covariant(function, group, LATTICE, rng)


@GROUPS
def test_rotation_covariance_may_spare_time(group, rng):
    function = one_direction_smeared(group, 1)
    testing.assert_rotation_covariant(function, group, LATTICE, rng, spatial_only=True)


@GROUPS
def test_rotation_covariance_fails_without_reflection_symmetry(group, rng):
    def function(links):
        # forward plaquettes only
        u = group.pack(links)
        x, y = u[..., 0, :, :, :], u[..., 1, :, :, :]
        staple = group.mul_nh(group.mul(y, LATTICE.shift_packed(x, 1)), LATTICE.shift_packed(y, 0))
        new = group.mul(group.exp(0.1 * group.project(group.mul_nh(staple, x))), x)
        return group.unpack(torch.stack([new, y], -4))

    with pytest.raises(AssertionError, match=r"reflection of axis"):
        testing.assert_rotation_covariant(function, group, LATTICE, rng)


@GROUPS
def test_charge_conjugation_fails_on_a_complex_weight(group, rng):
    def function(links):
        step = torch.zeros(*group.site_shape(links), group.n_generators, dtype=torch.float64)
        step[..., -1] = 0.1  # diagonal, so that conjugation flips its sign
        return group.evolve(links, step)

    with pytest.raises(AssertionError, match="charge conjugation"):
        testing.assert_charge_conjugation(function, group, LATTICE, rng)


@GROUPS
def test_gauge_invariance(group, rng):
    def trace_of_loops(links):
        return group.re_trace(straight_loop(group, LATTICE, group.pack(links), 0)).sum((0, 1))

    def trace_of_links(links):
        return group.re_trace(group.pack(links)).sum((0, 1, 2))

    testing.assert_gauge_invariant(trace_of_loops, group, LATTICE, rng)
    with pytest.raises(AssertionError, match="gauge invariance"):
        testing.assert_gauge_invariant(trace_of_links, group, LATTICE, rng)


class WrongForce(WilsonGauge):
    def force(self, field, aux, *, strict=True):
        return 1.001 * super().force(field, aux, strict=strict)


class NanForce(WilsonGauge):
    def force(self, field, aux, *, strict=True):
        return torch.full_like(super().force(field, aux, strict=strict), float("nan"))


@GROUPS
@pytest.mark.parametrize("kind", [WrongForce, NanForce])
def test_force_check_has_power(group, rng, kind):
    links = group.hot(LATTICE, 2, rng)
    testing.assert_force(WilsonGauge(LATTICE, group, 2.0), links, {}, rng)
    with pytest.raises(AssertionError, match=f"force of {kind.__name__}"):
        testing.assert_force(kind(LATTICE, group, 2.0), links, {}, rng)


def affine_coupling(x):
    """Half of the entries scaled and moved by functions of the other half."""
    frozen, moved = x[:, :3], x[:, 3:]
    log_scale, shift = torch.sin(frozen), frozen.square().flip(1)
    return torch.cat([frozen, moved * log_scale.exp() + shift], 1), log_scale.sum(1)


def test_jacobian_of_an_affine_coupling(rng):
    x = torch.randn(4, 6, generator=rng, dtype=torch.float64)
    assert testing.assert_jacobian(affine_coupling, x) < 1e-12
    with pytest.raises(AssertionError, match="log-determinant"):
        testing.assert_jacobian(lambda y: (affine_coupling(y)[0], -affine_coupling(y)[1]), x)


def test_jacobian_of_a_scaling_of_fields(rng):
    x = torch.randn(3, 2, 3, generator=rng, dtype=torch.float64)
    log_two = 6 * torch.log(torch.tensor(2.0, dtype=torch.float64))
    testing.assert_jacobian(lambda y: (-2 * y, log_two.expand(len(y))), x)
    with pytest.raises(AssertionError, match=r"log-determinant: off by .* in chain 0"):
        testing.assert_jacobian(lambda y: (-2 * y, torch.zeros(len(y)).double()), x)


class Drift(RealLine):
    """An irreversible motion: it moves a little further than the momenta say."""

    def evolve(self, field, omega):
        return field + omega + 1e-3


def test_reversibility(rng):
    action = Phi4(LATTICE, 1.0, 1.0)
    field = action.space.hot(LATTICE, 4, rng)
    assert testing.assert_reversible(HMC(action, levels=5), field, rng) < 1e-9
    with pytest.raises(AssertionError, match="reversibility"):
        testing.assert_reversible(HMC(Phi4(LATTICE, 1.0, 1.0, space=Drift()), levels=5), field, rng)


@GROUPS
def test_reversibility_of_gauge_fields(group, rng):
    action = WilsonGauge(LATTICE, group, 2.0)
    testing.assert_reversible(HMC(action, levels=4), group.hot(LATTICE, 3, rng), rng)


@pytest.mark.parametrize("mu", [0, 1, 2])
def test_reflections_and_exchanges_are_involutions(group, rng, mu):
    lattice = Lattice((3, 3, 4))
    links = group.hot(lattice, 2, rng)
    twice = testing.reflect(group, lattice, testing.reflect(group, lattice, links, mu), mu)
    assert torch.equal(twice, links)
    exchanged = testing.permute_axes(lattice, links, [1, 0, 2])
    assert torch.equal(testing.permute_axes(lattice, exchanged, [1, 0, 2]), links)
    assert torch.equal(testing.translate(lattice, links, mu, lattice.shape[mu]), links)
    assert not torch.equal(testing.translate(lattice, links, mu), links)
