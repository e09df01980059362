"""The threads that CPU loops are split over, and their scratch memory.

They are this module's own, not numba's: numba's simplest threading layer aborts the process when
two Python threads enter it at once. Here any number of callers may: one has the workers, the others
meanwhile do their loops alone. What workers do is in `parallel_for.py`.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import positive_int
from ..types import Array
from .parallel_for import WORDS, compiled_serve, compiled_share

_local = threading.local()


def aligned(size: int, alignment: int = 64) -> Array:
    """`size` bytes that start on a cache line, with one line of slack behind them."""
    raw = np.empty(size + 2 * alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]


def processors(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many processors this process may use; a container's `limit` may be less than it sees."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limit.read_text().split()
        return max(1, min(seen, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # not Linux; "max"
        return seen


class _Threads:
    """The workers, and how many of them sleep because nothing came for a while."""

    def __init__(self):
        self.number = int(os.environ.get("SSI_CUPY_NUM_THREADS", processors()))
        self.forget()

    def forget(self):
        """A forked child has none of its parent's threads."""
        self.words = aligned(8 * WORDS)
        self.words[:] = 0
        self.pool = self.words.ctypes.data
        self.running = self.asleep = 0
        self.lock, self.bell = threading.Lock(), threading.Semaphore(0)

    def summon(self, workers):
        """Start so many, unless they run, and wake who sleeps."""
        with self.lock:
            while self.running < workers:
                self.running += 1
                args = self.running, self.words, self.lock, self.bell
                threading.Thread(target=self._serve, args=args, daemon=True).start()
            if self.asleep:
                self.bell.release(self.asleep)
                self.asleep = 0

    def _serve(self, worker, words, lock, bell):
        serve = compiled_serve()
        while True:
            serve(words.ctypes.data, worker, PATIENCE)
            with lock:
                self.asleep += 1
            bell.acquire()


PATIENCE = 20_000  # looks for work, in a little less than a millisecond
_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.forget)


def parallel_for(
    launch: Callable[..., Any], n: int, grain: int, scratch: tuple[int, Any], args: tuple[Any, ...]
) -> None:
    """A loop over n items by as many threads as have `grain` items.

    `launch` is the loop's (`parallel_for.launcher`); `scratch` the (size, dtype) of memory that
    each thread has to itself, its argument after stop; size 0 for none.
    """
    number = _threads.number
    chunks = min(4 * number, n // grain) if number > 1 else 1
    workers = max(min(number, chunks), 1)
    if workers > 1 and (_threads.asleep or _threads.running < workers - 1):
        _threads.summon(workers - 1)
    if n:
        share, memory = compiled_share(), _scratch(workers, *scratch)
        if launch(share, _threads.pool, n, chunks, workers, memory, *args):
            raise RuntimeError("a compiled loop failed")


def _scratch(workers, size, dtype):
    """A row of this thread's scratch memory for each worker, on cache lines of its own."""
    if not size:
        return None
    size += -size % (64 // dtype.itemsize)
    buffers = _local.__dict__.setdefault("scratch", {})
    buffer = buffers.get(dtype)
    if buffer is None or buffer.size < workers * size:
        buffer = buffers[dtype] = aligned(workers * size * dtype.itemsize).view(dtype)
    return buffer[: workers * size].reshape(workers, size)


def num_threads() -> int:
    """The number of threads that CPU loops are split over."""
    return _threads.number


def set_num_threads(number: int) -> None:
    """Split CPU loops over `number` threads. Results do not depend on it, bit for bit."""
    _threads.number = positive_int(number, "number")
