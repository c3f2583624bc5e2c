"""The determinant as a weight: dense values, forces, pseudofermions on average, sampling."""

from functools import cache

import numpy as np
import pytest
import torch
from conversions import matrices
from reference import staggered_matrix
from reweighting import observables, truth

from lattice_lightning.actions import DenseStaggered, StaggeredFermion, SumAction, WilsonGauge
from lattice_lightning.analysis import judge_pulls
from lattice_lightning.exceptions import ConvergenceError, InputError
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.samplers import HMC
from lattice_lightning.testing import assert_force, assert_gauge_invariant

GROUPS = pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
SHAPES = [(4, 6), (2, 4, 4), (2, 2, 4, 2)]
TIGHT = {"tolerance_md": 1e-12, "tolerance_accept": 1e-12, "compiled": False}


def build(shape, group, mass=0.3, **options):
    return DenseStaggered(Lattice(shape), group, mass, **options)


@GROUPS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mass", [0.02, 0.3])
def test_value_is_the_determinant_of_the_whole_operator(group, rng, shape, mass):
    action = build(shape, group, mass)
    links = group.hot(action.lattice, 2, rng)
    expected = [-np.linalg.slogdet(staggered_matrix(u, shape, mass))[1] for u in matrices(group, links)]
    assert action.value(links, {}).tolist() == pytest.approx(expected, rel=1e-12)


def test_value_from_the_eigenvalues(rng):
    shape, mass, boundary = (4, 2, 4), 0.1, (-1, 1, -1)
    action = build(shape, SU2(), mass, boundary=boundary)
    links = SU2().hot(action.lattice, 1, rng)
    spectrum = np.linalg.eigvals(staggered_matrix(links[0].numpy(), shape, 0.0, boundary)).imag
    # +- pairs: half of them, squared, is what the even sites see
    expected = -0.5 * np.log(mass**2 + spectrum**2).sum()
    assert float(action.value(links, {})) == pytest.approx(expected, rel=1e-12)


@GROUPS
@pytest.mark.parametrize("shape", SHAPES)
def test_force(group, rng, shape):
    action = build(shape, group)
    assert_force(action, group.hot(action.lattice, 2, rng), {}, rng)


def test_force_through_a_sum_with_the_gauge_action(rng):
    lattice, group = Lattice((4, 4)), SU2()
    action = SumAction({"gauge": WilsonGauge(lattice, group, 2.7), "fermion": build((4, 4), group, 0.1)})
    assert_force(action, group.hot(lattice, 2, rng), {}, rng)


class HalfForce(DenseStaggered):
    """Wrong: the gradient of ln det A A^dag by A alone, without the one by A^dag."""

    def force(self, field, aux, *, strict=True):
        return 0.5 * super().force(field, aux, strict=strict)


def test_wrong_force_is_caught(rng):
    action = HalfForce(Lattice((4, 4)), SU2(), 0.3)
    with pytest.raises(AssertionError, match="force of HalfForce"):
        assert_force(action, SU2().hot(action.lattice, 2, rng), {}, rng)


@GROUPS
def test_gauge_invariance(group, rng):
    action = build((4, 2, 2), group)
    assert_gauge_invariant(lambda u: action.value(u, {}), group, action.lattice, rng)


def copies(links, n):
    return links.expand(n, *links.shape[1:]).contiguous()


@pytest.mark.parametrize("size", [0.02, 0.15])
def test_pseudofermions_give_the_determinant_on_average(rng, size):
    """<exp(S_f[U, phi] - S_f[U', phi])> over phi drawn at U is det M(U') / det M(U)."""
    group, shape, n = SU2(), (4, 4), 20000
    action, dense = StaggeredFermion(Lattice(shape), group, 0.3, **TIGHT), build(shape, group)
    links = group.hot(action.lattice, 1, rng)
    moved = group.evolve(links, size * group.momentum(links, rng))
    aux, before = action.refresh(copies(links, n), rng)
    ratio = torch.exp(before - action.value(copies(moved, n), aux))
    expected = float(torch.exp(dense.value(links, {}) - dense.value(moved, {})))
    error = float(ratio.std()) / n**0.5
    assert error < 0.02 * expected
    assert abs(float(ratio.mean()) - expected) < 3.5 * error
    # negative control: the determinant of all sites, the square, is excluded by as many errors
    assert abs(float(ratio.mean()) - expected**2) > 5 * error


def test_pseudofermion_forces_give_the_dense_force_on_average(rng):
    group, shape, n = SU2(), (4, 4), 4000
    action, dense = StaggeredFermion(Lattice(shape), group, 0.3, **TIGHT), build(shape, group)
    links = group.hot(action.lattice, 1, rng)
    aux, _ = action.refresh(copies(links, n), rng)
    forces = action.force(copies(links, n), aux).flatten(1)
    exact = dense.force(links, {}).flatten()
    pulls = (forces.mean(0) - exact) / forces.std(0) * n**0.5
    # 96 components of correlated noise: each alone, and their mean square
    assert float(pulls.abs().max()) < 4.5 and 0.5 < float(pulls.square().mean()) < 1.7
    wrong = (forces.mean(0) - 1.5 * exact) / forces.std(0) * n**0.5
    assert float(wrong.square().mean()) > 5


BETA, MASS = 1.0, 0.1


class TwoFields(DenseStaggered):
    """Wrong: twice the fermions."""

    def packed_value(self, links, aux, *, tolerance, strict):
        return 2 * super().packed_value(links, aux, tolerance=tolerance, strict=strict)


@cache
def sampled(kind, n_steps=12):
    """Pulls of HMC against reweighted truth, acceptance and delta H ``[steps, chains]``."""
    group, lattice = SU2(), Lattice((2, 2))
    target = SumAction({"gauge": WilsonGauge(lattice, group, BETA), "fermion": kind(lattice, group, MASS)})
    kernel, rng = HMC(target, levels=3), torch.Generator().manual_seed(5)
    mean, error, start = truth(lattice.shape, 2, BETA, MASS, 15000, seed=1)
    state = kernel.init(torch.from_numpy(start[:500]), rng)
    accepted, deltas, values = [], [], []
    for n in range(n_steps):
        state, info = kernel.step(rng, state)
        accepted.append(info.accepted)
        deltas.append(info.delta_H)
        if n >= n_steps // 2:
            values.append(observables(state.field.numpy(), MASS)[0])
    chains = np.mean(values, 0)
    noise = chains.std(0, ddof=1) / len(chains) ** 0.5
    pulls = (chains.mean(0) - mean) / np.hypot(noise, error)
    return pulls, float(torch.stack(accepted).double().mean()), torch.stack(deltas)


def test_hmc_with_the_determinant_samples_the_reweighted_ensemble():
    pulls, acceptance, deltas = sampled(DenseStaggered)
    assert 0.5 < acceptance < 0.999
    assert judge_pulls(pulls).ok, pulls
    weights = torch.exp(-deltas).mean(0)
    error = float(weights.std()) / len(weights) ** 0.5
    assert error < 0.02
    assert abs(float(weights.mean()) - 1) < 3.5 * error


def test_twice_the_fermions_are_caught():
    assert np.abs(sampled(TwoFields)[0]).max() > 5


def test_it_draws_nothing_and_takes_no_solver(rng):
    action = build((4, 4), SU2())
    links = SU2().hot(action.lattice, 2, rng)
    before = rng.get_state()
    aux, value = action.refresh(links, rng)
    assert aux == {} and torch.equal(rng.get_state(), before)
    assert torch.equal(value, action.value(links, {}))
    assert action.pop_iterations() == {}


def test_a_chain_that_is_lost_does_not_take_the_others(rng):
    action = build((4, 4), SU2())
    links = SU2().hot(action.lattice, 3, rng)
    expected = action.value(links, {})
    links[1, 0, 2, 1] = float("nan")
    with pytest.raises(ConvergenceError, match=r"no Cholesky factor in chain 1: its links are not finite"):
        action.value(links, {})
    value = action.value(links, {}, strict=False)
    assert value.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(value[[0, 2]], expected[[0, 2]])
    force = action.force(links, {}, strict=False)
    assert force.isfinite().flatten(1).all(1).tolist() == [True, False, True]


def test_second_derivatives_are_refused(rng):
    action = build((4, 2), SU2())
    links = SU2().hot(action.lattice, 1, rng).requires_grad_()
    with pytest.raises(InputError, match="first derivative only"):
        torch.autograd.grad(action.energy(links).sum(), links, create_graph=True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mass": 0.0}, "must be positive and finite, got mass=0.0"),
        ({"mass": float("nan")}, "must be positive"),
        ({"shape": (4, 3)}, "even extents"),
        ({"group": RealLine()}, "DenseStaggered needs a gauge group"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        build(**{"shape": (4, 4), "group": SU2(), **arguments})
