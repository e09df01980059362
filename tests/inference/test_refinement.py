"""Refinement puts back what was missed where it stands out of the noise, and nothing else."""

import numpy as np
import pytest

import ssi_cupy
from small_runs import PSF, picture
from ssi_cupy import physics, recipes
from ssi_cupy.inference import refinement
from ssi_cupy.inference.refinement import can_refine, missed_signal, refine
from ssi_cupy.psf import gaussian

BLUR = physics.PSFConvolution(gaussian(1.5))


def scene(*shape, seed=0):
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    return gaussian_filter((rng.random(shape) > 0.9).astype(float), 1.0)[(None,) * (5 - len(shape))]


@pytest.mark.parametrize("shape", [(96, 90), (24, 32, 30)])
def test_what_a_network_missed_comes_back(shape):
    """Of a restoration that is too smooth, and noise that is low."""
    g = BLUR if len(shape) == 2 else physics.PSFConvolution(gaussian((1.0, 1.5, 1.5)))
    sharp = scene(*shape)
    missed = physics.PSFConvolution(gaussian(1.5)).forward(sharp) - sharp
    y = g.forward(sharp) + np.random.default_rng(1).normal(0, 0.002, sharp.shape)
    found = missed_signal(y, g.forward(sharp + missed), g)
    inside = (..., *(slice(8, -8) if n > 20 else slice(None) for n in sharp.shape[2:]))
    left = np.linalg.norm((missed + found)[inside]) / np.linalg.norm(missed[inside])
    assert left < 0.75


def test_noise_is_left_alone():
    """Where the residual is noise, next to nothing is added: a hundredth of the noise's power."""
    sharp = scene(128, 128)
    noise = np.random.default_rng(1).normal(0, 0.1, sharp.shape)
    found = missed_signal(BLUR.forward(sharp) + noise, BLUR.forward(sharp), BLUR)
    assert found.std() < 0.1 * noise.std()


def test_it_scales_and_does_not_reach_the_border():
    y = BLUR.forward(scene(64, 70)) + 0.5 * scene(64, 70, seed=3)
    blurred = BLUR.forward(scene(64, 70))
    found = missed_signal(y, blurred, BLUR)
    np.testing.assert_allclose(missed_signal(7 * y, 7 * blurred, BLUR), 7 * found, rtol=1e-6)
    assert np.abs(found[..., 0, :]).max() < 0.2 * np.abs(found).max()


def test_a_sensor_that_clips_at_black_leaves_no_haze():
    """The noise that is left of clipped noise has a mean, which is the sensor's doing."""
    blurred = BLUR.forward(np.clip(3 * scene(128, 128) - 0.5, 0, None))
    y = np.clip(blurred + np.random.default_rng(0).normal(0, 0.1, blurred.shape), 0, None)
    assert (y == 0).mean() > 0.2
    found = missed_signal(y, blurred, BLUR)
    assert found.std() < 0.01 and abs(found.mean()) < 0.002


def test_deconvolve_refines_unless_told_not_to():
    image, options = picture((40, 36)), {"num_iter": 5, "progress": False, "full_output": True}
    results = [ssi_cupy.deconvolve(image, PSF, refine=r, **options) for r in (None, True, False)]
    np.testing.assert_array_equal(results[0].restored, results[1].restored)
    assert (results[0].restored != results[2].restored).any()
    plain = results[2].model
    np.testing.assert_array_equal(results[2].restored, plain.predict(image))
    whole = refine(image, *plain.restore(image), plain.physics)
    np.testing.assert_array_equal(results[0].restored, whole[0])
    np.testing.assert_array_equal(results[0].denoised, whole[1])
    g = plain.physics.forward(results[0].restored[None, None, None].astype(np.float64))[0, 0, 0]
    inside = (slice(6, -6), slice(6, -6))
    np.testing.assert_allclose(results[0].denoised[inside], g[inside], atol=0.02)


def test_what_cannot_be_refined():
    assert can_refine(BLUR) and not can_refine(physics.Identity())
    assert not can_refine(physics.Composition(BLUR, physics.Clamp(0, 1)))
    assert recipes.DEFAULT.refine and not recipes.SSI.refine


@pytest.mark.parametrize("mode", ["mirror", "wrap"])
@pytest.mark.parametrize("shape", [(200, 150), (20, 70, 60)])
def test_part_by_part(shape, mode, monkeypatch):
    """As much of what was missed comes back, without seams, and g(f(y)) stays that of f(y)."""
    g = physics.PSFConvolution(gaussian(1.5 if len(shape) == 2 else (1.0, 1.5, 1.5)), mode=mode)
    sharp = scene(*shape)
    soft = physics.PSFConvolution(gaussian(1.5)).forward(sharp)
    y = g.forward(sharp) + np.random.default_rng(1).normal(0, 0.002, sharp.shape)
    given = [a[0, 0].reshape(shape) for a in (y, soft, g.forward(soft))]
    whole = refine(*given, g)
    monkeypatch.setattr(refinement, "AT_ONCE", 1000)
    monkeypatch.setattr(refinement, "PART", {2: 64, 3: 48})
    parts = refine(*given, g)
    inside = tuple(slice(6, -6) for _ in shape)
    errors = [np.std((x - sharp.reshape(shape))[inside]) for x, _ in (whole, parts)]
    assert errors[1] < 1.1 * errors[0] < 1.1 * np.std((given[1] - sharp.reshape(shape))[inside])
    change = np.std(parts[0] - given[1])
    again = g.forward(parts[0].reshape(y.shape).astype(np.float64)).reshape(shape)
    assert np.abs(parts[1] - again).max() < 0.02 * change
