"""CUDA kernels: from the text in `kernels/` to a launch.

`backend.py` says which arrays go here; this file knows how. A kernel's own signature in its `.cu`
file is what its arguments are held against: number, dtype, rank, contiguity. An array is passed by
value as a small struct, its address and its shape; scalars as exactly the type that is written
there. Types that the text leaves open (`real`, `weight`) are those of the arrays that come, and
become a line in front of the text: one compiled module for each combination.

Nothing of this needs a GPU but `launch`, which needs cupy: the emulation in the tests takes the
same text, the same arguments and the same grid.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .checks import DeviceError

THREADS = 256  # of a block, unless a kernel decides for itself. A multiple of 32
OPEN = {"real": ("float32", "float64"), "weight": ("uint8", "float32", "float64")}
C_TYPES = {"float32": "float", "float64": "double", "uint8": "unsigned char"}
OPTIONS = ("-std=c++17", "--fmad=false")


# ---- text -------------------------------------------------------------------------------------


def folder():
    """Where the kernels are: inside an installed package, beside it in a checkout."""
    here = Path(__file__).parent
    return here / "kernels" if (here / "kernels").is_dir() else here.parent / "kernels"


@functools.cache
def stems():
    """The names of all kernel files."""
    return sorted(path.stem for path in folder().glob("*.cu"))


@functools.cache
def text(stem):
    """`<stem>.cu` with what it includes pasted in, each file once.

    Pasted, because a compiler's cache looks at the text that it is given and at no other file.
    """
    seen = set()

    def expand(name):
        if name in seen:
            return ""
        seen.add(name)
        lines = (folder() / name).read_text(encoding="utf-8").splitlines()
        found = [re.fullmatch(r'#include "([\w.]+)"', line) for line in lines]
        return "\n".join(
            expand(include[1]) if include else line
            for line, include in zip(lines, found, strict=True)
            if line != "#pragma once"
        )

    # Not every system can write all signs of the comments to a file, as compilers do in between.
    return re.sub(r"[^\x00-\x7f]", "~", expand(f"{stem}.cu")) + "\n"


def source(stem, types):
    """The text to compile: a line for each type that is left open, and the file.

    Parameters
    ----------
    stem : str
    types : tuple of (str, str)
        As ``(("real", "float32"),)``. Others that the file may name get the first that is allowed.
    """
    chosen = {name: allowed[0] for name, allowed in OPEN.items()} | dict(types)
    lines = [f"typedef {C_TYPES[dtype]} {name};" for name, dtype in chosen.items()]
    return "\n".join([*lines, text(stem)])


# ---- signatures -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel as its text declares it; `ndim` is None for a scalar."""

    name: str
    type: str
    ndim: int | None
    const: bool


_KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\([\w *,]+\)\s+)?(\w+)\(([^)]*)\)'
)
_PARAMETER = re.compile(r"(?:Array<(const )?(\w+), (\d)>|(\w+)) (\w+)")


@functools.cache
def signatures(stem):
    """name → tuple of `Parameter` of each kernel in a file."""
    found = {}
    for name, declared in _KERNEL.findall(text(stem)):
        parts = re.split(r",(?![^<]*>)", " ".join(declared.split()))
        found[name] = tuple(_parameter(part.strip()) for part in parts)
    return found


def kernel_names(text):
    """The names of all kernels of a text."""
    return [name for name, _ in _KERNEL.findall(text)]


def _parameter(declared):
    match = _PARAMETER.fullmatch(declared)
    if match is None:
        raise SyntaxError(f"a kernel's parameter must be Array<type, n> or a number: {declared!r}")
    const, array_type, ndim, scalar_type, name = match.groups()
    return Parameter(name, array_type or scalar_type, int(ndim) if ndim else None, bool(const))


def arguments(stem, name, args, address):
    """What the arguments of a call become.

    Parameters
    ----------
    stem, name : str
    args : sequence
        Arrays and numbers.
    address : callable
        Of an array's memory.

    Returns
    -------
    types : tuple of (str, str)
        What the open types are, for `source`.
    values : list
        An array of one element for each argument: a struct, or a number of the declared type.

    Raises
    ------
    TypeError
        If an argument does not fit what the text declares; it is named.
    """
    parameters = signatures(stem).get(name)
    if parameters is None:
        raise TypeError(f"{stem}.cu has no kernel {name}")
    if len(args) != len(parameters):
        raise TypeError(f"{name}: expected {len(parameters)} arguments, got {len(args)}")
    types = {}
    for parameter, value in zip(parameters, args, strict=True):
        if parameter.ndim is not None:
            _check_array(name, parameter, value, types)
    values = []
    for parameter, value in zip(parameters, args, strict=True):
        if parameter.ndim is not None:
            values.append(struct(address(value), value.shape))
        elif parameter.type in OPEN and parameter.type not in types:
            raise TypeError(f"{name}: no array says what the type of {parameter.name} is")
        else:
            values.append(np.array([value], types.get(parameter.type, parameter.type)))
            if values[-1][0] != value and np.dtype(values[-1].dtype).kind in "iub":
                raise TypeError(f"{name}: {parameter.name} is {parameter.type}, not {value!r}")
    return tuple(sorted(types.items())), values


def _check_array(name, parameter, array, types):
    def wrong(expected, got):
        return TypeError(f"{name}: {parameter.name} must be {expected}, not {got}")

    if not hasattr(array, "dtype") or not hasattr(array, "flags"):
        raise wrong("an array", type(array).__name__)
    dtype = array.dtype.name
    if parameter.type in OPEN:
        allowed = OPEN[parameter.type]
        known = types.setdefault(parameter.type, dtype)
        if dtype not in allowed or dtype != known:
            raise wrong(known if known in allowed else " or ".join(allowed), dtype)
    elif dtype != parameter.type:
        raise wrong(parameter.type, dtype)
    if array.ndim != parameter.ndim:
        raise wrong(f"{parameter.ndim}-D", f"{array.ndim}-D")
    if not array.flags.c_contiguous:
        raise wrong("C-contiguous", f"of strides {array.strides}")


@functools.cache
def _struct(ndim):
    return np.dtype([("data", np.uint64), ("shape", np.int64, (ndim,))], align=True)


def struct(address, shape):
    """`Array<T, N>` of `common.cuh`: an address and a shape."""
    return np.array([(address, shape)], _struct(len(shape)))


# ---- the grid ---------------------------------------------------------------------------------
#
# A launch is a function (n, args, threads) -> (grid, block, bytes of dynamic shared memory): n work
# items, as the CPU's loop has them, on blocks of `threads` threads.


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


# ---- cupy -------------------------------------------------------------------------------------


def missing():
    """What keeps CUDA from being used on this machine, in words, or None."""
    try:
        import cupy
    except ImportError as error:
        return f"cupy: pip install 'ssi_cupy[cuda13]', or [cuda12] for an older driver ({error})"
    try:
        if cupy.cuda.runtime.getDeviceCount():
            return None
    except Exception as error:  # of the driver, or of libraries that cupy does not find
        return f"a working driver and an NVIDIA GPU ({error})"
    return "an NVIDIA GPU that this process may see (CUDA_VISIBLE_DEVICES?)"


def failing():
    """What the current GPU lacks to compile and run one kernel, in words, or None."""
    import cupy

    try:
        return _failing(cupy.cuda.Device().id)
    except Exception as error:
        return f"a GPU that works ({type(error).__name__}: {error})"


@functools.cache
def _failing(device):
    import cupy

    x = np.linspace(-1, 1, 64)
    args = cupy.asarray(x), cupy.empty(64, x.dtype)
    types, values = arguments("pointwise", "relu_forward_kernel", args, lambda a: a.data.ptr)
    run = _function("pointwise", "relu_forward_kernel", types, device)
    run((1,), (64,), tuple(values))
    right = np.array_equal(args[1].get(), np.maximum(x, 0))
    return None if right else "a GPU that computes right"


def has_matrix_units():
    """Whether the current GPU multiplies matrices of TF32 numbers, as those since 2020 do."""
    import cupy

    return _capability(cupy.cuda.Device().id) >= (8, 0)


@functools.cache
def _capability(device):
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(device)
    return properties["major"], properties["minor"]


def described():
    """The current device, its memory, and the versions around it, in lines. For `doctor`."""
    import cupy

    device = cupy.cuda.Device()
    properties = cupy.cuda.runtime.getDeviceProperties(device.id)
    free, total = (size / 2**30 for size in device.mem_info)
    capability = f"{properties['major']}.{properties['minor']}"
    versions = [cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()]
    driver, runtime = (f"{v // 1000}.{v % 1000 // 10}" for v in versions)
    compiler = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
    return [
        f"{properties['name'].decode()}, compute capability {capability}",
        f"memory: {free:.1f} GiB free of {total:.1f}",
        f"cupy {cupy.__version__}, CUDA {runtime}, compiler NVRTC {compiler}, "
        f"driver for CUDA up to {driver}",
    ]


def upload(array):
    """A copy of a numpy array on the current device."""
    import cupy

    return cupy.asarray(array)


def free():
    """How many bytes of the current device's memory are free."""
    import cupy

    return int(cupy.cuda.Device().mem_info[0])


def needed(error):
    """How many bytes cupy could not get, with those that it had, of its error; or None."""
    numbers = re.findall(r"([\d,]+) bytes", str(error))[:2]  # asked for; allocated so far
    return sum(int(number.replace(",", "")) for number in numbers) or None


def device_pool():
    """The memory pool that cupy's arrays come from by default."""
    import cupy

    return cupy.get_default_memory_pool()


def fourier_plans(shape, dtype, axes):
    """cuFFT's plans of the real transform of arrays of a shape over `axes`, and of its inverse."""
    import cupy

    half = (*shape[:-1], shape[-1] // 2 + 1)
    image = cupy.empty(shape, dtype)
    spectrum = cupy.empty(half, np.result_type(dtype, np.complex64))
    there = fft().get_fft_plan(image, axes=axes, value_type="R2C")
    size = tuple(shape[axis] for axis in axes)
    return there, fft().get_fft_plan(spectrum, size, axes, value_type="C2R")


def fft():
    """`cupyx.scipy.fft`."""
    from cupyx.scipy import fft

    return fft


def launch(kernel, n, args):
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
