"""What sticks out by more than the PSF allows: the same, however it is looked for."""

import sys

import numpy as np
import pytest

from ssi_cupy.noise import NoiseModel, outliers
from ssi_cupy.psf import gaussian


@pytest.mark.parametrize("shape", [(90, 70), (12, 40, 30)])
def test_slab_by_slab_is_the_whole(shape, monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.normal(100, 1, shape)
    image[rng.random(shape) < 0.01] += 60
    psf = gaussian(1.5, ndim=len(shape))
    whole = outliers(image, psf, NoiseModel(1.0, read_noise=1.0))
    monkeypatch.setattr(sys.modules["ssi_cupy.noise.outliers"], "AT_ONCE", 700)
    np.testing.assert_array_equal(outliers(image, psf, NoiseModel(1.0, read_noise=1.0)), whole)
    assert whole.any()
