"""How the rows of `cases.py` are run: on the loops, or on the emulated CUDA kernels."""

import contextlib

import numpy as np
import pytest

from emulation.emulator import Emulator, PoisonPool
from ssi_cupy.engine import backend, memory
from ssi_cupy.engine.gpu import driver, launch
from ssi_cupy.ops import conv, tensor_cores
from ssi_cupy.tape import Tape

RUNS = [(64, True), (256, False)]  # threads of a block; last thread first?
DTYPES = [(np.float64, 1e-10), (np.float32, 1e-5)]

both_runs = pytest.mark.parametrize("threads, backwards", RUNS)
both_dtypes = pytest.mark.parametrize("dtype, tolerance", DTYPES)


def relative(a, b):
    """The largest difference, in units of the largest value."""
    scale = max(np.max(np.abs(b)), 1e-300)
    return np.max(np.abs(np.asarray(a, np.float64) - b)) / scale


def run(case, args):
    """The op on `args`, and the gradients of <gy, y> by `case.wrt`, for a fixed random gy."""
    tape = Tape()
    inputs = [tape.var(a) if i in case.wrt else a for i, a in enumerate(args)]
    y = case.op(*inputs, **case.settings)
    gy = np.random.default_rng(7).normal(size=np.shape(y.value)).astype(y.value.dtype)
    tape.backward(y, gy)
    return y.value, gy, [inputs[i].grad for i in case.wrt]


@contextlib.contextmanager
def emulated(threads=256, backwards=False):
    """Within, numpy arrays go to the CUDA kernels, and fresh memory holds NaN."""
    emulate = Emulator(threads, backwards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.Kernel, "__call__", lambda *a, **k: emulate(*a, **k))
        patch.setattr(launch, "THREADS", threads)
        for module in (conv, tensor_cores):
            patch.setattr(module, "is_cupy", lambda array: True)  # cut as on a GPU
        patch.setattr(driver, "has_tensor_cores", lambda: True)
        patch.setattr(memory._local, "pool", PoisonPool(), raising=False)
        yield emulate
