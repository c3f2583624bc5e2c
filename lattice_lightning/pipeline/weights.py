"""Trained weights in a file that is enough to sample from: tensors and the config that rebuilds them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lattice_lightning import __version__
from lattice_lightning.exceptions import FormatError, InputError
from lattice_lightning.files import save_atomically
from lattice_lightning.methods import ActionRegression
from lattice_lightning.methods.flow_method import FlowMethod
from lattice_lightning.models import FlowModel
from lattice_lightning.pipeline.build import System, build_method
from lattice_lightning.pipeline.checks import explained
from lattice_lightning.pipeline.flows import build_flow_method, build_model
from lattice_lightning.pipeline.rows import expand_rows

__all__ = [
    "copy_weights", "load_weights", "origin", "rebuild", "rebuild_flow", "save_weights", "stored_row",
    "training_seconds",
]


def origin(config: Mapping[str, Any], row: str) -> dict[str, Any]:
    """Where weights come from: plain config, row, code version."""
    return {"config": dict(config), "row": row, "version": __version__}


def save_weights(path: Path, method: ActionRegression | FlowMethod) -> Path:
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
    payload, row, name = stored_row(path)
    config = payload["origin"]["config"]
    if row["sampler"] != "self_learning_hmc":
        raise InputError(
            f"{path} holds a flow of row {name!r}, no effective action; use a sampler of flows"
        )
    if expected is not None and expected.get("effective") not in (None, row["effective"]):
        raise InputError(
            f"{path} holds the effective action {row['effective']}, the row asks for "
            f"{expected['effective']}; leave `effective` out to take what the file holds"
        )
    if system is None:
        with explained(f"the config in {path} is damaged"):
            system = System(config, device)
    method = build_method(system, row, name)
    _load(method, payload, path)
    method.origin = payload["origin"]
    return system, method.to(system.device).eval()


def rebuild_flow(
    path: str | Path,
    device: torch.device | str = "cpu",
    system: System | None = None,
    lattice: Sequence[int] | None = None,
) -> tuple[System, FlowModel]:
    """The system and the trained flow of a file (averaged weights where it has them), from it alone.

    Args:
        path: weights or Lightning checkpoint.
        device: where to put them.
        system: put the flow on the lattice of this system instead of the stored one.
        lattice: or on this one, in a system otherwise as stored.

    Raises:
        InputError: when the file holds no flow, or its flow cannot live on that lattice.
    """
    payload, row, name = stored_row(path)
    config = payload["origin"]["config"]
    if not row.get("flow"):
        raise InputError(f"{path} holds an effective action of row {name!r}, no flow")
    with explained(f"the config in {path} is damaged"):
        stored = System(config, device)
        row.pop("warm_start", None)
        if (row["training"].get("forward_kl") or {}).get("fields"):
            # needed in training only, and perhaps not there any more
            row["training"]["forward_kl"] = None
        method = build_flow_method(stored, row, name, build_model(stored, row, name, seed=0), seed=0)
    _load(method, payload, path)
    if system is None:
        system = stored if lattice is None else System({**config, "lattice": list(lattice)}, device)
    model = method.sampling_model()
    if model.space.name != system.space.name:
        raise InputError(f"{path} holds a flow of {model.space.name}, wanted is one of {system.space.name}")
    if model.lattice != system.lattice:
        model = model.on(system.lattice)
    return system, model.to(system.device).eval()


def copy_weights(source: FlowModel, model: FlowModel, name: str) -> None:
    """Start the training of a flow from the weights of another with the same layers.

    Raises:
        InputError: for flows of different layers.
    """
    try:
        model.load_state_dict(source.state_dict())
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise InputError(f"row {name!r} cannot start from the flow of warm_start: {line}") from error


def stored_row(path: str | Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What a file of weights holds, the row that it is of, expanded, and the name of that row."""
    payload = load_weights(path)
    config, name = payload["origin"]["config"], payload["origin"].get("row")
    with explained(f"the config in {path} is damaged"):
        rows = expand_rows(config)
    if name not in rows:
        raise FormatError(f"{path} is of row {name!r}, its config has {sorted(rows)}: it is damaged")
    row = rows[name]
    if row["sampler"] != "self_learning_hmc" and not row.get("flow"):
        raise FormatError(f"{path} is of row {name!r}, a {row['sampler']} without weights: it is damaged")
    return payload, row, name


def training_seconds(path: str | Path) -> float:
    """What training the weights in a file took, the stream's share included; 0 where it is not known."""
    origin = load_weights(path)["origin"]
    return float(origin.get("seconds") or 0.0) + float(origin.get("stream_seconds") or 0.0)


def _load(method: ActionRegression | FlowMethod, payload: Mapping[str, Any], path: str | Path) -> None:
    for key, tensor in payload["state_dict"].items():
        if isinstance(tensor, torch.Tensor) and not bool(torch.isfinite(tensor).all()):
            raise FormatError(
                f"{path}: {key} holds nan or inf, nothing to sample with; take the weights of an earlier "
                "checkpoint, or train again with a smaller learning rate"
            )
    try:
        method.load_state_dict(payload["state_dict"])
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise FormatError(f"{path} does not fit the model of its own config: {line}") from error
