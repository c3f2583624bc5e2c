"""Configuration files byte by byte, written without the package's own readers and writers."""

import itertools
import struct

import numpy as np


def record(kind, data, *, magic=0x456789AB, version=1, flags=0, length=None, pad=True):
    """One LIME record."""
    header = struct.pack(">I", magic) + struct.pack(">H", version) + struct.pack(">H", flags)
    header += struct.pack(">Q", len(data) if length is None else length) + kind.encode().ljust(128, b"\0")
    return header + data + b"\0" * (-len(data) % 8 if pad else 0)


def xml(shape, precision=64, n=3, extra=""):
    """An ildg-format record's text."""
    names = ("lx", "ly", "lz", "lt")
    extents = "".join(f"<{k}>{v}</{k}>" for k, v in zip(names, shape, strict=True))
    return (
        f'<?xml version="1.0"?>{extra}<ildgFormat xmlns="http://www.lqcd.org/ildg">'
        f"<version>1.0</version><field>su{n}gauge</field><precision>{precision}</precision>"
        f"{extents}</ildgFormat>"
    ).encode()


def numbers(links):
    """Numbers of ``[mu, *lattice, N, N]`` in file order: t, z, y, x, mu, row, column, re, im."""
    d, *shape = links.shape[:-2]
    n = links.shape[-1]
    found = []
    for site in itertools.product(*(range(extent) for extent in reversed(shape))):
        for mu, row, column in itertools.product(range(d), range(n), range(n)):
            value = complex(links[(mu, *reversed(site), row, column)])
            found += [value.real, value.imag]
    return found


def binary(links, precision=64):
    """The data of an ildg-binary-data record."""
    code = {64: ">d", 32: ">f"}[precision]
    return b"".join(struct.pack(code, x) for x in numbers(links))


def random_links(shape, n, seed=5):
    """Links in SU(N), ``[1, mu, *lattice, N, N]``, by numpy's QR: nothing of the package."""
    rng = np.random.default_rng(seed)
    size = (len(shape), *shape, n, n)
    q, r = np.linalg.qr(rng.normal(size=size) + 1j * rng.normal(size=size))
    diagonal = np.diagonal(r, axis1=-2, axis2=-1)
    q = q * (diagonal / abs(diagonal))[..., None, :]
    return (q / np.linalg.det(q)[..., None, None] ** (1 / n))[None]
