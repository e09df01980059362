"""On a machine that has a GPU: the rows of `cases.py`, masks, random numbers and first steps on it.

The other tests are of the CPU, there too. With the stand-in in a GPU's place both are run here.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.gpu import parity, steps
from cases import CASES

ROOT = Path(__file__).resolve().parents[3]
ROWS = [(case, kind) for case in CASES for kind in parity.kinds(case)]


@pytest.mark.parametrize("case, kind", ROWS, ids=[f"{case.name}, {kind}" for case, kind in ROWS])
def test_a_row_is_that_of_the_cpu(case, kind, gpu):
    wanted, got = (parity.run(case, kind, device) for device in ("cpu", "cuda"))
    assert max(map(parity.off, got, wanted)) <= parity.LIMITS[kind]


def test_masks_and_random_numbers_have_the_bits_of_the_cpu(gpu):
    wanted, got = (parity.draws(device) for device in ("cpu", "cuda"))
    for name, array in got.items():
        np.testing.assert_array_equal(array, wanted[name], err_msg=name)


@pytest.mark.parametrize("name", steps.names())
def test_first_steps_are_those_of_the_cpu(name, gpu):
    wanted, got = (steps.first_steps(name, device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(got, wanted, rtol=steps.LIMIT)


FEW = (
    "tests/test_restore.py", "tests/test_inversion.py", "tests/engine/gpu/test_on_a_gpu.py",
    "tests/engine/gpu/test_graph.py", "tests/training/test_large_image.py",
    "ssi_cupy/ops/README.md",
)  # fmt: skip
NAMED = (
    "relu or masks or (first_steps and ssi) or full_output or same_seed or README or auto_takes "
    "or uneven"
)


def test_where_a_gpu_is_the_tests_of_the_cpu_pass_and_those_of_the_gpu_run():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "emulation.present", "-k", NAMED, *FEW]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout and " passed" in done.stdout
