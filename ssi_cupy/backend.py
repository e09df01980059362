"""Arrays and devices: whose array this is, who runs the loop, where the memory comes from.

An op never asks which device it is on. It allocates with `empty`, calls a `kernel`, and the type
of the arrays decides: numpy arrays go to the Numba loop that stands below the op, split over
threads; cupy arrays go to the CUDA kernel of the same name in `kernels/<file of the op>.cu`.

Only `jit.py`, `crew.py`, `simd.py` and `points.py` import numba, only `cuda.py` and `capture.py`
cupy, and they do so on first use: `import ssi_cupy` costs neither.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import os
import sys
import threading
import traceback
import weakref
from pathlib import Path

import numpy as np

from . import cuda
from .checks import DeviceError, OutOfMemory, choice
from .crew import launcher
from .jit import inline as inline  # beside `kernel`, for who writes loops
from .threads import aligned, share_out
from .threads import num_threads as num_threads  # one door for who embeds this
from .threads import set_num_threads as set_num_threads

log = logging.getLogger("ssi_cupy")


# ---- devices --------------------------------------------------------------------------------


def is_cupy(array):
    """Whether `array` is a cupy array. Does not import cupy: who has one has imported it."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def namespace(*arrays):
    """numpy or cupy, whichever all `arrays` belong to. `DeviceError` where they are mixed."""
    cupy = sys.modules.get("cupy")
    if cupy is None or not any(isinstance(a, cupy.ndarray) for a in arrays):
        return np
    if any(isinstance(a, np.ndarray) for a in arrays):
        raise DeviceError("arrays", "all on one device", "numpy and cupy arrays mixed")
    return cupy


def resolve_device(device, array=None):
    """The device that "auto" means: a GPU if one works, and says which to the log, once.

    Raises
    ------
    DeviceError
        If "cuda" is asked for and cannot be used, or "cpu" for an array that is on a GPU.
    """
    choice(device, "device", ("auto", "cpu", "cuda"))
    if device == "cpu":
        if is_cupy(array):
            raise DeviceError("device", "'auto' or 'cuda' for a cupy array", "'cpu'")
        return "cpu"
    missing = cuda.missing() or cuda.failing()
    if missing and (device == "cuda" or is_cupy(array)):
        got = f"'cuda', which needs {missing}; python -m ssi_cupy doctor --device cuda tells more"
        raise DeviceError("device", "'cpu' on this machine", got)
    if device == "auto":
        _announce(missing)
    return "cpu" if missing else "cuda"


@functools.cache
def _announce(missing):
    taken = f"'cpu', as 'cuda' needs {missing}" if missing else f"'cuda': {cuda.described()[0]}"
    log.info("device 'auto' is %s", taken)


def on_device(array, device):
    """`array` on "cpu" or "cuda"; itself if it is there already."""
    if device == "cpu":
        return host(array)
    return array if is_cupy(array) else cuda.upload(array)


def moved(array, like):
    """`array` on the device of `like`; itself if it is there already."""
    return on_device(array, "cuda" if is_cupy(like) else "cpu")


def host(array):
    """`array` as a numpy array; from a GPU, a copy that waits for what computes it."""
    return array.get() if is_cupy(array) else array


# ---- memory ---------------------------------------------------------------------------------


def free_memory(like=None):
    """Bytes that can be had on the device of `like` without driving anything else out."""
    if is_cupy(like):
        cupy = sys.modules["cupy"]
        free, _ = cupy.cuda.runtime.memGetInfo()
        return free + cupy.get_default_memory_pool().free_bytes()
    try:
        found = [_available(Path("/proc/meminfo").read_text())]
    except (OSError, KeyError, ValueError):  # not Linux
        known = {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= getattr(os, "sysconf_names", {}).keys()
        found = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 4 << 30]
    try:  # a container's own limit
        limit, used = (int((CGROUP / f"memory.{n}").read_text()) for n in ("max", "current"))
        found.append(max(limit - used, 0))
    except (OSError, ValueError):
        pass
    return min(found)


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
        found = _placed[key] = watch, cuda.upload(array)
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
        needed, found = cuda.needed(error) if device == "cuda" else _needed(error), error
        # what the failed calls hold is freed with their frames, and no traceback keeps it
        traceback.clear_frames(found.__traceback__)
        found.__traceback__ = None
    else:
        return
    gc.collect()  # a tape and its variables refer to each other
    if device == "cuda":
        cuda.device_pool().free_all_blocks()
    raise OutOfMemory(device, needed, cuda.free() if device == "cuda" else free_memory())


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
        self._kept = self._host if not is_cupy(like) else cuda.upload(self._host)
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


# ---- kernels --------------------------------------------------------------------------------


class Loop:
    """A CPU loop, shared out over threads. Called as ``loop(n, *args)``: n work items.

    The function has the signature ``(start, stop, *args)`` and does items start … stop - 1; with
    ``scratch`` it is ``(start, stop, scratch, *args)``, with this very name: a 1-D array of the
    thread's own. Items must not write to the same place.
    """

    def __init__(self, loop, grain=1, fastmath=False):
        self.loop, self.grain, self.fastmath = loop, grain, fastmath
        functools.update_wrapper(self, loop)

    @functools.cached_property
    def compiled(self):
        return launcher(self.loop, self.fastmath)

    def __call__(self, n, *args, scratch=0, grain=0):
        dtype = next(a.dtype for a in args if isinstance(a, np.ndarray)) if scratch else None
        share_out(self.compiled, n, max(grain, self.grain), (scratch, dtype), args)


class Kernel(Loop):
    """A CPU loop and a CUDA kernel of one name. Called as ``kernel(n, *args)``: n work items.

    The CUDA kernel has the same name and the signature ``(*args)``; it is in the file of `kernels/`
    that is called like the loop's module.
    """

    def __init__(self, loop, grain, fastmath, launch, prepare, over):
        super().__init__(loop, grain, fastmath)
        self.prepare, self.over = prepare, over
        default = cuda.block_per_item if grain == 1 else cuda.threads_per_item(1)
        self.launch = launch or default
        self.stem = loop.__module__.rpartition(".")[2]

    def __call__(self, n, *args, scratch=0):
        if "cupy" in sys.modules and namespace(*args) is not np:  # mixed devices raise
            if n:
                cuda.launch(self, n, args)
            return
        if self.prepare is not None:
            args = self.prepare(args)
        grain = 0 if self.over is None else WORTH * n // (args[self.over].size or 1)
        super().__call__(n, *args, scratch=scratch, grain=grain)


WORTH = 8192  # elements of an array that are worth a thread's while


def kernel(loop=None, *, grain=1, fastmath=False, launch=None, prepare=None, over=None):
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
        The grid on CUDA, see `cuda.py`. By default an item has a block of threads to itself, or
        one thread where `grain` is above 1.
    prepare : callable, optional
        On the CPU, ``prepare(args)`` returns what the loop is given in place of `args`.
    over : int, optional
        Which argument the items share among them, an array: few small items are not worth it.
    """
    if loop is None:
        return lambda loop: Kernel(loop, grain, fastmath, launch, prepare, over)
    return Kernel(loop, grain, fastmath, launch, prepare, over)
