"""L-CNN: against plain matrices, its symmetries and their controls, a loop by hand, other lattices."""

from itertools import combinations

import pytest
import torch

from lattice_lightning.exceptions import InputError
from lattice_lightning.gauge import wilson_loops
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models.lcnn import LCNN, LCNNLayer, _ridge
from lattice_lightning.testing import assert_gauge_invariant, permute_axes, reflect, translate

CASES = [
    pytest.param(U1(), (4, 4), id="U1-2d"),
    pytest.param(SU2(), (3, 3), id="SU2-2d"),
    pytest.param(SU2(), (2, 2, 2, 2), id="SU2-4d"),
    pytest.param(SUN(3), (3, 3, 3), id="SU3-3d"),
]
SYMMETRIES = ["none", "spatial", "hypercubic"]
every_case = pytest.mark.parametrize(("group", "shape"), CASES)
every_symmetry = pytest.mark.parametrize("symmetry", SYMMETRIES)


def network(group, shape, rng, **options):
    """Of order one on hot fields of this lattice."""
    made = LCNN(group, len(shape), **{"layers": (2, 3), "site_hidden": 2, "seed": 3, **options})
    made.calibrate(group.hot(Lattice(shape), 8, rng))
    return made


def matrices(group, packed):
    """Packed elements as matrices ``[batch, ..., N, N]``."""
    m = group.to_matrix(packed)
    return torch.complex(m[0], m[1]).movedim((0, 1), (-2, -1)).movedim(-3, 0)


def conjugate(group, links):
    return -links if group.name == "U(1)" else links.conj().resolve_conj()


def change(net, links, moved):
    """Largest change of the output, which is of order one."""
    with torch.no_grad():
        return float((net(moved) - net(links)).abs().max())


# -- the paper's formulas in plain matrices ------------------------------------------------------


def line(u, lattice, mu, steps):
    """Product of links along ``steps`` signed steps, ``[batch, *lattice, N, N]``."""
    one = torch.eye(u.shape[-1], dtype=u.dtype).expand(u[:, 0].shape)
    product = one
    for k in range(abs(steps)):
        if steps > 0:
            product = product @ lattice.shift(u[:, mu], mu, k)
        else:
            product = product @ lattice.shift(u[:, mu], mu, -k - 1).mH
    return product


def reference(net, links):
    """Channels of every layer, ``[label][channel]``, with their weights looked up one by one."""
    group, lattice = net.group, Lattice(links.shape[2 : 2 + net.ndim])
    u = torch.exp(1j * links)[..., None, None] if group.name == "U(1)" else links
    one = line(u, lattice, 0, 0)

    def loop(*path):
        product, position = one, [0] * lattice.ndim
        for mu, s in path:
            step = line(u, lattice, mu, s)
            for nu, x in enumerate(position):
                step = lattice.shift(step, nu, x)
            product = product @ step
            position[mu] += s
        return product

    found = []
    for label in net.corners.loops:
        if len(label) == 1:
            found.append(line(u, lattice, label[0] - 1, lattice.shape[label[0] - 1]))
            continue
        p, q = ((abs(a) - 1, 1 if a > 0 else -1) for a in label)
        found.append(loop(p, q, (p[0], -p[1]), (q[0], -q[1])))
    labels = net.corners
    current = [[w] for w in found] if labels.tied else [found]
    layers = [current]
    for layer in net.layers:
        following = []
        for number, ws in enumerate(current):
            rows = layer.transport[labels.relations[number]]
            product = layer.product[labels.classes[number]]
            moves = [(0, 0), *labels.steps]
            vs = []
            for i in range(rows.shape[1]):
                total = 0
                for path, (mu, k) in enumerate(moves):
                    along = line(u, lattice, mu, k)
                    for j, w in enumerate(ws):
                        total = total + rows[path, i, j] * (along @ lattice.shift(w, mu, k) @ along.mH)
                vs.append(total)
            lefts, rights = ([one, *part, *(w.mH for w in part)] for part in (ws, vs))
            out = []
            for i in range(len(product)):
                total = 0
                for j, a in enumerate(lefts):
                    for k, b in enumerate(rights):
                        both = 0.5 * (a @ b + b @ a) if labels.tied else a @ b
                        total = total + product[i, j, k] * both
                out.append(total)
            following.append(out)
        if labels is net.corners and labels.tied:
            # the four corners of a plane
            n = 4 * len(list(combinations(range(lattice.ndim), 2)))
            planes = [following[k : k + 4] for k in range(0, n, 4)]
            following = [[sum(ws) / 4 for ws in zip(*four, strict=True)] for four in planes] + following[n:]
        labels = net.labels
        current = following
        layers.append(current)
    return layers


@every_symmetry
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
@every_case
def test_channels_are_those_of_plain_matrices(group, shape, kernel_size, symmetry, rng):
    net = network(group, shape, rng, symmetry=symmetry, kernel_size=kernel_size)
    links = group.hot(Lattice(shape), 2, rng)
    with torch.no_grad():
        for got, expected in zip(net.channels(links), reference(net, links), strict=True):
            stacked = torch.stack([torch.stack(channels, 1) for channels in expected], 1)
            torch.testing.assert_close(matrices(group, got), stacked, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("symmetry", ["none", "spatial"])
def test_quaternions_and_matrices_agree(symmetry, rng):
    links = SU2().hot(Lattice((4, 3)), 3, rng)
    ours, general = (LCNN(group, 2, symmetry=symmetry, seed=4) for group in (SU2(), SUN(2)))
    torch.testing.assert_close(ours(links), general(links), rtol=1e-11, atol=1e-11)


def test_two_by_one_rectangle_by_hand(rng):
    """P(x) times the plaquette of the next site, transported back, is the 2 x 1 rectangle."""
    group, lattice = SUN(3), Lattice((4, 3))
    net = LCNN(group, 2, layers=(1,), symmetry="none", polyakov=False)
    layer = net.layers[0]
    with torch.no_grad():
        layer.transport.zero_()
        layer.product.zero_()
        # one step ahead along x is the first of the transports; unit, W, W^dag
        assert net.labels.steps[0] == (0, 1)
        layer.transport[1] = 1
        layer.product[0, 0, 1, 1] = 1
        links = group.hot(lattice, 5, rng)
        rectangles = wilson_loops(group, lattice, group.pack(links), 2, 1) / 3
        plaquettes = wilson_loops(group, lattice, group.pack(links), 1, 1) / 3
        expected = torch.stack([plaquettes.mean((0, 1, 2)), rectangles.mean((0, 1, 2))], 1)
        torch.testing.assert_close(net.pooled(links), expected, rtol=0, atol=1e-13)


# -- symmetries ----------------------------------------------------------------------------------


@every_symmetry
@every_case
def test_channels_are_gauge_covariant(group, shape, symmetry, rng):
    lattice = Lattice(shape)
    net = network(group, shape, rng, symmetry=symmetry)
    links, g = group.hot(lattice, 2, rng), group.haar((2, *shape), rng)
    rotation = torch.exp(1j * g)[..., None, None] if group.name == "U(1)" else g
    rotation = rotation[:, None, None]
    with torch.no_grad():
        pairs = zip(net.channels(group.transform(links, g, lattice)), net.channels(links), strict=True)
        for moved, channels in pairs:
            expected = rotation @ matrices(group, channels) @ rotation.mH
            torch.testing.assert_close(matrices(group, moved), expected, rtol=1e-10, atol=1e-10)
    assert_gauge_invariant(net, group, lattice, rng)


def test_channels_shifted_without_transport_are_caught(rng, monkeypatch):
    net = network(SU2(), (4, 4), rng)
    monkeypatch.setattr(
        LCNNLayer,
        "_transported",
        lambda self, links, w, lattice, mu, ahead: lattice.shift_packed(w, mu, 1 if ahead else -1),
    )
    with pytest.raises(AssertionError, match="gauge invariance"):
        assert_gauge_invariant(net, SU2(), Lattice((4, 4)), rng, tolerance=1e-3)


@every_symmetry
@every_case
def test_translations_and_charge_conjugation(group, shape, symmetry, rng):
    lattice = Lattice(shape)
    net, links = network(group, shape, rng, symmetry=symmetry), group.hot(lattice, 3, rng)
    for mu in range(lattice.ndim):
        assert change(net, links, translate(lattice, links, mu)) < 1e-10
    assert change(net, links, conjugate(group, links)) < 1e-10
    # the control: another field
    assert change(net, links, group.hot(lattice, 3, rng)) > 0.1


@pytest.mark.parametrize("group", [U1(), SUN(3)], ids=["U1", "SU3"])
def test_imaginary_traces_are_odd_under_charge_conjugation(group, rng):
    net = network(group, (4, 4), rng, symmetry="none", c_even=False, site_hidden=0)
    links = group.hot(Lattice((4, 4)), 3, rng)
    with torch.no_grad():
        one, other = net.pooled(links), net.pooled(conjugate(group, links))
    signs = (other / one).round()
    torch.testing.assert_close(other, signs * one, rtol=0, atol=1e-11)
    # real and imaginary part of each channel
    assert (signs[0] == 1).sum() == (signs[0] == -1).sum() == one.shape[1] // 2
    assert change(net, links, conjugate(group, links)) > 1e-2


def rotations(group, lattice, links):
    """Name, and links, of every reflection and exchange of axes."""
    for mu in range(lattice.ndim):
        yield ("reflection", mu), reflect(group, lattice, links, mu)
    for a, b in combinations(range(lattice.ndim), 2):
        order = list(range(lattice.ndim))
        order[a], order[b] = b, a
        yield ("exchange", a, b), permute_axes(lattice, links, order)


@every_symmetry
@every_case
def test_rotations_and_reflections(group, shape, symmetry, rng):
    lattice = Lattice(shape)
    net, links = network(group, shape, rng, symmetry=symmetry, kernel_size=3), group.hot(lattice, 3, rng)
    for (kind, *axes), moved in rotations(group, lattice, links):
        time = kind == "exchange" and lattice.ndim - 1 in axes
        found = change(net, links, moved)
        if symmetry == "none" or (symmetry == "spatial" and time):
            assert found > 1e-3, (kind, axes)
        else:
            assert found < 1e-10, (kind, axes)


def test_products_in_one_order_break_reflections(rng, monkeypatch):
    group, lattice = SU2(), Lattice((3, 3, 3))
    net, links = network(group, lattice.shape, rng, layers=(3, 3, 3)), group.hot(lattice, 3, rng)
    reflected = reflect(group, lattice, links, 0)
    assert change(net, links, reflected) < 1e-10

    def summed(self, factors, mixed):
        c = self.group.n_component_dims
        n = factors.shape[c + 1]
        return mixed.select(c + 1, 0) + self.group.mul(factors, mixed.narrow(c + 1, 1, n)).sum(c + 1)

    monkeypatch.setattr(LCNNLayer, "_summed", summed)
    assert change(net, links, reflected) > 1e-4


# -- lattices, weights, files --------------------------------------------------------------------


@every_symmetry
@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=["U1", "SU2", "SU3"])
def test_a_periodic_copy_on_a_larger_lattice_gives_the_same(group, symmetry, rng):
    small = Lattice((3, 2))
    net = network(group, small.shape, rng, symmetry=symmetry, polyakov=False, kernel_size=3)
    links = group.hot(small, 2, rng)
    repeats = (1, 1, 2, 3, *[1] * (links.ndim - 4))
    assert change(net, links, links.repeat(repeats)) < 1e-10
    # a Polyakov loop that winds twice is another number
    net = network(group, small.shape, rng, symmetry=symmetry)
    assert change(net, links, links.repeat(repeats)) > 1e-3


@every_symmetry
@every_case
def test_gradients_reach_every_parameter(group, shape, symmetry, rng):
    net, links = network(group, shape, rng, symmetry=symmetry), group.hot(Lattice(shape), 4, rng)
    out = net(links)
    assert out.shape == (4,) and out.dtype == torch.float64
    out.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and bool((parameter.grad != 0).any()), name


@every_case
def test_gradient_by_the_weights_is_the_finite_difference(group, shape, rng):
    net, links = network(group, shape, rng), group.hot(Lattice(shape), 4, rng)
    for parameter in (net.layers[0].transport, net.layers[0].product):
        direction = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(net(links).sum(), parameter)
        values = {}
        with torch.no_grad():
            for t in (-2, -1, 1, 2):
                parameter.add_(direction, alpha=1e-3 * t)
                values[t] = float(net(links).sum())
                parameter.sub_(direction, alpha=1e-3 * t)
        difference = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / 12e-3
        assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-5)


def test_calibration_standardises_what_the_head_sees(rng):
    group, lattice = SU2(), Lattice((4, 4))
    links = group.hot(lattice, 20, rng)
    net = LCNN(group, 2, symmetry="hypercubic")
    net.calibrate(links, batch_size=7)
    with torch.no_grad():
        seen = (net.pooled(links) - net.center) / net.scale
        assert float(seen.mean(0).abs().max()) < 1e-9
        assert float((seen.std(0) - 1).abs().max()) < 1e-9
        assert 0.05 < float(net(links).std()) < 5
    # a label in the span of what is seen is met at the start
    label = 3 + 2 * seen[:, 1] - seen[:, 4]
    net.calibrate(links, label)
    with torch.no_grad():
        torch.testing.assert_close(net(links), label, rtol=0, atol=1e-6)
    # fields that never vary leave the scale alone instead of blowing up their rounding
    net.calibrate(group.cold(lattice, 4))
    assert float((net.scale - 1).abs().max()) == 0


def test_the_start_does_not_fit_noise(rng):
    """Half as many weights as rows: plain least squares would double the error, the ridge hardly adds any."""
    x = torch.randn(400, 100, generator=rng, dtype=torch.float64)
    signal, noise = x[:, 0], torch.randn(400, generator=rng, dtype=torch.float64)
    x, new = x[:200] - x[:200].mean(0), x[200:]

    def error(weights, truth):
        return float((new @ weights - truth).square().mean())

    pure = noise[:200] - noise[:200].mean()
    assert error(_ridge(x, pure), 0) < 0.2 < 0.5 < error(torch.linalg.lstsq(x, pure[:, None])[0][:, 0], 0)
    clean = signal[:200] - signal[:200].mean()
    assert error(_ridge(x, clean), signal[200:]) < 1e-6


@every_symmetry
def test_weights_come_back_from_a_file(symmetry, rng, tmp_path):
    group, shape = SU2(), (4, 4)
    net, links = network(group, shape, rng, symmetry=symmetry), group.hot(Lattice(shape), 3, rng)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    other = LCNN(group, 2, layers=(2, 3), site_hidden=2, symmetry=symmetry, seed=9)
    assert change(other, links, links) == 0 and not torch.equal(other(links), net(links))
    other.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    assert torch.equal(other(links), net(links))


def test_weights_follow_from_the_seed_and_not_from_the_global_state():
    before = torch.get_rng_state()
    first, second, other = (LCNN(SU2(), 2, site_hidden=2, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["layers.0.product"], other["layers.0.product"])


def test_bad_input(rng):
    with pytest.raises(InputError, match="reads gauge links, got a field of"):
        LCNN(RealLine())
    with pytest.raises(InputError, match="symmetry must be one of none, spatial, hypercubic, got 'cubic'"):
        LCNN(SU2(), symmetry="cubic")
    for wrong in ({"ndim": 5}, {"kernel_size": 0}, {"layers": (2, 0)}, {"site_hidden": -1}):
        with pytest.raises(InputError, match="expected ndim 2, 3 or 4, kernel_size >= 1"):
            LCNN(SU2(), **wrong)
    with pytest.raises(InputError, match="c_even=False goes with symmetry=none"):
        LCNN(SUN(3), c_even=False)
    net = LCNN(SU2(), 2)
    with pytest.raises(InputError, match=r"expected SU\(2\) links .* in 2 dimensions, got a tensor"):
        net(SU2().hot(Lattice((2, 2, 2)), 1, rng))
    with pytest.raises(InputError, match=r"SU\(2\) on the lattice \(3, 3\) needs complex links"):
        net(SUN(3).hot(Lattice((3, 3)), 1, rng))
