"""A stand-in for cupy that runs on the CPU: arrays, kernels, Fourier transforms, streams, graphs.

Its device memory is numpy memory that tests cannot reach but through `get`; its kernels are the
emulated ones. What a stream captures does not run, and a replay runs exactly what was recorded:
the same operations, with the same scalars, on the same memory. Memory that is given back is filled
with NaN, so that a graph that still reads it is found out. All that goes over between host and
device, and all that waits, is counted.

It can do what the package needs, and raises where cupy would: numpy arrays among its own, numbers
read in a capture, implicit copies to the host.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import types

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from ssi_cupy.engine import backend, devices, memory
from ssi_cupy.engine.gpu import driver, kernel_text, launch
from ssi_cupy.ops import conv, tensor_cores

from . import emulator
from .fake_device import Device, MemoryPool, Stream, the_device
from .fake_device import devices as fake_devices

# ---- arrays -----------------------------------------------------------------------------------


class ndarray(NDArrayOperatorsMixin):
    """An array of the device: `_a` is its memory as numpy sees it, `_block` who owns it."""

    def __init__(self, a, block):
        self._a, self._block = a, block

    for _name in ("dtype", "shape", "ndim", "size", "nbytes", "itemsize", "flags", "strides"):
        locals()[_name] = property(lambda self, name=_name: getattr(self._a, name))
    del _name

    @property
    def T(self):
        return self._view(self._a.T)

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self._a.ctypes.data)

    @property
    def device(self):
        return types.SimpleNamespace(id=getattr(self._block, "device", 0))

    def _view(self, a):
        return ndarray(a, self._block)

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, at):
        if not all(i is None or isinstance(i, (int, np.integer, slice, type(...)))
                   for i in (at if isinstance(at, tuple) else (at,))):  # fmt: skip
            raise NotImplementedError(f"an index that is no slice: {at!r}")
        at = at if isinstance(at, tuple) else (at,)
        return self._view(self._a[at if ... in at else (*at, ...)])  # never a numpy scalar

    def __setitem__(self, at, value):
        target, value = self[at]._a, _unwrapped(value)
        the_device().compiles("copy", str(getattr(value, "dtype", type(value))), str(self.dtype))
        _device_of(self).do(lambda: np.copyto(target, value, casting="unsafe"))

    def reshape(self, *shape):
        reshaped = self._a.reshape(*shape)
        if not np.shares_memory(reshaped, self._a) and self._a.size:
            return self.copy().reshape(*shape)
        return self._view(reshaped)

    def view(self, dtype):
        return self._view(self._a.view(dtype))

    def swapaxes(self, *axes):
        return self._view(self._a.swapaxes(*axes))

    def transpose(self, *axes):
        return self._view(self._a.transpose(*axes))

    def ravel(self):
        return self.reshape(-1)

    def astype(self, dtype):
        return _computed(lambda a: a.astype(dtype), self, name="astype")

    def copy(self):
        return _computed(lambda a: a.copy(), self, name="copy")

    def fill(self, value):
        self[...] = value

    def get(self):
        _device_of(self).to_host("downloads")
        return self._a.copy()

    def set(self, array):
        assert type(array) is np.ndarray and array.dtype == self.dtype
        assert array.shape == self.shape and self.flags.c_contiguous
        _device_of(self).to_host("uploads")
        self._a[...] = array

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __bool__(self):
        return bool(self.get())

    def __array__(self, *args, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if method != "__call__":
            raise NotImplementedError(f"{ufunc.__name__}.{method}")
        named = {"out": out and out[0], "name": ufunc.__name__}
        return _computed(lambda *a: ufunc(*a, **options), *inputs, **named)

    def __array_function__(self, function, kinds, args, options):
        if function in (np.flip, np.moveaxis, np.swapaxes):
            return self._view(function(*map(_unwrapped, args), **options))
        if function in (np.concatenate, np.stack):
            assert len(args[0]) <= 8, "more than 8 arrays: cupy uploads a table for them"
            some = len(args[0])
            return _computed(
                lambda *a: function(a, *args[1:], **options), *args[0], name=f"concatenate {some}"
            )
        if function in (np.where, np.partition, np.clip, np.ldexp, np.around):
            return _computed(lambda *a: function(*a, **options), *args, name=function.__name__)
        raise NotImplementedError(function.__name__)

    for _name in ("sum", "mean", "var", "std", "min", "max", "any", "all", "conj"):
        locals()[_name] = lambda self, *args, _name=_name, out=None, **options: _computed(
            lambda a: getattr(a, _name)(*args, **options), self, out=out, name=_name
        )
    del _name


def _unwrapped(value):
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return value._a if isinstance(value, ndarray) else value


def _computed(function, *inputs, out=None, name="transform"):
    """The result of `function`, in memory of the device; computed at once, or when replayed.

    Each `name` is a kernel for each combination of dtypes.
    """
    arrays = [_unwrapped(value) for value in inputs]
    with np.errstate(all="ignore"):
        shape_of = np.asarray(function(*arrays))  # for its shape and dtype
    if out is None:
        out = _empty(shape_of.shape, shape_of.dtype)
    target = out._a
    dtypes = [str(getattr(a, "dtype", type(a).__name__)) for a in (*arrays, target)]
    if name != "transform":  # cuFFT's own
        the_device().compiles(name, *dtypes)
    the_device().do(lambda: np.copyto(target, function(*arrays), casting="same_kind"))
    return out


def _empty(shape, dtype):
    shape, dtype = (shape,) if np.ndim(shape) == 0 else tuple(shape), np.dtype(dtype)
    block = the_device().allocators[-1](int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    return ndarray(block.memory.view(dtype).reshape(shape), block)


def _zeros(shape, dtype):
    array = _empty(shape, dtype)
    array[...] = 0
    return array


class Foreign:
    """Memory of another library: whose it is, and on which device."""

    def __init__(self, owner, device):
        self.owner, self.device, self.pool = owner, device, the_device().pool


def _shared(interface, owner):
    """An array in the memory that `__cuda_array_interface__` tells of; read-only as numpy has it,
    which cupy is not, so that a write is seen."""
    if interface.get("mask") is not None:
        raise ValueError("CuPy currently does not support masked arrays.")
    if np.dtype(interface["typestr"]).kind not in "biufc":
        raise TypeError(f"dtype {interface['typestr']!r} is not supported")
    held = types.SimpleNamespace(__array_interface__={**interface, "version": 3})
    at = interface["data"][0]
    device = next((n for first, last, n in FOREIGN if first <= at < last), 0)
    return ndarray(np.asarray(held), Foreign(owner, device))


FOREIGN = []  # (begin, end, device) of memory that is not on device 0


def _from_dlpack(array):
    return _shared(array.shown.__cuda_array_interface__, array)


def _asarray(array):
    if hasattr(array, "__cuda_array_interface__"):
        return _shared(array.__cuda_array_interface__, array)
    there = _empty(array.shape, array.dtype)
    there.set(np.array(array, order="C"))
    return there


# ---- kernels and transforms ---------------------------------------------------------------------


class RawModule:
    def __init__(self, code, options):
        the_device().to_host("modules")
        self.library = emulator._library(code)

    def get_function(self, name):
        launch = getattr(self.library, f"emulate_{name}")
        launch.restype = ctypes.c_char_p

        def function(grid, block, values, shared_mem=0):
            emulator.check_launch(name, grid, block, shared_mem)
            assert shared_mem <= function.max_dynamic_shared_size_bytes, "more than was asked for"
            pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
            sizes = emulator._three(grid), emulator._three(block)
            how = emulator._Launch(*sizes, shared_mem, False, pointers)

            def operation(kept=values):
                complaint = launch(ctypes.byref(how)).decode()
                assert not complaint, f"{name}: {complaint}"

            the_device().do(operation)

        function.max_dynamic_shared_size_bytes = 48 << 10
        return function


class Plan:
    """A cuFFT plan: for one shape, made before it is used."""

    def __init__(self, a, shape=None, axes=None, value_type="C2C"):
        self.device = device = the_device()
        device.to_host("plans")
        device.live_plans += 1
        self.shape, self.kind, self.axes, self.s = a.shape, value_type, axes, shape
        self.work = _empty(a.nbytes, np.uint8)

    def __del__(self):
        self.device.live_plans -= 1


def _planned(plan, *wanted):
    """Whether a plan is the right one; without, cupy makes one, which a capture does not allow."""
    if plan is None:
        the_device().refuse_in_capture("plans")
    elif (plan.shape, plan.kind, plan.axes) != wanted:
        raise ValueError("a plan of another transform")


def _rfftn(x, s=None, axes=None, plan=None):
    from scipy import fft

    _planned(plan, x.shape, "R2C", axes)
    return _computed(lambda a: fft.rfftn(a, axes=axes), x)


def _irfftn(x, s=None, axes=None, overwrite_x=False, plan=None):
    from scipy import fft

    _planned(plan, x.shape, "C2R", axes)
    return _computed(lambda a: fft.irfftn(a, s=s, axes=axes), x)


# ---- the modules --------------------------------------------------------------------------------


def _device_of(array):
    return array._block.pool.device


def _loops_for_kernels(patch, device):
    """Let the Numba loop do the work of its twin, with the same frozen arguments."""
    call = backend.Kernel.__call__

    def launched(kernel, n, *args, scratch=0):
        if devices.namespace(*args) is np:  # mixed devices raise
            return call(kernel, n, *args, scratch=scratch)
        kernel_text.arguments(
            kernel.stem, kernel.__name__, args, lambda a: a.data.ptr
        )  # are they right?
        frozen = [_unwrapped(value) for value in args]
        if n:
            emulator.check_launch(kernel.__name__, *kernel.launch(n, args, launch.THREADS))
        return n and device.do(lambda: call(kernel, n, *frozen, scratch=scratch))

    patch.setattr(backend.Kernel, "__call__", launched)
    # scratch memory and sums are as large as the loop's own bands take, not those of the kernel
    for module in (conv, tensor_cores):
        patch.setattr(module, "is_cupy", lambda array: False)


@contextlib.contextmanager
def installed(patch, limit=1 << 34, emulated=False):
    """Within, `import cupy` gives this. Yields the `Device`; `patch` is a pytest MonkeyPatch.

    Kernels are done by the loops that are their twins, which takes a hundredth of the time of
    emulating them; on request they are launched and emulated.
    """
    device = Device(limit)
    fake_devices.append(device)
    cupy, cupyx, scipy = (types.ModuleType(name) for name in ("cupy", "cupyx", "cupyx.scipy"))
    cupy.ndarray, cupy.RawModule, cupy.__version__ = ndarray, RawModule, "fake"
    cupy.empty, cupy.zeros, cupy.asarray = _empty, _zeros, _asarray
    cupy.from_dlpack = _from_dlpack
    cupy.pad = lambda a, *how: _computed(lambda v: np.pad(v, *how), a, name="pad")
    cupy.get_default_memory_pool = lambda: device.pool
    for name in "bitwise_or bitwise_xor bitwise_and sqrt where partition concatenate stack".split():
        setattr(cupy, name, getattr(np, name))
    cupy.moveaxis, cupy.flip = np.moveaxis, np.flip

    @contextlib.contextmanager
    def using_allocator(allocator):
        device.allocators.append(allocator)
        try:
            yield
        finally:
            device.allocators.pop()

    info = lambda: (device.limit - device.allocated, device.limit)  # noqa: E731
    cupy.cuda = types.SimpleNamespace(
        Device=lambda: types.SimpleNamespace(id=0, mem_info=info()),
        Stream=Stream, MemoryPool=MemoryPool, using_allocator=using_allocator,
        get_current_stream=lambda: device.streams[-1],
        runtime=types.SimpleNamespace(
            getDeviceCount=lambda: 1, memGetInfo=info,
            getDeviceProperties=lambda device: {"major": 9, "minor": 0},
        ),
        set_allocator=lambda allocator: None,
    )  # fmt: skip
    fft = types.ModuleType("cupyx.scipy.fft")
    fft.rfftn, fft.irfftn, fft.get_fft_plan = _rfftn, _irfftn, Plan
    scipy.fft, cupyx.scipy, cupyx.cupy = fft, scipy, cupy
    for module in (cupy, cupyx, scipy, fft):
        patch.setitem(sys.modules, module.__name__, module)
    if not emulated:
        _loops_for_kernels(patch, device)
        patch.setattr(driver, "failing", lambda: None)
    patch.setattr(driver, "described", lambda: ["a stand-in for a GPU"])
    cached = (
        launch._function,
        launch._module,
        driver._failing,
        driver._capability,
        devices._announce,
    )
    forgotten = [function.cache_clear for function in cached]
    forgotten += [memory._placed.clear, launch._launches.clear]
    for forget in forgotten:
        forget()
    try:
        yield device
    finally:
        for forget in forgotten:
            forget()
        fake_devices.pop()
