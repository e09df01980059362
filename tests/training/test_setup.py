"""What a training finds out about an image before its first step."""

import dataclasses

import numpy as np
import pytest

from ssi_cupy import physics, psf, recipes
from ssi_cupy.engine.checks import InputError
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.losses import Losses
from ssi_cupy.noise import noise_model
from ssi_cupy.training.forward_model import allowed_symmetries, forward_model, margin_of
from ssi_cupy.training.image_noise import mask_for
from ssi_cupy.training.loss_settings import losses_for
from ssi_cupy.training.network import network_for
from ssi_cupy.training.units import units_of, voxel
from ssi_cupy.unet import UNet

BLUR = physics.PSFConvolution(psf.gaussian(1.5))


def exposure(low=-np.inf, high=np.inf, noise=0.1):
    """A blurred ramp from 0 to 1 with noise, and what a sensor makes of it."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 128)[None, :].repeat(128, 0) + noise * rng.normal(size=(128, 128))
    return ramp.clip(low, high)[None, None, None].astype(np.float32)


def sensors(y, recipe=recipes.DEFAULT):
    g = forward_model(BLUR, recipe, y)
    parts = g.models if isinstance(g, physics.Composition) else (g,)
    return [part for part in parts if isinstance(part, physics.SensorResponse)]


# ---- the sensor ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "low, high", [(-np.inf, np.inf), (0, np.inf), (-np.inf, 1), (0, 1)], ids=str
)
def test_a_clipping_sensor_is_found_and_no_other(low, high):
    found = sensors(exposure(low, high))
    if np.isinf(low) and np.isinf(high):
        assert not found
    else:
        assert (found[0].low, found[0].high) == (low, high)
        assert found[0].noise == pytest.approx(0.1, rel=0.15)


def test_counts_of_photons_are_not_taken_for_a_clipped_image():
    """Many zeros, but no more than there are ones: Poisson noise of mean 1."""
    counts = np.random.default_rng(1).poisson(1.0, (64, 64))
    counts[0, :10] = np.arange(10)  # enough different values to judge by
    assert not sensors(counts[None, None, None].astype(np.float32))


def test_a_restoration_through_the_sensor_is_not_too_bright():
    """Of black seen through clipped noise, the mean reading is σ/√(2π) and the light 0."""
    g = physics.SensorResponse(0.1, low=0, high=1)
    black = np.zeros((1, 1, 1, 4, 4))
    np.testing.assert_allclose(g.forward(black), 0.1 / np.sqrt(2 * np.pi), rtol=1e-6)


# ---- losses -------------------------------------------------------------------------------------


def test_adaptive_losses_are_in_units_of_the_noise():
    for noise in (0.05, 0.2):
        losses = losses_for(BLUR, recipes.DEFAULT, exposure(noise=noise))
        assert losses.delta == pytest.approx(noise * recipes.DEFAULT.losses.delta, rel=0.1)
        share = noise**2 / (noise**2 + 1 / 12)
        tv = noise * (recipes.DEFAULT.losses.tv + 0.3 * share**4)
        assert losses.tv == pytest.approx(tv, rel=0.2)
        assert losses.high == np.inf
    assert losses_for(BLUR, recipes.DEFAULT, exposure(0, 1)).high == 1
    assert losses_for(BLUR, recipes.SSI, exposure()) == recipes.SSI.losses


@pytest.mark.parametrize("noise, end", [(0.05, 0.3), (0.5, 0.05)])
def test_fewer_pixels_are_hidden_where_noise_is_strong(noise, end):
    y = exposure(noise=noise)
    mask = mask_for(recipes.DEFAULT, noise_model(y, BLUR.psf), y)
    assert (mask.start, mask.end) == (0.3, pytest.approx(end))
    assert mask_for(recipes.SSI, None, y) is recipes.SSI.mask


def test_losses_are_in_the_units_of_the_data():
    """Of counts 100 … 300 with mean 150 and deviation 50: −3, −1 and 3 are 0, 100 and 300."""
    y = np.array([-1.0, 0, 0, 3]).reshape(1, 1, 1, 2, 2)
    losses = Losses(positivity=1, bound=0.4, bound_blurred=0.8, bound_squared=False, high=0.5)
    recipe = dataclasses.replace(recipes.SSI, normalise="standardise", losses=losses)
    found = losses_for(BLUR, recipe, y, 150.0, 50.0)
    assert (found.zero, found.low, found.high) == (-3, -1, 1)
    assert (found.bound, found.bound_blurred) == (0.1, 0.2)


# ---- the border ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "g, expected",
    [
        (physics.PSFConvolution(np.ones((5, 9))), (0, 4, 4)),
        (physics.PSFConvolution(np.ones((3, 4, 5)), mode="nearest"), (1, 2, 2)),
        (physics.PSFConvolution(np.ones((5, 9)), mode="wrap"), (0, 0, 0)),
        (physics.PSFConvolution(np.ones((5, 9)), mode="constant"), (0, 0, 0)),
        (physics.Identity(), (0, 0, 0)),
    ],
)
def test_a_margin_only_where_the_border_is_a_guess(g, expected):
    assert margin_of(g, recipes.DEFAULT, (20, 30, 30)) == expected
    assert margin_of(g, recipes.SSI, (20, 30, 30)) == (0, 0, 0)


# ---- the network, units, symmetries -------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, windows",
    [
        ((1, 64, 64), [(1, 2, 2)] * 4),
        ((1, 16, 500), [(1, 2, 2)] * 2 + [(1, 1, 1)] * 2),
        ((16, 64, 70), [(2, 2, 2)] * 3 + [(1, 2, 2)]),
        ((2, 64, 64), [(1, 2, 2)] * 4),
    ],
)
def test_the_network_is_pooled_as_often_as_the_image_allows(shape, windows):
    net = network_for(np.zeros((1, 1, *shape), np.float32))
    assert list(net.windows) == windows and net.ndim == (2 if shape[0] == 1 else 3)
    with pytest.raises(InputError, match="^image: "):
        network_for(np.zeros((1, 1, 1, 15, 64)))


@pytest.mark.parametrize(
    "shape, spacing, windows",
    [
        ((32, 64, 64), (0.1, 0.1, 0.1), [(2, 2, 2)] * 4),
        ((32, 64, 64), (0.2, 0.1, 0.1), [(1, 2, 2)] + [(2, 2, 2)] * 3),
        ((32, 64, 64), (0.13, 0.1, 0.1), [(2, 2, 2)] * 4),
        ((32, 64, 64), (0.8, 0.1, 0.1), [(1, 2, 2)] * 3 + [(2, 2, 2)]),
        ((64, 64, 64), (0.1, 0.2, 0.2), [(2, 1, 1)] + [(2, 2, 2)] * 3),
        ((3, 64, 64), (0.1, 0.2, 0.2), [(1, 2, 2)] * 4),
        ((1, 64, 64), (0.8, 0.1, 0.1), [(1, 2, 2)] * 4),
        ((64, 16, 16), (0.2, 0.1, 0.1), [(1, 2, 2), (2, 2, 2), (2, 1, 1), (1, 1, 1)]),
    ],
)
def test_only_the_short_sides_of_voxels_are_pooled_until_they_are_near_cubic(
    shape, spacing, windows
):
    net = network_for(np.zeros((1, 1, *shape), np.float32), spacing=spacing)
    assert list(net.windows) == windows
    heights = np.cumprod([(1, 1, 1), *windows], axis=0) * spacing
    ratios = heights[:, 0] / heights[:, 1]
    if shape[0] > 1:
        for level, ratio in enumerate(ratios):  # a kernel is about as high as wide, in µm
            depth = net.kernel(5, level)[0]
            assert depth == (5 if ratio <= 1.25 else 3)  # about 5 across, but never fewer than 3
            assert depth == 5 or spacing[0] > spacing[1]


def test_voxels_as_cubes_change_nothing():
    y = np.zeros((1, 2, 20, 40, 30), np.float32)
    assert network_for(y, spacing=(0.3, 0.3, 0.3)) == network_for(y)
    assert network_for(y[:, :, :1], spacing=(1.0, 0.3, 0.3)) == network_for(y[:, :, :1])
    template = UNet(widths=(4, 8))
    assert network_for(y, template) == UNet(3, 2, 2, widths=(4, 8), windows=((2, 2, 2),))


def test_volumes_may_have_a_network_of_their_own():
    recipe = dataclasses.replace(recipes.DEFAULT, network_3d=UNet(widths=(4, 6), taps=(3, 1)))
    expected = ((20, 24), recipe.network), ((8, 20, 24), recipe.network_3d)
    for shape, network in expected:
        model = SelfSupervisedInverse(physics.Identity(), recipe)
        model.fit(np.random.default_rng(0).random(shape), steps=1, progress=False)
        assert model.net.widths == network.widths and model.net.taps == network.taps
        assert model.net.ndim == len(shape)


def test_pixel_sizes_for_each_axis_or_for_all():
    assert voxel(None, 3) is None
    assert voxel(0.2, 3) == voxel((0.2, 0.2), 2) == (0.2, 0.2, 0.2)
    assert voxel([0.5, 0.1, 0.2], 3) == (0.5, 0.1, 0.2)
    for bad in (0, -1, np.nan, (1, 1), "x", (1, 0, 1)):
        with pytest.raises(InputError, match="^spacing: expected"):
            voxel(bad, 3)


def test_losses_know_the_distance_of_pixels():
    losses = losses_for(BLUR, recipes.DEFAULT, exposure(), spacing=(0.6, 0.2, 0.2))
    assert losses.spacing == pytest.approx((3, 1, 1))
    assert losses_for(BLUR, recipes.DEFAULT, exposure()).spacing == (1, 1, 1)


def test_units_by_range_and_by_percentile():
    y = np.arange(1001.0).reshape(1, 1, 1, 7, 143)
    y[..., -1, -1] = 1e6  # a hot pixel
    assert units_of(y, "range") == (0, 1e6)
    offset, scale = units_of(y, "percentile")
    assert offset == pytest.approx(5) and scale == pytest.approx(990)


def test_turns_are_those_that_the_psf_has():
    assert len(allowed_symmetries(BLUR)) == 8
    assert len(allowed_symmetries(physics.Identity())) == 8
    oblong = psf.gaussian((1.0, 2.0))
    assert len(allowed_symmetries(physics.PSFConvolution(oblong))) == 4
    skew = np.pad(oblong, ((0, 2), (0, 0)))[2:]  # moved: no longer symmetric along Y
    assert allowed_symmetries(physics.PSFConvolution(skew)) == [(False, ()), (False, (4,))]
    assert len(allowed_symmetries(physics.PSFConvolution(psf.gaussian((2.0, 1.0, 1.0))))) == 16
    assert allowed_symmetries(object()) == [(False, ())]


@pytest.mark.parametrize("transform", allowed_symmetries(BLUR))
def test_a_turn_commutes_with_the_blur_and_is_undone(transform):
    from ssi_cupy import symmetry

    x = np.random.default_rng(2).random((1, 1, 1, 18, 21))
    transformed = symmetry.apply(x, transform)
    np.testing.assert_allclose(
        BLUR.forward(transformed), symmetry.apply(BLUR.forward(x), transform), atol=1e-12
    )
    np.testing.assert_array_equal(symmetry.undo(transformed, transform), x)
