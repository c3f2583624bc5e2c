"""Kernels in turn: exact together, caches anew where another kernel moved the field."""

import pytest
import torch
from sampler_cases import (
    LATTICE,
    ScalarFlow,
    pulls,
    scalar_model,
    scalar_moments,
    scalar_target,
    scalar_truth,
)

from lattice_lightning.actions import Phi4, StaggeredFermion
from lattice_lightning.exceptions import InputError
from lattice_lightning.groups import SU2
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import GaussianPrior
from lattice_lightning.samplers import (
    HMC,
    Alternating,
    AnnealedImportanceSampling,
    ChainCheckpoint,
    DensityProposal,
    IndependenceMetropolis,
    LatentHMC,
    State,
    run,
)


class Stale(IndependenceMetropolis):
    """Keeps the weight of the field before the other kernel moved it."""

    kept = None

    def at(self, field):
        state = super().at(field)
        return state if self.kept is None else State(field, self.kept)

    def step(self, rng, state):
        after, info = super().step(rng, state)
        self.kept = after.cache
        return after, info


def independence(kind=IndependenceMetropolis):
    return kind(DensityProposal(scalar_model(), scalar_target()))


def hmc(levels=2, length=0.5):
    return HMC(scalar_target(), length, levels)


def latent():
    return LatentHMC(scalar_target(), ScalarFlow(), 1.0, 4)


def start(n=1000):
    return torch.zeros(n, 2, 2, dtype=torch.float64)


def three():
    return Alternating([(independence(), 2), (hmc(), 1), (latent(), 1)])


@pytest.mark.parametrize(
    "make", [three, lambda: Alternating([(hmc(), 1), (independence(), 1)])], ids=["three", "two"]
)
def test_samples_the_target(make):
    pull = pulls(make(), start(), scalar_moments, scalar_truth()[1:], n_steps=40)
    assert bool((pull.abs() < 3.5).all())


def test_stale_weights_are_caught():
    kernel = Alternating([(hmc(), 1), (independence(Stale), 1)])
    pull = pulls(kernel, start(), scalar_moments, scalar_truth()[1:], n_steps=40)
    assert bool((pull.abs() > 5).any())


def test_info_is_the_first_kernels_and_failures_are_everybodys(rng):
    failing = independence()
    draw = failing.proposal.sample

    def sample(n, generator):
        field, log_weight = draw(n, generator)
        return field, torch.where(torch.arange(n) == 1, torch.nan, log_weight)

    failing.proposal.sample = sample
    kernel, alone = Alternating([(hmc(), 1), (failing, 1)]), hmc()
    state = kernel.init(start(4), rng)
    _, info = kernel.step(torch.Generator().manual_seed(2), state)
    _, first = alone.step(torch.Generator().manual_seed(2), alone.init(start(4), rng))
    assert torch.isnan(info.delta_H).tolist() == [False, True, False, False]
    assert torch.equal(info.accepted, first.accepted)
    keep = torch.tensor([0, 2, 3])
    assert torch.equal(info.delta_H[keep], first.delta_H[keep])


def test_proposal_is_the_first_kernels(rng):
    kernel, alone = Alternating([(hmc(), 3), (independence(), 1)]), hmc()
    a = kernel.propose(torch.Generator().manual_seed(2), kernel.init(start(4), rng))
    b = alone.propose(torch.Generator().manual_seed(2), alone.init(start(4), rng))
    assert torch.equal(a.end, b.end) and torch.equal(a.delta_H, b.delta_H)


def test_resumed_run_equals_the_uninterrupted_one_bitwise(tmp_path):
    checkpoint = ChainCheckpoint(tmp_path / "chain.pt", every=3)

    def advance(n, **options):
        rng, kernel = torch.Generator().manual_seed(3), three()
        return run(kernel, kernel.init(start(5), rng), n, rng, **options)

    advance(4, checkpoint=checkpoint)
    (a, history_a), (b, history_b) = advance(9, checkpoint=checkpoint), advance(9)
    assert torch.equal(a.field, b.field)
    assert torch.equal(history_a["delta_H"], history_b["delta_H"])


def test_bad_combinations_are_refused(rng):
    other = HMC(Phi4(LATTICE, m2=0.1, lam=0.5))
    with pytest.raises(InputError, match="at least one kernel"):
        Alternating([])
    with pytest.raises(InputError, match="at least one step"):
        Alternating([(hmc(), 0)])
    with pytest.raises(InputError, match="another target"):
        Alternating([(hmc(), 1), (other, 1)])
    with pytest.raises(InputError, match="one field"):
        Alternating([(hmc(), 1), (HMC(Phi4(Lattice((2, 4)), m2=0.0, lam=0.5)), 1)])
    fermions = [(HMC(StaggeredFermion(LATTICE, SU2(), 0.5)), 1) for _ in range(2)]
    with pytest.raises(InputError, match="the same object"):
        Alternating(fermions)
    assert Alternating([fermions[0], fermions[0]]).name == "alternating"


def test_proposal_that_weighs_paths_cannot_alternate(rng):
    paths = IndependenceMetropolis(
        AnnealedImportanceSampling(GaussianPrior(LATTICE), scalar_target(), 2, levels=2)
    )
    with pytest.raises(InputError, match="cannot alternate"):
        Alternating([(hmc(), 1), (paths, 1)]).init(start(3), rng)
