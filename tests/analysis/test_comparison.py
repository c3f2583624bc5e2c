"""Comparing samplers, and numbers as text."""

import numpy as np
import pytest
from scipy import stats

from lattice_lightning.analysis import Estimate, compare, format_error, judge_pulls


def estimated(value, error):
    return Estimate(value, error, error, error, 0.5, 1.0, 100.0, True, None, 8, 100)


def test_pulls_are_judged_by_chi_squared():
    judged = judge_pulls([1.0, -2.0, 0.5])
    assert judged.chi2 == pytest.approx(5.25) and judged.dof == 3 and judged.max_abs == 2
    assert judged.p_value == pytest.approx(1 - stats.chi2.cdf(5.25, 3))


@pytest.mark.parametrize(
    "pulls, ok",
    [
        ([], True),
        ([3.4] + [0.5] * 9, True),
        ([3.6] + [0.1] * 30, False),  # one too large, though chi^2 is fine
        ([1.9] * 10, False),  # none large, but all the same
        ([float("nan"), 0.1], False),
        ([float("inf")], False),
    ],
)
def test_verdict(pulls, ok):
    assert judge_pulls(pulls).ok is ok


def test_right_code_passes_and_a_shift_fails():
    """Twenty honest pulls: rejected at the per cent level, not two thirds of the time."""
    pulls = np.random.default_rng(1).normal(size=(2000, 20))
    rejected = np.mean([not judge_pulls(p).ok for p in pulls])
    expected = 0.01 + 20 * 2 * stats.norm.sf(3.5)
    assert 0.01 - 0.007 < rejected < expected + 0.007
    assert all(not judge_pulls(p + 3).ok for p in pulls[:200])


def test_comparison_of_common_observables():
    mine = {"plaquette": estimated(0.52, 0.03), "only_mine": estimated(1.0, 0.1)}
    theirs = {"plaquette": estimated(0.6, 0.04), "only_theirs": estimated(1.0, 0.1)}
    result = compare(mine, theirs)
    assert set(result) == {"plaquette", "chi2", "dof", "p_value"}
    assert result["plaquette"] == pytest.approx({"difference": -0.08, "error": 0.05, "sigma": -1.6})
    assert result["chi2"] == pytest.approx(2.56) and result["dof"] == 1


@pytest.mark.parametrize(
    "name", ["polyakov_loop", "polyakov_loop_symmetrised", "topological_susceptibility"]
)
def test_functions_of_other_observables_do_not_count_twice(name):
    result = compare({name: estimated(1.0, 0.1)}, {name: estimated(0.0, 0.1)})
    assert result[name]["sigma"] == pytest.approx(10 / 2**0.5) and result["dof"] == 0


def test_unknown_errors_are_left_out():
    frozen = estimated(1.0, None)
    for a, b in ((frozen, estimated(0.0, 0.1)), (estimated(0.0, 0.1), frozen)):
        result = compare({"topological_charge": a}, {"topological_charge": b})
        assert result["topological_charge"]["sigma"] is None and result["dof"] == 0


@pytest.mark.parametrize(
    "value, error, digits, text",
    [
        (0.70253, 0.00031, 1, "0.7025(3)"),
        (0.70253, 0.00031, 2, "0.70253(31)"),
        (-0.8412, 0.036, 1, "-0.84(4)"),
        (0.5, 0.096, 1, "0.50(10)"),  # rounds up, digits kept
        (0.5, 0.96, 1, "0.5(1.0)"),
        (12.3, 1.4, 1, "12.3(1.4)"),
        (1234.5, 26.0, 1, "1234(26)"),
        (0.5, None, 1, "0.5"),
        (0.5, float("nan"), 1, "0.5"),
        (2.0, 0.0, 1, "2"),
        (None, 0.1, 1, "-"),
        (float("inf"), 0.1, 1, "-"),
    ],
)
def test_numbers_with_errors(value, error, digits, text):
    assert format_error(value, error, digits) == text
