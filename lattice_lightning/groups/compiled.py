"""Functions of real tensors as fused kernels of torch's compiler, and plain where there is none.

A kernel belongs to one set of shapes. It is made at the first call with them, in seconds that the
compiler's cache on disk saves later processes, so small problems are better off without. Written for
what needs no derivatives.
"""

import shutil
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

__all__ = ["FUSE_FROM", "Fused", "compiler_found", "worth_fusing"]

#: links times chains from which fields are moved by compiled kernels: 8 chains on 4^4
FUSE_FROM = 8192

#: past its limit of kernels a function the compiler would give up
_MOST_KERNELS = 256


@cache
def compiler_found() -> bool:
    """Whether torch can compile here; warns once where it cannot."""
    if torch.cuda.is_available() or shutil.which("g++") or shutil.which("c++"):
        return True
    warnings.warn(
        "no C++ compiler found: Dirac operators and forces of gauge fields run in plain torch, several "
        "times slower; install g++ to compile them",
        RuntimeWarning,
        stacklevel=3,
    )
    return False


def worth_fusing(links: Tensor) -> bool:
    """Whether one component of all links, ``[..., batch]``, is large enough to compile for."""
    return links.numel() >= FUSE_FROM and not torch.is_grad_enabled() and compiler_found()


class Fused:
    """A function of real tensors with static shapes, compiled for each set of shapes that it meets.

    Args:
        function: from tensors to a tensor, written without decorators, in-place operations and
            branches on values.
        plain: what runs where there is no compiler; by default the function itself.

    Example:
        >>> double = Fused(lambda x: 2 * x)
        >>> double.plain(torch.ones(2))
        tensor([2., 2.])
    """

    def __init__(
        self, function: Callable[..., Tensor], plain: Callable[..., Tensor] | None = None
    ) -> None:
        self.function, self.plain = function, plain or function
        self._known: set[tuple[object, ...]] = set()
        self._kernel: Callable[..., Tensor] | None = None

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The function, by its kernel."""
        if not compiler_found():
            return self.plain(*tensors)
        if self._kernel is None:
            self._kernel = torch.compile(self.function, fullgraph=True, dynamic=False)
        shapes = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
        key = (*shapes, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        if key in self._known:
            return self._kernel(*tensors)
        with torch._dynamo.config.patch(recompile_limit=_MOST_KERNELS):
            result = self._kernel(*tensors)
        self._known.add(key)
        return result
