"""The hot loop of the Dirac operators: gather neighbours, multiply by links, add.

Everything is real, chains innermost. Signs, phases and the factor 1/2 live inside the matrices, which come
in one of two layouts:

* by hop, for plain torch: ``matrices[c, i, j, k, n, b]`` is component c (real, imaginary) of entry (i, j)
  of the k-th hop into target site n of chain b, one array for each parity of the target;
* by link, for kernels: ``links[l, ..., b]``, every link once for both parities, SU(2) as quaternions
  ``[4]``, others as entries ``[i, j, c]``. What belongs to a link lies together: kernels that walk along
  sites with the entries megabytes apart wait for the memory.

``table[k, n]`` is the source site of a hop and ``link_table[k, n]`` its link; the second half of the hops
are backwards and take minus the adjoint.
"""

import torch
from torch import Tensor

from lattice_lightning.groups.compiled import Fused

__all__ = ["COMPILE_FROM", "hop", "hop_by_links"]

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


def _hop_quaternions(links: Tensor, psi: Tensor, link_table: Tensor, table: Tensor) -> Tensor:
    out: list[Tensor] = []
    for k in range(table.shape[0]):
        link, source = links[link_table[k]], psi[:, :, table[k]]
        q0, q1, q2, q3 = link[:, 0], link[:, 1], link[:, 2], link[:, 3]
        if 2 * k >= table.shape[0]:
            q0 = -q0
        ar, ai, br, bi = source[0, 0], source[1, 0], source[0, 1], source[1, 1]
        terms = [
            q0 * ar - q3 * ai + q2 * br - q1 * bi,
            q0 * br + q3 * bi - q2 * ar - q1 * ai,
            q0 * ai + q3 * ar + q2 * bi + q1 * br,
            q0 * bi - q3 * br - q2 * ai + q1 * ar,
        ]
        out = [x + y for x, y in zip(out, terms, strict=True)] if out else terms
    return torch.stack(out).unflatten(0, (2, 2))


def _hop_matrices(links: Tensor, psi: Tensor, link_table: Tensor, table: Tensor) -> Tensor:
    real = imag = None
    for k in range(table.shape[0]):
        link, source = links[link_table[k]], psi[:, :, table[k]]
        for j in range(psi.shape[1]):
            # rows stay an axis: unrolled, SU(3) compiles for a minute
            if 2 * k < table.shape[0]:
                mr, mi = link[:, :, j, 0], link[:, :, j, 1]
            else:
                mr, mi = -link[:, j, :, 0], link[:, j, :, 1]
            pr, pi = source[0, j].unsqueeze(1), source[1, j].unsqueeze(1)
            r, i = mr * pr - mi * pi, mr * pi + mi * pr
            real, imag = (r, i) if real is None or imag is None else (real + r, imag + i)
    assert real is not None and imag is not None
    return torch.stack([real, imag]).transpose(1, 2)


_fused_hop = Fused(_hop_fused, plain=_hop_eager)
_fused_quaternions, _fused_matrices = Fused(_hop_quaternions), Fused(_hop_matrices)


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
        return _fused_hop(matrices, psi, table)
    return _hop_eager(matrices, psi, table)


def hop_by_links(links: Tensor, psi: Tensor, link_table: Tensor, table: Tensor) -> Tensor:
    """The same from links, ``[2, N, sites, batch]``, by a kernel.

    Args:
        links: ``[links, 4, batch]`` for SU(2), else ``[links, N, N, 2, batch]``.
        psi: source field ``[2, N, source sites, batch]``.
        link_table: link of every hop, integers ``[hops, sites]``.
        table: source site of every hop, integers ``[hops, sites]``.
    """
    kernel = _fused_quaternions if links.ndim == 3 else _fused_matrices
    return kernel(links, psi, link_table, table)
