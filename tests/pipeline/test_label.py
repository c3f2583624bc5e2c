"""The command ``label``, end to end on ensembles of ``generate``; what cannot work writes nothing."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console
from small_runs import EXACT, SLICE, changed, composed, refused

from lattice_lightning.cli import main
from lattice_lightning.data import Ensemble, EnsembleWriter, Labels
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import InverseTraces, Plaquette
from lattice_lightning.pipeline.compose import config_folder
from lattice_lightning.pipeline.generate import generate
from lattice_lightning.pipeline.label import label_command
from lattice_lightning.seeds import derive_seed

QUIET = Console(quiet=True)
LATTICE, GROUP = Lattice((4, 4)), SU2()
TRACES = "{traces: {_target_: lattice_lightning.observables.InverseTraces, mass: 0.7, powers: [1], n_sources: 2}}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """4 x 3 configurations of 2d SU(2) with a staggered fermion of mass 0.5; do not change it."""
    config = changed(
        composed(SLICE),
        {
            "stream.n_chains": 3, "stream.n_thermalise": 2, "sampling.n_steps": 8, "action.fermion.mass": 0.5,
            "observables.condensate.mass": 0.5, "integrator.levels.0.n_steps": 2,
        },
    )
    path = tmp_path_factory.mktemp("made") / "e.zarr"
    generate(config, path, 2, QUIET)
    return path


@pytest.fixture
def ensemble(made, tmp_path):
    return shutil.copytree(made, tmp_path / "e.zarr")


def run(ensemble, *arguments):
    return main(["label", f"ensemble={ensemble}", *arguments])


def direct(ensemble, observable, name, seed=1):
    """Measured without the command, ``{name: [chains, configurations]}``."""
    columns = [
        observable.measure(ensemble[i], torch.Generator().manual_seed(derive_seed(seed, name, step)))
        for i, step in enumerate(ensemble.steps)
    ]
    return {key: torch.stack([c[key] for c in columns], 1).numpy() for key in columns[0]}


def test_labels_of_a_config_file(ensemble, capsys):
    assert run(ensemble, "observables=traces", "only=[traces, plaquette]") == 0
    printed = capsys.readouterr().out
    # mass and boundary are those of the ensemble's own action
    given = composed(f"{SLICE}", "observables=traces")["observables"]["traces"]
    expected = direct(
        Ensemble(ensemble),
        InverseTraces(LATTICE, GROUP, 0.5, (1, 2), given["n_sources"], given["boundary"]),
        "traces",
    )
    labels = Labels(ensemble, "traces")
    assert labels.names == list(expected)
    assert labels.steps == [1, 3, 5, 7]
    for name, values in expected.items():
        assert np.array_equal(labels[name], values), name
    assert labels.provenance["observable"] == {**given, "mass": 0.5}
    assert labels.provenance["seed"] == 1
    assert sorted(p.name for p in (ensemble / "labels").iterdir()) == ["plaquette", "traces"]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "3 x 4" in line]
    assert [(row[0], row[1]) for row in rows] == [*(("traces", n) for n in expected), ("plaquette", "plaquette")]
    shown = rows[-1][3].split("(")[0]
    mean = direct(Ensemble(ensemble), Plaquette(LATTICE, GROUP), "plaquette")["plaquette"].mean()
    assert float(shown) == pytest.approx(mean, abs=0.6 * 10 ** -len(shown.split(".")[1]))
    assert float(rows[0][4]) == pytest.approx(labels.seconds_per_configuration, rel=0.01)


def test_by_default_the_observables_of_the_ensemble(ensemble):
    found = label_command({"ensemble": str(ensemble)}, QUIET)
    assert list(found) == ["plaquette", "polyakov", "condensate"]
    expected = direct(Ensemble(ensemble), Plaquette(LATTICE, GROUP), "plaquette")
    assert np.array_equal(found["plaquette"]["plaquette"], expected["plaquette"])


def test_observables_inline(ensemble):
    assert run(ensemble, f"observables={TRACES}", "seed=4", "n=2") == 0
    observable = InverseTraces(LATTICE, GROUP, 0.7, (1,), 2)
    expected = direct(Ensemble(ensemble), observable, "traces", 4)
    labels = Labels(ensemble, "traces")
    assert labels.steps == [1, 3]
    assert np.array_equal(labels["trace_inverse_1"], expected["trace_inverse_1"][:, :2])
    # the rest, from a mapping of Python
    given = {"traces": dict(labels.provenance["observable"]), "off": None}
    again = label_command({"ensemble": ensemble, "observables": given, "seed": 4}, QUIET)
    assert list(again) == ["traces"]
    assert np.array_equal(again["traces"]["trace_inverse_1"], expected["trace_inverse_1"])


def test_inline_observables_may_refer_to_the_config(ensemble):
    quoted = TRACES.replace("mass: 0.7", "mass: '${action.fermion.mass}'")
    assert run(ensemble, f"observables={quoted}", "n=1") == 0
    assert Labels(ensemble, "traces").provenance["observable"]["mass"] == 0.5


def test_goes_on_where_it_was_interrupted(ensemble, made, tmp_path, monkeypatch, capsys):
    measure, calls = InverseTraces.measure, []

    def interrupted(self, field, rng):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, field, rng)

    with monkeypatch.context() as patch:
        patch.setattr(InverseTraces, "measure", interrupted)
        assert run(ensemble, f"observables={TRACES}", "only=[traces]") == 130
    captured = capsys.readouterr()
    assert captured.err == "interrupted\n"
    command = re.search(r"kept; go on with: lattice-lightning (.*)\n", captured.out).group(1)
    assert len(Labels(ensemble, "traces")) == 2
    assert main(shlex.split(command)) == 0
    whole = shutil.copytree(made, tmp_path / "whole")
    assert run(whole, f"observables={TRACES}") == 0
    a, b = (Labels(path, "traces") for path in (ensemble, whole))
    assert all(a[name].tobytes() == b[name].tobytes() for name in b.names)


def test_another_mass_shows_the_difference(ensemble, capsys):
    assert run(ensemble, f"observables={TRACES}", "n=1") == 0
    other = TRACES.replace("0.7", "0.8").replace("{traces", "{plaquette: {_target_: lattice_lightning.observables.Plaquette}, traces")
    refused(
        ["label", f"ensemble={ensemble}", f"observables={other}"],
        r"observable\.mass: 0\.7 -> 0\.8", ensemble, capsys,
    )
    assert not (ensemble / "labels" / "plaquette").exists(), "before the first measurement of any"


def test_an_altered_ensemble_is_refused(ensemble, capsys):
    import zarr

    assert run(ensemble, f"observables={TRACES}", "n=2") == 0
    array = zarr.open_array(str(ensemble / "rank0.zarr"), mode="r+")
    array[1] = np.flip(array[1], 0)
    refused(
        ["label", f"ensemble={ensemble}", f"observables={TRACES}"], "configuration of step 3 was altered",
        ensemble, capsys,
    )


PLAQUETTE = "_target_: lattice_lightning.observables.Plaquette"
CASES = [
    ([], "label needs ensemble=FOLDER"),
    (["ensemble=nowhere"], "nowhere is not an ensemble"),
    (["ensemble=e", "observable=traces"], r"no key \['observable'\]; known: ensemble, observables"),
    (["ensemble=e", "observables=tracs"], "no observables are called 'tracs'; did you mean 'traces'. Known: .*gauge"),
    (["ensemble=e", "observables=../action/wilson"], "cannot be a file name"),
    (["ensemble=e", "observables={a: {"], "cannot read the value of observables="),
    (["ensemble=e", "observables=[traces]"], r"cannot be a file name|no observables are called"),
    (["ensemble=e", "observables={a: 3}"], "_target_ must name something of"),
    (["ensemble=e", "observables={a: {_target_: os.system}}"], "_target_ must name something of"),
    (["ensemble=e", "observables={a: {_target_: lattice_lightning.samplers.HMC}}"], "is no Observable"),
    (["ensemble=e", f"observables={{a: {{{PLAQUETTE}, mass: 1}}}}"], "Plaquette has no argument 'mass'"),
    (["ensemble=e", f"observables={{a/b: {{{PLAQUETTE}}}}}"], "labels cannot be called 'a/b'"),
    (["ensemble=e", f"observables={{'..': {{{PLAQUETTE}}}}}"], r"labels cannot be called '\.\.'"),
    (["ensemble=e", "observables={a: {_target_: '${nothing.there}'}}"],
     r"observables does not fit the config of e \(.*nothing"),
    (["ensemble=e", "observables={}"], "no observable to measure"),
    (["ensemble=e", "only=[tracs]"], r"only must name some of plaquette, polyakov, condensate, .*\['tracs'\]"),
    (["ensemble=e", "only=[]"], "only must name some of"),
    (["ensemble=e", "n=0"], "n must be an integer of at least 1, got 0"),
    (["ensemble=e", "n=5"], "holds 4 configurations of each chain, got n=5"),
    (["ensemble=e", "n=all"], "n must be"),
    (["ensemble=e", "seed=-1"], "seed must be"),
    (["ensemble=e", "device=tpu"], "device must be cpu, gpu or cuda:NUMBER, got 'tpu'"),
    (["ensemble=e", "device=meta"], "device must be cpu, gpu"),
    (["ensemble=e", "device=cuda:99"], r"device=cuda:99, but torch .* sees \d+ GPUs; use device=cpu"),
    (["ensemble=e", "observables=scalar"], "ScalarMoments|real line|field"),
]


@pytest.mark.parametrize(("arguments", "message"), CASES, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_refused_before_the_first_measurement(arguments, message, made, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e").symlink_to(made)
    refused(["label", *arguments], message, tmp_path, capsys)
    assert not (made / "labels").exists()


def test_observables_of_a_fermion_where_there_is_none(tmp_path, capsys):
    config = changed(composed(EXACT), {"scan": None, "lattice": [4, 4]})
    with EnsembleWriter(tmp_path / "e", (2, 2, 4, 4, 2, 2), 1, {"config": config}) as writer:
        writer.append(GROUP.cold(LATTICE, 2), 0, [])
    arguments = ["label", f"ensemble={tmp_path / 'e'}", "observables=traces"]
    refused(arguments, r"observables=traces does not fit the config .*fermion.*give the values themselves", tmp_path, capsys)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "does not say the config that it was made with"),
        ({"group": "SU(2)", "observables": {"a": {"_target_": "x"}}}, "is not one of a run: 'lattice'"),
        ({**composed(EXACT), "lattice": [4, 6]}, "on the lattice .*4, 6.* needs complex links"),
    ],
)
def test_ensembles_whose_config_does_not_fit(tmp_path, config, message):
    provenance = {} if config is None else {"config": config}
    with EnsembleWriter(tmp_path / "e", (2, 2, 4, 4, 2, 2), 1, provenance) as writer:
        writer.append(GROUP.cold(LATTICE, 2), 0, [])
    with pytest.raises(InputError, match=message):
        label_command({"ensemble": tmp_path / "e"}, QUIET)
    assert not (tmp_path / "e" / "labels").exists()


def test_an_empty_ensemble(tmp_path):
    with EnsembleWriter(tmp_path / "e", (2, 2, 4, 4, 2, 2), 1, {}), pytest.raises(InputError, match="no configuration"):
        label_command({"ensemble": tmp_path / "e"}, QUIET)


def test_help_says_how(capsys):
    assert main(["--help"]) == 0
    assert "  label     label ensemble=FOLDER" in capsys.readouterr().out


def test_every_group_of_observables_is_known(made):
    """What the refusal lists is what configs/observables has."""
    known = sorted(p.stem for p in (config_folder() / "observables").glob("*.yaml"))
    with pytest.raises(InputError, match=", ".join(known)):
        label_command({"ensemble": made, "observables": "none"}, QUIET)
    record = json.loads((made / "committed_rank0.json").read_text())
    assert record["provenance"]["config"]["observables"], "by default those that it was made with"
