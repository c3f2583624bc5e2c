"""Sums over the processes of a run; with one process they change nothing."""

import torch.distributed as dist
from torch import Tensor

__all__ = ["joined", "sum_over_ranks"]


def joined() -> bool:
    """Whether this process is one of several that talk to each other."""
    return dist.is_available() and dist.is_initialized()


def sum_over_ranks(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over all ranks, in place."""
    if joined():
        for tensor in tensors:
            dist.all_reduce(tensor)
