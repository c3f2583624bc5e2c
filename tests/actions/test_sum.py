import pytest
import torch

from lattice_lightning.actions import ImprovedGauge, Phi4, StaggeredFermion, SumAction, WilsonGauge
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, SUN
from lattice_lightning.lattice import Lattice

LATTICE, GROUP = Lattice((4, 4)), SU2()


def gauge(beta=2.0):
    return WilsonGauge(LATTICE, GROUP, beta)


def fermion(name="fermion", mass=0.5):
    return StaggeredFermion(
        LATTICE, GROUP, mass, name=name, compiled=False, tolerance_md=1e-12, tolerance_accept=1e-12
    )


def test_value_and_force_add(rng):
    terms = [gauge(), fermion(), fermion("heavy", 1.0)]
    total = SumAction({"g": terms[0], "f": terms[1], "h": terms[2]})
    links = GROUP.hot(LATTICE, 2, rng)
    aux, drawn = total.refresh(links, rng)
    assert sorted(aux) == ["fermion", "heavy"]
    values = sum(term.value(links, aux) for term in terms)
    torch.testing.assert_close(total.value(links, aux), values)
    torch.testing.assert_close(drawn, values)
    torch.testing.assert_close(total.force(links, aux), sum(t.force(links, aux) for t in terms))


def test_plus_adds_and_keeps_every_term(rng):
    links = GROUP.hot(LATTICE, 2, rng)
    total = gauge(1.0) + gauge(0.5) + ImprovedGauge(LATTICE, GROUP, 2.0)
    assert len(total.parts()) == 3
    expected = sum(part.value(links, {}) for part in (gauge(1.5), ImprovedGauge(LATTICE, GROUP, 2.0)))
    torch.testing.assert_close(total.value(links, {}), expected)
    assert len((gauge() + (gauge() + gauge())).parts()) == 3
    assert gauge().parts().keys() == {"action"}


def test_iterations_of_all_terms_add(rng):
    light, heavy = fermion(), fermion("heavy", 1.0)
    links = GROUP.hot(LATTICE, 2, rng)
    total = SumAction({"gauge": gauge(), "light": light, "heavy": heavy})
    aux, _ = total.refresh(links, rng)
    total.pop_iterations()
    total.value(links, aux)
    counts = total.pop_iterations()["accept"]
    light.value(links, aux)
    heavy.value(links, aux)
    assert torch.equal(counts, light.pop_iterations()["accept"] + heavy.pop_iterations()["accept"])


def test_strictness_reaches_the_terms(rng):
    lazy = StaggeredFermion(LATTICE, GROUP, 0.05, compiled=False, max_iterations=2)
    links = GROUP.hot(LATTICE, 2, rng)
    aux, _ = fermion().refresh(links, rng)
    total = SumAction({"gauge": gauge(), "fermion": lazy})
    assert total.value(links, aux, strict=False).isnan().all()
    assert total.force(links, aux, strict=False).isnan().any()


def test_two_fields_of_one_name_clash(rng):
    total = SumAction({"one": fermion(mass=0.5), "two": fermion(mass=1.0)})
    with pytest.raises(InputError, match="two terms draw an auxiliary field of the name fermion; give each another"):
        total.refresh(GROUP.cold(LATTICE, 1), rng)


@pytest.mark.parametrize(
    "other",
    [WilsonGauge(Lattice((4, 6)), GROUP, 1.0), WilsonGauge(LATTICE, SUN(3), 1.0), Phi4(LATTICE, 1.0, 1.0)],
    ids=["lattice", "group", "scalar"],
)
def test_terms_on_different_fields_are_refused(other):
    with pytest.raises(InputError, match=r"term 'b' lives on .*others on SU\(2\), lattice \(4, 4\)"):
        SumAction({"a": gauge(), "b": other})
    with pytest.raises(InputError, match="lives on"):
        gauge() + other


def test_an_empty_sum_is_refused():
    with pytest.raises(InputError, match="at least one term, got none"):
        SumAction({})
