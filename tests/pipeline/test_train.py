"""The whole way on a small system: what a run leaves, and that it is right."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from small_runs import small

from lattice_lightning.analysis import load_summary
from lattice_lightning.pipeline.estimate import clock
from lattice_lightning.pipeline.experiment import Experiment
from lattice_lightning.pipeline.train import load_histories
from lattice_lightning.pipeline.weights import load_weights

ROWS = ["hmc", "linear", "covnet"]


def test_exactly_one_valid_summary(finished):
    summary, folder, _ = finished
    assert list(folder.path.rglob("summary*")) == [folder.summary]
    assert load_summary(folder.summary) == json.loads(json.dumps(summary))
    assert summary["row"] == "covnet"
    assert list(summary["baselines"]) == ["hmc", "linear"]
    assert not list(folder.path.rglob("*.partial*"))


def test_summary_agrees_with_the_histories(finished):
    summary, folder, _ = finished
    histories = load_histories(folder.path / "histories.npz")
    assert list(histories) == ROWS
    for name, row in {**summary["baselines"], "covnet": summary}.items():
        accepted = histories[name]["accepted"]
        assert accepted.shape == (8, 4) == (row["sampling"]["n_chains"], row["sampling"]["n_steps"])
        assert row["sampling"]["acceptance"]["value"] == pytest.approx(accepted.mean())
        for observable, entry in row["observables"].items():
            assert entry["value"] == pytest.approx(histories[name][observable].mean())
    assert summary["comparison"]["plaquette"]["difference"] == pytest.approx(
        histories["covnet"]["plaquette"].mean() - histories["hmc"]["plaquette"].mean()
    )


def test_rows_differ_in_what_they_should(finished):
    summary, folder, _ = finished
    histories = load_histories(folder.path / "histories.npz")
    assert not np.array_equal(histories["hmc"]["plaquette"], histories["linear"]["plaquette"])
    assert summary["baselines"]["hmc"]["training"] is None
    assert summary["training"]["steps"] == 4
    assert summary["model"]["n_parameters"] > summary["baselines"]["linear"]["model"]["n_parameters"] == 2
    assert summary["held_out"]["against"]["row"] == "linear"


def test_config_repeats_the_run(finished):
    summary, folder, _ = finished
    stored = folder.read_config()
    assert {k: v for k, v in summary["config"].items() if k in stored} == stored
    folder.require_same(summary["config"])


class _Resources(HTMLParser):
    """Everything a browser would load, and every tag."""

    def __init__(self):
        super().__init__()
        self.loaded, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [v for k, v in attributes if k in ("src", "href", "data", "srcset", "poster")]


def test_report_is_one_file(finished):
    _, folder, _ = finished
    text = folder.report.read_text()
    page = _Resources()
    page.feed(text)
    assert page.loaded, "there are plots"
    assert all(v.startswith("data:image/png;base64,") for v in page.loaded)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\(", text)
    assert page.tags.count("table") >= 3
    for word in (*ROWS, "plaquette", "chiral_condensate", "Polyakov", "Costs"):
        assert word in text


def test_metrics(finished):
    _, folder, _ = finished
    with folder.metrics.open() as file:
        entries = list(csv.DictReader(file))
    for row in ("linear", "covnet"):
        losses = [e for e in entries if e["row"] == row and e["metric"] == "loss"]
        assert [(e["epoch"], e["step"]) for e in losses] == [("0", "0"), ("0", "1"), ("1", "2"), ("1", "3")]
        assert sum(e["row"] == row and e["metric"] == "acceptance" for e in entries) == 2
    assert {e["row"] for e in entries} == {"linear", "covnet"}


def test_closed_form_coefficients_are_the_least_squares(finished):
    """The fit of the row without a network from the stored trajectories, with numpy."""
    summary, folder, _ = finished
    experiment = Experiment(summary["config"], folder)
    method, stream = experiment.methods["linear"], experiment.stream()
    parts = [method.pair_features(stream[i]) for i in range(4)]
    features = torch.cat([f for f, _ in parts], 1).detach().numpy()
    target = torch.cat([y for _, y in parts]).numpy()
    expected = np.linalg.lstsq(features.T, target, rcond=None)[0]
    got = load_weights(folder.weights("linear"))["state_dict"]["effective.coefficients"].numpy()
    assert np.allclose(got, expected, rtol=1e-6)


def test_printed_plan_and_table(finished):
    _, folder, text = finished
    plan, _, rest = text.partition("thermalise ...")
    assert "SU(2) on 4x4, 8 chains a process on cpu, field [8, 2, 4, 4, 2, 2]" in plan
    assert "MiB" in plan
    assert re.search(r"│ sample covnet +│ 7 trajectories", plan)
    assert re.search(r"│ all +│", plan)
    assert str(folder.report) in rest.replace("\n", "")
    assert "errors that are not reliable" in rest, "four steps resolve nothing, and the run says so"


def test_dry_run(tmp_path, runner, finished):
    summary, folder, text = runner(small(tmp_path / "out", dry_run=True))
    assert summary == {}
    assert folder is None
    assert not (tmp_path / "out").exists()
    for piece in ("field [8, 2, 4, 4, 2, 2]", "MiB", "parameters", "sample covnet", "train covnet"):
        assert piece in text
    shown = re.search(r"covnet +│ self_learning_hmc │ m = 0.6, CovNet +│ (\d+)", text)
    assert int(shown.group(1)) == finished[0]["model"]["n_parameters"]


def test_stream_is_removed_unless_kept(finished):
    assert len(list(finished[1].path.glob("stream/train_rank0/trajectory_*.pt"))) == 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.6, "1 h 00 min"),
     (7500, "2 h 05 min")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text
