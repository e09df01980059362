"""What a GPU launch looks like: a grid for the work items, checked arguments, one call.

`backend.py` says which arrays go here. A grid is a function (n, args, threads) -> (grid, block,
bytes of dynamic shared memory): n work items, as the CPU's loop has them, on blocks of `threads`
threads. Only `launch_kernel` needs cupy: the emulation in the tests takes the same text, the same
arguments and the same grid.
"""

from __future__ import annotations

import functools

from ..checks import DeviceError
from .kernel_text import OPTIONS, arguments, signatures, source, stems

THREADS = 256  # of a block, unless a kernel decides for itself. A multiple of 32


def block_per_item(n, args, threads):
    """The threads of a block work on one item together."""
    return (n,), (threads,), 0


def blocks_per_item(n, args, threads):
    """gridDim.y blocks share an item, as many as leave each thread 4 numbers or so."""
    size = max(a.size for a in args if hasattr(a, "size"))
    return (n, min(max(size // (4 * n * threads), 1), 1024)), (threads,), 0


def threads_per_item(number):
    """`number` neighbouring threads for each item."""

    def launch(n, args, threads):
        return (-(-n * number // threads),), (threads,), 0

    return launch


def launch_kernel(kernel, n, args):
    """Run a `backend.Kernel` on cupy arrays, on the current device and stream."""
    import cupy

    if kernel.stem not in stems() or kernel.__name__ not in signatures(kernel.stem):
        got = f"cupy arrays, but {kernel.__name__} has no CUDA twin"
        raise DeviceError("device", "'cpu'", got)
    device = cupy.cuda.Device().id
    for array in args:
        if isinstance(array, cupy.ndarray) and array.device.id != device:
            got = f"an array on device {array.device.id} while device {device} is current"
            raise DeviceError("arrays", "all on the current device", got)
    types, values = arguments(kernel.stem, kernel.__name__, args, lambda a: a.data.ptr)
    grid, block, shared = kernel.launch(n, args, THREADS)
    function = _function(kernel.stem, kernel.__name__, types, device)
    if shared > function.max_dynamic_shared_size_bytes:
        function.max_dynamic_shared_size_bytes = shared
    function(grid, block, tuple(values), shared_mem=shared)


@functools.cache
def _function(stem, name, types, device):
    return _module(stem, types, device).get_function(name)


@functools.cache
def _module(stem, types, device):
    """Compiled on first use. cupy keeps the result on disk, under the text it was given."""
    import cupy

    return cupy.RawModule(code=source(stem, types), options=OPTIONS)
