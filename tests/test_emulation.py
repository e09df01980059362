"""The CUDA kernels, executed: every row of `cases.py` on the emulator, against the Numba loops."""

import contextlib

import numpy as np
import pytest

from cases import CASES
from emulation import emulator
from emulation.emulator import Emulator, EmulationError, PoisonPool
from ssi_cupy import backend, cuda
from test_ops import relative, run

pytestmark = pytest.mark.skipif(
    emulator.compiler() is None, reason="no C++ compiler (g++, or what CXX names) was found"
)
RUNS = [(64, True), (256, False)]  # threads of a block; in which order they run


@contextlib.contextmanager
def emulated(threads=256, backwards=False):
    """Within, numpy arrays go to the CUDA kernels, and fresh memory holds NaN."""
    emulate = Emulator(threads, backwards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.Kernel, "__call__", lambda *a, **k: emulate(*a, **k))
        patch.setattr(backend._local, "pool", PoisonPool(), raising=False)
        yield emulate


every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
both_runs = pytest.mark.parametrize("threads, backwards", RUNS)


@every_case
@both_runs
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_parity_with_the_loops(case, threads, backwards, dtype, tolerance):
    args = case.args(dtype)
    y, _, gradients = run(case, args)
    with emulated(threads, backwards):
        y2, _, gradients2 = run(case, args)
    assert relative(y2, y) <= tolerance
    for ours, theirs in zip(gradients2, gradients, strict=True):
        assert ours.dtype == theirs.dtype and relative(ours, theirs) <= tolerance
