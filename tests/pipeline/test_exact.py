"""Judging rows against exact values."""

import pytest

from lattice_lightning.pipeline.exact import judge_rows


def rows(value, error, exact=-11.6228852573):
    return {"free/fourier": {"sampling": {"log_z": {"value": value, "error": error, "exact": exact}}}}


@pytest.mark.parametrize("error", [0.0, 1e-15, 1e-6])
def test_log_z_without_spread_is_judged_too(error):
    none = {"free/fourier": {}}
    right = judge_rows(none, rows(-11.6228852573 + 1e-13, error))["fourier"]
    assert right["ok"] and list(right["pulls"]) == ["free/fourier log_z"]
    assert not judge_rows(none, rows(-11.6228, error))["fourier"]["ok"]


def test_nothing_known_is_not_judged():
    assert judge_rows({"hmc": {}}, {"hmc": {"sampling": {}}}) == {}
    unknown = rows(None, None)
    assert judge_rows({"free/fourier": {}}, unknown) == {}
