"""Runs the text of `kernels/` on numpy arrays: the third back end, which needs no GPU.

g++ compiles the file unchanged behind `emulation.h`; the arguments and the grid are those of the
launch on a GPU, made by the same code (`engine/gpu/launch.py`). Every array that a kernel gets is a
copy with a guard zone on either side. These zones are filled with bits that are NaN to a kernel
that reads beyond an end, and what a kernel writes there is found afterwards; so is what it writes
to an array that is declared const.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from ssi_cupy.engine.gpu import kernel_text, launch

GUARD = 256  # bytes on either side of an array
POISON = 0xFF  # of all bytes: NaN in floating point
HEADER = Path(__file__).with_name("emulation.h")
FLAGS = "-std=c++17 -O3 -march=native -ffp-contract=off -fPIC -shared -Wall -Wextra -Werror".split()
FLAGS += "-Wno-unused-parameter -Wno-unused-function -Wno-unknown-pragmas".split()


class CompileError(Exception):
    """The compiler did not take a kernel; what it said."""


class EmulationError(Exception):
    """A kernel did what it must not do."""


def compiler():
    """The C++ compiler, or None."""
    return shutil.which(os.environ.get("CXX", "g++"))


class Emulator:
    """Launches kernels on numpy arrays. Put in the place of `backend.Kernel.__call__`.

    Parameters
    ----------
    threads : int
        Of a block, where a kernel does not decide for itself.
    backwards : bool
        Run blocks and threads last first.

    Attributes
    ----------
    launched : set of str
        The names of the kernels that ran.
    """

    def __init__(self, threads=launch.THREADS, backwards=False):
        self.threads, self.backwards, self.launched = threads, backwards, set()

    def __call__(self, kernel, n, *args, scratch=0):
        if n:
            grid, block, shared = kernel.launch(n, args, self.threads)
            check_launch(kernel.__name__, grid, block, shared)
            self.run(kernel.stem, kernel.__name__, args, grid, block, shared)

    def run(self, stem, name, args, grid, block, shared=0, text=None):
        """Launch kernel `name` of `<stem>.cu`, or of another `text` with the same signature."""
        self.launched.add(name)
        parameters = kernel_text.signatures(stem)[name]
        guarded = [_Guarded(a) if p.ndim is not None else a
                   for p, a in zip(parameters, args, strict=True)]  # fmt: skip
        views = [g.array if isinstance(g, _Guarded) else g for g in guarded]
        types, values = kernel_text.arguments(stem, name, views, lambda a: a.ctypes.data)
        library = _library(kernel_text.source(stem, types) if text is None else text)
        _same_sizes(library, name, values)
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        how = _Launch(_three(grid), _three(block), shared, self.backwards, pointers)
        launch = getattr(library, f"emulate_{name}")
        launch.restype = ctypes.c_char_p
        complaint = launch(ctypes.byref(how)).decode()
        if complaint:
            raise EmulationError(f"{name}: {complaint}")
        for parameter, array, copy in zip(parameters, args, guarded, strict=True):
            if parameter.ndim is not None:
                copy.check(f"{name}: {parameter.name}", array, parameter.const)


class _Launch(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint64),
        ("backwards", ctypes.c_int),
        ("values", ctypes.POINTER(ctypes.c_void_p)),
    ]


GRID, BLOCK = (2**31 - 1, 65535, 65535), (1024, 1024, 64)  # the largest of every GPU since 2012
SHARED = 64 << 10  # bytes of a block that every GPU has, less what is not dynamic
SHARED_SINCE_2020 = 99 << 10  # that those with tensor cores for TF32 have, but the smallest


def check_launch(name, grid, block, shared):
    """Refuse what a GPU refuses."""
    for what, sizes, most in (("grid", grid, GRID), ("block", block, BLOCK)):
        if not all(1 <= n <= m for n, m in zip(sizes, most, strict=False)):
            raise EmulationError(f"{name}: a {what} of {sizes}, where {most} is the most")
    if math.prod(block) > 1024:
        raise EmulationError(f"{name}: a block of {math.prod(block)} threads")
    most = SHARED_SINCE_2020 if name.startswith("matrix_") else SHARED - 1024
    if shared > most:
        raise EmulationError(f"{name}: {shared} bytes of shared memory")


def _three(sizes):
    return (ctypes.c_uint * 3)(*sizes, *(1,) * (3 - len(sizes)))


class _Guarded:
    """A copy of an array between two guard zones."""

    def __init__(self, array):
        self.memory = poisoned(array.nbytes + 2 * GUARD, np.uint8)
        inside = self.memory[GUARD : GUARD + array.nbytes]
        self.array = inside.view(array.dtype).reshape(array.shape)
        self.array[...] = array

    def check(self, name, array, const):
        """Nothing but the array was written, and the array only if it may be: give it back."""
        end = GUARD + array.nbytes
        for zone, where in ((self.memory[:GUARD], "before"), (self.memory[end:], "behind")):
            if np.any(zone != POISON):
                raise EmulationError(f"{name} was written {where} its memory")
        if not const:
            array[...] = self.array
        elif array.tobytes() != self.array.tobytes():
            raise EmulationError(f"{name} is const and was written")


def poisoned(shape, dtype):
    """New memory that shows where it was not written."""
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[...] = POISON
    return array


class PoisonPool:
    """Stands in for `backend.Pool`: every `empty` of an op is poisoned."""

    def take(self, shape, dtype):
        shape = tuple(shape) if hasattr(shape, "__len__") else (shape,)
        return poisoned(max(math.prod(shape), 1), dtype)[: math.prod(shape)].reshape(shape)


# ---- the compiler -----------------------------------------------------------------------------


@functools.cache
def _library(text):
    """The shared library of a kernel file. Kept under the hash of all that it depends on."""
    names = kernel_text.kernel_names(text)
    ends = [
        f'extern "C" const char* emulate_{name}(const emulation::Launch* how) '
        f"{{ return emulation::launch({name}, *how); }}\n"
        f'extern "C" int sizes_{name}(int* out) {{ return emulation::sizes({name}, out); }}'
        for name in names
    ]
    whole = "\n".join([text, *ends])
    parts = [compiler(), *FLAGS, HEADER.read_text(encoding="utf-8"), whole]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"emulated_kernels_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            cpp, made = Path(scratch, "kernel.cpp"), Path(scratch, "kernel.so")
            cpp.write_text(whole, encoding="utf-8")
            command = [compiler(), *FLAGS, "-include", HEADER, "-o", made, cpp]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise CompileError(done.stderr)
            made.replace(path)
    return ctypes.CDLL(str(path))


def _same_sizes(library, name, values):
    sizes = (ctypes.c_int * 64)()
    count = getattr(library, f"sizes_{name}")(sizes)
    ours = [value.nbytes for value in values]
    if ours != sizes[:count]:
        raise EmulationError(f"{name}: arguments of {ours} bytes, the kernel takes {sizes[:count]}")
