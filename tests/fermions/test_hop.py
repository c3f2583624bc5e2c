import pytest
import torch

from lattice_lightning.fermions import EVEN, ODD, StaggeredOperator
from lattice_lightning.fermions.hop import hop
from lattice_lightning.groups import SU2, SUN, U1
from lattice_lightning.groups.compiled import Fused
from lattice_lightning.lattice import Lattice


def naive(matrices, psi, table):
    m, p = torch.complex(matrices[0], matrices[1]), torch.complex(psi[0], psi[1])
    n_hops, n_sites = table.shape
    result = torch.zeros(m.shape[0], n_sites, psi.shape[-1], dtype=m.dtype)
    for k in range(n_hops):
        for n in range(n_sites):
            result[:, n] += torch.einsum("ijb,jb->ib", m[:, :, k, n], p[:, table[k, n]])
    return torch.stack([result.real, result.imag])


def random_problem(n_colors, rng, n_hops=4, n_sites=8, n_chains=3):
    matrices = torch.randn(2, n_colors, n_colors, n_hops, n_sites, n_chains, generator=rng).double()
    psi = torch.randn(2, n_colors, n_sites, n_chains, generator=rng).double()
    table = torch.stack([torch.randperm(n_sites, generator=rng) for _ in range(n_hops)])
    return matrices, psi, table


@pytest.mark.parametrize("n_colors", [1, 2, 3])
def test_eager_hop_is_the_sum_over_neighbours(rng, n_colors):
    problem = random_problem(n_colors, rng)
    torch.testing.assert_close(hop(*problem, compiled=False), naive(*problem), rtol=0, atol=1e-13)


def test_small_problems_are_not_compiled(rng, monkeypatch):
    monkeypatch.setattr("lattice_lightning.fermions.hop._fused_hop", lambda *_: pytest.fail("compiled"))
    hop(*random_problem(2, rng))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*")  # torch's own import of its compiler
def test_compiled_hop_is_the_eager_one(rng):
    problem = random_problem(2, rng)
    eager = hop(*problem, compiled=False)
    torch.testing.assert_close(hop(*problem, compiled=True), eager, rtol=0, atol=1e-13)


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
def test_hop_by_links_is_the_one_by_hops(group, rng, monkeypatch, wrong):
    """The functions that are compiled, run as they are; with links of the wrong site they differ."""
    lattice = Lattice((4, 2, 6))
    plain = StaggeredOperator(lattice, group, compiled=False)
    fast = StaggeredOperator(lattice, group, compiled=True)
    monkeypatch.setattr(Fused, "__call__", lambda self, *tensors: self.function(*tensors))
    monkeypatch.setattr("lattice_lightning.fermions.staggered.compiler_found", lambda: True)
    links = group.pack(group.hot(lattice, 3, rng))
    if wrong:
        fast._link_tables = [table.roll(1, 1) for table in fast._link_tables]
    by_hop, by_link = plain.hop_matrices(links), fast.hop_matrices(links)
    assert by_link[EVEN] is by_link[ODD]
    for parity in (EVEN, ODD):
        psi = plain.gaussian(3, rng)
        difference = (fast.hop(by_link, psi, parity) - plain.hop(by_hop, psi, parity)).abs().max()
        assert (difference > 0.1) if wrong else (difference < 1e-14)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*")  # torch's own import of its compiler
@pytest.mark.parametrize("group", [SU2(), SUN(3)], ids=lambda g: g.name)
def test_compiled_hop_by_links(group, rng):
    lattice = Lattice((4, 4))
    plain, fast = (StaggeredOperator(lattice, group, compiled=c) for c in (False, True))
    links, psi = group.pack(group.hot(lattice, 3, rng)), plain.gaussian(3, rng)
    expected = plain.hop(plain.hop_matrices(links), psi, ODD)
    torch.testing.assert_close(fast.hop(fast.hop_matrices(links), psi, ODD), expected, rtol=0, atol=1e-14)
