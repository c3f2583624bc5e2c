"""Streams of trajectories: reproducible, resumable, rejected ends included."""

import gc

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from toy_systems import hmc, start

from lattice_lightning.actions import Phi4
from lattice_lightning.data import PairStream, TrajectoryData
from lattice_lightning.exceptions import InputError, ResumeError
from lattice_lightning.lattice import Lattice
from lattice_lightning.pipeline.fit import quiet_lightning
from lattice_lightning.samplers import HMC


def gauge_stream(folder, seed=1, **options):
    """Coarse integration: a good part of the trajectories is rejected."""
    kernel = hmc(levels=1, trajectory_length=0.8)
    return PairStream(kernel, lambda: start(kernel), folder, seed, **options)


def scalar_stream(folder, seed=1, **options):
    kernel = HMC(Phi4(Lattice((4, 4)), m2=1.0, lam=1.0), levels=3)
    return PairStream(kernel, lambda: kernel.space.cold(kernel.lattice, 3), folder, seed, **options)


def assert_same(a, b):
    """Two batches, bit for bit."""
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        if name == "aux":
            assert_same(tensor, b[name])
        else:
            assert torch.equal(tensor, b[name]), name


def test_batch_holds_both_ends_under_the_same_aux(tmp_path):
    stream = gauge_stream(tmp_path)
    for index in range(2):
        batch, target = stream[index], stream.kernel.target
        assert set(batch) == {"start", "end", "aux", "action_start", "action_end"}
        for end in ("start", "end"):
            value = target.value(batch[end], batch["aux"])
            torch.testing.assert_close(batch[f"action_{end}"], value, rtol=1e-9, atol=0)
        assert bool((batch["start"] != batch["end"]).flatten(1).any(1).all())


def test_ends_are_kept_though_rejected(tmp_path):
    stream = gauge_stream(tmp_path)
    accepted = []
    for index in range(4):
        batch, following = stream[index], stream.last_field(index)
        for chain in range(4):
            at_end, at_start = (
                torch.allclose(following[chain], batch[end][chain], atol=1e-12) for end in ("end", "start")
            )
            assert at_end != at_start
            accepted.append(at_end)
        assert torch.equal(stream[index + 1]["start"], following)
    assert 0 < sum(accepted) < len(accepted)


@pytest.mark.parametrize("make", [gauge_stream, scalar_stream])
def test_stream_is_reproducible_and_follows_its_seed(make, tmp_path):
    first, again, other = (make(tmp_path / f"{k}", seed) for k, seed in enumerate((1, 1, 2)))
    for index in range(3):
        assert_same(first[index], again[index])
    assert not torch.equal(first[2]["end"], other[2]["end"])


@pytest.mark.parametrize("make", [gauge_stream, scalar_stream])
@pytest.mark.parametrize("interrupted_after", [1, 3])
def test_a_new_object_goes_on_bit_for_bit(make, interrupted_after, tmp_path):
    whole = make(tmp_path / "whole")
    make(tmp_path / "parts").ensure(interrupted_after - 1)
    resumed = make(tmp_path / "parts")
    for index in (4, *range(4)):
        assert_same(resumed[index], whole[index])


def test_start_is_made_once_and_stored_trajectories_are_only_read(tmp_path):
    calls = []

    def counted(stream):
        make, propose = stream.start, stream.kernel.propose
        stream.start = lambda: calls.append("start") or make()
        stream.kernel.propose = lambda rng, state: calls.append("propose") or propose(rng, state)
        return stream

    stream = counted(scalar_stream(tmp_path))
    stream[2], stream[0], stream[2]
    assert calls == ["start", "propose", "propose", "propose"]
    counted(scalar_stream(tmp_path))[1]
    assert len(calls) == 4


def test_two_readers_of_one_folder_see_one_stream(tmp_path):
    whole = scalar_stream(tmp_path / "whole")
    a, b = scalar_stream(tmp_path / "shared"), scalar_stream(tmp_path / "shared")
    batches = [a[0], b[1], a[2], b[3]]
    for index, batch in enumerate(batches):
        assert_same(batch, whole[index])


@pytest.mark.parametrize("deleted", [0, 1, 3])
def test_deleted_trajectories_are_generated_again(deleted, tmp_path):
    stream, whole = scalar_stream(tmp_path / "a"), scalar_stream(tmp_path / "b")
    stream.ensure(3)
    for index in range(deleted, 4):
        (tmp_path / "a" / f"trajectory_{index:06d}.pt").unlink()
    assert_same(stream[deleted], whole[deleted])
    assert_same(stream[4], whole[4])


def test_discarded_stream_begins_anew(tmp_path):
    stream = scalar_stream(tmp_path)
    before = stream[1]
    stream.discard()
    assert not list(tmp_path.iterdir())
    assert_same(stream[1], before)


@pytest.mark.parametrize("damage", [b"", b"not a torch file", None])
def test_damaged_trajectory_is_named(damage, tmp_path):
    scalar_stream(tmp_path).ensure(1)
    path = tmp_path / "trajectory_000001.pt"
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    fresh = scalar_stream(tmp_path)
    with pytest.raises(ResumeError, match=r"(?s)trajectory_000001\.pt.*delete it and all later ones"):
        fresh[1]
    with pytest.raises(ResumeError, match=r"trajectory_000001\.pt"):
        fresh[2]


def test_half_written_trajectory_is_not_read(tmp_path):
    whole = scalar_stream(tmp_path / "whole")
    scalar_stream(tmp_path / "killed").ensure(0)
    (tmp_path / "killed" / "trajectory_000001.pt.partial").write_bytes(b"half")
    assert_same(scalar_stream(tmp_path / "killed")[1], whole[1])


def test_trajectories_start_from_a_stored_ensemble(tmp_path):
    lattice = Lattice((4, 4))
    rng = torch.Generator().manual_seed(4)
    fields = [torch.randn(3, *lattice.shape, generator=rng, dtype=torch.float64) for _ in range(3)]
    whole = scalar_stream(tmp_path / "whole", source=fields.__getitem__)
    for index, field in enumerate(fields):
        assert torch.equal(whole[index]["start"], field)
    scalar_stream(tmp_path / "parts", source=fields.__getitem__).ensure(0)
    resumed = scalar_stream(tmp_path / "parts", source=fields.__getitem__)
    assert_same(resumed[2], whole[2])


class Recorder(LightningModule):
    """Notes the first number of every batch."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.seen.append(float(batch["end"].flatten()[0]))
        return self.weight.square()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run_epochs(stream, epochs, folder, checkpoint=None, **options):
    module = Recorder()
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1, default_root_dir=folder,
        )
        trainer.fit(module, TrajectoryData(stream, **options), ckpt_path=checkpoint)
        trainer.save_checkpoint(folder / "last.ckpt")
    return module.seen


@pytest.mark.parametrize(
    ("n_distinct", "expected"),
    [(None, [0, 1, 2, 3, 4, 5]), (6, [0, 1, 2, 3, 4, 5]), (3, [0, 1, 2, 0, 1, 2]), (4, [0, 1, 2, 3, 0, 1])],
)
def test_epochs_advance_and_wrap(n_distinct, expected, tmp_path):
    stream = scalar_stream(tmp_path / "stream")
    seen = run_epochs(stream, 3, tmp_path, trajectories_per_epoch=2, n_distinct=n_distinct)
    numbers = [float(stream[i]["end"].flatten()[0]) for i in range(6)]
    assert len(set(numbers)) == 6
    assert seen == [numbers[i] for i in expected]


def test_resumed_training_sees_what_the_uninterrupted_one_would(tmp_path):
    whole = run_epochs(scalar_stream(tmp_path / "a"), 4, tmp_path, trajectories_per_epoch=2)
    first = run_epochs(scalar_stream(tmp_path / "b"), 1, tmp_path, trajectories_per_epoch=2)
    rest = run_epochs(
        scalar_stream(tmp_path / "b"), 4, tmp_path, tmp_path / "last.ckpt", trajectories_per_epoch=2
    )
    assert first + rest == whole


def test_an_epoch_without_trajectories_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one trajectory, got 0"):
        TrajectoryData(scalar_stream(tmp_path), trajectories_per_epoch=0)


def test_temporary_folder_goes_with_the_stream():
    """Silently: warnings are errors here, also those of the garbage collector."""
    kernel = hmc(levels=1)
    stream = PairStream(kernel, lambda: start(kernel, 2), seed=1)
    assert stream[0]["start"].shape[0] == 2
    folder = stream.folder
    assert folder.is_dir()
    del stream
    gc.collect()
    assert not folder.exists()
