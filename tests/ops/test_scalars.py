"""Single numbers, masks and running statistics: what a step does beside maps, on both devices."""

import contextlib

import numpy as np
import pytest

from running import emulated
from ssi_cupy import masking, optim
from ssi_cupy.ops.fft_convolution import fft_convolution_backward, fft_convolution_forward
from ssi_cupy.ops.scalars import POWERS, add_to, reduced, weighted

both = pytest.mark.parametrize("where", [contextlib.nullcontext, emulated], ids=["loops", "cuda"])
F32, F64 = np.float32, np.float64
MEAN = {"mean": lambda m: m, "square": lambda m: m * m, "root": np.sqrt}


@both
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("parts", [1, 7, 300])
def test_a_number_and_its_slope_by_the_sum(where, dtype, power, parts):
    rng = np.random.default_rng(parts)
    partial, like, h = rng.random((parts, 2)), np.zeros(0, dtype), 1e-6
    total, weight = partial.sum(axis=0)
    close = {"rtol": max(2 * np.finfo(dtype).eps, 1e-13)}  # sums of other orders
    for given, by in ((0.0, weight), (12.5, 12.5)):
        with where():
            value, found = reduced(partial, like, given, power)
            alone, _ = reduced(partial[:, 0], like, by, power)
        of = MEAN[power]
        assert value.dtype == dtype and np.shape(value) == ()
        np.testing.assert_allclose(alone, value, **close)
        np.testing.assert_allclose(found[0], of(total / by), rtol=1e-13)
        np.testing.assert_allclose(value, of(total / by), **close)
        slope = (of((total + h) / by) - of((total - h) / by)) / (2 * h)
        np.testing.assert_allclose(found[1], slope, rtol=1e-7)


@both
def test_of_nothing_the_number_and_its_slope_are_zero(where):
    with where():
        for power in ("mean", "root"):
            value, found = reduced(np.zeros((3, 2)), np.zeros(0), 0.0, power)
            assert value == 0 and found[1] == {"mean": 1, "root": 0}[power]
        value, found = reduced(np.full((2, 2), np.nan), np.zeros(0), 0.0, "root")
        assert np.isnan(value)


@both
@pytest.mark.parametrize("dtype", [F32, F64])
def test_weighted_sums_are_float64s(where, dtype):
    terms, factors = [dtype(v) for v in (1e8, 1.0, -1e8)], (1.0, 0.5, 1.0)
    total = np.array([2.0])
    with where():
        assert weighted(terms, factors) == dtype(0.5)  # float32's sum would be 0
        add_to(total, dtype(3), 0.25)
    assert total[0] == 2.75


@both
@pytest.mark.parametrize("channels", [1, 3])
def test_masks_are_combined(where, channels):
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (2, channels, 1, 19, 23), np.uint8)
    held, inside = rng.integers(0, 2, (2, 2, 1, 1, 19, 23), np.uint8)
    with where():
        hidden, counted = masking.keep_blind(mask, held)
        within, outside = masking.within(mask, inside), masking.outside(mask, inside)
    np.testing.assert_array_equal(hidden, mask | held)
    np.testing.assert_array_equal(counted, mask * (1 - held))
    np.testing.assert_array_equal(within, mask * inside)
    np.testing.assert_array_equal(outside, mask * (1 - inside))


@both
def test_statistics_follow_those_of_a_batch(where):
    statistics, batch, momenta = (np.random.default_rng(0).random((3, 1000))).astype(F32)
    expected = statistics + momenta * (batch - statistics)
    with where():
        optim.follow(statistics, batch, momenta)
    np.testing.assert_array_equal(statistics, expected)


@both
@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_spectrum_is_multiplied_and_by_the_conjugate(where, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 6, 10)).astype(dtype)
    shape = (4, 6, 6)
    transfer = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(f"c{2 * x.itemsize}")
    there, back = (
        np.fft.irfftn(np.fft.rfftn(x, axes=(2, 3, 4)) * h, x.shape[2:], axes=(2, 3, 4))
        for h in (transfer, transfer.conj())
    )
    with where():
        y, saved = fft_convolution_forward(x, transfer)
        gx, _ = fft_convolution_backward(x, saved)
    limit = {F32: 1e-5, F64: 1e-12}[dtype]
    for found, expected in ((y, there), (gx, back)):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, atol=limit * np.abs(expected).max())
