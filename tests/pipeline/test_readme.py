"""The examples of README.md run as they stand there: the notebook way, without Hydra."""

import os
import re
from pathlib import Path

import pytest

from lattice_lightning.callbacks import SamplingPlan

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.S | re.M)


# Lightning's advice to users of its defaults
@pytest.mark.filterwarnings("ignore:.*(tensorboardX|many workers|smaller than the logging interval).*")
@pytest.mark.parametrize("block", BLOCKS, ids=[f"block{k}" for k in range(len(BLOCKS))])
def test_python_block_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # the same calls with fewer steps
    monkeypatch.setattr("lattice_lightning.callbacks.SamplingPlan", lambda *_: SamplingPlan(2, 8))
    exec(compile(block, str(README), "exec"), {"__name__": "__main__"})
    printed = dict(re.findall(r"^(\w+) +(0\.\d+)\(", capsys.readouterr().out, flags=re.M))
    if "StaggeredFermion" in block:
        assert 0.1 < float(printed["acceptance"]) < 1
        # strong coupling: a plaquette of I_2(2) / I_1(2) = 0.433, raised a little by the fermion
        assert 0.35 < float(printed["plaquette"]) < 0.55
    else:
        # a flow of some forty steps
        assert 0.005 < float(printed["acceptance"]) < 1
    assert not (Path(os.getcwd()) / "outputs").exists(), "the notebook way makes no run folder"
