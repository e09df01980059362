"""What cupy and the driver say: whether a GPU works, what it is, its memory and its transforms."""

from __future__ import annotations

import functools
import re

import numpy as np

from .kernel_text import arguments
from .launch import _function


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


def has_tensor_cores():
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


def current():
    """The number of the current device."""
    import cupy

    return cupy.cuda.Device().id


def upload(array):
    """A copy of a numpy array on the current device."""
    import cupy

    return cupy.asarray(array)


def one_of(number):
    """A context in which the GPU of that number, counted round and round, is the current one."""
    import cupy

    return cupy.cuda.Device(number % cupy.cuda.runtime.getDeviceCount())


def from_dlpack(array):
    """What another library holds on a GPU, in the same memory."""
    import cupy

    return cupy.from_dlpack(array)


def free():
    """How many bytes of the current device's memory are free."""
    import cupy

    return int(cupy.cuda.Device().mem_info[0])


def available():
    """How many bytes the current device's memory pool can still give: what it holds unused and
    what the device has free, but no more than the limit that the user has set leaves."""
    pool = device_pool()
    found, limit = free() + pool.free_bytes(), pool.get_limit()
    return min(found, max(limit - pool.used_bytes(), 0)) if limit else found


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
