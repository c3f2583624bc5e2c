"""Products over different sources: exact algebra, and no bias where the naive product has one."""

from itertools import permutations
from math import comb

import pytest
import torch

from lattice_lightning.analysis import judge_pulls
from lattice_lightning.exceptions import InputError
from lattice_lightning.observables import distinct_products
from lattice_lightning.observables.products import jackknife_variance, leave_one_out, set_partitions


def brute_force(factors):
    """The definition: every ordered choice of different sources."""
    choices = list(permutations(range(len(factors[0])), len(factors)))
    total = sum(torch.stack([f[i] for f, i in zip(factors, c, strict=True)]).prod(0) for c in choices)
    return total / len(choices)


def naive(factors):
    return torch.stack([f.mean(0) for f in factors]).prod(0)


def noise(shape, rng):
    """Skewed, mean 1: a symmetric noise would hide third moments."""
    return -torch.rand(shape, generator=rng, dtype=torch.float64).log()


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("more", [0, 1, 3])
def test_agrees_with_all_permutations(p, more, rng):
    factors = [torch.randn(p + more, 5, generator=rng, dtype=torch.float64) for _ in range(p)]
    torch.testing.assert_close(distinct_products(factors), brute_force(factors), rtol=1e-12, atol=1e-12)
    if p > 1:
        assert float((naive(factors) - brute_force(factors)).abs().max()) > 1e-3


@pytest.mark.parametrize("which", [(0, 0), (0, 0, 1), (0, 0, 0, 0), (1, 0, 0, 1)], ids=str)
def test_factors_may_repeat_and_come_in_any_order(which, rng):
    values = torch.randn(2, 6, 3, generator=rng, dtype=torch.float64)
    found = distinct_products([values[k] for k in which])
    torch.testing.assert_close(found, brute_force([values[k] for k in which]), rtol=1e-12, atol=1e-12)
    turned = distinct_products([values[k] for k in reversed(which)])
    torch.testing.assert_close(found, turned, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [2, 3, 4])
def test_no_bias_where_the_naive_product_has_a_known_one(p, rng):
    """Exponential sources of mean 1: the mean of n of them to the p has the mean (n)_p rising / n^p."""
    n, rounds = 5, 200_000
    values = noise((n, rounds), rng)
    rising = comb(n + p - 1, p) * torch.arange(1, p + 1).prod().item() / n**p
    pulls = {}
    for name, found in (("distinct", distinct_products([values] * p)), ("naive", naive([values] * p))):
        error = float(found.std()) / rounds**0.5
        pulls[name] = [(float(found.mean()) - expected) / error for expected in (1.0, rising)]
    assert judge_pulls([pulls["distinct"][0], pulls["naive"][1]]).ok, pulls
    # and each is far from the other's mean
    assert pulls["naive"][0] > 10 and pulls["distinct"][1] < -10, pulls


def test_correlated_factors_of_one_source(rng):
    """f and f^2 of the same source are correlated; the product of their means over different ones is not."""
    values = noise((4, 200_000), rng)
    found = distinct_products([values, values.square()])
    error = float(found.std()) / 200_000**0.5
    assert abs(float(found.mean()) - 2) < 3.5 * error
    wrong = naive([values, values.square()])
    # covariance of an exponential and its square is 4, over four sources
    assert float(wrong.mean()) == pytest.approx(2 + 1, abs=0.1)


@pytest.mark.parametrize("n", range(6))
def test_set_partitions(n):
    found = [sorted(map(tuple, blocks)) for blocks in set_partitions(n)]
    assert len(found) == len(set(map(tuple, found))) == [1, 1, 2, 5, 15, 52][n]
    for blocks in found:
        assert sorted(element for block in blocks for element in block) == list(range(n))


def test_leave_one_out_and_the_jackknife_of_a_mean(rng):
    values = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    others = leave_one_out(values)
    assert others.shape == (4, 5, 3)
    for i in range(5):
        assert torch.equal(others[:, i], values[[k for k in range(5) if k != i]])
    torch.testing.assert_close(jackknife_variance(others.mean(0)), values.var(0) / 5)


def test_jackknife_of_a_product_is_its_variance(rng):
    """U-statistic of order 2 with mean mu != 0: near 4 mu^2 sigma^2 / n plus 2 sigma^4 / (n (n - 1))."""
    n, rounds, mu = 20, 20_000, 2.0
    values = mu + torch.randn(n, rounds, generator=rng, dtype=torch.float64)
    found = distinct_products([values, values])
    others = leave_one_out(values)
    variance = jackknife_variance(distinct_products([others, others]))
    expected = 4 * mu**2 / n + 2 / (n * (n - 1))
    assert float(found.var()) == pytest.approx(expected, rel=0.04)
    assert float(variance.mean()) == pytest.approx(expected, rel=0.04)


ONES = torch.ones(3, 2)


@pytest.mark.parametrize(
    "factors, message",
    [
        ([], "expected 1 to 4 factors, got 0"),
        ([ONES] * 5, "expected 1 to 4 factors, got 5"),
        ([ONES] * 4, "a product of 4 traces needs as many different sources, got 3; raise n_sources"),
        ([ONES, ONES[:2]], r"one shape \[sources, ...\], got \(3, 2\), \(2, 2\)"),
        ([torch.tensor(1.0)], r"one shape \[sources, ...\], got \(\)"),
    ],
    ids=str,
)
def test_bad_factors(factors, message):
    with pytest.raises(InputError, match=message):
        distinct_products(factors)
