"""Which device and which process a run is on."""

import ctypes
import os
from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only

from lattice_lightning.exceptions import InputError

__all__ = ["choose_device", "keep_memory", "process_rank"]


def process_rank() -> int:
    """Rank of this process; 0 unless a launcher (Lightning, torchrun, SLURM) set another."""
    return int(getattr(rank_zero_only, "rank", 0) or 0)


def choose_device(trainer: Mapping[str, Any], rank: int = 0) -> torch.device:
    """The device of the trainer config; also sets the number of threads.

    Args:
        trainer: the trainer config.
        rank: of this process; on several machines its rank on this one counts, where a launcher set it.

    Raises:
        InputError: when a GPU is asked for and torch sees none.
    """
    accelerator = trainer["accelerator"]
    if trainer.get("threads"):
        torch.set_num_threads(int(trainer["threads"]))
    if accelerator in ("gpu", "cuda"):
        if not torch.cuda.is_available():
            raise InputError(
                f"trainer asks for a GPU, but torch {torch.__version__} sees none; use trainer=cpu, "
                "or install a CUDA build of torch on a machine with an NVIDIA driver"
            )
        return _gpu(trainer, rank)
    if accelerator == "auto" and torch.cuda.is_available():
        return _gpu(trainer, rank)
    if accelerator not in ("auto", "cpu"):
        raise InputError(f"trainer.accelerator must be cpu, gpu or auto, got {accelerator!r}")
    return torch.device("cpu")


def _gpu(trainer: Mapping[str, Any], rank: int) -> torch.device:
    """The GPU that Lightning gives to this process too."""
    local, devices = int(os.environ.get("LOCAL_RANK", rank)), trainer.get("devices")
    if isinstance(devices, list | tuple):
        return torch.device("cuda", int(devices[local % len(devices)]))
    return torch.device("cuda", local % torch.cuda.device_count())


def keep_memory() -> None:
    """Let the C library keep freed memory of this process; nothing where it is not glibc.

    Otherwise large temporaries are given back to the system after every operation and cleared page by
    page when the next one asks for them, which doubles the time of a flow's draws on the CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt(mmap_threshold, 2**25)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**26)
