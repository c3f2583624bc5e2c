"""Files that a kill leaves whole: the old content or the new, never a part."""

import os
from pathlib import Path
from typing import Any

import torch

__all__ = ["save_atomically"]


def save_atomically(path: Path, payload: Any) -> None:
    """torch.save to a partial file, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    with partial.open("wb") as file:
        torch.save(payload, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
