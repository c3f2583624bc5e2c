"""BridgeText files: bit-for-bit round trips, axis order, bad text."""

import numpy as np
import pytest
import torch
from reference_files import numbers, random_links

from lattice_lightning.data import read_bridge, read_configuration, write_bridge, write_configuration
from lattice_lightning.exceptions import FormatError

SHAPE = (2, 3, 4, 5)


@pytest.mark.parametrize(("shape", "n"), [(SHAPE, 2), (SHAPE, 3), (SHAPE, 4), ((3, 5), 2), ((2, 3, 4), 3)])
def test_round_trip_bit_for_bit(tmp_path, shape, n):
    links = torch.from_numpy(random_links(shape, n))
    path = write_configuration(tmp_path / "a.txt", links)
    assert torch.equal(read_configuration(path, shape, n), links)


def test_against_independent_text(tmp_path):
    links = random_links(SHAPE, 3)
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"{x:.17e}" for x in numbers(links[0])))
    assert np.array_equal(read_bridge(path, SHAPE, 3).numpy(), links)
    written = write_bridge(tmp_path / "b.txt", torch.from_numpy(links)).read_text().split()
    assert [float(word) for word in written] == numbers(links[0])


def text(change):
    words = [repr(x) for x in numbers(random_links((2, 3), 2)[0])]
    change(words)
    return "\n".join(words).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (text(lambda w: w.pop()), r"has 95 numbers, SU\(2\) on \(2, 3\) needs 96: the file is truncated"),
        (text(lambda w: w.append("0.0")), r"has 97 numbers, .* needs 96: the file is longer"),
        (text(lambda w: w.__setitem__(7, "0.1x")), "entry 8 is '0.1x', expected a number"),
        (text(lambda w: w.__setitem__(7, "x" * 10_000)), "entry 8 is 'xxxxxxxxxxxxxxxxxxxx', expected"),
        (text(lambda w: w.__setitem__(7, "nan")), "not finite; the file is corrupted"),
        (text(lambda w: w.__setitem__(7, "-inf")), "not finite; the file is corrupted"),
        (text(lambda w: w.__setitem__(7, "1e999")), "not finite; the file is corrupted"),
        (text(lambda w: w.__setitem__(7, "1.5")), r"links are not in SU\(2\): \|U U\^dag - 1\|"),
        (b"\xce\xb2 = 2.7\n" + text(lambda w: None), "not a text file"),
        (b"\xff\xfe" + text(lambda w: None), "not a text file"),
        (b"\n \n", "has 0 numbers"),
        (text(lambda w: w.__setitem__(7, "")), "has 95 numbers"),
    ],
    ids=["short", "long", "word", "long word", "nan", "inf", "overflow", "not unitary", "greek", "utf16",
         "blank", "gap"],
)
def test_bad_text(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        read_configuration(path, (2, 3), 2)
    assert "a.txt" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_determinant_is_checked(tmp_path):
    links = random_links((2, 3), 2)
    links[0, 1, 1, 2] *= 1j
    path = tmp_path / "a.txt"
    path.write_text("\n".join(map(repr, numbers(links[0]))))
    with pytest.raises(FormatError, match=r"1 of 12 links are not in SU\(2\): \|det U - 1\| = 2"):
        read_configuration(path, (2, 3), 2)
