"""What all-mode averaging over sources of one configuration gains."""

from math import isfinite

from lattice_lightning.exceptions import InputError

__all__ = ["classical_gain"]


def classical_gain(correlation: float, source_correlation: float, n_sources: int) -> float:
    r"""error^2 / error_O^2 of all-mode averaging: O_1 - A_1 + mean_g A_g over N_G sources.

    With O measured on one source of each configuration and A on all, N configurations give

        error^2 / error_O^2 = 1/N_G + (1 - 1/N_G) (R + 2 (1 - r)).

    The method is that of 1208.4349. Written as 1/N_G + R' + 2 (1 - r) (1 - 1/N_G), R' is the sum of
    correlations over g != g' divided by N_G^2, that is (1 - 1/N_G) R with the mean R over pairs
    taken here: with one source the result is 1. It is exact where

    * var A = var O, so that var D = 2 (1 - r) var O; otherwise 2 (1 - r) stands for var D / var O,
      which differs at second order in 1 - r when A is O with independent noise;
    * O_1 - A_1 is uncorrelated with A_g of the other sources, that is cov(O_1, A_g) =
      cov(A_1, A_g): otherwise 2 (1 - 1/N_G) cov(O_1 - A_1, A_g) / var O is added.

    A smoothed A = r O + noise breaks the second: with R of O, the result is then
    (1 - 1/N_G) (1 - r)^2 R too large. Autocorrelation times are taken as equal. Values are not
    clipped: R < -1/(N_G - 1), which no N_G sources have, can give a negative one.

    Args:
        correlation: r of O with A, same source and configuration.
        source_correlation: R, mean correlation of two sources of one configuration.
        n_sources: N_G.

    Raises:
        InputError: unless N_G >= 1, abs(r) <= 1 and abs(R) <= 1.

    Example:
        >>> round(classical_gain(0.99, 0.0, 16), 5), classical_gain(0.9, 0.3, 1)
        (0.08125, 1.0)
    """
    if not (isfinite(n_sources) and n_sources >= 1):
        raise InputError(f"n_sources is {n_sources}; expected at least 1")
    for name, value in (("correlation", correlation), ("source_correlation", source_correlation)):
        if not abs(value) <= 1:
            raise InputError(f"{name} is {value}; expected -1 to 1")
    others = 1 - 1 / n_sources
    return 1 / n_sources + others * (source_correlation + 2 * (1 - correlation))
