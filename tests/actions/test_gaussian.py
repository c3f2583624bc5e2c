"""Gaussian fields with any kernel: the action, its force and its partition function."""

from math import log, pi

import pytest
import torch

from lattice_lightning.actions import GaussianAction, Phi4, free_kernel
from lattice_lightning.exceptions import InputError
from lattice_lightning.lattice import Lattice
from lattice_lightning.testing import assert_force

SHAPES = [(4, 6), (3, 4), (2, 3, 4), (2, 3, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_free_kernel_is_phi4_without_coupling(shape, rng):
    lattice, m2 = Lattice(shape), 0.3
    gaussian, phi4 = GaussianAction(lattice, free_kernel(lattice, m2)), Phi4(lattice, m2, 0.0)
    field = phi4.space.hot(lattice, 3, rng)
    torch.testing.assert_close(gaussian.value(field, {}), phi4.value(field, {}), rtol=1e-12, atol=0)
    torch.testing.assert_close(gaussian.force(field, {}), phi4.force(field, {}), rtol=0, atol=1e-12)


def test_force_of_a_long_ranged_kernel(rng):
    lattice = Lattice((4, 6))
    action = GaussianAction(lattice, 0.2 + lattice.phat_squared().sqrt())
    assert_force(action, action.space.hot(lattice, 3, rng), {}, rng)


@pytest.mark.parametrize("shape", SHAPES)
def test_partition_function(shape):
    """Against the dense determinant of the Hessian."""
    lattice = Lattice(shape)
    action = GaussianAction(lattice, 0.5 + lattice.phat_squared() ** 1.5)
    basis = torch.eye(lattice.volume, dtype=torch.float64).reshape(-1, *shape)
    matrix = action.force(basis, {}).reshape(lattice.volume, lattice.volume)
    expected = 0.5 * (lattice.volume * log(2 * pi) - float(torch.linalg.slogdet(matrix)[1]))
    assert action.log_z == pytest.approx(expected, abs=1e-10)


def test_kernels_that_are_refused():
    lattice = Lattice((4, 4))
    kernel = free_kernel(lattice, 1.0)
    with pytest.raises(InputError, match=r"of shape \(4, 4\), got shape \(4, 6\)"):
        GaussianAction(lattice, free_kernel(Lattice((4, 6)), 1.0))
    with pytest.raises(InputError, match="smallest value -1"):
        GaussianAction(lattice, kernel - 3)
    kernel[1, 0] += 0.1
    with pytest.raises(InputError, match=r"K\(p\) = K\(-p\)"):
        GaussianAction(lattice, kernel)
