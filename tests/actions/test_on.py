"""The linear O(N) model, and the observables of fields with components."""

import pytest
import torch
from reference import sites, step

from lattice_lightning.actions import ONPhi4, Phi4, free_kernel
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import FourierFlow
from lattice_lightning.observables import ScalarMoments, ScalarPropagator
from lattice_lightning.testing import assert_force

SHAPES = [(4, 3), (2, 3, 4), (2, 3, 4, 3)]


def naive(phi, shape, m2, lam):
    total = 0.0
    for n in sites(shape):
        square = (phi[n] ** 2).sum()
        total += m2 * square + lam * square**2
        for mu in range(len(shape)):
            total += 2 * square - 2 * (phi[n] * phi[step(n, mu, 1, shape)]).sum()
    return total


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("m2, lam", [(-4.0, 6.975), (0.5, 0.0)])
def test_value(rng, shape, m2, lam):
    action = ONPhi4(Lattice(shape), 3, m2, lam)
    phi = action.space.hot(action.lattice, 2, rng)
    expected = [naive(p.numpy(), shape, m2, lam) for p in phi]
    assert action.value(phi, {}).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_components", [1, 2, 4])
def test_force(rng, shape, n_components):
    action = ONPhi4(Lattice(shape), n_components, -4.0, 5.0)
    assert_force(action, action.space.hot(action.lattice, 3, rng), {}, rng)


def test_one_component_is_phi4(rng):
    lattice = Lattice((4, 3, 2))
    one, phi4 = ONPhi4(lattice, 1, -4.0, 5.0), Phi4(lattice, -4.0, 5.0)
    phi = phi4.space.hot(lattice, 3, rng)
    torch.testing.assert_close(one.value(phi.unsqueeze(-1), {}), phi4.value(phi, {}), rtol=1e-13, atol=0)
    force = one.force(phi.unsqueeze(-1), {}).squeeze(-1)
    torch.testing.assert_close(force, phi4.force(phi, {}), rtol=0, atol=1e-12)


def test_components_couple_through_their_length_only(rng):
    """Invariant under rotations of all sites together; not under other linear maps, nor of one site."""
    lattice = Lattice((4, 4))
    action = ONPhi4(lattice, 3, -2.0, 4.0)
    phi = action.space.hot(lattice, 2, rng)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=rng, dtype=torch.float64))
    value = action.value(phi, {})
    torch.testing.assert_close(action.value(phi @ rotation, {}), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(action.force(phi @ rotation, {}), action.force(phi, {}) @ rotation, rtol=0, atol=1e-11)
    for image in (phi.roll(1, 1), phi.transpose(1, 2), phi.flip(2)):
        torch.testing.assert_close(action.value(image, {}), value, rtol=1e-12, atol=0)
    stretched, local = phi * torch.tensor([1.0, 1.1, 0.9]), phi.clone()
    local[:, 0, 0] = local[:, 0, 0] @ rotation
    for image in (stretched, local):
        assert bool(((action.value(image, {}) - value).abs() > 1e-3).all())


def test_bad_arguments():
    lattice = Lattice((4, 4))
    with pytest.raises(InputError, match=r"real scalars, got the group SU\(2\)"):
        ONPhi4(lattice, 2, 1.0, 1.0, space=SU2())
    with pytest.raises(InputError, match=r"O\(2\) needs a field of 2 components.*n_components=None"):
        ONPhi4(lattice, 2, 1.0, 1.0, space=RealLine())
    with pytest.raises(InputError, match="n_components >= 1, got 0"):
        ONPhi4(lattice, 0, 1.0, 1.0)
    with pytest.raises(InputError, match="lam=0, m2=-1"):
        ONPhi4(lattice, 2, -1, 0)
    with pytest.raises(InputError, match=r"\[batch, 4, 4, 2\].*\[2, 4, 4\]"):
        ONPhi4(lattice, 2, 1.0, 1.0).value(torch.zeros(2, 4, 4).double(), {})


def free_fields(lattice, m2, components, rng, n=4000):
    space = RealLine(components)
    with torch.no_grad():
        return FourierFlow(lattice, space, m2=m2)(space.hot(lattice, n, rng))[0]


@pytest.mark.parametrize("components", [None, 2])
def test_free_moments_and_propagator(components, rng):
    """N free components: <phi.phi> = N/V sum_p G(p), <V M.M> = N G(0), propagators N G(p)."""
    lattice, m2, count = Lattice((4, 6)), 0.5, components or 1
    field = free_fields(lattice, m2, components, rng)
    measured = ScalarMoments(lattice).measure(field, rng)
    measured |= {f"time_{k}": v for k, v in ScalarPropagator(lattice, 4).measure(field, rng).items()}
    measured |= {f"x_{k}": v for k, v in ScalarPropagator(lattice, 3, axis=0).measure(field, rng).items()}
    g = count / free_kernel(lattice, m2)
    expected = {"phi2": g.mean(), "magnetisation_squared": g[0, 0]}
    expected |= {f"time_propagator_{k}": g[0, k] for k in range(4)}
    expected |= {f"x_propagator_{k}": g[k, 0] for k in range(3)}
    assert measured.keys() == expected.keys()
    pulls = [
        float((measured[name].mean() - value) / (measured[name].std() / 4000**0.5))
        for name, value in expected.items()
    ]
    # nine numbers, three of them the same susceptibility
    assert max(map(abs, pulls)) < 3.5 and sum(p * p for p in pulls) < 25, pulls
    wrong = count / free_kernel(lattice, 0.6)
    assert abs(float((measured["phi2"].mean() - wrong.mean()) / (measured["phi2"].std() / 4000**0.5))) > 5


def test_propagator_equals_the_fourier_transform(rng):
    lattice = Lattice((4, 3, 6))
    field = RealLine(2).hot(lattice, 3, rng)
    power = torch.fft.fftn(field, dim=(1, 2, 3)).abs().square().sum(-1) / lattice.volume
    measured = ScalarPropagator(lattice, 2, axis=1).measure(field, rng)
    for k in range(2):
        torch.testing.assert_close(measured[f"propagator_{k}"], power[:, 0, k, 0], rtol=1e-12, atol=0)
    moments = ScalarMoments(lattice, RealLine(2)).measure(field, rng)
    torch.testing.assert_close(moments["magnetisation_squared"], power[:, 0, 0, 0], rtol=1e-12, atol=0)


def test_propagators_that_do_not_exist():
    with pytest.raises(InputError, match="extent 6 has 1 to 4 different momenta, got 5"):
        ScalarPropagator(Lattice((4, 6)), 5)
    with pytest.raises(InputError, match="axis 2 does not exist"):
        ScalarPropagator(Lattice((4, 6)), 1, axis=2)
    with pytest.raises(InputError, match=r"scalar field, got a field of SU\(2\)"):
        ScalarPropagator(Lattice((4, 6)), space=SU2())
