"""Tunnelling rate of the topological charge."""

import pytest
import torch

from lattice_lightning.analysis import tunnelling_rate
from lattice_lightning.exceptions import InputError


def test_rate_of_a_chain_that_moves_with_known_probability():
    rng = torch.Generator().manual_seed(6)
    moves = (torch.rand(32, 2000, generator=rng) < 0.15).double()
    signs = 2.0 * torch.randint(0, 2, moves.shape, generator=rng) - 1
    rate = tunnelling_rate((moves * signs).cumsum(1))
    assert abs(rate.value - 0.15) < 3.5 * rate.error
    assert rate.error == pytest.approx((0.15 * 0.85 / moves.numel()) ** 0.5, rel=0.5)


def test_rounding_of_the_charge_is_no_tunnelling():
    charge = 2.0 + 1e-9 * torch.randn(4, 100, generator=torch.Generator().manual_seed(1))
    rate = tunnelling_rate(charge)
    # the rule of three: 396 steps without one
    assert (rate.value, rate.error) == (0.0, pytest.approx(3 / 396))


@pytest.mark.parametrize("charge", [torch.zeros(5), torch.zeros(2, 1), torch.full((2, 3), float("nan"))])
def test_other_series_are_refused(charge):
    with pytest.raises(InputError, match="topological charge"):
        tunnelling_rate(charge)
