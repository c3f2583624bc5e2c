import numpy as np
import pytest
import torch
from conversions import algebra_matrices, packed_matrices
from reference import exponential

from lattice_lightning.groups import SU2, SUN, U1, generators

# 0.199 and 0.201 stand on either side of the series of SU(2), 7.99 and 8.01 of SU(3)
SIZES = [1e-300, 1e-12, 1e-4, 0.199, 0.201, 1.0, 7.99, 8.01, 50.0]


def directions(group, rng, n=6):
    omega = torch.randn(group.n_generators, n, generator=rng, dtype=torch.float64)
    omega[:, 0] = torch.eye(group.n_generators, dtype=torch.float64)[-1]
    return omega / omega.norm(dim=0)


@pytest.mark.parametrize("size", SIZES)
def test_exponential(group, rng, size):
    omega = size * directions(group, rng)
    got = packed_matrices(group, group.exp(omega))
    for e, x in zip(got, algebra_matrices(group, omega), strict=True):
        np.testing.assert_allclose(e, exponential(x), rtol=0, atol=2e-13)


def test_largest_coefficients_of_the_su3_series(rng):
    omega = 7.99 * torch.where(torch.rand(8, 200, generator=rng) < 0.5, -1.0, 1.0).double()
    got = packed_matrices(SUN(3), SUN(3).exp(omega))
    expected = torch.linalg.matrix_exp(torch.from_numpy(algebra_matrices(SUN(3), omega))).numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_exponential_of_zero_is_one(group):
    omega = torch.zeros(group.n_generators, 3, dtype=torch.float64)
    expected = np.broadcast_to(np.eye(group.n_colors), (3, group.n_colors, group.n_colors))
    np.testing.assert_array_equal(packed_matrices(group, group.exp(omega)), expected)


def test_exponential_is_on_the_group(group, rng):
    u = packed_matrices(group, group.exp(2 * directions(group, rng)))
    assert np.abs(u @ u.conj().swapaxes(-1, -2) - np.eye(group.n_colors)).max() < 1e-13
    if group.n_colors > 1:
        assert np.abs(np.linalg.det(u) - 1).max() < 1e-13


@pytest.mark.parametrize("group", [SU2(), SUN(2), SUN(3), SUN(4)], ids=["SU2", "SUN2", "SU3", "SU4"])
@pytest.mark.parametrize("size", [0.0, 1e-8, 0.199, 0.201, 3.0])
def test_gradient_against_matrix_exp(group, rng, size):
    omega = (size * directions(group, rng)).requires_grad_()
    basis = generators(group.n_colors)
    weight = torch.randn(2, group.n_colors, group.n_colors, generator=rng, dtype=torch.float64)

    e = group.to_matrix(group.exp(omega))
    (got,) = torch.autograd.grad((weight.unsqueeze(-1) * e).sum(), omega)
    m = torch.linalg.matrix_exp(1j * torch.einsum("aij,ab->bij", basis, omega.to(basis.dtype)))
    (expected,) = torch.autograd.grad((weight[0] * m.real + weight[1] * m.imag).sum(), omega)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [0.0, 0.7])
def test_gradient_against_finite_differences(group, rng, size):
    omega = (size * directions(group, rng, 2)).requires_grad_()
    assert torch.autograd.gradcheck(group.exp, (omega,))


@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
def test_second_derivatives_at_zero(group):
    omega = torch.zeros(group.n_generators, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(group.exp, (omega,))


def test_first_derivative_at_zero_is_the_generator(group):
    omega = torch.zeros(group.n_generators, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda w: group.to_matrix(group.exp(w.unsqueeze(-1)))[..., 0], omega
    )
    got = torch.complex(jacobian[0], jacobian[1]).movedim(-1, 0).numpy()
    expected = algebra_matrices(group, torch.eye(group.n_generators, dtype=torch.float64))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-15)


def test_a_chain_of_nan_stays_alone(group, rng):
    omega = directions(group, rng)
    expected = group.exp(omega)
    omega[:, 2] = float("nan")
    got = group.exp(omega)
    assert got[..., 2].isnan().any()
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(got[..., others], expected[..., others], rtol=0, atol=1e-14)
