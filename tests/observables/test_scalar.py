"""Moments of scalar fields."""

import numpy as np
import pytest
import torch

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import ScalarMoments


def test_moments_equal_numpy(rng):
    lattice = Lattice((4, 3, 2))
    field = RealLine().hot(lattice, 5, rng)
    measured = ScalarMoments(lattice).measure(field, rng)
    flat = field.numpy().reshape(5, -1)
    assert np.allclose(measured["phi2"], (flat**2).mean(1))
    assert np.allclose(measured["magnetisation_squared"], 24 * flat.mean(1) ** 2)


def test_gauge_field_is_refused():
    with pytest.raises(InputError, match=r"scalar field, got a field of SU\(2\)"):
        ScalarMoments(Lattice((4, 4)), SU2())


def test_constant_field(rng):
    lattice = Lattice((4, 4))
    measured = ScalarMoments(lattice).measure(torch.full((2, 4, 4), -0.5, dtype=torch.float64), rng)
    assert measured["phi2"].tolist() == [0.25, 0.25]
    assert measured["magnetisation_squared"].tolist() == [4.0, 4.0]
