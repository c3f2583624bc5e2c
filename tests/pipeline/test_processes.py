"""Several processes: one folder, one summary, the chains of all; resumed; refused where there are none."""

import json

import numpy as np
import pytest
import torch
from small_runs import LAUNCHER, SLICE, command, refused, small

from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline import processes
from lattice_lightning.pipeline.train import load_histories, train

CHAINS = 4
SETTINGS = [
    SLICE, "debug=limit", "trainer=ddp", "trainer.accelerator=cpu", f"stream.n_chains={CHAINS}",
    "stream.n_thermalise=1", "sampling.n_steps=2", "sampling.checkpoint_every=1", "action.fermion.mass=0.5",
    "~rows.no_network", "~rows.linear", "~rows.cask", "rows.covnet.effective.network.n_layers=1",
]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a run of two processes."""
    output = tmp_path_factory.mktemp("processes")
    run = command(*SETTINGS, f"output_dir={output}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("run folder") == run.stdout.count("done in") == 1
    (folder,) = output.glob("*/*")
    return folder


def test_one_summary_with_the_chains_of_both_processes(finished):
    assert len(list(finished.parent.parent.rglob("summary.json"))) == 1
    summary = json.loads((finished / "summary.json").read_text())
    for row in (summary, *summary["baselines"].values()):
        assert row["sampling"]["n_chains"] == 2 * CHAINS
        assert row["sampling"]["n_steps"] == 2
    for series in load_histories(finished / "histories.npz").values():
        plaquette = series["plaquette"]
        assert plaquette.shape == (2 * CHAINS, 2)
        # no two chains are the same, on one rank or on both
        assert len(np.unique(plaquette[:, 0])) == 2 * CHAINS
    for name in ("hmc", "covnet"):
        fields = [
            torch.load(finished / "chains" / f"start_{name}_rank{rank}.pt", weights_only=True)["field"]
            for rank in (0, 1)
        ]
        assert not torch.equal(*fields)


def test_resumed_with_the_chains_of_both_processes(finished):
    """Both ranks now read rank 0's weights: the same chains show that they had trained the same."""
    before = load_histories(finished / "histories.npz")
    (finished / "summary.json").unlink()
    for path in (finished / "chains").glob("covnet_rank*"):
        path.unlink()
    run = command(f"resume={finished}")
    assert run.returncode == 0, run.stderr
    assert json.loads((finished / "summary.json").read_text())["sampling"]["n_chains"] == 2 * CHAINS
    after = load_histories(finished / "histories.npz")
    assert before.keys() == after.keys()
    for row, series in before.items():
        assert series.keys() == after[row].keys()
        for name, values in series.items():
            np.testing.assert_array_equal(values, after[row][name], err_msg=f"{row} {name}")


@pytest.mark.slow
def test_an_error_of_one_process_is_said_once_and_ends_all(finished):
    damaged = finished / "chains" / "hmc_rank1.pt"
    content = damaged.read_bytes()
    damaged.write_bytes(b"damaged")
    run = command(f"resume={finished}")
    damaged.write_bytes(content)
    assert run.returncode == 1
    assert run.stderr.count("error: ") == 1, run.stderr
    assert "hmc_rank1.pt" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_run_alone_that_asks_for_several_is_refused(tmp_path):
    config = small(tmp_path, **{"trainer.devices": 2, "trainer.strategy": "ddp"})
    with pytest.raises(InputError, match=r"needs 2 processes.*trainer=ddp.*torchrun"):
        train(config)
    assert not list(tmp_path.iterdir())


def test_processes_that_the_config_does_not_ask_for_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"3 processes were started.*trainer\.devices=3"):
        processes.check_processes({"devices": 1, "accelerator": "cpu"})


@pytest.mark.parametrize("arguments", [[SLICE, "resume=NOWHERE"], [SLICE, "sampling.n_steps=0"]])
def test_what_cannot_work_is_refused_before_processes_start(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(processes, "launch", lambda *args: pytest.fail("started processes"))
    several = ["trainer=ddp", "trainer.accelerator=cpu", f"output_dir={tmp_path}"]
    message = "is not a run folder" if "resume=NOWHERE" in arguments else "n_steps"
    refused(["train", *arguments, *several], message, tmp_path, capsys)


def test_a_scan_of_several_processes_is_refused(tmp_path, capsys):
    arguments = ["train", "experiment=hmc_exact", "trainer=ddp", "trainer.accelerator=cpu"]
    refused([*arguments, f"output_dir={tmp_path}"], "a scan runs in one process", tmp_path, capsys)


@pytest.mark.parametrize(
    ("variables", "launched"),
    [({}, False), ({"RANK": "0"}, True), ({"LOCAL_RANK": "1"}, True),
     ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, False),
     ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, True)],
)
def test_launchers_are_recognised(variables, launched, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes.is_launched() is launched


@pytest.mark.parametrize(("devices", "n"), [(1, 1), (3, 3), ("2", 2), ([0, 1], 2), ("auto", 1), (-1, 1)])
def test_devices_are_counted(devices, n):
    assert processes.n_processes({"devices": devices, "accelerator": "cpu"}) == n
