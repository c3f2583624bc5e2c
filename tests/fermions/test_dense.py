"""The dense operator against the naive reference and against the hops of the solver's operator."""

import numpy as np
import pytest
import torch
from conversions import matrices
from reference import even_rows, staggered_matrix

from lattice_lightning.exceptions import InputError
from lattice_lightning.fermions.dense import DenseStaggeredOperator
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice

GROUPS = pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
# extents of two, where a link and its neighbour fall on one entry, and unequal ones
CASES = [((4, 6), None), ((2, 4, 4), (-1, 1, -1)), ((2, 2, 4, 2), (1, -1, 1, 1))]


def blocks(group, links, shape, mass, boundary):
    """K_eo and (D D^dag)_ee of one configuration, from the reference."""
    d = staggered_matrix(matrices(group, links)[0], shape, mass, boundary)
    even = even_rows(shape, group.n_colors)
    odd = np.setdiff1d(np.arange(len(d)), even)
    return d[np.ix_(even, odd)], (d @ d.conj().T)[np.ix_(even, even)]


@GROUPS
@pytest.mark.parametrize("shape, boundary", CASES, ids=str)
def test_matrices_are_those_of_the_reference(group, rng, shape, boundary):
    lattice = Lattice(shape)
    links = group.hot(lattice, 2, rng)
    operator = DenseStaggeredOperator(lattice, group, boundary)
    hops = operator.hops(group.pack(links))
    for chain in range(2):
        expected, normal = blocks(group, links[chain : chain + 1], shape, 0.3, boundary)
        assert np.allclose(hops[chain].numpy(), expected, rtol=0, atol=1e-14)
        assert np.allclose(operator.normal(hops, 0.3)[chain].numpy(), normal, rtol=0, atol=1e-13)
    # negative control: one boundary phase more is another matrix
    other = tuple(-phase if mu == 0 else phase for mu, phase in enumerate(boundary or (1, -1)))
    wrong = DenseStaggeredOperator(lattice, group, other).hops(group.pack(links))
    assert not np.allclose(wrong[1].numpy(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "shape, group, boundary, message",
    [
        ((4, 3), SU2(), None, "even extents"),
        ((4, 4), RealLine(), None, "staggered fermions need a gauge group, got"),
        ((4, 4), SU2(), (1,), r"boundary needs 2 phases of \+1 or -1, got \[1\]"),
        ((4, 4), SU2(), (1, 0), r"boundary needs 2 phases of \+1 or -1, got \[1, 0\]"),
        ((8, 8, 8, 8), SU2(), None, "a dense matrix of 4096 rows is too large, at most 2048: use a smaller"),
    ],
)
def test_errors(shape, group, boundary, message):
    with pytest.raises(InputError, match=message):
        DenseStaggeredOperator(Lattice(shape), group, boundary)


def test_hops_keep_the_graph(rng):
    lattice, group = Lattice((4, 2)), SU2()
    links = group.pack(group.hot(lattice, 2, rng)).requires_grad_()
    hops = DenseStaggeredOperator(lattice, group).hops(links)
    weight = torch.randn(hops.shape, generator=rng, dtype=torch.complex128)
    value = (weight.conj() * hops).real.sum()
    (gradient,) = torch.autograd.grad(value, links)
    # linear in the links: the gradient gives the value back
    assert float((gradient * links.detach()).sum()) == pytest.approx(float(value.detach()))
