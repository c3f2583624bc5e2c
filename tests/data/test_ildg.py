"""ILDG files: bit-for-bit round trips, axis order, other writers' files."""

import struct

import numpy as np
import pytest
import torch
from reference_files import binary, random_links, record, xml

from lattice_lightning.data import read_configuration, read_ildg, write_configuration, write_ildg
from lattice_lightning.exceptions import FormatError

SHAPE = (2, 3, 4, 5)


def links_of(n, shape=SHAPE):
    return torch.from_numpy(random_links(shape, n))


@pytest.mark.parametrize("precision", [64, 32])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_round_trip_bit_for_bit(tmp_path, n, precision):
    links = links_of(n)
    back = read_ildg(write_ildg(tmp_path / "a.ildg", links, precision))
    expected = links if precision == 64 else links.to(torch.complex64).to(torch.complex128)
    assert back.dtype == torch.complex128
    assert torch.equal(back, expected)


@pytest.mark.parametrize("precision", [64, 32])
def test_reads_independent_writer(tmp_path, precision):
    links = random_links(SHAPE, 3)
    path = tmp_path / "a.ildg"
    path.write_bytes(record("ildg-format", xml(SHAPE, precision)) +
                     record("ildg-binary-data", binary(links[0], precision)))
    expected = links if precision == 64 else links.astype(np.complex64).astype(np.complex128)
    assert np.array_equal(read_configuration(path, SHAPE, 3).numpy(), expected)


def test_written_bytes(tmp_path):
    links = random_links(SHAPE, 2)
    content = write_ildg(tmp_path / "a.ildg", torch.from_numpy(links)).read_bytes()
    data = binary(links[0])
    assert len(data) % 8 == 0
    assert content.endswith(data)
    start = len(content) - len(data) - 144
    magic, version, _, length, kind = struct.unpack(">IHHQ128s", content[start : start + 144])
    assert (magic, version, length) == (0x456789AB, 1, len(data))
    assert kind.rstrip(b"\0") == b"ildg-binary-data"
    assert start % 8 == 0, "the XML record is padded to eight bytes"
    xml_length = struct.unpack(">Q", content[8:16])[0]
    assert content[144 : 144 + xml_length].startswith(b"<?xml")


def test_negative_zero_keeps_its_sign(tmp_path):
    links = torch.eye(2, dtype=torch.complex128).expand(1, 4, *SHAPE, 2, 2).clone()
    torch.view_as_real(links)[..., 0, 1, :] = -0.0
    back = read_ildg(write_ildg(tmp_path / "a.ildg", links))
    assert torch.equal(torch.view_as_real(back).signbit(), torch.view_as_real(links).signbit())


def pieces():
    links = random_links(SHAPE, 3)
    described = record("ildg-format", xml(SHAPE))
    data = record("ildg-binary-data", binary(links[0]))
    scidac = record("scidac-private-file-xml", b"<scidacFile/>") + record("ildg-data-lfn", b"lfn://x")
    return links, described, data, scidac


@pytest.mark.parametrize(
    "arrange",
    [
        lambda described, data, other: other + described + data,
        lambda described, data, other: data + described,
        lambda described, data, other: described + other + data + record("scidac-checksum", b"<x/>"),
        lambda described, data, other: record("a", b"", flags=0xC000) + described + data,
        # several messages, and the last record without its padding
        lambda described, data, other: described + data + record("tail", b"abc", flags=0xC000, pad=False),
        # a later record of the same type is another field
        lambda described, data, other: described + data + record("ildg-binary-data", b"\0" * 8),
    ],
    ids=["scidac", "other order", "checksum", "empty record", "no last padding", "second field"],
)
def test_other_records_do_not_matter(tmp_path, arrange):
    links, described, data, other = pieces()
    path = tmp_path / "a.lime"
    path.write_bytes(arrange(described, data, other))
    assert np.array_equal(read_configuration(path, SHAPE, 3).numpy(), links)


def test_shape_comes_from_caller_without_xml(tmp_path):
    links, _, data, _ = pieces()
    path = tmp_path / "a.ildg"
    path.write_bytes(data)
    assert np.array_equal(read_ildg(path, SHAPE).numpy(), links)
    with pytest.raises(FormatError, match=r"does not say its lattice: give the shape"):
        read_ildg(path)


def test_written_file_is_replaced_only_when_complete(tmp_path):
    links = links_of(2)
    path = write_configuration(tmp_path / "a.ildg", links)
    with pytest.raises(FormatError, match="not in SU"):
        write_configuration(path, 1.1 * links)
    assert torch.equal(read_configuration(path, SHAPE, 2), links)
    assert [p.name for p in tmp_path.iterdir()] == ["a.ildg"]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: write_ildg(path, links_of(2), 16), "precision must be 64 or 32, got 16"),
        (lambda path: write_ildg(path, links_of(2, (2, 3))), "four-dimensional lattices"),
        (lambda path: write_ildg(path, links_of(2).expand(2, *[-1] * 7)), "one configuration, got 2"),
        (lambda path: write_configuration(path.with_suffix(".dat"), links_of(2)), r"use \.ildg or"),
    ],
    ids=["precision", "two dimensions", "two configurations", "suffix"],
)
def test_impossible_writes(tmp_path, write, message):
    with pytest.raises(FormatError, match=message):
        write(tmp_path / "a.ildg")
    assert not list(tmp_path.iterdir()), "nothing half-written stays"
