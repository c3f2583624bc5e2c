"""A slow, independent implementation: numpy, dense matrices, naive loops over sites.

Nothing here is imported from the package. Links are arrays ``[mu, *lattice, N, N]`` of one
configuration (U(1): N = 1 matrices).
"""

import itertools

import numpy as np


def sites(shape):
    return list(itertools.product(*(range(extent) for extent in shape)))


def step(site, mu, steps, shape):
    moved = list(site)
    moved[mu] = (moved[mu] + steps) % shape[mu]
    return tuple(moved)


def dag(matrix):
    return matrix.conj().T


def walk(links, start, path, shape):
    """Product along signed directions counted from one, and where it ends."""
    n_colors = links.shape[-1]
    result, site = np.eye(n_colors, dtype=complex), start
    for direction in path:
        mu = abs(direction) - 1
        if direction > 0:
            result = result @ links[(mu, *site)]
            site = step(site, mu, 1, shape)
        else:
            site = step(site, mu, -1, shape)
            result = result @ dag(links[(mu, *site)])
    return result, site


def rectangle(mu, nu, r, s):
    a, b = mu + 1, nu + 1
    return [a] * r + [b] * s + [-a] * r + [-b] * s


def gauge_action(links, shape, beta, c1=0.0):
    """beta sum [c0 (1 - plaquette) + c1 (1 - rectangle, both orientations)]."""
    d, n_colors, total = len(shape), links.shape[-1], 0.0
    for site in sites(shape):
        for mu in range(d):
            for nu in range(mu + 1, d):
                for weight, r, s in ((1 - 8 * c1, 1, 1), (c1, 1, 2), (c1, 2, 1)):
                    loop, _ = walk(links, site, rectangle(mu, nu, r, s), shape)
                    total += weight * (1 - np.trace(loop).real / n_colors)
    return beta * total


def mean_plaquette(links, shape):
    d, n_colors = len(shape), links.shape[-1]
    values = [
        np.trace(walk(links, site, rectangle(mu, nu, 1, 1), shape)[0]).real / n_colors
        for site in sites(shape)
        for mu in range(d)
        for nu in range(mu + 1, d)
    ]
    return float(np.mean(values))


def polyakov(links, shape, mu):
    """tr of the straight loop, averaged over the sites of the slice x_mu = 0."""
    values = [
        np.trace(walk(links, site, [mu + 1] * shape[mu], shape)[0])
        for site in sites(shape)
        if site[mu] == 0
    ]
    return complex(np.mean(values))


def staggered_matrix(links, shape, mass, boundary=None):
    """Dense D of size V N, sites in C order, colour innermost; antiperiodic in the last direction."""
    d, n = len(shape), links.shape[-1]
    boundary = boundary or [1] * (d - 1) + [-1]
    index = {site: i for i, site in enumerate(sites(shape))}
    matrix = mass * np.eye(len(index) * n, dtype=complex)
    for site, i in index.items():
        for mu in range(d):
            eta = (-1) ** sum(site[:mu])
            ahead = step(site, mu, 1, shape)
            phase = boundary[mu] if site[mu] == shape[mu] - 1 else 1
            j = index[ahead]
            hop = 0.5 * eta * phase * links[(mu, *site)]
            matrix[i * n : i * n + n, j * n : j * n + n] += hop
            # the backward hop from n + mu to n; eta_mu does not depend on x_mu
            matrix[j * n : j * n + n, i * n : i * n + n] -= dag(hop)
    return matrix


def even_rows(shape, n_colors):
    rows = []
    for i, site in enumerate(sites(shape)):
        if sum(site) % 2 == 0:
            rows += range(i * n_colors, (i + 1) * n_colors)
    return np.array(rows)


def pseudofermion_action(links, shape, mass, phi_even):
    """phi_e^dag (D D^dag)_ee^-1 phi_e, phi_even ordered by even sites, colour innermost."""
    d = staggered_matrix(links, shape, mass)
    rows = even_rows(shape, links.shape[-1])
    normal = (d @ dag(d))[np.ix_(rows, rows)]
    return float(np.vdot(phi_even, np.linalg.solve(normal, phi_even)).real)


def condensate(links, shape, mass):
    d = staggered_matrix(links, shape, mass)
    return float(np.trace(np.linalg.inv(d)).real / len(sites(shape)))


def traceless_antihermitian(matrix):
    a = 0.5 * (matrix - dag(matrix))
    n = len(a)
    return a if n == 1 else a - np.trace(a) / n * np.eye(n)


def exponential(matrix):
    """exp of an anti-hermitian matrix by its eigenvectors."""
    w, v = np.linalg.eigh(-1j * matrix)
    return v @ np.diag(np.exp(1j * w)) @ dag(v)


def staple(links, site, mu, nu, sign, s, shape):
    """V = U_nu^s U_mu U_nu^{dag s}, from n to n + mu, the signed direction nu."""
    path = [sign * (nu + 1)] * s + [mu + 1] + [-sign * (nu + 1)] * s
    return walk(links, site, path, shape)[0]


def staple_sum(links, site, mu, shape):
    return sum(
        staple(links, site, mu, nu, sign, 1, shape)
        for nu in range(len(shape))
        if nu != mu
        for sign in (1, -1)
    )


def stout(links, shape, rho_plaquette, rho_space=0.0, rho_time=0.0):
    """One layer of the covariant network: U' = exp(2 [Omega]_TA) U."""
    result, d = np.empty_like(links), len(shape)
    for site in sites(shape):
        for mu in range(d):
            u = links[(mu, *site)]
            omega = rho_plaquette * staple_sum(links, site, mu, shape) @ dag(u)
            rho = rho_time if mu == d - 1 else rho_space
            omega = omega + rho * walk(links, site, [mu + 1] * shape[mu], shape)[0]
            result[(mu, *site)] = exponential(2 * traceless_antihermitian(omega)) @ u
    return result


def cask(links, shape, rho, s_max, closing="link", strength=1.0, offset=None, straight=(0.0, 0.0)):
    """One CASK block; rho ``[3, heads]``: query, key, value; offset ``[heads, s_max]``; straight: rho_s, rho_t."""
    result, d, n_colors = np.empty_like(links), len(shape), links.shape[-1]
    heads = [[stout(links, shape, rho[role][h]) for role in range(3)] for h in range(len(rho[0]))]
    for site in sites(shape):
        for mu in range(d):
            omega = straight[int(mu == d - 1)] * walk(links, site, [mu + 1] * shape[mu], shape)[0]
            for head, (query, key, value) in enumerate(heads):
                for nu in range(d):
                    if nu == mu:
                        continue
                    for sign in (1, -1):
                        for s in range(1, s_max + 1):
                            plain = staple(links, site, mu, nu, sign, s, shape)
                            scored = staple(key, site, mu, nu, sign, s, shape)
                            raw = np.trace(query[(mu, *site)] @ dag(scored)).real
                            raw -= np.trace(links[(mu, *site)] @ dag(plain)).real
                            a = np.tan(np.pi / 4 * np.tanh(raw / (n_colors + 0.01)))
                            a += 0 if offset is None else offset[head][s - 1]
                            v = staple(value, site, mu, nu, sign, s, shape)
                            end = value if closing == "value" else links
                            omega += a * v @ dag(end[(mu, *site)])
            u = links[(mu, *site)]
            result[(mu, *site)] = exponential(strength * traceless_antihermitian(omega)) @ u
    return result
