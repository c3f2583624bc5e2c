"""The chain loop: resume, thinning, history, checkpoints that are damaged, failures."""

import pytest
import torch

from lattice_lightning.actions import Phi4, StaggeredFermion, SumAction, WilsonGauge
from lattice_lightning.exceptions import ChainError, InputError, ResumeError
from lattice_lightning.groups import SU2
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import ChiralCondensate, Plaquette, ScalarMoments
from lattice_lightning.samplers import HMC, ChainCheckpoint, Kernel, State, Trajectory, run

LATTICE = Lattice((2, 2))


def scalar():
    return HMC(Phi4(LATTICE, m2=1.0, lam=1.0), levels=3), [ScalarMoments(LATTICE)]


def staggered():
    group = SU2()
    fermion = StaggeredFermion(LATTICE, group, mass=0.5)
    kernel = HMC(SumAction({"gauge": WilsonGauge(LATTICE, group, 2.0), "fermion": fermion}), levels=2)
    return kernel, [Plaquette(LATTICE, group), ChiralCondensate(LATTICE, group, 0.5, n_sources=1)]


SYSTEMS = {"phi4": scalar, "SU2_staggered": staggered}


def start(kernel, n_chains=3, seed=4):
    rng = torch.Generator().manual_seed(seed)
    return kernel.init(kernel.space.hot(kernel.lattice, n_chains, rng), rng), rng


def advance(system, n, observables=True, **options):
    kernel, measured = SYSTEMS[system]()
    state, rng = start(kernel)
    return run(kernel, state, n, rng, measured if observables else (), **options)


@pytest.fixture(params=SYSTEMS)
def system(request):
    return request.param


def assert_same(run_a, run_b):
    (state_a, history_a), (state_b, history_b) = run_a, run_b
    assert torch.equal(state_a.field, state_b.field)
    assert history_a.series.keys() == history_b.series.keys()
    for name, series in history_a.as_dict().items():
        assert torch.equal(series, history_b[name]), name


@pytest.mark.parametrize("stop", [4, 5])
def test_resumed_run_equals_the_uninterrupted_one_bitwise(system, stop, tmp_path):
    checkpoint = ChainCheckpoint(tmp_path / "chain.pt", every=3)
    advance(system, stop, checkpoint=checkpoint)
    assert_same(advance(system, 9, checkpoint=checkpoint), advance(system, 9))


def test_resume_after_a_kill_repeats_the_lost_steps(system, tmp_path):
    """Killed at step 5, saved at step 3: the steps in between are done again, the same."""
    checkpoint = ChainCheckpoint(tmp_path / "chain.pt", every=3)

    def kill(step, state, info):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advance(system, 9, checkpoint=checkpoint, on_step=kill)
    assert_same(advance(system, 9, checkpoint=checkpoint), advance(system, 9))


def test_finished_run_is_not_repeated(tmp_path):
    checkpoint, steps = ChainCheckpoint(tmp_path / "chain.pt"), []
    first = advance("phi4", 4, checkpoint=checkpoint)
    again = advance("phi4", 4, checkpoint=checkpoint, on_step=lambda *a: steps.append(a))
    assert steps == []
    assert_same(first, again)


def test_measuring_does_not_change_the_chain(system):
    measured, _ = advance(system, 5)
    plain, history = advance(system, 5, observables=False)
    assert torch.equal(measured.field, plain.field)
    assert history.observables == {}


def test_thinning_and_shapes():
    _, history = advance("SU2_staggered", 7, measure_every=3)
    assert history["accepted"].shape == history["delta_H"].shape == (3, 7)
    assert history["iterations_md"].shape == history["iterations_accept"].shape == (3, 7)
    assert set(history.observables) == {"plaquette", "chiral_condensate"}
    assert history["plaquette"].shape == (3, 2)
    assert "plaquette" in history and "nothing" not in history
    _, full = advance("SU2_staggered", 7)
    assert torch.equal(history["plaquette"], full["plaquette"][:, 2::3])


def test_on_step_sees_every_state_and_info():
    seen = []
    state, history = advance("phi4", 4, on_step=lambda *arguments: seen.append(arguments))
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[-1][1].field, state.field)
    assert torch.equal(torch.stack([i.delta_H for _, _, i in seen], 1), history["delta_H"])


def test_nothing_to_do():
    state, history = advance("phi4", 0)
    assert state.field.shape == (3, 2, 2) and history.as_dict() == {}


@pytest.mark.parametrize("bad", [{"n": -1}, {"n": 2, "measure_every": 0}])
def test_bad_numbers(bad):
    with pytest.raises(InputError, match="n >= 0 and measure_every >= 1"):
        advance("phi4", **bad)


@pytest.fixture
def saved(tmp_path):
    checkpoint = ChainCheckpoint(tmp_path / "chain.pt", every=2)
    advance("phi4", 4, checkpoint=checkpoint)
    return checkpoint


def spoil(content, how):
    if how == "truncated":
        return content[: len(content) // 2]
    if how == "empty":
        return b""
    if how == "damaged":
        middle = len(content) // 2
        return content[: middle - 200] + bytes(400) + content[middle + 200 :]
    return b"not a checkpoint"


@pytest.mark.parametrize("how", ["truncated", "empty", "damaged", "text"])
def test_unreadable_checkpoint(saved, how):
    saved.path.write_bytes(spoil(saved.path.read_bytes(), how))
    with pytest.raises(ResumeError, match=r"chain\.pt"):
        advance("phi4", 8, checkpoint=saved)


@pytest.mark.parametrize("key", ["step", "field", "rng", "history"])
def test_checkpoint_without_a_part(saved, key):
    payload = torch.load(saved.path)
    del payload[key]
    torch.save(payload, saved.path)
    with pytest.raises(ResumeError, match=r"chain\.pt"):
        advance("phi4", 8, checkpoint=saved)


def test_checkpoint_of_other_chains(saved):
    kernel, _ = scalar()
    state, rng = start(kernel, n_chains=5)
    with pytest.raises(ResumeError, match=r"shape \[3, 2, 2\], this run has \[5, 2, 2\]"):
        run(kernel, state, 8, rng, checkpoint=saved)


def test_kill_while_saving_leaves_the_old_file(saved, monkeypatch):
    before = saved.path.read_bytes()

    def die(payload, file):
        file.write(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", die)
        with pytest.raises(KeyboardInterrupt):
            advance("phi4", 8, checkpoint=saved)
    assert saved.path.read_bytes() == before
    assert_same(advance("phi4", 8, checkpoint=saved), advance("phi4", 8))


class Scripted(Kernel):
    """Proposes field + 1 with a given delta_H for each step and chain."""

    def __init__(self, deltas):
        self.target = Phi4(LATTICE, m2=1.0, lam=1.0)
        self.lattice, self.space, self.deltas = LATTICE, self.target.space, iter(deltas)

    def propose(self, rng, state):
        delta = torch.as_tensor(next(self.deltas), dtype=torch.float64)
        return Trajectory(state.field, state.field + 1, {}, delta, delta, delta)


def script(deltas):
    kernel, rng = Scripted(deltas), torch.Generator().manual_seed(1)
    state = State(torch.zeros(len(deltas[0]), 2, 2, dtype=torch.float64))
    return run(kernel, state, len(deltas), rng)


NAN, INF = float("nan"), float("inf")


def test_few_failures_are_rejected_and_recorded():
    state, history = script([[-1, NAN, INF, -INF], [-1, -1, -1, NAN]])
    assert history["accepted"].tolist() == [[1, 1], [0, 1], [0, 1], [0, 0]]
    assert state.field[:, 0, 0].tolist() == [2, 1, 1, 0]


def test_failures_below_one_per_cent_are_tolerated():
    script([[-1.0] * 100] * 6 + [[NAN] + [-1.0] * 99] * 6)


def test_persistent_failures_stop_the_run():
    with pytest.raises(ChainError, match=r"5 of 10 .*step 4, chains \[1\].*more integrator steps"):
        script([[-1, NAN]] * 8)
