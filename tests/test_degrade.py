"""`degrade` is the published degradation, `blur` a true convolution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, signal

from ssi_cupy.degrade import blur, degrade, normalise
from ssi_cupy.engine.checks import InputError

rng = np.random.default_rng(1)
IMAGE = rng.uniform(3, 9, (12, 15))
PSF = rng.uniform(size=(5, 3))  # no symmetry at all
PSF /= PSF.sum()


@pytest.mark.parametrize("shape", [(5, 3), (4, 6), (1, 7), (2, 3, 4), (3, 5, 3)])
def test_blur_is_scipys_true_convolution_odd_and_even_2d_and_3d(shape):
    image = rng.normal(size=(9, 10, 11)[-len(shape) :])
    psf = rng.uniform(size=shape)
    full = signal.convolve(image, psf / psf.sum(), mode="full", method="direct")
    inside = [slice(k // 2, k // 2 + n) for k, n in zip(shape, image.shape, strict=True)]
    expected = full[tuple(inside)]
    np.testing.assert_allclose(blur(image, psf), expected, atol=1e-12)


@pytest.mark.parametrize("mode", ["mirror", "nearest", "wrap", "constant"])
def test_blur_continues_the_image_as_scipy_ndimage_does(mode):
    expected = ndimage.convolve(IMAGE, PSF, mode=mode)
    np.testing.assert_allclose(blur(IMAGE, PSF, mode), expected, atol=1e-12)


def test_blur_divides_the_psf_by_its_sum():
    np.testing.assert_allclose(blur(IMAGE, 7 * PSF), blur(IMAGE, PSF), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_normalise_spans_0_to_1_in_float32_whatever_the_dtype(dtype):
    image = normalise(np.array([[3, 8], [13, 23]], dtype))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, [[0, 0.25], [0.5, 1]])


def test_degrade_draws_in_the_published_order():
    np.random.seed(5)
    normal, mask, value = np.random.normal(size=IMAGE.shape), *np.random.uniform(size=(2, 12, 15))
    b = signal.convolve(normalise(IMAGE), PSF, mode="same")
    y = b + np.sqrt(0.001 * b + 0.1**2) * normal
    sap = mask < 0.2
    y = y * (1 - sap) + sap * value
    expected = np.clip(np.around(1024 * y) / 1024, 0, 1)
    degraded = degrade(IMAGE, PSF, salt_pepper=0.2, rng=5)
    assert degraded.dtype == np.float32
    np.testing.assert_array_equal(degraded, expected.astype(np.float32))


def test_degrade_leaves_the_global_generator_alone_and_repeats_itself():
    before = np.random.get_state()[1].copy()
    first, again, other = degrade(IMAGE, PSF), degrade(IMAGE, PSF), degrade(IMAGE, PSF, rng=1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_noise_has_the_variance_alpha_b_plus_sigma_squared():
    image = np.repeat([[0.0, 1.0]], 200, axis=0).repeat(200, axis=1)
    noisy = degrade(image, np.ones((1, 1)), alpha=0.002, sigma=0.03, salt_pepper=0, bits=None)
    # Half of the noise is clipped away at 0, the other half at 1. What is left has the same rms.
    noise = (noisy - image)[(noisy > 0) & (noisy < 1)]
    assert np.sqrt((noise[noise > 0] ** 2).mean()) == pytest.approx(0.03, rel=0.02)
    expected = np.sqrt(0.03**2 + 0.002)
    assert np.sqrt((noise[noise < 0] ** 2).mean()) == pytest.approx(expected, rel=0.02)


def test_each_disturbance_can_be_left_out():
    clean = degrade(IMAGE, PSF, alpha=0, sigma=0, salt_pepper=0, bits=None, mode="mirror")
    np.testing.assert_allclose(clean, blur(normalise(IMAGE), PSF, "mirror"), atol=1e-6)
    levels = degrade(IMAGE, PSF, bits=3) * 8
    np.testing.assert_array_equal(levels, np.around(levels))


def test_generators_are_accepted_and_advance():
    generator = np.random.default_rng(0)
    assert (degrade(IMAGE, PSF, rng=generator) != degrade(IMAGE, PSF, rng=generator)).any()


@pytest.mark.parametrize(
    "argument, arguments",
    [
        ("image", {"image": np.full((9, 9), 2.0)}),
        ("image", {"image": np.zeros((0, 9))}),
        ("image", {"image": np.where(IMAGE > 8, np.nan, IMAGE)}),
        ("image", {"image": np.arange(9.0)}),
        ("image", {"image": IMAGE * 1j}),
        ("psf", {"psf": -PSF}),
        ("psf", {"psf": 0 * PSF}),
        ("psf", {"psf": PSF[None]}),
        ("psf", {"psf": np.ones((25, 3))}),
        ("psf", {"psf": "psf"}),
        ("alpha", {"alpha": -1}),
        ("sigma", {"sigma": np.nan}),
        ("salt_pepper", {"salt_pepper": 50}),
        ("bits", {"bits": 0}),
        ("mode", {"mode": "reflect"}),
        ("rng", {"rng": "seed"}),
        ("rng", {"rng": 2**40}),
    ],
)
def test_bad_input_is_named(argument, arguments):
    with pytest.raises(InputError, match=f"^{argument}: expected .*, got ") as caught:
        degrade(**{"image": IMAGE, "psf": PSF, **arguments})
    assert caught.value.argument == argument
