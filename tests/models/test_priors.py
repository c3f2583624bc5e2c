"""Densities that flows start from: normalisation, moments, and the action that belongs to each."""

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from lattice_lightning.actions import Phi4, free_kernel
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import FreeFieldPrior, GaussianFieldPrior, GaussianPrior, HaarPrior


def hessian(action):
    """The matrix of a quadratic action, column by column from its force."""
    volume = action.lattice.volume
    basis = torch.eye(volume, dtype=torch.float64).reshape(volume, *action.lattice.shape)
    return action.force(basis, {}).reshape(volume, volume)


def chi_squared(samples, expected):
    """Pulls of the mean of ``[n, k]``, and their sum of squares, with errors from the scatter."""
    pulls = (samples.mean(0) - expected) / (samples.std(0) / len(samples) ** 0.5)
    return float(pulls.abs().max()), float(pulls.square().sum())


@pytest.mark.parametrize("components", [None, 3])
@pytest.mark.parametrize("sigma", [1.0, 0.4])
def test_gaussian_density_is_torchs(components, sigma, rng):
    prior = GaussianPrior(Lattice((4, 3, 2)), RealLine(components), sigma)
    field = prior.sample(5, rng)
    expected = Normal(torch.zeros(()).double(), sigma).log_prob(field).flatten(1).sum(1)
    torch.testing.assert_close(prior.log_prob(field), expected, rtol=1e-13, atol=0)
    assert field.dtype == torch.float64 and field.shape == (5, 4, 3, 2, *([3] if components else []))


def test_gaussian_width(rng):
    square = GaussianPrior(Lattice((4, 4)), sigma=0.4).sample(4000, rng).square().flatten(1)
    worst, chi2 = chi_squared(square, 0.16)
    assert worst < 4 and chi2 < 40
    # a width wrong by 5 % is noticed
    assert chi_squared(square, 0.42**2)[1] > 200


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (2, 2, 3, 2)])
def test_free_field_density_is_that_of_the_free_action(shape, rng):
    """Against a dense multivariate normal with the Hessian of phi^4 at lam = 0 as its precision."""
    lattice, m2 = Lattice(shape), 0.3
    prior = FreeFieldPrior(lattice, m2)
    precision = hessian(Phi4(lattice, m2, 0.0))
    dense = MultivariateNormal(torch.zeros(lattice.volume).double(), precision_matrix=precision)
    field = prior.sample(4, rng)
    torch.testing.assert_close(prior.log_prob(field), dense.log_prob(field.flatten(1)), rtol=0, atol=1e-10)


def test_free_field_propagator(rng):
    lattice, m2 = Lattice((4, 6)), 0.5
    modes = torch.fft.fftn(FreeFieldPrior(lattice, m2).sample(4000, rng), dim=(1, 2))
    propagator = (modes.abs().square() / lattice.volume)[:, :3, :4].flatten(1)
    expected = 1 / free_kernel(lattice, m2)
    worst, chi2 = chi_squared(propagator, expected[:3, :4].flatten())
    assert worst < 4 and chi2 < 30
    wrong = 1 / free_kernel(lattice, 0.6)
    assert chi_squared(propagator, wrong[:3, :4].flatten())[0] > 5


@pytest.mark.parametrize(
    "prior",
    [GaussianPrior(Lattice((4, 4)), sigma=0.7), FreeFieldPrior(Lattice((4, 4)), 0.4)],
    ids=["gaussian", "free"],
)
def test_action_of_the_prior(prior, rng):
    """log_prob = -S_0 - log Z_0 for every field, not only its own."""
    field = 2 * prior.space.hot(prior.lattice, 6, rng)
    action = prior.action()
    torch.testing.assert_close(prior.log_prob(field), -action.energy(field) - action.log_z, rtol=0, atol=1e-10)
    moved = field.requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_prob(moved).sum(), moved)
    torch.testing.assert_close(gradient, -action.force(field.detach(), {}), rtol=0, atol=1e-11)


@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
def test_haar_density_is_one(group, rng):
    prior = HaarPrior(Lattice((2, 4)), group)
    links = prior.sample(3, rng)
    group.check_field(links, prior.lattice)
    assert prior.log_prob(links).tolist() == [0.0, 0.0, 0.0]
    assert prior.log_prob(links).dtype == torch.float64
    assert prior.action().value(links, {}).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", [GaussianPrior, FreeFieldPrior])
def test_prior_on_another_lattice(kind, rng):
    prior = kind(Lattice((4, 4)))
    other = prior.on(Lattice((2, 6)))
    field = kind(Lattice((2, 6))).sample(3, rng)
    assert other.sample(2, rng).shape == (2, 2, 6) and prior.sample(2, rng).shape == (2, 4, 4)
    assert torch.equal(other.log_prob(field), kind(Lattice((2, 6))).log_prob(field))


def test_bad_arguments():
    lattice = Lattice((4, 4))
    with pytest.raises(InputError, match="sigma=0"):
        GaussianPrior(lattice, sigma=0.0)
    with pytest.raises(InputError, match="m2 > 0, got -1"):
        FreeFieldPrior(lattice, m2=-1.0)
    with pytest.raises(InputError, match=r"real scalars, got a field of SU\(2\)"):
        GaussianPrior(lattice, SU2())
    for kind in (FreeFieldPrior, GaussianFieldPrior):
        with pytest.raises(InputError, match=r"one component, got R\^4; use GaussianPrior"):
            kind(lattice, space=RealLine(4))
    with pytest.raises(InputError, match="density of links, got a field of R"):
        HaarPrior(lattice, RealLine())
