"""What spectral couplings of SU(N) owe: inverse, log-determinant, derivatives, symmetries, files, volumes."""

from dataclasses import dataclass

import pytest
import torch

from lattice_lightning.actions import WilsonGauge
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, SUN, U1
from lattice_lightning.lattice import Lattice
from lattice_lightning.metrics import weight_statistics
from lattice_lightning.models import FlowModel, HaarPrior, SpectralCoupling, SpectralFlow, spectral_map
from lattice_lightning.models.spectral_map import SpectralMap
from lattice_lightning.testing import (
    assert_charge_conjugation,
    assert_gauge_covariant,
    reflect,
    translate,
)

GROUPS = {"SU2": SU2(), "SUN2": SUN(2), "SU3": SUN(3), "SU4": SUN(4)}
every_group = pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
#: eigenangles that meet, or almost do
MEETING = {
    "one": (SUN(3), [0.0, 0.0, 0.0]), "centre": (SUN(3), [2 * torch.pi / 3] * 2 + [-4 * torch.pi / 3]),
    "two": (SUN(3), [0.7, 0.7, -1.4]), "at_pi": (SUN(3), [torch.pi, torch.pi, -2 * torch.pi]),
    "near": (SUN(3), [0.7, 0.7 + 3e-5, -1.4 - 3e-5]), "nearer": (SUN(3), [0.7, 0.7 + 1e-8, -1.4 - 1e-8]),
    "su2_one": (SU2(), [0.0, 0.0]), "su2_minus": (SU2(), [torch.pi, -torch.pi]),
    "su2_near": (SU2(), [1e-7, -1e-7]), "su2_near_minus": (SU2(), [3.14, -3.14]),
}


def multiply(group, omega, elements):
    """exp(i w_a T_a) P of ``[n, ...]``."""
    return group.unpack(group.mul(group.exp(omega.movedim(-1, 0).movedim(1, -1)), group.pack(elements)))


def coordinates(group, elements, origin):
    """w of exp(i w_a T_a) = P' P^dag near one, to first order, ``[n, ..., a]``."""
    off = group.project(group.mul_nh(group.pack(elements), group.pack(origin)))
    return off.movedim(0, -1).movedim(-2, 0)


def numerical_log_det(group, function, point, step=1e-4):
    """Of a map of elements ``[..., N, N]`` at one point, by fourth-order differences in the algebra."""
    # short steps, for the kinks of the networks
    image = function(point[None])
    size = (*point.shape[:-2], group.n_generators)
    n = torch.Size(size).numel()
    directions = torch.eye(n, dtype=torch.float64).reshape(n, *size)

    def moved(t):
        near = multiply(group, t * directions, point.expand(n, *point.shape))
        return coordinates(group, function(near), image.expand(n, *point.shape)).reshape(n, n)

    jacobian = (8 * (moved(step) - moved(-step)) - moved(2 * step) + moved(-2 * step)) / (12 * step)
    return float(torch.linalg.slogdet(jacobian)[1])


def coefficients(h, n, rng, size=1.0):
    return size * torch.randn(len(h.monomials), n, generator=rng, dtype=torch.float64)


def from_angles(group, angles, rng):
    angles = torch.tensor(angles, dtype=torch.float64)
    vectors = SUN(group.n_colors).haar((), rng)
    return ((vectors * torch.polar(torch.ones_like(angles), angles)) @ vectors.mH)[None]


# -- the map of one element ------------------------------------------------------------------------


@every_group
@pytest.mark.parametrize("size", [1.0, 50.0])
@torch.no_grad()
def test_map_inverts(group, size, rng):
    # large coefficients: the integrator is coarse there, and must not fold
    h, p = SpectralMap(group, n_steps=2), group.haar((200,), rng)
    theta = coefficients(h, 200, rng, size)
    q, log_det = h(p, theta)
    assert float((q - p).abs().max()) > 0.05
    assert float(group.defect(q[None]).max()) < 1e-12
    back, log_back = h(q, theta, inverse=True)
    assert float((back - p).abs().max()) < 1e-10
    assert float((log_back + log_det).abs().max()) < 1e-9


@torch.no_grad()
def test_map_without_its_bound_folds(rng, monkeypatch):
    monkeypatch.setattr(spectral_map, "STEP_BOUND", 100.0)
    h, p = SpectralMap(SU2(), n_steps=2), SU2().haar((200,), rng)
    theta = coefficients(h, 200, rng, 10.0)
    back, _ = h(h(p, theta)[0], theta, inverse=True)
    assert int(((back - p).abs().amax((1, 2)) > 1e-3).sum()) > 20


@every_group
@torch.no_grad()
def test_bound_is_one_of_the_velocity(group, rng):
    h, n = SpectralMap(group), 4000
    angles = torch.pi * (2 * torch.rand(group.n_colors - 1, n, generator=rng, dtype=torch.float64) - 1)
    free = len(angles)
    # an orthonormal basis of angles that add up to zero
    basis = torch.linalg.qr(torch.cat([torch.eye(free), -torch.ones(1, free)]).double())[0]
    start = basis[:free, :, None].expand(-1, -1, n)
    for i, bound in enumerate(h._lipschitz.tolist()):
        table = h._where[:, :, i, None].expand(-1, -1, n)
        _, change = h._speed(angles, start, table)
        full = torch.cat([change, -change.sum(0, keepdim=True)])
        found = float(torch.linalg.matrix_norm(full.movedim(-1, 0), ord=2).max())
        assert found <= bound, h.monomials[i]
        # random elements of SU(4) come near few of the maxima
        assert found > (0.2 if group.n_colors < 4 else 0.05) * bound, h.monomials[i]


@every_group
@torch.no_grad()
def test_log_det_of_a_map(group, rng):
    h, p = SpectralMap(group, n_steps=2), group.haar((3,), rng)
    theta = coefficients(h, 3, rng)
    _, log_det = h(p, theta)
    assert float(log_det.abs().min()) > 1e-2
    for k in range(3):
        expected = numerical_log_det(group, lambda x, k=k: h(x, theta[:, k : k + 1].expand(-1, len(x)))[0], p[k])
        assert float(log_det[k]) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", MEETING)
@torch.no_grad()
def test_log_det_where_eigenvalues_meet(name, rng):
    group, angles = MEETING[name]
    h, p = SpectralMap(group), from_angles(group, angles, rng)
    theta = coefficients(h, 1, rng)
    q, log_det = h(p, theta)
    expected = numerical_log_det(group, lambda x: h(x, theta.expand(-1, len(x)))[0], p[0])
    assert float(log_det) == pytest.approx(expected, abs=1e-6)
    back, log_back = h(q, theta, inverse=True)
    assert float((back - p).abs().max()) < 1e-10
    assert float((log_back + log_det).abs()) < 1e-8


def directional_derivatives(group, h, p, theta, inverse, rng, step=1e-3):
    """Autograd's and the finite difference, element by element, of a functional of image and log det."""
    n = len(p)
    weight = torch.randn(p.shape, generator=rng, dtype=p.dtype)
    omega = torch.randn(n, group.n_generators, generator=rng, dtype=torch.float64)
    slope = torch.randn(theta.shape, generator=rng, dtype=torch.float64)

    def value(t):
        image, log_det = h(multiply(group, t * omega, p), theta + t.T * slope, inverse)
        return (weight.conj() * image).real.sum((1, 2)) + 0.3 * log_det

    t = torch.zeros(n, 1, dtype=torch.float64, requires_grad=True)
    got = torch.autograd.grad(value(t).sum(), t)[0][:, 0]
    steps = torch.full_like(t, step)
    with torch.no_grad():
        expected = (8 * (value(steps) - value(-steps)) - value(2 * steps) + value(-2 * steps)) / (12 * step)
    return got, expected


@every_group
@pytest.mark.parametrize("inverse", [False, True])
def test_derivatives_of_a_map(group, inverse, rng):
    h, p = SpectralMap(group), group.haar((20,), rng)
    got, expected = directional_derivatives(group, h, p, coefficients(h, 20, rng), inverse, rng)
    assert float(expected.abs().mean()) > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MEETING)
def test_derivatives_where_eigenvalues_meet(name, rng):
    group, angles = MEETING[name]
    h, p = SpectralMap(group), from_angles(group, angles, rng)
    got, expected = directional_derivatives(group, h, p, coefficients(h, 1, rng), False, rng)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_constant_eigenvectors_are_seen(rng, monkeypatch):
    """Without the divided differences the derivative is wrong."""
    def rebuild(elements, vectors, old, new, ratios):
        return (vectors * torch.polar(torch.ones_like(new), new).T.unsqueeze(-2)) @ vectors.mH

    monkeypatch.setattr(spectral_map.Rebuild, "apply", rebuild)
    h, p = SpectralMap(SUN(3)), SUN(3).haar((20,), rng)
    got, expected = directional_derivatives(SUN(3), h, p, coefficients(h, 20, rng), False, rng)
    assert float((got - expected).abs().mean()) > 0.1


@torch.no_grad()
def test_both_implementations_of_su2_agree(rng):
    p, theta = SU2().haar((50,), rng), coefficients(SpectralMap(SU2()), 50, rng)
    for a, b in zip(SpectralMap(SU2())(p, theta), SpectralMap(SUN(2))(p, theta), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@torch.no_grad()
def test_map_commutes_with_conjugation_by_the_group(rng):
    group = SUN(3)
    h, p, g = SpectralMap(group), group.haar((20,), rng), group.haar((20,), rng)
    theta = coefficients(h, 20, rng)
    torch.testing.assert_close(h(g @ p @ g.mH, theta)[0], g @ h(p, theta)[0] @ g.mH, rtol=0, atol=1e-11)


# -- couplings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    name: str
    group: object
    make: object
    shape: tuple = (4, 4)
    other: tuple = (8, 4)
    scale: float = 0.3
    steps: tuple = (4, 4)

    def flow(self, seed=7):
        lattice, rng = Lattice(self.shape), torch.Generator().manual_seed(seed)
        flow = self.make(lattice, self.group).double().requires_grad_(False)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(self.scale * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
        return flow


def coupling(mu, offset, **options):
    return lambda lattice, group: SpectralCoupling(
        lattice, group, mu, offset, 3, hidden=(4,), n_steps=2, rng=torch.Generator().manual_seed(5), **options
    )


def stack(lattice, group):
    rng = torch.Generator().manual_seed(5)
    return SpectralFlow(lattice, group, n_layers=4, degree=2, hidden=(4,), n_steps=2, rng=rng)


CASES = [
    Case("su2", SU2(), coupling(0, 1), steps=(1, 4)),
    Case("su2_rectangles", SU2(), coupling(1, 2, rectangles=True), (4, 3), (8, 5), steps=(4, 1)),
    Case("su3", SUN(3), coupling(1, 3), steps=(4, 1)),
    Case("su3_rectangles", SUN(3), coupling(0, 0, rectangles=True), (3, 4), (5, 8), steps=(1, 4)),
    Case("stack_su2", SU2(), stack),
    Case("stack_su3", SUN(3), stack),
]
every_flow = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def links(case, rng, n=3):
    return case.group.hot(Lattice(case.shape), n, rng)


def difference(a, b):
    return float((a - b).abs().max())


@every_flow
@torch.no_grad()
def test_inverse(case, rng):
    flow, z = case.flow(), links(case, rng)
    x, log_det = flow(z)
    back, log_back = flow.inverse(x)
    case.group.check_field(x, flow.lattice)
    assert float(case.group.defect(x).max()) < 1e-12
    assert difference(x, z) > 0.02
    assert difference(back, z) < 1e-9
    assert float((log_det + log_back).abs().max()) < 1e-9


@every_flow
@torch.no_grad()
def test_log_determinant(case, rng):
    flow, z = case.flow(), links(case, rng, 1)
    _, log_det = flow(z)
    expected = numerical_log_det(case.group, lambda x: flow(x)[0], z[0])
    assert float(log_det) == pytest.approx(expected, abs=1e-6)
    # what a forgotten Haar factor, or a link counted twice, would change is far more
    assert abs(expected) > 0.01


@every_flow
def test_gauge_covariance(case, rng):
    flow = case.flow()
    assert_gauge_covariant(lambda z: flow(z)[0], case.group, flow.lattice, rng)
    assert_gauge_covariant(lambda z: flow.inverse(z)[0], case.group, flow.lattice, rng, tolerance=1e-8)


@every_flow
@torch.no_grad()
def test_identity_at_zero_parameters(case, rng):
    z = links(case, rng)
    x, log_det = case.make(Lattice(case.shape), case.group)(z)
    assert difference(x, z) < 1e-13
    assert float(log_det.abs().max()) < 1e-12


@every_flow
def test_gradient_is_the_finite_difference_and_reaches_every_parameter(case, rng):
    flow, z = case.flow().requires_grad_(True), links(case, rng, 4)
    weight = torch.randn(z.shape, generator=rng, dtype=z.dtype)

    def value():
        x, log_det = flow(z)
        return (weight.conj() * x).real.sum() + log_det.sum()

    value().backward()
    directions = {}
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert bool((parameter.grad != 0).any()), name
        directions[name] = torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)
    expected = sum(float((p.grad * directions[name]).sum()) for name, p in flow.named_parameters())

    @torch.no_grad()
    def moved(t):
        for name, parameter in flow.named_parameters():
            parameter.add_(t * directions[name])
        found = float(value())
        for name, parameter in flow.named_parameters():
            parameter.sub_(t * directions[name])
        return found

    # short steps, for the kinks of the networks
    step = 1e-6
    assert (moved(step) - moved(-step)) / (2 * step) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@every_flow
@torch.no_grad()
def test_saved_and_loaded_is_bitwise_the_same(case, rng, tmp_path):
    flow, other, z = case.flow(), case.flow(seed=8), links(case, rng)
    torch.save(flow.state_dict(), tmp_path / "flow.pt")
    assert not torch.equal(other(z)[0], flow(z)[0])
    other.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True))
    assert torch.equal(other(z)[0], flow(z)[0])


@pytest.mark.parametrize("case", CASES[1:4], ids=lambda case: case.name)
@torch.no_grad()
def test_transfer_of_volume(case, rng):
    lattice = Lattice(case.other)
    flow, z = case.flow().on(lattice), case.group.hot(lattice, 1, rng)
    x, log_det = flow(z)
    assert difference(x, z) > 0.02
    assert difference(flow.inverse(x)[0], z) < 1e-9
    if case.group.n_colors == 2:
        assert float(log_det) == pytest.approx(
            numerical_log_det(case.group, lambda y: flow(y)[0], z[0]), abs=1e-6
        )


@every_flow
@torch.no_grad()
def test_translations_of_the_mask(case, rng):
    flow = case.flow().on(Lattice((8, 8)))
    z = case.group.hot(flow.lattice, 1, rng)
    for mu, step in enumerate(case.steps):
        left, right = flow(translate(flow.lattice, z, mu, step))[0], flow(z)[0]
        assert difference(left, translate(flow.lattice, right, mu, step)) < 1e-11
        if step == 4:
            left = flow(translate(flow.lattice, z, mu, 1))[0]
            assert difference(left, translate(flow.lattice, right, mu, 1)) > 0.02


@every_flow
@torch.no_grad()
def test_reflections_are_not_declared(case, rng):
    flow = case.flow().on(Lattice((4, 4)))
    z = case.group.hot(flow.lattice, 1, rng)
    left = flow(reflect(case.group, flow.lattice, z, 0))[0]
    assert difference(left, reflect(case.group, flow.lattice, flow(z)[0], 0)) > 0.01


@every_flow
def test_charge_conjugation(case, rng):
    flow = case.flow()
    assert_charge_conjugation(lambda z: flow(z)[0], case.group, flow.lattice, rng)


def test_coefficients_of_one_sign_break_charge_conjugation(rng):
    flow = CASES[2].flow()
    # only the sign of the coefficients is read from this list
    flow.spectral_map.monomials = [(a + b, 0) for a, b in flow.spectral_map.monomials]
    with pytest.raises(AssertionError, match="charge conjugation"):
        assert_charge_conjugation(lambda z: flow(z)[0], SUN(3), flow.lattice, rng)


@every_flow
def test_single_precision(case, rng):
    flow, z = case.flow(), links(case, rng)
    x, log_det = flow.float()(z.to(torch.complex64))
    assert x.dtype == torch.complex64 and log_det.dtype == torch.float32
    y, log_det_y = flow(z)
    assert difference(x, y) < 1e-3 and float((log_det - log_det_y).abs().max()) < 1e-2


def test_training_raises_the_effective_sample_size():
    rng = torch.Generator().manual_seed(3)
    lattice, group = Lattice((4, 4)), SU2()
    flow = SpectralFlow(lattice, group, degree=2, hidden=(4,), n_steps=2, rng=rng)
    model, action = FlowModel(HaarPrior(lattice, group), flow), WilsonGauge(lattice, group, beta=2.0)

    @torch.no_grad()
    def ess():
        field, log_q = model.sample(1000, rng)
        return weight_statistics(-action.energy(field) - log_q).ess

    before = ess()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(25):
        field, log_q = model.sample(32, rng, torch.float32)
        optimizer.zero_grad()
        (action.energy(field) + log_q).mean().backward()
        optimizer.step()
    assert before < 0.02 and ess() > 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpectralFlow(Lattice((4, 6)), SU2()), "multiple of 4, got 6"),
        (lambda: SpectralFlow(Lattice((4, 4)), U1()), r"for SU\(N\), got U\(1\)"),
        (lambda: SpectralFlow(Lattice((4, 4)), SU2(), n_layers=0), "at least one layer"),
        (lambda: SpectralFlow(Lattice((4, 4)), SU2(), n_layers=2).on(Lattice((4, 5))), "multiple of 4, got 5"),
        (lambda: SpectralCoupling(Lattice((4, 4)), SU2(), 2, 0), "mu = 0 or 1"),
        (lambda: SpectralMap(SU2(), degree=0), "degree"),
        (lambda: SpectralMap(SU2(), n_steps=0), "n_steps"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(InputError, match=message):
        make()
