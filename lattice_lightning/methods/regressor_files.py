"""Files of fitted networks: tensors and plain values, written whole or not at all."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lattice_lightning.exceptions import FormatError, InputError, ResumeError

__all__ = ["digest_of", "read_weights", "require_same_fit"]


def digest_of(*arrays: npt.NDArray[Any]) -> str:
    """A digest of the entries, shapes and types of arrays.

    Example:
        >>> digest_of(np.zeros(2)) == digest_of(np.zeros((2, 1)))
        False
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr((array.shape, str(array.dtype))).encode())
        # as bytes, without a copy where it is contiguous
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def require_same_fit(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with the fit of another kind, of other options or of other data.

    Raises:
        ResumeError: naming the difference.
    """
    for what, key in (("regressor", "regressor"), ("options", "config"), ("data", "data")):
        if json.dumps(found.get(key), sort_keys=True) != json.dumps(wanted[key], sort_keys=True):
            raise ResumeError(
                f"{folder} holds a fit of other {what}: {found.get(key)}, wanted {wanted[key]}; give "
                "another folder, or delete it to train anew"
            )


def read_weights(path: Path) -> dict[str, Any]:
    """A file with ``origin`` and ``state_dict``, read without running code from it.

    Raises:
        InputError: when there is none.
        FormatError: when it is damaged or not one of ours.
    """
    if not path.is_file():
        raise InputError(f"no weights at {path}: give a file that a fitted network saved")
    try:
        payload: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise FormatError(
            f"cannot read {path} ({type(error).__name__}): it is truncated, or no file of weights; delete "
            "it to train anew"
        ) from error
    if not isinstance(payload, dict) or not {"origin", "state_dict"} <= set(payload):
        raise FormatError(f"{path} is a torch file without origin and state_dict: not one of ours")
    return payload
