"""Masked pixels: whatever lies under a mask changes no bit, and a seam leaves no trace."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from emulation import fake_cupy
from running import both_dtypes, both_runs, emulated
from small_runs import PSF, SMALL, picture, small, trained
from ssi_cupy import deconvolve, denoise, metrics, physics, psf, recipes, symmetry
from ssi_cupy.engine.checks import InputError
from ssi_cupy.inference.masked_image import masked_image
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.training import missing
from ssi_cupy.training.image_sets import gather
from ssi_cupy.training.step import Training
from ssi_cupy.unet import UNet

UNDER = (-9999.0, 1e6, np.nan, np.inf)  # what lies under a mask
QUICK = {"num_iter": 3, "progress": False}


def corners(shape, size=9):
    """Two corners, and some single pixels."""
    y, x = np.indices(shape[-2:])
    mask = (y + x < size) | (y + x > sum(shape[-2:]) - size)
    mask |= np.random.default_rng(3).random(shape[-2:]) < 0.02
    return np.broadcast_to(mask, shape)


def under(image, mask, value):
    return np.where(mask, np.float32(value), image)


def same_whatever_lies_there(restore, image, mask):
    """The result of `restore(image)`, the same for all that may lie under the mask."""
    results = [restore(under(image, mask, value)) for value in UNDER]
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
    assert np.isfinite(results[0]).all() and results[0].shape == image.shape
    return results[0]


# ---- no bit of it ---------------------------------------------------------------------------


@pytest.mark.parametrize("function", [deconvolve, denoise])
def test_what_lies_under_a_mask_changes_no_bit(function):
    image, mask = picture(), corners((24, 20))
    found = same_whatever_lies_there(lambda y: function(y, PSF, mask=mask, **QUICK), image, mask)
    masked = np.ma.masked_array(under(image, mask, 7), mask)
    np.testing.assert_array_equal(function(masked, PSF, **QUICK), found)
    named = function(under(image, mask, np.nan), PSF, mask="nan", **QUICK)
    np.testing.assert_array_equal(named, found)


@pytest.mark.parametrize("recipe", recipes.names())
def test_no_recipe_sees_a_masked_pixel(recipe):
    recipe, flat = small(recipe), not recipe.endswith("3d")
    shape = (24, 20) if flat else (12, 20, 18)
    image, mask = picture(shape), corners(shape)
    g = physics.PSFConvolution(PSF if flat else PSF[None])

    def restore(y):
        model = SelfSupervisedInverse(g, recipe, rng=4).fit(y, mask=mask, **SMALL)
        assert all(np.isfinite(h["loss"]) for h in model.history)
        return np.stack(model.restore(y, mask=mask)).sum(0)

    same_whatever_lies_there(restore, image, mask)


@pytest.mark.parametrize(
    "axes, shape, psf",
    [("ZYX", (6, 20, 18), PSF[None]), ("TYX", (2, 20, 18), PSF), ("YXC", (20, 18, 2), PSF)],
)
def test_volumes_time_points_and_channels(axes, shape, psf):
    image = picture(shape)
    mask = np.random.default_rng(0).random(shape) < 0.2  # of each image its own
    same_whatever_lies_there(
        lambda y: deconvolve(y, psf, axes=axes, mask=mask, **QUICK), image, mask
    )


def test_a_channel_is_restored_as_by_itself():
    image, mask = picture((2, 20, 18)), np.random.default_rng(0).random((2, 20, 18)) < 0.2
    both = deconvolve(image, PSF, channel_axis=0, mask=mask, **QUICK)
    one = deconvolve(image[1], PSF, mask=mask[1], **QUICK)
    np.testing.assert_array_equal(both[1], one)


def test_a_mask_of_nothing_changes_nothing():
    image = picture()
    plain = deconvolve(image, PSF, **QUICK)
    for mask in (np.zeros(image.shape, bool), np.zeros(image.shape, np.uint8), "nan"):
        np.testing.assert_array_equal(deconvolve(image, PSF, mask=mask, **QUICK), plain)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
def test_dtypes_and_masks_that_are_broadcast(dtype):
    image = (200 * picture((20, 18))).astype(dtype)
    mask = np.zeros((20, 1), np.uint8)
    mask[3] = 255
    found = deconvolve(image, PSF, mask=mask, **QUICK)
    np.testing.assert_array_equal(
        found, deconvolve(image, PSF, mask=np.broadcast_to(mask > 0, image.shape), **QUICK)
    )


# ---- statistics and losses --------------------------------------------------------------------


def test_statistics_are_those_of_the_others():
    image, mask = picture((40, 40)), np.zeros((40, 40), bool)
    mask[:, 22:] = True
    for recipe in (recipes.DEFAULT, recipes.NOISE2SELF):
        # What is an outlier at the seam depends on what lies across it, so none is looked for.
        made = dataclasses.replace(recipe, network=UNet(), patch=None, steps=3, adaptive=False)
        model = SelfSupervisedInverse(physics.PSFConvolution(PSF), made, rng=1)
        model.fit(under(image, mask, 99), mask=mask, **SMALL)
        alone = SelfSupervisedInverse(physics.PSFConvolution(PSF), made, rng=1)
        alone.fit(image[:, :22], **SMALL)
        assert model.units == pytest.approx(alone.units, rel=1e-6)


def training_of(image, mask, recipe=recipes.DEFAULT):
    model = SelfSupervisedInverse(physics.PSFConvolution(PSF), small(recipe), rng=4)
    return Training(model, image[None, None, None].astype(float), 6, mask[None, None, None])


@pytest.mark.parametrize("recipe", [recipes.DEFAULT, recipes.SSI_NO_MASKING, recipes.NOISE2SAME])
def test_no_loss_looks_at_a_masked_pixel(recipe, monkeypatch):
    """A masked pixel of the target may be anything, even where the network's input is the same."""
    image, mask = picture(), corners((24, 20))
    recipe, runs = dataclasses.replace(small(recipe), validation_fill="zero"), []
    monkeypatch.setattr("ssi_cupy.training.step.fill", lambda y, *args, **options: 0 * y)
    for value in (0.0, 5.0):
        training = training_of(image, mask, recipe)
        draw = training.source.draw

        def drawn(step, y, validation, inside, draw=draw, value=value):
            draw(step, y, validation, inside)
            y += value * (1 - inside) * validation

        monkeypatch.setattr(training.source, "draw", drawn)
        reports = [training.step() for _ in range(6)]
        runs.append((training.parameters, [(r["loss"], r["validation"]) for r in reports]))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert repr(runs[0][1]) == repr(runs[1][1])


def test_a_masked_pixel_shows_no_hidden_one():
    """J-invariance across the seam: what it shows is what that pixel was filled with."""
    image, mask = picture(), corners((24, 20))
    shown = []
    for other in (False, True):
        training = training_of(image, mask)
        y, validation, inside = training._batch(training.source.shape_of(0))
        training.source.draw(0, y, validation, inside)
        training.numbers.write(draw=0, **training._levels(0))
        hidden = training.recipe.mask.draw(y.shape, training.seed, 0, 6) | validation
        if other:
            y[hidden == 1] += 7
        shown.append(training._masked(y, validation, inside)[0])
    np.testing.assert_array_equal(*shown)


def test_some_validation_pixels_are_left():
    mask = np.ones((1, 1, 1, 30, 30), bool)
    mask[..., 4:9, 4:9] = False
    found = missing.validation(mask.shape, 0.01, 0, mask, np.zeros(1, np.float32))
    assert found.any() and not (found & mask).any() and found.sum() < 25


# ---- what stands there ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1, 30, 33), (2, 1, 5, 12, 11)])
def test_masked_pixels_show_the_mirror_image_of_the_others(shape):
    rng = np.random.default_rng(0)
    masked = ndimage.gaussian_filter(rng.random(shape), 2) > 0.5
    places, sources = missing.mirrored(masked)
    assert set(places) == set(np.flatnonzero(masked))
    assert not masked.reshape(-1)[sources].any()
    y = rng.random((shape[0], 2, *shape[2:]))
    filled = missing.filled(y, masked)
    both = np.broadcast_to(masked, y.shape)
    np.testing.assert_array_equal(filled[~both], y[~both])
    straight = np.zeros((1, 1, 1, 1, 12), bool)
    straight[..., 7:] = True
    ramp = np.arange(12.0).reshape(1, 1, 1, 1, 12)
    assert missing.filled(ramp, straight).ravel().tolist() == [*range(7), 5, 4, 3, 2, 1]


def test_texture_goes_on_where_a_mask_is_wider_than_what_is_left():
    noise = np.random.default_rng(0).normal(size=(1, 1, 1, 60, 200))
    masked = np.zeros(noise.shape, bool)
    masked[..., 21:] = True
    filled = missing.filled(noise, masked)
    assert 0.8 < filled[masked].std() < 1.2
    assert np.diff(filled, axis=-1)[..., 21:].std() > 1.1  # no streaks: √2 of white noise


@pytest.mark.parametrize("transform", symmetry.every(3))
def test_numbers_of_pixels_are_transformed_as_images_are(transform):
    shape = (2, 1, 3, 4, 5)
    numbers = np.arange(120)
    image = numbers.reshape(shape)
    there = symmetry.apply(image, transform).reshape(-1)
    np.testing.assert_array_equal(
        there[missing.transformed(numbers, shape[2:], transform)], numbers
    )


@both_runs
@both_dtypes
def test_the_kernel_is_its_loop(threads, backwards, dtype, tolerance):
    rng = np.random.default_rng(1)
    masked = rng.random((2, 1, 3, 9, 7)) < 0.3
    y = rng.random((2, 3, 3, 9, 7)).astype(dtype)
    batch = missing.Missing(masked.size, y)  # more room than it needs
    batch.write(*missing.mirrored(masked))
    on_cpu = batch.fill(y.copy())
    np.testing.assert_array_equal(on_cpu, missing.filled(y, masked))
    with emulated(threads, backwards) as emulator:
        np.testing.assert_array_equal(batch.fill(y.copy()), on_cpu)
    assert emulator.launched == {"copy_missing_kernel"}


@pytest.mark.parametrize("recipe", [recipes.SSI, recipes.NOISE2SAME])
def test_on_a_gpu_the_same(recipe, monkeypatch):
    image, mask = picture((20, 18)), corners((20, 18))
    options = {"recipe": dataclasses.replace(small(recipe), refine=False), "mask": mask, **QUICK}
    here = deconvolve(image, PSF, device="cpu", **options)
    with fake_cupy.installed(monkeypatch):
        there = deconvolve(image, PSF, device="cuda", **options)
    np.testing.assert_allclose(there, here, atol=1e-4 * np.ptp(here))


# ---- inference ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    recipe = dataclasses.replace(recipes.DEFAULT, network=UNet(widths=(3, 4)), wiener=())
    return trained(picture((64, 60)), recipe)  # which sees no further than 20 pixels


def test_tiles_and_files_are_as_the_whole(model, tmp_path):
    image, mask = picture((150, 120), seed=3), corners((150, 120), 40)
    whole = model.predict(image, mask=mask)
    np.testing.assert_array_equal(whole, model.predict(under(image, mask, np.nan), mask="nan"))
    assert np.abs(model.predict(image, mask=mask, tile_size=96) - whole).max() < 1e-5
    np.save(tmp_path / "image.npy", under(image, mask, np.nan))
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    for given in (mask, "nan"):
        np.testing.assert_array_equal(model.predict(mapped, mask=given), whole)
    tiled = model.predict(mapped, mask="nan", tile_size=96)
    assert np.abs(tiled - whole).max() < 0.02 * np.ptp(whole)


def test_dask_keeps_its_mask(model):
    array = pytest.importorskip("dask.array")
    image, mask = picture((64, 60), seed=3), corners((64, 60))
    masked = array.from_array(np.ma.masked_array(under(image, mask, 9), mask), chunks=20)
    np.testing.assert_array_equal(model.predict(masked), model.predict(image, mask=mask))


def test_a_data_array_comes_back(model):
    xarray = pytest.importorskip("xarray")
    image, mask = picture((64, 60), seed=3), corners((64, 60))
    named = xarray.DataArray(under(image, mask, np.nan), dims=("y", "x"), name="cells")
    found = model.predict(named, mask="nan")
    assert found.name == "cells"
    np.testing.assert_array_equal(found.data, model.predict(image, mask=mask))


def test_nothing_is_put_back_under_a_mask():
    """Refinement looks at no residual there."""
    image, mask = picture((48, 48)), corners((48, 48), 20)
    found = deconvolve(image, PSF, mask=mask, full_output=True, **QUICK)
    assert np.isfinite(found.restored).all() and np.abs(found.restored).max() < 5
    assert masked_image(image, None) is image


# ---- sets ---------------------------------------------------------------------------------------


def test_sets_of_masked_images(tmp_path):
    import tifffile

    images = [picture((24, 20), seed) for seed in range(4)]
    masks = [corners((24, 20)), None, np.random.default_rng(0).random((24, 20)) < 0.3, None]
    recipe = small(recipes.DECONOISING)

    def parameters(images, mask=None):
        made = SelfSupervisedInverse(physics.PSFConvolution(PSF), recipe, rng=4)
        return made.fit(images, mask=mask, **SMALL).parameters

    runs = []
    for value in UNDER:
        some = [i if m is None else under(i, m, value) for i, m in zip(images, masks, strict=True)]
        runs.append(parameters(some, masks))
        if np.isnan(value):
            for i, one in enumerate(some):
                tifffile.imwrite(tmp_path / f"{i}.tif", one)
    for other in runs[1:]:
        np.testing.assert_array_equal(runs[0], other)
    assert np.isfinite(parameters(str(tmp_path / "*.tif"), "nan")).all()
    gathered = gather([under(images[0], masks[0], np.nan)], mask=[masks[0]])
    assert gathered.ends() == (images[0][~masks[0]].min(), images[0][~masks[0]].max())
    assert gathered.moments() == pytest.approx(
        (images[0][~masks[0]].mean(), images[0][~masks[0]].std()), rel=1e-5
    )


# ---- what cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mask, told",
    [
        ("inf", "'nan'"),
        (np.ones((24, 20), bool), "none of them"),
        (np.zeros((3, 3), bool), r"shape \(3, 3\)"),
        (np.full((24, 20), np.nan), "NaN"),
        (object(), "object"),
    ],
)
def test_bad_masks_are_named(mask, told):
    with pytest.raises(InputError, match=f"^mask: .*{told}"):
        deconvolve(picture(), PSF, mask=mask, **QUICK)


def test_nan_without_a_mask_is_an_error_and_beside_one_too():
    image, mask = picture(), corners((24, 20))
    image[12, 10] = np.nan
    with pytest.raises(InputError, match="^image: expected finite values, got 1 NaN"):
        deconvolve(image, PSF, mask=mask & False, **QUICK)
    mask = mask.copy()
    mask[12, 10] = False
    with pytest.raises(InputError, match="^image: expected finite values, got 1 NaN"):
        deconvolve(image, PSF, mask=mask, **QUICK)


def test_a_time_point_that_is_masked_altogether_is_nan(caplog):
    movie = picture((3, 20, 18))
    mask = np.zeros(movie.shape, bool)
    mask[1] = True
    found = deconvolve(movie, PSF, axes="TYX", mask=mask, **QUICK)
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all()
    assert "image[1] is NaN: all of it is masked" in caplog.text


# ---- what it is for ---------------------------------------------------------------------------


def test_a_seam_of_zeros_costs_nothing_where_it_is_masked():
    """Of a turned picture with zeros for corners, 10 dB are left beside them, and with the corners
    measured 26.5."""
    data = pytest.importorskip("skimage.data")
    sharp = data.camera()[170:266, 170:266] / 255
    kernel = psf.gaussian(1.5)
    rng = np.random.default_rng(0)
    image = ndimage.convolve(data.camera() / 255, kernel)[170:266, 170:266]
    image += 0.05 * rng.normal(size=image.shape)
    y, x = (np.indices(image.shape) - 47.5) / 96
    mask = np.maximum(abs(y * 0.87 + x / 2), abs(x * 0.87 - y / 2)) > 0.4
    near = ~mask & (ndimage.distance_transform_edt(~mask) <= 8)
    zeros = np.where(mask, 0, image)

    def psnr(restored):
        return metrics.psnr(sharp[near], restored[near], data_range=1)

    assert psnr(deconvolve(zeros, kernel, mask=mask, num_iter=300, progress=False)) >= 24
