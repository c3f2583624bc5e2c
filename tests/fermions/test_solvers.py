import pytest
import torch

from lattice_lightning.exceptions import ConvergenceError, InputError
from lattice_lightning.fermions import Solution, multishift_cg

N = 40


def matrix(rng, smallest=0.0, largest=4.0):
    """Symmetric with a known spectrum."""
    q, _ = torch.linalg.qr(torch.randn(N, N, generator=rng, dtype=torch.float64))
    return q @ torch.diag(torch.linspace(smallest, largest, N, dtype=torch.float64)) @ q.T


def right_hand_sides(rng, n_chains=3):
    return torch.randn(N, n_chains, generator=rng, dtype=torch.float64)


def exact(a, b, shift):
    return torch.linalg.solve(a + shift * torch.eye(N, dtype=torch.float64), b)


@pytest.mark.parametrize(
    "shifts",
    [
        [0.09],
        [0.09, 0.16, 0.36, 2.0],
        [2.0, 0.09, 0.16],  # the smallest need not come first
        [0.16, 0.09, 0.09],
        [1e4, 0.01, 0.02],  # zeta of the heavy one underflows, wherever it stands
        [0.01, 0.02, 1e4],
    ],
)
def test_every_shift_against_a_dense_solve(rng, shifts):
    a, b = matrix(rng), right_hand_sides(rng)
    solution = multishift_cg(lambda v: a @ v, b, shifts, 1e-13, 1000)
    assert solution.converged.all()
    for shift, x in zip(shifts, solution.x, strict=True):
        torch.testing.assert_close(x, exact(a, b, shift), rtol=1e-10, atol=1e-10)


def test_residual_and_tolerance(rng):
    a, b = matrix(rng), right_hand_sides(rng)
    for tolerance in (1e-3, 1e-6, 1e-9):
        solution = multishift_cg(lambda v: a @ v, b, [0.1], tolerance, 1000)
        true = (b - a @ solution.x[0] - 0.1 * solution.x[0]).norm(dim=0) / b.norm(dim=0)
        assert (true <= 1.01 * tolerance).all()
        torch.testing.assert_close(solution.residual, true, rtol=1e-2, atol=1e-13)


def test_iterations_count_applications_of_each_chain(rng):
    b = right_hand_sides(rng, 2)
    diagonal = torch.linspace(0, 4, N, dtype=torch.float64)[:, None].expand(N, 2).clone()
    diagonal[:, 1] = torch.where(torch.arange(N) < N // 2, 1.0, 2.0)  # two eigenvalues, two steps
    calls = []

    def apply(v):
        calls.append(1)
        return diagonal * v

    solution = multishift_cg(apply, b, [0.1, 1.0], 1e-12, 1000)
    assert solution.iterations[1] == 2
    assert solution.iterations[0] == len(calls) > 20
    torch.testing.assert_close(solution.x[1], b / (diagonal + 1.0), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("chains", [[0], [2], [1, 3], [0, 1, 2]])
def test_a_chain_does_not_feel_its_batch_mates(rng, chains):
    diagonal = torch.rand(N, 5, generator=rng, dtype=torch.float64)
    b = right_hand_sides(rng, 5)
    b[:, 4] = float("nan")
    b[:, 3] *= 1e6
    shifts = [0.01, 0.3]
    together = multishift_cg(lambda v: diagonal * v, b, shifts, 1e-8, 500)
    apart = multishift_cg(lambda v: diagonal[:, chains] * v, b[:, chains], shifts, 1e-8, 500)
    assert torch.equal(apart.iterations, together.iterations[chains])
    assert torch.equal(apart.residual, together.residual[chains])
    for x, y in zip(apart.x, together.x, strict=True):
        assert torch.equal(x, y[:, chains])


def test_a_zero_right_hand_side_is_solved_by_zero(rng):
    a, b = matrix(rng), right_hand_sides(rng)
    b[:, 1] = 0
    solution = multishift_cg(lambda v: a @ v, b, [0.1, 0.5], 1e-10, 1000)
    assert solution.converged.all()
    assert solution.iterations[1] == 0 and solution.residual[1] == 0
    assert not solution.x[0][:, 1].any() and not solution.x[1][:, 1].any()


def test_a_chain_at_zero_residual_is_frozen(rng):
    a, b = torch.eye(N, dtype=torch.float64), right_hand_sides(rng, 2)
    scale = torch.stack([torch.full((N,), 2.0), torch.linspace(0, 4, N)], 1).double()
    solution = multishift_cg(lambda v: a @ v * scale, b, [2.0, 3.0], 1e-14, 1000)
    assert solution.iterations[0] == 1 < solution.iterations[1]
    torch.testing.assert_close(solution.x[0][:, 0], b[:, 0] / 4, rtol=1e-14, atol=0)
    torch.testing.assert_close(solution.x[1][:, 0], b[:, 0] / 5, rtol=1e-14, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["right-hand side", "operator"])
def test_a_chain_that_is_not_finite_fails_alone(rng, bad, where):
    diagonal, b = torch.rand(N, 3, generator=rng, dtype=torch.float64), right_hand_sides(rng)
    clean = multishift_cg(lambda v: diagonal * v, b, [0.1, 0.2], 1e-10, 100)
    broken = diagonal.clone()
    if where == "operator":
        broken[3, 1] = bad
    else:
        b = b.clone()
        b[3, 1] = bad
    solution = multishift_cg(lambda v: broken * v, b, [0.1, 0.2], 1e-10, 100)
    assert solution.converged.tolist() == [True, False, True]
    assert torch.equal(solution.x[1][:, [0, 2]], clean.x[1][:, [0, 2]])
    with pytest.raises(ConvergenceError, match="chain 1: residual nan"):
        solution.require_converged("solve", 1e-10, 100)


def test_convergence_error_names_chain_residual_and_remedy(rng):
    a, b = matrix(rng), right_hand_sides(rng)
    b[:, 0] = 0
    solution = multishift_cg(lambda v: a @ v, b, [1e-4], 1e-12, 7)
    assert solution.converged.tolist() == [True, False, False]
    assert solution.iterations.tolist() == [0, 7, 7]
    message = (
        r"my solve: conjugate gradients did not reach 1\.0e-12 within 7 iterations "
        rf"\(chain 1: residual {solution.residual[1]:.2e}, chain 2: residual .*\); raise max_iterations"
    )
    with pytest.raises(ConvergenceError, match=message):
        solution.require_converged("my solve", 1e-12, 7)


def test_a_long_list_of_failures_is_cut():
    residual = torch.ones(9)
    solution = Solution([], residual, residual, residual < 0)
    with pytest.raises(ConvergenceError, match=r"chain 3: residual 1\.00e\+00 and 5 more"):
        solution.require_converged("solve", 1e-9, 10)


@pytest.mark.parametrize(
    "shifts, tolerance, limit",
    [([], 0.1, 9), ([0.0, 1.0], 0.1, 9), ([1.0], 0.0, 9), ([1.0], 1.0, 9), ([1.0], 0.1, 0)],
)
def test_arguments_out_of_range(shifts, tolerance, limit):
    with pytest.raises(InputError, match=r"shifts must be positive|0 < tolerance < 1 and max_iterations"):
        multishift_cg(lambda v: v, torch.ones(2, 1), shifts, tolerance, limit)
