"""Exactness with power: the right kernel meets the truth, wrong ones miss it by more than 5 sigma.

Small strong-effect systems: beta = 1, one staggered field of mass 0.1, guided by an effective action
of mass 1 with a bad random network. Chains start from the target, drawn by reweighting, so that the
right kernel is in equilibrium at once and a wrong one drifts away.
"""

import numpy as np
import pytest
import torch
from reference import condensate, mean_plaquette, polyakov, staggered_matrix
from reweighting import dense_staggered, observables, truth

from lattice_lightning.actions import StaggeredFermion, SumAction, WilsonGauge
from lattice_lightning.analysis import judge_pulls
from lattice_lightning.groups import SU2, SUN
from lattice_lightning.lattice import Lattice
from lattice_lightning.models import CovNet, EffectiveAction
from lattice_lightning.samplers import HMC, SelfLearningHMC, Trajectory, integrate

BETA, MASS, HEAVY = 1.0, 0.1, 1.0


class Modified(SelfLearningHMC):
    """The right kernel, with parts to replace by wrong ones."""

    def energy(self, field, aux):
        return self.target.value(field, aux)

    def momentum(self, field, rng):
        return self.space.momentum(field, rng)

    def delta(self, change, first, last):
        return change + self.space.kinetic(last) - self.space.kinetic(first)

    def propose(self, rng, state):
        start = state.field
        aux, _ = self.target.refresh(start, rng)
        first = self.momentum(start, rng)
        end, last = integrate(self.space, start, first, self.forces(aux), self.trajectory_length)
        self.ends = first, last
        before, after = self.energy(start, aux), self.energy(end, aux)
        return Trajectory(start, end, aux, before, after, self.delta(after - before, first, last))


class EffectiveEnergy(Modified):
    """Accepts with S_theta: samples the effective theory."""

    def energy(self, field, aux):
        return self.effective.value(field, aux)


class NoFermionEnergy(Modified):
    """Leaves the fermion action out of delta_H."""

    def energy(self, field, aux):
        return self.target.terms["gauge"].value(field, aux)


class WrongKineticSign(Modified):
    """Takes the change of the kinetic energy with the wrong sign."""

    def delta(self, change, first, last):
        return change - self.space.kinetic(last) + self.space.kinetic(first)


class NoKineticEnergy(Modified):
    """Takes the change of the action alone."""

    def delta(self, change, first, last):
        return change


class KeepsMomentum(Modified):
    """Keeps momenta from one trajectory to the next; they must turn round at a rejection."""

    kept, after_rejection = None, -1

    def momentum(self, field, rng):
        return super().momentum(field, rng) if self.kept is None else self.kept

    def decide(self, rng, trajectory):
        state, info = super().decide(rng, trajectory)
        first, last = self.ends
        accepted = info.accepted.reshape(-1, 1, 1, 1, 1)
        self.kept = torch.where(accepted, last, self.after_rejection * first)
        return state, info


class KeepsMomentumWrongly(KeepsMomentum):
    """Goes on in the same direction after a rejection."""

    after_rejection = 1


WRONG = [EffectiveEnergy, NoFermionEnergy, WrongKineticSign, NoKineticEnergy, KeepsMomentumWrongly]


def actions(shape, group, init_scale):
    lattice = Lattice(shape)
    target = SumAction(
        {
            "gauge": WilsonGauge(lattice, group, BETA),
            "fermion": StaggeredFermion(lattice, group, MASS, compiled=False),
        }
    )
    network = CovNet(lattice, group, init_scale=init_scale, seed=1)
    return target, EffectiveAction(target, [HEAVY], HEAVY, network)


def pulls(kernel, group, pool, n_chains, n_steps):
    """Pulls of plaquette, Polyakov loop and condensate against the truth, and the acceptance.

    The second half of the steps is measured, densely; chains are independent, and their means give
    the error.
    """
    mean, error, start = truth(kernel.lattice.shape, group.n_colors, BETA, MASS, pool, seed=1)
    rng = torch.Generator().manual_seed(5)
    state = kernel.init(torch.from_numpy(start[:n_chains]), rng)
    accepted, values = [], []
    for n in range(n_steps):
        state, info = kernel.step(rng, state)
        accepted.append(info.accepted)
        if n >= n_steps // 2:
            values.append(observables(state.field.numpy(), MASS)[0])
    chains = np.mean(values, 0)
    noise = chains.std(0, ddof=1) / n_chains**0.5
    distance = (chains.mean(0) - mean) / np.hypot(noise, error)
    print(type(kernel).__name__, "pulls", distance.round(2), "noise", noise.round(4), end=" ")
    return distance, float(torch.stack(accepted).double().mean())


def small(kind):
    group = SU2()
    kernel = kind(*actions((2, 2), group, init_scale=0.3), trajectory_length=1.0, levels=3)
    return pulls(kernel, group, pool=15000, n_chains=500, n_steps=12)


@pytest.mark.parametrize("kind", [SelfLearningHMC, KeepsMomentum])
def test_right_kernel_with_a_bad_network_samples_the_target(kind):
    distance, acceptance = small(kind)
    assert 0.1 < acceptance < 0.5
    assert judge_pulls(distance).ok, distance


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_kernel_is_caught(kind):
    distance, _ = small(kind)
    assert np.abs(distance).max() > 5, distance


SYSTEMS = {
    "SU2_4x4": (SU2(), (4, 4), 0.1, 2, 0.4),
    "SU3_2x2": (SUN(3), (2, 2), 0.15, 2, 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("kind", [SelfLearningHMC, KeepsMomentum, *WRONG])
def test_larger_systems(kind, system):
    group, shape, init_scale, levels, length = SYSTEMS[system]
    kernel = kind(*actions(shape, group, init_scale), trajectory_length=length, levels=levels)
    distance, acceptance = pulls(kernel, group, pool=20000, n_chains=600, n_steps=20)
    if kind in WRONG:
        assert np.abs(distance).max() > 5, distance
    else:
        assert 0.1 < acceptance < 0.5
        assert judge_pulls(distance).ok, distance


@pytest.mark.slow
def test_hmc_equilibrates_from_a_disordered_start():
    group, lattice = SU2(), Lattice((4, 4))
    target, _ = actions(lattice.shape, group, 0.0)
    kernel, rng = HMC(target, levels=8), torch.Generator().manual_seed(6)
    state = kernel.init(group.hot(lattice, 1000, rng), rng)
    for _ in range(40):
        state, _ = kernel.step(rng, state)
    values = observables(state.field.numpy(), MASS)[0]
    mean, error, _ = truth(lattice.shape, 2, BETA, MASS, chains=20000, seed=1)
    noise = values.std(0, ddof=1) / len(values) ** 0.5
    assert judge_pulls((values.mean(0) - mean) / np.hypot(noise, error)).ok


@pytest.mark.parametrize("n_colors", [2, 3])
@pytest.mark.parametrize("shape", [(2, 2), (4, 2)])
def test_batched_dense_truth_equals_the_reference(shape, n_colors):
    _, _, u = truth(shape, n_colors, BETA, MASS, chains=3, seed=2, sweeps=1)
    values, logdet = observables(u, MASS)
    for links, (plaquette, loop, trace), value in zip(u, values, logdet, strict=True):
        d = staggered_matrix(links, shape, MASS)
        assert np.allclose(dense_staggered(links[None], MASS)[0], d)
        assert np.isclose(value, np.linalg.slogdet(d)[1])
        assert np.isclose(plaquette, mean_plaquette(links, shape))
        assert np.isclose(loop, polyakov(links, shape, 1).real)
        assert np.isclose(trace, condensate(links, shape, MASS))
