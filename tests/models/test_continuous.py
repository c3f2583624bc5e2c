"""Continuous flows: divergence, order of the integrator, gradients, symmetries, volumes."""

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from tiny_velocities import WilsonGradient

from lattice_lightning.actions import GaussianAction, Phi4, free_kernel
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import (
    ContinuousFlow,
    FlowModel,
    FourierFlow,
    FreeFieldPrior,
    GaussianFieldPrior,
    HaarPrior,
    PlaneWaves,
    step_halving,
)
from lattice_lightning.models.continuous import node_weights

SHAPES = [(4, 4), (3, 5), (2, 3, 4)]


def plane_waves(shape=(4, 4), seed=1, **options):
    """Plane waves in units of random widths."""
    basis = PlaneWaves(Lattice(shape), **options)
    rng = torch.Generator().manual_seed(seed)
    basis.widths.copy_(0.5 + torch.rand(basis.widths.shape, generator=rng, dtype=torch.float64))
    return basis


FEW = {"fields": [(0.0, 2), ("neighbours", 2, True), ("mean", 1)], "radius": 1, "widths": (1.5,)}


def bent_flow(rng, shape=(4, 4), size=0.04, n_nodes=5, n_steps=4, **options):
    """A flow with random coefficients."""
    flow = ContinuousFlow(Lattice(shape), plane_waves(shape, **FEW), n_nodes, n_steps, **options)
    with torch.no_grad():
        # nodes that do not jump: the order of the scheme needs a smooth velocity
        s = torch.linspace(0, 1, n_nodes, dtype=torch.float64)[:, None]
        a, b = torch.randn(2, flow.basis.n_features, generator=rng, dtype=torch.float64)
        flow.coefficients.copy_(size * (a + b * s - 0.5 * a * s.square()))
    return flow


def gauge_flow(n_steps):
    """A trivializing gradient flow on SU(2)."""
    lattice = Lattice((2, 3))
    flow = ContinuousFlow(lattice, WilsonGradient(lattice, SU2()), 5, n_steps)
    with torch.no_grad():
        s = torch.linspace(0, 1, 5, dtype=torch.float64)
        flow.coefficients.copy_((0.6 + 0.6 * s - 0.4 * s.square())[:, None])
    return flow


# -- basis -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_divergence_is_the_trace_of_the_jacobian(shape, rng):
    basis, volume = plane_waves(shape), Lattice(shape).volume
    theta = torch.randn(basis.n_features, generator=rng, dtype=torch.float64)
    field = torch.randn(1, *shape, generator=rng, dtype=torch.float64)
    _, divergence = basis.velocity(field, theta)
    jacobian = torch.autograd.functional.jacobian(lambda x: basis.velocity(x, theta)[0], field)
    trace = jacobian.reshape(volume, volume).trace()
    torch.testing.assert_close(divergence[0], trace, rtol=1e-12, atol=1e-10)


def test_published_velocity_is_a_preset(rng):
    basis = PlaneWaves.local(Lattice((4, 4)), harmonics=3, radius=3.0)
    # waves and the field, on seven shells and the mean
    assert (basis.n_functions, basis.n_kernels) == (4, 8)
    theta = torch.randn(basis.n_features, generator=rng, dtype=torch.float64)
    field = torch.randn(1, 4, 4, generator=rng, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: basis.velocity(x, theta)[0], field)
    trace = jacobian.reshape(16, 16).trace()
    torch.testing.assert_close(basis.velocity(field, theta)[1][0], trace, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_design_is_divergence_minus_force_along_every_feature(shape, rng):
    basis = plane_waves(shape)
    field, force = torch.randn(2, 3, *shape, generator=rng, dtype=torch.float64)
    design = basis.design(field, force)
    for i, unit in enumerate(torch.eye(basis.n_features, dtype=torch.float64)):
        b, divergence = basis.velocity(field, unit)
        expected = divergence - (b * force).flatten(1).sum(1)
        torch.testing.assert_close(design[:, i], expected, rtol=1e-10, atol=1e-10)


def test_chunks_change_nothing(rng, monkeypatch):
    basis = plane_waves()
    theta = torch.randn(basis.n_features, generator=rng, dtype=torch.float64)
    field = torch.randn(5, 4, 4, generator=rng, dtype=torch.float64)
    whole = basis.velocity(field, theta)
    monkeypatch.setattr("lattice_lightning.models.scalar_velocity.CHUNK", 32)
    for a, b in zip(whole, basis.velocity(field, theta), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_widths_come_from_the_two_point_function(rng):
    lattice = Lattice((6, 6))
    kernel = free_kernel(lattice, 0.3)
    basis = PlaneWaves(lattice)
    basis.calibrate(1 / kernel)
    fields = FreeFieldPrior(lattice, 0.3).sample(4000, rng)
    mean = fields.flatten(1).mean(1).std()
    assert abs(float(basis.widths[0] / fields.std()) - 1) < 0.02
    last = [f.smearing for f in basis.fields].index("mean")
    assert abs(float(basis.widths[last] / mean) - 1) < 0.05


# -- flow ------------------------------------------------------------------------------------------


def test_interpolation_is_exact_for_cubics():
    s = torch.linspace(0, 1, 7, dtype=torch.float64)
    at = torch.linspace(0, 1, 23, dtype=torch.float64)
    cubic = 1 - s + 2 * s**2 - 3 * s**3
    torch.testing.assert_close(node_weights(7, 23) @ cubic, 1 - at + 2 * at**2 - 3 * at**3)


def test_zero_coefficients_are_the_identity(rng):
    flow = ContinuousFlow(Lattice((4, 4)), plane_waves())
    field = torch.randn(2, 4, 4, generator=rng, dtype=torch.float64)
    image, log_det = flow(field)
    assert torch.equal(image, field) and float(log_det.detach().abs().max()) == 0


def jacobian_log_det(flow, field, step=1e-3):
    """log det of the flow of links, by fourth-order differences in the algebra."""
    space = flow.space
    shape = (*space.site_shape(field), space.n_generators)
    size = torch.Size(shape[1:]).numel()
    eye = torch.eye(size, dtype=torch.float64).reshape(size, *shape[1:])
    image, _ = flow(field)

    def moved(t):
        links = space.evolve(field.expand(size, *field.shape[1:]), t * eye)
        off = space.mul_nh(space.pack(flow(links)[0]), space.pack(image.expand_as(links)))
        # exp(i w_a T_a) near one: w_a = 2 q_a to third order, and the difference is odd
        return space.unpack_algebra(space.project(off)).reshape(size, -1)

    jacobian = (8 * (moved(step) - moved(-step)) - moved(2 * step) + moved(-2 * step)) / (12 * step)
    scale = _identity_scale(space)
    return torch.linalg.slogdet(jacobian / scale)[1]


def _identity_scale(space):
    omega = torch.zeros(space.n_generators, 1, dtype=torch.float64)
    omega[0] = 1e-6
    return float(space.project(space.exp(omega))[0, 0] / 1e-6)


@torch.no_grad()
def test_log_determinant_on_the_group_is_that_of_the_jacobian(rng):
    flow = gauge_flow(16)
    field = SU2().hot(flow.lattice, 1, rng)
    expected = jacobian_log_det(flow, field)
    assert abs(float(flow(field)[1][0] - expected)) < 1e-5
    with torch.no_grad():
        flow.coefficients.mul_(1.01)
    assert abs(float(flow(field)[1][0] - expected)) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("space", ["R", "SU(2)"])
def test_error_falls_sixteenfold_under_step_halving(space, rng):
    def flow(n):
        return gauge_flow(n) if space == "SU(2)" else bent_flow(torch.Generator().manual_seed(3), n_steps=n)

    field = SU2().hot(Lattice((2, 3)), 4, rng) if space == "SU(2)" else torch.randn(
        4, 4, 4, generator=rng, dtype=torch.float64
    )
    images, log_dets = zip(*(flow(n)(field) for n in (4, 8, 16, 64)), strict=True)
    for values in (images, log_dets):
        errors = [float((v - values[-1]).abs().max()) for v in values[:-1]]
        assert errors[0] > 1e-8
        assert all(10 < a / b < 26 for a, b in pairwise(errors)), errors


@torch.no_grad()
def test_inverse_to_the_order_of_the_scheme(rng):
    field = torch.randn(3, 4, 4, generator=rng, dtype=torch.float64)
    errors = []
    for n in (8, 16):
        flow = bent_flow(torch.Generator().manual_seed(3), n_steps=n)
        image, log_det = flow(field)
        back, log_back = flow.inverse(image)
        errors.append(max(float((back - field).abs().max()), float((log_det + log_back).abs().max())))
        assert float((image - field).abs().max()) > 0.1
    assert errors[1] < 1e-5 and errors[0] / errors[1] > 10


def test_gradients_of_all_memory_modes_agree(rng):
    field = torch.randn(3, 4, 4, generator=rng, dtype=torch.float64)
    weight = torch.randn(3, 4, 4, generator=rng, dtype=torch.float64)
    found = {}
    for memory in ("store", "checkpoint", "adjoint"):
        flow, z = bent_flow(torch.Generator().manual_seed(3), n_steps=8, memory=memory), field.clone()
        z.requires_grad_()
        x, log_det = flow(z)
        loss = (weight * x.square()).sum() + (log_det * log_det).sum()
        found[memory] = torch.autograd.grad(loss, (flow.coefficients, z))
    for stored, checked, adjoint in zip(*found.values(), strict=True):
        assert float(stored.abs().max()) > 0.1
        torch.testing.assert_close(checked, stored, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(adjoint, stored, rtol=1e-4, atol=1e-4 * float(stored.abs().max()))


def test_adjoint_gradient_of_links(rng):
    field = SU2().hot(Lattice((2, 3)), 2, rng)
    found = []
    for memory in ("store", "adjoint"):
        flow = gauge_flow(8)
        flow.memory = memory
        x, log_det = flow(field)
        loss = log_det.sum() + x.real.square()[..., 0, 0].sum()
        found.append(torch.autograd.grad(loss, flow.coefficients)[0])
    assert float(found[0].abs().max()) > 0.1
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("n_steps", [2, 4])
def test_step_halving_sees_the_error(n_steps, rng):
    lattice = Lattice((4, 4))
    model = FlowModel(FreeFieldPrior(lattice, 1.0), bent_flow(torch.Generator().manual_seed(3), n_steps=n_steps))
    action = Phi4(lattice, 1.0, 0.02)
    change, plain = (step_halving(model, 512, rng, a) for a in (action, None))
    z = model.prior.sample(512, rng)
    exact = deepcopy(model.flow)
    exact.n_steps = 64
    (x, log_det), (y, log_det_exact) = model.flow(z), exact(z)
    error = log_det - log_det_exact
    assert 0.7 < plain.log_q / float(error.square().mean().sqrt()) < 1.2
    assert plain.log_w is None and plain.log_z is None
    off = error - action.value(x, {}) + action.value(y, {})
    share = torch.softmax(log_det - action.value(x, {}) - model.prior.log_prob(z), 0)
    assert change.log_q == pytest.approx(float((share * error.square()).sum().sqrt()), rel=0.3)
    mean = float((share * off).sum())
    assert change.log_z == pytest.approx(mean, rel=0.3)
    assert change.log_w == pytest.approx(float((share * (off - mean).square()).sum().sqrt()), rel=0.3)


@torch.no_grad()
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e80])
def test_step_halving_leaves_out_draws_that_the_target_rejects(bad, rng):
    class Wall(Phi4):
        def value(self, field, aux, *, strict=True):
            # the halved flow ends elsewhere: both far up, but not equally far
            s = super().value(field, aux)
            return torch.where(field[:, 0, 0] > 0, bad * (1 + s), s)

    lattice = Lattice((4, 4))
    model = FlowModel(FreeFieldPrior(lattice, 1.0), bent_flow(torch.Generator().manual_seed(3)))
    change = step_halving(model, 64, rng, Wall(lattice, 1.0, 0.5))
    assert 0 < change.log_q < 1 and 0 < change.log_w < 1 and abs(change.log_z) < 1


def test_step_halving_needs_a_continuous_flow(rng):
    lattice = Lattice((4, 4))
    with pytest.raises(InputError, match="ContinuousFlow"):
        step_halving(FlowModel(FreeFieldPrior(lattice), FourierFlow(lattice)), 4, rng)


# -- symmetries and volumes ------------------------------------------------------------------------

ELEMENTS = {
    "translation": lambda x: torch.roll(x, (1, 2), (1, 2)),
    "reflection": lambda x: torch.flip(x, (1,)),
    "exchange": lambda x: x.transpose(1, 2),
    "z2": lambda x: -x,
}


@torch.no_grad()
@pytest.mark.parametrize("name", ELEMENTS)
def test_declared_symmetries(name, rng):
    flow, element = bent_flow(rng), ELEMENTS[name]
    field = torch.randn(2, 4, 4, generator=rng, dtype=torch.float64)
    image, log_det = flow(field)
    moved, log_moved = flow(element(field))
    torch.testing.assert_close(moved, element(image), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(log_moved, log_det, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_undeclared_symmetries_fail(rng):
    flow = bent_flow(rng)
    assert set(flow.symmetries) == {"translations", "reflections", "axis_permutations", "z2"}
    field = torch.randn(2, 4, 4, generator=rng, dtype=torch.float64)
    image = flow(field)[0]
    assert float((flow(2 * field)[0] - 2 * image).abs().max()) > 1e-3
    odd = torch.ones(4, 4, dtype=torch.float64)
    odd[::2] = -1
    assert float((flow(odd * field)[0] - odd * image).abs().max()) > 1e-3


@torch.no_grad()
def test_same_weights_on_another_volume(rng):
    flow = bent_flow(rng)
    other = flow.on(Lattice((8, 8)))
    assert other.basis.lattice.shape == (8, 8) and flow.basis.lattice.shape == (4, 4)
    field = torch.randn(2, 8, 8, generator=rng, dtype=torch.float64)
    image, _ = other(field)
    assert image.shape == field.shape
    basis = PlaneWaves(Lattice((4, 4)), fields=[(0.0, 3)], radius=1, widths=())
    theta = torch.randn(basis.n_kernels * basis.n_functions, generator=rng, dtype=torch.float64)
    theta.reshape(-1, basis.n_kernels)[:, -1] = 0
    small = torch.randn(2, 4, 4, generator=rng, dtype=torch.float64)
    large = deepcopy(basis)
    large.lattice = Lattice((8, 8))
    v, d = basis.velocity(small, theta)
    w, e = large.velocity(small.tile(1, 2, 2), theta)
    # local features of a periodic field are periodic, with the same divergence a site
    torch.testing.assert_close(w, v.tile(1, 2, 2))
    torch.testing.assert_close(e, 4 * d)


def test_bad_options():
    lattice = Lattice((4, 4))
    with pytest.raises(InputError, match="memory"):
        ContinuousFlow(lattice, PlaneWaves(lattice), memory="disk")
    with pytest.raises(InputError, match="basis lives on"):
        ContinuousFlow(Lattice((6, 6)), PlaneWaves(lattice))
    with pytest.raises(InputError, match="local one"):
        PlaneWaves(lattice, fields=[("mean", 2)])
    with pytest.raises(InputError, match="one real scalar"):
        PlaneWaves(lattice, RealLine(2))
    with pytest.raises(InputError, match="lives on"):
        FlowModel(HaarPrior(lattice, SU2()), ContinuousFlow(lattice, PlaneWaves(lattice)))


# -- prior -----------------------------------------------------------------------------------------


def test_gaussian_field_prior_is_the_free_field(rng):
    lattice = Lattice((4, 6))
    prior, free = GaussianFieldPrior(lattice, m2=0.7), FreeFieldPrior(lattice, 0.7)
    field = torch.randn(3, 4, 6, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(field), free.log_prob(field))
    same = [torch.Generator().manual_seed(5) for _ in range(2)]
    torch.testing.assert_close(prior.sample(3, same[0]), free.sample(3, same[1]))


def test_prior_kernel_is_saved_and_set():
    lattice = Lattice((4, 4))
    prior, other = GaussianFieldPrior(lattice), GaussianFieldPrior(lattice)
    kernel = free_kernel(lattice, 0.2) + lattice.phat_squared().square()
    prior.set_kernel(kernel)
    other.load_state_dict(prior.state_dict())
    torch.testing.assert_close(other.kernel, kernel)
    assert isinstance(other.action(), GaussianAction)
    with pytest.raises(InputError, match="exchanges"):
        prior.set_kernel(kernel + lattice.momenta()[0])
    assert len(list(GaussianFieldPrior(lattice, trainable=True).parameters())) == 1


def test_prior_on_another_volume_is_the_same_theory():
    lattice, large = Lattice((8, 8)), Lattice((12, 12))
    prior = GaussianFieldPrior(lattice, m2=1.0)
    prior.set_kernel(free_kernel(lattice, 0.4))
    ratio = prior.on(large).kernel / free_kernel(large, 0.4)
    assert float((ratio - 1).abs().max()) < 0.12
    assert float((prior.on(lattice).kernel / prior.kernel - 1).abs().max()) == 0
