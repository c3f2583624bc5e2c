"""What gauge-equivariant flows of U(1) owe: inverse, log-determinant, symmetries, gradients, files, volumes."""

from dataclasses import dataclass

import pytest
import torch
from scipy.special import ive

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, U1
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import FlowModel, HaarPrior, PlaquetteCoupling, SweepFlow, U1Flow
from lattice_lightning.models.gauge_coupling import tan_mixture
from lattice_lightning.testing import (
    assert_charge_conjugation,
    assert_gauge_covariant,
    assert_jacobian,
    translate,
)

GROUP = U1()


@dataclass(frozen=True)
class Case:
    name: str
    make: object
    shape: tuple = (4, 4)
    other: tuple = (8, 4)
    scale: float = 0.3
    steps: tuple = (4, 4)
    conjugates: bool = False

    def flow(self, seed=7):
        lattice, rng = Lattice(self.shape), torch.Generator().manual_seed(seed)
        flow = self.make(lattice).double().requires_grad_(False)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(self.scale * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
        return flow


def coupling(mu, offset, **options):
    return lambda lattice: PlaquetteCoupling(lattice, GROUP, mu, offset, hidden=(4,), **options)


CASES = [
    Case("spline", coupling(0, 1), steps=(1, 4)),
    Case("spline_rectangles", coupling(1, 2, rectangles=True), steps=(4, 1)),
    Case("mixture", coupling(1, 3, transform="mixture"), steps=(4, 1)),
    Case("mixture_rectangles", coupling(0, 0, transform="mixture", rectangles=True), steps=(1, 4)),
    Case("stack", lambda lattice: U1Flow(lattice, GROUP, n_layers=4, hidden=(4,), init_scale=0.0)),
    Case("sweep", lambda lattice: SweepFlow(lattice, GROUP), scale=0.2, conjugates=True),
    Case("sweep_odd", lambda lattice: SweepFlow(lattice, GROUP), (3, 5), (6, 4), 0.2, conjugates=True),
]
every_flow = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
couplings = pytest.mark.parametrize("case", CASES[:5], ids=lambda case: case.name)


def links(case, rng, n=3):
    return GROUP.hot(Lattice(case.shape), n, rng)


def difference(a, b):
    return float(GROUP.reunitarise(a - b).abs().max())


@every_flow
def test_inverse(case, rng):
    flow, z = case.flow(), links(case, rng)
    with torch.no_grad():
        x, log_det = flow(z)
        back, log_back = flow.inverse(x)
    GROUP.check_field(x, flow.lattice)
    assert float(x.abs().max()) <= torch.pi
    assert difference(x, z) > 0.1
    assert difference(back, z) < 1e-10
    assert float((log_det + log_back).abs().max()) < 1e-9


@every_flow
def test_log_determinant(case, rng):
    assert_jacobian(case.flow(), links(case, rng, 2))


@pytest.mark.parametrize("case", CASES[1:6:4], ids=lambda case: case.name)
def test_wrong_log_determinant_is_seen(case, rng):
    flow = case.flow()
    with pytest.raises(AssertionError, match="log-determinant"):
        assert_jacobian(lambda z: (flow(z)[0], 1.001 * flow(z)[1]), links(case, rng, 2))


@every_flow
def test_gauge_covariance(case, rng):
    flow = case.flow()
    assert_gauge_covariant(lambda z: flow(z)[0], GROUP, flow.lattice, rng)
    assert_gauge_covariant(lambda z: flow.inverse(z)[0], GROUP, flow.lattice, rng, tolerance=1e-8)


@every_flow
def test_identity_at_zero_parameters(case, rng):
    flow, z = case.make(Lattice(case.shape)), links(case, rng)
    with torch.no_grad():
        x, log_det = flow(z)
    assert difference(x, z) < 1e-13
    assert float(log_det.abs().max()) < 1e-12


@every_flow
def test_gradient_reaches_every_parameter(case, rng):
    flow, z = case.flow().requires_grad_(True), links(case, rng, 8)
    x, log_det = flow(z)
    (log_det.sum() + (x * torch.randn(x.shape, generator=rng, dtype=x.dtype)).sum()).backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert bool((parameter.grad != 0).any()), name


@every_flow
def test_saved_and_loaded_is_bitwise_the_same(case, rng, tmp_path):
    flow, other, z = case.flow(), case.flow(seed=8), links(case, rng)
    torch.save(flow.state_dict(), tmp_path / "flow.pt")
    with torch.no_grad():
        assert not torch.equal(other(z)[0], flow(z)[0])
        other.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True))
        assert torch.equal(other(z)[0], flow(z)[0])


@every_flow
def test_transfer_of_volume(case, rng):
    lattice = Lattice(case.other)
    flow = case.flow().on(lattice)
    z = GROUP.hot(lattice, 1, rng)
    with torch.no_grad():
        x, _ = flow(z)
        assert difference(flow.inverse(x)[0], z) < 1e-10
    assert difference(x, z) > 0.1
    assert_jacobian(flow, z)


@couplings
def test_translations_of_the_mask(case, rng):
    flow = case.flow().on(Lattice((8, 8)))
    z = GROUP.hot(flow.lattice, 2, rng)
    with torch.no_grad():
        for mu, step in enumerate(case.steps):
            left, right = flow(translate(flow.lattice, z, mu, step))[0], flow(z)[0]
            assert difference(left, translate(flow.lattice, right, mu, step)) < 1e-12
            if step == 4:
                left = flow(translate(flow.lattice, z, mu, 1))[0]
                assert difference(left, translate(flow.lattice, right, mu, 1)) > 0.1


@every_flow
def test_charge_conjugation(case, rng):
    flow = case.flow()
    if case.conjugates:
        assert_charge_conjugation(lambda z: flow(z)[0], GROUP, flow.lattice, rng, tolerance=1e-9)
        with torch.no_grad():
            z = links(case, rng)
            left = flow(translate(flow.lattice, z, 0))[0]
            assert difference(left, translate(flow.lattice, flow(z)[0], 0)) > 0.1
    else:
        with pytest.raises(AssertionError, match="charge conjugation"):
            assert_charge_conjugation(lambda z: flow(z)[0], GROUP, flow.lattice, rng)


@every_flow
def test_single_precision(case, rng):
    flow, z = case.make(Lattice(case.shape)), links(case, rng).float()
    assert flow(z)[0].dtype == flow(z)[1].dtype == torch.float32


def test_inverse_of_a_mixture(rng):
    x = torch.linspace(-torch.pi, torch.pi, 401, dtype=torch.float64)
    s = 2 * torch.randn(401, 3, generator=rng, dtype=torch.float64)
    y, log_derivative = tan_mixture(x, s)
    back, log_back = tan_mixture(y, s, inverse=True)
    assert float((tan_mixture(back, s)[0] - y).abs().max()) < 1e-13
    assert float((back - x).abs().max()) < 1e-10
    assert float((log_derivative + log_back).abs().max()) < 1e-9


def exact_log_weights(beta, harmonics_of, rng):
    """log w of a sweep with the potential beta cos P, without training."""
    lattice = Lattice((4, 4))
    flow = SweepFlow(lattice, GROUP, bins=24)
    with torch.no_grad():
        flow.plaquette[0] = harmonics_of / 10
        x, log_q = FlowModel(HaarPrior(lattice, GROUP), flow).sample(4096, rng)
    plaquettes = x[:, 0] + lattice.shift(x[:, 1], 0) - lattice.shift(x[:, 0], 1) - x[:, 1]
    return beta * (plaquettes.cos() - 1).flatten(1).sum(1) - log_q


def test_sweep_contains_the_exact_solution(rng):
    beta = 3.0
    log_w = exact_log_weights(beta, beta, rng)
    n = torch.arange(-30, 31).abs()
    exact = torch.from_numpy(ive(n.numpy(), beta) ** 16).sum().log()
    assert float(log_w.std()) < 0.1
    # the median, since rare draws from the floor of the density have tiny weights
    assert float(log_w.median()) == pytest.approx(float(exact), abs=0.02)
    assert float(exact_log_weights(beta, 0.9 * beta, rng).std()) > 0.3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: U1Flow(Lattice((4, 6)), GROUP), "multiple of 4, got 6"),
        (lambda: U1Flow(Lattice((4, 4)), SU2()), r"for U\(1\), got SU"),
        (lambda: PlaquetteCoupling(Lattice((4, 4)), GROUP, 2, 0), "mu = 0 or 1"),
        (lambda: PlaquetteCoupling(Lattice((4, 4)), GROUP, 0, 0, "affine"), "mixture or spline"),
        (lambda: U1Flow(Lattice((4, 4)), GROUP, n_layers=2).on(Lattice((4, 5))), "multiple of 4, got 5"),
        (lambda: SweepFlow(Lattice((4, 4, 4)), GROUP), "two dimensions"),
        (lambda: SweepFlow(Lattice((4, 4)), SU2()), "for U"),
        (lambda: SweepFlow(Lattice((4, 4)), GROUP, harmonics=0), "harmonics"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(InputError, match=message):
        make()
