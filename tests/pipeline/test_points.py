"""One experiment at several points: each resumable, all of them in one summary and one table."""

import io
import json

import pytest
import torch
from rich.console import Console
from small_flows import ROW, small_flow

from lattice_lightning.analysis import load_summary
from lattice_lightning.cli import main
from lattice_lightning.methods import ReverseKL
from lattice_lightning.pipeline.experiment import Experiment
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.points import point_configs, train_points
from lattice_lightning.pipeline.weights import load_weights, rebuild_flow

POINTS = {
    "A": {"rows": {"annealed": None}},
    "B": {"lattice": [4, 6], "action": {"scalar": {"lam": 6.0}}, "rows": {
        "annealed": None, ROW: {"warm_start": f"A/{ROW}"},
        "moved": {"sampler": "independence", "flow_of": f"A/{ROW}"},
    }},
}


def config_of(tmp_path, **changes):
    return small_flow(tmp_path / "out", points=POINTS, publish=str(tmp_path / "published"), **changes)


@pytest.fixture(scope="module")
def points_run(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("points")
    summary = train_points(config_of(tmp_path), Console(quiet=True))
    (path,) = tmp_path.glob("out/*/*")
    return summary, RunFolder(path), tmp_path


def test_configs_of_points(tmp_path):
    configs = point_configs(config_of(tmp_path))
    assert configs["A"]["lattice"] == [4, 4] and configs["B"]["lattice"] == [4, 6]
    assert configs["B"]["action"]["scalar"]["lam"] == 6.0
    assert configs["B"]["action"]["scalar"]["m2"] == configs["A"]["action"]["scalar"]["m2"]
    assert list(configs["A"]["rows"]) == ["hmc", ROW]
    assert configs["A"]["seed"] != configs["B"]["seed"], "their chains must be unrelated"
    assert "flow" in configs["B"]["rows"][ROW], "merged with the row of all points"


def test_one_summary_of_all_points(points_run):
    summary, folder, _ = points_run
    assert list(folder.path.rglob("summary*")) == [folder.summary]
    assert load_summary(folder.summary) == json.loads(json.dumps(summary))
    rows = {**summary["baselines"], summary["row"]: summary}
    assert list(rows) == ["A/hmc", f"A/{ROW}", "B/hmc", f"B/{ROW}", "B/moved"]
    assert rows["B/hmc"]["parameters"]["lattice"] == [4, 6]
    assert rows["A/hmc"]["parameters"]["point"] == "A"
    # each point against its own HMC
    for point in "AB":
        ours, hmc = (rows[f"{point}/{row}"]["observables"]["phi2"]["value"] for row in (ROW, "hmc"))
        assert rows[f"{point}/{ROW}"]["comparison"]["phi2"]["difference"] == pytest.approx(ours - hmc)
        assert rows[f"{point}/hmc"]["comparison"] is None
    assert rows["B/moved"]["training"] is None
    text = folder.report.read_text()
    assert "<h3>B</h3>" in text and "R on 4x6; m2 = -4.0, lam = 6.0" in text
    assert "Quality of every row against the point" in text


def test_flows_go_from_point_to_point(points_run):
    folder = points_run[1]
    first = folder.point("A") / "checkpoints" / f"{ROW}.pt"
    second = folder.point("B") / "checkpoints" / f"{ROW}.pt"
    stored = load_weights(second)["origin"]["config"]
    assert stored["lattice"] == [4, 6]
    assert stored["rows"][ROW]["warm_start"] == str(first)
    assert rebuild_flow(second)[0].lattice.shape == (4, 6)
    experiment = Experiment({**stored, "output_dir": "unused"}, None)
    start, trained = experiment.flow_model(ROW).state_dict(), rebuild_flow(first)[1].state_dict()
    assert all(torch.equal(tensor, trained[key]) for key, tensor in start.items())


def test_published(points_run):
    tmp_path = points_run[2]
    target = tmp_path / "published"
    entries = json.loads((target / "results.json").read_text())
    assert [e["row"] for e in entries] == ["A/hmc", f"A/{ROW}", "B/hmc", f"B/{ROW}", "B/moved"]
    assert entries[0]["parameters"]["lattice"] == [4, 4]
    assert entries[-1]["parameters"]["action"]["scalar"]["lam"] == 6.0
    assert "points" in entries[0]["command"]
    table = (target / "README.md").read_text()
    assert sum(line.startswith(("| A/", "| B/")) for line in table.splitlines()) == 5
    assert (target / "figure.png").read_bytes().startswith(b"\x89PNG")


class Killed(BaseException):
    """What a test injects where a signal would end the process."""


def test_resumed_at_the_second_point(points_run, tmp_path, monkeypatch):
    """The first point is read, not run again; the second goes on; the numbers are the same."""
    config = config_of(tmp_path, **{"stream.keep": False})
    config["publish"] = None
    monkeypatch.setattr("lattice_lightning.pipeline.train.write_report", lambda *args: None)
    weigh, seen = Experiment.weigh, []

    def killed(self, name):
        seen.append(name)
        if len(seen) == 2:
            raise Killed
        return weigh(self, name)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Experiment, "weigh", killed)
        train_points(config, Console(quiet=True))
    (path,) = tmp_path.glob("out/*/*")
    assert (path / "points/A/point.json").exists() and not (path / "points/B/point.json").exists()
    steps = []
    step = ReverseKL.training_step
    monkeypatch.setattr(ReverseKL, "training_step", lambda self, *args: steps.append(1) or step(self, *args))
    again = train_points({**config, "resume": str(path)}, Console(quiet=True))
    assert not steps, "the weights of the second point were trained already"
    expected = points_run[0]
    for row, entry in {**expected["baselines"], expected["row"]: expected}.items():
        ours = again if row == expected["row"] else again["baselines"][row]
        assert ours["observables"] == entry["observables"], row
        assert ours["sampling"].get("log_z") == entry["sampling"].get("log_z"), row


def test_dry_run_of_points(tmp_path, monkeypatch):
    text = io.StringIO()
    assert train_points({**config_of(tmp_path), "dry_run": True}, Console(file=text, width=160)) == {}
    assert not (tmp_path / "out").exists()
    plan = text.getvalue()
    assert "point A" in plan and "R on 4x6" in plan and "all points: about" in plan
    assert f"train {ROW}" in plan


def test_report_again(points_run):
    before = points_run[1].report.read_text()
    assert main(["report", str(points_run[1].path)]) == 0
    assert points_run[1].report.read_text().split("<img")[0] == before.split("<img")[0]
