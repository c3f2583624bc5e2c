"""The gain of all-mode averaging against simulations of its estimator."""

from math import nan, sqrt

import numpy as np
import pytest

from lattice_lightning.analysis import classical_gain
from lattice_lightning.exceptions import InputError


@pytest.mark.parametrize("sources, common, r", [(1, 0.5, 0.97), (4, 0.0, 0.98), (8, 0.5, 0.99), (32, 0.1, 0.98)])
def test_all_mode_averaging(sources, common, r):
    rng = np.random.default_rng(7)
    n = 40000
    o = sqrt(common) * rng.normal(size=(n, 1)) + sqrt(1 - common) * rng.normal(size=(n, sources))
    a = o + sqrt(1 / r**2 - 1) * rng.normal(size=o.shape)
    realised = (o[:, 0] - a[:, 0] + a.mean(axis=1)).var(ddof=1)
    assert realised == pytest.approx(classical_gain(r, common, sources), rel=0.05)


@pytest.mark.parametrize("r", [0.6, 0.9])
def test_all_mode_averaging_of_a_smoothed_approximation(r):
    """The documented deviation, (1 - 1/N_G) (1 - r)^2 R."""
    rng = np.random.default_rng(9)
    n, sources, common = 100000, 8, 0.6
    o = sqrt(common) * rng.normal(size=(n, 1)) + sqrt(1 - common) * rng.normal(size=(n, sources))
    a = r * o + sqrt(1 - r**2) * rng.normal(size=o.shape)
    realised = (o[:, 0] - a[:, 0] + a.mean(axis=1)).var(ddof=1)
    excess = (1 - 1 / sources) * (1 - r) ** 2 * common
    assert realised == pytest.approx(classical_gain(r, common, sources) - excess, rel=0.02)


@pytest.mark.parametrize("r, common", [(0.3, 0.2), (1.0, 0.9), (-1.0, -1.0)])
def test_one_source_gains_nothing(r, common):
    assert classical_gain(r, common, 1) == 1


@pytest.mark.parametrize(
    "arguments",
    [(1.1, 0, 2), (-1.1, 0, 2), (0.9, 1.1, 2), (0.9, -1.1, 2), (0.9, 0, 0), (nan, 0, 2), (0.9, nan, 2), (0.9, 0, nan)],
)
def test_bad_correlations(arguments):
    with pytest.raises(InputError):
        classical_gain(*arguments)
