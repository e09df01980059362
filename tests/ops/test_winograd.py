"""Convolution by Winograd's method gives what the plain sums give, however it is tiled."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssi_cupy.engine import backend
from ssi_cupy.engine.cpu.winograd_transforms import point_matrices
from ssi_cupy.ops import conv, conv_tiling

ROOT = Path(__file__).resolve().parents[2]
SHAPES = [  # (x, w): in several bands and in one, with tiles left over, wide, small, in 3-D
    ((2, 9, 1, 37, 45), (10, 9, 1, 5, 5)),
    ((2, 9, 1, 37, 45), (10, 9, 1, 3, 3)),
    ((1, 3, 1, 5, 1100), (2, 3, 1, 3, 3)),
    ((1, 2, 1, 9, 530), (17, 2, 1, 5, 5)),
    ((3, 20, 1, 16, 16), (40, 20, 1, 3, 3)),
    ((1, 4, 5, 17, 19), (5, 4, 3, 3, 3)),
    ((1, 3, 4, 8, 9), (5, 3, 5, 5, 5)),
    ((1, 1, 1, 16, 16), (1, 1, 1, 3, 3)),
]


@pytest.fixture
def only(monkeypatch):
    """``only(True)``: by Winograd's method whatever the shapes; ``only(False)``: by plain sums."""

    def choose(winograd):
        monkeypatch.setattr(conv_tiling, "FEWEST_CHANNELS", 1 if winograd else 10**9)
        monkeypatch.setattr(conv_tiling, "FEWEST_TILES", 1)
        conv_tiling.plan_of.cache_clear()

    yield choose
    conv_tiling.plan_of.cache_clear()


def both_ways(x, w, b, gy, affine):
    y, (saved, sums) = conv.conv_forward(x, w, b, affine=affine, moments=True)
    return y, sums.sum(axis=0), *conv.conv_backward(gy, saved)


def arguments(x_shape, w_shape, dtype, activate):
    rng = np.random.default_rng(0)
    affine = rng.normal(size=(2, x_shape[1])) if activate else None
    shapes = x_shape, w_shape, w_shape[:1], (x_shape[0], w_shape[0], *x_shape[2:])
    made = [*(rng.normal(size=shape) for shape in shapes), affine]
    return [a if a is None else a.astype(dtype) for a in made]


@pytest.mark.parametrize("r", [3, 5])
def test_one_row(r):
    a, g, b = point_matrices(r)
    d, w = np.random.default_rng(r).normal(size=r + 3), np.arange(1.0, r + 1)
    np.testing.assert_allclose(a.T @ ((g @ w) * (b.T @ d)), np.correlate(d, w), rtol=1e-12)


@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
@pytest.mark.parametrize("x_shape, w_shape", SHAPES)
def test_the_plain_sums(only, x_shape, w_shape, dtype, tolerance, activate):
    only(False)
    expected = both_ways(*arguments(x_shape, w_shape, np.float64, activate))
    only(True)
    found = both_ways(*arguments(x_shape, w_shape, dtype, activate))
    for ours, sums in zip(found, expected, strict=True):
        assert np.max(np.abs(ours - sums)) <= tolerance * np.max(np.abs(sums))


@pytest.mark.parametrize("x_shape, w_shape", SHAPES[:6])
def test_threads_change_no_bit(only, x_shape, w_shape):
    only(True)
    given, threads, found = arguments(x_shape, w_shape, np.float32, True), backend.num_threads(), []
    try:
        for number in (1, 3):
            backend.set_num_threads(number)
            found.append(both_ways(*given))
    finally:
        backend.set_num_threads(threads)
    for one, three in zip(*found, strict=True):
        np.testing.assert_array_equal(one, three)


def test_wide_layers_lose_few_digits(only):
    """With many channels, in float32: 4e-6 of the values, root mean square."""
    for w_shape in ((96, 96, 1, 3, 3), (32, 64, 1, 5, 5)):
        given = arguments((1, w_shape[1], 1, 32, 32), w_shape, np.float64, True)
        only(False)
        exact = both_ways(*given)
        only(True)
        found = both_ways(*(a.astype(np.float32) for a in given))
        for ours, values in zip(found, exact, strict=True):
            assert np.linalg.norm(ours - values) <= 4e-6 * np.linalg.norm(values)


def test_channels_do_not_mix(only):
    """NaN in one channel of gy stays in it: nothing mixes channels, padding or what is behind."""
    only(True)
    x, w, b, gy, _ = arguments((1, 9, 1, 21, 33), (9, 9, 1, 3, 3), np.float32, False)
    gy[0, 3] = np.nan
    gw, gb = conv.conv_backward_weights(gy, x, w.shape)
    others = np.arange(9) != 3
    assert np.isnan(gw[3]).all() and np.isnan(gb[3])
    assert np.isfinite(gw[others]).all() and np.isfinite(gb[others]).all()


STEP = """
import zlib
import numpy as np
from ssi_cupy.ops.conv import conv_forward
rng = np.random.default_rng(0)
x, w = rng.normal(size=(1, 8, 1, 96, 96)), rng.normal(size=(8, 8, 1, 3, 3))
y, (_, sums) = conv_forward(x.astype("f4"), w.astype("f4"), moments=True)
print(zlib.crc32(y.tobytes()), zlib.crc32(sums.tobytes()))
"""


def test_a_process_that_compiles_has_the_bits_of_one_that_reads_the_cache(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", STEP]
    printed = [
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True).stdout
        for _ in ("compiles", "reads")
    ]
    assert any(tmp_path.rglob("*.nbi"))
    assert printed[0] == printed[1]
