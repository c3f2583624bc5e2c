"""All-mode averaging of synthetic sources with known r and R; wrong estimators are found out."""

import numpy as np
import pytest

from lattice_lightning.analysis import classical_gain
from lattice_lightning.analysis.all_mode import (
    AllMode,
    correlations,
    gains,
    jackknife,
    judge_zero_means,
    setting,
)
from lattice_lightning.exceptions import InputError

N_SOURCES, CHAINS, STEPS, TRUTH = 8, 16, 300, 2.0


def sources(r, common, seed=1, bias=0.0, steps=STEPS):
    """Exact and sloppy series of correlations r and R (of O), with picks; A is O and independent noise."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(1, CHAINS, steps))
    own = rng.normal(size=(N_SOURCES, CHAINS, steps))
    exact = TRUTH + np.sqrt(common) * shared + np.sqrt(1 - common) * own
    noise = rng.normal(size=exact.shape) * np.sqrt(1 / r**2 - 1)
    # a bias that differs from source to source: this A breaks translations
    sloppy = exact + noise + bias * np.arange(N_SOURCES)[:, None, None]
    return exact, sloppy, rng.random((CHAINS, steps))


def exact_gain(r, common, n):
    """Var of O_1 - A_1 + mean A over var O = 1: of the sum of independent parts, term by term."""
    noise = 1 / r**2 - 1
    return 1 / n + (1 - 1 / n) * common + noise * ((1 - 1 / n) ** 2 + (n - 1) / n**2)


@pytest.mark.parametrize(("r", "common", "n"), [(0.95, 0.0, 8), (0.99, 0.3, 4), (0.9, 0.5, 2)])
def test_known_correlations_and_gain(r, common, n):
    exact, sloppy, pick = sources(r, common)
    found = jackknife(lambda *s: gains(*s, n), exact, sloppy, pick)
    expected = {
        "correlation": r, "source_correlation": common * r**2, "source_correlation_exact": common,
        "variance_ratio": 1 / r**2, "covariances": exact_gain(r, common, n), "measured": exact_gain(r, common, n),
        "variance": exact_gain(r, common, n),
        "formula": classical_gain(r, common * r**2, n),
        "measured_exact": 1 / n + (1 - 1 / n) * common,
    }
    for name, value in expected.items():
        assert abs(found[name]["value"] - value) < 4 * found[name]["error"], name
        assert found[name]["error"] < 0.3, name
    # the power of the test: another R would not pass
    other = found["source_correlation_exact"]
    assert abs(other["value"] - common - 0.2) > 5 * other["error"]


def test_the_formula_is_second_order_in_what_it_neglects():
    exact, sloppy, pick = sources(0.99, 0.3)
    found = jackknife(lambda *s: gains(*s, 8), exact, sloppy, pick)
    assert abs(found["formula_misses"]["value"]) < 4 * found["formula_misses"]["error"]
    assert abs(found["covariances"]["value"] - found["formula"]["value"]) < 0.02


def slow(x, tau):
    """AR(1) of unit variance and autocorrelation time tau along the last axis."""
    a = (2 * tau - 1) / (2 * tau + 1)
    result = x.copy()
    for k in range(1, x.shape[-1]):
        result[..., k] = a * result[..., k - 1] + np.sqrt(1 - a * a) * x[..., k]
    return result


def test_errors_feel_more_of_what_sources_share_where_that_is_slow():
    """O_g = shared, of tau 4, + own, of tau 1/2, halves each: error^2 of O is 4.5, of its mean 4 + 1/16."""
    rng = np.random.default_rng(6)
    shared = slow(rng.normal(size=(1, CHAINS, 1000)), 4.0)
    exact = (shared + rng.normal(size=(N_SOURCES, CHAINS, 1000))) / np.sqrt(2)
    sloppy = exact + 0.02 * rng.normal(size=exact.shape)
    found = jackknife(lambda *s: gains(*s, 8), exact, sloppy, rng.random((CHAINS, 1000)))
    variance, measured = found["variance"], found["measured"]
    assert abs(variance["value"] - 9 / 16) < 4 * variance["error"]
    assert abs(found["formula_misses"]["value"]) < 4 * found["formula_misses"]["error"]
    assert measured["value"] == pytest.approx((4 + 1 / 16) / 4.5, abs=0.05)
    assert found["formula_misses_error"]["value"] > 5 * found["formula_misses_error"]["error"]


def another_source(exact, sloppy, pick, n):
    """Wrong: O of one source, A of the next."""
    mode = AllMode(exact, sloppy, pick, n)
    g = (np.floor(pick * n).astype(int)[None] + 1) % n
    return mode.labels - np.take_along_axis(sloppy[:n], g, 0)[0] + mode.averaged


def test_correcting_with_the_sloppy_solve_of_another_source_loses_the_gain():
    exact, sloppy, pick = sources(0.99, 0.1)
    right, wrong = AllMode(exact, sloppy, pick, 8).estimates, another_source(exact, sloppy, pick, 8)
    formula = gains(exact, sloppy, pick, 8)["formula"]

    def ratio(series):
        return jackknife(lambda e, o: {"g": e.var() / o.var()}, series, exact[0])["g"]

    one, other = ratio(right), ratio(wrong)
    assert abs(one["value"] - formula) < 4 * one["error"]
    assert other["value"] - formula > 5 * other["error"]


def test_no_bias_where_the_approximation_breaks_translations():
    exact, sloppy, pick = sources(0.98, 0.2, bias=0.02)
    mode = AllMode(exact, sloppy, pick, 8)
    assert judge_zero_means((mode.estimates - TRUTH)[None])["ok"]
    assert judge_zero_means((mode.estimates - mode.everything)[None])["ok"]
    wrong = {
        "no correction": mode.averaged,
        "always the first source": AllMode(exact, sloppy, 0 * pick, 8).estimates,
    }
    for name, series in wrong.items():
        judged = judge_zero_means((series - mode.everything)[None])
        assert not judged["ok"] and judged["largest"] > 5, name


def test_an_exact_approximation_gives_the_average_over_all():
    exact, _, pick = sources(0.9, 0.2)
    for n in (1, 3, 8):
        mode = AllMode(exact, exact, pick, n)
        np.testing.assert_allclose(mode.estimates, exact[:n].mean(0), rtol=0, atol=1e-14)
        np.testing.assert_array_equal(mode.everything, exact[:n].mean(0))


def test_every_source_is_picked_alike():
    exact, sloppy, pick = sources(0.9, 0.0, steps=1000)
    marked = exact * 0 + np.arange(N_SOURCES)[:, None, None]
    labels = AllMode(marked, sloppy, pick, 4).labels
    counts = np.bincount(labels.astype(int).ravel(), minlength=5)
    assert counts[4] == 0 and abs(counts[:4] - 4000).max() < 4 * np.sqrt(4000 * 0.75)
    mode = AllMode(exact, sloppy, pick, 4)
    assert np.corrcoef(mode.labels.ravel(), mode.approximation.ravel())[0, 1] == pytest.approx(0.9, abs=0.01)


def test_correlated_means_are_judged_with_their_correlation():
    rng = np.random.default_rng(4)
    base = rng.normal(size=(16, 200))
    copies = np.stack([base + 0.01 * rng.normal(size=base.shape) for _ in range(6)])
    assert judge_zero_means(copies)["ok"]
    # six nearly equal pulls of 3: counted as independent, chi^2 would be six times that of one
    shifted = copies + 3 * base.std() / np.sqrt(base.size) - base.mean()
    together, one = judge_zero_means(shifted), judge_zero_means(shifted[:1])
    assert together["dof"] == 6 and one["chi2"] == pytest.approx(9, rel=0.3)
    assert together["chi2"] < 3 * one["chi2"] and together["ok"]
    assert judge_zero_means(np.concatenate([base[None], 2 * base[None]]))["dof"] == 1
    assert not judge_zero_means(copies + 5 / np.sqrt(base.size))["ok"]
    assert judge_zero_means(np.zeros((2, 8, 10))) == {
        "chi2": 0.0, "dof": 0, "p_value": 1.0, "largest": 0.0, "ok": True,
    }


def test_costs_and_merits():
    exact, sloppy, pick = sources(0.99, 0.1, steps=60)
    found = setting(exact, sloppy, pick, 8, (100.0, 10.0))
    assert found["cost"] == 180
    assert found["merit_one"]["value"] == pytest.approx(1.8 * found["measured"]["value"])
    ratio = found["measured"]["value"] / found["measured_exact"]["value"]
    assert found["merit_all"]["value"] == pytest.approx(ratio * 180 / 800)
    assert found["corrected"]["value"] == pytest.approx(AllMode(exact, sloppy, pick, 8).estimates.mean())
    everything = setting(exact, exact, pick, 8, (100.0, 100.0), measured_exactly=True)
    assert everything["cost"] == 800 and everything["merit_all"] == {"value": 1.0, "error": 0.0}
    assert everything["corrected"]["value"] == pytest.approx(exact.mean())
    alone = setting(exact, sloppy, pick, 1, (100.0, 10.0))
    assert alone["source_correlation"] is None and alone["difference"] is None
    assert alone["measured"] == {"value": 1.0, "error": 0.0} and alone["merit_one"]["value"] == 1.1


def test_bad_series():
    exact, sloppy, pick = sources(0.9, 0.1, steps=10)
    for n in (0, 9):
        with pytest.raises(InputError, match=f"expected 1 to 8 sources, got {n}"):
            AllMode(exact, sloppy, pick, n)
    for o, a, u in ((exact[:4], sloppy, pick), (exact, sloppy, pick[:3]), (exact[0], sloppy[0], pick)):
        with pytest.raises(InputError, match="expected exact and sloppy series"):
            AllMode(o, a, u, 1)
    with pytest.raises(InputError, match="a constant has no correlation"):
        correlations(exact, 0 * sloppy, 2)
