"""The CUDA text and its launcher: twins of the loops, arguments, compilation for every GPU."""

import ctypes
import importlib
import inspect
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import ssi_cupy
from bench.gpu import kernels
from emulation import emulator
from ssi_cupy import optim
from ssi_cupy.engine import backend
from ssi_cupy.engine.checks import DeviceError
from ssi_cupy.engine.gpu import driver, kernel_text, launch
from ssi_cupy.ops import loss_terms, pointwise

PACKAGE = Path(ssi_cupy.__file__).parent


def loops():
    """Every CPU loop of the package, by file and name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if not re.search(r"^@kernel", text, re.MULTILINE):
            continue
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        module = importlib.import_module(".".join(("ssi_cupy", *parts)))
        for value in vars(module).values():
            if isinstance(value, backend.Kernel) and value.__module__ == module.__name__:
                yield value


LOOPS = {(loop.stem, loop.__name__): loop for loop in loops()}


# ---- twins ------------------------------------------------------------------------------------


def test_every_loop_has_a_kernel_and_every_kernel_a_loop():
    kernels = {
        (stem, name) for stem in kernel_text.stems() for name in kernel_text.signatures(stem)
    }
    assert kernels == set(LOOPS)


@pytest.mark.parametrize("stem, name", sorted(LOOPS))
def test_twins_have_the_same_arguments(stem, name):
    parameters = list(inspect.signature(LOOPS[stem, name].loop).parameters)
    assert parameters[:2] == ["start", "stop"]
    theirs = [p.name for p in kernel_text.signatures(stem)[name]]
    assert parameters[len(parameters) - len(theirs) :] == theirs
    assert len(parameters) - len(theirs) in (2, 3)  # start, stop, and scratch where there is one


def test_constants_are_those_of_the_loops():
    assert f"BLOCK = {loss_terms.BLOCK};" in kernel_text.text("loss_terms")
    assert f"BLOCK = {optim.BLOCK};" in kernel_text.text("optim")


# ---- arguments --------------------------------------------------------------------------------


def marshal(name, *args):
    return kernel_text.arguments("pointwise", name, args, lambda a: a.ctypes.data)


def test_arguments_are_structs_and_numbers_of_the_declared_types():
    x, y = np.zeros((7,), np.float32), np.zeros((7,), np.float32)
    types_, values = marshal("clamp_forward_kernel", x, 0, 1.5, y)
    assert types_ == (("real", "float32"),)
    assert [v.dtype.name for v in values[1:3]] == ["float32"] * 2 and values[2][0] == 1.5
    assert values[0].nbytes == 16 and values[0]["data"][0] == x.ctypes.data
    assert values[0]["shape"][0].tolist() == [7]


@pytest.mark.parametrize(
    "args, says",
    [
        ((np.zeros(4), np.zeros(4, np.float32)), "y must be float64, not float32"),
        ((np.zeros(4, int), np.zeros(4, int)), "x must be float32 or float64, not int64"),
        ((np.zeros((2, 2)), np.zeros(4)), "x must be 1-D, not 2-D"),
        ((np.zeros(8)[::2], np.zeros(4)), "x must be C-contiguous"),
        ((1.0, np.zeros(4)), "x must be an array, not float"),
        ((np.zeros(4),), "expected 2 arguments, got 1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(args, says):
    with pytest.raises(TypeError, match=f"relu_forward_kernel: {says}"):
        marshal("relu_forward_kernel", *args)


def test_whole_numbers_are_not_rounded():
    image, mask = np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2), np.uint8)
    args = [image, mask, image, 1.5, 1, True, 0.0, np.zeros(1), 0, 0]
    with pytest.raises(TypeError, match="group is int64, not 1.5"):
        kernel_text.arguments("masking", "fill_neighbour_kernel", args, lambda a: a.ctypes.data)


# ---- the way through cupy ---------------------------------------------------------------------


class FakeArray:
    """As much of a cupy array as a launch looks at, around a numpy array."""

    def __init__(self, array, device=0):
        self.array, self.device = array, types.SimpleNamespace(id=device)
        self.data = types.SimpleNamespace(ptr=array.ctypes.data)
        for name in ("dtype", "shape", "ndim", "size", "flags", "strides"):
            setattr(self, name, getattr(array, name))


@pytest.fixture
def cupy(monkeypatch):
    """A module that does what cupy does, with the emulator as its GPU; `built` is what it built."""
    if emulator.compiler() is None:
        pytest.skip("no C++ compiler was found")
    fake = types.ModuleType("cupy")
    fake.built = []

    class RawModule:
        def __init__(self, code, options):
            fake.built.append((code, options))
            self.library = emulator._library(code)

        def get_function(self, name):
            def run(grid, block, values, shared_mem=0):
                assert all(isinstance(v, np.ndarray) and v.size == 1 for v in values)
                pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
                sizes = emulator._three(grid), emulator._three(block)
                how = emulator._Launch(*sizes, shared_mem, False, pointers)
                launch = getattr(self.library, f"emulate_{name}")
                launch.restype = ctypes.c_char_p
                assert launch(ctypes.byref(how)) == b""

            run.max_dynamic_shared_size_bytes = 48 << 10
            return run

    fake.ndarray, fake.RawModule = FakeArray, RawModule
    fake.cuda = types.SimpleNamespace(Device=lambda: types.SimpleNamespace(id=0))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    forgotten = launch._function.cache_clear, launch._module.cache_clear, launch._launches.clear
    for forget in forgotten:
        forget()
    yield fake
    for forget in forgotten:
        forget()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_kernel_on_cupy_arrays_is_compiled_once_and_launched(cupy, dtype):
    x = np.random.default_rng(0).normal(size=1000).astype(dtype)
    y = np.full_like(x, np.nan)
    for _ in range(2):
        pointwise.relu_forward_kernel(1000, FakeArray(x), FakeArray(y))
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    ((code, options),) = cupy.built
    assert code.startswith(f"typedef {'float' if dtype == np.float32 else 'double'} real;\n")
    assert code.isascii() and "#include" not in code and "--fmad=false" in options


def test_what_a_launch_needs_is_worked_out_once_for_each_shape(cupy, monkeypatch):
    worked = []

    def counted(stem, name, args, address):
        worked.append(name)
        return kernel_text.arguments(stem, name, args, address)

    monkeypatch.setattr(launch, "arguments", counted)
    for level in (0.5, 0.25, -0.0):  # a float is read in every launch
        for n in (5, 9):
            params, average = np.arange(1.0, 1 + n), np.full(n, 2.0)
            levels = np.float64(level), np.float64(1 - level)
            optim.moving_average_kernel(n, FakeArray(params), FakeArray(average), *levels)
            np.testing.assert_array_equal(average, level * 2.0 + (1 - level) * params)
    assert len(worked) == 2
    monkeypatch.setattr(launch, "LAUNCHES", 0)
    more = FakeArray(params[:7].copy()), FakeArray(average[:7].copy())
    optim.moving_average_kernel(7, *more, *levels)
    assert len(worked) == 3 and len(launch._launches) == 1


def test_more_blocks_than_a_grid_has_are_refused_by_name(cupy, monkeypatch):
    monkeypatch.setattr(launch, "GRID", (2, 65535, 65535))
    x = FakeArray(np.zeros(10_000))
    with pytest.raises(DeviceError, match="^image: .* for relu_forward_kernel"):
        pointwise.relu_forward_kernel(10_000, x, x)


def test_no_work_is_no_launch(cupy):
    nothing = FakeArray(np.zeros(0))
    pointwise.relu_forward_kernel(0, nothing, nothing)
    assert not cupy.built


def test_mixed_devices_raise(cupy):
    here, there, other = np.zeros(4), FakeArray(np.zeros(4)), FakeArray(np.zeros(4), device=1)
    for args in ((here, there), (there, here), (other, other), (there, other)):
        with pytest.raises(DeviceError, match="arrays: "):
            pointwise.relu_forward_kernel(4, *args)


def test_a_loop_without_a_twin_says_so(cupy):
    @backend.kernel
    def lonely_kernel(start, stop, x):
        pass

    with pytest.raises(DeviceError, match="^device: .*lonely_kernel has no CUDA twin"):
        lonely_kernel(4, FakeArray(np.zeros(4)))


def test_the_device_asked_for_is_taken_or_what_is_missing_said(cupy, monkeypatch):
    class CUDARuntimeError(RuntimeError):
        pass

    def no_driver():
        raise CUDARuntimeError("cudaErrorNoDevice")

    runtime = types.SimpleNamespace(CUDARuntimeError=CUDARuntimeError, getDeviceCount=lambda: 1)
    cupy.cuda.runtime = runtime
    monkeypatch.setattr(driver, "failing", lambda: None)
    monkeypatch.setattr(driver, "described", lambda: ["a device"])
    array = FakeArray(np.zeros(2))
    assert backend.resolve_device("cuda") == "cuda" and backend.resolve_device("auto") == "cuda"
    assert backend.resolve_device("auto", array) == "cuda"
    assert backend.resolve_device("cpu") == "cpu"
    with pytest.raises(DeviceError, match="^device: "):
        backend.resolve_device("cpu", array)
    monkeypatch.setattr(driver, "failing", lambda: "a GPU that works")
    assert backend.resolve_device("auto") == "cpu"  # for an array that may be anywhere
    for broken in (("cuda",), ("auto", array)):
        with pytest.raises(DeviceError, match="needs a GPU that works; python -m ssi_cupy doctor"):
            backend.resolve_device(*broken)
    runtime.getDeviceCount = no_driver
    with pytest.raises(DeviceError, match="^device: .* a working driver .*cudaErrorNoDevice"):
        backend.resolve_device("cuda")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match="^device: .* which needs cupy: pip install"):
        backend.resolve_device("cuda")


# ---- compilation ------------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(kernels.compiler() is None, reason=kernels.MISSING)


@needs_compiler
@pytest.mark.parametrize("architecture", kernels.ARCHITECTURES)
@pytest.mark.parametrize("stem", kernel_text.stems())
def test_every_kernel_compiles_without_a_warning_or_a_spill(stem, architecture):
    for real in kernels.reals(stem):
        found = kernels.compiled(stem, real, architecture)
        assert set(found) == set(kernel_text.signatures(stem))
        assert not any(of["spills"] for of in found.values())


@needs_compiler
@pytest.mark.parametrize("text", ["int unused;", "return x;"])
def test_a_warning_is_an_error(text, monkeypatch):
    kernel = 'extern "C" __global__ void relu_forward_kernel() { %s }'
    monkeypatch.setattr(kernel_text, "text", lambda stem: kernel % text)
    with pytest.raises(RuntimeError, match="pointwise.cu, float32, sm_90"):
        kernels.compiled("pointwise", "float32", 90)
