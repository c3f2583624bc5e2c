"""Direct draws of a stage that is killed."""

import pytest
import torch

from lattice_lightning.pipeline import importance
from lattice_lightning.pipeline.importance import draw_weights


class Draws:
    """Normal log weights; the power fails at a given batch."""

    def __init__(self, fails_at=None):
        self.calls, self.fails_at = 0, fails_at

    def sample(self, n, rng):
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        self.calls += 1
        log_w = torch.randn(n, generator=rng, dtype=torch.float64)
        return log_w, log_w


def test_a_killed_stage_goes_on_with_the_same_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(importance, "SAVE_EVERY", -1.0)
    arguments = {"n": 23, "batch_size": 5, "seed": 3, "device": torch.device("cpu")}
    whole = draw_weights(Draws(), **arguments, path=tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        draw_weights(Draws(fails_at=3), **arguments, path=tmp_path / "killed.pt")
    rest = Draws()
    resumed = draw_weights(rest, **arguments, path=tmp_path / "killed.pt")
    assert rest.calls == 2, "the batches that are left"
    assert torch.equal(resumed.log_weights, whole.log_weights) and whole.log_weights.shape == (23,)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.pt", "whole.pt"]
