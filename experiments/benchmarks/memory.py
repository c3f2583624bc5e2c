"""Bytes that torch operations allocate: all together, and the most that live at one time."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AllocatedBytes(TorchDispatchMode):
    """Counts the storages of the results of all operations, in forward and backward passes.

    The same in every run. Not seen: what an operation needs inside itself, and what lived before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = self.live = self.peak = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count its new storages."""
        result = func(*args, **(kwargs or {}))
        given = {id(t.untyped_storage()) for t in self._tensors((args, kwargs))}
        for tensor in self._tensors(result):
            storage = tensor.untyped_storage()
            if id(storage) not in self._seen and id(storage) not in given:
                self._count(storage)
        return result

    @staticmethod
    def _tensors(tree: Any) -> list[torch.Tensor]:
        return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self._seen[key] = size
        self.total += size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key).atexit = False

    def _free(self, key: int) -> None:
        self.live -= self._seen.pop(key, 0)
