"""Ensembles: what is committed is read, what a kill leaves is not, damage is named."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from lattice_lightning import __version__
from lattice_lightning.data import Ensemble, EnsembleWriter
from lattice_lightning.exceptions import FormatError, InputError, ResumeError

SHAPE = (2, 2, 3, 4, 2, 2)
PROVENANCE = {"config": {"group": "SU(2)", "lattice": [3, 4]}, "seed": 7, "row": "hmc"}


def field(step, shape=SHAPE):
    rng = torch.Generator().manual_seed(1000 + step)
    return torch.randn(shape, dtype=torch.complex128, generator=rng)


def rngs(step):
    return [torch.Generator().manual_seed(step).get_state()]


def write(folder, steps, rank=0, shape=SHAPE, n_steps=4, provenance=PROVENANCE):
    with EnsembleWriter(folder, shape, n_steps, provenance, rank) as writer:
        for step in steps:
            writer.append(field(step + 100 * rank, shape), step, rngs(step))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "e.zarr", [4, 9, 14])
    return tmp_path / "e.zarr"


def test_write_and_read(folder):
    ensemble = Ensemble(folder)
    assert len(ensemble) == 3
    assert ensemble.shape == (3, *SHAPE)
    for index, step in enumerate([4, 9, 14]):
        assert torch.equal(ensemble[index], field(step))
        assert torch.equal(ensemble[index - 3], field(step))
    for outside in (3, -4):
        with pytest.raises(IndexError, match=rf"configuration {outside} of an ensemble with 3"):
            ensemble[outside]


def test_provenance_of_every_configuration(folder):
    ensemble = Ensemble(folder)
    for index, step in ((0, 4), (2, 14), (-1, 14), (-3, 4)):
        assert ensemble.provenance(index) == {**PROVENANCE, "step": step, "version": __version__}
    with pytest.raises(IndexError):
        ensemble.provenance(3)


def test_resume_continues_and_leaves_committed_alone(folder):
    with EnsembleWriter(folder, SHAPE, 6, PROVENANCE) as writer:
        assert len(writer) == 3
        step, last, states = writer.last()
        assert step == 14
        assert torch.equal(last, field(14))
        assert torch.equal(states[0], rngs(14)[0])
        writer.append(torch.zeros(SHAPE, dtype=torch.complex128), 9, [])
        for step in (19, 24, 29):
            writer.append(field(step), step, rngs(step))
    ensemble = Ensemble(folder)
    assert [ensemble.provenance(i)["step"] for i in range(6)] == [4, 9, 14, 19, 24, 29]
    for i in range(6):
        assert torch.equal(ensemble[i], field(4 + 5 * i))


def test_real_fields(tmp_path):
    values = torch.randn(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with EnsembleWriter(tmp_path / "e", (3, 4, 4), 1, {}, dtype=torch.float64) as writer:
        writer.append(values, 0, [])
    back = Ensemble(tmp_path / "e")[0]
    assert back.dtype == torch.float64
    assert torch.equal(back, values)


@pytest.mark.parametrize("stage", ["save_atomically", "_write_json"])
def test_kill_before_the_record(folder, monkeypatch, stage):
    """A chunk beyond the record is neither read nor trusted, and is written again."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, EnsembleWriter(folder, SHAPE, 4, PROVENANCE) as writer:
        patch.setattr(f"lattice_lightning.data.ensemble.{stage}", killed)
        with pytest.raises(KeyboardInterrupt):
            writer.append(field(0), 19, rngs(19))
    assert (folder / "rank0.zarr" / "c" / "3").exists(), "the chunk was written"
    assert len(Ensemble(folder)) == 3
    with EnsembleWriter(folder, SHAPE, 4, PROVENANCE) as writer:
        writer.append(field(19), 19, rngs(19))
    assert torch.equal(Ensemble(folder)[3], field(19))


def test_space_grown_but_not_written_is_not_read(folder):
    with EnsembleWriter(folder, SHAPE, 10, PROVENANCE) as writer:
        assert len(writer) == 3
    assert len(Ensemble(folder)) == 3
    record = json.loads((folder / "committed_rank0.json").read_text())
    record["steps"].append(19)
    (folder / "committed_rank0.json").write_text(json.dumps(record))
    with pytest.raises(FormatError, match="configuration 3 of rank 0 was committed but is missing"):
        Ensemble(folder)[3]


def chunk(folder, index, rank=0):
    return next(p for p in (folder / f"rank{rank}.zarr" / "c" / str(index)).rglob("*") if p.is_file())


@pytest.mark.parametrize("offset", [0, 100, -1])
def test_flipped_bit_names_the_configuration(folder, offset):
    path = chunk(folder, 1)
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    ensemble = Ensemble(folder)
    with pytest.raises(FormatError, match=r"configuration 1 of rank 0 is damaged .*restore it from a copy"):
        ensemble[1]
    assert torch.equal(ensemble[0], field(4))
    assert torch.equal(ensemble[2], field(14))


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(p.read_bytes()[:50]), lambda p: p.unlink()])
def test_truncated_or_lost_chunk(folder, damage):
    damage(chunk(folder, 2))
    with pytest.raises(FormatError, match="configuration 2 of rank 0"):
        Ensemble(folder)[2]


def test_two_ranks(tmp_path):
    folder = tmp_path / "e.zarr"
    write(folder, [0, 1, 2])
    write(folder, [0, 1], rank=1)
    ensemble = Ensemble(folder)
    assert ensemble.shape == (2, 4, *SHAPE[1:]), "what all ranks committed counts"
    assert torch.equal(ensemble[-1], torch.cat([field(1), field(101)]))
    assert ensemble.provenance(-1)["step"] == 1
    path = chunk(folder, 0, rank=1)
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(FormatError, match="configuration 0 of rank 1"):
        ensemble[0]


def test_ranks_in_numerical_order(tmp_path):
    for rank in range(11):
        write(tmp_path / "e", [0], rank, (1, 2), 1)
    expected = torch.cat([field(100 * rank, (1, 2)) for rank in range(11)])
    assert torch.equal(Ensemble(tmp_path / "e")[0], expected)


def test_living_holder_is_named(folder):
    with (
        EnsembleWriter(folder, SHAPE, 4, PROVENANCE),
        pytest.raises(InputError, match=rf"process {os.getpid()} on {socket.gethostname()} is writing"),
    ):
        EnsembleWriter(folder, SHAPE, 4, PROVENANCE)
    write(folder, [19])
    assert len(Ensemble(folder)) == 4


def test_lock_of_another_machine_is_respected(folder):
    (folder / "lock_rank0").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(InputError, match=r"process 1 on elsewhere .*delete the lock if that"):
        EnsembleWriter(folder, SHAPE, 4, PROVENANCE)


def test_dead_holder_is_taken_over(folder):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (folder / "lock_rank0").write_text(json.dumps({"pid": gone.pid, "host": socket.gethostname()}))
    write(folder, [19])
    assert len(Ensemble(folder)) == 4
    assert not (folder / "lock_rank0").exists()


@pytest.mark.parametrize("content", ["", '{"pid": 1', "[]", "{}", '{"pid": "x", "host": 3}'])
def test_damaged_lock_is_taken_over(folder, content):
    (folder / "lock_rank0").write_text(content)
    write(folder, [19])
    assert len(Ensemble(folder)) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"provenance": {**PROVENANCE, "seed": 8}}, "another provenance; write to another folder"),
        ({"shape": (3, *SHAPE[1:])}, "another field_shape"),
    ],
)
def test_another_ensemble_is_refused(folder, changed, message):
    with pytest.raises(ResumeError, match=message):
        write(folder, [], **changed)
    assert not (folder / "lock_rank0").exists(), "a refusal leaves no lock"
    assert len(Ensemble(folder)) == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full(SHAPE, float("nan"), dtype=torch.complex128), "step 19 is not finite; it is not"),
        (torch.full(SHAPE, complex(0, float("inf"))), "not finite"),
        (torch.zeros(SHAPE[1:], dtype=torch.complex128), r"fields of shape \[2, 2, 3, 4, 2, 2\], got"),
    ],
)
def test_fields_that_are_refused(folder, value, message):
    with EnsembleWriter(folder, SHAPE, 4, PROVENANCE) as writer, pytest.raises(InputError, match=message):
        writer.append(value, 19, [])
    assert len(Ensemble(folder)) == 3


@pytest.mark.parametrize(
    "content", [b"", b'{"format": "latt', b"\xff\xfe", b"[]", b"null", b"{}", b'{"format": "another/2"}',
                b'{"format": "lattice_lightning.ensemble/1"}',
                b'{"format": "lattice_lightning.ensemble/1", "steps": 3, "field_shape": 1}'],
)
def test_damaged_record(folder, content):
    (folder / "committed_rank0.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"committed_rank0\.json"):
        Ensemble(folder)
    with pytest.raises((FormatError, ResumeError), match=r"committed_rank0\.json|another format"):
        EnsembleWriter(folder, SHAPE, 4, PROVENANCE)


def test_array_gone(folder):
    shutil.rmtree(folder / "rank0.zarr")
    with pytest.raises(FormatError, match=r"rank0\.zarr cannot be opened"):
        Ensemble(folder)
    with pytest.raises(ResumeError, match=r"rank0\.zarr is gone"):
        EnsembleWriter(folder, SHAPE, 4, PROVENANCE)


def test_no_ensemble(tmp_path):
    with pytest.raises(FormatError, match="is not an ensemble"):
        Ensemble(tmp_path / "nothing")
    with pytest.raises(InputError, match="at least one configuration, got n_steps=0"):
        EnsembleWriter(tmp_path / "nothing", SHAPE, 0, PROVENANCE)
    assert not (tmp_path / "nothing").exists()
