"""Where memory comes from, on either device, and what is said when there is too little.

`empty` allocates for all ops, from the `Pool` that is open. What a training step reads and changes
lies in `Numbers`.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
import threading
import traceback
import weakref
from pathlib import Path

import numpy as np

from .checks import OutOfMemory
from .cpu.threads import aligned
from .devices import is_cupy, moved
from .gpu import driver


def free_memory(like=None):
    """Bytes that can be had on the device of `like` without driving anything else out."""
    if is_cupy(like):
        cupy = sys.modules["cupy"]
        free, _ = cupy.cuda.runtime.memGetInfo()
        return free + cupy.get_default_memory_pool().free_bytes()
    try:
        found = [_available(Path("/proc/meminfo").read_text())]
    except (OSError, KeyError, ValueError):  # not Linux
        found = [_elsewhere()]
    try:  # a container's own limit
        limit, used = (int((CGROUP / f"memory.{n}").read_text()) for n in ("max", "current"))
        found.append(max(limit - used, 0))
    except (OSError, ValueError):
        pass
    return min(found)


def _elsewhere():
    """The same where there is no /proc: of sysconf, or psutil on macOS and Windows; else 4 GiB."""
    if {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= getattr(os, "sysconf_names", {}).keys():
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        import psutil
    except ImportError:
        return 4 << 30
    return int(psutil.virtual_memory().available)


def _available(meminfo):
    """What Linux says could be used without swapping, bytes."""
    values = dict(line.split(":", 1) for line in meminfo.splitlines())
    return int(values["MemAvailable"].split()[0]) * 1024


CGROUP = Path("/sys/fs/cgroup")


class _Block:
    """Owns a piece of a pool's memory; when the last view of it is gone, the pool has it back."""

    __slots__ = ("__array_interface__", "_memory", "_free")

    def __init__(self, memory, free, shape, dtype):
        self._memory, self._free = memory, free
        self.__array_interface__ = {
            "data": (memory[1], False), "shape": shape, "typestr": dtype, "version": 3
        }  # fmt: skip

    def __del__(self):
        self._free.append(self._memory)


class Pool:
    """Memory that is asked for again and again in the same sizes.

    Within ``with pool:`` every `empty` of this thread is served from it. A training step frees
    what it took, so from the second step on nothing is allocated (`misses` stands still).

    Attributes
    ----------
    misses : int
        How often new memory had to be allocated.
    nbytes : int
        How much memory the pool has allocated, bytes.
    """

    def __init__(self):
        self._free, self._known = {}, {}
        self._outer = []
        self.misses = 0
        self.nbytes = 0

    def take(self, shape, dtype):
        try:
            free, size, shape, dtype = self._known[shape, dtype]
        except (KeyError, TypeError):  # a new one; a list
            free, size, shape, dtype = self._ask(shape, dtype)
        try:
            memory = free.pop()
        except IndexError:
            memory = aligned(size)
            memory = memory, memory.ctypes.data  # asked for once, as asking is slow
            self.misses += 1
            self.nbytes += size
        return np.asarray(_Block(memory, free, shape, dtype))

    def _ask(self, shape, dtype):
        """(free memory, size, shape, typestr) of such an array, looked up in the next call."""
        asked = tuple(shape) if hasattr(shape, "__len__") else (shape,), np.dtype(dtype)
        size = max(math.prod(asked[0]) * asked[1].itemsize, 1)
        found = self._free.setdefault(size, []), size, asked[0], asked[1].str
        if isinstance(shape, tuple):
            self._known[shape, dtype] = found
        return found

    def __enter__(self):
        self._outer.append(getattr(_local, "pool", None))
        _local.pool = self
        return self

    def __exit__(self, *_):
        _local.pool = self._outer.pop()


_local = threading.local()


def empty(shape, dtype, like=None):
    """An uninitialised C-contiguous array, on the device of `like`, from the current `Pool`."""
    if like is not None and is_cupy(like):
        return sys.modules["cupy"].empty(shape, dtype)
    pool = getattr(_local, "pool", None)
    return np.empty(shape, dtype) if pool is None else pool.take(shape, dtype)


def zeros(shape, dtype, like=None):
    """`empty`, filled with zeros."""
    array = empty(shape, dtype, like)
    array[...] = 0
    return array


def contiguous(array, dtype=None):
    """`array` as C-contiguous memory of `dtype`, copied only where it must be."""
    dtype = array.dtype if dtype is None else np.dtype(dtype)
    writeable = getattr(array.flags, "writeable", True)  # on a GPU every array is
    if array.dtype == dtype and array.flags.c_contiguous and writeable:
        return array
    copy = empty(array.shape, dtype, like=array)
    copy[...] = array
    return copy


def placed(array, like):
    """A constant numpy `array`, on the device of `like`. Copied there once, and then kept.

    For tables that follow from shapes: it must be the same object at every call, and stay as it is.
    """
    if not is_cupy(like):
        return array
    key = id(array), like.device.id
    found = _placed.get(key)
    if found is None:
        while len(_placed) >= PLACED:
            _placed.pop(next(iter(_placed)), None)
        # gone with `array`, before another gets its id
        watch = weakref.ref(array, lambda _: _placed.pop(key, None))
        found = _placed[key] = watch, driver.upload(array)
    return kept(found[1])


def kept(value):
    """`value`, which a step that is being captured now will need as long as it is replayed.

    For what is made once, and dropped when there is too much of it: tables, plans.
    """
    held = getattr(_local, "held", None)
    if held is not None:
        held.append(value)
    return value


@contextlib.contextmanager
def holding(held):
    """Within, what is `kept` is appended to the list `held`."""
    _local.held = held
    try:
        yield
    finally:
        _local.held = None


PLACED = 512  # tables that are kept on devices
_placed = {}


@contextlib.contextmanager
def enough_memory(device):
    """Where memory runs out within, free what was held and raise one error that tells of it.

    Raises
    ------
    OutOfMemory
        In place of numpy's and cupy's `MemoryError`.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except MemoryError as error:
        needed, found = driver.needed(error) if device == "cuda" else _needed(error), error
        # what the failed calls hold is freed with their frames, and no traceback keeps it
        traceback.clear_frames(found.__traceback__)
        found.__traceback__ = None
    else:
        return
    gc.collect()  # a tape and its variables refer to each other
    if device == "cuda":
        driver.device_pool().free_all_blocks()
    raise OutOfMemory(device, needed, driver.free() if device == "cuda" else free_memory())


def _needed(error):
    """How many bytes numpy asked for, or None."""
    shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
    return None if shape is None or dtype is None else math.prod(shape) * dtype.itemsize


# ---- numbers that change from step to step -------------------------------------------------------


def in_memory(value, like=None):
    """`value` as kernels read what changes from step to step: an array of one float64.

    In memory, not among a kernel's scalar arguments, for these are frozen in a captured step.
    float64 holds every whole number up to 2**53 exactly. What is such an array already stays it.
    """
    if getattr(value, "shape", ()) == (1,):
        return value
    return moved(np.array([value], np.float64), like)


class Numbers:
    """Some such numbers under their names, side by side: one small copy renews them all.

    Parameters
    ----------
    names : sequence of str
    like : array, optional
        Its device is where they are kept.
    """

    def __init__(self, names, like=None):
        self._host = np.zeros(len(names))
        self._kept = self._host if not is_cupy(like) else driver.upload(self._host)
        self._at = {name: slice(i, i + 1) for i, name in enumerate(names)}

    def write(self, **values):
        """Set some of them, and copy all to where they are kept."""
        for name, value in values.items():
            self._host[self._at[name]] = value
        if self._kept is not self._host:
            self._kept.set(self._host)

    def __getitem__(self, name):
        """The array of one float64 that always holds what was last written under `name`."""
        return self._kept[self._at[name]]
