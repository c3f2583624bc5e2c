"""Truth for tests of exactness: dynamical fermions in 2d by reweighting, dense, without the package.

Quenched fields come from single-link Metropolis with Haar proposals, many independent chains at once
(no molecular dynamics, no pseudofermions); their weight is det D of one unrooted staggered field.
"""

from functools import cache

import numpy as np
from reference import sites, step


def haar(rng, chains, n_colors):
    if n_colors == 2:  # unit quaternions, ten times faster than a QR
        a = rng.normal(size=(4, chains))
        a, b, c, d = a / np.linalg.norm(a, axis=0)
        return np.stack([a + 1j * b, c + 1j * d, -c + 1j * d, a - 1j * b], 1).reshape(chains, 2, 2)
    z = rng.normal(size=(chains, n_colors, n_colors)) + 1j * rng.normal(size=(chains, n_colors, n_colors))
    q, r = np.linalg.qr(z)
    diagonal = np.einsum("bii->bi", r)
    q = q * (diagonal / np.abs(diagonal))[:, None, :]
    return q / np.linalg.det(q)[:, None, None] ** (1 / n_colors)


def dag(matrices):
    return matrices.conj().swapaxes(-1, -2)


def quenched(shape, n_colors, beta, chains, sweeps, rng):
    """Links ``[chains, mu, x, y, N, N]`` of exp(-beta sum (1 - Re tr P/N))."""
    u = np.stack([haar(rng, chains, n_colors) for _ in range(2 * shape[0] * shape[1])], 1)
    u = u.reshape(chains, 2, *shape, n_colors, n_colors)
    for _ in range(sweeps):
        for site in sites(shape):
            for mu, nu in ((0, 1), (1, 0)):
                ahead, up = step(site, mu, 1, shape), step(site, nu, 1, shape)
                down = step(site, nu, -1, shape)
                corner = step(down, mu, 1, shape)
                # Re tr U S with S the two ways back from n + mu to n
                staples = u[:, nu, *ahead] @ dag(u[:, mu, *up]) @ dag(u[:, nu, *site])
                staples = staples + dag(u[:, nu, *corner]) @ dag(u[:, mu, *down]) @ u[:, nu, *down]
                old, new = u[:, mu, *site], haar(rng, chains, n_colors)
                change = np.einsum("bij,bji->b", new - old, staples).real * beta / n_colors
                taken = rng.random(chains) < np.exp(np.minimum(change, 0))
                u[:, mu, *site] = np.where(taken[:, None, None], new, old)
    return u


def dense_staggered(u, mass):
    """D of every configuration, ``[chains, V N, V N]``, antiperiodic in the last direction."""
    chains, shape, n = len(u), u.shape[2:-2], u.shape[-1]
    index = {site: i for i, site in enumerate(sites(shape))}
    d = np.zeros((chains, len(index), n, len(index), n), dtype=complex)
    for site, i in index.items():
        d[:, i, :, i, :] += mass * np.eye(n)
        for mu in range(len(shape)):
            j = index[step(site, mu, 1, shape)]
            phase = -1 if mu == len(shape) - 1 and site[mu] == shape[mu] - 1 else 1
            hop = 0.5 * phase * (-1) ** sum(site[:mu]) * u[:, mu, *site]
            d[:, i, :, j, :] += hop
            d[:, j, :, i, :] -= dag(hop)
    return d.reshape(chains, len(index) * n, len(index) * n)


def observables(u, mass):
    """Plaquette, Polyakov loop in time and condensate, ``[chains, 3]``, and log det D."""
    shape, n = u.shape[2:-2], u.shape[-1]
    x, y = u[:, 0], u[:, 1]
    planes = x @ np.roll(y, -1, 1) @ dag(np.roll(x, -1, 2)) @ dag(y)
    plaquette = np.einsum("bxyii->b", planes).real / (n * np.prod(shape))
    loop = y[:, :, 0]
    for t in range(1, shape[1]):
        loop = loop @ y[:, :, t]
    polyakov = np.einsum("bxii->b", loop).real / shape[0]
    d = dense_staggered(u, mass)
    condensate = np.einsum("bii->b", np.linalg.inv(d)).real / np.prod(shape)
    return np.stack([plaquette, polyakov, condensate], 1), np.linalg.slogdet(d)[1]


@cache
def truth(shape, n_colors, beta, mass, chains, seed, sweeps=15):
    """Means and errors of the three observables, and as many links drawn from the target.

    The errors are those of a ratio of means over independent chains (delta method).
    """
    rng = np.random.default_rng(seed)
    u = quenched(shape, n_colors, beta, chains, sweeps, rng)
    values, logdet = observables(u, mass)
    weight = np.exp(logdet - logdet.max())
    weight /= weight.sum()
    mean = weight @ values
    error = np.sqrt((weight[:, None] ** 2 * (values - mean) ** 2).sum(0))
    drawn = rng.choice(chains, size=chains, p=weight)
    return mean, error, u[drawn]
