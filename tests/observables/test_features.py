"""Gauge features against slow matrices, under symmetries, and against the observables they refine."""

import re
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from conversions import matrices
from omegaconf import OmegaConf

from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import stout
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import GaugeFeatures, Observable, Plaquette, PolyakovLoops, WilsonLoop
from lattice_lightning.pipeline.build import instantiate
from lattice_lightning.testing import assert_gauge_invariant, permute_axes, reflect, translate

SMEARING = {"rho": 0.1, "steps": [0, 2]}
CONFIGS = Path(__file__).parents[2] / "configs" / "observables"
NAME = re.compile(
    r"(?:smeared(\d+)_)?(?:wilson_loop_(\d)x(\d)_(..)|plaquette_square_(..)|polyakov_loop_(.)_(\w+))"
)


@pytest.fixture(params=[(4, 3), (3, 4, 2), (2, 3, 2, 4)], ids=str)
def lattice(request):
    return Lattice(request.param)


def axes(letters, ndim):
    """Axis indices of letters, time last in any dimension."""
    return [ndim - 1 if a == "t" else "xyz".index(a) for a in letters]


def traces(u, path):
    """tr of the product along a path from every site, ``[batch, *lattice]``, of plain matrices."""
    d, n = u.ndim - 4, u.shape[-1]
    product, offset = np.eye(n), [0] * d
    for direction in path:
        mu = abs(direction) - 1
        offset[mu] -= direction < 0
        link = np.roll(u[:, mu], [-o for o in offset], axis=tuple(range(1, d + 1)))
        offset[mu] += direction > 0
        product = product @ (link if direction > 0 else link.conj().swapaxes(-1, -2))
    return np.trace(product, axis1=-2, axis2=-1)


def feature(u, name):
    """The value that a name stands for, of plain unsmeared matrices."""
    d, n = u.ndim - 4, u.shape[-1]
    _, r, s, plane, square, direction, moment = NAME.fullmatch(name).groups()
    sites = tuple(range(1, d + 1))
    if direction:
        (mu,) = axes(direction, d)
        loop = traces(u, [mu + 1] * u.shape[2 + mu]).reshape(len(u), -1)
        return {
            "re": loop.real.mean(1),
            "im": loop.imag.mean(1),
            "abs2": (abs(loop) ** 2).mean(1),
            "square": abs(loop.mean(1)) ** 2,
            "re3": (loop.real**3).mean(1),
            "re4": (loop.real**4).mean(1),
        }[moment]
    a, b = (mu + 1 for mu in axes(plane or square, d))
    r, s = (int(r), int(s)) if plane else (1, 1)
    local = traces(u, [a] * r + [b] * s + [-a] * r + [-b] * s).real / n
    return ((local**2) if square else local).mean(sites)


def test_every_feature_is_what_its_name_says(group, lattice, rng):
    field = group.hot(lattice, 2, rng)
    observable = GaugeFeatures(lattice, group, smearing=SMEARING)
    measured = observable.measure(field, rng)
    assert list(measured) == observable.names
    u = matrices(group, field)
    smeared = np.array(u)
    for chain in range(len(u)):
        for _ in range(2):
            # the covariant network's weight is half of rho
            smeared[chain] = reference.stout(smeared[chain], lattice.shape, 0.05)
    for name, value in measured.items():
        expected = feature(smeared if name.startswith("smeared2_") else u, name)
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-11, err_msg=name)


def test_the_comparison_sees_exchanged_orientations_and_missing_smearing(rng):
    lattice, group = Lattice((3, 4, 3)), SU2()
    field = group.hot(lattice, 2, rng)
    measured = GaugeFeatures(lattice, group, smearing=SMEARING).measure(field, rng)
    u = matrices(group, field)
    for wrong in ("wilson_loop_2x1_xy", "wilson_loop_1x2_xt", "wilson_loop_1x2_yt"):
        assert abs(measured["wilson_loop_1x2_xy"].numpy() - feature(u, wrong)).max() > 1e-3
    for name in ("wilson_loop_1x1_xy", "plaquette_square_yt", "polyakov_loop_t_re4"):
        assert abs(measured[f"smeared2_{name}"].numpy() - feature(u, name)).max() > 1e-3


@pytest.mark.parametrize(
    "group, moments",
    [
        (U1(), ["re", "im", "square", "re3", "re4"]),
        (SU2(), ["re", "abs2", "square", "re3", "re4"]),
        (SUN(2), ["re", "abs2", "square", "re3", "re4"]),
        (SUN(3), ["re", "im", "abs2", "square", "re3", "re4"]),
    ],
    ids=["U1", "SU2", "SUN2", "SU3"],
)
def test_names(group, moments):
    loops = [f"wilson_loop_{size}_xt" for size in ("1x1", "1x2", "2x1", "2x2")]
    polyakov = [f"polyakov_loop_{mu}_{moment}" for mu in "xt" for moment in moments]
    own = [*loops, "plaquette_square_xt", *polyakov]
    lattice = Lattice((4, 4))
    assert GaugeFeatures(lattice, group).names == own
    several = GaugeFeatures(lattice, group, smearing={"steps": [3, 0, 1]}).names
    assert several == [prefix + name for prefix in ("", "smeared1_", "smeared3_") for name in own]
    assert GaugeFeatures(lattice, group, smearing={"rho": 0.1, "steps": 3}).names == several[-len(own) :]
    assert GaugeFeatures(lattice, group, [], polyakov=False).names == ["plaquette_square_xt"]


def test_a_loop_fits_where_it_does_not_wind():
    def loops(shape, by_plane=True):
        features = GaugeFeatures(Lattice(shape), SU2(), [[1, 2], [3, 2]], False, by_plane=by_plane)
        return [name.removeprefix("wilson_loop_") for name in features.names if "wilson" in name]

    assert loops((4, 3)) == ["1x2_xt", "2x1_xt", "3x2_xt"]
    assert loops((2, 3, 4)) == ["1x2_xy", "1x2_xt", "1x2_yt", "2x1_yt", "2x3_yt"]
    assert loops((2, 3, 4), by_plane=False) == ["1x2", "3x2"]


def test_smeared_features_are_features_of_smeared_links(group, rng):
    lattice = Lattice((3, 4, 3))
    field = group.hot(lattice, 2, rng)
    measured = GaugeFeatures(lattice, group, smearing={"rho": 0.08, "steps": [0, 1, 3]}).measure(field, rng)
    plain = GaugeFeatures(lattice, group)
    for steps, prefix in ((0, ""), (1, "smeared1_"), (3, "smeared3_")):
        smeared = group.unpack(stout(group, lattice, group.pack(field), 0.08, steps))
        for name, value in plain.measure(smeared, rng).items():
            assert torch.allclose(measured[prefix + name], value, rtol=0, atol=1e-12), name


def test_gauge_invariance_and_translations(group, lattice, rng):
    observable = GaugeFeatures(lattice, group, smearing=SMEARING)

    def values(field):
        return torch.stack(list(observable.measure(field, rng).values()), 1)

    assert_gauge_invariant(values, group, lattice, rng)
    field = group.hot(lattice, 2, rng)
    for mu in range(lattice.ndim):
        moved = values(translate(lattice, field, mu))
        assert torch.allclose(moved, values(field), rtol=0, atol=1e-11)


def renamed(name, order):
    """The old name of a feature after axis i has become the old axis order[i]."""
    d = len(order)
    prefix, r, s, plane, square, direction, moment = NAME.fullmatch(name).groups()
    start = f"smeared{prefix}_" if prefix else ""
    old = [order[mu] for mu in axes(plane or square or direction, d)]
    if direction:
        return f"{start}polyakov_loop_{letters(old, d)}_{moment}"
    if square:
        return f"{start}plaquette_square_{letters(sorted(old), d)}"
    (a, r), (b, s) = sorted(zip(old, (r, s), strict=True))
    return f"{start}wilson_loop_{r}x{s}_{letters([a, b], d)}"


def letters(indices, ndim):
    return "".join("t" if mu == ndim - 1 else "xyz"[mu] for mu in indices)


@pytest.mark.parametrize("shape, order", [((4, 3), (1, 0)), ((3, 4, 2), (2, 0, 1)), ((2, 3, 2, 4), (3, 1, 0, 2))])
def test_names_follow_the_axes(group, shape, order, rng):
    lattice = Lattice(shape)
    turned = Lattice(tuple(shape[mu] for mu in order))
    field = group.hot(lattice, 2, rng)
    before = GaugeFeatures(lattice, group, smearing=SMEARING).measure(field, rng)
    after = GaugeFeatures(turned, group, smearing=SMEARING).measure(permute_axes(lattice, field, order), rng)
    assert {renamed(name, order) for name in after} == set(before)
    for name, value in after.items():
        assert torch.allclose(value, before[renamed(name, order)], rtol=0, atol=1e-11), name
    # kept names would not do
    assert any(not torch.allclose(after[name], before[name], atol=1e-3) for name in set(after) & set(before))


def test_a_reflection_changes_the_sign_of_one_imaginary_part(group, lattice, rng):
    observable, field = GaugeFeatures(lattice, group), group.hot(lattice, 2, rng)
    before = observable.measure(field, rng)
    for mu, letter in enumerate(letters(range(lattice.ndim), lattice.ndim)):
        after = observable.measure(reflect(group, lattice, field, mu), rng)
        for name, value in after.items():
            sign = -1 if name == f"polyakov_loop_{letter}_im" else 1
            assert torch.allclose(value, sign * before[name], rtol=0, atol=1e-11), (letter, name)


@pytest.mark.parametrize("shape", [(4, 3), (3, 3, 4, 3)])
def test_averages_over_planes_are_the_other_observables(group, shape, rng):
    lattice, sizes = Lattice(shape), [(1, 1), (1, 2), (2, 2)]
    field = group.hot(lattice, 2, rng)
    planes = GaugeFeatures(lattice, group, sizes).measure(field, rng)
    merged = GaugeFeatures(lattice, group, sizes, by_plane=False).measure(field, rng)
    others = WilsonLoop(lattice, group, sizes).measure(field, rng)
    for (r, s), (name, expected) in zip(sizes, others.items(), strict=True):
        both = [planes[n] for n in planes if re.match(rf"wilson_loop_({r}x{s}|{s}x{r})_", n)]
        assert torch.allclose(torch.stack(both).mean(0), expected, atol=1e-13)
        assert torch.allclose(merged[name], expected, atol=1e-13)
    assert torch.allclose(
        merged["wilson_loop_1x1"], Plaquette(lattice, group).measure(field, rng)["plaquette"], atol=1e-13
    )
    squares = [planes[n] for n in planes if n.startswith("plaquette_square_")]
    assert torch.allclose(torch.stack(squares).mean(0), merged["plaquette_square"], atol=1e-13)
    for name, expected in PolyakovLoops(lattice, group).measure(field, rng).items():
        if name != "polyakov_loop":
            assert torch.allclose(planes[f"{name}_re"], expected, atol=1e-13)
            assert torch.equal(merged[f"{name}_re"], planes[f"{name}_re"])


def test_cold_values(group, rng):
    lattice, n = Lattice((3, 4, 3)), group.n_colors
    measured = GaugeFeatures(lattice, group, smearing=SMEARING).measure(group.cold(lattice, 2), rng)
    polyakov = {"re": n, "im": 0, "abs2": n**2, "square": n**2, "re3": n**3, "re4": n**4}
    for name, value in measured.items():
        expected = polyakov[NAME.fullmatch(name)[7]] if "polyakov" in name else 1
        assert value.tolist() == pytest.approx([expected] * 2, abs=1e-11), name


@pytest.mark.parametrize("shape", [(2, 2), (4, 3), (2, 3, 2, 4)], ids=str)
def test_no_feature_of_a_hot_field_is_constant(group, shape, rng):
    lattice = Lattice(shape)
    sizes = [[1, 1]] if shape == (2, 2) else [[1, 1], [1, 2], [2, 2], [1, 3]]
    observable = GaugeFeatures(lattice, group, sizes, smearing={"steps": [0, 3]})
    for name, value in observable.measure(group.hot(lattice, 8, rng), rng).items():
        assert value.shape == (8,) and bool(torch.isfinite(value).all()), name
        assert float(value.std()) > 1e-3 * (1e-6 + float(value.abs().max())), name


# Haar moments of Re tr / N of a plaquette (squared), |tr|^2 and (Re tr)^4 of a loop
@pytest.mark.parametrize(
    "group, square, abs2, re4",
    [(U1(), 1 / 2, None, 3 / 8), (SU2(), 1 / 4, 1, 2), (SUN(3), 1 / 18, 1, 3 / 4)],
    ids=["U1", "SU2", "SU3"],
)
def test_moments_of_a_hot_field(group, square, abs2, re4, rng):
    lattice, n_chains = Lattice((4, 4, 3)), 800
    measured = GaugeFeatures(lattice, group).measure(group.hot(lattice, n_chains, rng), rng)
    for name, value in measured.items():
        moment = NAME.fullmatch(name)[7]
        expected = {"abs2": abs2, "re4": re4}.get(moment, square if "square_" in name else None)
        if expected is not None:
            error = float(value.std()) / sqrt(n_chains)
            assert abs(float(value.mean()) - expected) < 4 * error < 0.2 * expected, name


@pytest.mark.parametrize(
    "options, message",
    [
        ({"group": RealLine()}, "gauge features needs a gauge field, got a field of R"),
        ({"sizes": [[1, 1], [4, 1]]}, r"4x1 Wilson loop winds around the lattice \(4, 3\) in every plane; take"),
        ({"sizes": [[3, 3]]}, "3x3 Wilson loop winds"),
        ({"sizes": [[1, 2], [2, 1]]}, "holds a loop twice"),
        ({"sizes": [[1]]}, "pairs of positive integers"),
        ({"sizes": [[0, 1]]}, "pairs of positive integers"),
        ({"sizes": [[1, 1.5]]}, "pairs of positive integers"),
        ({"smearing": {"rho": 0.1}}, r"must hold steps and perhaps rho, like \{rho: 0.1, steps: \[0, 3\]\}, got"),
        ({"smearing": {"steps": 1, "alpha": 0.1}}, "must hold steps and perhaps rho"),
        ({"smearing": 3}, "must hold steps and perhaps rho"),
        ({"smearing": {"steps": []}}, "different numbers of steps"),
        ({"smearing": {"steps": [1, 1]}}, "different numbers of steps"),
        ({"smearing": {"steps": -1}}, "different numbers of steps"),
        ({"smearing": {"steps": [0, 1.5]}}, "different numbers of steps"),
        ({"smearing": {"steps": 1, "rho": 0}}, "needs rho > 0 .* got rho = 0.0"),
        ({"smearing": {"steps": 1, "rho": float("nan")}}, "got rho = nan"),
    ],
)
def test_what_has_no_meaning_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        GaugeFeatures(**{"lattice": Lattice((4, 3)), "group": SU2(), **options})


def test_the_config_builds(rng):
    lattice, group = Lattice((3, 3, 3, 4)), SU2()
    config = OmegaConf.to_container(OmegaConf.load(CONFIGS / "features.yaml"))
    (observable,) = (instantiate(c, Observable, lattice=lattice, group=group) for c in config.values())
    measured = observable.measure(group.hot(lattice, 1, rng), rng)
    assert "wilson_loop_1x2_xy" in measured and "smeared3_polyakov_loop_t_abs2" in measured
