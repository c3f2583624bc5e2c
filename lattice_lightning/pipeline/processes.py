"""Several processes, each with its own chains: starting them, joining them, ending them together.

``torch.distributed.run`` starts all of them at once, before the first trajectory. Lightning would
start the others only at its first fit, after rank 0 has streamed alone, and not at all where nothing
is left to fit.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from lattice_lightning.exceptions import InputError
from lattice_lightning.parallel import joined

__all__ = [
    "broadcast", "check_processes", "is_launched", "launch", "n_nodes", "n_processes", "process_group",
    "require_one_process", "world_size",
]

#: one rank may stream much longer than another, whose collective waits
TIMEOUT = timedelta(days=7)


def world_size() -> int:
    """Processes of this run, by the environment that torch.distributed.run sets."""
    return int(os.environ.get("WORLD_SIZE", 1))


def n_nodes() -> int:
    """Machines of this run."""
    return max(1, world_size() // int(os.environ.get("LOCAL_WORLD_SIZE", world_size())))


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    if "RANK" in os.environ or "LOCAL_RANK" in os.environ:
        return True
    # a batch script outside srun has a rank too, but it is alone
    return "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) > 1


def n_processes(trainer: Mapping[str, Any]) -> int:
    """Processes that the trainer config asks for on each machine."""
    devices = trainer.get("devices", 1)
    if isinstance(devices, list | tuple):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        gpu = trainer["accelerator"] != "cpu" and torch.cuda.is_available()
        return torch.cuda.device_count() if gpu else 1
    try:
        return int(devices)
    except (TypeError, ValueError):
        raise InputError(f"trainer.devices must be a number of processes, got {devices!r}") from None


def check_processes(trainer: Mapping[str, Any]) -> None:
    """Refuse a run whose processes are not those that its config asks for.

    Raises:
        InputError: with the command that starts them.
    """
    asked, there = n_processes(trainer), world_size() // n_nodes()
    if asked == there:
        return
    if there == 1:
        raise InputError(
            f"trainer.devices={asked} needs {asked} processes, but this one is alone; start them by "
            f"`train.py experiment=... trainer=ddp trainer.devices={asked}`, or a script of your own by "
            f"`torchrun --standalone --nproc-per-node={asked} script.py`"
        )
    raise InputError(
        f"{there} processes were started on this machine, but trainer.devices={asked}; set trainer=ddp "
        f"trainer.devices={there}"
    )


def require_one_process(trainer: Mapping[str, Any], what: str) -> None:
    """Refuse several processes where they would all do the same.

    Raises:
        InputError: naming what runs in one process only.
    """
    if n_processes(trainer) > 1 or world_size() > 1:
        raise InputError(f"{what} runs in one process; leave trainer=ddp and trainer.devices out")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """All processes joined; nothing when this one is alone or joined already."""
    if world_size() == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", timeout=TIMEOUT, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    failed = True
    try:
        yield
        failed = False
    finally:
        # after a failure NCCL would wait for the others, which wait for this rank
        if not failed or device.type != "cuda":
            dist.destroy_process_group()


def broadcast(value: Any) -> Any:
    """What rank 0 passes, on every rank."""
    if not joined():
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def launch(arguments: Sequence[str], trainer: Mapping[str, Any]) -> int:
    """Run ``lattice-lightning train`` in as many processes as the trainer asks for.

    Interrupts and SIGTERM are passed on to all; when one process fails, the others are ended.

    Returns:
        The exit status: that of the process that failed first, 0 for none.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # the process that failed has said why; every module there has a logger with a level of its own
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    n = n_processes(trainer)
    threads = trainer.get("threads") or max(1, (os.cpu_count() or 1) // n)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    options = ["--standalone", f"--nproc-per-node={n}", "-m", "lattice_lightning.cli", "train"]
    try:
        torchrun.run(torchrun.parse_args([*options, *arguments]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            print(f"error: process {rank} of {n} was ended by {name}", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
