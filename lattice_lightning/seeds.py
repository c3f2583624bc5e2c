"""Seeds of a run's generators, one for each purpose and rank."""

from hashlib import sha256

__all__ = ["derive_seed"]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, unrelated to those of other purposes, ranks and runs.

    Sums like seed + rank would let the run of the next seed share random numbers with this one.

    Example:
        >>> derive_seed(1, "stream", 0) == derive_seed(1, "stream", 0)
        True
        >>> len({derive_seed(s, p) for s in range(100) for p in range(100)})
        10000
    """
    digest = sha256(repr((int(seed), *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
