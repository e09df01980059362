"""Where an op changes its mind: ties, bounds, cancellation. On the loops and the CUDA kernels.

The rows of `cases.py` stay clear of kinks; what is chosen at one is a promise too, and the same on
both devices.
"""

import contextlib

import numpy as np
import pytest

from running import emulated
from ssi_cupy.ops.norm import batch_norm
from ssi_cupy.ops.pointwise import clamp, relu
from ssi_cupy.ops.pool import max_pool
from ssi_cupy.ops.total_variation import total_variation
from ssi_cupy.tape import Tape

both = pytest.mark.parametrize("where", [contextlib.nullcontext, emulated], ids=["loops", "cuda"])
F32, F64 = np.float32, np.float64


def gradient(op, x, **settings):
    """(y, the gradient of the sum of y by x)."""
    tape = Tape()
    x = tape.var(x)
    y = op(x, **settings)
    tape.backward(y, np.ones_like(y.value))
    return y.value, x.grad


@both
@pytest.mark.parametrize("window", [(1, 2, 2), (2, 2, 2), (1, 3, 3), (1, 2, 3)])
def test_of_equals_the_first_of_a_window_has_the_gradient(where, window):
    rng = np.random.default_rng(0)
    size = tuple(2 * n for n in window)
    for x in (np.full((1, 1, *size), 3.0), rng.integers(0, 2, (2, 3, *size)).astype(F64)):
        with where():
            y, gx = gradient(max_pool, x, window=window)
        expected = np.zeros_like(x)
        for n, c, *at in np.ndindex(y.shape):
            box = tuple(slice(i * w, i * w + w) for i, w in zip(at, window, strict=True))
            first = np.unravel_index(np.argmax(x[(n, c, *box)]), window)
            place = tuple(i * w + f for i, w, f in zip(at, window, first, strict=True))
            expected[(n, c, *place)] = 1
        assert np.array_equal(gx, expected)


@both
def test_a_gradient_passes_at_the_very_bounds_of_a_clamp_and_not_at_a_relu(where):
    x = np.array([-0.1, 0.0, 0.5, 1.0, 1.1]).reshape(1, 1, 1, 1, 5)
    with where():
        y, gx = gradient(clamp, x, low=0.0, high=1.0)
        _, at_zero = gradient(relu, np.array([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 1, 3))
    assert y.ravel().tolist() == [0, 0, 0.5, 1, 1]
    assert gx.ravel().tolist() == [0, 1, 1, 1, 0]
    assert at_zero.ravel().tolist() == [0, 0, 1]


@both
@pytest.mark.parametrize("dtype, tolerance", [(F32, 2e-2), (F64, 1e-5)])
def test_a_norm_of_a_small_contrast_on_a_large_offset(where, dtype, tolerance):
    """Sums of squares would cancel: the variance is that of what is left of a value taken off."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 1, 24, 25))
    x = (x + 1000 * np.array([1, -1, 3.0])[None, :, None, None, None]).astype(dtype)
    own = x.astype(F64)
    axes = (0, 2, 3, 4)
    expected = (own - own.mean(axes, keepdims=True)) / np.sqrt(own.var(axes, keepdims=True) + 1e-5)
    ones = np.ones(3, dtype)
    with where():
        y = batch_norm(x, ones, 0 * ones)
    assert np.abs(y - expected).max() < tolerance


@both
def test_a_constant_channel_is_normed_to_beta(where):
    """Rounding must not make its variance less than nothing, the root of which is NaN."""
    for value in (0.1, 1e4 + 1 / 3, -7e-5):
        x = np.full((1, 2, 1, 30, 31), value, F32)
        with where():
            y = batch_norm(x, np.ones(2, F32), np.array([0.5, -0.5], F32))
        # scale · value and the shift that takes it off again are rounded, at a scale of 1/√eps
        rounded = 2 * np.spacing(F32(abs(value) / np.sqrt(1e-5)))
        assert np.abs(y - np.reshape([0.5, -0.5], (1, 2, 1, 1, 1))).max() <= rounded + 1e-6


@both
def test_a_flat_image_has_the_variation_of_its_eps_and_no_gradient(where):
    with where():
        y, gx = gradient(total_variation, np.full((1, 1, 1, 9, 10), 2.0), eps=0.25)
    assert float(y) == pytest.approx(0.25) and not gx.any()
