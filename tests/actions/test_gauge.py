import pytest
from conversions import matrices
from reference import gauge_action

from lattice_lightning.actions import ImprovedGauge, WilsonGauge
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.testing import assert_gauge_invariant

SHAPES = [(4, 3), (2, 3, 4), (2, 3, 2, 4)]
COEFFICIENTS = [("symanzik", -1 / 12), ("iwasaki", -0.331), ("dbw2", -1.4088), (0.05, 0.05)]


@pytest.mark.parametrize("shape", SHAPES)
def test_wilson_value(group, rng, shape):
    lattice = Lattice(shape)
    links = group.hot(lattice, 2, rng)
    expected = [gauge_action(u, shape, 2.7) for u in matrices(group, links)]
    value = WilsonGauge(lattice, group, beta=2.7).value(links, {})
    assert value.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("c1, number", COEFFICIENTS, ids=[str(c) for c, _ in COEFFICIENTS])
def test_improved_value(group, rng, shape, c1, number):
    lattice = Lattice(shape)
    links = group.hot(lattice, 1, rng)
    expected = gauge_action(matrices(group, links)[0], shape, 1.3, number)
    value = ImprovedGauge(lattice, group, beta=1.3, c1=c1).value(links, {})
    assert float(value) == pytest.approx(expected, rel=1e-12)


def test_improved_without_rectangles_is_wilson(group, rng):
    lattice = Lattice((4, 4))
    links = group.hot(lattice, 2, rng)
    improved = ImprovedGauge(lattice, group, beta=2.0, c1=0.0).value(links, {})
    assert improved.tolist() == pytest.approx(WilsonGauge(lattice, group, 2.0).value(links, {}).tolist())


def test_unit_links_are_the_minimum(group):
    lattice = Lattice((2, 4, 4))
    for action in (WilsonGauge(lattice, group, 2.0), ImprovedGauge(lattice, group, 2.0, "iwasaki")):
        field = group.cold(lattice, 2)
        assert action.value(field, {}).abs().max() < 1e-11
        assert action.force(field, {}).abs().max() < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_gauge_invariance(group, rng, shape):
    lattice = Lattice(shape)
    for action in (WilsonGauge(lattice, group, 2.0), ImprovedGauge(lattice, group, 2.0)):
        assert_gauge_invariant(lambda u, action=action: action.value(u, {}), group, lattice, rng)


def test_gauge_actions_draw_nothing(rng):
    group, lattice = SU2(), Lattice((4, 4))
    action = WilsonGauge(lattice, group, 2.0)
    links = group.hot(lattice, 2, rng)
    aux, value = action.refresh(links, rng)
    assert aux == {} and value.tolist() == action.value(links, {}).tolist()
    assert action.pop_iterations() == {}
    assert action.group is group


def test_errors():
    lattice = Lattice((4, 4))
    with pytest.raises(InputError, match=r"WilsonGauge needs a gauge group \(U\(1\) or SU\(N\)\), got R"):
        WilsonGauge(lattice, RealLine(), 1.0)
    with pytest.raises(InputError, match="one of symanzik, iwasaki, dbw2, got 'luescher'"):
        ImprovedGauge(lattice, SU2(), 1.0, c1="luescher")
    with pytest.raises(InputError, match=r"lattice \(4, 4\) needs complex links"):
        WilsonGauge(lattice, SU2(), 1.0).value(SU2().cold(Lattice((4, 6)), 1), {})
