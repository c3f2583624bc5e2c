"""Networks as surrogates: what they learn, resuming, determinism, other lattices, bad input."""

import warnings

import numpy as np
import pytest
import torch

from lattice_lightning.exceptions import FormatError, InputError, ResumeError
from lattice_lightning.gauge import wilson_loops
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.methods.network_regressors import LCNNRegressor, MLPRegressor
from lattice_lightning.methods.surrogate_regression import Batches, LabelledData, SurrogateRegression
from lattice_lightning.models.mlp import MLP
from lattice_lightning.models.regressors import Regressor, Ridge
from lattice_lightning.pipeline.build import instantiate
from lattice_lightning.seeds import derive_seed

FAST = {"hidden": (8,), "epochs": 5, "batch_size": 16, "lr": 1e-2}


def data(n, seed, noise=0.0):
    """Features of different sizes, and labels that no linear law describes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    y = 50 + 1e-3 * (x[:, 0] ** 2 + np.sin(2 * x[:, 1]) + noise * rng.normal(size=n))
    return x * [1.0, 1e-4, 1e3] + [0.0, 5.0, -20.0], y


def smooth_links(group, lattice, n, seed, strength=0.6):
    """Fields near the identity, so that neighbouring plaquettes have something to do with each other."""
    rng = torch.Generator().manual_seed(seed)
    cold = group.cold(lattice, n)
    return group.evolve(cold, strength * group.momentum(cold, rng))


def rectangles(group, lattice, links):
    """Mean Re tr / N of the 2 x 1 rectangles of both orientations."""
    packed = group.pack(links)
    both = [wilson_loops(group, lattice, packed, r, s) for r, s in ((2, 1), (1, 2))]
    return (torch.stack(both) / group.n_colors).flatten(0, -2).mean(0).numpy()


def plaquettes(group, lattice, links):
    return (wilson_loops(group, lattice, group.pack(links), 1, 1) / group.n_colors).flatten(0, -2).mean(0).numpy()


def score(predicted, truth):
    """Share of the variance that is left unexplained."""
    return float(np.mean((predicted - truth) ** 2) / truth.var())


# -- what they learn -----------------------------------------------------------------------------


def test_mlp_learns_what_a_line_cannot():
    (x, y), (new, truth) = data(800, 1), data(300, 2)
    mlp = MLPRegressor(hidden=(32, 32), epochs=60, batch_size=32, lr=1e-2).fit(x, y)
    assert score(mlp.predict(new), truth) < 0.01
    assert score(Ridge().fit(x, y).predict(new), truth) > 0.5


SPAN = {"polyakov": False, "head": (), "batch_size": 16}


@pytest.fixture(scope="module")
def loops():
    """Fields and a loop that is no input of the L-CNN, to learn from and to judge by."""
    group, lattice = SU2(), Lattice((4, 4))
    fields = [smooth_links(group, lattice, n, seed=n) for n in (600, 200)]
    return [(u, rectangles(group, lattice, u)) for u in fields]


@pytest.mark.parametrize("symmetry", ["none", "spatial", "hypercubic"])
def test_a_loop_in_the_span_of_one_layer_is_found_at_once(symmetry, loops):
    """Traces of enough channels with random weights span the loops of the layer: the start is exact."""
    (links, y), (new, truth) = loops
    options = {**SPAN, "symmetry": symmetry, "epochs": 1, "lr": 1e-7}
    assert score(LCNNRegressor(SU2(), (8,), **options).fit(links, y).predict(new), truth) < 1e-8
    # without products of plaquettes there is nothing to find
    assert score(LCNNRegressor(SU2(), (), **options).fit(links, y).predict(new), truth) > 0.3


def test_training_finds_what_the_start_lacks(loops):
    (links, y), (new, truth) = loops

    def left(**options):
        model = LCNNRegressor(SU2(), (2,), seed=1, **SPAN, **options)
        return score(model.fit(links, y).predict(new), truth)

    assert left(epochs=20, lr=1e-2) < 0.02 < 0.2 < left(epochs=1, lr=1e-7)


def test_lcnn_predicts_intensive_labels_on_larger_lattices(loops):
    (links, y), large = loops[0], Lattice((6, 8))
    model = LCNNRegressor(SU2(), (8,), **SPAN, epochs=1, lr=1e-7).fit(links, y)
    new = smooth_links(SU2(), large, 100, seed=3)
    assert score(model.predict(new), rectangles(SU2(), large, new)) < 1e-6
    # the same field, twice
    assert np.allclose(model.predict(links.repeat(1, 1, 2, 1, 1, 1)), model.predict(links), rtol=0, atol=1e-9)


# -- seeds, best weights, validation -------------------------------------------------------------


def test_same_seed_same_numbers_and_global_state_untouched():
    x, y = data(100, 3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = MLPRegressor(**FAST).fit(x, y).predict(x)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    torch.rand(3)
    assert np.array_equal(MLPRegressor(**FAST).fit(x, y).predict(x), first)
    assert not np.array_equal(MLPRegressor(**FAST, seed=1).fit(x, y).predict(x), first)


def test_fitted_anew_it_forgets():
    x, y = data(100, 4)
    model = MLPRegressor(**FAST)
    assert model.fit(x, y) is model
    first = model.predict(x)
    assert first.shape == (100,) and first.dtype == np.float64
    model.fit(x[:, :2], -y)
    assert np.array_equal(model.fit(x, y).predict(x), first)


def test_the_last_rows_validate():
    x, y = torch.arange(20.0)[:, None], torch.arange(20.0)
    split = LabelledData(x, y, 0.25, 4, seed=1)
    assert split.training_part[1].tolist() == list(range(15))
    assert split.validation_part[1].tolist() == [15, 16, 17, 18, 19]
    assert [len(part) for _, part in split.train_dataloader()] == [4, 4, 4, 3] and split.n_batches == 4
    assert torch.cat([part for _, part in split.train_dataloader()]).sort()[0].tolist() == list(range(15))
    assert [part.tolist() for _, part in split.val_dataloader()] == [[15, 16, 17, 18], [19]]
    # at least one row on each side
    assert LabelledData(x[:2], y[:2], 0.01, 4, 1).n_train == LabelledData(x[:2], y[:2], 0.99, 4, 1).n_train == 1


def test_validation_rows_never_train():
    """Labels of the last fifth change which weights are best, not a step of the training."""
    x, y = data(100, 5)
    other = y.copy()
    other[80:] += 1.0
    final = []
    for labels in (y, other):
        model = MLPRegressor(**FAST, patience=100)
        weights = []

        class Watched(SurrogateRegression):
            def take_best(self, weights=weights):
                weights.append({k: v.clone() for k, v in self.network.state_dict().items()})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lattice_lightning.methods.network_regressors.SurrogateRegression", Watched)
            model.fit(x, labels)
        final.append(weights[0])
    assert all(torch.equal(final[0][k], final[1][k]) for k in final[0])
    moved = y.copy()
    moved[79] += 1.0
    assert not np.array_equal(MLPRegressor(**FAST).fit(x, moved).predict(x), MLPRegressor(**FAST).fit(x, y).predict(x))


def test_standardisation_is_that_of_the_training_part():
    x, y = data(100, 6)
    model = MLPRegressor(**FAST).fit(x, y)._model
    assert np.allclose(model.input_center, x[:80].mean(0)) and np.allclose(model.input_scale, x[:80].std(0))
    assert float(model.label_center) == pytest.approx(y[:80].mean())
    assert float(model.label_scale) == pytest.approx(y[:80].std())


def test_training_stops_when_patience_ends_and_keeps_the_best(tmp_path, monkeypatch):
    rng = np.random.default_rng(7)
    # mostly noise: what is learnt of it by heart makes validation worse
    x = rng.normal(size=(60, 4))
    y = x[:, 0] + rng.normal(size=60)
    options = {"hidden": (64,), "batch_size": 8, "lr": 3e-3, "epochs": 200}
    model = MLPRegressor(**options, patience=3).fit(x, y, folder=tmp_path)
    rows = (tmp_path / "log" / "version_0" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val_loss")
    losses = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert len(losses) < 50 and np.argmin(losses) == len(losses) - 4
    network = model._model
    with torch.no_grad():
        kept = float(network.loss((torch.as_tensor(x[48:]), torch.as_tensor(y[48:]))))
    assert kept == pytest.approx(min(losses), rel=1e-5) and kept < 0.99 * losses[-1]
    # killed after the last epoch: it is known to be the last
    (tmp_path / "weights.pt").unlink()
    no_training(monkeypatch)
    again = MLPRegressor(**options, patience=3).fit(x, y, folder=tmp_path)
    assert np.array_equal(again.predict(x), model.predict(x))


def test_the_start_counts_among_the_best():
    x, y = data(60, 17)
    model = MLPRegressor(**{**FAST, "epochs": 2, "lr": 10.0}).fit(x, y)
    start = MLP(3, (8,), seed=derive_seed(0, "weights")).state_dict()
    assert all(torch.equal(start[k], v) for k, v in model._model.network.state_dict().items())


# -- folders and files ---------------------------------------------------------------------------


class Killed(Exception):
    pass


def killed_after(epochs, monkeypatch):
    """Trainings die at the start of the epoch after that many."""

    def die(self):
        if self.current_epoch == epochs:
            raise Killed

    monkeypatch.setattr(SurrogateRegression, "on_train_epoch_start", die)


@pytest.mark.parametrize("patience", [3, 100])
@pytest.mark.parametrize("died_after", [1, 4])
def test_resumed_equals_uninterrupted(died_after, patience, tmp_path, monkeypatch):
    x, y = data(100, 8, noise=1.0)
    options = {**FAST, "epochs": 8, "patience": patience}
    whole = MLPRegressor(**options).fit(x, y, folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        killed_after(died_after, patch)
        with pytest.raises(Killed):
            MLPRegressor(**options).fit(x, y, folder=tmp_path / "killed")
    assert not (tmp_path / "killed" / "weights.pt").exists()
    torch.rand(5)
    resumed = MLPRegressor(**options).fit(x, y, folder=tmp_path / "killed")
    assert np.array_equal(resumed.predict(x), whole.predict(x))
    assert np.array_equal(MLPRegressor(**options).fit(x, y).predict(x), whole.predict(x))
    # without the state of optimizer and schedule it would be another
    ckpt = torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)
    assert ckpt["optimizer_states"][0]["state"] and ckpt["lr_schedulers"]


def test_lcnn_resumes_bitwise(tmp_path, monkeypatch):
    group, lattice = SU2(), Lattice((3, 3))
    links = smooth_links(group, lattice, 40, 9)
    y = rectangles(group, lattice, links)
    options = {"layers": (2,), "epochs": 4, "batch_size": 8}
    whole = LCNNRegressor(group, **options).fit(links, y)
    with monkeypatch.context() as patch:
        killed_after(2, patch)
        with pytest.raises(Killed):
            LCNNRegressor(group, **options).fit(links, y, folder=tmp_path)
    resumed = LCNNRegressor(group, **options).fit(links, y, folder=tmp_path)
    assert np.array_equal(resumed.predict(links), whole.predict(links))


def no_training(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr("lattice_lightning.methods.network_regressors.Trainer", refuse)


def test_a_finished_fit_is_read(tmp_path, monkeypatch):
    x, y = data(100, 10)
    first = MLPRegressor(**FAST).fit(x, y, folder=tmp_path).predict(x)
    no_training(monkeypatch)
    assert np.array_equal(MLPRegressor(**FAST).fit(x, y, folder=tmp_path).predict(x), first)
    # killed between the last checkpoint and the weights
    (tmp_path / "weights.pt").unlink()
    assert np.array_equal(MLPRegressor(**FAST).fit(x, y, folder=tmp_path).predict(x), first)
    (tmp_path / "weights.pt").unlink()
    (tmp_path / "last.ckpt").unlink()
    with pytest.raises(AssertionError, match="trained again"):
        MLPRegressor(**FAST).fit(x, y, folder=tmp_path)


def test_a_folder_of_another_fit_is_refused(tmp_path):
    x, y = data(100, 11)
    MLPRegressor(**FAST).fit(x, y, folder=tmp_path)
    with pytest.raises(ResumeError, match=r"holds a fit of other options: .*; give another folder"):
        MLPRegressor(**{**FAST, "lr": 1e-3}).fit(x, y, folder=tmp_path)
    other = y.copy()
    other[3] += 1e-9
    with pytest.raises(ResumeError, match="holds a fit of other data"):
        MLPRegressor(**FAST).fit(x, other, folder=tmp_path)
    (tmp_path / "weights.pt").unlink()
    with pytest.raises(ResumeError, match="holds a fit of other data"):
        MLPRegressor(**FAST).fit(x, other, folder=tmp_path)
    links = smooth_links(SU2(), Lattice((2, 2)), 10, 1)
    with pytest.raises(ResumeError, match="holds a fit of other regressor"):
        LCNNRegressor(SU2()).fit(links, np.arange(10.0), folder=tmp_path)


def test_without_folder_nothing_is_written_and_nothing_warns(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    x, y = data(50, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        MLPRegressor(**FAST).fit(x, y)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_files_come_back(tmp_path):
    x, y = data(60, 13)
    model = MLPRegressor(**FAST, activation="tanh").fit(x, y)
    read = MLPRegressor.load(model.save(tmp_path / "mlp.pt"))
    assert np.array_equal(read.predict(x), model.predict(x))
    assert read.config == model.config and read.n_parameters == model.n_parameters == 3 * 8 + 8 + 8 + 1
    group = SUN(3)
    links = smooth_links(group, Lattice((3, 3, 2)), 12, 2)
    options = {"layers": (2, 1), "epochs": 2, "symmetry": "none", "c_even": False, "site_hidden": 2}
    lcnn = LCNNRegressor(group, **options).fit(links, np.arange(12.0) ** 2)
    again = LCNNRegressor.load(lcnn.save(tmp_path / "lcnn.pt"))
    assert np.array_equal(again.predict(links), lcnn.predict(links)) and again.group.name == "SU(3)"
    with pytest.raises(InputError, match=r"lcnn.pt holds 'LCNNRegressor', not what MLPRegressor.save writes"):
        MLPRegressor.load(tmp_path / "lcnn.pt")
    with pytest.raises(InputError, match="no weights at"):
        MLPRegressor.load(tmp_path / "none.pt")
    (tmp_path / "lcnn.pt").write_bytes((tmp_path / "lcnn.pt").read_bytes()[:500])
    with pytest.raises(FormatError, match=r"cannot read .*lcnn.pt .*truncated"):
        LCNNRegressor.load(tmp_path / "lcnn.pt")
    torch.save({"a": 1}, tmp_path / "mlp.pt")
    with pytest.raises(FormatError, match="without origin and state_dict"):
        MLPRegressor.load(tmp_path / "mlp.pt")
    with pytest.raises(InputError, match=r"is saved after fit\(features, labels\)"):
        MLPRegressor().save(tmp_path / "x.pt")


# -- configs and bad input -----------------------------------------------------------------------


def test_made_from_flat_configs():
    package = "lattice_lightning.methods.network_regressors"
    context = {"lattice": Lattice((4, 4)), "group": SU2()}
    mlp = instantiate({"_target_": f"{package}.MLPRegressor", "hidden": [4], "epochs": 3}, Regressor, **context)
    lcnn = instantiate({"_target_": f"{package}.LCNNRegressor", "layers": [2], "head": []}, Regressor, **context)
    assert (mlp.takes, lcnn.takes, Ridge.takes) == ("features", "links", "features")
    assert mlp.config["hidden"] == [4] and lcnn.config["group"] == "SU(2)"


@pytest.mark.parametrize("kind", [MLPRegressor, LCNNRegressor])
def test_bad_options(kind):
    made = {LCNNRegressor: {"group": SU2()}, MLPRegressor: {}}[kind]
    for wrong in ({"epochs": 0}, {"batch_size": 0}, {"patience": 0}, {"lr": 0}, {"weight_decay": -1}):
        with pytest.raises(InputError, match="expected epochs, batch_size, patience >= 1"):
            kind(**made, **wrong)
    for validation in (0, 1, float("nan")):
        with pytest.raises(InputError, match="validation is the share of rows between 0 and 1"):
            kind(**made, validation=validation)
    with pytest.raises(InputError, match="device must be like cpu or cuda:0, got 'fast'"):
        kind(**made, device="fast")


def test_bad_networks():
    with pytest.raises(InputError, match="an activation is one of"):
        MLPRegressor(activation="sine")
    with pytest.raises(InputError, match="hidden widths >= 1"):
        MLPRegressor(hidden=(0,))
    with pytest.raises(InputError, match="symmetry must be one of"):
        LCNNRegressor(SU2(), symmetry="cubic")
    with pytest.raises(InputError, match="reads gauge links, got a field of"):
        LCNNRegressor(RealLine())


def test_bad_data():
    x, y = data(30, 14)
    with pytest.raises(InputError, match=r"MLPRegressor predicts after fit\(features, labels\)"):
        MLPRegressor().predict(x)
    with pytest.raises(InputError, match=r"the 24 labels that train do not vary \(all 2.0\)"):
        MLPRegressor().fit(x, np.full(30, 2.0))
    # those that validate do not help
    y = np.where(np.arange(30) < 24, 2.0, y)
    with pytest.raises(InputError, match="the 24 labels that train do not vary"):
        MLPRegressor().fit(x, y)
    model = MLPRegressor(**FAST).fit(*data(30, 14))
    with pytest.raises(InputError, match=r"fitted to features \[n, 3\], got \[30, 2\]"):
        model.predict(x[:, :2])


def test_bad_links():
    group, lattice = SU2(), Lattice((2, 2))
    links, y = smooth_links(group, lattice, 10, 1), np.arange(10.0)
    model = LCNNRegressor(group, layers=(1,), epochs=1)
    with pytest.raises(InputError, match=r"LCNNRegressor predicts after fit\(links, labels\)"):
        model.predict(links)
    with pytest.raises(InputError, match=r"takes a tensor of links \[n, mu, .* got ndarray \[10, 3\]"):
        model.fit(np.zeros((10, 3)), y)
    with pytest.raises(InputError, match=r"expected links \[n, mu, .* and labels \[n\], got \(10, 2, .* and \(9,\)"):
        model.fit(links, y[1:])
    with pytest.raises(InputError, match="links: all fields are equal"):
        model.fit(group.cold(lattice, 10), y)
    with pytest.raises(InputError, match=r"expected SU\(2\) links"):
        model.fit(U1().cold(lattice, 10), y)
    damaged = links.clone()
    damaged[3, 1, 0, 1, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"links: entry \[3, 1, 0, 1, 0, 0\] is not finite \(1 in all\)"):
        model.fit(damaged, y)
    model.fit(links, y)
    with pytest.raises(InputError, match="in 2 dimensions, got a tensor"):
        model.predict(smooth_links(group, Lattice((2, 2, 2)), 3, 1))
    # and anew in other dimensions
    cube = smooth_links(group, Lattice((2, 2, 2)), 10, 1)
    assert model.fit(cube, y).predict(cube).shape == (10,)


def test_a_loss_that_is_not_finite_is_an_error():
    x, y = data(60, 15)
    with pytest.raises(InputError, match=r"the loss of step \d+ is not finite: lower lr=1e\+300"):
        MLPRegressor(**{**FAST, "lr": 1e300}).fit(x, y)


def test_batches_follow_their_generator():
    x, y = torch.arange(10.0)[:, None], torch.arange(10.0)
    orders = [
        torch.cat([part for _, part in Batches(x, y, 3, torch.Generator().manual_seed(seed))]).tolist()
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == y.tolist()
    for inputs, labels in Batches(x, y, 3, torch.Generator().manual_seed(1)):
        assert torch.equal(inputs[:, 0], labels)


def test_loss_is_in_units_of_the_labels_variance():
    x, y = (torch.as_tensor(a) for a in data(100, 16))
    method = SurrogateRegression(MLP(3, ()), 3, n_epochs=1, n_batches=1)
    method.standardise(x, y)
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.zero_()
        assert float(method.loss((x, y))) == pytest.approx(1.0)
        torch.testing.assert_close(method.predict(x, 7), y.mean().expand(100))
    assert method.predict(x[:0]).shape == (0,)
