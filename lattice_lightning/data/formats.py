"""Reading and writing configurations of other codes, checked before anybody samples from them."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lattice_lightning.data.bridge import read_bridge, write_bridge
from lattice_lightning.data.ildg import is_lime, read_ildg, write_ildg
from lattice_lightning.exceptions import FormatError

__all__ = ["check_links", "read_configuration", "write_configuration"]

# files in single precision are unitary to 1e-7 a link, older codes' double ones to 1e-10
UNITARITY = 1e-5


def check_links(links: Tensor, path: Path | str, tolerance: float = UNITARITY) -> None:
    """Raise FormatError unless all links are finite, unitary and of determinant one."""
    flat = links.reshape(-1, *links.shape[-2:])
    if not bool(torch.isfinite(torch.view_as_real(flat)).all()):
        raise FormatError(f"{path} holds numbers that are not finite; the file is corrupted")
    eye = torch.eye(flat.shape[-1], dtype=flat.dtype)
    unitary = (flat @ flat.mH - eye).abs().amax((1, 2))
    determinant = (torch.linalg.det(flat) - 1).abs()
    for defect, what in ((unitary, "|U U^dag - 1|"), (determinant, "|det U - 1|")):
        worst = int(defect.argmax())
        if float(defect[worst]) > tolerance:
            bad = int((defect > tolerance).sum())
            raise FormatError(
                f"{path}: {bad} of {len(flat)} links are not in SU({flat.shape[-1]}): {what} = "
                f"{float(defect[worst]):.2g} at the worst, allowed {tolerance:.0e}; wrong lattice, group "
                "or format, or a corrupted file"
            )


def read_configuration(path: Path | str, shape: Sequence[int], n_colors: int) -> Tensor:
    """One configuration, ``[1, mu, *lattice, N, N]`` complex128, checked and back on the group.

    LIME files (ILDG) are known by their first bytes, everything else is read as BridgeText.

    Args:
        path: the file.
        shape: lattice (L_x, ..., L_t).
        n_colors: N of SU(N).

    Raises:
        FormatError: missing, truncated, corrupted, of another shape, or not unitary.
    """
    path = Path(path)
    if not path.is_file():
        raise FormatError(f"no configuration at {path}; give an existing ILDG or BridgeText file")
    if path.stat().st_size == 0:
        raise FormatError(f"{path} is empty")
    links = read_ildg(path, shape, n_colors) if is_lime(path) else read_bridge(path, shape, n_colors)
    check_links(links, path)
    return links


def write_configuration(path: Path | str, links: Tensor) -> Path:
    """Write one configuration: ``.ildg`` or ``.lime`` as ILDG, ``.txt`` as BridgeText; atomic.

    Raises:
        FormatError: for another suffix, or links that are not in SU(N).
    """
    path = Path(path)
    check_links(links, "the field to write")
    partial = path.with_name(path.name + ".partial")
    if path.suffix in {".ildg", ".lime"}:
        write_ildg(partial, links)
    elif path.suffix == ".txt":
        write_bridge(partial, links)
    else:
        raise FormatError(
            f"unknown configuration format {path.suffix!r}: use .ildg or .lime (ILDG) or .txt (BridgeText)"
        )
    os.replace(partial, path)
    return path
