"""Errors of the package: each says what was expected, what came and how to mend it."""

__all__ = [
    "ChainError",
    "ConvergenceError",
    "FormatError",
    "InputError",
    "LatticeLightningError",
    "ResumeError",
    "TooFewLabelsError",
]


class LatticeLightningError(Exception):
    """Base of every error that the package raises on purpose."""


class InputError(LatticeLightningError, ValueError):
    """An argument, config value or field is not what the callee can work with."""


class FormatError(InputError):
    """A file is truncated, corrupted or not of the format it was read as."""


class ConvergenceError(LatticeLightningError, RuntimeError):
    """A linear solver stopped before its residual met the tolerance."""


class ChainError(LatticeLightningError, RuntimeError):
    """A Markov chain cannot go on: non-finite forces or energies persist."""


class ResumeError(LatticeLightningError, RuntimeError):
    """A saved state does not belong to the run that asks to continue from it."""


class TooFewLabelsError(InputError):
    """A correction has too few labels for an error that can be told; it says how many it needs."""
