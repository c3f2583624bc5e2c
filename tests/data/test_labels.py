"""Labels: what is committed is read; killed anywhere and resumed, they are the same bit for bit."""

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from lattice_lightning import __version__
from lattice_lightning.data import Ensemble, EnsembleWriter, Labels, measure_labels
from lattice_lightning.exceptions import FormatError, InputError, ResumeError
from lattice_lightning.observables import Observable
from lattice_lightning.seeds import derive_seed

SHAPE = (3, 2, 2, 2)
STEPS = [4, 9, 14, 19]
CONFIG = {"_target_": "Probe", "n_sources": 2, "sizes": [[1, 2]]}
FILES = "lattice_lightning.data.label_files"


class Probe(Observable):
    """Noisy and exact values of a field; ``before`` is called with the number of the measurement."""

    def __init__(self, before=lambda call: None, alter=lambda values, call: values):
        self.before, self.alter, self.calls = before, alter, 0

    def measure(self, field, rng):
        self.before(self.calls)
        noise = torch.randn(field.shape, dtype=torch.float64, generator=rng)
        values = {
            "noisy": (field.real * noise).flatten(1).sum(1),
            "exact": field.abs().flatten(1).sum(1),
            "count": torch.arange(len(field)),
        }
        values = self.alter(values, self.calls)
        self.calls += 1
        return values


def field(step, shape=SHAPE, dtype=torch.complex128):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1000 + step))


def write(folder, steps=STEPS, rank=0, shape=SHAPE, dtype=torch.complex128):
    with EnsembleWriter(folder, shape, len(steps), {"seed": 7}, rank, dtype) as writer:
        for step in steps:
            writer.append(field(step + 100 * rank, shape, dtype), step, [])
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "e.zarr")


def label(folder, observable=None, name="probe", described=CONFIG, seed=5, **how):
    return measure_labels(folder, name, observable or Probe(), described, seed, **how)


def stored(folder, name="probe"):
    """What must not depend on interruptions: values and all marks but the time, as numpy arrays."""
    labels = folder / "labels" / name
    count = json.loads((labels / "record.json").read_text())["count"]
    marks = zarr.open_array(str(labels / "marks.zarr"), mode="r")[:count]
    return zarr.open_array(str(labels / "values.zarr"), mode="r")[:count], marks[:, :3]


def same(a, b):
    return all(x.tobytes() == y.tobytes() and x.shape == y.shape for x, y in zip(a, b, strict=True))


def test_numbers_are_those_of_direct_measurement(folder):
    labels = label(folder)
    assert labels.names == ["noisy", "exact", "count"]
    assert labels.steps == STEPS == Ensemble(folder).steps
    assert len(labels) == 4
    for i, step in enumerate(STEPS):
        rng = torch.Generator().manual_seed(derive_seed(5, "probe", step))
        for name, value in Probe().measure(field(step), rng).items():
            assert labels[name].dtype == np.float64
            assert labels[name].shape == (3, 4)
            assert labels[name][:, i].tobytes() == value.double().numpy().tobytes(), (name, step)
    assert len(np.unique(labels["noisy"])) == 12, "every configuration has noise of its own"


def test_read_again(folder):
    measured, read = label(folder), Labels(folder, "probe")
    assert (read.names, read.steps, read.seconds) == (measured.names, measured.steps, measured.seconds)
    assert all(np.array_equal(read[name], measured[name]) for name in read.names)
    assert read.provenance == {
        "observable": CONFIG, "seed": 5, "device": "cpu", "version": __version__, "torch": torch.__version__,
    }
    read.require_of(Ensemble(folder))
    record = json.loads((folder / "labels/probe/record.json").read_text())
    assert (record["format"], record["count"], record["last_step"]) == ("lattice_lightning.labels/1", 4, 19)


def test_digests_are_of_the_bytes_read(folder):
    label(folder)
    for i, mark in enumerate(stored(folder)[1]):
        expected = sha256(Ensemble(folder)[i].numpy().tobytes()).hexdigest()[:16]
        assert f"{int(mark[1]) % 2**64:016x}" == expected


def test_seconds(folder, monkeypatch):
    ticks = iter(x for pair in ((0, 3), (10, 16), (20, 23), (30, 1230)) for x in pair)
    monkeypatch.setattr("lattice_lightning.data.labels.perf_counter_ns", lambda: next(ticks) * 10**9)
    label(folder, n=2)
    labels = label(folder)
    assert labels.seconds == 3 + 6 + 3 + 1200, "of both sessions"
    assert labels.seconds_per_configuration == 4.5 / 3, "one slow step does not count"


def test_real_fields_and_several_ranks(tmp_path):
    shape = (2, 4, 4)
    for rank, steps in ((0, [0, 1, 2]), (1, [0, 1])):
        write(tmp_path / "e", steps, rank, shape, torch.float64)
    labels = label(tmp_path / "e")
    assert labels.steps == [0, 1], "what all ranks committed"
    for i in range(2):
        joined = torch.cat([field(100 * rank + i, shape, torch.float64) for rank in (0, 1)])
        expected = Probe().measure(joined, torch.Generator().manual_seed(derive_seed(5, "probe", i)))
        assert np.array_equal(labels["noisy"][:, i], expected["noisy"].numpy())


def test_several_labels_stand_beside_each_other(folder):
    first = label(folder)
    second = label(folder, name="other", seed=6)
    assert not np.array_equal(first["noisy"], second["noisy"])
    assert np.array_equal(first["exact"], second["exact"])
    assert np.array_equal(Labels(folder, "probe")["noisy"], first["noisy"])


def test_first_n_then_all_and_growth(folder, tmp_path):
    assert label(folder, n=2).steps == [4, 9]
    fewer = Probe()
    assert label(folder, fewer, n=1).steps == [4, 9], "what there is stays"
    assert fewer.calls == 0
    label(folder)
    write(folder, [*STEPS, 24, 29])
    grown = Probe()
    labels = label(folder, grown)
    assert grown.calls == 2, "only the new ones"
    assert labels.steps == [4, 9, 14, 19, 24, 29]
    whole = write(tmp_path / "whole", [*STEPS, 24, 29])
    label(whole)
    assert same(stored(folder), stored(whole))


# -- interruptions ---------------------------------------------------------------------------------


def interrupt_chunk(patch, call):
    """The call-th chunk is not written: values of step call // 2, or its marks."""
    write_chunk, calls = zarr.Array.__setitem__, []

    def killed(self, key, value):
        calls.append(key)
        if len(calls) == call + 1:
            raise KeyboardInterrupt
        write_chunk(self, key, value)

    patch.setattr(zarr.Array, "__setitem__", killed)


def interrupt_record(patch, call):
    from lattice_lightning.data.ensemble import _write_json

    calls = []

    def killed(path, payload):
        calls.append(path)
        if len(calls) == call + 1:
            path.with_suffix(".partial").write_text('{"format": "latt')
            raise KeyboardInterrupt
        _write_json(path, payload)

    patch.setattr(f"{FILES}._write_json", killed)


def interrupt_measurement(patch, call):
    measure = Probe.measure

    def killed(self, field, rng):
        if self.calls == call:
            raise KeyboardInterrupt
        return measure(self, field, rng)

    patch.setattr(Probe, "measure", killed)


CUTS = [
    *((interrupt_chunk, call, call // 2) for call in range(8)),
    *((interrupt_record, call, call) for call in range(4)),
    *((interrupt_measurement, call, call) for call in range(4)),
]


@pytest.mark.parametrize(("cut", "call", "done"), CUTS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_interrupted_anywhere(folder, tmp_path, monkeypatch, cut, call, done):
    with monkeypatch.context() as patch:
        cut(patch, call)
        with pytest.raises(KeyboardInterrupt):
            label(folder)
    if done:
        assert Labels(folder, "probe").steps == STEPS[:done], "what is beyond the record is not read"
    else:
        with pytest.raises(FormatError, match="has no labels 'probe'"):
            Labels(folder, "probe")
    assert not (folder / "labels/probe/lock").exists()
    resumed = Probe()
    label(folder, resumed)
    assert resumed.calls == 4 - done
    label(write(tmp_path / "whole"))
    assert same(stored(folder), stored(tmp_path / "whole"))


def test_noise_that_depends_on_the_session_would_be_seen(folder, tmp_path, monkeypatch):
    """The wrong variant: one stream of noise a session."""
    calls = []
    monkeypatch.setattr("lattice_lightning.data.labels.derive_seed", lambda *_: calls.append(1) or len(calls))
    label(folder, n=2)
    calls.clear()
    label(folder)
    calls.clear()
    label(write(tmp_path / "whole"))
    assert not same(stored(folder), stored(tmp_path / "whole"))


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import zarr
sys.path.insert(0, sys.argv[2])
import test_labels
from lattice_lightning.data import Labels, measure_labels
folder, chance = Path(sys.argv[1]), random.Random(11)
def child(pause):
    pid = os.fork()
    if pid == 0:
        probe = test_labels.Probe(lambda call: time.sleep(pause))
        measure_labels(folder, "probe", probe, test_labels.CONFIG, 5)
        os._exit(0)
    return pid
record = folder / "labels/probe/record.json"
def count():
    return json.loads(record.read_text())["count"] if record.exists() else 0
for kill in range(12):
    before, pid = count(), child(0.002)
    if kill % 2:
        # on a busy machine too, some are killed after they wrote
        until = time.monotonic() + 30
        while count() == before and time.monotonic() < until:
            time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.05))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    print(len(Labels(folder, "probe")) if record.exists() else 0)
assert os.waitstatus_to_exitcode(os.waitpid(child(0), 0)[1]) == 0
"""


def test_killed_at_random_times(tmp_path):
    steps = list(range(0, 600, 3))
    whole = write(tmp_path / "whole", steps)
    shutil.copytree(whole, tmp_path / "killed")
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), os.path.dirname(__file__)],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    counts = [int(line) for line in run.stdout.split()]
    assert counts == sorted(counts), "what was committed stays"
    assert len({c for c in counts if 0 < c < len(steps)}) >= 2, f"killed in between: {counts}"
    label(whole)
    assert same(stored(whole), stored(tmp_path / "killed"))
    assert len(Labels(tmp_path / "killed", "probe")) == len(steps)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"described": {**CONFIG, "n_sources": 4}}, r"other settings \(observable\.n_sources: 2 -> 4\)"),
        ({"described": {**CONFIG, "mass": 0.1}}, r"\(observable\.mass: \(absent\) -> 0\.1\)"),
        ({"described": {}}, r"observable\._target_: Probe -> \(absent\)"),
        ({"seed": 6}, r"\(seed: 5 -> 6\); use those, measure under another name"),
        ({"device": "meta"}, r"\(device: cpu -> meta\)"),
    ],
)
def test_other_settings_are_refused(folder, changed, message):
    label(folder, n=2)
    before = stored(folder)
    with pytest.raises(ResumeError, match=message):
        label(folder, **changed)
    assert same(stored(folder), before)


def alter_one_bit(folder, position, rank=0):
    """A valid chunk whose data differ in the last bit of one number."""
    array = zarr.open_array(str(folder / f"rank{rank}.zarr"), mode="r+")
    values = array[position]
    values.view(np.uint8).reshape(-1)[8] ^= 1
    array[position] = values


@pytest.mark.parametrize("position", [0, 2])
def test_an_altered_configuration_is_refused(folder, position):
    labels = label(folder, n=3)
    alter_one_bit(folder, position)
    assert torch.isfinite(Ensemble(folder)[position].abs()).all(), "the ensemble itself cannot know"
    for refused in (lambda: labels.require_of(Ensemble(folder)), lambda: label(folder)):
        with pytest.raises(InputError, match=rf"configuration of step {STEPS[position]} was altered"):
            refused()


def test_a_configuration_without_a_label_may_change(folder):
    labels = label(folder, n=3)
    alter_one_bit(folder, 3)
    labels.require_of(Ensemble(folder))


@pytest.mark.parametrize(
    ("steps", "shape", "message"),
    [
        (STEPS, (2, *SHAPE[1:]), "labels of 3 chains, 2 there"),
        (STEPS[:2], SHAPE, "4 steps are labelled, 2 are there"),
        ([4, 10, 14, 19], SHAPE, "its configuration 1 was of step 9, there of 10"),
        (STEPS, (3, 2, 2, 3), "another ensemble than .*, or the configuration of step 4 was altered"),
    ],
)
def test_another_ensemble_is_refused(folder, tmp_path, steps, shape, message):
    label(folder)
    other = write(tmp_path / "other", steps, 0, shape)
    shutil.copytree(folder / "labels", other / "labels")
    with pytest.raises(InputError, match=message):
        Labels(other, "probe").require_of(Ensemble(other))
    with pytest.raises(InputError, match=message):
        label(other, n=1)


def nan_in(name, call, chain, value=float("nan")):
    def alter(values, now):
        if now == call:
            values[name][chain] = value
        return values

    return alter


def without(name):
    return lambda values, call: {k: v for k, v in values.items() if call == 0 or k != name}


REFUSED = [
    (nan_in("exact", 2, 1), 2, r"exact of step 14 is not finite in chain 1; nothing of that step"),
    (nan_in("noisy", 1, slice(0, 2), float("-inf")), 1, "noisy of step 9 is not finite in chain 0, 1"),
    (nan_in("noisy", 0, 0), 0, "noisy of step 4 is not finite"),
    (lambda values, call: {**values, "more": values["exact"]} if call else values, 1,
     "of step 9 noisy, exact, count, more was measured, expected noisy, exact, count"),
    (without("exact"), 1, "of step 9 noisy, count was measured"),
    (lambda values, call: {}, 0, "of step 4 nothing was measured, expected at least one value"),
    (lambda values, call: {"a": values["exact"][:2]}, 0, r"a of step 4 must be one real .* 3 chains, got .*\[2\]"),
    (lambda values, call: {"a": values["exact"][:, None]}, 0, r"got torch.float64 \[3, 1\]"),
    (lambda values, call: {"a": values["exact"] * 1j}, 0, "must be one real number"),
]


@pytest.mark.parametrize(("alter", "done", "message"), REFUSED)
def test_values_that_are_refused(folder, alter, done, message):
    with pytest.raises(InputError, match=message):
        label(folder, Probe(alter=alter))
    if done:
        assert Labels(folder, "probe").steps == STEPS[:done]
    else:
        assert not (folder / "labels").exists(), "nothing is left"
    assert label(folder).steps == STEPS, "a mended observable goes on"


NAMES = ["", ".", "..", "a/b", "/a", "../a", "a\\b", "a\0b", "a b", ".hidden", "-a", "é", "a" * 101, None, 3, "a\n"]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_that_lead_elsewhere(folder, name):
    for refused in (lambda: label(folder, name=name), lambda: Labels(folder, name)):
        with pytest.raises(InputError, match="labels cannot be called"):
            refused()
    assert not (folder / "labels").exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"n": 0}, "holds 4 configurations of each chain, the first n=0 cannot be labelled"),
        ({"n": 5}, "the first n=5 cannot be labelled"),
        ({"described": {"a": object()}}, "described by plain entries"),
    ],
)
def test_what_cannot_be_labelled(folder, how, message):
    with pytest.raises(InputError, match=message):
        label(folder, **how)
    assert not (folder / "labels").exists()


def test_no_or_empty_ensemble(tmp_path):
    with pytest.raises(FormatError, match="is not an ensemble"):
        label(tmp_path / "nothing")
    with EnsembleWriter(tmp_path / "e", SHAPE, 1, {}), pytest.raises(InputError, match="nothing to label"):
        label(tmp_path / "e")


def test_missing_labels_name_those_there(folder):
    with pytest.raises(FormatError, match=r"has no labels 'probe' \(it has none\); measure them"):
        Labels(folder, "probe")
    label(folder, name="other")
    with pytest.raises(FormatError, match=r"no labels 'probe' \(it has other\)"):
        Labels(folder, "probe")
    with pytest.raises(InputError, match=r"has no 'plaquette'; it has noisy, exact, count"):
        Labels(folder, "other")["plaquette"]


# -- damage ----------------------------------------------------------------------------------------


def changed_record(**changes):
    def damage(folder):
        path = folder / "record.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def chunk(folder, what, position):
    return next(p for p in (folder / f"{what}.zarr" / "c" / str(position)).rglob("*") if p.is_file())


def flipped(what, position):
    def damage(folder):
        path = chunk(folder, what, position)
        content = bytearray(path.read_bytes())
        content[3] ^= 1
        path.write_bytes(content)

    return damage


def swapped(what, a, b):
    """A valid chunk of another step."""
    return lambda folder: shutil.copy(chunk(folder, what, a), chunk(folder, what, b))


DAMAGE = {
    "flipped bit of values": (flipped("values", 2), "configuration 2 are damaged .*checksum.*restore"),
    "flipped bit of marks": (flipped("marks", 1), "configuration 1 are damaged .*checksum"),
    "lost values": (lambda f: chunk(f, "values", 1).unlink(), r"configuration 1 .*committed but missing"),
    "lost marks": (lambda f: chunk(f, "marks", 3).unlink(), r"configuration 3 .*committed but missing"),
    "cut": (lambda f: chunk(f, "values", 0).write_bytes(b"1234"), "configuration 0 are damaged"),
    "values of another step": (swapped("values", 0, 2), "configuration 2 .*not what was written there"),
    "marks of another step": (swapped("marks", 0, 2), "configuration 2 .*not what was written there"),
    "no values": (lambda f: shutil.rmtree(f / "values.zarr"), r"values\.zarr cannot be opened"),
    "no marks": (lambda f: shutil.rmtree(f / "marks.zarr"), r"marks\.zarr cannot be opened"),
    "more counted than there": (changed_record(count=9), "but the record counts 9 steps"),
    "fewer counted": (changed_record(count=3), "of step 14, the record says 19"),
    "other chains": (changed_record(chains=2), r"values\.zarr is float64 \[4, 3, 3\], but the record"),
    "other names": (changed_record(names=["a"]), "but the record counts"),
    "no count": (changed_record(count=True), r"record\.json is damaged"),
    "none counted": (changed_record(count=0), r"record\.json is damaged"),
    "names twice": (changed_record(names=["a", "a", "b"]), r"record\.json is damaged"),
    "names of no text": (changed_record(names=[1, 2, 3]), r"record\.json is damaged"),
    "no provenance": (changed_record(provenance=None), r"record\.json is damaged"),
    "no seed": (changed_record(provenance={}), r"record\.json is damaged"),
    "another format": (changed_record(format="other/2"), "format 'other/2', expected"),
    "half a record": (lambda f: (f / "record.json").write_text('{"format": "lat'), r"record\.json is damaged"),
    "a list": (lambda f: (f / "record.json").write_text("[]"), r"record\.json is damaged"),
    "no text": (lambda f: (f / "record.json").write_bytes(b"\xff\xfe"), r"record\.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_damage_is_named(folder, damage):
    label(folder)
    write(folder, [*STEPS, 24])
    harm, message = DAMAGE[damage]
    harm(folder / "labels" / "probe")
    for refused in (lambda: Labels(folder, "probe"), lambda: label(folder)):
        with pytest.raises(FormatError, match=message):
            refused()


# -- one process at a time -------------------------------------------------------------------------


def test_a_living_writer_is_named(folder):
    def second(call):
        if call == 1:
            with pytest.raises(InputError, match=rf"process {os.getpid()} on {socket.gethostname()} is writing these"):
                label(folder)
            assert label(folder, name="other").steps == STEPS, "other labels can be written"
            assert Labels(folder, "probe").steps == STEPS[:1], "and what is committed be read"

    assert label(folder, Probe(second)).steps == STEPS


def test_two_processes(folder, tmp_path):
    """One is refused while the other writes, and takes over once that was killed."""
    script = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import test_labels as t\n"
        "def wait(call):\n    if call == 2:\n        print('there', flush=True); time.sleep(60)\n"
        "t.label(Path(sys.argv[1]), t.Probe(wait))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder), os.path.dirname(__file__)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "there\n"
        with pytest.raises(InputError, match=rf"process {other.pid} on .*wait for it"):
            label(folder)
        assert label(folder, n=2).steps == STEPS[:2], "what is there needs no lock"
        other.kill()
        other.wait()
    assert (folder / "labels/probe/lock").exists()
    label(folder)
    label(write(tmp_path / "whole"))
    assert same(stored(folder), stored(tmp_path / "whole"))


def test_what_another_process_did_in_between_is_kept(folder, tmp_path, monkeypatch):
    """It committed after this one looked and before this one took the lock."""
    from lattice_lightning.data import labels as module

    look = module.labels_to_resume

    def slow(*args):
        found = look(*args)
        with monkeypatch.context() as patch:
            patch.setattr(module, "labels_to_resume", look)
            label(folder, n=3)
        return found

    monkeypatch.setattr(module, "labels_to_resume", slow)
    late = Probe()
    label(folder, late)
    assert late.calls == 1
    monkeypatch.undo()
    label(write(tmp_path / "whole"))
    assert same(stored(folder), stored(tmp_path / "whole"))


def test_finished_labels_need_no_writing(folder, monkeypatch):
    label(folder)
    monkeypatch.setattr(f"{FILES}.Lock", lambda *_: pytest.fail("took the lock"))
    assert label(folder).steps == STEPS


def test_a_folder_that_cannot_be_written(folder, monkeypatch):
    opened = Path.open

    def read_only(path, *args, **kwargs):
        if path.name in ("lock", "probe", "labels"):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, *args, **kwargs)

    for method, message in (("mkdir", "labels to .*probe"), ("open", "the lock .*lock")):
        with monkeypatch.context() as patch:
            patch.setattr(f"pathlib.Path.{method}", read_only)
            with pytest.raises(InputError, match=f"cannot write {message}: Read-only file system"):
                label(folder)
        assert not (folder / "labels").exists()
    (folder / "labels").write_text("a file")
    with pytest.raises(InputError, match=r"cannot write labels to .*probe"):
        label(folder)


def test_a_full_disk_keeps_what_was_measured(folder, monkeypatch):
    from lattice_lightning.data.ensemble import _write_json

    calls = []

    def full(path, payload):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        _write_json(path, payload)

    with monkeypatch.context() as patch:
        patch.setattr(f"{FILES}._write_json", full)
        with pytest.raises(InputError, match="No space left on device; the 2 steps before are kept"):
            label(folder)
    assert Labels(folder, "probe").steps == STEPS[:2]
    assert label(folder).steps == STEPS


def test_a_commit_costs_the_same_later(tmp_path):
    """The record does not grow with the steps."""
    folder = write(tmp_path / "e", list(range(10, 74)), 0, (1, 2))
    label(folder, n=1)
    first = (folder / "labels/probe/record.json").stat().st_size
    label(folder)
    assert (folder / "labels/probe/record.json").stat().st_size <= first + 2


def test_progress_counts_what_was_there(folder, monkeypatch):
    class Bar(contextlib.AbstractContextManager):
        updates = 0

        def __init__(self, **how):
            self.how = how
            bars.append(self)

        def __exit__(self, *_):
            return None

        def update(self):
            self.updates += 1

    bars = []
    monkeypatch.setattr("lattice_lightning.data.labels.tqdm", Bar)
    label(folder, n=1)
    assert not bars, "none was asked for"
    label(folder, progress="labelling probe")
    (bar,) = bars
    assert (bar.how["total"], bar.how["initial"], bar.updates, bar.how["desc"]) == (4, 1, 3, "labelling probe")
