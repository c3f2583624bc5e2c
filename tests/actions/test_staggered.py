import numpy as np
import pytest
import torch
from conversions import matrices
from reference import dag, pseudofermion_action, staggered_matrix

from lattice_lightning.actions import StaggeredFermion
from lattice_lightning.exceptions import ConvergenceError, InputError
from lattice_lightning.groups import SU2, SUN, U1, RealLine
from lattice_lightning.lattice import Lattice
from lattice_lightning.testing import assert_gauge_invariant

GROUPS = pytest.mark.parametrize("group", [U1(), SU2(), SUN(3)], ids=lambda g: g.name)
SHAPES = [(4, 6), (2, 4, 4), (2, 2, 4, 2)]
TIGHT = {"tolerance_md": 1e-13, "tolerance_accept": 1e-13, "compiled": False}


def build(shape, group, mass=0.3, **options):
    return StaggeredFermion(Lattice(shape), group, mass, **{**TIGHT, **options})


def dense_phi(phi):
    """Pseudofermions ``[parities, V/2, N, 2]`` as vectors of each parity."""
    return torch.complex(phi[..., 0], phi[..., 1]).flatten(1).numpy()


@GROUPS
@pytest.mark.parametrize("shape", SHAPES)
def test_value_on_even_sites(group, rng, shape):
    action = build(shape, group)
    drawn_at, links = group.hot(action.lattice, 2, rng), group.hot(action.lattice, 2, rng)
    aux, _ = action.refresh(drawn_at, rng)
    expected = [
        pseudofermion_action(u, shape, 0.3, dense_phi(phi)[0])
        for u, phi in zip(matrices(group, links), aux["fermion"], strict=True)
    ]
    assert action.value(links, aux).tolist() == pytest.approx(expected, rel=1e-12)


@GROUPS
@pytest.mark.parametrize("shape", SHAPES)
def test_value_on_all_sites(group, rng, shape):
    action = build(shape, group, even_sites_only=False)
    drawn_at, links = group.hot(action.lattice, 1, rng), group.hot(action.lattice, 1, rng)
    aux, _ = action.refresh(drawn_at, rng)
    phi = aux["fermion"][0].permute(3, 2, 1, 0).unsqueeze(-1)
    psi = action.operator.unpack_field(phi[..., 0, :], phi[..., 1, :]).numpy().ravel()
    d = staggered_matrix(matrices(group, links)[0], shape, 0.3)
    expected = np.vdot(psi, np.linalg.solve(d @ dag(d), psi)).real
    assert float(action.value(links, aux)) == pytest.approx(expected, rel=1e-12)


@GROUPS
@pytest.mark.parametrize("even_sites_only", [True, False])
def test_value_of_the_refresh_is_the_value(group, rng, even_sites_only):
    action = build((4, 4), group, even_sites_only=even_sites_only)
    links = group.hot(action.lattice, 3, rng)
    aux, value = action.refresh(links, rng)
    assert aux["fermion"].shape == (3, 1 if even_sites_only else 2, 8, group.n_colors, 2)
    assert action.value(links, aux).tolist() == pytest.approx(value.tolist(), rel=1e-11)


def test_value_error_is_quadratic_in_the_solver_error(rng):
    shape = (4, 4, 4)
    links = SU2().hot(Lattice(shape), 1, rng)
    aux, exact = build(shape, SU2()).refresh(links, rng)
    errors = [
        abs(float(build(shape, SU2(), tolerance_md=t, tolerance_accept=t).value(links, aux) / exact - 1))
        for t in (1e-2, 1e-4)
    ]
    assert 1e-8 < errors[0] < 1e-3
    assert 1e-12 < errors[1] < 1e-7


@GROUPS
def test_gauge_invariance(group, rng):
    action = build((4, 2), group)
    lattice = action.lattice
    rotation = group.haar((1, *lattice.shape), rng)
    links = group.hot(lattice, 1, rng)
    aux, value = action.refresh(links, rng)
    phi = aux["fermion"].permute(4, 3, 2, 1, 0)[..., 0, :]
    full = action.operator.unpack_field(phi, torch.zeros_like(phi))
    g = torch.from_numpy(matrices(group, rotation))
    rotated = action.operator.pack_field((g @ full.unsqueeze(-1)).squeeze(-1), 0)
    rotated_aux = {"fermion": rotated.permute(3, 2, 1, 0).unsqueeze(1)}
    moved = group.transform(links, rotation, lattice)
    assert float(action.value(moved, rotated_aux)) == pytest.approx(float(value), rel=1e-11)
    with pytest.raises(AssertionError, match="gauge invariance"):
        # phi must turn as well
        assert_gauge_invariant(lambda u: action.value(u, aux), group, lattice, rng, n_chains=1)


def cold_and_hot(rng, **options):
    """The free operator has two eigenvalues here, so the cold chain converges in two steps."""
    action = build((4, 4), SU2(), mass=0.05, max_iterations=6, **options)
    links = SU2().hot(action.lattice, 3, rng)
    links[1] = SU2().cold(action.lattice, 1)[0]
    aux, _ = build((4, 4), SU2(), mass=0.05).refresh(links, rng)
    return action, links, aux


def test_chains_that_do_not_converge_raise(rng):
    action, links, aux = cold_and_hot(rng)
    for function in (action.value, action.force):
        with pytest.raises(ConvergenceError, match=r"fermion 'fermion', mass 0.05.*chain 0: .*chain 2"):
            function(links, aux)


def test_chains_that_do_not_converge_are_marked_when_not_strict(rng):
    action, links, aux = cold_and_hot(rng)
    expected = build((4, 4), SU2(), mass=0.05)
    value, force = action.value(links, aux, strict=False), action.force(links, aux, strict=False)
    assert value.isnan().tolist() == [True, False, True]
    assert force.isnan().flatten(1).any(1).tolist() == [True, False, True]
    torch.testing.assert_close(value[1], expected.value(links, aux)[1])
    torch.testing.assert_close(force[1], expected.force(links, aux)[1])


def test_iterations_are_counted_by_purpose_until_popped(rng):
    action = build((4, 4, 4), SU2(), tolerance_md=1e-4)
    links = SU2().hot(action.lattice, 2, rng)
    aux, _ = action.refresh(links, rng)
    accept = action.pop_iterations()["accept"]
    action.value(links, aux)
    action.value(links, aux)
    action.force(links, aux)
    counts = action.pop_iterations()
    assert torch.equal(counts["accept"], 2 * accept)
    assert (0 < counts["md"]).all() and (counts["md"] < accept).all()
    assert action.pop_iterations() == {}


def test_missing_pseudofermions():
    action = build((4, 4), SU2(), name="light")
    with pytest.raises(InputError, match=r"'light' in aux, which has \['fermion'\]; draw them"):
        action.value(SU2().cold(action.lattice, 1), {"fermion": torch.zeros(1)})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mass": -0.1}, "must be positive and finite, got mass=-0.1"),
        ({"mass": 0.0}, "must be positive"),
        ({"mass": float("nan")}, "must be positive"),
        ({"mass": float("inf")}, "must be positive and finite, got mass=inf"),
        ({"shape": (4, 3)}, "even extents.*extent 1"),
        ({"group": RealLine()}, "StaggeredFermion needs a gauge group"),
        ({"tolerance_md": 1e-10, "tolerance_accept": 1e-8}, "0 < tolerance_accept <= tolerance_md < 1"),
        ({"tolerance_accept": 0.0}, "0 < tolerance_accept"),
        ({"tolerance_md": 1.0}, "tolerance_md < 1"),
        ({"boundary": (1, 2)}, r"phases of \+1 or -1"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        build(**{"shape": (4, 4), "group": SU2(), **arguments})
