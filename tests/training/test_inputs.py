"""What the network is shown: Wiener-filtered copies, of what can be seen and of nothing else."""

import dataclasses

import numpy as np
import pytest

from small_runs import PSF, picture, trained
from ssi_cupy import SelfSupervisedInverse, physics, recipes
from ssi_cupy.psf import gaussian
from ssi_cupy.training.inputs import NetworkInputs, levels_for, wiener_kernel

BLUR = physics.PSFConvolution(gaussian(1.5))


def seen(*shape):
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def test_a_kernel_inverts_the_blur_where_noise_is_low():
    """Blurred and filtered, a smooth image comes back, and a constant does exactly."""
    kernel = wiener_kernel(BLUR.psf, 1e-5)
    assert kernel.sum() == pytest.approx(1, abs=1e-12) and kernel.min() < 0
    image = picture((64, 64)).astype(np.float64)[None, None, None]
    smooth = physics.PSFConvolution(gaussian(2.5)).forward(image)
    blurred = BLUR.forward(smooth)
    back = NetworkInputs(BLUR, [1e-3])(blurred)[:, 1:]
    inside = (..., slice(20, -20), slice(20, -20))
    off = [np.linalg.norm((a - smooth)[inside]) for a in (back, blurred)]
    assert off[0] < 0.1 * off[1]


def test_more_noise_is_filtered_more():
    inputs = NetworkInputs(BLUR, [1e-4, 1e-2, 1.0])
    shown = inputs(seen(1, 1, 1, 40, 44))
    assert shown.shape == (1, 4, 1, 40, 44) and inputs.channels(1) == 4
    spread = shown[0].std(axis=(1, 2, 3))
    assert spread[1] > spread[2] > spread[3]


@pytest.mark.parametrize("shape", [(1, 1, 1, 16, 16), (2, 3, 1, 30, 21), (1, 1, 5, 20, 22)])
def test_channels_and_sizes(shape):
    """Each channel has its own copies; images may be smaller than the filters."""
    g = physics.PSFConvolution(gaussian((1.0, 1.5, 1.5)) if shape[2] > 1 else gaussian(3.0))
    inputs, image = NetworkInputs(g, [0.01, 0.1]), seen(*shape)
    shown = inputs(image)
    np.testing.assert_array_equal(shown[:, : shape[1]], image)
    for i in range(1, 3):
        for c in range(shape[1]):
            alone = inputs(np.ascontiguousarray(image[:, c : c + 1]))[:, i]
            np.testing.assert_allclose(shown[:, i * shape[1] + c], alone, atol=1e-5)


def test_a_filter_reaches_as_far_as_it_says():
    inputs, image = NetworkInputs(BLUR, [1e-4]), np.zeros((1, 1, 1, 121, 121), np.float32)
    image[..., 60, 60] = 1
    far = np.argwhere(np.abs(inputs(image)[0, 1, 0]) > 1e-6) - 60
    assert np.abs(far).max() <= inputs.reach[1] == inputs.reach[2] and inputs.reach[0] == 0


def test_without_a_psf_nothing_is_added():
    for g in (physics.Identity(), physics.PSFConvolution(np.ones((1, 1)))):
        assert levels_for(g, (0.3, 3.0), 0.1, 1.0) == [] and NetworkInputs(g, []).channels(2) == 2
    model = trained(g=physics.Identity())
    assert model.wiener_levels == [] and model.net.inputs == 1


def test_levels_follow_the_noise():
    low, high = (levels_for(BLUR, (1.0, 10.0), noise, 1.0) for noise in (0.01, 0.1))
    assert low == pytest.approx([1e-4, 1e-3], rel=0.01) and high[0] > 50 * low[0]
    assert min(levels_for(BLUR, (1.0,), 0.0, 1.0)) > 0


def test_a_model_file_keeps_the_levels(tmp_path):
    model, image = trained(), picture()
    assert len(model.wiener_levels) == 3 and model.net.inputs == 4
    model.save(tmp_path / "model.npz")
    again = SelfSupervisedInverse.load(tmp_path / "model.npz")
    assert again.wiener_levels == model.wiener_levels
    np.testing.assert_array_equal(again.predict(image), model.predict(image))


def test_a_recipe_may_do_without():
    recipe = dataclasses.replace(recipes.DEFAULT, wiener=())
    assert trained(recipe=recipe, g=physics.PSFConvolution(PSF)).net.inputs == 1
