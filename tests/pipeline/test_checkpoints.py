"""Checkpoints are enough to sample from, and never run code from the file."""

import os
import pickle

import pytest
import torch
from small_runs import changed, refused

from lattice_lightning.actions import Action
from lattice_lightning.analysis import load_summary
from lattice_lightning.cli import main
from lattice_lightning.data import EnsembleWriter
from lattice_lightning.exceptions import FormatError, InputError
from lattice_lightning.models import LinkMap
from lattice_lightning.pipeline.build import instantiate
from lattice_lightning.pipeline.weights import load_weights, rebuild


@pytest.fixture
def payload(finished):
    return torch.load(finished[1].weights("covnet"), weights_only=True)


@pytest.fixture
def saved(payload, tmp_path):
    """Writes the checkpoint with some entries changed."""

    def save(**entries):
        torch.save(changed(payload, entries), tmp_path / "w.pt")
        return tmp_path / "w.pt"

    return save


@pytest.mark.parametrize("kind", ["weights", "checkpoint"])
def test_rebuilds_from_the_file_alone(finished, kind, rng):
    path = getattr(finished[1], kind)("covnet")
    system, method = rebuild(path)
    stored = load_weights(path)["state_dict"]
    assert all(torch.equal(value, stored[key]) for key, value in method.state_dict().items())
    assert not method.training
    assert method.origin["row"] == "covnet"
    field = system.space.hot(system.lattice, 2, rng)
    aux, _ = system.target.refresh(field, rng)
    assert torch.isfinite(method.effective.value(field, aux)).all()


def test_sample_command(finished, tmp_path, monkeypatch, without_plots):
    monkeypatch.chdir(tmp_path)
    checkpoint = finished[1].weights("covnet")
    options = ["n_steps=3", "n_chains=2", "n_thermalise=1", "seed=5"]
    for _ in range(2):
        assert main(["sample", f"checkpoint={checkpoint}", *options]) == 0
    folder, other = tmp_path.glob("outputs/slice_su2_2d_sample/*")
    first, second = (load_summary(path / "summary.json") for path in (folder, other))
    assert first["seed"] == 5
    assert first["sampling"]["n_chains"] == 2
    assert first["sampling"]["n_steps"] == 3
    assert first["sampling"]["kernel"] == "self_learning_hmc"
    assert first["model"]["n_parameters"] == finished[0]["model"]["n_parameters"]
    assert first["model"]["coefficients"] == finished[0]["model"]["coefficients"]
    assert first["observables"] == second["observables"], "the seed decides"
    drawn = []
    monkeypatch.setattr("lattice_lightning.pipeline.report.write_report", lambda *args: drawn.append(args))
    assert main(["report", str(folder)]) == 0
    assert drawn[0][3]["covnet"]["plaquette"].shape == (2, 3)


class _Runs:
    """Unpickled by hand, makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda o, path: path.write_bytes(pickle.dumps(o))])
def test_pickle_that_runs_code(tmp_path, payload, write, capsys):
    path, trace = tmp_path / "evil.pt", tmp_path / "ran"
    write({**payload, "extra": _Runs(trace)}, path)
    with pytest.raises(FormatError, match="plain values, which is refused since it could run code"):
        rebuild(path)
    assert main(["sample", f"checkpoint={path}"]) == 1
    assert "weights_only" not in capsys.readouterr().err, "no advice to load it anyway"
    assert not trace.exists()


FOREIGN = [
    "os.system",
    "subprocess.call",
    "builtins.eval",
    "lattice_lightning.cli.sys.exit",
    "lattice_lightning.cli.main",
    "lattice_lightning.cli.Path",
    "lattice_lightning.data.ensemble.os.kill",
    "lattice_lightning.data.ensemble.os",
    "lattice_lightning.data.EnsembleWriter",
    "lattice_lightning.pipeline.build.import_module",
    "lattice_lightning.pipeline.train.shutil.rmtree",
    "lattice_lightning.pipeline.sample.sample_command",
    "lattice_lightning.samplers.HMC",
    "lattice_lightning.actions.Action",
    "lattice_lightning",
    "lattice_lightning.",
    "lattice_lightning..actions",
    "lattice_lightning.pipeline.train.WandbLogger",
    "lattice_lightning_evil.models.Cask",
    "pytorch_lightning.loggers.CSVLogger",
    "pytorch_lightning.utilities.rank_zero.os.system",
    "pytorch_lightning.trainer.trainer.os",
    "torch.optim.lr_scheduler.LambdaLR",
    "torch.hub.load",
    ["os.system"],
    None,
]


@pytest.mark.parametrize("target", FOREIGN, ids=str)
@pytest.mark.parametrize("kind", [Action, LinkMap])
def test_targets_that_are_not_ours(target, kind, monkeypatch):
    called = []
    for name in ("system", "kill", "mkdir"):
        monkeypatch.setattr(os, name, lambda *a: called.append(a))
    config = {"_target_": target, "command": "x", "path": "x"}
    with pytest.raises(InputError):
        instantiate(config, kind, lattice=None, group=None)
    assert not called


@pytest.mark.parametrize(
    "key",
    ["action.gauge", "observables.plaquette", "training.optimizer", "training.scheduler",
     "rows.covnet.effective.network"],
)
@pytest.mark.parametrize("target", ["os.mkdir", "lattice_lightning.cli.Path.mkdir", EnsembleWriter])
def test_foreign_targets_in_a_checkpoint(saved, key, target, tmp_path):
    name = target if isinstance(target, str) else f"lattice_lightning.data.{target.__name__}"
    arguments = {"path": str(tmp_path / "ran"), "field_shape": [1], "n_steps": 1, "provenance": {}}
    path = saved(**{f"origin.config.{key}": {"_target_": name, **arguments}})
    with pytest.raises(InputError, match="_target_"):
        rebuild(path)
    assert [p.name for p in tmp_path.iterdir()] == ["w.pt"]


NETWORK = "origin.config.rows.covnet.effective.network"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"origin": {}}, "without origin and state_dict"),
        ({"origin": "hmc"}, "without origin and state_dict"),
        ({"state_dict": None}, "without origin and state_dict"),
        ({"origin.row": "cask"}, "is of row 'cask', its config has .*'covnet'"),
        ({"origin.row": "hmc"}, "row 'hmc'"),
        ({"origin.config": {}}, "lists no rows"),
        ({"origin.config.action": None}, "has no action"),
        ({"origin.config.lattice": None}, "lattice shape must be"),
        ({f"{NETWORK}.n_layers": 2}, "does not fit the model of its own config"),
        ({"origin.config.name": "../../x"}, "cannot be a file name"),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else "",
)
def test_damaged_checkpoints(saved, entries, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = saved(**entries)
    refused(["sample", f"checkpoint={path}", "n_steps=1"], message, tmp_path, capsys)


@pytest.mark.parametrize("keep", [0, 100, 5000, -1])
def test_truncated_checkpoint(finished, tmp_path, keep):
    content = finished[1].weights("covnet").read_bytes()
    (tmp_path / "w.pt").write_bytes(content[:keep])
    with pytest.raises(FormatError, match="it is truncated"):
        rebuild(tmp_path / "w.pt")


def test_file_of_another_kind(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(FormatError, match="not a checkpoint of this package"):
        load_weights(tmp_path / "list.pt")
