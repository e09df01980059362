"""What `fake_cupy` counts and limits: a device with its memory, its streams and their graphs.

Memory is numpy's, filled with NaN when it is given and when it is given back. What a stream
captures does not run; a graph runs it.
"""

from __future__ import annotations

import numpy as np

from . import emulator

COUNTED = "uploads downloads waits operations mallocs captures replays plans modules".split()
COUNTED += ["elementwise"]  # launches of cupy's own kernels


class OutOfMemoryError(MemoryError):
    """As cupy's."""


class Device:
    """What there is one of: counters, streams, memory. `limit`: bytes that there are."""

    def __init__(self, limit=1 << 34):
        self.counts = dict.fromkeys(COUNTED, 0)
        self.kernels = set()  # those of cupy's own that are compiled
        self.limit, self.allocated, self.live_graphs, self.live_plans = limit, 0, 0, 0
        self.pool = MemoryPool(self)
        self.allocators, self.streams = [self.pool.malloc], [Stream(self, null=True)]

    def do(self, operation):
        """Run an operation, or record it where the current stream captures."""
        stream = self.streams[-1]
        if stream.recorded is not None:
            stream.recorded.append(operation)
            return
        self.counts["operations"] += 1
        with np.errstate(all="ignore"):
            operation()

    def to_host(self, what):
        """What copies to the host, waits, or loads a module: not allowed in a capture, which is
        spoilt by it."""
        self.refuse_in_capture("synchronous calls")
        self.counts[what] += 1

    def refuse_in_capture(self, what):
        for stream in self.streams:
            if stream.recorded is not None:
                stream.spoilt = True
                raise RuntimeError(f"a stream is capturing, so there are no {what}")

    def compiles(self, *kernel):
        """An elementwise kernel of cupy's own, which is a module on its first use."""
        self.counts["elementwise"] += 1
        if kernel not in self.kernels:
            self.to_host("modules")
            self.kernels.add(kernel)


class MemoryPool:
    """Memory in blocks of exact sizes. What is given back is poisoned, and kept for its size."""

    def __init__(self, device=None):
        self.device = device or the_device()
        self.free, self.used, self.limit = {}, 0, 0

    def malloc(self, size):
        free = self.free.get(size)
        if free:
            memory = free.pop()
        else:
            most = self.limit or self.device.limit
            if self.device.allocated + size > self.device.limit or self.total_bytes() + size > most:
                raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (fake)")
            memory = np.empty(max(size, 1) + 63, np.uint8)
            at = -memory.ctypes.data % 64
            memory = memory[at : at + size]
            self.device.allocated += size
            self.device.counts["mallocs"] += 1
        self.used += size
        memory[...] = emulator.POISON
        return Block(self, memory)

    def free_all_blocks(self):
        self.device.refuse_in_capture("returns of memory")
        self.device.allocated -= self.free_bytes()
        self.free.clear()

    def set_limit(self, size):
        self.limit = size

    def get_limit(self):
        return self.limit

    def free_bytes(self):
        return sum(size * len(blocks) for size, blocks in self.free.items())

    def used_bytes(self):
        return self.used

    def total_bytes(self):
        return self.used + self.free_bytes()

    def __del__(self):
        self.device.allocated -= self.free_bytes()


class Block:
    """Owned by arrays; given back when the last of them is gone."""

    def __init__(self, pool, memory):
        self.pool, self.memory = pool, memory

    def __del__(self):
        pool, memory = self.pool, self.memory
        memory[...] = emulator.POISON
        pool.used -= memory.size
        pool.free.setdefault(memory.size, []).append(memory)


class Stream:
    """In order with all others, for operations run at once; alone in what it captures."""

    def __init__(self, device=None, null=False, non_blocking=False):
        self.device, self.recorded, self.spoilt = device or the_device(), None, False
        self.capturable = non_blocking and not null

    def __enter__(self):
        self.device.streams.append(self)
        return self

    def __exit__(self, *error):
        assert self.device.streams.pop() is self

    def record(self):
        self.device.refuse_in_capture("events that others wait for")
        return object()

    def wait_event(self, event):
        self.device.refuse_in_capture("waits for events")

    def synchronize(self):
        self.device.to_host("waits")

    def begin_capture(self):
        self.device.refuse_in_capture("captures within it")
        if not self.capturable:
            raise RuntimeError("this stream cannot capture")
        self.device.counts["captures"] += 1
        self.recorded, self.spoilt = [], False

    def end_capture(self):
        if self.recorded is None:
            raise RuntimeError("this stream does not capture")
        recorded, self.recorded = self.recorded, None
        if self.spoilt:
            raise RuntimeError("the capture was spoilt")
        return Graph(self.device, recorded)


class Graph:
    def __init__(self, device, recorded):
        self.device, self.recorded = device, recorded
        device.live_graphs += 1

    def launch(self, stream):
        self.device.refuse_in_capture("replays")
        assert self.device.streams[-1] is stream
        self.device.counts["replays"] += 1
        with np.errstate(all="ignore"):
            for operation in self.recorded:
                operation()

    def __del__(self):
        self.device.live_graphs -= 1


devices = []  # those that are installed, the latest last


def the_device():
    return devices[-1]
