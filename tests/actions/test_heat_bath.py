"""Pseudofermions come from exp(-S_f): their mean action and their covariance."""

import numpy as np
import pytest
import torch
from conversions import matrices
from reference import dag, even_rows, staggered_matrix

from lattice_lightning.actions import StaggeredFermion
from lattice_lightning.analysis import judge_pulls
from lattice_lightning.groups import SU2, SUN, U1
from lattice_lightning.lattice import Lattice

N_DRAWS = 4000
MASS = 0.4


def draw(shape, group, rng, **options):
    action = StaggeredFermion(Lattice(shape), group, MASS, compiled=False, **options)
    links = group.hot(action.lattice, 1, rng)
    aux, value = action.refresh(links.expand(N_DRAWS, *links.shape[1:]), rng)
    return matrices(group, links)[0], aux["fermion"], value.numpy()


@pytest.mark.parametrize("even_sites_only", [True, False])
def test_mean_action_is_the_number_of_complex_components(rng, even_sites_only):
    pulls, shape = [], (2, 4)
    for group in (U1(), SU2(), SUN(3)):
        _, _, value = draw(shape, group, rng, even_sites_only=even_sites_only)
        n = 8 * group.n_colors // (2 if even_sites_only else 1)
        # a sum of n exponentials of mean one: variance n, fourth cumulant 6 n
        pulls.append((value.mean() - n) / np.sqrt(n / N_DRAWS))
        pulls.append((((value - n) ** 2).mean() - n) / np.sqrt((2 * n**2 + 6 * n) / N_DRAWS))
    assert judge_pulls(pulls).ok


def covariance_pulls(phi, covariance):
    """Entries of the whitened sample covariance, uncorrelated, in units of their errors."""
    z = np.linalg.solve(np.linalg.cholesky(covariance), phi.T)
    sample = z @ dag(z) / phi.shape[0] - np.eye(len(z))
    root, upper = np.sqrt(phi.shape[0]), np.triu_indices(len(z), 1)
    off = sample[upper] * np.sqrt(2)
    return root * np.concatenate([np.diag(sample).real, off.real, off.imag])


@pytest.mark.parametrize("group, shape", [(U1(), (2, 4)), (SU2(), (2, 2))], ids=["U(1)", "SU(2)"])
def test_covariance_on_even_sites(rng, group, shape):
    u, phi, _ = draw(shape, group, rng)
    phi = torch.complex(phi[..., 0], phi[..., 1]).flatten(1).numpy()
    d, rows = staggered_matrix(u, shape, MASS), even_rows(shape, group.n_colors)
    covariance = (d @ dag(d))[np.ix_(rows, rows)]
    assert judge_pulls(covariance_pulls(phi, covariance)).ok
    # negative control: another mass
    other = covariance + 0.1 * np.eye(len(covariance))
    assert judge_pulls(covariance_pulls(phi, other)).max_abs > 5


def test_covariance_on_all_sites(rng):
    u, phi, _ = draw((2, 2), SU2(), rng, even_sites_only=False)
    shape, n = (2, 2), 2
    rows = even_rows(shape, n)
    order = np.concatenate([rows, np.setdiff1d(np.arange(4 * n), rows)])
    phi = torch.complex(phi[..., 0], phi[..., 1]).flatten(1).numpy()
    d = staggered_matrix(u, shape, MASS)
    assert judge_pulls(covariance_pulls(phi, (d @ dag(d))[np.ix_(order, order)])).ok
