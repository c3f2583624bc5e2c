import pytest
import torch

from lattice_lightning.fermions.hop import hop


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
    monkeypatch.setattr("lattice_lightning.fermions.hop._compiled", lambda: pytest.fail("compiled"))
    hop(*random_problem(2, rng))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*")  # torch's own import of its compiler
def test_compiled_hop_is_the_eager_one(rng):
    problem = random_problem(2, rng)
    eager = hop(*problem, compiled=False)
    torch.testing.assert_close(hop(*problem, compiled=True), eager, rtol=0, atol=1e-13)
