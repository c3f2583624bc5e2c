"""A killed run that goes on equals the uninterrupted one bit for bit (wall-clock times aside)."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from small_runs import SLICE, composed, small

from lattice_lightning.callbacks import read_metrics
from lattice_lightning.cli import main
from lattice_lightning.data import PairStream
from lattice_lightning.exceptions import ResumeError
from lattice_lightning.methods import ActionRegression
from lattice_lightning.observables import Plaquette
from lattice_lightning.pipeline.experiment import Experiment
from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.train import load_histories, train
from lattice_lightning.pipeline.weights import load_weights

TRAIN = Path(__file__).resolve().parents[2] / "train.py"


class Killed(BaseException):
    """What a test injects where a signal would end the process."""


def killing(method, when):
    """The method, which raises once ``when(call number, self, args)``."""
    calls = 0

    def wrapped(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        if when(calls, self, args):
            raise Killed
        return method(self, *args, **kwargs)

    return wrapped


# where each session ends: second trajectory of the stream; before the second row trains; the last step
# of its last epoch; the third step of its exact sampling, which saves itself every second step
KILLS = {
    "stream": (PairStream, "_generate", lambda n, *_: n == 2),
    "between rows": (Experiment, "fit", lambda n, *_: n == 2),
    "training": (ActionRegression, "training_step", lambda n, *_: n == 4),
    "sampling": (Plaquette, "measure", lambda n, *_: n == 11),
}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Summary and folder of a run that was killed at every stage."""
    config, quiet = small(tmp_path_factory.mktemp("resumed")), Console(quiet=True)
    for owner, name, when in KILLS.values():
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, name, killing(getattr(owner, name), when))
            train(config, quiet)
        (path,) = Path(config["output_dir"]).glob("*/*")
        config["resume"] = str(path)
        assert not RunFolder(path).summary.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lattice_lightning.pipeline.train.write_report", lambda *args: None)
        return train(config, quiet), RunFolder(path)


def without_times(tree):
    """A summary without what the clock says, and without how the run was started."""
    if not isinstance(tree, dict):
        return tree
    drop = {"seconds", "stream_seconds", "seconds_per_effective_sample", "config"}
    return {k: without_times(v) for k, v in tree.items() if k not in drop}


def assert_same_run(folder, reference):
    for row in ("linear", "covnet"):
        for part in ("weights", "checkpoint"):
            a, b = (load_weights(getattr(f, part)(row)) for f in (folder, reference))
            assert a["state_dict"].keys() == b["state_dict"].keys()
            for key, tensor in a["state_dict"].items():
                assert torch.equal(tensor, b["state_dict"][key]), (row, key)
        assert str(a["optimizer_states"]) == str(b["optimizer_states"])
        assert str(a["lr_schedulers"]) == str(b["lr_schedulers"])
    assert read_metrics(folder.metrics) == read_metrics(reference.metrics)
    ours, theirs = (load_histories(f.path / "histories.npz") for f in (folder, reference))
    assert list(ours) == list(theirs)
    for row, series in ours.items():
        assert series.keys() == theirs[row].keys()
        for name, values in series.items():
            assert np.array_equal(values, theirs[row][name]), (row, name)


def test_killed_at_every_stage(resumed, finished):
    assert_same_run(resumed[1], finished[1])


def test_summaries_agree(resumed, finished):
    assert without_times(resumed[0]) == without_times(finished[0])


def test_one_folder_and_one_summary(resumed):
    path = resumed[1].path
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert [p.name for p in path.rglob("summary*")] == ["summary.json"]
    assert not list(path.rglob("*.partial*"))
    assert not (path / "stream").exists()


def test_finished_run_is_not_trained_again(resumed, monkeypatch, without_plots):
    summary, folder = resumed
    generated = []
    counting = killing(PairStream._generate, lambda *_: generated.append(1))
    monkeypatch.setattr(PairStream, "_generate", counting)
    monkeypatch.setattr(ActionRegression, "training_step", killing(None, lambda *_: True))
    again = train({**summary["config"], "resume": str(folder.path)}, Console(quiet=True))
    assert without_times(again) == without_times(summary)
    assert len(generated) == 2, "the held-out trajectories only"


def test_times_of_all_sessions_count(resumed, finished):
    for summary in (resumed[0], finished[0]):
        for row in (summary, *summary["baselines"].values()):
            assert row["sampling"]["seconds"] > 0
            assert row["training"] is None or row["training"]["seconds"] > 0


def test_kill_minus_nine(tmp_path, finished, monkeypatch, without_plots):
    overrides = [
        SLICE, "debug=limit", "~rows.no_network", "~rows.cask", "rows.covnet.effective.network.n_layers=1",
        "integrator.levels.0.n_steps=2", "action.fermion.mass=0.5", "sampling.checkpoint_every=2",
    ]
    expected = small("outputs")
    assert composed(*overrides) == {**expected, "rows": expected["rows"]}
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), *overrides], env=environment, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while not list(tmp_path.glob("outputs/*/*/stream/train_rank0/*.pt")) and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(random.random())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("outputs/*/*/summary.json")), "it was killed before its end"
    (path,) = tmp_path.glob("outputs/*/*")
    assert main(["train", f"resume={path}"]) == 0
    assert [p for p in tmp_path.glob("outputs/*/*")] == [path]
    assert_same_run(RunFolder(path), finished[1])


def test_another_config_is_refused(finished, tmp_path):
    _, folder, _ = finished
    before = {p: p.stat().st_mtime_ns for p in folder.path.rglob("*")}
    changes = {"stream.keep": True, "training.loss": "variance", "training.linear": "gradient", "training.solver": "gradient",
               "resume": str(folder.path), "rows.covnet.effective.masses": [0.7]}
    config = small(tmp_path, **changes)
    with pytest.raises(ResumeError) as caught:
        train(config)
    message = str(caught.value)
    assert "training.loss: pairs -> variance" in message
    assert "rows.covnet.effective.masses: [0.6] -> [0.7]" in message
    assert message.count("->") == 5, "four keys and the headline, nothing else"
    assert {p: p.stat().st_mtime_ns for p in folder.path.rglob("*")} == before


def test_resume_takes_no_other_keys(finished, capsys):
    folder = finished[1].path
    for extra in ("seed=2", "dry_run=true", "junk"):
        assert main(["train", f"resume={folder}", extra]) == 1
        assert f"['{extra.split('=')[0]}'] came too" in capsys.readouterr().err


def test_files_inside_name_their_run(finished):
    folder = finished[1]
    for inside in (folder.summary, folder.weights("linear"), folder.path / "chains"):
        assert RunFolder.find(inside).path == folder.path
