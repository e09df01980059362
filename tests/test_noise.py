"""The noise of an image, read off the image itself."""

import numpy as np
import pytest
from scipy import ndimage

from ssi_cupy.noise import estimate_noise
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
