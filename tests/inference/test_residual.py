"""What the spectrum of an image says of its noise, and of its PSF."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ssi_cupy.inference.residual import blocked_spectrum, describe_residual, power, transfer
from ssi_cupy.psf import gaussian

PSF = gaussian(2.0, ndim=2)


def noise(shape=(96, 80), seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def light(shape=(96, 80), sigma=2.0, seed=1):
    spots = (np.random.default_rng(seed).random(shape) > 0.97) * 1.0
    return 40 * gaussian_filter(spots, sigma)


def test_white_noise_has_its_variance_at_all_frequencies():
    assert power(3 * noise((256, 256))).mean() == pytest.approx(9, rel=0.03)
    found = blocked_spectrum(light() + noise(), PSF)
    np.testing.assert_allclose(found.levels, 1, atol=4 * found.error)
    assert 0.3 < found.rows < 2 and 0.3 < found.columns < 2
    assert found.tails < 3.5


def test_a_volume_has_a_spectrum_too():
    found = blocked_spectrum(noise((12, 32, 40)), gaussian((1.5, 1.5, 1.5), ndim=3))
    np.testing.assert_allclose(found.levels, 1, atol=5 * found.error)


def test_correlated_noise_falls_with_frequency():
    found = blocked_spectrum(light() + gaussian_filter(noise(), 0.7), PSF)
    assert found.levels[0] > 2 * found.levels[2] and found.tails < 3.5


def test_power_where_the_psf_passes_none_has_heavy_tails():
    sharper = 20 * light(sigma=0.8)
    found = blocked_spectrum(sharper + 0.3 * noise(), PSF)
    assert found.levels[0] > 2 * found.levels[2] and found.tails > 4


@pytest.mark.parametrize("axis, name", [(0, "rows"), (1, "columns")])
def test_rows_and_columns(axis, name):
    stripes = np.random.default_rng(3).normal(size=(96, 1) if axis == 0 else (1, 80))
    found = blocked_spectrum(light() + noise() + 0.7 * stripes, PSF)
    other = "columns" if name == "rows" else "rows"
    assert getattr(found, name) > 5 > 2 > getattr(found, other)


def test_nothing_is_said_where_the_psf_passes_everything():
    found = blocked_spectrum(noise(), np.ones((1, 1)))
    assert np.isnan(found.levels).all() and np.isnan(found.rows)


def test_the_transfer_function_of_a_wide_psf_is_wound_up():
    wide = np.ones((1, 9)) / 9
    assert transfer(wide, (8, 8))[0, 0] == pytest.approx(1)
    np.testing.assert_allclose(transfer(gaussian(1.0, ndim=2), (64, 64))[0, 16],
                               np.exp(-2 * (np.pi / 4) ** 2), rtol=0.02)  # fmt: skip


def test_a_residual_that_is_noise_and_one_that_is_not():
    found = describe_residual(0.1 * noise(), PSF, 0.1)
    assert abs(found.mean) < 0.05 and abs(found.correlation) < 0.05
    np.testing.assert_allclose(found.bands, 1, atol=0.3)
    assert found.beyond == pytest.approx(1, abs=0.4)
    finer = 0.1 * noise() + 4 * (light(sigma=1.0) - light(sigma=1.5)) / 40
    assert describe_residual(finer, PSF, 0.1).beyond > 3
    wrong = 0.1 * noise() + 0.05
    wrong[64:, 48:] += 0.4 * gaussian_filter(noise(), 2)[64:, 48:] / 0.14
    found = describe_residual(wrong, PSF, 0.1)
    assert found.mean > 0.3 and found.correlation > 0.2 and found.bands[0] > 3
    assert found.worst > 3 and found.where[0] >= 64 and found.where[1] >= 39
