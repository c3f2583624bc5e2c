import pytest
import torch
from reference import sites, step

from lattice_lightning.actions import Phi4
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.testing import assert_force

SHAPES = [(4, 3), (2, 3, 4), (2, 3, 4, 3)]


def naive(phi, shape, m2, lam):
    total = 0.0
    for n in sites(shape):
        total += m2 * phi[n] ** 2 + lam * phi[n] ** 4
        for mu in range(len(shape)):
            ahead, behind = phi[step(n, mu, 1, shape)], phi[step(n, mu, -1, shape)]
            total += 2 * phi[n] ** 2 - phi[n] * ahead - phi[n] * behind
    return total


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("m2, lam", [(-4.0, 6.975), (0.5, 0.0)])
def test_value(rng, shape, m2, lam):
    action = Phi4(Lattice(shape), m2, lam)
    phi = action.space.hot(action.lattice, 2, rng)
    expected = [naive(p.numpy(), shape, m2, lam) for p in phi]
    assert action.value(phi, {}).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_force(rng, shape):
    action = Phi4(Lattice(shape), -4.0, 5.0)
    assert_force(action, action.space.hot(action.lattice, 3, rng), {}, rng)


def test_plane_waves_are_eigenvectors_of_the_free_force():
    lattice, m2 = Lattice((4, 6)), 0.7
    action = Phi4(lattice, m2, 0.0)
    p = lattice.momenta()
    for k in ((0, 0), (1, 2), (2, 3)):
        momentum = p[(slice(None), *k)]
        wave = torch.einsum("m,mxy->xy", momentum, lattice.coordinates().double()).cos()[None]
        hat = 4 * (momentum / 2).sin().square().sum()
        # G(p) = 1 / [2 (m2 + phat^2)]
        torch.testing.assert_close(action.force(wave, {}), 2 * (m2 + hat) * wave, rtol=0, atol=1e-13)


def test_symmetries(rng):
    lattice = Lattice((4, 4))
    action = Phi4(lattice, -4.0, 6.0)
    phi = action.space.hot(lattice, 2, rng)
    value = action.value(phi, {}).tolist()
    for image in (-phi, phi.roll(1, 1), phi.transpose(1, 2), phi.flip(2)):
        assert action.value(image, {}).tolist() == pytest.approx(value, rel=1e-13)


@pytest.mark.parametrize("m2, lam", [(1.0, -0.1), (0.0, 0.0), (-1.0, 0.0)])
def test_unbounded_actions_are_refused(m2, lam):
    with pytest.raises(InputError, match=rf"lam={lam}, m2={m2} is not bounded from below"):
        Phi4(Lattice((4, 4)), m2, lam)


def test_fields_that_do_not_fit(rng):
    with pytest.raises(InputError, match=r"real scalars, got the group SU\(2\)"):
        Phi4(Lattice((4, 4)), 1.0, 1.0, space=SU2())
    with pytest.raises(InputError, match=r"\[batch, 4, 4\].*\[2, 4, 5\]"):
        Phi4(Lattice((4, 4)), 1.0, 1.0, RealLine()).value(torch.zeros(2, 4, 5).double(), {})
