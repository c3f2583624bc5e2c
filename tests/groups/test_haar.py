"""Haar measure by orthogonality: every non-trivial irreducible character averages to zero."""

import numpy as np
import pytest
import torch
from conversions import matrices

from lattice_lightning.analysis import judge_pulls
from lattice_lightning.groups import SU2, SUN, U1
from lattice_lightning.lattice import Lattice

N_DRAWS = 20_000


def characters(n_colors, u):
    """Uncorrelated characters with their variances: fundamental, adjoint, symmetric squares and cubes."""
    t1, t2, t3 = (np.trace(np.linalg.matrix_power(u, k), axis1=-2, axis2=-1) for k in (1, 2, 3))
    if n_colors == 1:
        complex_ones, real_ones = [t1, t1**2, t1**3], []
    else:
        square, cube = (t1**2 + t2) / 2, (t1**3 + 3 * t1 * t2 + 2 * t3) / 6
        complex_ones, real_ones = [t1, square], [abs(t1) ** 2 - 1]
        if n_colors == 2:  # real representations; the square is the adjoint
            complex_ones, real_ones = [], [t1.real, square.real, cube.real]
    parts = [(part, 0.5) for c in complex_ones for part in (c.real, c.imag)]
    return parts + [(r, 1.0) for r in real_ones]


def pulls(group, u, rng):
    # invariance: a fixed element in front changes nothing
    fixed = matrices(group, group.haar((1,), rng))[0]
    return [
        values.mean() / np.sqrt(variance / len(u))
        for g in (np.eye(len(fixed)), fixed)
        for values, variance in characters(group.n_colors, g @ u)
    ]


def test_characters_average_to_zero(group, rng):
    u = matrices(group, group.haar((N_DRAWS,), rng))
    assert judge_pulls(pulls(group, u, rng)).ok


def test_negative_control_qr_without_phases(rng):
    real = torch.randn(2, N_DRAWS, 3, 3, generator=rng, dtype=torch.float64)
    q, _ = torch.linalg.qr(torch.complex(real[0], real[1]))
    biased = SUN(3)._unit_determinant(q).numpy()
    assert judge_pulls(pulls(SUN(3), biased, rng)).max_abs > 10


def test_haar_is_on_the_group(group, rng):
    u = matrices(group, group.haar((3, 50), rng))
    assert np.abs(u @ u.conj().swapaxes(-1, -2) - np.eye(group.n_colors)).max() < 1e-13
    if group.n_colors > 1:
        assert np.abs(np.linalg.det(u) - 1).max() < 1e-13


def test_haar_has_the_asked_shape_and_follows_the_generator(group):
    draws = [group.haar((2, 3), torch.Generator().manual_seed(7)) for _ in range(2)]
    matrix = () if group.name == "U(1)" else (group.n_colors,) * 2
    assert draws[0].shape == (2, 3, *matrix)
    assert torch.equal(*draws)


def test_angles_are_uniform(rng):
    theta = U1().haar((N_DRAWS,), rng)
    assert -torch.pi < theta.min() and theta.max() <= torch.pi
    assert float(theta.square().mean()) == pytest.approx(torch.pi**2 / 3, rel=0.03)


def test_momenta_are_standard_normal(group, rng):
    field = group.cold(Lattice((4, 4)), 200)
    p = group.momentum(field, rng)
    assert p.shape == (200, 2, 4, 4, group.n_generators)
    n = p.numel()
    centred = [float(p.sum()) / n**0.5, float((p.square() - 1).sum()) / (2 * n) ** 0.5]
    per_generator = p.flatten(0, -2).mean(0) * (n / group.n_generators) ** 0.5
    assert judge_pulls(centred).ok
    assert judge_pulls(per_generator.tolist()).ok


def test_kinetic_energy_is_tr_p_squared(rng):
    group = SU2()
    p = group.momentum(group.cold(Lattice((2, 3)), 4), rng)
    sigma = torch.tensor([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], dtype=torch.complex128)
    big_p = torch.einsum("...a,aij->...ij", p.to(torch.complex128), sigma / 2)
    expected = torch.einsum("...ij,...ji->...", big_p, big_p).real.flatten(1).sum(1)
    assert torch.allclose(group.kinetic(p), expected, rtol=1e-13)
