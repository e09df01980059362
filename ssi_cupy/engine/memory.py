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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from .checks import OutOfMemory
from .cpu.threads import aligned
from .devices import is_cupy, moved
from .gpu import driver
from .types import Array, DTypeLike, Shape, T


def free_memory(like: object = None) -> int:
    """Bytes that can be had on the device of `like` without driving anything else out."""
    if is_cupy(like):
        return driver.available()
    try:
        found = [_available(Path("/proc/meminfo").read_text())]
    except (OSError, KeyError, ValueError):  # not Linux
        found = [_elsewhere()]
    found += filter(lambda free: free is not None, (*_of_groups(), _of_process()))
    return max(min(found), 0)


def held_memory(like: object = None) -> int:
    """Bytes that this process has in use now; on a GPU, those of its arrays, of the device of
    `like`."""
    if is_cupy(like):
        return driver.device_pool().total_bytes()
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # not Linux: the most that it ever had
        try:
            import resource
        except ImportError:
            return 0
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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


CGROUP, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def _of_groups():
    """What the limits of the process's control groups (version 2) leave, from the innermost out."""
    try:
        lines = OWN_GROUP.read_text().splitlines()
        path = next(line[3:] for line in lines if line.startswith("0::"))
    except (OSError, StopIteration):
        path = "/"
    folder = CGROUP / path.strip("/")
    for group in (folder, *folder.parents) if ".." not in folder.parts else (CGROUP,):
        try:
            limit, used = (int((group / f"memory.{n}").read_text()) for n in ("max", "current"))
            yield limit - used
        except (OSError, ValueError):  # "max" is no limit
            pass
        if group == CGROUP:
            return


def _of_process():
    """What RLIMIT_AS leaves of the address space, or None where it limits nothing."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return limit - pages * resource.getpagesize()
    except (ImportError, OSError, ValueError, AttributeError):
        return None


class _Block:
    """What a view of a piece of a pool's memory belongs to; gone with the last of its views."""

    __slots__ = ("__array_interface__", "__weakref__", "_piece")

    def __init__(self, piece, shape, dtype):
        self._piece = piece  # the pool may be gone before
        self.__array_interface__ = {
            "data": (piece.address, False), "shape": shape, "typestr": dtype, "version": 3
        }  # fmt: skip


class _Piece:
    """A piece of memory, and its number in its pool."""

    __slots__ = ("memory", "address", "number")

    def __init__(self, size, number):
        self.memory, self.number = aligned(size), number
        self.address = self.memory.ctypes.data  # asked for once, as asking is slow


class _Watch(weakref.ref):
    """Calls `list.append` with itself when a block is gone: the pool has its piece back.

    A finaliser in Python is a place where Ctrl-C gets lost, as Python reports what is raised there
    and goes on. Here no line of Python runs.
    """

    __slots__ = ("piece",)


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

    def __init__(self) -> None:
        self._free, self._known = {}, {}
        self._outer, self._watches = [], []
        self.misses = 0
        self.nbytes = 0

    def take(self, shape: int | Shape, dtype: DTypeLike) -> Array:
        try:
            free, size, shape, dtype = self._known[shape, dtype]
        except (KeyError, TypeError):  # a new one; a list
            free, size, shape, dtype = self._ask(shape, dtype)
        try:
            piece = free.pop().piece
        except IndexError:
            piece = _Piece(size, len(self._watches))
            self._watches.append(None)
            self.misses += 1
            self.nbytes += size
        block = _Block(piece, shape, dtype)
        watch = self._watches[piece.number] = _Watch(block, free.append)  # lives to tell
        watch.piece = piece
        return np.asarray(block)

    def _ask(self, shape, dtype):
        """(free memory, size, shape, typestr) of such an array, looked up in the next call."""
        asked = tuple(shape) if hasattr(shape, "__len__") else (shape,), np.dtype(dtype)
        size = max(math.prod(asked[0]) * asked[1].itemsize, 1)
        found = self._free.setdefault(size, []), size, asked[0], asked[1].str
        if isinstance(shape, tuple):
            self._known[shape, dtype] = found
        return found

    def __enter__(self) -> Self:
        self._outer.append(getattr(_local, "pool", None))
        _local.pool = self
        return self

    def __exit__(self, *_: object) -> None:
        _local.pool = self._outer.pop()


_local = threading.local()


def empty(shape: int | Shape, dtype: DTypeLike, like: Array | None = None) -> Array:
    """An uninitialised C-contiguous array, on the device of `like`, from the current `Pool`."""
    if like is not None and is_cupy(like):
        return sys.modules["cupy"].empty(shape, dtype)
    pool = getattr(_local, "pool", None)
    return np.empty(shape, dtype) if pool is None else pool.take(shape, dtype)


def zeros(shape: int | Shape, dtype: DTypeLike, like: Array | None = None) -> Array:
    """`empty`, filled with zeros."""
    array = empty(shape, dtype, like)
    array[...] = 0
    return array


def contiguous(array: Array, dtype: DTypeLike | None = None) -> Array:
    """`array` as C-contiguous memory of `dtype`, copied only where it must be."""
    dtype = array.dtype if dtype is None else np.dtype(dtype)
    writeable = getattr(array.flags, "writeable", True)  # on a GPU every array is
    if array.dtype == dtype and array.flags.c_contiguous and writeable:
        return array
    copy = empty(array.shape, dtype, like=array)
    copy[...] = array
    return copy


def placed(array: Array, like: Any) -> Array:
    """A constant numpy `array`, on the device of `like`. Copied there once, and then kept.

    For tables that follow from shapes: it must be the same object at every call, and stay as it is.
    """
    if not is_cupy(like):
        return array
    while _gone:  # with their arrays, before another gets the id of one
        _placed.pop(_gone.pop().key, None)
    key = id(array), like.device.id
    found = _placed.get(key)
    if found is None:
        while len(_placed) >= PLACED:
            _placed.pop(next(iter(_placed)), None)
        found = _placed[key] = _Gone(array, _gone.append), driver.upload(array)
        found[0].key = key
    return kept(found[1])


def kept(value: T) -> T:
    """`value`, which a step that is being captured now will need as long as it is replayed.

    For what is made once, and dropped when there is too much of it: tables, plans.
    """
    held = getattr(_local, "held", None)
    if held is not None:
        held.append(value)
    return value


@contextlib.contextmanager
def holding(held: list[Any]) -> Iterator[None]:
    """Within, what is `kept` is appended to the list `held`."""
    _local.held = held
    try:
        yield
    finally:
        _local.held = None


class _Gone(weakref.ref):
    """As `_Watch`, of a table."""

    __slots__ = ("key",)


PLACED = 512  # tables that are kept on devices
_placed, _gone = {}, []


@contextlib.contextmanager
def enough_memory(device: str) -> Iterator[None]:
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
    raise OutOfMemory(device, needed, driver.available() if device == "cuda" else free_memory())


def _needed(error):
    """How many bytes numpy asked for, or None."""
    shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
    return None if shape is None or dtype is None else math.prod(shape) * dtype.itemsize


# ---- numbers that change from step to step -------------------------------------------------------


def in_memory(value: float | Array, like: object = None) -> Array:
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

    def __init__(self, names: Sequence[str], like: object = None) -> None:
        self._host = np.zeros(len(names))
        self._kept = self._host if not is_cupy(like) else driver.upload(self._host)
        self._at = {name: slice(i, i + 1) for i, name in enumerate(names)}

    def write(self, **values: float) -> None:
        """Set some of them, and copy all to where they are kept."""
        for name, value in values.items():
            self._host[self._at[name]] = value
        if self._kept is not self._host:
            self._kept.set(self._host)

    def __getitem__(self, name: str) -> Array:
        """The array of one float64 that always holds what was last written under `name`."""
        return self._kept[self._at[name]]
