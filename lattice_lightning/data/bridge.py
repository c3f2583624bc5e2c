"""BridgeText configurations (Bridge++): one real number a line, in the order of ILDG's numbers."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
from torch import Tensor

from lattice_lightning.data.ildg import links_to_numbers, numbers_to_links
from lattice_lightning.exceptions import FormatError

__all__ = ["read_bridge", "write_bridge"]


def read_bridge(path: Path, shape: Sequence[int], n_colors: int) -> Tensor:
    """Links ``[1, mu, *lattice, N, N]``, complex128; the file does not say its shape.

    Raises:
        FormatError: for a line that is no number, or another count than the shape needs.
    """
    path = Path(path)
    try:
        words = path.read_text(encoding="ascii").split()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not a text file ({error}); not BridgeText") from error
    expected = prod(shape) * len(shape) * n_colors**2 * 2
    try:
        numbers = np.array(words, dtype=np.float64)
    except ValueError:
        line = next(i for i, word in enumerate(words) if not _is_number(word))
        raise FormatError(
            f"{path}: entry {line + 1} is {words[line][:20]!r}, expected a number; the file is "
            "corrupted or not BridgeText"
        ) from None
    if numbers.size != expected:
        more = "truncated" if numbers.size < expected else "longer than it should be"
        raise FormatError(
            f"{path} has {numbers.size} numbers, SU({n_colors}) on {tuple(shape)} needs {expected}: the "
            f"file is {more}, or lattice and group are others"
        )
    return numbers_to_links(numbers, shape, n_colors)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def write_bridge(path: Path, links: Tensor) -> Path:
    """Write one configuration ``[1, mu, *lattice, N, N]``; numbers read back bit for bit."""
    with Path(path).open("w", encoding="ascii") as file:
        file.writelines(f"{number!r}\n" for number in links_to_numbers(links).tolist())
    return Path(path)
