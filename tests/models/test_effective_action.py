"""Values, forces, gradients and refusals of effective actions."""

import itertools

import numpy as np
import pytest
import reference
import torch
from conversions import matrices
from link_map_cases import randomise
from toy_systems import MASS, effective, target

from lattice_lightning.actions import Phi4, StaggeredFermion, SumAction, WilsonGauge
from lattice_lightning.exceptions import ConvergenceError, InputError
from lattice_lightning.groups import SU2, SUN, U1
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import Cask, CovNet, EffectiveAction
from lattice_lightning.testing import assert_force

SQUARE, SMALL_4D = Lattice((4, 4)), Lattice((2, 2, 2, 4))
MASSES = (0.4, 0.6, 0.9)


def guided(name, lattice=SQUARE, group=None):
    """An effective action with random coefficients and weights, named by what it contains."""
    group = group or SU2()
    s_max = min(lattice.shape) - 1
    networks = {
        "covnet": lambda: randomise(CovNet(lattice, group)),
        "ape": lambda: randomise(CovNet(lattice, group, kind="ape")),
        "cask": lambda: randomise(Cask(lattice, group, n_heads=2, s_max=min(s_max, 2), covnet_layers=1)),
    }
    parts = name.split("+")
    options = {
        "masses": MASSES if "masses" in parts else (0.5,),
        "loops": [(1, 1), (1, 2), (2, 1)] if "loops" in parts else (),
        "polyakov": "polyakov" in parts,
        "learn_masses": "learned" in parts,
        "network": next((make() for part, make in networks.items() if part in parts), None),
    }
    action = effective(target(lattice, group), **options)
    rng = torch.Generator().manual_seed(11)
    with torch.no_grad():
        action.coefficients.copy_(0.5 + torch.rand(action.coefficients.shape, generator=rng).double())
    return action


def fields(action, rng, n_chains=2):
    links = action.space.hot(action.lattice, n_chains, rng)
    return links, action.fermion.refresh(links, rng)[0]


@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=["U1", "SU2", "SU3"])
@pytest.mark.parametrize("even_sites_only", [True, False])
def test_neutral_parameters_at_the_same_mass_give_the_target(group, even_sites_only, rng):
    action = target(group=group, even_sites_only=even_sites_only)
    guide = EffectiveAction(action, masses=[MASS])
    links, aux = fields(guide, rng)
    torch.testing.assert_close(guide.value(links, aux), action.value(links, aux), rtol=1e-13, atol=0)
    torch.testing.assert_close(guide.force(links, aux), action.force(links, aux), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "lattice", "group"),
    [
        ("bare", SQUARE, SU2()),
        ("masses", SQUARE, SU2()),
        ("loops", SQUARE, SU2()),
        ("masses+loops", SQUARE, SUN(3)),
        ("polyakov", SQUARE, SUN(3)),
        ("polyakov+learned", SMALL_4D, SU2()),
        ("covnet", SQUARE, U1()),
        ("ape", SQUARE, SU2()),
        ("covnet+masses+loops", SQUARE, SU2()),
        ("cask", SQUARE, SU2()),
        ("cask+masses", SQUARE, SUN(3)),
        ("cask", SQUARE, U1()),
        ("covnet+masses", SMALL_4D, SU2()),
        ("cask", SMALL_4D, SU2()),
        ("cask", SMALL_4D, SUN(3)),
    ],
)
def test_force_is_the_finite_difference(name, lattice, group, rng):
    action = guided(name, lattice, group)
    links, aux = fields(action, rng)
    assert_force(action, links, aux, rng)


@pytest.mark.parametrize("name", ["masses+loops", "covnet+masses", "ape", "cask+masses+loops", "learned+masses+polyakov", "covnet+learned"])
def test_gradient_by_every_parameter_is_the_finite_difference(name, rng):
    action = guided(name)
    links, aux = fields(action, rng, n_chains=1)
    packed = action.space.pack(links)
    action.packed_value(packed, aux, tolerance="accept", strict=True).sum().backward()
    step = 1e-3
    for label, parameter in action.named_parameters():
        for entry in itertools.product(*(range(n) for n in parameter.shape)):
            values = []
            for t in (step, -step, 2 * step, -2 * step):
                with torch.no_grad():
                    parameter[entry] += t
                    values.append(float(action.value(links, aux)))
                    parameter[entry] -= t
            expected = (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)
            got = float(parameter.grad[entry])
            assert got == pytest.approx(expected, rel=1e-6, abs=1e-6), f"{label}{entry}"
            assert abs(got) > 1e-3, f"{label}{entry} does not matter"


@pytest.mark.parametrize("group", [SU2(), SUN(3)], ids=["SU2", "SU3"])
def test_terms_are_dense_actions_of_smeared_links(group, rng):
    shape, beta = SQUARE.shape, 2.0
    action = guided("covnet+masses+loops", group=group)
    links, aux = fields(action, rng)
    with torch.no_grad():
        terms = action.term_values(group.pack(links), aux).numpy()
    weights = [[float(p.detach()) for p in layer.parameters()] for layer in action.network.layers]
    for chain in range(2):
        u = smeared = links[chain].numpy()
        for rho in weights:
            smeared = reference.stout(smeared, shape, *rho)
        phi = torch.view_as_complex(aux["fermion"])[chain, 0].numpy().ravel()
        expected = [reference.gauge_action(u, shape, beta)]
        expected += [reference.pseudofermion_action(smeared, shape, mass, phi) for mass in MASSES]
        for r, s in action.loops:
            traces = [
                np.trace(reference.walk(u, site, reference.rectangle(0, 1, r, s), shape)[0]).real
                for site in reference.sites(shape)
            ]
            expected.append(-sum(traces) / group.n_colors)
        np.testing.assert_allclose(terms[:, chain], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=["U1", "SU2", "SU3"])
@pytest.mark.parametrize("shape", [(4, 2), (2, 2, 4)], ids=str)
def test_polyakov_terms_are_naive_loops_around_space_and_time(group, shape, rng):
    """Each loop once: summed over the slice on which it starts."""
    action = guided("polyakov", Lattice(shape), group)
    links, aux = fields(action, rng)
    with torch.no_grad():
        *_, space, time = action.term_values(group.pack(links), aux)
    for chain, u in enumerate(matrices(group, links)):
        loops = []
        for mu, extent in enumerate(shape):
            slices = reference.polyakov(u, shape, mu).real * action.lattice.volume / extent
            loops.append(-slices / group.n_colors)
        assert float(space[chain]) == pytest.approx(sum(loops[:-1]), abs=1e-12)
        assert float(time[chain]) == pytest.approx(loops[-1], abs=1e-12)
        assert abs(float(space[chain]) - loops[-1]) > 1e-3, "time is not space"


def test_learned_masses_move_the_value(rng):
    """Starting at the given masses; then as an action built there, lighter than the bound or not."""
    action = target()
    fixed, learned = (
        EffectiveAction(action, [0.5, 0.8], 0.4, learn_masses=learn) for learn in (False, True)
    )
    assert fixed.is_linear and not learned.is_linear
    assert learned.n_parameters == fixed.n_parameters + 2
    links, aux = fields(fixed, rng)
    with torch.no_grad():
        fixed.coefficients.copy_(torch.tensor([1.1, 0.7, 0.4]))
        learned.coefficients.copy_(fixed.coefficients)
    assert torch.equal(learned.value(links, aux), fixed.value(links, aux))
    with torch.no_grad():
        learned.mass_weights.copy_(torch.tensor([0.35, 0.9], dtype=torch.float64))
    there = EffectiveAction(action, [0.35, 0.9])
    with torch.no_grad():
        there.coefficients.copy_(fixed.coefficients)
    torch.testing.assert_close(learned.value(links, aux), there.value(links, aux), rtol=1e-13, atol=0)
    assert learned.term_names == fixed.term_names, "a trained action keeps the names of its terms"


@pytest.mark.parametrize("name", ["masses+loops", "covnet", "cask+masses", "polyakov"])
def test_value_is_the_sum_of_terms_and_gauge_invariant(name, rng):
    """S[U^G, G phi] = S[U, phi]."""
    action = guided(name)
    group, lattice = action.space, action.lattice
    links, aux = fields(action, rng)
    g = group.haar((2, *lattice.shape), rng)
    even = (lattice.parity() == 0).flatten()
    phi = torch.view_as_complex(aux["fermion"])[:, 0]
    rotated = g.reshape(2, lattice.volume, 2, 2)[:, even] @ phi.unsqueeze(-1)
    moved = {"fermion": torch.view_as_real(rotated.squeeze(-1)).unsqueeze(1)}
    value = action.value(links, aux)
    torch.testing.assert_close(
        action.value(group.transform(links, g, lattice), moved), value, rtol=1e-11, atol=0
    )
    with torch.no_grad():
        terms = action.term_values(group.pack(links), aux, tolerance=1e-13)
    torch.testing.assert_close((action.coefficients.detach()[:, None] * terms).sum(0), value)


def test_one_solve_for_all_masses_equals_separate_solves(rng):
    together = guided("covnet+masses")
    links, aux = fields(together, rng)
    packed = together.space.pack(links)
    with torch.no_grad():
        terms = together.term_values(packed, aux)[1:]
        separate = [
            effective(target(), (mass,), network=together.network).term_values(packed, aux)[1]
            for mass in reversed(MASSES)
        ]
    torch.testing.assert_close(terms.flip(0), torch.stack(separate), rtol=1e-12, atol=0)


def test_chains_do_not_depend_on_each_other(rng):
    action = guided("cask+masses")
    links, aux = fields(action, rng, n_chains=3)
    alone = action.value(links[1:2], {"fermion": aux["fermion"][1:2]})
    torch.testing.assert_close(action.value(links, aux)[1:2], alone, rtol=1e-14, atol=0)


def test_names_and_numbers_of_terms_and_parameters():
    action = guided("covnet+masses+loops")
    assert action.term_names == [
        "gauge", "fermion_m0.4", "fermion_m0.6", "fermion_m0.9", "loop_1x1", "loop_1x2", "loop_2x1",
    ]
    assert action.coefficients.shape == (7,)
    assert action.n_parameters == 7 + 6
    assert guided("loops+polyakov").term_names[-3:] == ["loop_2x1", "polyakov_space", "polyakov_time"]


def test_solver_iterations_are_counted_by_purpose(rng):
    action = guided("masses")
    links, aux = fields(action, rng)
    action.value(links, aux), action.force(links, aux)
    counts = action.pop_iterations()
    assert set(counts) == {"accept", "md"}
    assert all(bool((c > 0).all()) for c in counts.values())
    assert action.pop_iterations() == {}


def test_a_solver_that_stops_early_raises_or_marks_its_chains(rng):
    action = effective(target(max_iterations=2))
    links = SU2().hot(SQUARE, 2, rng)
    aux = {"fermion": torch.randn(2, 1, 8, 2, 2, generator=rng, dtype=torch.float64)}
    with pytest.raises(ConvergenceError, match=r"effective action, masses \[0.6\]"):
        action.value(links, aux)
    assert bool(action.value(links, aux, strict=False).isnan().all())


@pytest.mark.parametrize(
    ("masses", "min_mass", "match"),
    [
        ([0.3], 0.4, r"masses \[0.3\].*min_mass=0.4"),
        ([0.5, 0.39], 0.4, "at least min_mass=0.4"),
        ([0.0], None, "must be positive"),
        ([0.5], -1.0, "must be positive"),
        ([], None, "at least one fermion mass"),
    ],
)
def test_masses_out_of_range_are_refused(masses, min_mass, match):
    with pytest.raises(InputError, match=match):
        EffectiveAction(target(), masses, min_mass)


@pytest.mark.parametrize("terms", ["gauge", "fermion", "gauge gauge2", "gauge fermion fermion2", "scalar"])
def test_targets_of_another_form_are_refused(terms):
    made = {
        "gauge": WilsonGauge(SQUARE, SU2(), 1.0),
        "gauge2": WilsonGauge(SQUARE, SU2(), 2.0),
        "fermion": StaggeredFermion(SQUARE, SU2(), MASS),
        "fermion2": StaggeredFermion(SQUARE, SU2(), MASS, name="other"),
        "scalar": Phi4(SQUARE, m2=1.0, lam=1.0),
    }
    with pytest.raises(InputError, match="one gauge action and one staggered fermion"):
        EffectiveAction(SumAction({name: made[name] for name in terms.split()}), [0.5])


def test_network_in_single_precision_moves_double_links():
    """Its force is the double one's to single precision; value and solves stay in double."""
    action = target()
    network = randomise(CovNet(action.lattice, action.space), scale=0.05)
    model = effective(action, network=network)
    field = action.space.hot(action.lattice, 4, torch.Generator().manual_seed(5))
    aux, _ = action.refresh(field, torch.Generator().manual_seed(3))
    double = model.force(field, aux)
    network.float()
    single = model.force(field, aux)
    assert single.dtype == torch.float64
    assert 0 < float((single - double).abs().max()) < 1e-4
