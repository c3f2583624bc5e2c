"""Packed arithmetic against plain matrices."""

import numpy as np
import pytest
import torch
from conversions import algebra_matrices, generator_matrices, matrices, packed_matrices
from reference import traceless_antihermitian

from lattice_lightning.groups import SU2, SUN, generators

EXACT = {"rtol": 0, "atol": 1e-13}


def dagger(m):
    return m.conj().swapaxes(-1, -2)


def random_packed(group, rng, n=2, shape=(3, 5)):
    """Elements off the group, real linear combinations as staples are."""
    like = group.pack(group.haar(shape, rng))
    return [torch.randn(like.shape, generator=rng, dtype=torch.float64) for _ in range(n)]


@pytest.mark.parametrize("n_colors", [2, 3, 4, 5])
def test_generators(n_colors):
    t = generators(n_colors).numpy()
    assert t.shape == (n_colors**2 - 1, n_colors, n_colors)
    np.testing.assert_allclose(np.einsum("aij,bji->ab", t, t), 0.5 * np.eye(len(t)), **EXACT)
    np.testing.assert_allclose(t, dagger(t), **EXACT)
    np.testing.assert_allclose(np.trace(t, axis1=1, axis2=2), 0, **EXACT)
    np.testing.assert_allclose(t, generator_matrices(SUN(n_colors)), **EXACT)


def test_pack_is_the_matrix_of_the_link(group, rng):
    links = group.haar((3, 2, 4, 5), rng)
    packed = group.pack(links)
    np.testing.assert_allclose(packed_matrices(group, packed), matrices(group, links), **EXACT)
    torch.testing.assert_close(group.unpack(packed), links, **EXACT)
    assert packed.shape[-1] == 3 and packed.ndim == group.n_component_dims + 4


def test_algebra_layouts_are_inverse(group, rng):
    omega = torch.randn(3, 2, 4, group.n_generators, generator=rng)
    packed = group.pack_algebra(omega)
    assert packed.shape == (group.n_generators, 2, 4, 3)
    assert torch.equal(packed[0, 1, 2], omega[:, 1, 2, 0])
    assert torch.equal(group.unpack_algebra(packed), omega)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("mul", lambda a, b: a @ b),
        ("mul_nh", lambda a, b: a @ dagger(b)),
        ("mul_hn", lambda a, b: dagger(a) @ b),
    ],
)
def test_products(group, rng, name, expected):
    a, b = random_packed(group, rng)
    ma, mb = packed_matrices(group, a), packed_matrices(group, b)
    result = packed_matrices(group, getattr(group, name)(a, b))
    np.testing.assert_allclose(result, expected(ma, mb), **EXACT)


def test_adjoint_traces_and_inner(group, rng):
    a, b = random_packed(group, rng)
    ma, mb = packed_matrices(group, a), packed_matrices(group, b)

    def scalar(x):
        return np.moveaxis(x.numpy(), -1, 0)

    np.testing.assert_allclose(packed_matrices(group, group.adjoint(a)), dagger(ma), **EXACT)
    trace = np.trace(ma, axis1=-2, axis2=-1)
    np.testing.assert_allclose(scalar(group.re_trace(a)), trace.real, **EXACT)
    np.testing.assert_allclose(scalar(group.im_trace(a)), trace.imag, **EXACT)
    inner = np.einsum("...ij,...ij->...", ma, mb.conj()).real
    np.testing.assert_allclose(scalar(group.inner(a, b)), inner, **EXACT)


def test_product_broadcasts_lattice_axes(group, rng):
    a, b = random_packed(group, rng)
    thin = a[..., :1, :]
    torch.testing.assert_close(group.mul(thin, b), group.mul(thin.expand_as(b), b), **EXACT)


def test_project_is_the_traceless_antihermitian_part(group, rng):
    (a,) = random_packed(group, rng, 1)
    projected = algebra_matrices(group, group.project(a)).reshape(-1, group.n_colors, group.n_colors)
    for got, m in zip(projected, packed_matrices(group, a).reshape(projected.shape), strict=True):
        np.testing.assert_allclose(got, traceless_antihermitian(m), **EXACT)


def test_su2_projection_of_any_complex_matrix(rng):
    real = torch.randn(2, 6, 2, 2, generator=rng, dtype=torch.float64)
    m = torch.complex(real[0], real[1])
    projected = algebra_matrices(SU2(), SU2().project(SU2().pack(m)))
    for got, matrix in zip(projected, m.numpy(), strict=True):
        np.testing.assert_allclose(got, traceless_antihermitian(matrix), **EXACT)


def test_algebra_gradient_against_finite_differences(group, rng):
    (a,) = random_packed(group, rng, 1)
    a.requires_grad_()
    weight = torch.randn(a.shape, generator=rng, dtype=torch.float64)

    def function(x):
        return (weight * x + x.pow(3)).flatten(0, group.n_component_dims - 1).sum(0)

    (gradient,) = torch.autograd.grad(function(a).sum(), a)
    got = group.algebra_gradient(a.detach(), gradient)
    step, unit = 1e-3, torch.eye(group.n_generators, dtype=torch.float64)
    for index in range(group.n_generators):
        direction = unit[index].reshape(-1, *[1] * (a.ndim - group.n_component_dims)).expand_as(got)

        def moved(t, direction=direction):
            return function(group.mul(group.exp(t * direction), a.detach()))

        slope = 8 * (moved(step) - moved(-step)) - moved(2 * step) + moved(-2 * step)
        torch.testing.assert_close(got[index], slope / (12 * step), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["mul", "mul_nh", "mul_hn"])
def test_products_differentiate_twice(group, rng, name):
    if group.n_colors > 3:
        pytest.skip("the same code as SU(3), slower")
    a, b = (x.requires_grad_() for x in random_packed(group, rng, shape=(1,)))
    function = getattr(group, name)
    assert torch.autograd.gradcheck(function, (a, b))
    assert torch.autograd.gradgradcheck(function, (a, b))


def test_su2_equals_the_general_implementation(rng):
    fast, general = SU2(), SUN(2)
    u, v = fast.haar((2, 3, 5), rng)
    omega = torch.randn(3, 5, 3, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(fast.evolve(u, omega), general.evolve(u, omega), **EXACT)
    staple = 0.3 * u + 2.0 * v
    torch.testing.assert_close(
        fast.project(fast.pack(staple)), general.project(general.pack(staple)), **EXACT
    )
    torch.testing.assert_close(fast.reunitarise(1.001 * u), general.reunitarise(1.001 * u), **EXACT)
    torch.testing.assert_close(fast.defect(u + 1e-3), general.defect(u + 1e-3), **EXACT)
