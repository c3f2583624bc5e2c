"""Every gauge and fermion action's force against finite differences of its value."""

import pytest
import torch

from lattice_lightning.actions import ImprovedGauge, StaggeredFermion, SumAction, WilsonGauge
from lattice_lightning.groups import SU2, SUN, U1, generators
from lattice_lightning.lattice import Lattice
from lattice_lightning.testing import assert_force

TIGHT = {"tolerance_md": 1e-12, "tolerance_accept": 1e-12, "compiled": False}


def wilson(lattice, group):
    return WilsonGauge(lattice, group, beta=2.7)


def improved(lattice, group):
    return ImprovedGauge(lattice, group, beta=1.1, c1="iwasaki")


def fermion(lattice, group):
    return StaggeredFermion(lattice, group, mass=0.3, **TIGHT)


def fermion_on_all_sites(lattice, group):
    return StaggeredFermion(lattice, group, mass=0.3, even_sites_only=False, **TIGHT)


def everything(lattice, group):
    light = StaggeredFermion(lattice, group, mass=0.2, name="light", boundary=(-1,) * lattice.ndim, **TIGHT)
    return SumAction({"gauge": improved(lattice, group), "one": fermion(lattice, group), "two": light})


ACTIONS = [wilson, improved, fermion, fermion_on_all_sites, everything]


def check(action, rng):
    field = action.space.hot(action.lattice, 2, rng)
    aux, _ = action.refresh(field, rng)
    moved = action.space.evolve(field, 0.1 * action.space.momentum(field, rng))
    assert_force(action, moved, aux, rng)


@pytest.mark.parametrize("build", ACTIONS)
@pytest.mark.parametrize("shape", [(4, 4), (2, 2, 4)])
def test_force(group, rng, build, shape):
    check(build(Lattice(shape), group), rng)


@pytest.mark.parametrize("build", ACTIONS)
@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
def test_force_in_four_dimensions(group, rng, build):
    check(build(Lattice((2, 2, 2, 2)), group), rng)


@pytest.mark.parametrize("build", [wilson, fermion])
def test_force_of_every_link_alone(rng, build):
    # a random direction could hide an error in a few links
    action = build(Lattice((2, 2)), SU2())
    field = action.space.hot(action.lattice, 1, rng)
    aux, _ = action.refresh(field, rng)
    force, step = action.force(field, aux).flatten(), 1e-3
    for index in range(force.numel()):
        unit = torch.zeros_like(force)
        unit[index] = step
        unit = unit.reshape(1, 2, 2, 2, 3)
        up, down, up2, down2 = (
            float(action.value(action.space.evolve(field, k * unit), aux)) for k in (1, -1, 2, -2)
        )
        assert float(force[index]) == pytest.approx((8 * (up - down) - up2 + down2) / (12 * step), abs=1e-7)


def test_force_is_covariant(group, rng):
    if group.name == "U(1)":
        pytest.skip("the force of U(1) is invariant, which the value's invariance implies")
    lattice = Lattice((4, 2))
    action = WilsonGauge(lattice, group, beta=2.0)
    links, g = group.hot(lattice, 1, rng), group.haar((1, 4, 2), rng)

    def force_matrix(u):
        basis = generators(group.n_colors)
        return torch.einsum("...a,aij->...ij", action.force(u, {}).to(basis.dtype), basis)

    expected = g.unsqueeze(1) @ force_matrix(links) @ g.unsqueeze(1).mH
    got = force_matrix(group.transform(links, g, lattice))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_force_of_a_chain_does_not_feel_the_others(group, rng):
    lattice = Lattice((4, 4))
    action = fermion(lattice, group)
    field = group.hot(lattice, 3, rng)
    aux, _ = action.refresh(field, rng)
    together = action.force(field, aux)
    alone = action.force(field[1:2], {"fermion": aux["fermion"][1:2]})
    torch.testing.assert_close(alone, together[1:2], rtol=0, atol=1e-12)
