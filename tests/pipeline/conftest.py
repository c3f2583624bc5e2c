"""One finished run that the tests of this folder share; none of them may change it."""

import io

import pytest
from rich.console import Console
from small_runs import small

from lattice_lightning.pipeline.folder import RunFolder
from lattice_lightning.pipeline.train import train


def run(config):
    """Train quietly; the summary, the folder and what was printed."""
    text = io.StringIO()
    summary = train(config, Console(file=text, width=200))
    folders = sorted((p for p in RunFolder(config["output_dir"]).path.glob("*/*")), key=lambda p: p.name)
    return summary, RunFolder(folders[-1]) if folders else None, text.getvalue()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Summary, folder and printed text of an uninterrupted small run."""
    return run(small(tmp_path_factory.mktemp("finished"), **{"stream.keep": True}))


@pytest.fixture
def without_plots(monkeypatch):
    """Runs of tests that look at numbers only: drawing takes longer than their sampling."""
    for command in ("train", "sample", "scan"):
        monkeypatch.setattr(f"lattice_lightning.pipeline.{command}.write_report", lambda *args: None)


@pytest.fixture
def runner():
    return run
