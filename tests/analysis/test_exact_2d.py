"""Two-dimensional gauge theory against the project's reference numbers and other formulas."""

import numpy as np
import pytest
from scipy import integrate

from lattice_lightning.analysis.exact_2d import (
    charge_squared_u1,
    log_z_torus,
    plaquette_su2,
    plaquette_su3,
    plaquette_torus,
    plaquette_u1,
    wilson_loop_torus,
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
    assert plaquette_su2(0.0, 4) == 0
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


COUPLINGS = [("U(1)", 2.0), ("SU(2)", 2.7), ("SU(3)", 5.0)]


@pytest.mark.parametrize(("group", "beta"), COUPLINGS)
@pytest.mark.parametrize("volume", [4, 16])
def test_log_z_has_the_plaquette_as_its_derivative(group, beta, volume):
    h = 1e-4
    slope = (log_z_torus(group, beta + h, volume) - log_z_torus(group, beta - h, volume)) / (2 * h)
    assert 1 + slope / volume == pytest.approx(plaquette_torus(group, beta, volume), abs=1e-7)
    assert log_z_torus(group, 0.0, volume) == pytest.approx(0, abs=1e-12)


def test_log_z_by_quadrature():
    """2x2 torus of U(1): three independent angles, the last plaquette fixed by the others."""
    x = np.linspace(-np.pi, np.pi, 48, endpoint=False)
    a, b, c = np.meshgrid(x, x, x)
    weight = np.exp(1.3 * (np.cos(a) + np.cos(b) + np.cos(c) + np.cos(a + b + c) - 4))
    assert log_z_torus("U(1)", 1.3, 4) == pytest.approx(np.log(weight.mean()), abs=1e-12)


@pytest.mark.parametrize(("group", "beta"), COUPLINGS)
def test_wilson_loops(group, beta):
    plaquette = plaquette_torus(group, beta, 16)
    assert wilson_loop_torus(group, beta, 16, 0) == pytest.approx(1, abs=1e-12)
    assert wilson_loop_torus(group, beta, 16, 1) == pytest.approx(plaquette, abs=1e-8)
    law = plaquette_torus(group, beta, INFINITE) ** 6
    assert wilson_loop_torus(group, beta, INFINITE, 6) == pytest.approx(law, rel=1e-7)


def test_abelian_loop_is_that_around_its_complement():
    inside, outside = (wilson_loop_torus("U(1)", 2.0, 16, a) for a in (5, 11))
    assert inside == pytest.approx(outside, rel=1e-12)


def test_loops_that_are_not_known_are_refused():
    with pytest.raises(InputError, match="area"):
        wilson_loop_torus("U(1)", 1.0, 16, 17)
    with pytest.raises(InputError, match="SU\\(4\\)"):
        log_z_torus("SU(4)", 1.0, 16)
