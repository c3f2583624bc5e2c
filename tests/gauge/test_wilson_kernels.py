"""The fused force and value of the Wilson action against autograd and against the definition."""

import pytest
import torch

from lattice_lightning.actions import WilsonGauge
from lattice_lightning.gauge import wilson_kernels as module
from lattice_lightning.gauge.wilson_kernels import staple_table, wilson_force, wilson_sum
from lattice_lightning.groups import SU2, SUN, U1
from lattice_lightning.groups.compiled import Fused
from lattice_lightning.lattice import Lattice
from lattice_lightning.testing import assert_force

GROUPS = [U1(), SU2(), SUN(3)]
# extents of two: both neighbours of a site are one
LATTICES = [(4, 6), (2, 3), (4, 2, 3), (2, 4, 3, 2)]
BETA = 2.3


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """The functions that are compiled, run as they are."""
    monkeypatch.setattr(Fused, "__call__", lambda self, *tensors: self.function(*tensors))


@pytest.fixture(params=GROUPS, ids=lambda g: g.name)
def gauge_group(request):
    return request.param


def fuse(monkeypatch):
    monkeypatch.setattr("lattice_lightning.groups.compiled.FUSE_FROM", 1)
    monkeypatch.setattr("lattice_lightning.groups.compiled.compiler_found", lambda: True)


@pytest.mark.parametrize("shape", LATTICES, ids=str)
def test_force_is_that_of_autograd(gauge_group, shape, rng):
    lattice = Lattice(shape)
    links = gauge_group.hot(lattice, 3, rng)
    expected = gauge_group.pack_algebra(WilsonGauge(lattice, gauge_group, BETA).force(links, {}))
    got = wilson_force(gauge_group, lattice, gauge_group.to_motion(links), BETA)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", LATTICES, ids=str)
def test_fused_force_against_finite_differences(gauge_group, shape, rng, monkeypatch):
    fuse(monkeypatch)
    lattice = Lattice(shape)
    assert_force(WilsonGauge(lattice, gauge_group, BETA), gauge_group.hot(lattice, 2, rng), {}, rng)


def test_force_with_the_staples_of_other_links_is_rejected(gauge_group, rng, monkeypatch):
    fuse(monkeypatch)
    lattice, table = Lattice((4, 6)), staple_table
    monkeypatch.setattr(module, "staple_table", lambda *a: table(*a).roll(1, 2))
    tables = module.angle_tables
    monkeypatch.setattr(module, "angle_tables", lambda *a: (tables(*a)[0], tables(*a)[1].roll(1, 1)))
    with pytest.raises(AssertionError, match="force of WilsonGauge"):
        assert_force(WilsonGauge(lattice, gauge_group, BETA), gauge_group.hot(lattice, 2, rng), {}, rng)


@pytest.mark.parametrize("shape", LATTICES, ids=str)
def test_sum_of_plaquettes(shape, rng):
    lattice, group = Lattice(shape), U1()
    links = group.hot(lattice, 3, rng)
    expected = WilsonGauge(lattice, group, 1.0).value(links, {})
    torch.testing.assert_close(wilson_sum(group, lattice, group.to_motion(links)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", [SUN(2), SUN(4)], ids=lambda g: g.name)
def test_groups_without_kernel_take_the_general_way(group, rng, monkeypatch):
    fuse(monkeypatch)
    lattice = Lattice((2, 4))
    assert wilson_force(group, lattice, group.to_motion(group.hot(lattice, 1, rng)), BETA) is None
    assert_force(WilsonGauge(lattice, group, BETA), group.hot(lattice, 2, rng), {}, rng)
