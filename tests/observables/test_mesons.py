"""Meson correlators against dense inverses, plane waves, the Ward identity and the symmetries."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import condensate, sites, staggered_matrix
from small_runs import composed

from lattice_lightning.exceptions import ConvergenceError, InputError
from lattice_lightning.fermions import StaggeredOperator
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import StaggeredMesons, point_correlators
from lattice_lightning.observables.mesons import CHANNELS, spread_points
from lattice_lightning.pipeline.build import System

GROUPS = {"U1": U1(), "SU2": SU2(), "SU3": SUN(3)}
SHAPES = [(4, 4), (2, 6), (2, 4, 2), (2, 2, 2, 4)]
MASS, TIGHT, LIMIT = 0.3, 1e-12, 5000


def channels(shape):
    """All that exist there."""
    return CHANNELS if len(shape) > 2 else CHANNELS[:3]


def correlators(group, links, shape, points, boundary=None, mass=MASS, **options):
    operator = StaggeredOperator(Lattice(shape), group, boundary)
    matrices = operator.hop_matrices(group.pack(links))
    options = {"channels": channels(shape), **options}
    return point_correlators(operator, matrices, points, mass, TIGHT, LIMIT, **options)[0]


def matrix_links(group, links):
    return (torch.exp(1j * links)[..., None, None] if group.name == "U(1)" else links).numpy()


def slow(group, links, shape, point, boundary=None, mass=MASS):
    """Correlators ``[channel, L_t]`` by loops over the columns of a dense inverse."""
    n, everywhere = group.n_colors, sites(shape)
    d = staggered_matrix(matrix_links(group, links), shape, mass, boundary)
    inverse = np.linalg.inv(d).reshape(len(everywhere), n, len(everywhere), n)
    result = np.zeros((len(channels(shape)), shape[-1]))
    for i, site in enumerate(everywhere):
        weight = (np.abs(inverse[i, :, everywhere.index(point)]) ** 2).sum()
        *x, t = [a - b for a, b in zip(site, point, strict=True)]
        pairs = [x[i] + x[j] for i in range(len(x)) for j in range(i)]
        exponents = [[0], [sum(x)], x, pairs]
        for k in range(len(result)):
            result[k, t % shape[-1]] += weight * np.mean([(-1.0) ** e for e in exponents[k]])
    return result


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    name=st.sampled_from(sorted(GROUPS)),
    shape=st.sampled_from(SHAPES),
    phases=st.lists(st.sampled_from([1, -1]), min_size=4, max_size=4),
    mass=st.floats(0.2, 2.0),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_a_dense_inverse(name, shape, phases, mass, seed):
    group, lattice, rng = GROUPS[name], Lattice(shape), torch.Generator().manual_seed(seed)
    links, boundary = group.hot(lattice, 2, rng), phases[: len(shape)]
    points = spread_points(lattice, 2, seed % lattice.volume)
    found = correlators(group, links, shape, points, boundary, mass)
    assert found.shape == (2, len(channels(shape)), shape[-1], 2) and found.dtype == torch.float64
    for p, b in product(range(2), range(2)):
        exact = slow(group, links[b], shape, points[p], boundary, mass)
        np.testing.assert_allclose(found[p, :, :, b], exact, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_ward_identity(name, shape, rng):
    """Pions summed over time and averaged over all sources: the condensate over the mass."""
    group, lattice = GROUPS[name], Lattice(shape)
    links = group.hot(lattice, 1, rng)
    points = spread_points(lattice, lattice.volume)
    total = float(correlators(group, links, shape, points, channels=("pion",)).sum((1, 2)).mean())
    exact = condensate(matrix_links(group, links[0]), shape, MASS) / MASS
    assert total == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("wrong", [(1, 0), (1 / MASS, 1)], ids=["without K y", "y for m y"])
def test_ward_identity_refuses_wrong_halves(wrong, rng, monkeypatch):
    group, shape, source = SU2(), (4, 4), (0, 2)
    links = group.hot(Lattice(shape), 1, rng)
    inverse = np.linalg.inv(staggered_matrix(links[0].numpy(), shape, MASS)).reshape(16, 2, 16, 2)
    i = sites(shape).index(source)
    target = float(inverse[i, :, i].trace().real) / MASS
    found = correlators(group, links, shape, [source], channels=("pion",)).sum()
    assert float(found) == pytest.approx(target, rel=1e-9)
    join = StaggeredOperator.join
    monkeypatch.setattr(
        StaggeredOperator, "join", lambda d, even, odd: join(d, wrong[0] * even, wrong[1] * odd)
    )
    found = correlators(group, links, shape, [source], channels=("pion",)).sum()
    assert float(found) != pytest.approx(target, rel=0.1)


@pytest.mark.parametrize("boundary", [1, -1], ids=["periodic", "antiperiodic"])
@pytest.mark.parametrize("shape", [(8, 6), (4, 2, 6), (4, 4, 2, 8)], ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_free_pion_in_closed_form(name, shape, boundary):
    """Plane waves: N / V_s sum_p [(m^2 + sum_i sin^2 p_i) s(t)^2 + (ds/dt)^2], ds a lattice derivative."""
    group, extent = GROUPS[name], shape[-1]
    space = np.meshgrid(*(2 * np.pi * np.arange(e) / e for e in shape[:-1]), indexing="ij")
    omega2 = (MASS**2 + sum(np.sin(p) ** 2 for p in space)).reshape(-1, 1)
    p4 = (2 * np.arange(extent) + (boundary == -1)) * np.pi / extent
    waves = np.exp(1j * np.outer(p4, np.arange(extent))) / extent
    propagator = 1 / (omega2 + np.sin(p4) ** 2)
    s, ds = (propagator @ waves).real, ((1j * np.sin(p4) * propagator) @ waves).real
    exact = group.n_colors * (omega2 * s**2 + ds**2).mean(0)
    phases = [1] * (len(shape) - 1) + [boundary]
    links = group.cold(Lattice(shape), 1)
    point = tuple(1 for _ in shape)
    found = correlators(group, links, shape, [point], phases)[0, 0, :, 0]
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_gauge_invariance(name, shape, rng):
    group, lattice = GROUPS[name], Lattice(shape)
    links = group.hot(lattice, 2, rng)
    turned = group.transform(links, group.haar((2, *shape), rng), lattice)
    points = spread_points(lattice, 2, 1)
    before, after = (correlators(group, field, shape, points) for field in (links, turned))
    torch.testing.assert_close(before, after, rtol=1e-8, atol=1e-10)
    # another field is seen
    other = correlators(group, group.hot(lattice, 2, rng), shape, points)
    assert float((other / before - 1).abs().max()) > 1e-2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_the_source_moves_with_the_field(name, shape, rng):
    """By one step in every direction, across antiperiodic boundaries too: a gauge transformation."""
    group, lattice = GROUPS[name], Lattice(shape)
    links, boundary = group.hot(lattice, 1, rng), [-1] * len(shape)
    point = tuple(extent - 1 for extent in shape)
    before = correlators(group, links, shape, [point], boundary)
    for mu in range(len(shape)):
        moved = torch.roll(links, 1, 2 + mu)
        there = tuple((x + (nu == mu)) % e for nu, (x, e) in enumerate(zip(point, shape, strict=True)))
        after = correlators(group, moved, shape, [there], boundary)
        torch.testing.assert_close(before, after, rtol=1e-8, atol=1e-10)
        stayed = correlators(group, moved, shape, [point], boundary)
        assert float((stayed / before - 1).abs().max()) > 1e-2


def test_sloppy_solves(rng):
    """A fixed number of iterations, or a loose tolerance: closer with more, exact in the end."""
    group, lattice = SU2(), Lattice((8, 8))
    operator = StaggeredOperator(lattice, group)
    matrices, points = operator.hop_matrices(group.pack(group.hot(lattice, 3, rng))), [(0, 0), (1, 2)]
    exact, _ = point_correlators(operator, matrices, points, MASS, TIGHT, LIMIT)
    errors = []
    for n in (2, 6, 12, 20):
        found, iterations = point_correlators(operator, matrices, points, MASS, 1e-30, n, require=False)
        assert torch.equal(iterations, torch.full((2, 3), 2.0 * n, dtype=torch.float64))
        errors.append(float((found / exact - 1).abs().max()))
    assert errors == sorted(errors, reverse=True) and errors[0] > 10 * errors[-1], errors
    loose, few = point_correlators(operator, matrices, points, MASS, 1e-1, LIMIT)
    tight, many = point_correlators(operator, matrices, points, MASS, 1e-6, LIMIT)
    assert bool((few < many).all())
    assert 1e-4 < float((loose / exact - 1).abs().max()) < 0.3
    assert float((tight / exact - 1).abs().max()) < 1e-4
    with pytest.raises(ConvergenceError, match=r"mesons: .* within 3 iterations"):
        point_correlators(operator, matrices, points, MASS, TIGHT, 3)


def test_a_chain_does_not_feel_its_company(rng):
    group, shape = SU2(), (4, 4)
    links = group.hot(Lattice(shape), 3, rng)
    together = correlators(group, links, shape, [(1, 2)])
    alone = torch.cat([correlators(group, one[None], shape, [(1, 2)]) for one in links], -1)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=0)


@pytest.mark.parametrize("shape", [(4, 8), (4, 2, 4), (4, 4, 4, 8)], ids=str)
def test_spread_points(shape):
    lattice = Lattice(shape)
    extents = np.array(shape)

    def nearest(points):
        apart = np.abs(np.array(points)[:, None] - np.array(points)) % extents
        distance = (np.minimum(apart, extents - apart) ** 2).sum(-1)
        return distance[~np.eye(len(points), dtype=bool)].min()

    assert spread_points(lattice, 1) == [(0,) * len(shape)]
    assert spread_points(lattice, 2)[1] == tuple(e // 2 for e in shape)
    rng = np.random.default_rng(1)
    for n in (2, 3, 4, 8, 16):
        points = spread_points(lattice, n)
        assert len(set(points)) == n
        chance = [
            nearest([np.unravel_index(i, shape) for i in rng.choice(lattice.volume, n, replace=False)])
            for _ in range(50)
        ]
        assert nearest(points) >= max(chance) / 2 and nearest(points) >= np.mean(chance)
    everywhere = [spread_points(lattice, 3, origin) for origin in range(lattice.volume)]
    # the pattern moves as a whole, and each of its points visits every site once
    for k in range(3):
        assert sorted(points[k] for points in everywhere) == sites(shape)
        moved = {tuple((np.array(p[k]) - p[0]) % extents) for p in everywhere}
        assert moved == {everywhere[0][k]}
    assert sorted(spread_points(Lattice((4, 2)), 8)) == sites((4, 2))


def test_observable_is_the_mean_over_its_points(rng):
    group, lattice, times = SUN(3), Lattice((2, 4, 4)), (3, 1)
    links, state = group.hot(lattice, 2, rng), rng.get_state()
    options = {"channels": ("vector", "pion"), "n_sources": 3, "tolerance": TIGHT}
    found = StaggeredMesons(lattice, group, MASS, times, **options).measure(links, rng)
    names = [f"meson_{channel}_t{t}" for channel in ("vector", "pion") for t in times]
    assert set(found) == {*names, *(f"{name}_noise" for name in names), "meson_iterations"}
    rng.set_state(state)
    origin = int(torch.randint(lattice.volume, (1,), generator=rng))
    values = correlators(group, links, lattice.shape, spread_points(lattice, 3, origin)).numpy()
    for channel, t in product(("vector", "pion"), times):
        scatter, name = values[:, CHANNELS.index(channel), t], f"meson_{channel}_t{t}"
        np.testing.assert_allclose(found[name], scatter.mean(0), rtol=1e-9)
        np.testing.assert_allclose(found[f"{name}_noise"], scatter.var(0, ddof=1) / 3, rtol=1e-6)
    assert all(value.shape == (2,) and value.dtype == torch.float64 for value in found.values())
    assert bool((found["meson_iterations"] > 9).all())
    rng.set_state(state)
    one = StaggeredMesons(lattice, group, MASS, [0]).measure(links, rng)
    assert set(one) == {"meson_pion_t0", "meson_iterations"}


def test_origin_is_drawn_anew(rng):
    group, lattice = SU2(), Lattice((4, 4))
    links = group.hot(lattice, 1, rng)
    mesons = StaggeredMesons(lattice, group, MASS, [0], tolerance=TIGHT)
    found = {round(float(mesons.measure(links, rng)["meson_pion_t0"]), 9) for _ in range(60)}
    everywhere = correlators(group, links, (4, 4), sites((4, 4)), channels=("pion",))[:, 0, 0, 0]
    assert found <= {round(float(v), 9) for v in everywhere} and len(found) > 12


def test_config_builds():
    config = composed("experiment=ama_su2", "observables=mesons")
    mesons = next(o for o in System(config).observables if isinstance(o, StaggeredMesons))
    assert mesons.mass == config["action"]["fermion"]["mass"] and mesons.times == (0, 1, 2)


FLAT = Lattice((4, 4))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((FLAT, SU2(), 0.0, [1]), "mass > 0 and 1 to 16 source points, got 0.0, 1"),
        ((FLAT, SU2(), 0.1, [1], ["pion"], 0), "1 to 16 source points, got 0.1, 0"),
        ((FLAT, SU2(), 0.1, [1], ["pion"], 17), "1 to 16 source points, got 0.1, 17"),
        ((FLAT, SU2(), 0.1, []), r"different ones of 0 to 3, got \[\]"),
        ((FLAT, SU2(), 0.1, [4]), r"different ones of 0 to 3, got \[4\]"),
        ((FLAT, SU2(), 0.1, [1, 1]), r"got \[1, 1\]"),
        ((FLAT, SU2(), 0.1, [1], ["rho"]), r"ones of pion, scalar, vector, pseudovector, got \['rho'\]"),
        ((FLAT, SU2(), 0.1, [1], ["pion", "pion"]), r"got \['pion', 'pion'\]"),
        ((FLAT, SU2(), 0.1, [1], []), r"got \[\]"),
        ((FLAT, SU2(), 0.1, [1], ["pseudovector"]), "needs two spatial directions, got the lattice"),
        ((FLAT, SU2(), 0.1, [1], ["pion"], 1, [1]), "boundary needs 2 phases"),
        ((FLAT, SU2(), 0.1, [1], ["pion"], 1, None, 2.0), "0 < tolerance < 1 .* got 2.0, 5000"),
        ((FLAT, SU2(), 0.1, [1], ["pion"], 1, None, 1e-8, 0), "max_iterations >= 1, got 1e-08, 0"),
        ((Lattice((4, 3)), SU2(), 0.1, [1]), "even extents, but extent 1"),
        ((FLAT, RealLine(), 0.1, [1]), "need a gauge group, got R"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        StaggeredMesons(*arguments)


@pytest.mark.parametrize(
    "points, mass, message",
    [
        ([(0, 0, 0)], 0.1, r"2 coordinates on the lattice \(4, 4\), got \(0, 0, 0\)"),
        ([(0, 4)], 0.1, r"got \(0, 4\)"),
        ([(0, -1)], 0.1, r"got \(0, -1\)"),
        ([], 0.1, "one source point or more, got none"),
        ([(0, 0)], 0.0, "mass > 0, got 0"),
    ],
)
def test_bad_points(points, mass, message):
    with pytest.raises(InputError, match=message):
        correlators(SU2(), SU2().cold(FLAT, 1), (4, 4), points, mass=mass)


@pytest.mark.parametrize("n_points, origin", [(0, 0), (17, 0), (1, 16), (1, -1)])
def test_bad_spread(n_points, origin):
    with pytest.raises(InputError, match="1 to 16 points and an origin from 0 to 15"):
        spread_points(FLAT, n_points, origin)
