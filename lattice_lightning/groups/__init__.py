"""Groups and the real line: what the fields live on."""

from difflib import get_close_matches

from lattice_lightning.exceptions import InputError
from lattice_lightning.groups.base import FieldSpace, Group
from lattice_lightning.groups.real import RealLine
from lattice_lightning.groups.su2 import SU2
from lattice_lightning.groups.sun import SUN, generators
from lattice_lightning.groups.u1 import U1

__all__ = ["SU2", "SUN", "U1", "FieldSpace", "Group", "RealLine", "from_name", "generators"]


def from_name(name: str) -> FieldSpace:
    """The space of a name like ``U(1)``, ``SU(2)``, ``SU(5)``, ``R`` or ``R^3``.

    Raises:
        InputError: when no space has that name.

    Example:
        >>> from_name("SU(3)").n_generators
        8
    """
    name = str(name)
    key = name.upper().replace("(", "").replace(")", "").replace("_", "").strip()
    if key == "U1":
        return U1()
    if key == "SU2":
        return SU2()
    if key in {"R", "REAL"}:
        return RealLine()
    if key.startswith("R^") and key[2:].isdigit():
        return RealLine(int(key[2:]))
    if key.startswith("SU") and key[2:].isdigit():
        return SUN(int(key[2:]))
    near = get_close_matches(name, ["U(1)", "SU(2)", "SU(3)", "R"], n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputError(f"unknown group {name!r}: expected U(1), SU(N), R or R^N{hint}")
