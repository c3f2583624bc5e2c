"""Two-dimensional gauge theory against the project's reference numbers and other formulas."""

import numpy as np
import pytest
from scipy import integrate

from lattice_lightning.analysis.exact_2d import (
    charge_squared_u1,
    plaquette_su2,
    plaquette_su3,
    plaquette_torus,
    plaquette_u1,
)
from lattice_lightning.exceptions import InputError

INFINITE = 4096
U1 = {1: 0.446390, 2: 0.697775, 3: 0.809985, 4: 0.863523, 5: 0.893383, 6: 0.912359, 7: 0.925532}
SU2 = {1.8: 0.399372, 2.2: 0.464479, 2.7: 0.532971, 4: 0.658047, 8: 0.819249}
SU3 = {4: 0.279619, 5: 0.353954, 6: 0.422532, 8: 0.535754}
CHARGE = {
    8: (2.60072, 1.23930, 0.70784, 0.48202, 0.36072, 0.27920, 0.21711),
    16: (10.40288, 4.95720, 2.83156, 1.93388, 1.47349, 1.19470, 1.00641),
}
SUSCEPTIBILITY = {1: 0.04063624, 2: 0.01936405, 3: 0.01106080, 4: 0.00755421}


@pytest.mark.parametrize("beta", U1)
def test_plaquette_u1(beta):
    assert plaquette_u1(beta, INFINITE) == pytest.approx(U1[beta], abs=6e-7)


@pytest.mark.parametrize("beta", SU2)
def test_plaquette_su2(beta):
    assert plaquette_su2(beta, INFINITE) == pytest.approx(SU2[beta], abs=6e-7)


@pytest.mark.parametrize("beta", SU3)
def test_plaquette_su3(beta):
    assert plaquette_su3(beta, INFINITE) == pytest.approx(SU3[beta], abs=6e-7)


def test_smallest_torus():
    assert plaquette_su2(2.7, 4) == pytest.approx(0.551229, abs=6e-7)


@pytest.mark.parametrize("extent", CHARGE)
@pytest.mark.parametrize("beta", U1)
def test_charge_squared(beta, extent):
    assert charge_squared_u1(beta, extent**2) == pytest.approx(CHARGE[extent][beta - 1], abs=6e-6)


@pytest.mark.parametrize("beta", SUSCEPTIBILITY)
def test_susceptibility_in_infinite_volume(beta):
    assert charge_squared_u1(beta, INFINITE) / INFINITE == pytest.approx(SUSCEPTIBILITY[beta], abs=6e-9)


@pytest.mark.parametrize("beta, volume", [(1.0, 4), (3.0, 16)])
def test_one_plaquette_angle_integrals(beta, volume):
    """U(1) from Z = sum_n (integral of e^{beta cos x} cos nx)^V, its derivative by differences."""

    def log_z(b):
        c = [
            integrate.quad(lambda x, n=n: np.exp(b * np.cos(x)) * np.cos(n * x), -np.pi, np.pi)[0]
            for n in range(-20, 21)
        ]
        return np.log((np.array(c) ** volume).sum())

    derivative = (log_z(beta + 1e-4) - log_z(beta - 1e-4)) / 2e-4 / volume
    assert plaquette_u1(beta, volume) == pytest.approx(derivative, abs=1e-7)


@pytest.mark.parametrize("name, exact", [("SU(2)", lambda b: b / 4 - b**3 / 96),
                                         ("SU(3)", lambda b: b / 18 + b**2 / 216 - 5 * b**4 / 93312)])
def test_strong_coupling(name, exact):
    assert plaquette_torus(name, 0.2, INFINITE) == pytest.approx(exact(0.2), abs=1e-6)


def test_torus_chooses_the_group():
    assert plaquette_torus("U(1)", 2.0, 64) == plaquette_u1(2.0, 64)
    with pytest.raises(InputError, match=r"U\(1\), SU\(2\), SU\(3\), got 'SU\(4\)'"):
        plaquette_torus("SU(4)", 1.0, 16)
