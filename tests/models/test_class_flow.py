"""The map of a single plaquette: inverse, log-determinant, degenerate elements, fit, quadrature."""

import math

import pytest
import torch
from scipy import special

from lattice_lightning.analysis.exact_2d import log_z_torus
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.models import ClassFlow
from lattice_lightning.models.class_torus import torus_grid

# coupling and largest deviation from the exact map
CASES = {
    "U1": (U1(), 2.0, 8), "SU2": (SU2(), 2.7, 6), "SUN2": (SUN(2), 2.7, 6), "SU3": (SUN(3), 6.0, 6),
}
every_case = pytest.mark.parametrize("name", CASES)


def fitted(name, beta=None, **options):
    group, coupling, degree = CASES[name]
    flow = ClassFlow(group, degree, **options)
    flow.fit(beta or coupling)
    return flow.requires_grad_(False)


def bent(name, n_steps=6):
    """A map far from the identity that no fit made."""
    flow = ClassFlow(CASES[name][0], 4, n_nodes=5, n_steps=n_steps)
    rng = torch.Generator().manual_seed(4)
    shape, size = flow.coefficients.shape, 0.3 if name == "U1" else 1.5
    with torch.no_grad():
        flow.coefficients.copy_(size * torch.randn(shape, generator=rng, dtype=torch.float64))
    return flow.requires_grad_(False)


def re_trace(group, p):
    return p.cos() if group.name == "U(1)" else p.diagonal(dim1=-2, dim2=-1).sum(-1).real / group.n_colors


def packed(group, p):
    return group.pack(p.unsqueeze(0))[..., 0]


def numerical_log_det(flow, element, step=1e-3):
    """Of one element, by fourth-order differences in the algebra."""
    group, k = flow.group, flow.group.n_generators
    image = group.pack(flow(element[None])[0])

    def moved(t):
        omega = t * torch.eye(k, dtype=torch.float64)
        near = group.mul(group.exp(omega), group.pack(element[None]).expand(*image.shape[:-1], k))
        off = group.mul_nh(group.pack(flow(group.unpack(near))[0]), image.expand_as(near))
        return group.project(off)

    jacobian = (8 * (moved(step) - moved(-step)) - moved(2 * step) + moved(-2 * step)) / (12 * step)
    unit = torch.zeros(k, 1, dtype=torch.float64)
    unit[0] = 1e-6
    scale = float(group.project(group.exp(unit))[0, 0] / 1e-6)
    return float(torch.linalg.slogdet(jacobian / scale)[1])


def from_angles(angles, rng=None):
    """SU(N) elements with eigenangles, in random directions."""
    angles = torch.as_tensor(angles, dtype=torch.float64)
    phases = torch.polar(torch.ones_like(angles), angles)
    vectors = SUN(angles.shape[-1]).haar((), rng)
    return (vectors * phases[..., None, :]) @ vectors.mH


# -- inverse and log-determinant -------------------------------------------------------------------


@every_case
@torch.no_grad()
@pytest.mark.parametrize("make", [fitted, bent])
def test_inverse(name, make, rng):
    flow = make(name)
    group = flow.group
    p = group.haar((2, 200), rng)
    q, log_det = flow(p)
    assert q.shape == p.shape and log_det.shape == (2, 200)
    assert float((packed(group, q) - packed(group, p)).abs().max()) > 0.03
    back, log_back = flow.inverse(q)
    assert float((packed(group, back) - packed(group, p)).abs().max()) < 1e-10
    assert float((log_back + log_det).abs().max()) < 1e-10
    assert float(group.defect(q.reshape(1, 400, *q.shape[2:])).max()) < 1e-12


@every_case
@torch.no_grad()
@pytest.mark.parametrize("make", [fitted, bent])
def test_log_det_is_that_of_the_discretised_map(name, make, rng):
    # few steps: the integral of the divergence would be off
    flow = make(name, n_steps=3)
    p = flow.group.haar((4,), rng)
    _, log_det = flow(p)
    for element, claimed in zip(p, log_det, strict=True):
        assert float(claimed) == pytest.approx(numerical_log_det(flow, element), abs=1e-7)


DEGENERATE = {
    "SU2": [[0.0, 0.0], [math.pi, -math.pi]],
    "SUN2": [[0.0, 0.0], [math.pi, -math.pi]],
    "SU3": [
        [0.0, 0.0, 0.0], [2 * math.pi / 3] * 3, [-2 * math.pi / 3] * 3, [0.7, 0.7, -1.4],
        [math.pi, math.pi, 0.0], [-2.9, -2.9, 5.8],
    ],
}


@torch.no_grad()
@pytest.mark.parametrize("make", [fitted, bent])
@pytest.mark.parametrize(
    ("name", "angles"), [(n, a) for n, cases in DEGENERATE.items() for a in cases],
    ids=lambda x: str([round(v, 1) for v in x]) if isinstance(x, list) else x,
)
def test_degenerate_elements(name, angles, make, rng):
    flow = make(name)
    group = flow.group
    p = from_angles(angles, rng)
    q, log_det = flow(p[None])
    back, log_back = flow.inverse(q)
    assert float((back - p).abs().max()) < 1e-10
    assert float((log_back + log_det).abs().max()) < 1e-9
    assert float(log_det[0]) == pytest.approx(numerical_log_det(flow, p), abs=1e-6)
    # and continuous: the same a little aside, on every scale
    for size in (1e-3, 1e-5, 1e-7, 1e-9, 1e-12, 1e-15):
        omega = size * torch.randn(group.n_generators, 8, generator=rng, dtype=torch.float64)
        near = group.mul(group.exp(omega), group.pack(p.expand(8, *p.shape)))
        _, beside = flow(group.unpack(near))
        assert float((beside - log_det).abs().max()) < 1e2 * size + 1e-8


@every_case
@torch.no_grad()
def test_elements_do_not_mix(name, rng):
    """What degenerate elements need is not done to their neighbours in a batch."""
    flow = bent(name)
    group = flow.group
    p = group.haar((6,), rng)
    one = torch.zeros(1, dtype=torch.float64) if name == "U1" else torch.eye(group.n_colors)[None].to(p)
    alone, log_alone = flow(p)
    joint, log_joint = flow(torch.cat([p, one]))
    torch.testing.assert_close(joint[:6], alone, rtol=0, atol=1e-13)
    torch.testing.assert_close(log_joint[:6], log_alone, rtol=0, atol=1e-12)


@every_case
@torch.no_grad()
def test_class_function_symmetries(name, rng):
    flow = bent(name)
    group = flow.group
    p = group.haar((20,), rng)
    q, log_det = flow(p)
    conjugate = -p if name == "U1" else p.conj().resolve_conj()
    image, log_image = flow(conjugate)
    expected = -q if name == "U1" else q.conj()
    assert float((packed(group, image) - packed(group, expected.resolve_conj())).abs().max()) < 1e-11
    torch.testing.assert_close(log_image, log_det, rtol=0, atol=1e-11)
    if name != "U1":
        g = group.haar((20,), rng)
        image, log_image = flow(g @ p @ g.mH)
        torch.testing.assert_close(image, g @ q @ g.mH, rtol=0, atol=1e-11)
        torch.testing.assert_close(log_image, log_det, rtol=0, atol=1e-10)


def test_both_implementations_of_su2_agree(rng):
    p = SU2().haar((50,), rng)
    special_, general = bent("SU2")(p), bent("SUN2")(p)
    for a, b in zip(special_, general, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@every_case
def test_zero_coefficients_are_the_identity(name, rng):
    flow = ClassFlow(CASES[name][0], 3)
    p = flow.group.haar((10,), rng)
    q, log_det = flow(p)
    off = packed(flow.group, q) - packed(flow.group, p)
    assert float(off.detach().abs().max()) < 1e-12
    assert float(log_det.detach().abs().max()) < 1e-12


@every_case
def test_gradient_reaches_every_coefficient_and_the_element(name, rng):
    flow = bent(name).requires_grad_(True)
    group = flow.group
    p = packed(group, group.haar((3,), rng)).requires_grad_()
    q, log_det = flow(group.unpack(p.unsqueeze(-1))[0])
    ((1 + torch.arange(3)) * (re_trace(group, q) + log_det)).sum().backward()
    assert bool((flow.coefficients.grad.abs() > 1e-8).all())
    assert bool(torch.isfinite(p.grad).all()) and float(p.grad.abs().max()) > 1e-3


def test_saved_and_loaded_map_is_bitwise_the_same(rng, tmp_path):
    flow, other = fitted("SU3"), ClassFlow(SUN(3), 6)
    torch.save(flow.state_dict(), tmp_path / "map.pt")
    other.load_state_dict(torch.load(tmp_path / "map.pt", weights_only=True))
    p = SUN(3).haar((5,), rng)
    for a, b in zip(flow(p), other(p), strict=True):
        assert torch.equal(a, b)


# -- fit -------------------------------------------------------------------------------------------


def log_weights(flow, beta, n, rng):
    p = flow.group.haar((n,), rng)
    with torch.no_grad():
        q, log_det = flow(p)
    return beta * (re_trace(flow.group, q) - 1) + log_det


def exact_log_z(name, beta):
    """Of one plaquette, open: the trivial coefficient alone."""
    if name == "U1":
        return math.log(special.ive(0, beta))
    if name in ("SU2", "SUN2"):
        return math.log(2 * special.ive(1, beta) / beta)
    # on a large torus only the trivial representation is left
    return log_z_torus("SU(3)", beta, 4096) / 4096


@every_case
def test_fit_is_almost_exact(name, rng):
    beta = CASES[name][1]
    log_w = log_weights(fitted(name), beta, 4000, rng)
    assert float(log_w.var()) < 1e-6
    assert float(log_w.exp().mean().log()) == pytest.approx(exact_log_z(name, beta), abs=1e-5)
    # at another coupling it is not
    assert float(log_weights(fitted(name, 1.05 * beta), beta, 4000, rng).var()) > 1e-4


def test_large_coupling(rng):
    log_w = log_weights(fitted("SU3", 8.0), 8.0, 2000, rng)
    assert float(log_w.var()) < 1e-5


def test_too_few_steps_are_refused(rng):
    with pytest.raises(InputError, match="raise n_steps"):
        ClassFlow(U1(), 8, n_steps=4).fit(7.0)
    assert float(log_weights(fitted("U1", 7.0, n_steps=16), 7.0, 2000, rng).var()) < 1e-5


def test_more_functions_leave_less(rng):
    residuals = [ClassFlow(SUN(3), degree).fit(6.0) for degree in (1, 2, 4, 6)]
    assert residuals == sorted(residuals, reverse=True) and residuals[0] > 1e-2 > 1e-6 > residuals[-1]


# -- quadrature ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_colors", "power", "moment"),
    # <|tr|^2k> = k! for k <= N; Catalan numbers for SU(2); and tr^N, whose mean is one
    [(1, 2, 1), (1, 8, 1), (2, 2, 1), (2, 4, 2), (2, 6, 5), (2, 8, 14), (3, 2, 1), (3, 4, 2), (3, 6, 6),
     (3, 8, 23), (4, 2, 1), (4, 4, 2), (4, 6, 6), (4, 8, 24)],
)
def test_moments_of_the_haar_measure(n_colors, power, moment):
    angles, weights = torus_grid(n_colors, 20)
    assert angles.shape[1] == n_colors and float(weights.sum()) == pytest.approx(1, abs=1e-14)
    trace = torch.polar(torch.ones_like(angles), angles).sum(1)
    assert float((weights * trace.abs() ** power).sum()) == pytest.approx(moment, abs=1e-10)
    if n_colors > 1:
        assert float(angles.sum(1).abs().max()) < 1e-13
        assert complex((weights * trace**n_colors).sum()) == pytest.approx(1, abs=1e-10)
        assert abs(complex((weights * trace).sum())) < 1e-10


def test_bad_options():
    with pytest.raises(InputError, match="gauge group"):
        ClassFlow(RealLine())
    with pytest.raises(InputError, match="degree"):
        ClassFlow(SU2(), degree=0)
    with pytest.raises(InputError, match="n_steps"):
        ClassFlow(SU2(), n_steps=0)
