"""Layouts of the package as plain numpy matrices, for comparison with the naive reference."""

import numpy as np
import torch


def matrices(group, links):
    """Public links ``[batch, ...]`` as matrices ``[batch, ..., N, N]``."""
    if group.name == "U(1)":
        return np.exp(1j * links.numpy())[..., None, None]
    return links.numpy()


def packed_matrices(group, packed):
    """Packed elements ``[*components, ..., batch]`` as matrices ``[batch, ..., N, N]``."""
    real, imag = group.to_matrix(packed.detach()).numpy()
    return np.moveaxis(real + 1j * imag, (0, 1, -1), (-2, -1, 0))


def generator_matrices(group):
    """T_a as numpy matrices, from their definition: Pauli and Gell-Mann patterns over two."""
    n = group.n_colors
    if n == 1:
        return np.ones((1, 1, 1), dtype=complex)
    result = []
    for i in range(n):
        for j in range(i + 1, n):
            for entry in (1, -1j):
                t = np.zeros((n, n), dtype=complex)
                t[i, j], t[j, i] = entry, np.conj(entry)
                result.append(t / 2)
    for k in range(1, n):
        result.append(np.diag([1.0] * k + [-k] + [0] * (n - k - 1)) / np.sqrt(2 * k * (k + 1)) + 0j)
    return np.array(result)


def algebra_matrices(group, omega):
    """Packed coefficients ``[n_generators, ..., batch]`` as i w_a T_a, ``[batch, ..., N, N]``."""
    x = 1j * np.einsum("aij,a...->...ij", generator_matrices(group), omega.detach().numpy())
    return np.moveaxis(x, -3, 0)


def dense_operator(operator, links, mass):
    """D as ``[V N, V N]`` of one configuration, column by column from ``apply``."""
    n = operator.lattice.volume * operator.group.n_colors
    psi = torch.eye(n, dtype=torch.complex128).reshape(n, *operator.lattice.shape, -1)
    columns = operator.apply(links[:1].expand(n, *links.shape[1:]), psi, mass)
    return columns.reshape(n, n).T.numpy()
