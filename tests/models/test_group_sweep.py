"""Sweeps over plaquettes: log-determinant, independence of plaquettes, chain, symmetries, volumes."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import special, stats

from lattice_lightning.actions import WilsonGauge
from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import wilson_loops
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import (
    ChainAction,
    ChainFlow,
    FlowModel,
    GroupSweep,
    HaarPrior,
    PlaquetteSweep,
)
from lattice_lightning.models.class_torus import torus_grid
from lattice_lightning.models.plaquette_chain import ChainVelocity
from lattice_lightning.testing import (
    assert_charge_conjugation,
    assert_force,
    assert_gauge_covariant,
    assert_gauge_invariant,
    assert_translation_covariant,
    translate,
)

GROUPS = {"U1": (U1(), 2.0), "SU2": (SU2(), 2.7), "SU3": (SUN(3), 5.0)}
every_group = pytest.mark.parametrize("name", GROUPS)


def sweep_of(name, shape=(3, 3), n_rest=1, **options):
    group, beta = GROUPS[name]
    sweep = PlaquetteSweep(Lattice(shape), group, n_rest, **options)
    sweep.fit(beta)
    return sweep


def whole(name, shape=(4, 5), n_rest=3, size=0.3, n_steps=1):
    """Fitted sweep and a chain with random coefficients."""
    group, beta = GROUPS[name]
    flow = GroupSweep(
        Lattice(shape), group, n_rest, class_degree=4, degree=2, pair_degree=2, n_nodes=3, n_steps=n_steps
    )
    flow.sweep.fit(beta)
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        flow.chain.coefficients.copy_(
            size * torch.randn(flow.chain.coefficients.shape, generator=rng, dtype=torch.float64)
        )
    return flow


def distance(group, a, b):
    return float((group.pack(a) - group.pack(b)).abs().max())


def plaquettes(group, lattice, links):
    """Re tr P / N, ``[batch, x, y]``."""
    return wilson_loops(group, lattice, group.pack(links), 1, 1)[0].movedim(-1, 0) / group.n_colors


# -- sweep -----------------------------------------------------------------------------------------


@every_group
@torch.no_grad()
@pytest.mark.parametrize(("shape", "n_rest"), [((3, 3), 1), ((2, 5), 3), ((4, 3), 3)])
def test_inverse(name, shape, n_rest, rng):
    sweep = sweep_of(name, shape, n_rest)
    links = sweep.group.hot(sweep.lattice, 3, rng)
    image, log_det = sweep(links)
    assert distance(sweep.group, image, links) > 0.1
    assert float(sweep.group.defect(image).max()) < 1e-12
    back, log_back = sweep.inverse(image)
    assert distance(sweep.group, back, links) < 1e-9
    assert float((log_det + log_back).abs().max()) < 1e-9


def algebra_jacobian(flow, field, step=1e-3):
    """log det by fourth-order differences in the algebra of all links."""
    space = flow.space
    shape = (*space.site_shape(field)[1:], space.n_generators)
    size = math.prod(shape)
    eye = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    image = space.pack(flow(field)[0])

    def moved(t):
        links = space.evolve(field.expand(size, *field.shape[1:]), t * eye)
        packed = space.pack(flow(links)[0])
        off = space.mul_nh(packed, image.expand_as(packed))
        return space.unpack_algebra(space.project(off)).reshape(size, -1)

    jacobian = (8 * (moved(step) - moved(-step)) - moved(2 * step) + moved(-2 * step)) / (12 * step)
    unit = torch.zeros(space.n_generators, 1, dtype=torch.float64)
    unit[0] = 1e-6
    scale = float(space.project(space.exp(unit))[0, 0] / 1e-6)
    return float(torch.linalg.slogdet(jacobian / scale)[1])


@torch.no_grad()
@pytest.mark.parametrize("name", ["U1", "SU2"])
def test_log_det_is_that_of_the_map(name, rng):
    # two steps: the log-determinant must be that of the discretised map
    sweep = sweep_of(name, n_steps=2)
    links = sweep.group.hot(sweep.lattice, 1, rng)
    _, log_det = sweep(links)
    assert float(log_det) == pytest.approx(algebra_jacobian(sweep, links), abs=1e-5)


N_DRAWS = {"U1": 6000, "SU2": 3000, "SU3": 1000}


def means(name):
    """Mean and variance of Re tr P / N of one plaquette."""
    beta = GROUPS[name][1]
    if name == "U1":
        i0, i1, i2 = special.ive([0, 1, 2], beta)
        return i1 / i0, (1 + i2 / i0) / 2 - (i1 / i0) ** 2
    if name == "SU2":
        mean = special.ive(2, beta) / special.ive(1, beta)
        return mean, 1 - 3 * mean / beta - mean**2
    angles, weights = torus_grid(3, 64)
    re = angles.cos().mean(1)
    weights = weights * torch.exp(beta * (re - 1))
    mean = float((weights * re).sum() / weights.sum())
    return mean, float((weights * re.square()).sum() / weights.sum()) - mean**2


def pulls(name, values):
    """Of mean, variance and products of neighbours of ``[draws, x, y]`` (nan where not swept)."""
    mean, variance = means(name)
    off = values - mean
    found = []
    for z, expected in (
        (off, 0.0), (off.square(), variance), (off * torch.roll(off, 1, 1), 0.0),
        (off * torch.roll(off, 1, 2), 0.0), (off * torch.roll(off, (1, 1), (1, 2)), 0.0),
    ):
        z = z.flatten(1)
        pull = (z.mean(0) - expected) / (z.std(0) / len(z) ** 0.5)
        found.append(pull[~torch.isnan(pull)])
    return torch.cat(found).numpy()


def swept(sweep, links):
    values = plaquettes(sweep.group, sweep.lattice, links)
    values[:, -1, -sweep.n_rest :] = float("nan")
    return values


@every_group
@torch.no_grad()
def test_plaquettes_outside_the_rest_are_independent_and_exact(name, rng):
    sweep = sweep_of(name, (3, 4), 2)
    links = sweep.group.hot(sweep.lattice, N_DRAWS[name], rng)
    found = pulls(name, swept(sweep, sweep(links)[0]))
    # ten plaquettes' moments and the products of neighbours
    assert len(found) > 35
    assert np.abs(found).max() < 4 and 0.005 < stats.chi2.sf((found**2).sum(), len(found))


@torch.no_grad()
@pytest.mark.parametrize("wrong", ["inverse order", "moved plaquette of another place"])
def test_wrong_sweeps_are_seen(wrong, rng):
    sweep = sweep_of("SU2", (3, 4), 2)
    links = sweep.group.hot(sweep.lattice, N_DRAWS["SU2"], rng)
    if wrong == "inverse order":
        image, _ = sweep._sweep(links, sweep.plaquette.forward, back=True)
    else:
        # the loops of the rows one site aside
        shifted = links.clone()
        shifted[:, 0] = torch.roll(links[:, 0], 1, 2)
        moved, _ = sweep(shifted)
        image = moved.clone()
        image[:, 0] = torch.roll(moved[:, 0], -1, 2)
    found = pulls("SU2", swept(sweep, image))
    assert np.abs(found).max() > 5
    assert stats.chi2.sf((found**2).sum(), len(found)) < 1e-6


# -- chain -----------------------------------------------------------------------------------------


@every_group
def test_chain_action(name, rng):
    group, beta = GROUPS[name]
    lattice = Lattice((3, 5))
    links = group.hot(lattice, 3, rng)
    values = plaquettes(group, lattice, links)
    action = ChainAction(lattice, group, beta, 3)
    torch.testing.assert_close(action.value(links, {}), beta * (1 - values[:, -1, 2:]).sum(1))
    assert_force(action, links, {}, rng)
    column = ChainAction(lattice, group, beta, 5)
    torch.testing.assert_close(column.value(links, {}), beta * (1 - values[:, -1]).sum(1))


@torch.no_grad()
@pytest.mark.parametrize("shape", [(2, 4), (2, 3)])
def test_chain_error_falls_sixteenfold_under_step_halving(shape, rng):
    group, lattice = SU2(), Lattice(shape)
    flow = ChainFlow(lattice, group, 3, 2, 2, n_nodes=3, n_steps=2)
    s = torch.linspace(0, 1, 3, dtype=torch.float64)[:, None]
    a, b = torch.randn(2, flow.basis.n_features, generator=rng, dtype=torch.float64)
    # no jumps between the nodes
    flow.coefficients.copy_(0.5 * (a + b * s))
    model = FlowModel(HaarPrior(lattice, group), flow)
    log_q, images = [], []
    for n_steps in (2, 4, 8, 32):
        flow.n_steps = n_steps
        x, density = model.sample(4, torch.Generator().manual_seed(2))
        log_q.append(density)
        images.append(x)
    for values in (log_q, images):
        errors = [float((v - values[-1]).abs().max()) for v in values[:-1]]
        assert errors[0] > 1e-6
        assert all(9 < x / y < 28 for x, y in pairwise(errors)), errors


@torch.no_grad()
@pytest.mark.parametrize("n_rest", [3, 4])
def test_chain_log_det_and_inverse(n_rest, rng):
    """An open and a closed chain."""
    flow = ChainFlow(Lattice((2, 4)), SU2(), n_rest, 2, 2, n_nodes=3, n_steps=8)
    flow.coefficients.copy_(
        0.3 * torch.randn(flow.coefficients.shape, generator=rng, dtype=torch.float64)
    )
    links = SU2().hot(flow.lattice, 1, rng)
    image, log_det = flow(links)
    assert float(log_det.abs()) > 0.1
    assert float(log_det) == pytest.approx(algebra_jacobian(flow, links), abs=1e-5)
    back, log_back = flow.inverse(image)
    assert distance(SU2(), back, links) < 1e-5 and float((log_det + log_back).abs()) < 1e-5


@every_group
def test_chain_moves_links_inside_alone(name, rng):
    flow = whole(name, (3, 6), 4)
    links = flow.space.hot(flow.lattice, 2, rng)
    with torch.no_grad():
        moved = (flow.space.pack(flow.chain(links)[0]) - flow.space.pack(links)).abs()
    assert bool((moved[..., 0, -1, -3:, :].flatten(0, -3).amax(0) > 1e-4).all())
    moved[..., 0, -1, -3:, :] = 0
    assert float(moved.max()) == 0


# -- both ------------------------------------------------------------------------------------------


def test_identity_without_coefficients(rng):
    for group, _ in GROUPS.values():
        flow = GroupSweep(Lattice((4, 5)), group, 3, n_steps=2)
        links = group.hot(flow.lattice, 2, rng)
        with torch.no_grad():
            x, log_det = flow(links)
        assert distance(group, x, links) < 1e-12
        assert float(log_det.abs().max()) < 1e-11


@every_group
def test_declared_symmetries(name, rng):
    flow = whole(name)
    group, lattice = flow.space, flow.lattice
    assert all(set(layer.symmetries) == {"gauge", "charge_conjugation"} for layer in flow.layers)
    assert_gauge_covariant(lambda u: flow(u)[0], group, lattice, rng, tolerance=1e-10)
    assert_charge_conjugation(lambda u: flow(u)[0], group, lattice, rng, tolerance=1e-10)
    model = FlowModel(HaarPrior(lattice, group), flow)
    assert_gauge_invariant(model.log_prob, group, lattice, rng, tolerance=1e-9)
    links = group.hot(lattice, 2, rng)
    conjugate = -links if name == "U1" else links.conj().resolve_conj()
    with torch.no_grad():
        log_q = model.log_prob(links)
        torch.testing.assert_close(model.log_prob(conjugate), log_q, rtol=0, atol=1e-9)
        assert float((log_q[0] - log_q[1]).abs()) > 1e-2


def test_undeclared_translations_fail(rng):
    flow = whole("SU2")
    with pytest.raises(AssertionError, match="translation"):
        assert_translation_covariant(lambda u: flow(u)[0], flow.space, flow.lattice, rng, tolerance=1e-2)
    links = flow.space.hot(flow.lattice, 2, rng)
    with torch.no_grad():
        log_dets = [flow(translate(flow.lattice, links, mu))[1] - flow(links)[1] for mu in (0, 1)]
    assert all(float(x.abs().max()) > 1e-2 for x in log_dets)


@every_group
@pytest.mark.parametrize("shape", [(3, 5), (3, 3)])
def test_gradient_reaches_every_trainable_parameter(name, shape, rng):
    flow = whole(name, shape)
    links = flow.space.hot(flow.lattice, 3, rng)
    x, log_det = flow(links)
    weight = torch.randn(flow.space.pack(x).shape, generator=rng, dtype=torch.float64)
    ((weight * flow.space.pack(x)).sum() + log_det.square().sum()).backward()
    trainable = [n for n, p in flow.named_parameters() if p.requires_grad]
    assert trainable == ["layers.1.coefficients"]
    assert bool((flow.chain.coefficients.grad.abs() > 1e-7).all())


def test_saved_and_loaded_flow_is_bitwise_the_same(rng, tmp_path):
    flow, links = whole("SU3"), SUN(3).hot(Lattice((4, 5)), 2, rng)
    torch.save(flow.state_dict(), tmp_path / "flow.pt")
    other = GroupSweep(
        Lattice((4, 5)), SUN(3), 3, class_degree=4, degree=2, pair_degree=2, n_nodes=3, n_steps=1
    )
    other.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True))
    for a, b in zip(flow(links), other(links), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_same_weights_on_another_volume():
    flow = whole("SU2", (5, 4))
    beta = GROUPS["SU2"][1]
    for shape in ((8, 8), (5, 7)):
        other = flow.on(Lattice(shape))
        assert torch.equal(other.chain.coefficients, flow.chain.coefficients)
        assert flow.chain.basis.lattice.shape == (5, 4) and other.sweep.lattice.shape == shape
        model = FlowModel(HaarPrior(Lattice(shape), SU2()), other)
        x, log_q = model.sample(400, torch.Generator().manual_seed(1))
        assert x.shape[1:4] == (2, *shape)
        # all but the chain is right in any volume, so the spread of log w is the chain's
        log_w = -WilsonGauge(Lattice(shape), SU2(), beta).value(x, {}) - log_q
        values = plaquettes(SU2(), Lattice(shape), x)
        outside = log_w - log_w.mean() + beta * (1 - values[:, -1, -3:]).sum(1)
        z = model.prior.sample(400, torch.Generator().manual_seed(1))
        chain = other.chain(other.sweep(z)[0])[1]
        assert float((outside - chain).std()) < 2e-2 < 0.2 < float(log_w.std())


def test_bad_options(rng):
    lattice = Lattice((4, 5))
    with pytest.raises(InputError, match="at least 3 plaquettes"):
        GroupSweep(lattice, SU2(), n_rest=2)
    with pytest.raises(InputError, match="two-dimensional"):
        GroupSweep(Lattice((4, 4, 4)), SU2())
    with pytest.raises(InputError, match="L_y of at least 3"):
        PlaquetteSweep(Lattice((4, 2)), SU2())
    with pytest.raises(InputError, match="field of"):
        GroupSweep(lattice, RealLine())
    with pytest.raises(InputError, match="field of"):
        ChainVelocity(lattice, RealLine())
    with pytest.raises(InputError, match="n_rest"):
        PlaquetteSweep(lattice, SU2(), n_rest=0)
    with pytest.raises(InputError, match="closed column"):
        GroupSweep(lattice, SU2(), n_rest=4).on(Lattice((4, 4)))
    with pytest.raises(InputError, match="closed column"):
        GroupSweep(lattice, SU2(), n_rest=5).on(Lattice((6, 6)))
