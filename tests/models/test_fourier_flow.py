"""The linear flow in momentum space: exact for free fields, and trainable to that."""

from itertools import permutations, product

import pytest
import torch

from lattice_lightning.actions import GaussianAction, ONPhi4, Phi4, free_kernel
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import FlowModel, FourierFlow, GaussianPrior
from lattice_lightning.models.fourier_flow import momentum_orbits

SHAPES = [(8, 8), (4, 6), (5, 3), (4, 4, 6), (3, 4, 4, 2)]


def log_weights(action, flow, rng, n=64):
    model = FlowModel(GaussianPrior(action.lattice, action.space), flow)
    with torch.no_grad():
        field, log_q = model.sample(n, rng)
        return -action.energy(field) - log_q


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("m2", [0.01, 1.0])
def test_free_field_is_exact(shape, m2, rng):
    lattice = Lattice(shape)
    action = Phi4(lattice, m2, 0.0)
    log_w = log_weights(action, FourierFlow(lattice, m2=m2), rng)
    assert float(log_w.var()) < 1e-20
    log_z = GaussianAction(lattice, free_kernel(lattice, m2)).log_z
    torch.testing.assert_close(log_w, torch.full_like(log_w, log_z), rtol=0, atol=1e-10)
    # the free field of another mass is not
    assert float(log_weights(action, FourierFlow(lattice, m2=1.3 * m2), rng).var()) > 1e-3


def test_free_field_of_several_components_is_exact(rng):
    lattice = Lattice((4, 4))
    action = ONPhi4(lattice, 3, 0.7, 0.0)
    log_w = log_weights(action, FourierFlow(lattice, action.space, m2=0.7), rng)
    assert float(log_w.var()) < 1e-20
    log_z = GaussianAction(lattice, free_kernel(lattice, 0.7)).log_z
    assert float(log_w[0]) == pytest.approx(3 * log_z, abs=1e-10)


def test_any_gaussian_with_the_lattice_symmetries_is_solved(rng):
    lattice = Lattice((4, 6))
    orbits = momentum_orbits(lattice)
    kernel = (0.1 + torch.rand(int(orbits.max()) + 1, generator=rng, dtype=torch.float64))[orbits]
    action, flow = GaussianAction(lattice, kernel), FourierFlow(lattice)
    flow.solve(kernel)
    log_w = log_weights(action, flow, rng)
    assert float(log_w.var()) < 1e-20 and float(log_w[0]) == pytest.approx(action.log_z, abs=1e-10)


@pytest.mark.parametrize("shape", [(4, 4), (4, 6), (3, 4, 3)])
def test_orbits_are_those_of_the_point_group(shape):
    """Two momenta share a number exactly if a reflection or exchange takes one into the other."""
    orbits = momentum_orbits(Lattice(shape))
    d = len(shape)
    orders = [o for o in permutations(range(d)) if tuple(shape[a] for a in o) == shape]
    seen = {}
    for k in product(*(range(extent) for extent in shape)):
        images = {
            tuple(sign * k[a] % extent for sign, a, extent in zip(signs, order, shape, strict=True))
            for order in orders
            for signs in product((1, -1), repeat=d)
        }
        assert {int(orbits[i]) for i in images} == {int(orbits[k])}
        assert seen.setdefault(int(orbits[k]), images) == images
    assert sorted(seen) == list(range(len(seen)))


def test_training_finds_the_free_field(rng):
    lattice, m2 = Lattice((4, 4)), 0.5
    action, flow = Phi4(lattice, m2, 0.0), FourierFlow(lattice)
    model = FlowModel(GaussianPrior(lattice), flow)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 200)
        field, log_q = model.sample(64, rng)
        optimizer.zero_grad()
        (log_q + action.energy(field)).mean().backward()
        optimizer.step()
    exact = FourierFlow(lattice, m2=m2).log_a
    assert float(exact.detach().abs().max()) > 0.5
    torch.testing.assert_close(flow.log_a, exact, rtol=0, atol=0.05)


def test_bad_arguments():
    lattice = Lattice((4, 6))
    kernel = free_kernel(lattice, 1.0)
    with pytest.raises(InputError, match="m2 > 0, got 0"):
        FourierFlow(lattice, m2=0.0)
    with pytest.raises(InputError, match=r"field of SU\(2\)"):
        FourierFlow(lattice, SU2())
    with pytest.raises(InputError, match="must be positive and of shape"):
        FourierFlow(lattice).solve(kernel.T)
    with pytest.raises(InputError, match="smallest value -"):
        FourierFlow(lattice).solve(kernel - 3)
    kernel[1, 2] += 0.1
    with pytest.raises(InputError, match="must not change under reflections"):
        FourierFlow(lattice, RealLine()).solve(kernel)
