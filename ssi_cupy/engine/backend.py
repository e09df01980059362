"""Arrays and kernels on either device: an op allocates, calls a `kernel`, and never asks where it
runs.

It allocates with `empty` (`memory.py`), and the type of the arrays decides (`devices.py`): numpy
arrays go to the Numba loop that stands below the op, split over threads; cupy arrays go to the CUDA
kernel of the same name in `kernels/<file of the op>.cu`.

Only files of `cpu/` import numba, only files of `gpu/` cupy, and they do so on first use:
`import ssi_cupy` costs neither.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .cpu.jit import compiling, inline
from .cpu.parallel_for import launcher
from .cpu.threads import num_threads, parallel_for, set_num_threads
from .devices import host, is_cupy, log, moved, namespace, on_device, resolve_device
from .gpu.launch import block_per_item, launch_kernel, threads_per_item
from .memory import (
    Numbers,
    Pool,
    contiguous,
    empty,
    enough_memory,
    free_memory,
    holding,
    in_memory,
    kept,
    placed,
    zeros,
)
from .types import Grid

__all__ = [
    "Kernel", "Loop", "Numbers", "Pool", "compiling", "contiguous", "empty", "enough_memory",
    "free_memory", "holding", "host", "in_memory", "inline", "is_cupy", "kept", "kernel", "log",
    "moved", "namespace", "num_threads", "on_device", "placed", "resolve_device",
    "set_num_threads", "zeros",
]  # fmt: skip


class Loop:
    """A CPU loop, shared out over threads. Called as ``loop(n, *args)``: n work items.

    The function has the signature ``(start, stop, *args)`` and does items start … stop - 1; with
    ``scratch`` it is ``(start, stop, scratch, *args)``, with this very name: a 1-D array of the
    thread's own. Items must not write to the same place.
    """

    def __init__(self, loop: Callable[..., None], grain: int = 1, fastmath: bool = False) -> None:
        self.loop, self.grain, self.fastmath = loop, grain, fastmath
        functools.update_wrapper(self, loop)

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        return launcher(self.loop, self.fastmath)

    def __call__(self, n: int, *args: Any, scratch: int = 0, grain: int = 0) -> None:
        dtype = next(a.dtype for a in args if isinstance(a, np.ndarray)) if scratch else None
        parallel_for(self.compiled, n, max(grain, self.grain), (scratch, dtype), args)


class Kernel(Loop):
    """A CPU loop and a CUDA kernel of one name. Called as ``kernel(n, *args)``: n work items.

    The CUDA kernel has the same name and the signature ``(*args)``; it is in the file of `kernels/`
    that is called like the loop's module.
    """

    def __init__(
        self,
        loop: Callable[..., None],
        grain: int,
        fastmath: bool,
        launch: Callable[..., Grid] | None,
        prepare: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None,
        over: int | None,
    ) -> None:
        super().__init__(loop, grain, fastmath)
        self.prepare, self.over = prepare, over
        default = block_per_item if grain == 1 else threads_per_item(1)
        self.launch = launch or default
        self.stem = loop.__module__.rpartition(".")[2]

    def __call__(self, n: int, *args: Any, scratch: int = 0) -> None:
        if "cupy" in sys.modules and namespace(*args) is not np:  # mixed devices raise
            if n:
                launch_kernel(self, n, args)
            return
        if self.prepare is not None:
            args = self.prepare(args)
        grain = 0 if self.over is None else WORTH * n // (args[self.over].size or 1)
        super().__call__(n, *args, scratch=scratch, grain=grain)


WORTH = 8192  # elements of an array that are worth a thread's while


def kernel(
    loop: Callable[..., None] | None = None,
    *,
    grain: int = 1,
    fastmath: bool = False,
    launch: Callable[..., Grid] | None = None,
    prepare: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None,
    over: int | None = None,
) -> Any:
    """Make a `Kernel` of a plain Python loop. It is compiled on first use, and cached on disk.

    Parameters
    ----------
    loop : callable, optional
    grain : int
        The fewest items worth a thread's while.
    fastmath : bool
        Let the compiler reorder sums (so that it can use vector registers). NaN stays NaN. Such
        a sum needs a loop that stores nothing: where a loop also stores, the compiler asks at
        run time whether its arrays overlap, by their addresses, and the order of the sum, so its
        last bit, would depend on where the arrays happen to lie.
    launch : callable, optional
        The grid on CUDA, see `gpu/launch.py`. By default an item has a block of threads to itself,
        or one thread where `grain` is above 1.
    prepare : callable, optional
        On the CPU, ``prepare(args)`` returns what the loop is given in place of `args`.
    over : int, optional
        Which argument the items share among them, an array: few small items are not worth it.
    """
    if loop is None:
        return lambda loop: Kernel(loop, grain, fastmath, launch, prepare, over)
    return Kernel(loop, grain, fastmath, launch, prepare, over)
