import itertools

import numpy as np
import pytest
import torch
from conversions import dense_operator, matrices
from reference import even_rows, staggered_matrix

from lattice_lightning.exceptions import InputError
from lattice_lightning.fermions import EVEN, ODD, StaggeredOperator
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice

GROUPS = pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
SHAPES = [(4, 6), (2, 4, 4), (2, 4, 2, 4)]
MASS = 0.3


def build(shape, group, boundary=None):
    return StaggeredOperator(Lattice(shape), group, boundary, compiled=False)


def random_field(operator, n_chains, rng):
    shape = (n_chains, *operator.lattice.shape, operator.group.n_colors)
    real = torch.randn(2, *shape, generator=rng, dtype=torch.float64)
    return torch.complex(real[0], real[1])


@GROUPS
@pytest.mark.parametrize("shape", SHAPES)
def test_apply_against_the_dense_matrix(group, rng, shape):
    operator = build(shape, group)
    links, psi = group.hot(operator.lattice, 2, rng), random_field(operator, 2, rng)
    got = operator.apply(links, psi, MASS)
    for chain, u in enumerate(matrices(group, links)):
        expected = staggered_matrix(u, shape, MASS) @ psi[chain].numpy().ravel()
        np.testing.assert_allclose(got[chain].numpy().ravel(), expected, rtol=0, atol=1e-12)


@GROUPS
@pytest.mark.parametrize("boundary", list(itertools.product((1, -1), repeat=2)))
def test_boundary_phases(group, rng, boundary):
    operator = build((4, 2), group, boundary)
    links = group.hot(operator.lattice, 1, rng)
    expected = staggered_matrix(matrices(group, links)[0], (4, 2), MASS, list(boundary))
    np.testing.assert_allclose(dense_operator(operator, links, MASS), expected, rtol=0, atol=1e-13)


def test_boundaries_of_every_direction_in_four_dimensions(rng):
    shape, boundary, group = (2, 2, 4, 2), (-1, 1, -1, 1), SU2()
    operator = build(shape, group, boundary)
    links = group.hot(operator.lattice, 1, rng)
    expected = staggered_matrix(matrices(group, links)[0], shape, MASS, list(boundary))
    np.testing.assert_allclose(dense_operator(operator, links, MASS), expected, rtol=0, atol=1e-13)


@GROUPS
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_hopping_is_antihermitian_and_joins_parities(group, rng, shape):
    operator = build(shape, group)
    k = dense_operator(operator, group.hot(operator.lattice, 1, rng), 0.0)
    np.testing.assert_allclose(k, -k.conj().T, rtol=0, atol=1e-14)
    even = even_rows(shape, group.n_colors)
    odd = np.setdiff1d(np.arange(len(k)), even)
    assert not k[np.ix_(even, even)].any() and not k[np.ix_(odd, odd)].any()


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_su2_spectrum_is_doubly_degenerate(rng, shape):
    def gaps(group):
        operator = build(shape, group)
        d = dense_operator(operator, group.hot(operator.lattice, 1, rng), MASS)
        rows = even_rows(shape, group.n_colors)
        eigenvalues = np.linalg.eigvalsh((d @ d.conj().T)[np.ix_(rows, rows)])
        return np.diff(eigenvalues[: len(eigenvalues) // 2 * 2])[::2]

    assert gaps(SU2()).max() < 1e-12
    assert gaps(SUN(3)).max() > 1e-3


@GROUPS
@pytest.mark.parametrize("parity", [EVEN, ODD])
def test_solve_against_a_dense_inverse(group, rng, parity):
    shape, masses = (2, 4, 4), [0.4, 0.3, 0.9]
    operator = build(shape, group)
    links = group.hot(operator.lattice, 2, rng)
    b = operator.gaussian(2, rng)
    found = operator.solve(operator.hop_matrices(group.pack(links)), b, masses, parity, 1e-13, 500)
    rows = even_rows(shape, group.n_colors)
    if parity == ODD:
        rows = np.setdiff1d(np.arange(operator.lattice.volume * group.n_colors), rows)
    for mass, x in zip(masses, found.x, strict=True):
        for chain, u in enumerate(matrices(group, links)):
            d = staggered_matrix(u, shape, mass)
            normal = (d @ d.conj().T)[np.ix_(rows, rows)]
            source, solution = (torch.complex(f[0], f[1])[..., chain].T.reshape(-1).numpy() for f in (b, x))
            np.testing.assert_allclose(solution, np.linalg.solve(normal, source), rtol=0, atol=1e-11)


@pytest.mark.parametrize("chains", [[0], [3], [1, 2]])
def test_solves_do_not_feel_their_batch_mates(rng, chains):
    group = SU2()
    operator = build((4, 4), group)
    links, b = group.hot(operator.lattice, 4, rng), operator.gaussian(4, rng)
    links[2] = group.cold(operator.lattice, 1)[0]

    def solve(which):
        m = operator.hop_matrices(group.pack(links[which]))
        return operator.solve(m, b[..., which].contiguous(), [0.3, 0.5], EVEN, 1e-8, 500)

    together, apart = solve([0, 1, 2, 3]), solve(chains)
    assert torch.equal(apart.iterations, together.iterations[chains])
    for x, y in zip(apart.x, together.x, strict=True):
        assert torch.equal(x, y[..., chains])


@GROUPS
@pytest.mark.parametrize("parity", [EVEN, ODD])
def test_norm_of_the_hop_and_its_gradient(group, rng, parity):
    operator = build((4, 2), group)
    links = group.pack(group.hot(operator.lattice, 2, rng)).requires_grad_()
    x = operator.gaussian(2, rng)

    def norm(packed):
        return operator.hop_norm(packed, operator.hop_matrices(packed), x, parity)

    y = operator.hop(operator.hop_matrices(links), x, 1 - parity)
    torch.testing.assert_close(norm(links), y.square().sum((0, 1, 2)))
    assert torch.autograd.gradcheck(norm, (links,))


def test_norm_of_the_hop_refuses_second_derivatives(rng):
    group = SU2()
    operator = build((2, 2), group)
    links = group.pack(group.hot(operator.lattice, 1, rng)).requires_grad_()
    norm = operator.hop_norm(links, operator.hop_matrices(links), operator.gaussian(1, rng), EVEN)
    with pytest.raises(InputError, match=r"no second derivative.*without create_graph"):
        torch.autograd.grad(norm.sum() + links.pow(3).sum(), links, create_graph=True)


def test_packing_of_fields_is_invertible(rng):
    operator = build((2, 4, 4), SUN(3))
    psi = random_field(operator, 2, rng)
    even, odd = operator.pack_field(psi, EVEN), operator.pack_field(psi, ODD)
    assert even.shape == (2, 3, 16, 2)
    assert torch.equal(operator.unpack_field(even, odd), psi)
    flat, rows = psi.reshape(2, -1), even_rows((2, 4, 4), 3)
    assert torch.equal(torch.complex(even[0], even[1])[..., 1].T.reshape(-1), flat[1, rows])


def test_gaussian_has_unit_complex_components(rng):
    xi = build((4, 4), SU2()).gaussian(4000, rng)
    square = xi.square().sum(0)
    assert float((square.mean() - 1) * square.numel() ** 0.5) == pytest.approx(0, abs=3.5)


@pytest.mark.parametrize(
    "shape, group, boundary, message",
    [
        ((4, 5), SU2(), None, "the staggered operator needs even extents"),
        ((4, 4), RealLine(), None, "need a gauge group, got R"),
        ((4, 4), SU2(), (1, 1, -1), r"needs 2 phases of \+1 or -1, got \[1, 1, -1\]"),
        ((4, 4), SU2(), (1, 0.5), "needs 2 phases"),
    ],
)
def test_errors(shape, group, boundary, message):
    with pytest.raises(InputError, match=message):
        StaggeredOperator(Lattice(shape), group, boundary)
