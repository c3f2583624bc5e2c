"""The command line itself: help, version, unknown commands, interrupts."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lattice_lightning.cli as cli
from lattice_lightning.pipeline.compose import experiments

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], [], ["train", "--help"], ["sample", "-h"]])
def test_help_lists_the_experiments_with_their_first_comment(arguments, capsys):
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    for path in (ROOT / "configs" / "experiment").glob("*.yaml"):
        lines = path.read_text().splitlines()
        comment = next(x for x in lines if x.startswith("# ") and "@package" not in x)
        line = next(x for x in out.splitlines() if x.split()[:1] == [path.stem])
        assert comment[2:].strip() in line
    for command in ("train", "sample", "generate", "measure", "report"):
        assert f"  {command} " in out


def test_help_of_the_script():
    run = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--help"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0
    assert run.stderr == ""
    assert all(name in run.stdout for name in experiments())


@pytest.mark.parametrize("argument", ["--version", "version"])
def test_version(argument, capsys):
    assert cli.main([argument]) == 0
    expected = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out.strip() == expected


@pytest.mark.parametrize("command", ["tran", "scaling", "experiment=cask_su2"])
def test_unknown_command(command, capsys):
    assert cli.main([command]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"unknown command {command!r}; known: train, sample,")
    assert captured.err.count("\n") == 1


def test_interrupt_is_no_traceback(monkeypatch, capsys):
    def interrupted(arguments, console):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "train", interrupted)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_errors_that_are_not_ours_keep_their_traceback(monkeypatch):
    def broken(arguments, console):
        raise ZeroDivisionError

    monkeypatch.setitem(cli.COMMANDS, "train", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", "1e-3"), ("1.0e-3", 1e-3), ("[4,4]", [4, 4]), ("SU(2)", "SU(2)"), ("a=b", "a=b"),
     ("2024-01-01", "2024-01-01"), ("", None), ("true", True), ("${x}", "${x}")],
)
def test_values_of_commands_without_config(text, value):
    assert cli._keys([f"key={text}"]) == {"key": value}
