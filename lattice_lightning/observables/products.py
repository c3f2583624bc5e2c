"""Unbiased products of traces that are each known from noisy sources only."""

from collections.abc import Iterator, Sequence
from math import factorial, perm

import torch
from torch import Tensor

from lattice_lightning.exceptions import InputError

__all__ = ["distinct_products", "jackknife_variance", "leave_one_out", "set_partitions"]

MAX_FACTORS = 4


def distinct_products(factors: Sequence[Tensor]) -> Tensor:
    """Mean of f_1(i_1) ... f_p(i_p) over all tuples of different sources i_1, ..., i_p.

    The product of the means over the sources is biased by the covariances of the noise, since one
    source enters several factors; this mean over different sources, a U-statistic, is not, as long as
    the sources are independent (Hoeffding, Ann. Math. Stat. 19 (1948) 293). By inclusion and exclusion
    over the set partitions of the factors, with n sources,

        (n - p)!/n! sum_partitions prod_{blocks B} (-1)^{|B|-1} (|B|-1)! sum_i prod_{f in B} f(i),

    exact algebra at a cost linear in n.

    Args:
        factors: one to four, each the values of all sources ``[sources, ...]`` of one shape; the same
            tensor may come several times.

    Returns:
        The mean, ``[...]``.

    Raises:
        InputError: for a wrong number of factors, unequal shapes or fewer sources than factors.

    Example:
        >>> f, g = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 0.0])
        >>> distinct_products([f, g])  # (2 * 1 + 3 * 1) / 6; the product of the means is 4/6
        tensor(0.8333)
    """
    p = len(factors)
    if not 1 <= p <= MAX_FACTORS:
        raise InputError(f"expected 1 to {MAX_FACTORS} factors, got {p}")
    shape = factors[0].shape
    if not shape or any(factor.shape != shape for factor in factors):
        raise InputError(
            "factors need one shape [sources, ...], got "
            + ", ".join(str(tuple(factor.shape)) for factor in factors)
        )
    if shape[0] < p:
        raise InputError(
            f"a product of {p} traces needs as many different sources, got {shape[0]}; raise n_sources"
        )
    total = torch.zeros_like(factors[0][0])
    for partition in set_partitions(p):
        term = torch.ones_like(total)
        for block in partition:
            product = factors[block[0]]
            for f in block[1:]:
                product = product * factors[f]
            term = term * product.sum(0) * ((-1) ** (len(block) - 1) * factorial(len(block) - 1))
        total = total + term
    return total / perm(shape[0], p)


def set_partitions(n: int) -> Iterator[list[list[int]]]:
    """All partitions of the elements 0, ..., n - 1 into blocks that are not empty.

    Example:
        >>> list(set_partitions(2))
        [[[0, 1]], [[0], [1]]]
    """
    if n == 0:
        yield []
        return
    for partition in set_partitions(n - 1):
        for k in range(len(partition)):
            yield [*partition[:k], [*partition[k], n - 1], *partition[k + 1 :]]
        yield [*partition, [n - 1]]


def leave_one_out(values: Tensor) -> Tensor:
    """Values without source i in column i: ``[sources, ...]`` to ``[sources - 1, sources, ...]``."""
    n = values.shape[0]
    rows = torch.arange(n - 1, device=values.device).unsqueeze(1)
    left_out = torch.arange(n, device=values.device)
    return values[rows + (rows >= left_out)]


def jackknife_variance(replicas: Tensor) -> Tensor:
    """Variance of an estimate from those that leave one source out each, ``[sources, ...]`` to ``[...]``.

    (n - 1)/n sum_i (r_i - mean r)^2: the variance of a mean exactly, for products biased upwards by the
    terms beyond the linear one (Efron and Stein, Ann. Stat. 9 (1981) 586).
    """
    n = replicas.shape[0]
    return (n - 1) / n * (replicas - replicas.mean(0)).square().sum(0)
