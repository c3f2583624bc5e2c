"""The commands beside train refuse what they cannot do, in one line and before they write."""

import pytest
from small_runs import SLICE, composed, refused

CASES = [
    (["sample"], "sample needs checkpoint=FILE"),
    (["sample", "checkpoint=nowhere.pt"], "no checkpoint at nowhere.pt"),
    (["sample", "checkpoint=file.txt"], r"cannot read the checkpoint file.txt \(UnpicklingError\): it is"),
    (["sample", "checkpoint=file.txt", "n_steps=0"], "n_steps must be an integer of at least 1, got 0"),
    (["sample", "checkpoint=file.txt", "n_steps=many"], "n_steps must be"),
    (["sample", "checkpoint=file.txt", "n_chains=0"], "n_chains must be"),
    (["sample", "checkpoint=file.txt", "n_thermalise=-1"], "n_thermalise must be"),
    (["sample", "checkpoint=file.txt", "seed=x"], "seed must be"),
    (["sample", "checkpoint=file.txt", "device=tpu"], "must be cpu, gpu or auto"),
    (["sample", "checkpoint=file.txt", "steps=3"], "no key .*'steps'"),
    (["sample", "file.txt"], "expected key=value, got 'file.txt'"),
    (["sample", "checkpoint=[4"], "cannot read the value of checkpoint="),
    (["sample", "checkpoint=2024-01-01"], "no checkpoint at 2024-01-01"),
    (["sample", "checkpoint=12"], "no checkpoint at 12"),
    (["measure"], "measure needs ensemble=FOLDER"),
    (["measure", "ensemble=nowhere"], "nowhere is not an ensemble"),
    (["measure", "file=file.txt", "group=SU(2)", "lattice=[4,4]"], "expected a number"),
    (["measure", "file=file.txt", "group=SU(2)", "lattice=4"], "lattice shape must be"),
    (["measure", "file=file.txt", "group=R", "lattice=[4,4]"], "reads gauge links"),
    (["measure", "file=file.txt", "group=U(1)", "lattice=[4,4]"], r"SU\(N\)"),
    (["measure", "ensemble=x", "seed=x"], "seed must be"),
    (["measure", "folder=x"], "no key .*'folder'"),
    (["generate"], "generate needs ensemble=FOLDER"),
    (["generate", SLICE, "ensemble=e", "every=0"], "every must be an integer of at least 1, got 0"),
    (["generate", SLICE, "ensemble=e", "every=x"], "every must be"),
    (["generate", SLICE, "ensemble=e", "every=61"], "every must be from 1 to sampling.n_steps=60, got 61"),
    (["generate", SLICE, "ensemble=file.txt"], "cannot write an ensemble to file.txt"),
    (["report"], "one folder of a finished run"),
    (["report", "nowhere"], "not a run folder"),
]


@pytest.mark.parametrize(("arguments", "message"), CASES, ids=[" ".join(c[0]) for c in CASES])
def test_refused(arguments, message, tmp_path, monkeypatch, capsys):
    if SLICE in arguments:
        monkeypatch.setattr("lattice_lightning.cli.plain_config", lambda _: composed(SLICE))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("not a configuration")
    refused(arguments, message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.n_steps=0", "n_steps must be"),
        ("stream.n_thermalise=-1", "n_thermalise must be"),
        ("sampling.checkpoint_every=0", "checkpoint_every must be"),
        ("lattice=[4,5]", "even extents"),
    ],
)
def test_generate_checks_the_config(override, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refused(["generate", SLICE, "ensemble=e", override], message, tmp_path, capsys)
