"""Trajectories in the packed layout: the public one step by step, fused kernels, single precision."""

import pytest
import torch

from lattice_lightning.actions import (
    DenseStaggered,
    ImprovedGauge,
    Phi4,
    StaggeredFermion,
    SumAction,
    WilsonGauge,
)
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, SUN, U1
from lattice_lightning.groups.compiled import Fused
from lattice_lightning.lattice import Lattice
from lattice_lightning.samplers import HMC, Level, integrate
from lattice_lightning.testing import assert_reversible

LATTICE = Lattice((4, 4))
GROUPS = [U1(), SU2(), SUN(3), SUN(4)]


@pytest.fixture(params=GROUPS, ids=lambda g: g.name)
def gauge_group(request):
    return request.param


@pytest.fixture
def fused(monkeypatch):
    """Kernels at every size, their functions run as they are."""
    monkeypatch.setattr("lattice_lightning.groups.compiled.FUSE_FROM", 1)
    monkeypatch.setattr("lattice_lightning.groups.compiled.compiler_found", lambda: True)
    monkeypatch.setattr(Fused, "__call__", lambda self, *tensors: self.function(*tensors))


def actions(group):
    light = StaggeredFermion(LATTICE, group, 0.5, tolerance_md=1e-12, tolerance_accept=1e-12, compiled=False)
    wilson = WilsonGauge(LATTICE, group, 1.7)
    return {
        "wilson": wilson,
        "improved": ImprovedGauge(LATTICE, group, 1.1),
        "fermion": SumAction({"gauge": wilson, "fermion": light}),
    }


@pytest.mark.parametrize("name", ["wilson", "improved", "fermion"])
def test_motion_layout_has_the_same_value_and_force(gauge_group, name, rng):
    action = actions(gauge_group)[name]
    links = gauge_group.hot(LATTICE, 3, rng)
    aux, _ = action.refresh(links, rng)
    motion = gauge_group.to_motion(links)
    torch.testing.assert_close(gauge_group.from_motion(motion), links, rtol=0, atol=1e-15)
    force = gauge_group.unpack_algebra(action.motion_force(motion, aux))
    torch.testing.assert_close(force, action.force(links, aux), rtol=0, atol=1e-13)
    torch.testing.assert_close(action.motion_value(motion, aux), action.value(links, aux), rtol=0, atol=1e-10)


def by_hand(kernel, start, seed):
    """A proposal by the public layout alone, with the same random numbers."""
    rng = torch.Generator().manual_seed(seed)
    aux, before = kernel.target.refresh(start, rng)
    first = kernel.space.momentum(start, rng)
    end, last = integrate(kernel.space, start, first, kernel.forces(aux), kernel.trajectory_length)
    change = kernel.space.kinetic(last) - kernel.space.kinetic(first)
    return end, change + kernel.target.value(end, aux) - before


@pytest.mark.parametrize("name", ["wilson", "fermion"])
def test_proposal_is_that_of_the_public_layout(gauge_group, name, rng):
    kernel = HMC(actions(gauge_group)[name], levels=4)
    start = gauge_group.hot(LATTICE, 3, rng)
    got = kernel.propose(torch.Generator().manual_seed(5), kernel.init(start, rng))
    end, delta = by_hand(kernel, start, 5)
    torch.testing.assert_close(got.end, end, rtol=0, atol=1e-10)
    torch.testing.assert_close(got.delta_H, delta, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("fused")
def test_fused_proposal_is_the_plain_one(gauge_group, rng, monkeypatch):
    kernel = HMC(actions(gauge_group)["wilson"], levels=[Level(6, "leapfrog")])
    state = kernel.init(gauge_group.hot(LATTICE, 3, rng), rng)
    fast = kernel.propose(torch.Generator().manual_seed(5), state)
    monkeypatch.setattr("lattice_lightning.groups.compiled.FUSE_FROM", 10**9)
    plain = kernel.propose(torch.Generator().manual_seed(5), state)
    torch.testing.assert_close(fast.end, plain.end, rtol=0, atol=1e-11)
    torch.testing.assert_close(fast.delta_H, plain.delta_H, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("fused")
def test_fused_motion_is_reversible(gauge_group, rng):
    kernel = HMC(actions(gauge_group)["wilson"], levels=6)
    assert_reversible(kernel, gauge_group.hot(LATTICE, 8, rng), rng, tolerance=1e-9)


def test_own_force_of_an_action_is_the_one_that_moves(rng):
    class Frozen(WilsonGauge):
        def force(self, field, aux, *, strict=True):
            return torch.zeros_like(super().force(field, aux, strict=strict))

    group = SU2()
    links = group.hot(LATTICE, 2, rng)
    assert Frozen(LATTICE, group, 2.0).motion_force(group.to_motion(links), {}).abs().max() == 0
    assert WilsonGauge(LATTICE, group, 2.0).motion_force(group.to_motion(links), {}).abs().max() > 0.1


def by_subclass(method):
    """An action whose subclass adds to one method, and whose sum does; ``[terms]`` of SU(2)."""
    group = SU2()
    improved, wilson = ImprovedGauge(LATTICE, group, 0.7), WilsonGauge(LATTICE, group, 2.0)

    def packed_value(self, links, aux, *, tolerance, strict):
        plain = WilsonGauge.packed_value(self, links, aux, tolerance=tolerance, strict=strict)
        return plain + improved.packed_value(links, aux, tolerance=tolerance, strict=strict)

    def value(self, field, aux, **options):
        return super(type(self), self).value(field, aux, **options) + improved.value(field, aux)

    def force(self, field, aux, **options):
        return super(type(self), self).force(field, aux, **options) + improved.force(field, aux)

    base, name = method.split(".")
    own = {"packed_value": packed_value, "value": value, "force": force}[name]
    if base == "WilsonGauge":
        return type("Own", (WilsonGauge,), {name: own})(LATTICE, group, 2.0)
    return type("Own", (SumAction,), {name: own})({"one": wilson, "other": WilsonGauge(LATTICE, group, 0.5)})


@pytest.mark.parametrize(
    "method",
    ["WilsonGauge.packed_value", "WilsonGauge.value", "WilsonGauge.force", "SumAction.value", "SumAction.force"],
)
@pytest.mark.usefixtures("fused")
def test_what_a_subclass_adds_is_what_moves_and_accepts(method, rng):
    """Else HMC would sample another action than the one it was given."""
    action = by_subclass(method)
    group = action.space
    links = group.hot(LATTICE, 3, rng)
    motion = group.to_motion(links)
    torch.testing.assert_close(action.motion_value(motion, {}), action.value(links, {}), rtol=0, atol=1e-10)
    force = group.unpack_algebra(action.motion_force(motion, {}))
    torch.testing.assert_close(force, action.force(links, {}), rtol=0, atol=1e-12)
    if method == "WilsonGauge.packed_value":
        w, step = group.momentum(links, rng), 1e-5
        ends = [action.value(group.evolve(links, sign * step * w), {}) for sign in (1, -1)]
        change = (force * w).flatten(1).sum(1)
        torch.testing.assert_close(change, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
def test_single_precision_runs_back_and_ends_on_the_group(group, rng):
    kernel = HMC(WilsonGauge(LATTICE, group, 2.0), levels=6, precision="32")
    start = group.hot(LATTICE, 16, rng)
    error = assert_reversible(kernel, start, rng, tolerance=1e-4)
    assert error > 1e-9, "moved in double precision"
    trajectory = kernel.propose(rng, kernel.init(start, rng))
    assert trajectory.end.dtype == start.dtype
    assert trajectory.delta_H.dtype == torch.float64
    assert group.defect(trajectory.end).max() < 1e-13


@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
def test_single_precision_moves_with_a_dense_determinant(group, rng):
    kernel = HMC(DenseStaggered(LATTICE, group, 0.5), levels=6, precision="32")
    trajectory = kernel.propose(rng, kernel.init(group.hot(LATTICE, 4, rng), rng))
    assert trajectory.delta_H.dtype == torch.float64
    assert trajectory.delta_H.abs().max() < 0.1


@pytest.mark.parametrize("group", [U1(), SU2()], ids=lambda g: g.name)
def test_single_precision_keeps_the_energy_identity(group):
    """<exp(-dH)> = 1 along a chain; with the action of the unprojected end it would not be tested."""
    rng = torch.Generator().manual_seed(3)
    kernel = HMC(WilsonGauge(LATTICE, group, 2.0), levels=[Level(4, "leapfrog")], precision="32")
    state = kernel.init(group.hot(LATTICE, 400, rng), rng)
    weights = []
    for step in range(60):
        state, info = kernel.step(rng, state)
        if step >= 20:
            weights.append(torch.exp(-info.delta_H))
    means = torch.stack(weights).mean(0)
    assert abs(float(means.mean()) - 1) < 4 * float(means.std()) / len(means) ** 0.5


@pytest.mark.parametrize(
    ("action", "precision", "message"),
    [
        (WilsonGauge(LATTICE, SU2(), 2.0), "16", "must be 64 or 32"),
        (Phi4(LATTICE, 1.0, 1.0), "32", "only links"),
        (actions(SU2())["fermion"], "32", "fermion"),
    ],
)
def test_bad_precision(action, precision, message):
    with pytest.raises(InputError, match=message):
        HMC(action, precision=precision)
