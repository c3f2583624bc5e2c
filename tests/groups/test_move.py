"""exp(i w_a T_a) U as one expression, and closed-form reunitarisation, against the general code."""

import pytest
import torch

from lattice_lightning.groups import SU2, SUN, compiled, move
from lattice_lightning.groups.compiled import Fused, worth_fusing

KERNELS = {"SU(2)": (SU2(), move.move_quaternions), "SU(3)": (SUN(3), move.move_su3)}


@pytest.fixture(params=KERNELS)
def case(request):
    return KERNELS[request.param]


@pytest.mark.parametrize("size", [0.0, 1e-6, 0.05, 1.0, 3.0])
def test_moves_by_the_exponential(case, rng, size):
    group, kernel = case
    omega = size * torch.randn(group.n_generators, 5, 7, generator=rng, dtype=torch.float64)
    links = group.pack(group.haar((7, 5), rng))
    m, u = (torch.complex(x[0], x[1]).movedim((0, 1), (-2, -1)) for x in (exponent(group, omega), group.to_matrix(links)))
    expected = torch.linalg.matrix_exp(m) @ u
    got = group.to_matrix(kernel.function(omega, links))
    got = torch.complex(got[0], got[1]).movedim((0, 1), (-2, -1))
    torch.testing.assert_close(got, expected, rtol=0, atol=3e-14)


def exponent(group, omega):
    """i w_a T_a as real and imaginary parts."""
    from lattice_lightning.groups import generators

    t = torch.einsum("aij,a...->ij...", 1j * generators(group.n_colors), omega.to(torch.complex128))
    return torch.stack([t.real, t.imag])


def test_a_shorter_series_would_be_seen(rng, monkeypatch):
    monkeypatch.setattr(move, "_TERMS", 6)
    omega = torch.randn(8, 50, generator=rng, dtype=torch.float64)
    group = SUN(3)
    links = group.pack(group.haar((50,), rng))
    assert (move.move_su3.function(omega, links) - group.mul(group.exp(omega), links)).abs().max() > 1e-10


def test_stays_on_the_group_under_the_largest_momenta(case, rng):
    group, kernel = case
    omega = 2.5 * torch.randn(group.n_generators, 2000, generator=rng, dtype=torch.float64)
    links = group.pack(group.haar((2000,), rng))
    assert group.defect(group.unpack(kernel.function(omega, links))).max() < 2e-13


@pytest.mark.parametrize("size", [1e-13, 1e-3, 0.3])
def test_reunitarised_su3_is_that_of_lapack(rng, size):
    links = SUN(3).haar((200,), rng)
    links = links + size * torch.randn(links.shape, generator=rng, dtype=torch.complex128)
    q, r = torch.linalg.qr(links)
    phase = torch.diagonal(r, dim1=-2, dim2=-1)
    expected = SUN(3)._unit_determinant(q * (phase / phase.abs()).unsqueeze(-2))
    torch.testing.assert_close(SUN(3).reunitarise(links), expected, rtol=0, atol=1e-11)


def test_only_large_fields_without_gradients_are_fused(monkeypatch):
    monkeypatch.setattr(compiled, "compiler_found", lambda: True)
    small, large = torch.zeros(compiled.FUSE_FROM - 1), torch.zeros(compiled.FUSE_FROM)
    with torch.no_grad():
        assert worth_fusing(large)
        assert not worth_fusing(small)
    assert not worth_fusing(large)


def test_without_compiler_the_plain_function_runs(monkeypatch):
    monkeypatch.setattr(compiled, "compiler_found", lambda: False)
    function = Fused(lambda x: x + 1, plain=lambda x: x + 2)
    assert function(torch.zeros(1)) == 2


def test_missing_compiler_warns_once(monkeypatch):
    compiled.compiler_found.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.warns(RuntimeWarning, match="install g"):
        assert not compiled.compiler_found()
    assert not compiled.compiler_found()
    compiled.compiler_found.cache_clear()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*")  # torch's own import of its compiler
def test_compiled_is_eager(rng):
    omega = torch.randn(3, 6, 8, generator=rng, dtype=torch.float64)
    links = SU2().pack(SU2().haar((8, 6), rng))
    with torch.no_grad():
        eager = move.move_quaternions.function(omega, links)
        torch.testing.assert_close(move.move_quaternions(omega, links), eager, rtol=0, atol=1e-14)
