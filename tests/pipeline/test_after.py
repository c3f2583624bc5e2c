"""What is done with a finished run: report, publish, rows from a checkpoint; generate and measure."""

import json
from copy import deepcopy

import pytest
import torch
from small_runs import EXACT, changed, composed, small

from lattice_lightning.actions import WilsonGauge
from lattice_lightning.cli import main
from lattice_lightning.data import Ensemble
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import plaquette
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.publish import markdown_table, publish, result_rows


def test_report_command_writes_it_again(finished):
    folder = finished[1]
    before = folder.report.read_text()
    folder.report.unlink()
    assert main(["report", str(folder.path)]) == 0
    assert len(folder.report.read_text()) == pytest.approx(len(before), rel=0.01)
    assert folder.report.read_text().split("<img")[0] == before.split("<img")[0]


def test_report_of_an_unfinished_run(finished, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text((finished[1].path / "config.yaml").read_text())
    assert main(["report", str(tmp_path)]) == 1
    assert f"finish it with: python train.py resume={tmp_path}" in capsys.readouterr().err


def cells_of(table):
    """Rows of a markdown table as dicts by column."""
    head, _, *lines = [line for line in table.splitlines() if line.startswith("|")]
    names = [cell.strip() for cell in head.strip("|").split("|")]
    return [dict(zip(names, (c.strip() for c in line.strip("|").split("|")), strict=True)) for line in lines]


def test_table_says_what_a_trajectory_costs(finished):
    summary, _, _ = finished
    entries = deepcopy(result_rows(summary, "command"))
    sampling = entries[1]["summary"]["sampling"]
    sampling["solver_iterations"] = {"md": 200.4, "accept": 99.6}
    sampling.update(acceptance={"value": 0.75, "error": 0.01}, n_chains=8, n_steps=50, n_effective=20.0)
    sampling["seconds_per_effective_sample"] = {
        "without_training": 0.5, "with_training": 2.25, "reliable": False
    }
    hmc, linear, _ = cells_of(markdown_table(entries))
    assert linear["MD / accept iterations"] == "200 / 100"
    assert linear["iterations / acceptance"] == "400", "not accepted ones cost as well"
    assert linear["iterations / eff. sample"] == "6e+03 !", "300 of each of 8 x 50 trajectories, over 20"
    assert (linear["s / eff. sample"], linear["with training"]) == ("0.5 !", "2.2 !")
    counted = summary["baselines"]["hmc"]["sampling"]["solver_iterations"]
    assert hmc["MD / accept iterations"] == f"{counted['md']:.0f} / {counted['accept']:.0f}"


def test_table_without_a_solver_has_no_iterations(finished):
    entries = deepcopy(result_rows(finished[0], "command"))
    for entry in entries:
        entry["summary"]["sampling"]["solver_iterations"] = {"md": None, "accept": None}
    table = markdown_table(entries)
    assert "teration" not in table and "acceptance" in table
    # one of them does, as beside a dense determinant
    entries[1]["summary"]["sampling"]["solver_iterations"] = {"md": 5.0, "accept": 3.0}
    entries[1]["summary"]["sampling"].update(acceptance={"value": 0.0, "error": 0.1}, n_effective=None)
    first, second, _ = cells_of(markdown_table(entries))
    names = ["MD / accept iterations", "iterations / acceptance", "iterations / eff. sample"]
    assert [first[name] for name in names] == ["", "", ""]
    assert [second[name] for name in names] == ["5 / 3", "", ""]
    # a chain that hardly moves has a part of a sample
    entries[1]["summary"]["sampling"]["n_effective"] = 1e-30
    second = cells_of(markdown_table(entries))[1]
    assert (second["iterations / eff. sample"], second["s / eff. sample"]) == ("", "-")


def test_publish_keeps_published_values(finished, tmp_path):
    summary, folder, _ = finished
    published = {"row": "paper", "parameters": {}, "source": "2103.11965", "value": 0.5, "error": 0.1}
    benchmark = {"row": "b", "parameters": {}, "command": "c", "ratio": {"value": 1, "min": 1, "max": 1}}
    stale = {"row": "hmc", "parameters": {}, "command": "old", "summary": {}}
    (tmp_path / "results.json").write_text(json.dumps([stale, published, benchmark]))
    publish(tmp_path, folder, summary, summary["config"])
    entries = json.loads((tmp_path / "results.json").read_text())
    assert entries[:2] == [published, benchmark]
    assert [e["row"] for e in entries[2:]] == ["hmc", "linear", "covnet"], "the stale row is replaced"
    assert all(e["summary"]["observables"] for e in entries[2:])
    assert (tmp_path / "covnet.pt").read_bytes() == folder.weights("covnet").read_bytes()
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "experiment=slice_su2_2d" in entries[-1]["command"]
    assert "sampling.n_steps=4" in entries[-1]["command"], "the command repeats this run, not the default"


def test_every_run_has_its_own_folder(tmp_path):
    config = small(tmp_path, **{"trainer.strategy": "ddp"})
    paths = [RunFolder.create(config).path for _ in range(3)]
    assert len(set(paths)) == 3
    assert all((path / "config.yaml").exists() for path in paths)


def generate(tmp_path, *extra):
    overrides = [EXACT, "scan=null", "rows={hmc: {sampler: hmc}}", "lattice=[4,4]", "stream.n_chains=4",
                 "stream.n_thermalise=3", "sampling.n_steps=6", "sampling.checkpoint_every=2", *extra]
    return main(["generate", *overrides, f"ensemble={tmp_path / 'e.zarr'}", "every=2"])


def test_generate_and_measure(tmp_path, capsys):
    assert generate(tmp_path) == 0
    assert "3 x 4 configurations" in capsys.readouterr().out
    ensemble = Ensemble(tmp_path / "e.zarr")
    assert ensemble.shape == (3, 4, 2, 4, 4, 2, 2)
    assert [ensemble.provenance(i)["step"] for i in range(3)] == [1, 3, 5]
    assert ensemble.provenance(0)["config"]["lattice"] == [4, 4]
    lattice, group = Lattice((4, 4)), SU2()
    for i in range(3):
        group.check_field(ensemble[i], lattice)
    expected = torch.stack([plaquette(group, lattice, ensemble[i]) for i in range(3)]).mean()
    assert main(["measure", f"ensemble={tmp_path / 'e.zarr'}"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "plaquette" in x)
    shown = line.split("│")[2].split("(")[0].strip()
    assert float(shown) == pytest.approx(float(expected), abs=0.6 * 10 ** -len(shown.split(".")[1]))


def test_generate_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    assert generate(tmp_path / "whole") == 0
    value, calls = WilsonGauge.packed_value, []

    def killed(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 60:
            raise KeyboardInterrupt
        return value(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(WilsonGauge, "packed_value", killed)
        assert generate(tmp_path / "killed") == 130
    done = len(Ensemble(tmp_path / "killed" / "e.zarr"))
    assert done < 3
    assert generate(tmp_path / "killed") == 0
    a, b = (Ensemble(tmp_path / name / "e.zarr") for name in ("whole", "killed"))
    assert len(a) == len(b) == 3
    assert all(torch.equal(a[i], b[i]) for i in range(3))


def test_generate_twice_and_with_another_config(tmp_path, capsys):
    assert generate(tmp_path) == 0
    first = [Ensemble(tmp_path / "e.zarr")[i] for i in range(3)]
    assert generate(tmp_path) == 0
    assert all(torch.equal(first[i], Ensemble(tmp_path / "e.zarr")[i]) for i in range(3))
    assert generate(tmp_path, "seed=2") == 1
    assert "another provenance" in capsys.readouterr().err


def test_row_from_a_checkpoint(finished, tmp_path, runner, without_plots):
    """A row that takes trained weights samples without training; beside it, no other row trains."""
    rows = {"hmc": {"sampler": "hmc"},
            "stored": {"sampler": "self_learning_hmc", "checkpoint": str(finished[1].weights("covnet"))}}
    config = small(tmp_path, rows=rows)
    summary, folder, _ = runner(config)
    assert summary["training"] is None
    assert summary["model"]["n_parameters"] == finished[0]["model"]["n_parameters"] > 0
    assert summary["model"]["coefficients"] == finished[0]["model"]["coefficients"]
    assert summary["held_out"]["pair_loss"] == finished[0]["held_out"]["pair_loss"]
    assert not (folder.path / "stream").exists()


def test_checkpoint_of_another_model_is_refused(finished, tmp_path):
    from lattice_lightning.pipeline.experiment import Experiment

    path = str(finished[1].weights("covnet"))
    config = changed(small(tmp_path), {"rows.linear.checkpoint": path})
    with pytest.raises(InputError, match=r"holds the effective action .* the row asks for"):
        Experiment(config, None)
    config = changed(config, {"rows.linear.effective": None, "lattice": [6, 6]})
    Experiment(config, None), "weights do not know the lattice"


def test_scan(tmp_path, monkeypatch, without_plots):
    both = ["plaquette", "charge"]
    config = changed(composed(EXACT), {
        "scan": [{"group": "u1", "lattice": [4, 4], "betas": [1.0], "observables": both}],
        "stream.n_chains": 8, "sampling.n_thermalise": 5, "sampling.n_steps": 30,
        "output_dir": str(tmp_path),
    })
    monkeypatch.setattr("lattice_lightning.cli.plain_config", lambda _: config)
    assert main(["train"]) == 0
    (path,) = tmp_path.glob("hmc_exact/*/summary.json")
    summary = json.loads(path.read_text())
    entry = summary["observables"]["plaquette"]
    # I_1(1) / I_0(1) up to finite volume, which is 1e-5 here
    assert entry["exact"] == pytest.approx(0.446390, abs=1e-4)
    assert len(summary["judgement"]["pulls"]) >= 2


def test_ensembles_of_a_resumed_run(tmp_path, runner, without_plots):
    config = small(tmp_path, rows={"hmc": {"sampler": "hmc"}}, **{"sampling.save_every": 1})
    _, folder, _ = runner(config)
    provenance = Ensemble(folder.ensemble("hmc")).provenance(0)["config"]
    assert not {"resume", "publish", "output_dir", "dry_run"} & set(provenance)
    folder.summary.unlink()
    assert main(["train", f"resume={folder.path}"]) == 0
    assert len(Ensemble(folder.ensemble("hmc"))) == 4
    assert folder.summary.exists()
