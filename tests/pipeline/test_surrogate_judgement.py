"""Plans of a surrogate run: what the training set promises is what comes; costs at equal error in closed form."""

from math import sqrt

import numpy as np
import pytest

from lattice_lightning.analysis import Costs, MarkovSets, Moments
from lattice_lightning.pipeline.label_sets import split_training
from lattice_lightning.pipeline.surrogate_judgement import carried_out, judge, moments_of, plans
from lattice_lightning.pipeline.targets import Target

TARGET, COSTS = Target("plaquette"), Costs(label=100.0, approximation=1.0)


def first(m):
    return m[0] + 0.0


def drawn(rng, n_chains, n, noise=0.3):
    """O = A + noise, both of unit variance and independent from step to step."""
    a = sqrt(1 - noise**2) * rng.normal(size=(1, n_chains, n))
    return a + noise * rng.normal(size=a.shape), a


def sets_of(rng, n_chains=16, n_bc=100, n_ul=1500, noise=0.3):
    (o, a), (p, u) = drawn(rng, n_chains, n_bc, noise), drawn(rng, n_chains, n_ul, noise)
    return {"correction": o, "unlabelled": p}, {"correction": a, "unlabelled": u}


def test_what_is_promised_is_what_comes():
    rng, ratios, targets = np.random.default_rng(1), [], []
    for _ in range(60):
        held = moments_of(*(s[0] for s in drawn(rng, 16, 40)))
        exact, guess = sets_of(rng)
        done = carried_out(held, COSTS, first, exact, guess)
        assert done["why_not"] is None
        ratios.append(done["realised"] / done["predicted"])
        targets.append(done["predicted"] / done["target"])
    # the larger of two errors is quoted, so a little above one
    assert 0.95 < np.mean(ratios) < 1.3
    assert all(0.8 < t <= 1.0001 for t in targets)


def test_a_promise_of_another_ensemble_is_seen_to_be_wrong():
    """Half the noise promised: the realised error is well above it."""
    rng, ratios = np.random.default_rng(2), []
    for _ in range(30):
        held = moments_of(*(s[0] for s in drawn(rng, 16, 40, noise=0.1)))
        done = carried_out(held, COSTS, first, *sets_of(rng, noise=0.6))
        ratios.append(done["realised"] / done["predicted"])
    assert np.mean(ratios) > 1.5


def test_a_plan_beyond_the_run_says_so():
    rng = np.random.default_rng(3)
    held = moments_of(*(s[0] for s in drawn(rng, 16, 40)))
    # approximations almost as dear as labels: the best plan takes far more labels than there are
    exact, guess = sets_of(rng, n_bc=4, n_ul=3000)
    done = carried_out(held, Costs(label=1.0, approximation=1.0), first, exact, guess)
    assert done["realised"] is None and "more configurations" in done["why_not"]


def test_costs_at_equal_error_in_closed_form():
    moments = Moments(1.0, 0.91, 0.09)
    found = plans(moments, COSTS, 0.001)
    expected = (sqrt(0.91 * 1.0) + sqrt(0.09 * 101.0)) ** 2 / 100
    assert found["cost_ratio"] == pytest.approx(expected, rel=1e-3)
    # without training, cost times error^2 is one number
    assert found["error_ratio"] == pytest.approx(sqrt(expected), rel=1e-3)
    dear = plans(moments, Costs(label=100.0, approximation=1.0, training=1e7), 0.001)
    assert dear["cost_ratio"] == pytest.approx(expected + 1e7 / (100 * dear["plan"]["n_full"]), rel=1e-3)
    # a label that holds the approximation already pays it once
    shared = plans(moments, Costs(label=100.0, approximation=50.0, shared=50.0), 0.001)
    assert shared["cost_ratio"] == pytest.approx((sqrt(0.91 * 50) + sqrt(0.09 * 100)) ** 2 / 100, rel=1e-3)


def test_pulls_against_labelling_everything():
    """A shifted approximation: biased without the correction, right with it."""
    from lattice_lightning.analysis import corrected_function

    rng = np.random.default_rng(4)
    exact, guess = sets_of(rng)
    guess = {name: a + 0.2 for name, a in guess.items()}
    result = corrected_function(first, exact["correction"], guess["correction"], guess["unlabelled"])
    entry = judge(TARGET, first, exact, guess, result)
    assert entry["bias"] == pytest.approx(0.2, abs=0.02)
    assert entry["bias_pull"] > 10
    assert abs(entry["corrected_pull"]) < 3.5


def test_a_gap_lies_inside_the_training_set():
    sets = MarkovSets.in_order(60, 20, 30, 10)
    assert split_training(sets) == ((0, 38), (48, 60))
