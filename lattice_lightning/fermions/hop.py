"""The hot loop of the Dirac operators: gather neighbours, multiply by links, add.

Everything is real, chains innermost. ``matrices[c, i, j, k, n, b]`` is component c (real,
imaginary) of entry (i, j) of the k-th hop into target site n of chain b; ``table[k, n]`` is the
source site of that hop. Signs, phases and the factor 1/2 live inside the matrices.
"""

import shutil
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

__all__ = ["COMPILE_FROM", "hop"]

# below this many (target site, chain) pairs, compiling costs more than it can ever return
COMPILE_FROM = 1024


def _hop_eager(matrices: Tensor, psi: Tensor, table: Tensor) -> Tensor:
    n_hops, n_sites = table.shape
    source = psi.index_select(2, table.flatten()).unflatten(2, (n_hops, n_sites))
    real = imag = None
    for j in range(psi.shape[1]):
        mr, mi, pr, pi = matrices[0, :, j], matrices[1, :, j], source[0, j], source[1, j]
        if real is None or imag is None:
            real, imag = mr * pr, mr * pi
        else:
            real.addcmul_(mr, pr)
            imag.addcmul_(mr, pi)
        real.addcmul_(mi, pi, value=-1)
        imag.addcmul_(mi, pr)
    assert real is not None and imag is not None
    return torch.stack([real.sum(1), imag.sum(1)])


def _hop_fused(matrices: Tensor, psi: Tensor, table: Tensor) -> Tensor:
    """The same sum as one expression, hops unrolled, for the compiler to fuse."""
    real = imag = None
    for k in range(table.shape[0]):
        source = psi[:, :, table[k]]
        for j in range(psi.shape[1]):
            mr, mi = matrices[0, :, j, k], matrices[1, :, j, k]
            pr, pi = source[0, j], source[1, j]
            r, i = mr * pr - mi * pi, mr * pi + mi * pr
            real, imag = (r, i) if real is None or imag is None else (real + r, imag + i)
    assert real is not None and imag is not None
    return torch.stack([real, imag])


#: shapes that have a kernel; past its limit of kernels a function the compiler would give up
_KNOWN: set[tuple[object, ...]] = set()
_MOST_KERNELS = 256


def _hop_compiled(matrices: Tensor, psi: Tensor, table: Tensor) -> Tensor:
    kernel = _compiled()
    key = (matrices.shape, psi.shape, psi.dtype, psi.device, torch.is_grad_enabled())
    if key in _KNOWN or kernel is _hop_eager:
        return kernel(matrices, psi, table)
    with torch._dynamo.config.patch(recompile_limit=_MOST_KERNELS):
        result = kernel(matrices, psi, table)
    _KNOWN.add(key)
    return result


@cache
def _compiled() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if torch.cuda.is_available() or shutil.which("g++") or shutil.which("c++"):
        compiled: Callable[[Tensor, Tensor, Tensor], Tensor] = torch.compile(
            _hop_fused, fullgraph=True, dynamic=False
        )
        return compiled
    warnings.warn(
        "no C++ compiler found: the Dirac operator runs in plain torch, several times slower; "
        "install g++ to compile it",
        RuntimeWarning,
        stacklevel=3,
    )
    return _hop_eager


def hop(matrices: Tensor, psi: Tensor, table: Tensor, *, compiled: bool | None = None) -> Tensor:
    """Sum over hops of matrix times neighbour, ``[2, N, sites, batch]``.

    Args:
        matrices: ``[2, N, N, hops, sites, batch]``.
        psi: source field ``[2, N, source sites, batch]``.
        table: source site of every hop, integers ``[hops, sites]``.
        compiled: force (True) or forbid (False) the compiled kernel; by default it is used from
            ``COMPILE_FROM`` sites times chains on.
    """
    if compiled is None:
        compiled = psi.shape[2] * psi.shape[3] >= COMPILE_FROM
    if compiled:
        return _hop_compiled(matrices, psi, table)
    return _hop_eager(matrices, psi, table)
