"""HMC and self-learning HMC against exact answers; the pulls of a test are judged together."""

from math import erfc, sqrt

import numpy as np
import pytest
import torch

from lattice_lightning.actions import Phi4, StaggeredFermion, SumAction, WilsonGauge
from lattice_lightning.analysis import acceptance, estimate, exp_minus_dH, judge_pulls
from lattice_lightning.gauge import start_field
from lattice_lightning.groups import SU2, SUN, U1
from lattice_lightning.lattice import Lattice
from lattice_lightning.observables import Observable, Plaquette, ScalarMoments, TopologicalCharge
from lattice_lightning.samplers import HMC, Level, SelfLearningHMC, run

# d ln Z / (V d beta) of the torus sums, by finite differences of scipy's Bessel functions
PLAQUETTES = {
    ("U(1)", 2.0, (4, 4)): 0.699252,
    ("SU(2)", 2.7, (2, 2)): 0.551229,
    ("SU(2)", 2.2, (4, 4)): 0.464479,
    ("SU(3)", 5.0, (4, 4)): 0.353954,
}
GROUPS = {"U(1)": U1(), "SU(2)": SU2(), "SU(3)": SUN(3)}


def equilibrium(kernel, n_chains, n_thermal, n_steps, observables=(), seed=7):
    rng = torch.Generator().manual_seed(seed)
    # a hot scalar start can sit where molecular dynamics of this step size is unstable
    kind = "cold" if isinstance(kernel.target, Phi4) else "hot"
    state = kernel.init(start_field(kernel.space, kernel.lattice, n_chains, rng, kind), rng)
    state, _ = run(kernel, state, n_thermal, rng)
    return run(kernel, state, n_steps, rng, observables)[1]


def pull(series, exact):
    result = estimate(series)
    return (result.value - exact) / result.error


def guided_gauge():
    lattice, group = Lattice((4, 4)), SU2()
    target, guide = (WilsonGauge(lattice, group, beta) for beta in (2.2, 1.9))
    return SelfLearningHMC(target, guide, levels=4)


def with_fermion():
    lattice, group = Lattice((4, 2)), SU2()
    fermion = StaggeredFermion(lattice, group, mass=0.3, compiled=False)
    action = SumAction({"gauge": WilsonGauge(lattice, group, 1.0), "fermion": fermion})
    return HMC(action, levels=[Level(2, "leapfrog")])


KERNELS = {
    "phi4": lambda: HMC(Phi4(Lattice((4, 4)), m2=-1.0, lam=1.0), levels=[Level(6, "leapfrog")]),
    "U1": lambda: HMC(WilsonGauge(Lattice((4, 4)), U1(), 2.0), levels=[Level(3, "leapfrog")]),
    "SU2": guided_gauge,
    "SU2_staggered": with_fermion,
}


@pytest.mark.parametrize("name", KERNELS)
def test_mean_of_exp_minus_dH_is_one_and_acceptance_is_erfc(name):
    kernel = KERNELS[name]()
    history = equilibrium(kernel, 128, 25, 30)
    delta = history["delta_H"]
    assert 0.005 < delta.var() < 1.5
    weight, rate = exp_minus_dH(delta), acceptance(history["accepted"])
    expected = erfc(sqrt(float(delta.mean())) / 2)
    print(f"{name}: var dH {float(delta.var()):.3f}, <exp(-dH)> {weight.value:.4f}({weight.error:.4f})")
    assert judge_pulls([(weight.value - 1) / weight.error]).ok
    # the formula is for Gaussian delta_H: leading non-Gaussian terms are a per cent or two
    assert abs(rate.value - expected) < 0.02 + 3 * rate.error
    assert float(delta.mean()) == pytest.approx(float(delta.var()) / 2, rel=0.25)


class Propagator(Observable):
    """|phi(p)|^2 / V at a few momenta."""

    momenta = ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 2))

    def measure(self, field, rng):
        power = torch.fft.fft2(field).abs().square() / field[0].numel()
        return {f"G{p}": power[:, p[0], p[1]] for p in self.momenta}


def test_free_scalar_propagator():
    lattice, m2 = Lattice((4, 4)), 0.5
    kernel = HMC(Phi4(lattice, m2=m2, lam=0.0), trajectory_length=1.5, levels=6, random_length=True)
    history = equilibrium(kernel, 128, 15, 60, [Propagator()])
    pulls = []
    for p in Propagator.momenta:
        phat2 = sum(4 * np.sin(np.pi * k / 4) ** 2 for k in p)
        pulls.append(pull(history[f"G{p}"], 1 / (2 * (m2 + phat2))))
    assert judge_pulls(pulls).ok, pulls


def test_plaquettes_in_two_dimensions():
    pulls = []
    for (name, beta, shape), exact in PLAQUETTES.items():
        lattice, group = Lattice(shape), GROUPS[name]
        kernel = HMC(WilsonGauge(lattice, group, beta), levels=3)
        history = equilibrium(kernel, 96, 15, 40, [Plaquette(lattice, group)])
        result = estimate(history["plaquette"])
        print(f"{name}, beta {beta}, {shape}: {result.value:.5f}({result.error:.5f}), exact {exact:.5f}")
        assert result.error < 0.004
        pulls.append((result.value - exact) / result.error)
    assert judge_pulls(pulls).ok, pulls


@pytest.mark.parametrize("beta, exact", [(1.0, 2.60072), (2.0, 1.23930)])
def test_charge_squared_in_two_dimensions(beta, exact):
    lattice, group = Lattice((8, 8)), U1()
    kernel = HMC(WilsonGauge(lattice, group, beta), levels=4)
    history = equilibrium(kernel, 128, 15, 50, [TopologicalCharge(lattice, group)])
    charge = history["topological_charge"]
    assert judge_pulls([pull(charge.square(), exact), pull(charge, 0.0)]).ok


class Recording(Phi4):
    """phi^4 that counts its forces."""

    calls = 0

    def force(self, field, aux, *, strict=True):
        self.calls += 1
        return super().force(field, aux, strict=strict)


def test_random_length_removes_the_resonance_of_a_free_mode():
    """Length pi / omega turns phi(p) into -phi(p): |phi(p)|^2 never moves."""
    lattice, m2 = Lattice((4, 4)), 1.0
    action, length = Phi4(lattice, m2=m2, lam=0.0), float(np.pi / sqrt(2 * m2))
    scatter = {}
    for random_length in (False, True):
        kernel = HMC(action, trajectory_length=length, levels=40, random_length=random_length)
        series = equilibrium(kernel, 32, 5, 25, [ScalarMoments(lattice)])["magnetisation_squared"]
        scatter[random_length] = float(series.std(1).mean())
    assert scatter[False] < 0.02 * scatter[True]


def test_random_length_keeps_the_number_of_steps():
    action = Recording(Lattice((2, 2)), m2=1.0, lam=0.0)
    kernel, rng = HMC(action, levels=3, random_length=True), torch.Generator().manual_seed(1)
    state = kernel.init(torch.zeros(1, 2, 2, dtype=torch.float64), rng)
    kernel.propose(rng, state)
    assert action.calls == 2 * 3 + 1


def test_iterations_are_those_of_the_trajectory_alone(rng):
    kernel = with_fermion()
    state = kernel.init(kernel.space.hot(kernel.lattice, 3, rng), rng)
    aux, _ = kernel.target.refresh(state.field, rng)
    kernel.target.value(state.field, aux)
    trajectory = kernel.propose(torch.Generator().manual_seed(1), state)
    again = kernel.propose(torch.Generator().manual_seed(1), state)
    assert set(trajectory.iterations) == {"md", "accept"}
    for purpose, counts in trajectory.iterations.items():
        assert counts.shape == (3,) and torch.equal(counts, again.iterations[purpose])
