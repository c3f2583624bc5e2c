"""Gradients of log q by weights and field, which path, REINFORCE and forward KL follow, of every flow."""

import pytest
import torch

from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import (
    ContinuousFlow,
    FlowModel,
    FourierFlow,
    GaussianPrior,
    GroupSweep,
    HaarPrior,
    LoopFlow,
    PlaneWaves,
    RealNVP,
    SpectralFlow,
    SplineFlow,
    SweepFlow,
    U1Flow,
)

FOUR = Lattice((4, 4))


def continuous(lattice):
    basis = PlaneWaves(lattice, fields=[(0.0, 2), ("neighbours", 2, True)], radius=1, widths=(1.5,))
    return ContinuousFlow(lattice, basis, n_nodes=3, n_steps=2)


CASES = {
    "real_nvp": (RealLine(), lambda: RealNVP(FOUR, n_layers=4, hidden=(4,), activation="tanh")),
    "spline": (RealLine(), lambda: SplineFlow(FOUR, n_layers=4)),
    "fourier": (RealLine(), lambda: FourierFlow(FOUR, m2=1.0)),
    "continuous": (RealLine(), lambda: continuous(FOUR)),
    "mixture": (U1(), lambda: U1Flow(FOUR, U1(), n_layers=4, hidden=(4,))),
    "circular_spline": (U1(), lambda: U1Flow(FOUR, U1(), n_layers=4, hidden=(4,), transform="spline")),
    "sweep": (U1(), lambda: SweepFlow(FOUR, U1())),
    "loops_su2": (SU2(), lambda: LoopFlow(FOUR, SU2(), degree=2, n_nodes=3, n_steps=2)),
    "group_sweep_su2": (SU2(), lambda: GroupSweep(FOUR, SU2(), n_nodes=3, n_steps=2)),
    "spectral_su2": (SU2(), lambda: SpectralFlow(FOUR, SU2(), n_layers=4, hidden=(4,))),
    "spectral_su3": (SUN(3), lambda: SpectralFlow(FOUR, SUN(3), n_layers=2, hidden=(4,))),
}


def model_and_field(name):
    space, make = CASES[name]
    torch.manual_seed(3)
    flow = make().double()
    rng = torch.Generator().manual_seed(4)
    size = 0.02 if name in ("continuous", "loops_su2", "group_sweep_su2") else 0.05
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype))
    prior = GaussianPrior(FOUR) if isinstance(space, RealLine) else HaarPrior(FOUR, space)
    model = FlowModel(prior, flow)
    with torch.no_grad():
        field = model.sample(3, rng)[0]
    return model, field, rng


def difference(value, step=1e-5):
    """Fourth-order finite difference at 0."""
    with torch.no_grad():
        return (8 * (value(step) - value(-step)) - (value(2 * step) - value(-2 * step))) / (12 * step)


@pytest.mark.parametrize("name", CASES)
def test_by_weights(name):
    model, field, rng = model_and_field(name)
    weights = [p for p in model.parameters() if p.requires_grad]
    ways = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in weights]
    start = [p.detach().clone() for p in weights]

    def value(t):
        for p, p_0, way in zip(weights, start, ways, strict=True):
            p.copy_(p_0 + t * way)
        return model.log_prob(field).sum()

    expected = difference(value)
    with torch.no_grad():
        value(0.0)
    found = torch.autograd.grad(model.log_prob(field).sum(), weights)
    along = sum((g * way).sum() for g, way in zip(found, ways, strict=True))
    torch.testing.assert_close(along, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_by_field(name):
    model, field, rng = model_and_field(name)
    space = model.space
    way = space.momentum(field, rng)
    expected = difference(lambda t: model.log_prob(space.evolve(field, t * way)).sum())
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (along,) = torch.autograd.grad(model.log_prob(space.evolve(field, t * way)).sum(), t)
    torch.testing.assert_close(along, expected, rtol=1e-5, atol=1e-4)
