"""Bias-corrected averages: closed forms, an independent bootstrap, coverage, what is refused."""

import json
from math import sqrt

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from lattice_lightning.analysis.correction import bias_corrected, optimal_scale
from lattice_lightning.analysis.coverage import coverage_of, pull_of
from lattice_lightning.analysis.markov_sets import MarkovSets
from lattice_lightning.exceptions import InputError, TooFewLabelsError

FORMS = ("unlabelled", "all")


def ar1(shape, tau, rng):
    """Stationary series ``[..., steps]`` of variance one and mean zero."""
    rho = (2 * tau - 1) / (2 * tau + 1)
    kicks = sqrt(1 - rho**2) * rng.normal(size=shape)
    start = rho * rng.normal(size=(*shape[:-1], 1))
    return lfilter([1.0], [1.0, -rho], kicks, axis=-1, zi=start)[0]


def ensemble(chains, n_labels, n_unlabelled, tau, seed, scale=0.7):
    """Labels of mean zero, their approximation, and that of the others; the approximation has mean 0.2."""
    rng = np.random.default_rng(seed)
    x, y = ar1((chains, n_labels), tau, rng), ar1((chains, n_labels), tau, rng)
    return x + 0.3 * y, 0.2 + scale * x, 0.2 + scale * ar1((chains, n_unlabelled), tau, rng)


@pytest.mark.parametrize("chains", [1, 4])
@pytest.mark.parametrize("scale", [0.7, 1.2])
def test_error_on_independent_data_is_the_closed_form(chains, scale):
    o, a, u = ensemble(chains, 20000 // chains, 40000 // chains, 0.5, 5, scale)
    d, n_all = o - a, a.size + u.size
    var_a, cov = np.concatenate([a, u], 1).var(), np.cov(a.ravel(), d.ravel())[0, 1]
    assert abs(cov) > 0.15
    closed = {
        "unlabelled": u.var() / u.size + d.var() / d.size,
        "all": var_a / n_all + d.var() / d.size + 2 * cov / n_all,
    }
    for form in FORMS:
        assert bias_corrected(o, a, u, form).error ** 2 == pytest.approx(closed[form], rel=0.1)


@pytest.mark.parametrize("as_type", [np.asarray, torch.as_tensor])
def test_value_is_mean_of_approximation_and_mean_of_correction(as_type):
    o, a, u = ensemble(4, 400, 1500, 1.0, 6)
    result = bias_corrected(as_type(o), as_type(a), as_type(u), "all")
    everything = np.concatenate([a, u], 1).mean()
    assert result.value == pytest.approx(everything + (o - a).mean(), abs=1e-12)
    assert result.uncorrected.value == pytest.approx(everything, abs=1e-12)
    other = bias_corrected(as_type(o), as_type(a), as_type(u), "unlabelled")
    assert other.value == pytest.approx(u.mean() + (o - a).mean(), abs=1e-12)
    assert other.uncorrected.value == pytest.approx(u.mean(), abs=1e-12)
    assert (result.form, result.n_correction, result.n_unlabelled) == ("all", o.size, u.size)
    assert result.correlation == pytest.approx(np.corrcoef(o.ravel(), a.ravel())[0, 1])
    assert result.gain == pytest.approx((result.labels.error / result.error) ** 2)
    assert "uncorrected" in str(result)
    json.dumps(result.as_dict(), allow_nan=False)


@pytest.mark.parametrize("chains", [1, 16])
@pytest.mark.parametrize("form", FORMS)
def test_exact_approximation_leaves_the_mean_of_the_approximation(form, chains):
    o, _, u = ensemble(chains, 1000, 4000, 1.0, 7, 1.0)
    result = bias_corrected(o, o, u, form)
    used = u if form == "unlabelled" else np.concatenate([o, u], 1)
    assert result.correction.value == 0
    assert result.value == pytest.approx(used.mean(), abs=1e-12)
    expected = sqrt(2 * used.var() / used.size)
    assert result.error_gamma == pytest.approx(expected, rel=0.15)
    assert result.reliable, result.reason


# -- against a bootstrap that knows nothing of the Gamma method --------------------------------


def block_means(series, length, rng, n):
    """Means of n resamples of overlapping blocks, drawn from all chains."""
    sums = np.cumsum(np.pad(series, ((0, 0), (1, 0))), axis=1)
    means = ((sums[:, length:] - sums[:, :-length]) / length).ravel()
    return means[rng.integers(len(means), size=(n, series.size // length))].mean(1)


def bootstrap(o, a, u, form, chainwise):
    """Standard deviation of the corrected average over resampled data."""
    rng, n = np.random.default_rng(99), 2000
    weight = a.size / (a.size + u.size) if form == "all" else 0.0
    beside = o - a + weight * a
    if chainwise:
        chosen = rng.integers(len(o), size=(n, len(o)))
        values = (beside.mean(1) + (1 - weight) * u.mean(1))[chosen].mean(1)
    else:
        values = block_means(beside, 100, rng, n) + (1 - weight) * block_means(u, 100, rng, n)
    return values.std()


@pytest.mark.parametrize("chains", [1, 16])
@pytest.mark.parametrize("form", FORMS)
def test_error_agrees_with_a_bootstrap(form, chains):
    o, a, u = ensemble(chains, 16000 // chains, 48000 // chains, 5.0, 8)
    result = bias_corrected(o, a, u, form)
    blocks = bootstrap(o, a, u, form, False)
    assert result.error_gamma == pytest.approx(blocks, rel=0.15)
    if chains == 1:
        assert result.error == result.error_gamma
        return
    by_chain = bootstrap(o, a, u, form, True)
    assert result.error_chains == pytest.approx(by_chain, rel=0.15)
    assert result.error == pytest.approx(max(blocks, by_chain), rel=0.15)


@pytest.mark.parametrize("form", FORMS)
def test_intervals_cover_and_those_without_the_correction_do_not(form):
    honest, dishonest = [], []
    for seed in range(400):
        o, a, u = ensemble(1, 400, 1600, 1.0, seed + 1000)
        result = bias_corrected(o, a, u, form)
        honest.append(pull_of(result, 0.0))
        dishonest.append(result.value / result.uncorrected.error)
    found = coverage_of(honest)
    assert found["covers"], found
    assert abs(found["mean_pull"]) < 0.2
    assert not coverage_of(dishonest)["covers"]


def test_uncorrected_average_is_biased_by_many_sigma():
    o, a, u = ensemble(1, 8000, 32000, 1.0, 9)
    result = bias_corrected(o, a, u)
    assert abs(result.uncorrected.value) > 8 * result.uncorrected.error
    assert abs(result.value) < 3 * result.error
    assert result.reliable, result.reason
    assert result.gain > 1.5


def test_optimal_scale():
    o, a, _ = ensemble(3, 500, 5, 1.0, 10)
    c = optimal_scale(o, torch.as_tensor(a))
    matrix = np.cov(o.ravel(), a.ravel())
    assert c == pytest.approx(matrix[0, 1] / matrix[1, 1], rel=1e-12)
    assert all((o - c * a).var() < (o - (c + step) * a).var() for step in (-0.01, 0.01))
    with pytest.raises(InputError, match="never varies on the training set"):
        optimal_scale(o, np.ones_like(o))
    with pytest.raises(InputError, match=r"\(3, 500\) and approximation \(3, 400\) must be of the same"):
        optimal_scale(o, a[:, :400])


def test_too_few_labels_says_how_many():
    o, a, u = ensemble(1, 8, 200, 0.5, 11)
    with pytest.raises(TooFewLabelsError, match=r"plaquette: 8 labels are too few.*at least 1\d are needed"):
        bias_corrected(o, a, u, name="plaquette")
    o, a, u = ensemble(1, 60, 2000, 5.0, 12)
    with pytest.raises(TooFewLabelsError, match=r"60 labels are too few.*at least \d+ are needed, and 5 times"):
        bias_corrected(o, a, u)
    # the correction vanishes, the labels tell how slowly anything changes
    with pytest.raises(TooFewLabelsError, match="60 labels are too few"):
        bias_corrected(o, o, u)


def test_bad_input():
    o, a, u = ensemble(2, 50, 100, 0.5, 13)
    with pytest.raises(InputError, match="form must be one of unlabelled, all, got 'both'"):
        bias_corrected(o, a, u, "both")
    with pytest.raises(InputError, match=r"labels \(2, 50\) and approximation \(2, 49\) must be of the same"):
        bias_corrected(o, a[:, 1:], u)
    with pytest.raises(InputError, match=r"expected a series \[chains, steps\], got shape \(100,\)"):
        bias_corrected(o, a, u[0])
    o[1, 3] = np.nan
    with pytest.raises(InputError, match=r"x: labels: nan at chain 1, step 3 \(1 in all\)"):
        bias_corrected(o, a, u, name="x")
    with pytest.raises(InputError, match="unlabelled approximation: inf at chain 0, step 0"):
        bias_corrected(a, a, np.full_like(u, np.inf))


@pytest.mark.parametrize("n", [1, 500])
def test_frozen_unlabelled_set_is_not_reliable(n):
    o, a, _ = ensemble(1, 400, 5, 0.5, 18)
    assert not bias_corrected(o, a, np.full((1, n), 3.0)).reliable


def test_useless_approximation_warns():
    o, _, _ = ensemble(1, 400, 5, 0.5, 14)
    noise = np.random.default_rng(15).normal(size=(1, 1400))
    with pytest.warns(RuntimeWarning, match="of its 400 labels alone.*does not pay"):
        result = bias_corrected(o, noise[:, :400], noise[:, 400:], "unlabelled")
    assert result.gain < 1
    assert abs(result.value) < 4 * result.error


@pytest.mark.parametrize("form", FORMS)
def test_no_error_where_none_can_be_formed(form):
    o, a, u = ensemble(4, 4, 4, 0.5, 16)
    result = bias_corrected(o, a, u, form)
    assert (result.error, result.error_gamma, result.error_chains, result.gain) == (None,) * 4
    assert not result.reliable
    assert "too short" in result.reason
    assert "not reliable" in str(result)
    json.dumps(result.as_dict(), allow_nan=False)


def test_error_of_chains_alone():
    o, a, u = ensemble(64, 4, 4, 0.5, 17)
    result = bias_corrected(o, a, u)
    assert result.error_gamma is None
    assert result.error == result.error_chains > 0
    assert not result.reliable


@pytest.mark.filterwarnings("ignore:.*does not pay")
def test_error_of_chains_sees_what_ties_the_sets():
    o, a, u = (1.5 * part for part in ensemble(64, 50, 50, 0.5, 19))
    slow = np.random.default_rng(20).normal(size=(64, 1))
    error = slow.std(ddof=1) / 8
    assert bias_corrected(o + slow, a, u + slow, "unlabelled").error_chains == pytest.approx(2 * error, rel=0.1)
    assert bias_corrected(o - slow, a, u + slow, "unlabelled").error_chains < 0.3 * error


def test_sets_in_order_and_what_they_take():
    sets = MarkovSets.in_order(10, 20, 30, 5)
    assert (sets.train, sets.correction, sets.unlabelled) == ((0, 10), (15, 35), (40, 70))
    assert sets.n_steps == 70
    series = np.arange(2 * 80).reshape(2, 80)
    assert np.array_equal(sets.take(torch.as_tensor(series), "correction"), series[:, 15:35])
    assert sets.take(series[..., None], "train").shape == (2, 10, 1)
    for short in (series[:, :69], series[0]):
        with pytest.raises(InputError, match=r"need a series of 70 steps, got shape \("):
            sets.take(short, "train")


BAD_SETS = [
    (((0, 10), (9, 20), (30, 40), 1), "train and correction sets overlap: .*before step 10, correction begins at 9"),
    (((0, 10), (12, 20), (30, 40), 3), "2 steps lie between the train and correction sets, the gap asks for 3"),
    (((0, 10), (50, 60), (30, 49), 3), "1 steps lie between the unlabelled and correction sets"),
    (((0, 10), (12, 12), (30, 40), 1), "the correction set needs 0 <= first < end, got steps 12 to 12"),
    (((-1, 10), (12, 20), (30, 40), 1), "the train set needs 0 <= first < end"),
    (((0, 10), (12, 20), (30, 40), 0), "gap between sets must be at least 1 step, got 0"),
    (((0, 100), (12, 20), (130, 140), 1), "train and correction sets overlap"),
]


@pytest.mark.parametrize("arguments, message", BAD_SETS)
def test_bad_sets(arguments, message):
    with pytest.raises(InputError, match=message):
        MarkovSets(*arguments)


# -- all-mode averaging: A averaged over many sources, corrected on one -------------------------


def sources(rng, n_chains=16, n_steps=60, n_sources=8):
    """Exact and sloppy values ``[chains, steps, sources]``, sources correlated by a common part."""
    common = ar1((n_chains, n_steps), 1.0, rng)[..., None]
    exact = common + 2 * rng.normal(size=(n_chains, n_steps, n_sources))
    return exact, 0.3 + 0.95 * exact + 0.1 * rng.normal(size=exact.shape)


def test_average_over_sources_is_corrected_and_covers():
    rng, pulls, biased = np.random.default_rng(21), [], []
    for _ in range(200):
        o, a = sources(rng)
        result = bias_corrected(o[..., 0], a[..., 0], None, averaged=a.mean(-1))
        assert result.value == pytest.approx((o[..., 0] - a[..., 0] + a.mean(-1)).mean(), abs=1e-12)
        assert (result.n_correction, result.n_unlabelled) == (960, 0)
        pulls.append(result.value / result.error)
        biased.append(result.uncorrected.value / result.uncorrected.error)
    assert abs(np.mean(pulls)) < 3.5 / sqrt(200)
    assert 0.6 < np.std(pulls) < 1.1
    assert np.mean(biased) > 3
    # eight sources with little in common: nearly as good as solving all of them
    assert result.gain > 3


def test_correction_with_another_source_is_rejected():
    """The difference of O on one source and A on another carries the noise of both."""
    rng = np.random.default_rng(22)
    o, a = sources(rng)
    right = bias_corrected(o[..., 0], a[..., 0], None, averaged=a.mean(-1))
    with pytest.warns(RuntimeWarning, match="does not pay"):
        wrong = bias_corrected(o[..., 0], a[..., 1], None, averaged=a.mean(-1))
    assert wrong.error > 1.5 * right.error


def test_bad_input_of_averages_over_sources():
    o, a = (x[..., 0] for x in sources(np.random.default_rng(23)))
    with pytest.raises(InputError, match="take form 'all'"):
        bias_corrected(o, a, None, "unlabelled")
    with pytest.raises(InputError, match=r"averaged approximation \(16, 59\) must be of the same"):
        bias_corrected(o, a, None, averaged=a[:, 1:])
