"""The threads that CPU loops are split over, and their scratch memory.

They are this module's own, not numba's: numba's simplest threading layer aborts the process when
two Python threads enter it at once. Here any number of callers share the threads there are.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading

import numpy as np

from .checks import positive_int

_local = threading.local()


def aligned(size, alignment=64):
    """`size` bytes that start on a cache line, with one line of slack behind them."""
    raw = np.empty(size + 2 * alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size]


class _Job:
    """One loop cut into chunks. Whoever has time takes the next chunk; the last one done tells.

    Chunks are claimed by ``next(count)``, which the interpreter makes atomic. Which thread runs
    a chunk changes nothing: kernels write disjoint outputs, and reductions go through partial
    sums whose number depends on the shape alone.
    """

    def __init__(self, function, bounds, scratch, args):
        self.function, self.bounds, self.scratch, self.args = function, bounds, scratch, args
        self.claimed, self.finished = itertools.count(), itertools.count(1)
        self.done = threading.Lock()
        self.done.acquire()
        self.error = None

    def work(self):
        chunks = len(self.bounds) - 1
        while (chunk := next(self.claimed)) < chunks:
            try:
                if self.error is None:
                    start, stop = self.bounds[chunk], self.bounds[chunk + 1]
                    self.function(start, stop, *_scratch(*self.scratch), *self.args)
            except BaseException as error:
                self.error = error
            if next(self.finished) == chunks:
                self.done.release()


def _scratch(size, dtype):
    """This thread's scratch memory, as the leading argument of a kernel that asks for it."""
    if not size:
        return ()
    buffers = _local.__dict__.setdefault("scratch", {})
    buffer = buffers.get(dtype)
    if buffer is None or buffer.size < size:
        buffer = buffers[dtype] = aligned(size * dtype.itemsize).view(dtype)
    return (buffer,)


class _Threads:
    def __init__(self):
        available = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        )
        self.number = int(os.environ.get("SSI_CUPY_NUM_THREADS", available or 1))
        self.forget()

    def forget(self):
        """A forked child has none of its parent's threads."""
        self.jobs, self.running = queue.SimpleQueue(), 0

    def run(self, function, bounds, scratch, args):
        job = _Job(function, bounds, scratch, args)
        helpers = min(self.number, len(bounds) - 1) - 1
        while self.running < helpers:
            self.running += 1
            threading.Thread(target=self._serve, args=(self.jobs,), daemon=True).start()
        for _ in range(helpers):
            self.jobs.put(job)
        job.work()
        job.done.acquire()
        job.args = ()  # a helper that comes too late must not keep the arrays from their pool
        if job.error is not None:
            raise job.error

    @staticmethod
    def _serve(jobs):
        while True:
            jobs.get().work()


_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.forget)


def share_out(function, n, grain, scratch, args):
    """``function(start, stop, *args)`` over n items, by as many threads as have `grain` items.

    `scratch` is (size, dtype) of memory that each thread has to itself, its argument after stop;
    size 0 for none.
    """
    chunks = min(4 * _threads.number, n // grain) if _threads.number > 1 else 1
    if chunks > 1:
        bounds = [n * i // chunks for i in range(chunks + 1)]
        _threads.run(function, bounds, scratch, args)
    elif n:
        function(0, n, *_scratch(*scratch), *args)


def num_threads():
    """The number of threads that CPU loops are split over."""
    return _threads.number


def set_num_threads(number):
    """Split CPU loops over `number` threads. Results do not depend on it, bit for bit."""
    _threads.number = positive_int(number, "number")
