"""What every flow of scalars owes: inverse, Jacobian, gradients, symmetries, volumes, precision."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations, product

import pytest
import torch

from lattice_lightning.actions import ONPhi4, Phi4
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import (
    AffineCoupling,
    Checkerboard,
    ConvNet,
    FlowModel,
    FourierFlow,
    GaussianPrior,
    RealNVP,
    Scaling,
    SplineCoupling,
    SplineFlow,
    Stripes,
)
from lattice_lightning.models.masks import alternating_masks
from lattice_lightning.testing import assert_jacobian


@dataclass(frozen=True)
class Case:
    """A flow, the lattice that it is tested on, its mask, and lattices that it must refuse."""

    name: str
    make: Callable
    shape: tuple[int, ...]
    components: int | None = None
    mask: object = None
    refuses: tuple[tuple[int, ...], ...] = ()

    @property
    def lattice(self):
        return Lattice(self.shape)

    @property
    def space(self):
        return RealLine(self.components)

    def flow(self, seed=5, scale=0.3):
        """With parameters far from the identity."""
        flow = self.make(self.lattice, self.space)
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in flow.parameters():
                p.copy_(scale * torch.randn(p.shape, generator=rng, dtype=torch.float64))
        return flow

    def field(self, rng, n=3):
        return self.space.hot(self.lattice, n, rng)


def affine(mask, **options):
    return lambda lattice, space: AffineCoupling(lattice, space, mask, hidden=(4,), **options)


def spline(mask, **options):
    return lambda lattice, space: SplineCoupling(lattice, space, mask, bins=4, interval=2.0, hidden=(4,), **options)


def nvp(**options):
    return lambda lattice, space: RealNVP(lattice, space, n_layers=4, hidden=(4,), init_scale=0.0, **options)


def splines(**options):
    return lambda lattice, space: SplineFlow(
        lattice, space, n_layers=2, bins=4, interval=2.0, hidden=(4,), scale=1.0, init_scale=0.0, **options
    )


EVEN, ODD = Checkerboard(0), Checkerboard(1)
STRIPES, WIDE = Stripes(1, 1), Stripes(0, 2, period=4)
CASES = [
    Case("affine", affine(EVEN), (4, 4), mask=EVEN, refuses=((5, 4), (4, 4, 4))),
    Case("affine_unbounded_silu", affine(ODD, final_tanh=False, activation="silu"), (4, 4), mask=ODD),
    Case("affine_kernel_5", affine(EVEN, kernel_size=5, activation="tanh"), (4, 6), mask=EVEN),
    Case("affine_stripes", affine(STRIPES), (4, 4), mask=STRIPES, refuses=((4, 5),)),
    Case("affine_wide_stripes", affine(WIDE), (4, 3), mask=WIDE, refuses=((6, 4),)),
    Case("affine_3d", affine(ODD), (4, 2, 2), mask=ODD, refuses=((4, 4, 3), (4, 4))),
    Case("affine_4d", affine(EVEN), (2, 2, 4, 2), mask=EVEN, refuses=((2, 2, 2, 3),)),
    Case("affine_o3", affine(EVEN), (4, 4), components=3, mask=EVEN),
    Case("affine_z2", affine(EVEN, z2=True), (4, 4), mask=EVEN),
    Case("affine_z2_o2", affine(ODD, z2=True, final_tanh=False), (4, 4), components=2, mask=ODD),
    Case("spline", spline(EVEN), (4, 4), mask=EVEN, refuses=((5, 4),)),
    Case("spline_stripes_3d", spline(STRIPES), (2, 4, 3), mask=STRIPES, refuses=((2, 3, 4),)),
    Case("spline_4d", spline(ODD), (2, 2, 2, 4), mask=ODD),
    Case("spline_o2", spline(ODD), (4, 4), components=2, mask=ODD),
    Case("real_nvp", nvp(), (4, 4), mask=EVEN, refuses=((4, 5), (4, 4, 4))),
    Case("real_nvp_z2_3d", nvp(z2=True), (4, 4, 2), mask=EVEN),
    Case("real_nvp_scaling_o2", nvp(scale=1.0), (4, 4), components=2, mask=EVEN),
    Case("spline_flow", splines(), (4, 4), mask=EVEN, refuses=((5, 4),)),
    Case("fourier", FourierFlow, (4, 6), refuses=((6, 4), (4, 4), (4, 4, 4))),
    Case("fourier_o2", FourierFlow, (3, 3), components=2, refuses=((4, 4),)),
    Case("fourier_3d", FourierFlow, (4, 3, 4), refuses=((4, 4, 3),)),
    Case("fourier_4d", FourierFlow, (2, 3, 2, 2), refuses=((2, 2, 2, 2),)),
    Case("scaling", Scaling, (4, 3)),
    Case("scaling_o2", Scaling, (4, 4), components=2),
]
every_flow = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


@every_flow
def test_inverse(case, rng):
    flow, z = case.flow(), case.field(rng)
    with torch.no_grad():
        x, log_det = flow(z)
        back, minus = flow.inverse(x)
    case.space.check_field(x, case.lattice)
    assert x.dtype == log_det.dtype == torch.float64 and log_det.shape == (3,)
    assert float((x - z).abs().max()) > 0.05 and float(log_det.abs().max()) > 1e-3
    torch.testing.assert_close(back, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(minus, -log_det, rtol=0, atol=1e-10)


@every_flow
def test_log_determinant(case, rng):
    # networks in double precision: autograd's Jacobian is no better than they are
    flow, z = case.flow().double().requires_grad_(False), case.field(rng, 1)
    assert_jacobian(flow, z)


def test_wrong_log_determinant_is_noticed(rng):
    flow, z = CASES[0].flow().double().requires_grad_(False), CASES[0].field(rng, 1)
    with pytest.raises(AssertionError, match="log-determinant"):
        assert_jacobian(lambda y: (flow(y)[0], 0.99 * flow(y)[1]), z)


@every_flow
def test_gradient_reaches_every_parameter(case, rng):
    flow, z = case.flow(), case.field(rng, 16)
    x, log_det = flow(z)
    weight = torch.randn(x.shape, generator=rng, dtype=torch.float64)
    ((weight * x).sum() + log_det.sum()).backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert bool((parameter.grad.abs() > 1e-7).all()), f"{name}: {parameter.grad}"


@every_flow
def test_identity_at_neutral_parameters(case, rng):
    flow, z = case.make(case.lattice, case.space), case.field(rng)
    with torch.no_grad():
        x, log_det = flow(z)
    torch.testing.assert_close(x, z, rtol=0, atol=1e-14)
    assert float(log_det.abs().max()) < 1e-12


@every_flow
def test_saved_and_loaded_flow_is_bitwise_the_same(case, rng, tmp_path):
    flow, z = case.flow(), case.field(rng)
    torch.save(flow.state_dict(), tmp_path / "flow.pt")
    other = case.flow(seed=6)
    with torch.no_grad():
        assert not torch.equal(other(z)[0], flow(z)[0])
        other.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True))
        for a, b in zip(other(z), flow(z), strict=True):
            assert torch.equal(a, b)


@every_flow
def test_chains_do_not_mix(case, rng):
    flow, z = case.flow().double(), case.field(rng)
    with torch.no_grad():
        x, log_det = flow(z)
        alone, log_det_alone = flow(z[1:2])
    torch.testing.assert_close(alone, x[1:2], rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det_alone, log_det[1:2], rtol=0, atol=1e-12)


@every_flow
def test_single_precision_networks_give_log_q_in_double(case, rng):
    """What exactness needs of a flow that was trained in single precision."""
    model = FlowModel(GaussianPrior(case.lattice, case.space), case.flow())
    with torch.no_grad():
        field, log_q = model.sample(16, rng)
        assert field.dtype == log_q.dtype == torch.float64
        torch.testing.assert_close(model.log_prob(field), log_q, rtol=0, atol=1e-10)
        single, log_q = model.sample(16, rng, dtype=torch.float32)
        assert single.dtype == log_q.dtype == torch.float32
        torch.testing.assert_close(model.log_prob(single.double()).float(), log_q, rtol=0, atol=0.05)


# -- symmetries --------------------------------------------------------------------------------------


def reflect(field, axis):
    return torch.roll(torch.flip(field, (1 + axis,)), 1, 1 + axis)


def elements(case, name):
    """All elements of a symmetry (generators of the translations), as maps of fields."""
    lattice, d = case.lattice, case.lattice.ndim
    axes = tuple(range(1, 1 + d))
    steps = []
    if name == "mask_translations":
        steps = case.mask.translations(lattice) if case.mask else []
    if name == "translations":
        steps = [tuple(int(mu == nu) for nu in range(d)) for mu in range(d)]
    moves = [lambda f, s=s: torch.roll(f, s, axes) for s in steps]
    if name == "reflections":
        moves = [lambda f, a=a: reflect(f, a) for a in range(d)]
    if name == "axis_permutations":
        orders = [o for o in permutations(range(d)) if tuple(lattice.shape[a] for a in o) == lattice.shape]
        tail = () if case.components is None else (1 + d,)
        moves = [lambda f, o=o: f.permute(0, *(1 + a for a in o), *tail) for o in orders if o != tuple(range(d))]
    if name == "z2":
        moves = [lambda f: -f]
    if name == "rotations" and case.components:
        rotation, _ = torch.linalg.qr(torch.randn(case.components, case.components, dtype=torch.float64))
        moves = [lambda f: f @ rotation]
    if name == "constant_shift":
        moves = [lambda f: f + 0.5]
    return moves


def violation(flow, field, move):
    with torch.no_grad():
        x, log_det = flow(field)
        moved, log_det_moved = flow(move(field))
        return max(float((moved - move(x)).abs().max()), float((log_det - log_det_moved).abs().max()))


SYMMETRIES = ["mask_translations", "translations", "reflections", "axis_permutations", "z2", "rotations"]


@every_flow
def test_declared_symmetries_hold_and_others_do_not(case, rng):
    flow, field = case.flow(scale=0.5).double(), case.field(rng)
    assert flow.symmetries and set(flow.symmetries) <= set(SYMMETRIES)
    broken = []
    for name in [*SYMMETRIES, "constant_shift"]:
        worst = [violation(flow, field, move) for move in elements(case, name)]
        if name in flow.symmetries:
            assert max(worst, default=0.0) < 1e-11, (name, worst)
        elif name != "mask_translations" and worst:
            # reflections of extents of two and the like are no motions at all
            broken.append(name)
            assert max(worst) > 1e-3, (name, worst)
    assert broken


@every_flow
def test_weights_on_a_larger_lattice(case, rng):
    """On copies of a field side by side the flow does what it did on one."""
    flow, field = case.flow().double(), case.field(rng)
    if isinstance(flow, FourierFlow):
        return
    shape = (2 * case.shape[0], *case.shape[1:-1], 3 * case.shape[-1])
    large = flow.on(Lattice(shape))
    tile = [1] * field.ndim
    tile[1], tile[case.lattice.ndim] = 2, 3
    with torch.no_grad():
        x, log_det = flow(field)
        tiled, log_det_tiled = large(field.repeat(tile))
    assert flow.lattice == case.lattice and large.lattice == Lattice(shape)
    torch.testing.assert_close(tiled, x.repeat(tile), rtol=0, atol=1e-11)
    torch.testing.assert_close(log_det_tiled, 6 * log_det, rtol=0, atol=1e-10)
    with torch.no_grad():
        for p in large.parameters():
            p.zero_()
    assert all(bool((p != 0).any()) for p in flow.parameters())


@pytest.mark.parametrize(
    "case, shape", [(c, s) for c in CASES for s in c.refuses], ids=lambda v: getattr(v, "name", str(v))
)
def test_lattices_that_do_not_fit_are_refused(case, shape):
    flow = case.flow()
    with pytest.raises(InputError):
        flow.on(Lattice(shape))
    assert flow.lattice == case.lattice


# -- masks and networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [EVEN, ODD, STRIPES, WIDE], ids=str)
def test_masks(mask):
    lattice = Lattice((4, 6))
    active = mask.active(lattice)
    expected = torch.tensor(
        [
            [(x + y) % 2 == mask.parity if isinstance(mask, Checkerboard) else (x, y)[mask.axis] % mask.period == mask.offset for y in range(6)]
            for x in range(4)
        ]
    )
    assert torch.equal(active, expected)
    assert torch.equal(mask.sites(lattice), active.flatten().nonzero().squeeze(1))
    # the translations named are all there are
    reached, frontier = {(0, 0)}, [(0, 0)]
    while frontier:
        here = frontier.pop()
        for step in mask.translations(lattice):
            there = tuple((a + b) % e for a, b, e in zip(here, step, lattice.shape, strict=True))
            if there not in reached:
                reached.add(there)
                frontier.append(there)
    invariant = {s for s in product(range(4), range(6)) if torch.equal(torch.roll(active, s, (0, 1)), active)}
    assert reached == invariant


@pytest.mark.parametrize("kind", ["checkerboard", "stripes", "mixed"])
def test_alternating_masks_move_every_site_equally_often(kind):
    lattice = Lattice((4, 4, 6))
    moved = sum(mask.active(lattice).int() for mask in alternating_masks(kind, 12, 3))
    assert torch.equal(moved, torch.full(lattice.shape, 6, dtype=moved.dtype))


def test_mask_made_in_inference_mode_can_train(rng):
    lattice = Lattice((6, 2))
    flow = AffineCoupling(lattice, None, Stripes(0, 2, 3))
    with torch.inference_mode():
        flow(torch.zeros(1, 6, 2))
    flow(torch.ones(1, 6, 2, dtype=torch.float64))[1].sum().backward()


def test_convolution_in_four_dimensions(rng):
    """Against the sum over neighbours, written out."""
    shape = (3, 2, 4, 2)
    net = ConvNet(4, 2, 3, hidden=(), dtype=torch.float64, rng=rng)
    field = torch.randn(2, 2, *shape, generator=rng, dtype=torch.float64)
    weight, bias = net.net[0].weight, net.net[0].bias
    expected = bias.reshape(1, 3, 1, 1, 1, 1).expand(2, 3, *shape)
    for offset in product(range(3), repeat=4):
        neighbour = torch.roll(field, [1 - o for o in offset], (2, 3, 4, 5))
        expected = expected + torch.einsum("oi,bixyzt->boxyzt", weight[(slice(None), slice(None), *offset)], neighbour)
    torch.testing.assert_close(net(field), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2), (2, 2, 3, 2)])
def test_derivatives_of_the_convolution(shape, rng):
    """First and second, by the field and by the weights; its backward pass is written by hand."""
    net = ConvNet(len(shape), 1, 2, hidden=(), dtype=torch.float64, rng=rng).net[0]
    inputs = [torch.randn(1, 1, *shape, generator=rng, dtype=torch.float64), net.weight.detach(), net.bias.detach()]
    inputs = [t.requires_grad_() for t in inputs]

    def function(x, weight, bias):
        return torch.func.functional_call(net, {"weight": weight, "bias": bias}, (x,)).square()

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_bad_arguments():
    lattice = Lattice((4, 4))
    with pytest.raises(InputError, match=r"real scalar fields, got a field of SU\(2\)"):
        RealNVP(lattice, SU2())
    with pytest.raises(InputError, match="odd extent, got 4"):
        AffineCoupling(lattice, None, EVEN, kernel_size=4)
    with pytest.raises(InputError, match="extents of at least 5"):
        AffineCoupling(lattice, None, EVEN, kernel_size=11)
    with pytest.raises(InputError, match="activation is one of"):
        RealNVP(lattice, activation="step")
    with pytest.raises(InputError, match="mask is one of checkerboard, stripes, mixed, got 'random'"):
        RealNVP(lattice, mask="random")
    with pytest.raises(InputError, match="extent 1 of"):
        RealNVP(Lattice((4, 5)))
    with pytest.raises(InputError, match="at least 2, got 1"):
        RealNVP(lattice, n_layers=1)
    with pytest.raises(InputError, match="2, 3 and 4 dimensions, got 1"):
        ConvNet(1, 1, 1)
    with pytest.raises(InputError, match="parity"):
        Checkerboard(2)
    with pytest.raises(InputError, match="offset < period"):
        Stripes(0, 2, 2)
    with pytest.raises(InputError, match="at least 2 bins"):
        SplineCoupling(lattice, None, EVEN, bins=1)
    with pytest.raises(InputError, match="scale must be positive"):
        Scaling(lattice, scale=0.0)
    assert EVEN.fits(lattice) and not WIDE.fits(Lattice((6, 4)))


# -- training ----------------------------------------------------------------------------------------

THEORIES = {
    "phi4_2d": lambda: Phi4(Lattice((4, 4)), -4.0, 8.0),
    "phi4_3d": lambda: Phi4(Lattice((2, 2, 4)), -4.0, 5.1),
    "phi4_4d": lambda: Phi4(Lattice((2, 2, 2, 2)), -4.0, 5.0),
    "o2_2d": lambda: ONPhi4(Lattice((4, 4)), 2, -2.0, 4.0),
}
RECIPES = {
    "real_nvp": lambda lattice, space, rng: RealNVP(lattice, space, n_layers=4, rng=rng),
    "spline_flow": lambda lattice, space, rng: SplineFlow(lattice, space, n_layers=4, rng=rng),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("theory", THEORIES)
def test_a_few_steps_lower_the_reverse_kl(theory, recipe, rng):
    action = THEORIES[theory]()
    model = FlowModel(
        GaussianPrior(action.lattice, action.space), RECIPES[recipe](action.lattice, action.space, rng)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)

    def losses(n, seed=None, dtype=torch.float64):
        generator = rng if seed is None else torch.Generator().manual_seed(seed)
        field, log_q = model.sample(n, generator, dtype)
        return log_q + action.energy(field)

    with torch.no_grad():
        before = losses(256, seed=1)
    for _ in range(12):
        optimizer.zero_grad()
        losses(32, dtype=torch.float32).mean().backward()
        optimizer.step()
    with torch.no_grad():
        gain = before - losses(256, seed=1)
    assert float(gain.mean()) > 5 * float(gain.std()) / 16
