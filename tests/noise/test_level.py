"""The noise of an image, read off the image itself."""

import numpy as np
import pytest
from scipy import ndimage

import ssi_cupy
from ssi_cupy.noise import clipping, count_step, estimate_noise
from ssi_cupy.physics import PSFConvolution
from ssi_cupy.psf import gaussian


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


def blobs(*shape):
    """A smooth scene from black to white, as blurred light is."""
    scene = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=shape), 4)
    return np.clip((scene - scene.min()) / (scene.max() - scene.min()) * 1.9 - 0.9, 0, None)


@pytest.mark.parametrize("noise", [0.02, 0.1])
@pytest.mark.parametrize("sigma", [1, 3])
def test_noise_is_read_off_the_image(noise, sigma):
    psf = gaussian(sigma)
    y = PSFConvolution(psf).forward(blobs(1, 1, 1, 200, 231))
    y = y + noise * normal(*y.shape)
    assert estimate_noise(y, psf) == pytest.approx(noise, rel=0.05)
    assert estimate_noise(7000 * y[0, 0, 0] + 100, psf) == pytest.approx(7000 * noise, rel=0.05)
    clipped = np.clip(y, 0, 1)
    assert estimate_noise(clipped, psf) < 0.92 * noise
    assert estimate_noise(clipped, psf, low=0, high=1) == pytest.approx(noise, rel=0.06)


def test_noise_of_a_stack():
    psf = np.random.default_rng(5).uniform(0.1, 1, (3, 5, 5))
    y = PSFConvolution(psf).forward(blobs(1, 1, 20, 60, 60)) + 0.05 * normal(1, 1, 20, 60, 60)
    assert estimate_noise(y[0, 0], psf) == pytest.approx(0.05, rel=0.1)
    assert estimate_noise(y[0, 0]) == pytest.approx(0.05, rel=0.1)


# ---- counts -------------------------------------------------------------------------------------


def bead(size=80):
    y, x = np.mgrid[:size, :size] - size // 2
    return 0.05 + 12 * (1 + (y**2 + x**2) / 25) ** -1.5


@pytest.mark.parametrize("rate", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("step, offset", [(1.0, 0.0), (0.25, 100.0)])
def test_counts_are_told_from_clipped_noise(rate, step, offset):
    counts = np.random.default_rng(0).poisson(rate * bead() / 0.3)
    image = counts * step + offset
    assert count_step(image) == count_step(-image) == pytest.approx(step)
    assert clipping(image) == clipping(-image) == (-np.inf, np.inf)


def test_clipped_noise_is_not_counted():
    noisy = np.clip(bead() / 12 + 0.1 * normal(80, 80), 0, 1)
    for image in (noisy, np.round(1024 * noisy) / 1024, np.round(255 * noisy)):
        assert count_step(image) == 0 and np.isfinite(clipping(image)[0])
    black = np.round(1024 * np.clip((bead() / 12 - 0.1) + 0.1 * normal(80, 80), 0, 1)) / 1024
    assert np.median(black) == 0 and count_step(black) == 0  # most of it is clipped
    assert count_step(normal(40, 40)) == 0 and count_step(np.zeros((8, 8))) == 0


def test_photons_are_kept_in_either_polarity():
    counts = np.random.default_rng(0).poisson(bead()).astype(float)
    restored = ssi_cupy.deconvolve(counts, gaussian(1.0), progress=False)
    assert restored.sum() == pytest.approx(counts.sum(), rel=0.03)
    faint = bead() < 0.3
    assert restored[faint].mean() == pytest.approx(counts[faint].mean(), rel=0.2)


def test_an_image_and_its_negative_are_each_others_negative():
    image, options = 5 + 2 * bead(40) + normal(40, 40), {"num_iter": 20, "progress": False}
    restored, negative = (ssi_cupy.deconvolve(s * image, gaussian(1.0), **options) for s in (1, -1))
    np.testing.assert_allclose(negative, -restored, atol=1e-4 * restored.max())
