"""Damaged, hostile and mismatched LIME files: an error that says what to do, never a hang."""

import time

import numpy as np
import pytest
from reference_files import binary, random_links, record, xml

from lattice_lightning.data import read_configuration, read_ildg
from lattice_lightning.exceptions import FormatError

SHAPE = (2, 3, 2, 4)
LINKS = random_links(SHAPE, 2)
DATA = binary(LINKS[0])
DESCRIBED = record("ildg-format", xml(SHAPE, n=2))
GOOD = DESCRIBED + record("ildg-binary-data", DATA)


def refused(tmp_path, content, message, shape=SHAPE, n=2):
    path = tmp_path / "a.ildg"
    path.write_bytes(content)
    tic = time.perf_counter()
    with pytest.raises(FormatError, match=message) as caught:
        read_configuration(path, shape, n)
    assert time.perf_counter() - tic < 2
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def described_as(text):
    return record("ildg-format", text) + record("ildg-binary-data", DATA)


def test_the_undamaged_file_reads(tmp_path):
    path = tmp_path / "a.ildg"
    path.write_bytes(GOOD)
    assert np.array_equal(read_configuration(path, SHAPE, 2).numpy(), LINKS)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (3, r"not a text file|expected a number|has \d+ numbers"),
        (4, "4 bytes left at byte 0, a LIME record header has 144; the file is truncated"),
        (143, "143 bytes left at byte 0"),
        (144, "'ildg-format' should have .* the file ends after 0; it is truncated"),
        (200, "'ildg-format' should have .* the file ends after 56; it is truncated"),
        (len(DESCRIBED), "no record ildg-binary-data, only"),
        (len(DESCRIBED) + 1, "1 bytes left"),
        (len(DESCRIBED) + 143, "143 bytes left"),
        (len(DESCRIBED) + 144, "'ildg-binary-data' should have .* ends after 0; it is truncated, copy"),
        (len(GOOD) - 1, "'ildg-binary-data' should have .* it is truncated, copy it again"),
    ],
)
def test_truncated(tmp_path, keep, message):
    refused(tmp_path, GOOD[:keep], message)


def test_every_truncation_is_an_error(tmp_path):
    path = tmp_path / "a.ildg"
    for keep in range(len(GOOD) - 1, 0, -97):
        path.write_bytes(GOOD[:keep])
        with pytest.raises(FormatError):
            read_configuration(path, SHAPE, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + b"trailing", "8 bytes left at byte .* something appended"),
        (GOOD + b"x" * 500, r"no LIME record at byte .* \(magic 0x78787878"),
        (record("a", b"x" * 8) + record("b", b"", magic=0x456789AC), "no LIME record at byte 152"),
        (record("a", b"", version=2) + GOOD, "version 2"),
        (record("ildg-binary-data", DATA, length=2**63), "should have 9223372036854775808 bytes"),
        (record("ildg-binary-data", DATA, length=2**64 - 1), "should have 18446744073709551615 bytes"),
        (DESCRIBED, "no record ildg-binary-data, only \\['ildg-format'\\]"),
        (DESCRIBED + record("ildg-binary-data", DATA[:-8]), r"bytes of links do not fit SU\(2\)"),
        (DESCRIBED + record("ildg-binary-data", DATA + DATA[:8]), r"bytes of links do not fit SU\(2\)"),
        (DESCRIBED + record("ildg-binary-data", b""), "0 bytes of links do not fit"),
        (record("\u00e9".encode("latin1").decode("latin1"), b"") + GOOD[:9], "bytes left at byte"),
    ],
    ids=["appended", "appended long", "magic", "version", "2^63", "2^64 - 1", "no data", "short data",
         "long data", "empty data", "name"],
)
def test_corrupted(tmp_path, content, message):
    refused(tmp_path, content, message)


BOMB = '<!DOCTYPE b [<!ENTITY a0 "aaaaaaaaaa">' + "".join(
    f'<!ENTITY a{k + 1} "{f"&a{k};" * 10}">' for k in range(12)
) + "]>"

EXTERNAL = '<!DOCTYPE b [<!ENTITY e SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nonsense",
        b"<ildgFormat>",
        b"\xff\xfe\x00<",
        b'<?xml version="1.0" encoding="klingon"?><a/>',
        b"<ildgFormat><lx>4</lx></ildgFormat>",
        xml(("two", 3, 2, 4)),
        xml((2, 3, 2, 4.0)),
        xml(("9" * 5000, 3, 2, 4)),
        xml(SHAPE, precision="sixty-four"),
        xml(SHAPE, precision=16),
        xml(SHAPE, precision=8),
        xml(SHAPE, precision=0),
        xml(SHAPE, precision=-64),
        xml((-2, -3, 2, 4)),
        xml((0, 3, 2, 4)),
        xml(SHAPE, extra=BOMB).replace(b"<version>1.0", b"<version>&a12;"),
        xml(SHAPE, extra=EXTERNAL).replace(b"1.0<", b"&e;<"),
        b"<a>" * 200_000,
    ],
    ids=["empty", "text", "unclosed", "binary", "encoding", "keys", "word", "float", "huge", "no number",
         "16 bits", "8 bits", "0 bits", "-64 bits", "negative", "zero", "bomb", "external", "deep"],
)
def test_nonsense_xml(tmp_path, text):
    refused(tmp_path, described_as(text), "the ildg-format record cannot be read")
    with pytest.raises(FormatError):
        read_ildg(tmp_path / "a.ildg")


def test_extents_that_overflow(tmp_path):
    shape = (2**32, 2**32, 2, 4)
    content = record("ildg-format", xml(shape)) + record("ildg-binary-data", b"")
    refused(tmp_path, content, "do not fit", shape=shape)


@pytest.mark.parametrize(
    ("shape", "n", "message"),
    [
        ((3, 2, 2, 4), 2, r"holds a lattice \(2, 3, 2, 4\), expected \(3, 2, 2, 4\); set lattice="),
        ((2, 3, 8), 2, r"expected \(2, 3, 8\)"),
        (SHAPE, 3, r"do not fit SU\(3\) on \(2, 3, 2, 4\) \(expected 27648\); check lattice and group"),
    ],
)
def test_wrong_shape_or_group(tmp_path, shape, n, message):
    refused(tmp_path, GOOD, message, shape, n)


def test_wrong_shape_without_xml(tmp_path):
    # the same number of links in another order are not unitary or are: only the byte count can tell
    refused(tmp_path, record("ildg-binary-data", DATA), "do not fit", shape=(2, 3, 2, 5))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5])
def test_numbers_that_are_no_links(tmp_path, value):
    links = LINKS.copy()
    links[0, 2, 1, 2, 1, 3, 0, 1] = value
    content = DESCRIBED + record("ildg-binary-data", binary(links[0]))
    refused(tmp_path, content, r"not finite|1 of 192 links are not in SU\(2\)")


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: p.touch(), lambda p: None])
@pytest.mark.parametrize("name", ["a.ildg", "a.txt"])
def test_directory_empty_or_missing(tmp_path, make, name):
    make(tmp_path / name)
    with pytest.raises(FormatError, match=r"no configuration at .*; give an existing|is empty"):
        read_configuration(tmp_path / name, SHAPE, 2)
