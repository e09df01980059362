"""The noise model: how noise grows with light, what was clipped, what is no light at all."""

import numpy as np
import pytest
from scipy import ndimage

import ssi_cupy
from small_runs import PSF, picture
from ssi_cupy.engine.checks import InputError
from ssi_cupy.noise import NoiseModel, noise_model, outliers
from ssi_cupy.physics import PSFConvolution
from ssi_cupy.psf import gaussian
from ssi_cupy.training.image_noise import MOST

BLUR = gaussian(1.5)
RNG = np.random.default_rng


def light(*shape, seed=0):
    """Blurred blobs from 0.05 to about 1, with texture."""
    rng = RNG(seed)
    scene = (rng.random(shape) > 0.97) * rng.random(shape) * 12 + 0.05
    return PSFConvolution(BLUR).forward(scene[None, None, None])[0, 0, 0]


# ---- gain and read noise --------------------------------------------------------------------


@pytest.mark.parametrize("gain, read, offset", [(2.0, 5.0, 100.0), (0.5, 1.0, 0.0)])
def test_gain_and_read_noise_are_read_off_an_image(gain, read, offset):
    photons = RNG(1).poisson(200 * light(160, 160))
    image = gain * photons + offset + read * RNG(2).normal(size=photons.shape)
    found = noise_model(image, BLUR)
    assert found.gain == pytest.approx(gain, rel=0.25)
    bright = offset + gain * np.array([20.0, 100.0, 300.0])
    np.testing.assert_allclose(found.variance(bright), gain * (bright - offset) + read**2, rtol=0.3)
    negative = noise_model(-image, BLUR)
    np.testing.assert_allclose(negative.variance(-bright), found.variance(bright), rtol=1e-6)


@pytest.mark.parametrize("level", [0.01, 0.1, 0.5])
def test_noise_that_is_the_same_everywhere_has_no_gain(level):
    found = noise_model(light(128, 128) + level * RNG(3).normal(size=(128, 128)), BLUR)
    assert found.gain == 0 and found.level == pytest.approx(level, rel=0.05)
    np.testing.assert_allclose(found.variance(np.array([0.0, 7.0])), found.level**2)


def test_counts_have_the_noise_of_photons():
    found = noise_model(0.25 * RNG(0).poisson(3 * light(64, 64)) + 10, BLUR)
    assert (found.gain, found.step, found.read_noise) == (0.25, 0.25, 0)
    assert found.offset == 10 and found.low == -np.inf


def test_what_is_known_of_the_camera_is_taken():
    image = RNG(0).poisson(100 * light(64, 64)) * 2.0 + 100
    found = noise_model(image, BLUR, gain=3, read_noise=7, offset=90)
    assert (found.gain, found.read_noise, found.offset) == (3, 7, 90)
    assert found.level == pytest.approx(np.sqrt(3 * (image - 90).mean() + 49))
    alike = noise_model(image, BLUR, gain=0, read_noise=7)
    assert alike.level == 7 and (alike.variance(image) == 49).all()
    part = noise_model(image, BLUR, gain=2.0)
    assert part.gain == 2 and part.read_noise < 10
    for name, bad in (("gain", np.nan), ("read_noise", -1), ("offset", "dark")):
        with pytest.raises(InputError, match=name):
            noise_model(image, BLUR, **{name: bad})
        with pytest.raises(InputError, match=name):
            ssi_cupy.deconvolve(image, BLUR, **{name: bad})


def test_units():
    model = NoiseModel(2.0, 3.0, 1.0, 100.0, low=0.0, high=200.0, step=3.0)
    values = np.array([100.0, 130.0, 190.0])
    for scale in (50.0, -50.0):
        other = model.in_units(10.0, scale)
        found = other.variance((values - 10) / scale) * scale**2
        np.testing.assert_allclose(found, model.variance(values))
        assert (other.low, other.high) == ((-0.2, 3.8) if scale > 0 else (-3.8, 0.2))
        assert other.step == 0.06 and other.level == 0.04


# ---- outliers -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape, psf", [
    ((96, 100), BLUR), ((12, 40, 44), gaussian((1.0, 1.5, 1.5))),
])  # fmt: skip
def test_hot_and_dead_pixels_are_found_and_hardly_any_other(shape, psf):
    rng = RNG(5)
    scene = ndimage.gaussian_filter((rng.random(shape) > 0.97) * 30.0, 0.5)
    clean = PSFConvolution(psf).forward(scene.reshape((1,) * (5 - len(shape)) + shape))
    image = clean.reshape(shape) + 0.03 * rng.normal(size=shape)
    hit = rng.random(shape) < 0.005
    spoilt = np.where(hit, rng.choice([-3.0, 8.0], size=shape), image)
    hit &= np.abs(spoilt - image) > 1
    found = outliers(spoilt, psf, noise_model(image, psf))
    assert found.shape == shape and found.dtype == bool
    assert found[hit].mean() > 0.8 and found[~hit].mean() < 0.003
    np.testing.assert_array_equal(outliers(-spoilt, psf, noise_model(-image, psf)), found)


def test_stars_and_edges_are_no_outliers():
    """Points of light, dark points and sharp edges, blurred as little as may be."""
    psf = gaussian(0.8)
    scene = np.full((80, 80), 0.2)
    scene[:, 40:] = 1.0
    scene[10:70:9, 10:70:9] += 20.0
    scene[14:70:9, 44:76:9] -= 0.9
    image = PSFConvolution(psf).forward(scene[None, None, None])[0, 0, 0]
    noisy = image + 0.003 * RNG(1).normal(size=image.shape)
    found = outliers(noisy, psf, noise_model(noisy, psf))
    assert found.mean() < 0.003
    assert not outliers(noisy, np.ones((1, 1)), noise_model(noisy)).any()


def test_outliers_change_nothing_but_themselves():
    """A hot pixel of any height gives the same restoration, bit for bit, and does not show."""
    image = picture()
    results = []
    for height in (9.0, 1e4):
        spoilt = image.copy()
        spoilt[20, 17] = spoilt[5, 13] = height
        results.append(ssi_cupy.deconvolve(spoilt, PSF, num_iter=3, rng=1, progress=False,
                                           full_output=True))  # fmt: skip
    np.testing.assert_array_equal(results[0].restored, results[1].restored)
    assert results[0].model.noise.outliers == results[1].model.noise.outliers > 0
    assert results[1].restored.max() < 5 * image.max()


def test_a_model_remembers_the_outliers_camera(tmp_path):
    image = picture()
    image[20, 17] = 50.0
    model = ssi_cupy.SelfSupervisedInverse(PSFConvolution(PSF), read_noise=0.1, gain=0.0)
    model.fit(image, steps=2, progress=False)
    model.save(tmp_path / "m.npz")
    again = ssi_cupy.SelfSupervisedInverse.load(tmp_path / "m.npz")
    assert again.noise == model.noise and again.camera == {"read_noise": 0.1, "gain": 0.0}
    np.testing.assert_array_equal(again.predict(image), model.predict(image))
    other = image.copy()
    other[20, 17] = 500.0
    np.testing.assert_array_equal(again.predict(other), model.predict(image))


def test_a_psf_that_is_too_wide_masks_nothing(caplog):
    """Then everything sticks out."""
    sharp = RNG(0).poisson(50 * (RNG(1).random((64, 64)) > 0.8)).astype(float)
    sharp += RNG(2).normal(size=sharp.shape)
    model = ssi_cupy.SelfSupervisedInverse(PSFConvolution(gaussian(3)))
    model.fit(sharp, steps=1, progress=False)
    assert model.noise.outliers == 0 and "wider than the blur" in caplog.text
    assert MOST < 0.05
