"""Where an op changes its mind: ties, bounds, cancellation. On the loops and the CUDA kernels.

The rows of `cases.py` stay clear of kinks; what is chosen at one is a promise too, and the same on
both devices.
"""

import contextlib

import numpy as np
import pytest

from running import emulated
from ssi_cupy.ops.loss_terms import bound, invariance, masked_loss
from ssi_cupy.ops.norm import batch_affine, batch_norm
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
@pytest.mark.parametrize(
    "dtype, offset, tolerance", [(F32, 1e3, 2e-2), (F64, 1e3, 1e-5), (F64, 1e8, 1e-5)]
)
def test_a_norm_of_a_small_contrast_on_a_large_offset(where, dtype, offset, tolerance):
    """Sums of squares would cancel: the variance is that of what is left of a value taken off."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 1, 24, 25))
    x = (x + offset * np.array([1, -1, 3.0])[None, :, None, None, None]).astype(dtype)
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


@both
@pytest.mark.parametrize("eps", [1e-3, 0.25])
def test_the_variation_of_one_step_is_what_its_equation_says(where, eps):
    """√(1 + eps²) at the pixel before the step, and eps at the five others."""
    x = np.zeros((1, 1, 1, 1, 6))
    x[..., 4:] = 1
    with where():
        y, gx = gradient(total_variation, x, eps=eps)
    length = np.sqrt(1 + eps**2)
    assert float(y) == pytest.approx((length + 5 * eps) / 6, rel=1e-14)
    assert np.allclose(gx.ravel(), np.array([0, 0, 0, -1, 1, 0]) / length / 6, atol=1e-15)


@both
def test_what_a_running_average_is_given_is_the_unbiased_variance(where):
    x = np.random.default_rng(0).normal(size=(2, 3, 1, 2, 2)) + 5
    into = np.full((1, 8), np.nan)
    with where():
        batch_affine(x, np.ones(3), np.zeros(3), into=into, at=1)
    axes = (0, 2, 3, 4)
    assert np.allclose(into[0, 1:4], x.mean(axes), rtol=1e-14)
    assert np.allclose(into[0, 4:7], x.var(axes, ddof=1), rtol=1e-12)
    assert np.isnan(into[0, [0, 7]]).all()  # what lies beside it is left alone
    one = np.full((1, 3, 1, 1, 1), 2.0)
    with where():
        batch_affine(one, np.ones(3), np.zeros(3), into=into, at=1)
    assert into[0, 1:7].tolist() == [2, 2, 2, 0, 0, 0]  # of a single value: none


@both
def test_sums_whose_variance_is_below_zero_by_rounding_are_those_of_a_constant(where):
    x = np.full((1, 1, 1, 2, 2), 3.0)
    mean = 1 + 1e-3
    squares = mean * mean * (1 - 1e-4)  # as far off as no rounding is: −1e-4, ten times eps
    moments = 4 * np.array([[[mean], [squares]]])
    into = np.zeros((1, 2))
    with where():
        normed = batch_affine(
            x, np.ones(1), np.zeros(1), moments=moments, pivot=np.full(1, 2.0), into=into
        )
    assert normed.found[0, 0] == 2 + mean and into[0, 1] == 0
    assert normed.found[1, 0] == pytest.approx(1 / np.sqrt(1e-5), rel=1e-14)


@both
@pytest.mark.parametrize("kind", ["l2", "l1", "huber"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_counted_may_be_anything_and_what_is_counted_is_not_lost(where, kind, value):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 1, 2, 1, 5, 7))
    mask = (rng.random((1, 1, 1, 5, 7)) < 0.5).astype(np.uint8)
    hole = np.where(mask == 0, value, x)
    fields = {"kind": kind, "delta": 0.5, "normalise": "masked"}

    def loss(x, mask):
        with where():
            return gradient(lambda x: masked_loss(x, y, mask, **fields), x)

    (whole, gx), (same, same_gx) = loss(x, mask), loss(hole, mask)
    assert whole == same and np.array_equal(gx, same_gx)
    assert not same_gx[np.broadcast_to(mask == 0, x.shape)].any()
    broken, at = x.copy(), tuple(np.argwhere(np.broadcast_to(mask, x.shape))[0])
    broken[at] = value
    lost, lost_gx = loss(broken, mask)
    assert not np.isfinite(lost) and (np.isnan(value) <= np.isnan(lost_gx[at]))


@both
def test_the_bounds_of_a_loss_belong_to_what_is_inside_and_nan_does_not(where):
    x = np.array([-0.5, 0.0, 0.5, 1.0, 1.5]).reshape(1, 1, 1, 1, 5)
    with where():
        y, gx = gradient(bound, x, low=0.0, high=1.0)
        lost, _ = gradient(bound, np.where(x == 0.5, np.nan, x), low=0.0, high=1.0)
        flat, at_kink = gradient(
            lambda x: masked_loss(x, 0.5 + 0 * x.value, np.ones(x.value.shape, np.uint8),
                                  kind="huber", delta=0.5), x)  # fmt: skip
    assert float(y) == pytest.approx(0.2) and (5 * gx.ravel()).tolist() == [-1, 0, 0, 0, 1]
    assert np.isnan(lost)
    assert np.allclose(5 * at_kink.ravel(), [-0.5, -0.5, 0, 0.5, 0.5], rtol=1e-15)
    assert float(flat) == pytest.approx((2 * 0.5 * (1 - 0.25) + 2 * 0.125) / 5)


@both
def test_two_outputs_that_are_one_and_an_empty_mask_have_no_gradient_that_is_nan(where):
    x = np.random.default_rng(0).normal(size=(1, 2, 1, 3, 4))
    for y, mask in ((x.copy(), np.ones), (x + 1, np.zeros)):
        with where():
            loss, gx = gradient(lambda x: invariance(x, y, mask(y.shape, np.uint8)), x)  # noqa: B023
        assert float(loss) == 0 and not gx.any()


@both
@pytest.mark.parametrize("window", [(1, 2, 2), (2, 2, 2), (1, 3, 2)])
def test_nan_is_never_the_largest_but_of_a_window_of_nothing_else(where, window):
    """A maximum that NaN could lose itself in would hide a training that has diverged."""
    size = tuple(2 * n for n in window)
    x = np.random.default_rng(0).normal(size=(1, 1, *size))
    x[0, 0, : window[0], : window[1], : window[2]] = np.nan
    with where():
        y, _ = gradient(max_pool, x, window=window)
    assert np.isnan(y[0, 0, 0, 0, 0]) and np.isnan(y).sum() == 1
