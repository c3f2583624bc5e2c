"""Scans: names of points, plans, and values that cannot be judged."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from small_runs import EXACT, changed, composed

from lattice_lightning.exceptions import InputError
from lattice_lightning.pipeline import scan as module
from lattice_lightning.pipeline.scan import points, scan


def config_of(tmp_path, **changes):
    entry = {"group": "u1", "lattice": [4, 4], "betas": [1.0], "observables": ["plaquette", "charge"]}
    return changed(composed(EXACT), {
        "scan": [entry, {**entry, "lattice": [4, 8], "n_steps": 40}], "stream.n_chains": 8,
        "sampling.n_thermalise": 5, "sampling.n_steps": 30, "output_dir": str(tmp_path / "out"), **changes,
    })


def printed(config):
    text = io.StringIO()
    return scan(config, Console(file=text, width=160)), text.getvalue()


def test_names_of_points(tmp_path):
    assert list(points(config_of(tmp_path))) == ["U(1) beta=1 L=4", "U(1) beta=1 L=4x8"]
    assert next(iter(points(composed(EXACT)))) == "U(1) beta=1 L=8", "published names stay"
    with pytest.raises(InputError, match=r"the point 'U.1. beta=1 L=4' twice"):
        points(config_of(tmp_path, **{"scan.1.lattice": [4, 4]}))


def test_dry_run(tmp_path):
    summary, text = printed(config_of(tmp_path, dry_run=True))
    assert summary == {}
    assert not (tmp_path / "out").exists()
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    assert "[8, 2, 4, 8]" in lines["U(1) beta=1 L=4x8"]
    for name, steps in (("U(1) beta=1 L=4", "35"), ("U(1) beta=1 L=4x8", "45")):
        cells = [cell.strip() for cell in lines[name].split("│")]
        assert cells[3] == steps
        assert cells[4].endswith("MiB")
        assert cells[5].endswith(" s")
    assert lines["all"].split("│")[5].strip()


def test_values_without_error_are_not_passed_over(tmp_path, monkeypatch, without_plots):
    measured = module.estimates

    def without(result, exact):
        found = measured(result, exact)
        return {**found, "plaquette": replace(found["plaquette"], error=None)}

    monkeypatch.setattr(module, "estimates", without)
    config = config_of(tmp_path)
    summary, text = printed(changed(config, {"scan": config["scan"][:1]}))
    assert text.index("all ") < text.index("(exact"), "the estimate comes first"
    judgement = summary["judgement"]
    assert judgement["without_error"] == ["U(1) beta=1 L=4 plaquette"]
    assert len(judgement["pulls"]) == 2
    assert not judgement["ok"]
    assert "DOES NOT AGREE" in text
