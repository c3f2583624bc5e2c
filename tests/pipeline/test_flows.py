"""Rows with flows the whole way: trained, weighed, sampled exactly, resumed, published, sampled from a file."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console
from small_flows import ROW, small_flow
from small_runs import changed, composed

from lattice_lightning.analysis import load_summary
from lattice_lightning.callbacks import read_metrics
from lattice_lightning.cli import main
from lattice_lightning.exceptions import InputError
from lattice_lightning.methods import ReverseKL
from lattice_lightning.metrics import weight_statistics
from lattice_lightning.observables import ScalarMoments
from lattice_lightning.pipeline.estimate import flow_stages
from lattice_lightning.pipeline.experiment import Experiment
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.outcome import load_histories, load_log_weights
from lattice_lightning.pipeline.publish import publish
from lattice_lightning.pipeline.train import train
from lattice_lightning.pipeline.weights import load_weights, rebuild_flow

MORE = {
    "rows.alternating": {"sampler": "alternating", "flow_of": ROW, "n_hmc": 2},
    "rows.latent": {"sampler": "latent_hmc", "flow_of": ROW, "integrator": {"trajectory_length": 0.1}},
    "rows.stochastic": {"sampler": "annealed", "flow_of": ROW},
}


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory):
    """Summary and folder of an uninterrupted run of every kind of row with a flow."""
    config = small_flow(tmp_path_factory.mktemp("flows"), **MORE, **{f"rows.{ROW}.training.ema": 0.9})
    summary = train(config, Console(quiet=True))
    (path,) = RunFolder(config["output_dir"]).path.glob("*/*")
    return summary, RunFolder(path), config


def test_summary_of_flows(flow_run):
    summary, folder, config = flow_run
    assert load_summary(folder.summary) == json.loads(json.dumps(summary))
    rows = {**summary["baselines"], summary["row"]: summary}
    assert list(rows) == list(config["rows"])
    assert [name for name, row in rows.items() if "ess" in row["sampling"]] == ["annealed", ROW, "stochastic"]
    stored = load_log_weights(folder.path / "log_weights.npz")
    for name, log_weights in stored.items():
        sampling, expected = rows[name]["sampling"], weight_statistics(torch.as_tensor(log_weights))
        assert sampling["ess"] == {"value": expected.ess, "error": expected.ess_error, "n": 64}
        assert sampling["log_z"] == {"value": expected.log_z, "error": expected.log_z_error}
    assert rows[ROW]["training"]["steps"] == 4
    assert rows[ROW]["training"]["loss"]["first"] is not None
    assert rows["alternating"]["training"] == rows[ROW]["training"], "it samples with the flow of that row"
    assert rows["latent"]["sampling"]["reversal_error"] < 1e-6
    assert rows[ROW]["sampling"]["exp_minus_dH"]["value"] is None
    assert rows["hmc"]["model"]["n_parameters"] == 0 < rows[ROW]["model"]["n_parameters"]


def test_no_trajectories_are_streamed_or_held_out(flow_run):
    folder = flow_run[1].path
    assert not (folder / "stream").exists()
    assert not list(folder.glob("chains/*held_out*"))


def test_report_shows_weights_and_training(flow_run):
    text = flow_run[1].report.read_text()
    assert "Log weights of direct draws" in text
    assert "Training loss" in text
    assert main(["report", str(flow_run[1].path)]) == 0
    assert flow_run[1].report.read_text().split("<img")[0] == text.split("<img")[0]


class Killed(BaseException):
    """What a test injects where a signal would end the process."""


def killing(method, on_call):
    calls = 0

    def wrapped(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == on_call:
            raise Killed
        return method(self, *args, **kwargs)

    return wrapped


# in the second epoch; between training and weights; between weights and sampling; in sampling
KILLS = [(ReverseKL, "training_step", 4), (Experiment, "weigh", 1), (Experiment, "sample", 1),
         (ScalarMoments, "measure", 15)]


def test_killed_at_every_stage(flow_run, tmp_path, without_plots):
    config = {**flow_run[2], "output_dir": str(tmp_path)}
    for owner, name, on_call in KILLS:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, name, killing(getattr(owner, name), on_call))
            train(config, Console(quiet=True))
        (path,) = tmp_path.glob("*/*")
        config["resume"] = str(path)
    train(config, Console(quiet=True))
    folder, reference = RunFolder(path), flow_run[1]
    ours, theirs = (load_weights(f.weights(ROW))["state_dict"] for f in (folder, reference))
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    assert read_metrics(folder.metrics) == read_metrics(reference.metrics)
    ours, theirs = (load_log_weights(f.path / "log_weights.npz") for f in (folder, reference))
    assert all(np.array_equal(ours[row], theirs[row]) for row in theirs)
    ours, theirs = (load_histories(f.path / "histories.npz") for f in (folder, reference))
    for row, series in theirs.items():
        assert all(np.array_equal(values, ours[row][name]) for name, values in series.items()), row


def test_flow_from_the_file_alone(flow_run):
    path = flow_run[1].weights(ROW)
    system, model = rebuild_flow(path)
    stored = load_weights(path)["state_dict"]
    found = model.state_dict()
    assert all(torch.equal(tensor, stored[f"average.model.{key}"]) for key, tensor in found.items())
    assert not all(torch.equal(tensor, stored[f"model.{key}"]) for key, tensor in found.items())
    assert system.lattice.shape == (4, 4)
    assert rebuild_flow(path, lattice=[6, 8])[1].lattice.shape == (6, 8)
    with pytest.raises(InputError, match="even extents"):
        rebuild_flow(path, lattice=[5, 4])


def test_sample_command_on_another_lattice(flow_run, tmp_path, monkeypatch, without_plots):
    monkeypatch.chdir(tmp_path)
    path = flow_run[1].weights(ROW)
    options = ["n_steps=3", "n_chains=4", "n_thermalise=1", "n_draws=32", "batch_size=8", "lattice=[4,6]"]
    for _ in range(2):
        assert main(["sample", f"checkpoint={path}", *options]) == 0
    first, second = (load_summary(p) for p in tmp_path.glob("outputs/flow_phi4_sample/*/summary.json"))
    assert first["config"]["lattice"] == [4, 6]
    assert first["sampling"]["ess"]["n"] == 32
    assert first["sampling"]["n_chains"] == 4
    assert first["observables"] == second["observables"]
    assert first["sampling"]["log_z"] == second["sampling"]["log_z"]


def test_row_from_a_checkpoint_is_not_trained(flow_run, tmp_path, monkeypatch, without_plots):
    monkeypatch.setattr(ReverseKL, "training_step", killing(ReverseKL.training_step, 1))
    row = {"sampler": "independence", "checkpoint": str(flow_run[1].weights(ROW))}
    summary = train(small_flow(tmp_path, rows={ROW: row}, lattice=[4, 6]), Console(quiet=True))
    assert summary["training"] is None
    assert summary["model"]["n_parameters"] == flow_run[0]["baselines"][ROW]["model"]["n_parameters"]


def test_warm_start(flow_run, tmp_path):
    path = str(flow_run[1].weights(ROW))
    config = small_flow(tmp_path, **{f"rows.{ROW}.warm_start": path})
    model, trained = Experiment(config, None).flow_model(ROW), rebuild_flow(path)[1]
    assert all(torch.equal(t, trained.state_dict()[k]) for k, t in model.state_dict().items())
    config = changed(config, {f"rows.{ROW}.flow.n_layers": 4})
    with pytest.raises(InputError, match=r"cannot start from the flow of warm_start.*Missing key"):
        Experiment(config, None)


def test_publish(flow_run, tmp_path):
    summary, folder, config = flow_run
    published = {"row": "paper", "parameters": {}, "source": "2101.08176", "value": 0.44, "error": 0.01}
    (tmp_path / "results.json").write_text(json.dumps([published]))
    publish(tmp_path, folder, summary, config)
    table = (tmp_path / "README.md").read_text()
    header = next(line for line in table.splitlines() if line.startswith("| row"))
    assert "ESS" in header and "log Z" in header and "s / eff. sample" in header
    assert "2101.08176" in table
    # the headline samples with the flow of another row
    assert (tmp_path / f"{ROW}.pt").read_bytes() == folder.weights(ROW).read_bytes()
    entries = json.loads((tmp_path / "results.json").read_text())
    assert entries[0] == published
    assert next(e for e in entries if e["row"] == ROW)["summary"]["sampling"]["ess"]["n"] == 64


def test_exact_free_field(tmp_path, without_plots):
    """The free field by a flow that is exact: log Z to rounding, every draw accepted."""
    flow = {"_target_": "lattice_lightning.models.FourierFlow"}
    prior = {"_target_": "lattice_lightning.models.FreeFieldPrior", "m2": 1.0}
    rows = {"free": {"sampler": "independence", "prior": prior, "flow": flow, "train": False}}
    changes = {"action.scalar.lam": 0.0, "action.scalar.m2": 1.0, "exact": "free"}
    summary = train(small_flow(tmp_path, rows=rows, **changes), Console(quiet=True))
    sampling = summary["sampling"]
    assert sampling["var_log_w"] < 1e-20
    assert sampling["log_z"]["value"] == pytest.approx(sampling["log_z"]["exact"], abs=1e-10)
    assert sampling["acceptance"]["value"] == 1.0
    assert set(summary["judgement"]["free"]["pulls"]) | set(summary["judgement"]["free"]["without_error"]) == {
        "free phi2", "free magnetisation_squared"}


@pytest.mark.parametrize("experiment, lattice", [("flow_phi4", [4, 4]), ("flow_su2", [4, 6])])
def test_plan_times_closed_form_fits(experiment, lattice, tmp_path):
    config = composed(f"experiment={experiment}", "debug=limit", f"lattice={lattice}", "points=null", f"output_dir={tmp_path}")
    planned = Experiment(config, None)
    for name in planned.trained:
        (stage,) = [s for s in flow_stages(planned, name) if s.name == f"train {name}"]
        assert stage.seconds > 0
        assert all(bool(p.isfinite().all()) for p in planned.flow_model(name).parameters())
