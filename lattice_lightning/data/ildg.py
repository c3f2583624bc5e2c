"""ILDG configurations in LIME files (https://hpc.desy.de/ildg).

A LIME record: magic 0x456789ab, version 1, flags (message begin, message end), data length (8 bytes),
type (128 bytes), data padded to 8 bytes; all big-endian. ``ildg-format`` is XML with shape and
precision, ``ildg-binary-data`` the links: slowest index first t, z, y, x, mu, row, column,
(real, imaginary). Files without the XML record exist; the shape then comes from the caller.
"""

import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lattice_lightning.exceptions import FormatError

__all__ = ["is_lime", "links_to_numbers", "numbers_to_links", "read_ildg", "write_ildg"]

MAGIC = 0x456789AB
HEADER = struct.Struct(">IHHQ128s")
NAMESPACE = "http://www.lqcd.org/ildg"
# a description takes a few hundred bytes; damaged ones must not fill the memory
LONGEST_XML = 2**16
# extents of ILDG's four directions as we order them
EXTENTS = ("lx", "ly", "lz", "lt")


def is_lime(path: Path) -> bool:
    """Whether the file begins like a LIME file."""
    with Path(path).open("rb") as file:
        return file.read(4) == MAGIC.to_bytes(4, "big")


def _records(path: Path) -> dict[str, bytes]:
    """Data of every record by type; a type that comes twice keeps its first."""
    content, position = Path(path).read_bytes(), 0
    records: dict[str, bytes] = {}
    while position < len(content):
        if len(content) - position < HEADER.size:
            raise FormatError(
                f"{path}: {len(content) - position} bytes left at byte {position}, a LIME record header "
                f"has {HEADER.size}; the file is truncated or has something appended"
            )
        magic, version, _, length, kind = HEADER.unpack_from(content, position)
        if magic != MAGIC or version != 1:
            raise FormatError(
                f"{path}: no LIME record at byte {position} (magic {magic:#x}, version {version}); the "
                "file is corrupted or not LIME"
            )
        position += HEADER.size
        name = kind.split(b"\0", 1)[0].decode("ascii", "replace")
        if position + length > len(content):
            raise FormatError(
                f"{path}: record {name!r} should have {length} bytes, the file ends after "
                f"{len(content) - position}; it is truncated, copy it again"
            )
        records.setdefault(name, content[position : position + length])
        position += length + (-length) % 8
    return records


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Refuses document types: entities that expand without bound need one, ILDG has none."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type")


def _described(xml: bytes, path: Path) -> tuple[tuple[int, ...], int]:
    """Lattice shape and precision of an ildg-format record."""
    xml = xml.rstrip(b"\0")
    try:
        if len(xml) > LONGEST_XML:
            raise ValueError(f"it has {len(xml)} bytes")
        root = ElementTree.fromstring(xml, ElementTree.XMLParser(target=_WithoutDoctype()))
        entries = {e.tag.rpartition("}")[2]: (e.text or "").strip() for e in root.iter()}
        shape, precision = tuple(int(entries[k]) for k in EXTENTS), int(entries["precision"])
        if min(shape) < 1 or precision not in (32, 64):
            raise ValueError(f"extents {shape}, precision {precision}")
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise FormatError(
            f"{path}: the ildg-format record cannot be read ({str(error)[:200]}); the file is corrupted"
        ) from error
    return shape, precision


def numbers_to_links(numbers: np.ndarray, shape: Sequence[int], n_colors: int) -> Tensor:
    """Numbers in file order to links ``[1, mu, *lattice, N, N]``, complex128."""
    d = len(shape)
    data = numbers.astype(np.float64).reshape(*reversed(shape), d, n_colors, n_colors, 2)
    links = torch.view_as_complex(torch.from_numpy(data))
    # (t, ..., x, mu, N, N) to (mu, x, ..., t, N, N)
    order = (d, *range(d - 1, -1, -1), d + 1, d + 2)
    return links.permute(order).unsqueeze(0).contiguous()


def links_to_numbers(links: Tensor) -> np.ndarray:
    """Inverse of :func:`numbers_to_links`, flat float64."""
    if links.shape[0] != 1:
        raise FormatError(f"a file holds one configuration, got {links.shape[0]}; write them one by one")
    d = links.shape[1]
    order = (*range(d, 0, -1), 0, d + 1, d + 2)
    return torch.view_as_real(links[0].cpu().permute(order).contiguous()).numpy().reshape(-1)


def read_ildg(
    path: Path, shape: Sequence[int] | None = None, n_colors: int | None = None
) -> Tensor:
    """Links ``[1, mu, *lattice, N, N]``, complex128.

    Args:
        path: LIME file.
        shape: lattice (L_x, ..., L_t); needed where the file has no ildg-format record, compared
            with it otherwise.
        n_colors: N; deduced from the length of the data where not given.

    Raises:
        FormatError: for truncated or corrupted files, or another shape than asked for.
    """
    path = Path(path)
    records = _records(path)
    if "ildg-binary-data" not in records:
        raise FormatError(f"{path}: no record ildg-binary-data, only {sorted(records)}")
    data = records["ildg-binary-data"]
    precision = None
    if "ildg-format" in records:
        stored, precision = _described(records["ildg-format"], path)
        if shape is not None and tuple(shape) != stored:
            raise FormatError(f"{path} holds a lattice {stored}, expected {tuple(shape)}; set lattice=")
        shape = stored
    if shape is None:
        raise FormatError(
            f"{path} has no ildg-format record, so it does not say its lattice: give the shape"
        )
    d, sites = len(shape), prod(shape)
    candidates = [n_colors] if n_colors else [3, 2, 4, 5, 6]
    for n in candidates:
        for bits in [precision] if precision else [64, 32]:
            if len(data) == sites * d * n * n * 2 * bits // 8:
                numbers = np.frombuffer(data, f">f{bits // 8}")
                return numbers_to_links(numbers, shape, n)
    wanted = f"SU({n_colors})" if n_colors else "SU(2) to SU(6)"
    expected = sites * d * (n_colors or 3) ** 2 * 2 * (precision or 64) // 8
    raise FormatError(
        f"{path}: {len(data)} bytes of links do not fit {wanted} on {tuple(shape)} (expected {expected}); "
        "check lattice and group"
    )


def write_ildg(path: Path, links: Tensor, precision: int = 64) -> Path:
    """Write one configuration ``[1, mu, *lattice, N, N]`` with its ildg-format record.

    Raises:
        FormatError: for several configurations, or another precision than 64 or 32.
    """
    if precision not in (32, 64):
        raise FormatError(f"precision must be 64 or 32, got {precision}")
    shape = tuple(links.shape[2:-2])
    if len(shape) != 4:
        raise FormatError(f"ILDG files hold four-dimensional lattices, got {shape}; use BridgeText")
    extents = "".join(f"<{k}>{n}</{k}>" for k, n in zip(EXTENTS, shape, strict=True))
    field = f"su{links.shape[-1]}gauge"
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?><ildgFormat xmlns="{NAMESPACE}"><version>1.0</version>'
        f"<field>{field}</field><precision>{precision}</precision>{extents}</ildgFormat>"
    ).encode()
    data = links_to_numbers(links).astype(f">f{precision // 8}").tobytes()
    with Path(path).open("wb") as file:
        for k, (name, content) in enumerate((("ildg-format", xml), ("ildg-binary-data", data))):
            flags = 0x8000 if k == 0 else 0x4000
            file.write(HEADER.pack(MAGIC, 1, flags, len(content), name.encode()))
            file.write(content + b"\0" * ((-len(content)) % 8))
    return Path(path)
