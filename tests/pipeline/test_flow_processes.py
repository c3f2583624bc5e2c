"""Flows in two processes: draws of both, the same weights on both, one summary; resumed bit for bit."""

import json
import shutil

import numpy as np
import pytest
import torch
from small_runs import command

from lattice_lightning.pipeline.outcome import load_histories, load_log_weights

N = 32
SETTINGS = [
    "experiment=flow_phi4", "debug=limit", "trainer=ddp", "trainer.accelerator=cpu", "points=null",
    "lattice=[4,4]", "start=cold", "stream.n_chains=4", f"importance.n={N}", "importance.batch_size=16",
    "flow_training.ema=0.5", "rows.continuous.training.n_chains=512", "rows.continuous.training.n_measure=2",
    "+rows.realnvp={sampler: independence, prior: {_target_: lattice_lightning.models.GaussianPrior}, "
    "flow: {_target_: lattice_lightning.models.RealNVP, n_layers: 2, hidden: [4]}, "
    "training: {batch_size: 16}}",
]
FLOWS = ("continuous", "realnvp")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("flows")
    run = command(*SETTINGS, f"output_dir={output}")
    assert run.returncode == 0, run.stderr
    (folder,) = output.glob("*/*")
    return folder


def test_draws_and_chains_of_both(finished):
    summary = json.loads((finished / "summary.json").read_text())
    rows = {summary["row"]: summary, **summary["baselines"]}
    weights = load_log_weights(finished / "log_weights.npz")
    for name in FLOWS:
        assert rows[name]["sampling"]["ess"]["n"] == 2 * N == len(np.unique(weights[name]))
        assert rows[name]["sampling"]["n_chains"] == 8
        assert len(np.unique(load_histories(finished / "histories.npz")[name]["phi2"][:, 0])) == 8


def test_weights_are_those_of_both(finished):
    """Each rank weighed with its own copy: rank 0's weights give rank 1's draws again."""
    from lattice_lightning.pipeline.experiment import Experiment
    from lattice_lightning.pipeline.folder import RunFolder
    from lattice_lightning.pipeline.weights import load_weights

    folder = RunFolder(finished)
    second = Experiment(folder.read_config(), None, "cpu", rank=1)
    for name in FLOWS:
        second.flows[name].load_state_dict(load_weights(folder.weights(name))["state_dict"])
        stored = torch.load(folder.importance(name, 1), weights_only=True)["log_weights"]
        second.folder = RunFolder(finished / "again")
        (finished / "again" / "importance").mkdir(parents=True, exist_ok=True)
        torch.testing.assert_close(second.weigh(name).log_weights, stored, rtol=1e-12, atol=1e-12)


def test_resumed(finished):
    before = load_log_weights(finished / "log_weights.npz")
    (finished / "summary.json").unlink()
    shutil.rmtree(finished / "importance")
    for path in (finished / "chains").glob("realnvp_rank*"):
        path.unlink()
    run = command(f"resume={finished}")
    assert run.returncode == 0, run.stderr
    after = load_log_weights(finished / "log_weights.npz")
    assert all(np.array_equal(before[name], after[name]) for name in before)
