"""Coverage of quoted and Gamma errors: what is counted, what is set aside, how it is shown."""

from dataclasses import replace

import numpy as np
import pytest

from lattice_lightning.analysis import bias_corrected
from lattice_lightning.analysis.coverage import (
    HEADER,
    coverage_figure,
    coverage_of,
    coverage_table,
    gamma_coverage,
    pull_of,
)
from lattice_lightning.exceptions import InputError

NAN = float("nan")


def corrected(n_chains, n_steps):
    rng = np.random.default_rng(1)
    a = rng.normal(size=(n_chains, 4 * n_steps))
    o = a + 0.2 * rng.normal(size=a.shape)
    return bias_corrected(o[:, :n_steps], a[:, :n_steps], a[:, n_steps:])


def test_pulls_of_one_result():
    result = replace(corrected(16, 100), value=3.0, error=2.0, error_gamma=0.5)
    assert pull_of(result, 1.0) == 1.0 and pull_of(result, 1.0, gamma_alone=True) == 4.0
    without = replace(result, error_gamma=None)
    assert pull_of(without, 1.0) == 1.0 and np.isnan(pull_of(without, 1.0, gamma_alone=True))
    frozen = replace(result, error_gamma=0.0)
    assert pull_of(frozen, 4.0, gamma_alone=True) == -np.inf and pull_of(frozen, 3.0, gamma_alone=True) == 0


def test_a_few_steps_have_no_gamma_error():
    result = corrected(32, 4)
    assert result.error_gamma is None and result.error == result.error_chains > 0


def test_shares_of_the_gamma_error():
    rng = np.random.default_rng(2)
    quoted = rng.normal(size=4000)
    found = gamma_coverage(quoted, 1.4 * quoted)
    assert found["n"] == 4000 and found["without"] == 0
    # erf(1 / 1.4 / sqrt 2), erf(2 / 1.4 / sqrt 2)
    assert found["within_1"]["value"] == pytest.approx(0.5249, abs=4 * 0.008)
    assert found["within_2"]["value"] == pytest.approx(0.8469, abs=4 * 0.006)
    assert not found["within_1"]["fits"] and coverage_of(quoted)["covers"]
    assert found["width"] == pytest.approx(1.4 * quoted.std())
    assert "covers" not in found, "nobody quotes it"


def test_what_has_no_gamma_error_is_no_part_of_its_shares():
    quoted = np.array([0.5, 0.5, 3.0, NAN, 0.1])
    gamma = np.array([0.5, 1.5, NAN, 0.2, NAN])
    found = gamma_coverage(quoted, gamma)
    # the fourth has no quoted error: it was refused, and is counted there
    assert (found["n"], found["without"]) == (2, 2)
    assert found["within_1"]["value"] == 0.5 and found["within_2"]["value"] == 1.0
    none = gamma_coverage(quoted, np.full(5, NAN))
    assert none["n"] == 0 and none["without"] == 4 and none["within_1"] is none["width"] is None
    with pytest.raises(InputError, match="every ensemble, got 5 and 4"):
        gamma_coverage(quoted, gamma[:4])


def test_table_and_figure():
    rng = np.random.default_rng(3)
    quoted = rng.normal(size=1000)
    rest = {"refused": 0, "correlation": 0.9, "gain": None, "reliable": 1.0, "must_fail": False}
    columns = {
        "narrow": {"pull": quoted, "pull_gamma": 1.5 * quoted},
        "none": {"pull": quoted, "pull_gamma": np.full(1000, NAN)},
    }
    cases = {
        name: {**coverage_of(c["pull"]), "gamma_alone": gamma_coverage(c["pull"], c["pull_gamma"]), **rest}
        for name, c in columns.items()
    }
    narrow, none = (dict(zip(HEADER, line, strict=True)) for line in coverage_table(cases))
    assert narrow["Gamma alone, 1 sigma"].endswith("(15) !") and narrow["without Gamma"] == "0"
    assert narrow["in 1 sigma (68.3 %)"].endswith("(15)") and narrow["verdict"] == "covers, as it must"
    assert none["Gamma alone, 1 sigma"] == none["Gamma alone, 2 sigma"] == none["gain"] == "-"
    assert none["without Gamma"] == "1000"
    first, second = coverage_figure(columns).axes
    assert len(first.patches) == 41, "bars of the quoted error, one outline of the Gamma error"
    assert len(second.patches) == 40, "no outline of what is not there"
