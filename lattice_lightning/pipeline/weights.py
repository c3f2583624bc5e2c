"""Trained weights in a file that is enough to sample from: tensors and the config that rebuilds them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lattice_lightning import __version__
from lattice_lightning.data import save_atomically
from lattice_lightning.exceptions import FormatError, InputError
from lattice_lightning.methods import ActionRegression
from lattice_lightning.pipeline.build import System, build_method
from lattice_lightning.pipeline.checks import explained
from lattice_lightning.pipeline.rows import expand_rows

__all__ = ["load_weights", "origin", "rebuild", "save_weights"]


def origin(config: Mapping[str, Any], row: str) -> dict[str, Any]:
    """Where weights come from: plain config, row, code version."""
    return {"config": dict(config), "row": row, "version": __version__}


def save_weights(path: Path, method: ActionRegression) -> Path:
    """Write the weights and where they come from, atomically."""
    save_atomically(Path(path), {"origin": method.origin, "state_dict": method.state_dict()})
    return Path(path)


def load_weights(path: str | Path) -> dict[str, Any]:
    """Read weights or a Lightning checkpoint of this package, without running code from the file.

    Raises:
        InputError: when there is no file.
        FormatError: when it is damaged or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}: give a file like checkpoints/cask.pt of a run")
    try:
        payload: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message advises to load without weights_only
        raise FormatError(
            f"cannot read the checkpoint {path} ({type(error).__name__}): it is truncated, no torch file, "
            "or holds more than tensors and plain values, which is refused since it could run code"
        ) from error
    origin = payload.get("origin") if isinstance(payload, dict) else None
    if (
        not isinstance(origin, dict)
        or not isinstance(origin.get("config"), dict)
        or not isinstance(payload.get("state_dict"), dict)
    ):
        raise FormatError(
            f"{path} is a torch file without origin and state_dict: not a checkpoint of this package"
        )
    return payload


def rebuild(
    path: str | Path,
    device: torch.device | str = "cpu",
    system: System | None = None,
    expected: Mapping[str, Any] | None = None,
) -> tuple[System, ActionRegression]:
    """The system and the trained method of a checkpoint, from the file alone.

    Args:
        path: weights or Lightning checkpoint.
        device: where to put them.
        system: build the method for this system instead of the stored one.
        expected: row whose effective action the file must hold (rows with ``checkpoint: path``).

    Raises:
        InputError: when the file holds another model than expected.
    """
    payload = load_weights(path)
    config, name = payload["origin"]["config"], payload["origin"].get("row")
    with explained(f"the config in {path} is damaged"):
        rows = expand_rows(config)
    if name not in rows:
        raise FormatError(f"{path} is of row {name!r}, its config has {sorted(rows)}: it is damaged")
    row = rows[name]
    if expected is not None and expected.get("effective") not in (None, row["effective"]):
        raise InputError(
            f"{path} holds the effective action {row['effective']}, the row asks for "
            f"{expected['effective']}; leave `effective` out to take what the file holds"
        )
    if system is None:
        with explained(f"the config in {path} is damaged"):
            system = System(config, device)
    method = build_method(system, row, name)
    try:
        method.load_state_dict(payload["state_dict"])
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise FormatError(f"{path} does not fit the model of its own config: {line}") from error
    method.origin = payload["origin"]
    return system, method.to(system.device).eval()
