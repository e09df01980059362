"""What a GPU launch looks like: a grid for the work items, checked arguments, one call.

`backend.py` says which arrays go here. A grid is a function (n, args, threads) -> (grid, block,
bytes of dynamic shared memory): n work items, as the CPU's loop has them, on blocks of `threads`
threads. Only `launch_kernel` needs cupy: the emulation in the tests takes the same text, the same
arguments and the same grid.
"""

from __future__ import annotations

import functools
import sys

import numpy as np

from ..checks import DeviceError
from .kernel_text import OPTIONS, arguments, signatures, source, stems

THREADS = 256  # of a block, unless a kernel decides for itself. A multiple of 32
ENOUGH = 1024  # blocks: 8 for each of a large GPU's processors


def block_per_item(n, args, threads):
    """The threads of a block work on one item together."""
    return (n,), (threads,), 0


def blocks_per_item(n, args, threads):
    """gridDim.y blocks share an item, as many as leave each thread 16 numbers or so; or 4, where a
    GPU would not have enough blocks otherwise."""
    size = max(a.size for a in args if hasattr(a, "size")) // threads
    blocks = max(size // 16, min(size // 4, ENOUGH))
    return (n, min(max(blocks // n, 1), 1024)), (threads,), 0


def threads_per_item(number):
    """`number` neighbouring threads for each item."""

    def launch(n, args, threads):
        return (-(-n * number // threads),), (threads,), 0

    return launch


GRID = (2**31 - 1, 65535, 65535)  # the largest of every GPU
LAUNCHES = 4096  # of which is remembered how they are done
SCALARS = (int, float, np.generic)
_launches = {}


def launch_kernel(kernel, n, args):
    """Run a `backend.Kernel` on cupy arrays, on the current device and stream.

    What follows from shapes and dtypes, and is as good as all of the work, is done once for each.
    """
    import cupy

    device = cupy.cuda.Device().id
    key = kernel.stem, kernel.__name__, n, THREADS, device, *map(_signature, args)
    known = _launches.get(key)
    if known is None:
        if len(_launches) >= LAUNCHES:
            _launches.clear()
        known = _launches[key] = _prepared(kernel, n, args, device)
    function, grid, block, shared, templates = known
    values = []
    for template, arg in zip(templates, args, strict=True):
        if isinstance(template, tuple):  # of an array: numpy takes a struct's bytes, but not a
            dtype, shape = template  # struct, in less time than a launch
            memory = bytearray(arg.data.ptr.to_bytes(8, sys.byteorder) + shape)
            values.append(np.frombuffer(memory, dtype))
        elif isinstance(template, np.dtype):
            values.append(np.array([arg], template))
        else:
            values.append(template)
    function(grid, block, tuple(values), shared_mem=shared)


def _signature(arg):
    """What a launch depends on. Of a float its type alone: there may be another in every step, and
    0.0 is -0.0 to a dictionary."""
    if not isinstance(arg, SCALARS):
        return arg.dtype, arg.shape, arg.flags.c_contiguous, arg.device.id
    return type(arg) if isinstance(arg, (float, np.floating)) else (type(arg), arg)


def _prepared(kernel, n, args, device):
    """(function, grid, block, bytes of shared memory, one for each argument: its value; or the
    dtype that it will have; or, of an array, dtype and bytes of its struct without the address)."""
    import cupy

    if kernel.stem not in stems() or kernel.__name__ not in signatures(kernel.stem):
        got = f"cupy arrays, but {kernel.__name__} has no CUDA twin"
        raise DeviceError("device", "'cpu'", got)
    for array in args:
        if isinstance(array, cupy.ndarray) and array.device.id != device:
            got = f"an array on device {array.device.id} while device {device} is current"
            raise DeviceError("arrays", "all on the current device", got)
    types, values = arguments(kernel.stem, kernel.__name__, args, lambda a: a.data.ptr)
    grid, block, shared = kernel.launch(n, args, THREADS)
    if any(blocks > most for blocks, most in zip(grid, GRID, strict=False)):
        got = f"{grid} for {kernel.__name__}"
        raise DeviceError("image", f"one that takes at most {GRID} blocks of threads", got)
    function = _function(kernel.stem, kernel.__name__, types, device)
    if shared > function.max_dynamic_shared_size_bytes:
        function.max_dynamic_shared_size_bytes = shared
    return function, grid, block, shared, list(map(_template, values, args))


def _template(value, arg):
    if value.dtype.names:
        return value.dtype, value.tobytes()[8:]
    return value.dtype if isinstance(arg, (float, np.floating)) else value


@functools.cache
def _function(stem, name, types, device):
    return _module(stem, types, device).get_function(name)


@functools.cache
def _module(stem, types, device):
    """Compiled on first use. cupy keeps the result on disk, under the text it was given."""
    import cupy

    return cupy.RawModule(code=source(stem, types), options=OPTIONS)
