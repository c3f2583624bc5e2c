"""Gradients of Wilson loops: against loops of matrices, divergences, regression rows, symmetries."""

import pytest
import torch

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import FlowModel, HaarPrior, LoopFlow, LoopVelocity
from lattice_lightning.models.plaquette_chain import ChainVelocity
from lattice_lightning.models.plaquette_potential import LOOPS
from lattice_lightning.testing import (
    assert_charge_conjugation,
    assert_gauge_covariant,
    assert_gauge_invariant,
    assert_rotation_covariant,
    assert_translation_covariant,
    permute_axes,
    reflect,
    translate,
)

GROUPS = {"U1": U1(), "SU2": SU2(), "SUN2": SUN(2), "SU3": SUN(3)}
N_REST = 4
KINDS = ("lattice", "open", "ring")


def make(kind, group):
    degree, pair_degree = (2, 3) if kind == "open" or group.name == "SU(3)" else (4, 4)
    if kind == "lattice":
        return LoopVelocity(Lattice((3, 4)), group, degree, pair_degree)
    return ChainVelocity(Lattice((2, 6 if kind == "open" else N_REST)), group, N_REST, degree, pair_degree)


@pytest.fixture(params=[(k, g) for k in KINDS for g in GROUPS], ids=lambda p: f"{p[0]}-{p[1]}")
def case(request):
    kind, name = request.param
    return kind, make(kind, GROUPS[name])


def units(basis):
    return torch.eye(basis.n_features, dtype=torch.float64)


def public_velocity(basis, kind, links, theta):
    """v in the layout of a force, and the divergence."""
    v, divergence = basis.velocity(basis.start(links), theta)
    if kind == "lattice":
        return basis.group.unpack_algebra(v), divergence
    shape = (*basis.group.site_shape(links), basis.group.n_generators)
    full = torch.zeros(shape, dtype=torch.float64)
    for place, y in enumerate(basis.sites):
        # the site above an open chain is at rest
        full[:, 0, -1, y] += v[:, place].movedim(0, -1)
    return full, divergence


# -- values, from products of matrices -------------------------------------------------------------


def terms(basis, kind, links):
    """Every W_i by its places, ``[features, places, batch]``, written with matrices."""
    group = basis.group
    u = torch.exp(1j * links)[..., None, None] if group.n_colors == 1 else links
    ux, uy = u[:, 0], u[:, 1]

    def at(x, dx, dy):
        return torch.roll(x, (-dx, -dy), (1, 2))

    def normal(x):
        return x.diagonal(dim1=-2, dim2=-1).sum(-1) / group.n_colors

    plaquette = ux @ at(uy, 1, 0) @ at(ux, 0, 1).mH @ uy.mH
    p = normal(plaquette)
    # the loops that go round P(n - y) and P(n - x), from n
    below = at(uy, 0, -1).mH @ at(ux, 0, -1) @ at(uy, 1, -1) @ ux.mH
    left = uy @ at(ux, -1, 1).mH @ at(uy, -1, 0).mH @ at(ux, -1, 0)
    directions = [(below, at(p, 0, -1))] + ([(left, at(p, -1, 0))] if kind == "lattice" else [])

    def power(z, m):
        return z.real ** m[0] * z.imag ** m[1]

    singles = [power(p, m) for m in basis.potential.monomials]
    doubles = []
    for one, other in basis.potential.pairs:
        total = sum(power(p, one) * power(q, other) for _, q in directions)
        if one != other:
            total = total + sum(power(p, other) * power(q, one) for _, q in directions)
        doubles.append(total)
    if basis.loops:
        doubles.append(sum(normal(plaquette @ loop).real for loop, _ in directions))
        doubles.append(sum(normal(plaquette @ loop.mH).real for loop, _ in directions))
    if kind == "lattice":
        return torch.stack(singles + doubles).flatten(2).transpose(1, 2)
    rows = [x[:, -1, -N_REST:].T for x in singles]
    if kind == "open":
        # the first plaquette of an open chain has no neighbour behind
        rest = [x[:, -1, -N_REST:].T * (torch.arange(N_REST) > 0)[:, None] for x in doubles]
        return torch.stack(rows + rest)
    return torch.stack(rows + [x[:, -1].T for x in doubles])


def feature_values(basis, kind, links):
    """W of every coefficient, ``[p, batch]``."""
    values = terms(basis, kind, links)
    if kind != "open":
        return values.sum(1)
    n = len(basis.potential.monomials)
    return torch.cat([values[:n].flatten(0, 1), values[n:, 1:].flatten(0, 1)])


def test_velocity_is_the_gradient_of_loops_of_matrices(case, rng):
    kind, basis = case
    group = basis.group
    links = group.hot(basis.lattice, 2, rng)
    direction = group.momentum(links, rng)
    if kind != "lattice":
        moving = torch.zeros_like(direction)
        inside = slice(-N_REST + 1, None) if kind == "open" else slice(None)
        moving[:, 0, -1, inside] = direction[:, 0, -1, inside]
        direction = moving

    def values(t):
        return feature_values(basis, kind, group.evolve(links, t * direction))

    h = 1e-3
    expected = (8 * (values(h) - values(-h)) - values(2 * h) + values(-2 * h)) / (12 * h)
    assert len(expected) == basis.n_features
    for i, theta in enumerate(units(basis)):
        v, _ = public_velocity(basis, kind, links, theta)
        found = (v * direction).flatten(1).sum(1)
        torch.testing.assert_close(found, expected[i], rtol=1e-7, atol=1e-8)
        assert float(expected[i].abs().max()) > 1e-5


def test_nothing_moves_outside_the_chain(rng):
    basis = make("open", SUN(3))
    links = basis.group.hot(basis.lattice, 2, rng)
    theta = torch.randn(basis.n_features, generator=rng, dtype=torch.float64)
    v, _ = public_velocity(basis, "open", links, theta)
    assert float(v[:, 0, -1, -N_REST + 1 :].abs().amin((0, 1)).min()) > 0
    v[:, 0, -1, -N_REST + 1 :] = 0
    assert float(v.abs().max()) == 0


def test_features_of_each_group():
    assert basis_names(U1()) == (3, 2, ()) and basis_names(SU2()) == (2, 1, LOOPS)
    assert basis_names(SUN(3)) == (3, 2, LOOPS)
    assert make("ring", SU2()).n_features == 4 + 4 + 2
    # every plaquette and every link inside has coefficients of its own
    assert make("open", SU2()).n_features == 4 * 2 + 3 * (2 + 2)


def basis_names(group):
    basis = LoopVelocity(Lattice((3, 3)), group, 2, 2)
    return len(basis.potential.monomials), len(basis.potential.pairs), basis.loops


# -- divergence and regression rows ----------------------------------------------------------------


@torch.no_grad()
def test_divergence_of_every_feature(case, rng):
    _, basis = case
    internal = basis.start(basis.group.hot(basis.lattice, 1, rng))
    v, _ = basis.velocity(internal, units(basis)[0])
    n, h = v[..., 0].numel(), 1e-4
    eye = torch.eye(n, dtype=torch.float64).reshape(*v.shape[:-1], n)
    if isinstance(basis, ChainVelocity):
        eye = eye * basis.moves(eye)
    wide = internal.expand(*internal.shape[:-1], n).contiguous()
    moved = [basis.evolve(wide, t * eye) for t in (h, -h)]
    for i, theta in enumerate(units(basis)):
        forth, back = ((basis.velocity(x, theta)[0] * eye).sum() for x in moved)
        _, divergence = basis.velocity(internal, theta)
        expected = (forth - back) / (2 * h)
        torch.testing.assert_close(divergence[0], expected, rtol=1e-6, atol=1e-6, msg=f"feature {i}")


def test_design_is_divergence_minus_force_along_every_feature(case, rng):
    _, basis = case
    internal = basis.start(basis.group.hot(basis.lattice, 3, rng))
    shape = basis.velocity(internal, units(basis)[0])[0].shape
    force = torch.randn(shape, generator=rng, dtype=torch.float64)
    design = basis.design(internal, force)
    assert design.shape == (3, basis.n_features)
    for i, theta in enumerate(units(basis)):
        b, divergence = basis.velocity(internal, theta)
        expected = divergence - (b * force).flatten(0, -2).sum(0)
        torch.testing.assert_close(design[:, i], expected, rtol=1e-11, atol=1e-11, msg=f"feature {i}")


def test_velocity_is_linear(case, rng):
    _, basis = case
    internal = basis.start(basis.group.hot(basis.lattice, 2, rng))
    theta = torch.randn(basis.n_features, generator=rng, dtype=torch.float64)
    v, divergence = basis.velocity(internal, theta)
    each = [basis.velocity(internal, unit) for unit in units(basis)]
    torch.testing.assert_close(v, sum(t * b for t, (b, _) in zip(theta, each, strict=True)))
    torch.testing.assert_close(divergence, sum(t * d for t, (_, d) in zip(theta, each, strict=True)))


def test_both_implementations_of_su2_agree(rng):
    links = SU2().hot(Lattice((3, 4)), 2, rng)
    found = []
    for group in (SU2(), SUN(2)):
        basis = make("lattice", group)
        # the general group has powers of im tr, which is zero, nowhere among its coefficients
        found.append(public_velocity(basis, "lattice", links, torch.ones(basis.n_features).double()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# -- flow ------------------------------------------------------------------------------------------


def bent(group, shape=(4, 4), n_steps=2, size=0.2, memory="store"):
    """A flow with random coefficients, two-plaquette terms included."""
    flow = LoopFlow(Lattice(shape), group, 2, 2, n_nodes=3, n_steps=n_steps, memory=memory)
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        flow.coefficients.copy_(
            size * torch.randn(flow.coefficients.shape, generator=rng, dtype=torch.float64)
        )
    return flow


every_group = pytest.mark.parametrize("name", ["U1", "SU2", "SU3"])


@every_group
def test_declared_symmetries(name, rng):
    group = GROUPS[name]
    flow, lattice = bent(group), Lattice((4, 4))
    assert set(flow.symmetries) == {
        "gauge", "translations", "rotations", "reflections", "charge_conjugation",
    }

    def image(links):
        return flow(links)[0]

    links = group.hot(lattice, 2, rng)
    with torch.no_grad():
        assert float((group.pack(image(links)) - group.pack(links)).abs().max()) > 0.03
    assert_gauge_covariant(image, group, lattice, rng, tolerance=1e-11)
    assert_translation_covariant(image, group, lattice, rng, tolerance=1e-11)
    assert_charge_conjugation(image, group, lattice, rng, tolerance=1e-11)
    # a reflection carries links' velocities from their begins to their ends, which agree to the order of
    # the integrator; exactly where links commute
    assert_rotation_covariant(image, group, lattice, rng, tolerance=1e-11 if name == "U1" else 1e-3)


@torch.no_grad()
def test_exchange_of_axes_is_exact_and_reflection_to_the_order_of_the_scheme(rng):
    group, lattice = SU2(), Lattice((4, 4))
    links, errors = group.hot(lattice, 1, rng), []
    for n_steps in (2, 4):
        flow = bent(group, n_steps=n_steps)
        image = flow(links)[0]
        exchanged = flow(permute_axes(lattice, links, (1, 0)))[0]
        torch.testing.assert_close(exchanged, permute_axes(lattice, image, (1, 0)), rtol=0, atol=1e-12)
        reflected = flow(reflect(group, lattice, links, 0))[0]
        errors.append(float((reflected - reflect(group, lattice, image, 0)).abs().max()))
    assert 10 < errors[0] / errors[1] < 30


@every_group
@torch.no_grad()
def test_density_has_the_symmetries(name, rng):
    group, lattice = GROUPS[name], Lattice((4, 4))
    model = FlowModel(HaarPrior(lattice, group), bent(group))
    links = group.hot(lattice, 2, rng)
    log_q = model.log_prob(links)
    assert float((log_q[0] - log_q[1]).abs()) > 1e-3
    conjugate = -links if name == "U1" else links.conj().resolve_conj()
    for moved in (
        translate(lattice, links, 0), translate(lattice, links, 1), permute_axes(lattice, links, (1, 0)),
        conjugate,
    ):
        torch.testing.assert_close(model.log_prob(moved), log_q, rtol=0, atol=1e-10)
    reflected = model.log_prob(reflect(group, lattice, links, 0))
    torch.testing.assert_close(reflected, log_q, rtol=0, atol=1e-10 if name == "U1" else 1e-3)
    assert_gauge_invariant(model.log_prob, group, lattice, rng, tolerance=1e-10)


@torch.no_grad()
def test_undeclared_symmetry_fails(rng):
    """Multiplying links by a sign that is no centre transformation changes plaquettes."""
    flow, group, lattice = bent(SU2()), SU2(), Lattice((4, 4))
    links = group.hot(lattice, 2, rng)
    sign = torch.ones(2, 4, 4, 1, 1, dtype=torch.float64)
    sign[0, 0, 0] = -1
    assert float((flow(sign * links)[0] - sign * flow(links)[0]).abs().max()) > 1e-2
    # a whole slice is one
    sign[0, 0] = -1
    assert float((flow(sign * links)[0] - sign * flow(links)[0]).abs().max()) < 1e-12


@every_group
def test_gradient_of_coefficients_is_the_finite_difference(name, rng):
    group = GROUPS[name]
    flow = bent(group, (3, 3))
    links = group.hot(Lattice((3, 3)), 2, rng)
    weight = torch.randn(group.pack(links).shape, generator=rng, dtype=torch.float64)

    def value():
        x, log_det = flow(links)
        return (weight * group.pack(x)).sum() + log_det.square().sum()

    (gradient,) = torch.autograd.grad(value(), flow.coefficients)
    assert bool((gradient.abs() > 1e-6).all())
    direction = torch.randn(gradient.shape, generator=rng, dtype=torch.float64)
    start = flow.coefficients.detach().clone()

    @torch.no_grad()
    def moved(t):
        flow.coefficients.copy_(start + t * direction)
        return float(value())

    h = 1e-4
    expected = (8 * (moved(h) - moved(-h)) - moved(2 * h) + moved(-2 * h)) / (12 * h)
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_gradient_of_the_field_through_loops(rng):
    """What HMC in latent space needs."""
    group, lattice = SUN(3), Lattice((3, 3))
    flow = bent(group, (3, 3)).requires_grad_(False)
    links = group.hot(lattice, 1, rng)
    direction = group.momentum(links, rng)

    def value(t):
        x, log_det = flow(group.evolve(links, t * direction))
        return log_det.sum() + x.real.square()[..., 0, 0].sum()

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(t), t)
    h = 1e-3
    with torch.no_grad():
        expected = (8 * (value(h) - value(-h)) - value(2 * h) + value(-2 * h)) / (12 * h)
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-7)


def test_memory_modes_agree(rng):
    group, found = SU2(), []
    links = group.hot(Lattice((3, 3)), 2, rng)
    for memory in ("store", "checkpoint", "adjoint"):
        flow = bent(group, (3, 3), n_steps=4, size=0.1, memory=memory)
        x, log_det = flow(links)
        loss = log_det.sum() + x.real.square()[..., 0, 0].sum()
        found.append(torch.autograd.grad(loss, flow.coefficients)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_same_coefficients_on_another_volume(rng):
    group, small = SU2(), Lattice((4, 4))
    flow = bent(group)
    large = flow.on(Lattice((8, 4)))
    assert flow.basis.lattice.shape == (4, 4)
    links = group.hot(small, 2, rng)
    x, log_det = flow(links)
    # a periodic field stays periodic, with the same divergence a site
    y, log_det_large = large(links.tile(1, 1, 2, 1, 1, 1))
    torch.testing.assert_close(y, x.tile(1, 1, 2, 1, 1, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det_large, 2 * log_det, rtol=1e-12, atol=1e-12)


def test_bad_options():
    with pytest.raises(InputError, match="two-dimensional"):
        LoopVelocity(Lattice((4, 4, 4)), SU2())
    with pytest.raises(InputError, match="at least 3"):
        LoopVelocity(Lattice((2, 4)), SU2())
    with pytest.raises(InputError, match="gauge group"):
        LoopVelocity(Lattice((4, 4)), RealLine())
    with pytest.raises(InputError, match="degree"):
        LoopVelocity(Lattice((4, 4)), SU2(), degree=0)
    with pytest.raises(InputError, match="at least 3"):
        bent(SU2()).on(Lattice((2, 4)))


def test_saved_and_loaded_is_bitwise_the_same(rng, tmp_path):
    flow, other = (LoopFlow(Lattice((3, 4)), SUN(3), degree=2, n_nodes=3, n_steps=2) for _ in range(2))
    with torch.no_grad():
        flow.coefficients.normal_(0, 0.05, generator=rng)
        torch.save(flow.state_dict(), tmp_path / "flow.pt")
        z = SUN(3).hot(flow.lattice, 2, rng)
        assert not torch.equal(other(z)[0], flow(z)[0])
        other.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True))
        assert torch.equal(other(z)[0], flow(z)[0]) and torch.equal(other(z)[1], flow(z)[1])
