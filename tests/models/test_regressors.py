"""Surrogates of an expensive observable: what they learn, and what they refuse."""

import numpy as np
import pytest

from lattice_lightning.exceptions import InputError
from lattice_lightning.models.regressors import DeepTrees, Ridge, Trees

ALL = [Ridge, Trees, DeepTrees]


def data(n, seed, noise=0.1):
    """Features and labels that no linear law describes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    return x, x[:, 0] ** 2 + np.sin(2 * x[:, 1]) + noise * rng.normal(size=n)


def test_ridge_recovers_a_linear_law():
    rng = np.random.default_rng(1)
    # features of very different size
    x = rng.normal(size=(200, 3)) * [1.0, 1e-4, 1e3] + [0.0, 5.0, -20.0]
    weights = np.array([2.0, -3e4, 1e-3])
    model = Ridge(1e-10).fit(x, x @ weights + 7)
    new = rng.normal(size=(50, 3)) * [1.0, 1e-4, 1e3] + [0.0, 5.0, -20.0]
    assert np.allclose(model.predict(new), new @ weights + 7, atol=1e-5)


def test_strong_ridge_predicts_the_mean():
    x, y = data(200, 2)
    assert np.allclose(Ridge(1e12).fit(x, y).predict(x), y.mean(), atol=1e-6)


def test_trees_beat_a_constant_and_a_line_on_held_out():
    x, y = data(600, 3)
    new, truth = data(400, 4)
    error = {model: np.mean((model().fit(x, y).predict(new) - truth) ** 2) for model in ALL}
    assert error[Trees] < 0.25 * np.mean((truth - y.mean()) ** 2)
    assert error[Trees] < 0.5 * error[Ridge]


def test_deep_trees_memorise_what_others_do_not():
    x, y = data(300, 5, noise=1.0)
    new, truth = data(300, 6, noise=1.0)
    model = DeepTrees().fit(x, y)
    assert np.allclose(model.predict(x), y, atol=1e-12)
    assert np.mean((model.predict(new) - truth) ** 2) > 1
    assert np.mean((Trees().fit(x, y).predict(x) - y) ** 2) > 0.1


@pytest.mark.parametrize("kind", ALL)
def test_fit_returns_itself_and_is_reproducible(kind):
    x, y = data(80, 7)
    model = kind()
    assert model.fit(x, y) is model
    predicted = model.predict(x)
    assert predicted.shape == (80,) and predicted.dtype == np.float64
    assert np.array_equal(predicted, kind().fit(x, y).predict(x))
    # fitted anew, it forgets
    model.fit(x, -y)
    assert np.corrcoef(model.predict(x), predicted)[0, 1] < 0


@pytest.mark.parametrize("kind", ALL)
def test_a_folder_is_left_alone(kind, tmp_path):
    x, y = data(80, 10)
    assert kind.takes == "features"
    with_folder = kind().fit(x, y, folder=tmp_path / "none")
    assert np.array_equal(with_folder.predict(x), kind().fit(x, y).predict(x))
    assert not list(tmp_path.iterdir())


def test_trees_depend_on_their_seed():
    x, y = data(80, 8)
    assert not np.array_equal(Trees(seed=1).fit(x, y).predict(x), Trees(seed=2).fit(x, y).predict(x))


@pytest.mark.parametrize("kind", ALL)
def test_bad_data(kind):
    x, y = data(30, 9)
    with pytest.raises(InputError, match=rf"{kind.__name__} predicts after fit"):
        kind().predict(x)
    with pytest.raises(InputError, match=r"features \[n, k\] and labels \[n\], got \(30, 3\) and \(29,\)"):
        kind().fit(x, y[1:])
    with pytest.raises(InputError, match=r"got \(30,\) and \(30,\)"):
        kind().fit(y, y)
    with pytest.raises(InputError, match=r"got \(30, 3\) and \(30, 1\)"):
        kind().fit(x, y[:, None])
    with pytest.raises(InputError, match="at least two labels, got 1"):
        kind().fit(x[:1], y[:1])
    constant = x.copy()
    constant[:, 1] = 4.0
    with pytest.raises(InputError, match=r"features \[1\] never vary on the training set; leave them out"):
        kind().fit(constant, y)
    x[3, 2] = np.nan
    with pytest.raises(InputError, match=r"features: entry \[3, 2\] is not finite \(1 in all\)"):
        kind().fit(x, y)
    y[5] = y[6] = np.inf
    with pytest.raises(InputError, match=r"labels: entry \[5\] is not finite \(2 in all\)"):
        kind().fit(data(30, 9)[0], y)


def test_a_refused_fit_leaves_the_model_unfitted():
    model = Ridge()
    with pytest.raises(InputError):
        model.fit(np.ones((4, 1)), np.ones(4))
    with pytest.raises(InputError, match="predicts after fit"):
        model.predict(np.ones((4, 1)))


@pytest.mark.parametrize("ridge", [-1.0, float("nan")])
def test_bad_ridge(ridge):
    with pytest.raises(InputError, match="ridge must not be negative, got"):
        Ridge(ridge)


BAD_TREES = [
    {"n_trees": 0}, {"depth": 0}, {"learning_rate": 0}, {"learning_rate": 1.5}, {"subsample": 0},
    {"subsample": 1.1}, {"learning_rate": float("nan")},
]


@pytest.mark.parametrize("arguments", BAD_TREES)
def test_bad_trees(arguments):
    with pytest.raises(InputError, match="expected n_trees >= 1, depth >= 1, learning_rate and subsample"):
        Trees(**arguments)
