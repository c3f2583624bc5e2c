"""Sources solved exactly and sloppily: against dense inverses, translated, and the same at every level."""

import numpy as np
import pytest
import torch
from reference import sites, staggered_matrix

from lattice_lightning.exceptions import ConvergenceError, InputError
from lattice_lightning.fermions import StaggeredOperator
from lattice_lightning.groups import SU2, SUN, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables.sloppy import PICK, SloppySources, noise_traces

LATTICE, MASS = Lattice((4, 4)), 0.2
TOLERANCES = (0.1, 0.01)


def made(group=None, lattice=LATTICE, **changes):
    options = {"times": (1, 2), "tolerances": TOLERANCES, "n_sources": 3, **changes}
    return SloppySources(lattice, group or SU2(), MASS, **options)


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("group", [SU2(), SUN(3)], ids=["SU2", "SU3"])
def test_the_exact_level_is_that_of_dense_inverses(group, rng):
    links = group.hot(LATTICE, 2, rng)
    sources = made(group)
    measured = sources.measure(links, seeded())
    points, noise = sources.draw(2, seeded())
    order, n = sites(LATTICE.shape), group.n_colors
    for chain in range(2):
        inverse = np.linalg.inv(staggered_matrix(links[chain].numpy(), LATTICE.shape, MASS))
        for s, point in enumerate(points):
            j = order.index(point)
            for t in (1, 2):
                there = [i for i, site in enumerate(order) if (site[-1] - point[-1]) % 4 == t]
                blocks = [inverse[n * i : n * i + n, n * j : n * j + n] for i in there]
                expected = sum(float((abs(b) ** 2).sum()) for b in blocks)
                assert float(measured[f"meson_pion_t{t}_l0_s{s}"][chain]) == pytest.approx(expected, rel=1e-7)
        for s, xi in enumerate(noise):
            odd = torch.zeros_like(xi)
            vector = sources.operator.unpack_field(xi, odd)[chain].numpy().ravel()
            # D^-1 of even on even sites is m (D D^dag)^-1 there, Hermitian
            expected = 2 / LATTICE.volume * float((vector.conj() @ inverse @ vector).real)
            assert float(measured[f"trace_inverse_1_l0_s{s}"][chain]) == pytest.approx(expected, rel=1e-7)


def test_a_complete_basis_gives_the_trace(rng):
    group = SU2()
    links = group.hot(LATTICE, 1, rng)
    operator = StaggeredOperator(LATTICE, group)
    matrices = operator.hop_matrices(group.pack(links))
    size = 2 * LATTICE.volume // 2
    basis = []
    for k in range(size):
        unit = torch.zeros(2, size, dtype=torch.float64)
        unit[0, k] = 1
        basis.append(unit.reshape(2, 2, LATTICE.volume // 2, 1))
    values, iterations = noise_traces(operator, matrices, basis, MASS, 1e-12, 1000)
    exact = np.linalg.inv(staggered_matrix(links[0].numpy(), LATTICE.shape, MASS)).trace().real
    assert float(values.sum()) == pytest.approx(exact / LATTICE.volume, rel=1e-9)
    assert values.shape == iterations.shape == (size, 1)


@pytest.mark.parametrize("mu", [0, 1], ids=["space", "time"])
def test_a_sloppy_solve_is_the_same_function_at_every_point(mu, rng):
    """Also across the antiperiodic boundary, whose sign a gauge transformation moves."""
    group, lattice = SU2(), Lattice((4, 8))
    sources = made(group, lattice)
    links = group.hot(lattice, 2, rng)
    moved = links.roll(1, 2 + mu)

    def solved(field, point, level=1):
        matrices = sources.operator.hop_matrices(group.pack(field))
        return sources.solve_points(matrices, [point], level)

    values, iterations = solved(links, (1, 7))
    ahead = [1, 7]
    ahead[mu] = (ahead[mu] + 1) % lattice.shape[mu]
    shifted, count = solved(moved, tuple(ahead))
    torch.testing.assert_close(shifted, values, rtol=1e-10, atol=0)
    assert torch.equal(count, iterations)
    # it is sloppy, and another point of the same field has other values
    assert float((values / solved(links, (1, 7), 0)[0] - 1).abs().max()) > 1e-3
    assert float((solved(links, tuple(ahead))[0] / values - 1).abs().max()) > 1e-2


def test_all_levels_see_the_same_sources(rng):
    lattice = Lattice((4, 8))  # on 4x4 the Krylov space ends before the tolerances do
    links = SU2().hot(lattice, 3, rng)
    two, three = (
        made(lattice=lattice, tolerances=chosen).measure(links, seeded())
        for chosen in (TOLERANCES, (*TOLERANCES, 1e-9))
    )
    assert all(torch.equal(three[name], value) for name, value in two.items())
    for name in ("meson_pion_t1", "meson_pion_t2", "trace_inverse_1"):
        for s in range(3):
            exact, loose, tight, again = (three[f"{name}_l{k}_s{s}"] for k in range(4))
            assert torch.equal(again, exact), "the exact tolerance twice"
            assert float((tight / exact - 1).abs().max()) < 0.05
            assert bool(((loose - exact).abs() > 0).any())
    counts = [three[f"points_iterations_l{k}_s0"].mean() for k in range(3)]
    assert counts[1] < counts[2] < counts[0]
    assert not torch.equal(two["meson_pion_t1_l0_s0"], two["meson_pion_t1_l0_s1"])


def test_gathered_series(rng):
    sources = made()
    steps = [sources.measure(SU2().hot(LATTICE, 2, rng), seeded(k)) for k in range(3)]
    series = {name: torch.stack([s[name] for s in steps], 1).numpy() for name in steps[0]}
    values = sources.gather(series, "meson_pion_t2")
    assert values.shape == (3, 3, 2, 3)
    assert values[1, 2, 0, 1] == float(steps[1]["meson_pion_t2_l1_s2"][0])
    assert sources.gather(series, "noise_iterations").shape == (3, 3, 2, 3)
    assert series[PICK].min() >= 0 and series[PICK].max() < 1 and np.unique(series[PICK]).size == 6


def test_points_have_a_random_origin():
    sources, rng = made(n_sources=2), seeded()
    origins = [sources.draw(1, rng)[0][0] for _ in range(400)]
    counts = [origins.count(site) for site in sites(LATTICE.shape)]
    # 25 expected on each of 16 sites; chi^2 of 15 degrees of freedom
    assert sum((c - 25) ** 2 / 25 for c in counts) < 38


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"trace": False}, {"meson_pion_t1", "meson_pion_t2", "points_iterations"}),
        ({"times": ()}, {"trace_inverse_1", "noise_iterations"}),
    ],
)
def test_only_what_is_asked_for(changes, names, rng):
    measured = made(**changes).measure(SU2().hot(LATTICE, 2, rng), rng)
    assert {name.rpartition("_l")[0] for name in measured if name != PICK} == names


def test_failed_solves_are_errors(rng):
    for changes in ({"trace": False}, {"times": ()}):
        with pytest.raises(ConvergenceError, match="within 2 iterations"):
            made(max_iterations=2, tolerances=(0.5,), **changes).measure(SU2().hot(LATTICE, 2, rng), rng)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_sources": 0}, "1 to 16 of them, got 0.2, 0"),
        ({"n_sources": 17}, "1 to 16 of them, got 0.2, 17"),
        ({"times": (1, 1)}, r"different ones of 0 to 3, got \[1, 1\]"),
        ({"times": (4,)}, r"different ones of 0 to 3, got \[4\]"),
        ({"times": (), "trace": False}, "nothing to measure"),
        ({"tolerances": ()}, "one or more different ones"),
        ({"tolerances": (0.1, 0.1)}, "one or more different ones"),
        ({"tolerances": (1.0,)}, "to 1, got"),
        ({"tolerances": (1e-10,)}, "from the exact one, 1e-09"),
        ({"exact": 0.0}, "from the exact one, 0.0"),
        ({"group": RealLine()}, "need a gauge group, got R"),
        ({"lattice": Lattice((4, 3))}, "even extents"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(InputError, match=message):
        made(**{"times": (1,), **changes})


def test_bad_mass():
    for mass in (0.0, float("nan")):
        with pytest.raises(InputError, match="mass > 0"):
            SloppySources(LATTICE, SU2(), mass, (1,), (0.1,), 2)
