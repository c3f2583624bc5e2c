"""Weights & Biases beside metrics.csv: offline without a key or a server."""

import pytest
from small_runs import SLICE, composed, small

from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.train import _loggers

wandb = pytest.importorskip("wandb")


@pytest.fixture
def config(tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in (("HOME", "home"), ("WANDB_CACHE_DIR", "cache"), ("WANDB_CONFIG_DIR", "config")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("WANDB_SILENT", "true")
    return small(tmp_path / "out", logger=composed(SLICE, "logger=wandb", "debug=limit")["logger"])


def offline_runs(folder):
    return sorted(p.name for p in (folder.path / "wandb").glob("offline-run-*"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb", "ignore::ResourceWarning")
def test_one_offline_run_a_trained_row(config, runner, without_plots, capsys):
    summary, folder, _ = runner(config)
    assert len(offline_runs(folder)) == 2
    assert all(any(p.glob("*.wandb")) for p in (folder.path / "wandb").glob("offline-run-*"))
    assert f"wandb sync {folder.path / 'wandb'}" in capsys.readouterr().out
    assert wandb.run is None
    assert summary["training"]["steps"] == 4
    with _loggers(config, folder, "covnet") as loggers:
        assert loggers == [], "a row that is trained already logs nothing"


@pytest.mark.parametrize("error", [wandb.errors.CommError("no\nroute"), wandb.errors.UsageError(""),
                                   TimeoutError()], ids=repr)
def test_without_a_server(config, error, monkeypatch):
    from pytorch_lightning import loggers as lightning

    made = []

    class Logger:
        def __init__(self, offline, group, **options):
            made.append((offline, group))
            self.offline, self.save_dir = offline, options["save_dir"]

        @property
        def experiment(self):
            if not self.offline:
                raise error
            (folder.path / "wandb" / "offline-run-x").mkdir(parents=True, exist_ok=True)

    folder = RunFolder.create(config)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(lightning, "WandbLogger", Logger)
    with pytest.warns(RuntimeWarning, match="cannot be reached") as caught, \
            _loggers(config, folder, "linear") as loggers:
        assert [logger.offline for logger in loggers] == [True]
    assert len(caught) == 1
    with _loggers(config, folder, "covnet"):
        pass
    assert [offline for offline, _ in made] == [False, True, True], "asked once"
    assert {group for _, group in made} == {folder.path.name}
