"""`deconvolve` and `denoise` as a pipeline calls them: axes, units, complaints."""

import numpy as np
import pytest

import ssi_cupy
from ssi_cupy import psf, recipes
from ssi_cupy.engine.checks import DeviceError, InputError

PSF = np.random.default_rng(0).random((3, 4))
PSF_3D = np.random.default_rng(0).random((3, 4, 3))
QUICK = {"num_iter": 2, "progress": False}


def picture(*shape):
    return np.random.default_rng(1).random(shape or (20, 24)).astype(np.float32)


def spoilt(value, shape=(20, 24)):
    image = picture(*shape)
    image[3, 4] = value
    return image


# ---- axes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, kernel, options",
    [
        ((20, 24), PSF, {}),
        ((17, 19), PSF, {"axes": "XY"}),
        ((4, 17, 16), PSF_3D, {}),
        ((2, 17, 16), PSF, {"channel_axis": 0}),
        ((17, 16, 2), PSF, {"channel_axis": -1}),
        ((2, 17, 2, 16), PSF, {"axes": "TYCX"}),
        ((17, 4, 16), PSF_3D, {"axes": "YZX"}),
        ((2, 4, 17, 16), PSF_3D, {"axes": "CZYX"}),
        ((2, 1, 3, 17, 16), PSF_3D, {"axes": "TCZYX"}),
        ((16, 3, 2, 17), PSF_3D, {"axes": "XZCY"}),
        ((1, 17, 16), PSF_3D[1:2], {"axes": "ZYX"}),
    ],
)
def test_shape_and_axis_order_are_kept(shape, kernel, options):
    result = ssi_cupy.deconvolve(picture(*shape), kernel, full_output=True, **QUICK, **options)
    for image in (result.restored, result.denoised):
        assert image.shape == shape and image.dtype == np.float32
        assert np.isfinite(image).all()
    assert result.steps == 2 and result.device == "cpu"


def test_channels_are_restored_one_by_one():
    stack = picture(2, 18, 20)
    together = ssi_cupy.deconvolve(stack, PSF, channel_axis=0, **QUICK)
    for channel, restored in zip(stack, together, strict=True):
        np.testing.assert_array_equal(ssi_cupy.deconvolve(channel, PSF, **QUICK), restored)


def test_axes_only_name_what_is_there():
    image = picture(18, 20)
    expected = ssi_cupy.deconvolve(image, PSF, **QUICK)
    moved = ssi_cupy.deconvolve(image[:, None], PSF, axes="YTX", **QUICK)
    np.testing.assert_array_equal(moved[:, 0], expected)


def test_denoise_without_a_psf_is_the_networks_output():
    result = ssi_cupy.denoise(picture(), full_output=True, **QUICK)
    np.testing.assert_array_equal(result.denoised, result.restored)


def test_denoise_with_a_psf_is_the_blurred_restoration():
    from scipy.ndimage import convolve

    result = ssi_cupy.denoise(picture(), PSF, mode="nearest", full_output=True, **QUICK)
    expected = convolve(result.restored.astype(float), PSF / PSF.sum(), mode="nearest")
    inside = (slice(2, -2),) * 2  # at the border the blur brings in what was restored beyond it
    np.testing.assert_allclose(result.denoised[inside], expected[inside], atol=1e-5)


def test_a_border_that_is_known_is_used():
    """With "wrap" the restoration is of the image alone, and the blur is the periodic one."""
    from scipy.ndimage import convolve

    result = ssi_cupy.denoise(picture(), PSF, mode="wrap", full_output=True, **QUICK)
    expected = convolve(result.restored.astype(float), PSF / PSF.sum(), mode="wrap")
    np.testing.assert_allclose(result.denoised, expected, atol=1e-5)


def test_the_callers_arrays_are_left_alone():
    image, kernel = picture(), PSF.copy()
    image.flags.writeable = kernel.flags.writeable = False
    ssi_cupy.deconvolve(image, kernel, **QUICK)
    np.testing.assert_array_equal(image, picture())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float16, np.float64, ">f4"])
def test_any_real_dtype(dtype):
    image = (200 * picture()).astype(dtype)
    restored = ssi_cupy.deconvolve(image, PSF, **QUICK)
    expected = ssi_cupy.deconvolve(image.astype(np.float32), PSF, **QUICK)
    np.testing.assert_array_equal(restored, expected)


@pytest.mark.parametrize("name", ["ssi", "default"])
def test_recipes_by_name(name):
    by_name = ssi_cupy.deconvolve(picture(), PSF, recipe=name, **QUICK)
    by_value = ssi_cupy.deconvolve(picture(), PSF, recipe=recipes.get(name.upper()), **QUICK)
    np.testing.assert_array_equal(by_name, by_value)


def test_a_psf_of_another_pixel_size_is_resampled():
    """σ = 2 pixels of 0.1 µm is σ = 1 pixel of 0.2 µm, along the axis where that is so."""
    fine = psf.gaussian((1.5, 2.0))
    options = {"spacing": (0.1, 0.2), "psf_spacing": 0.1, "full_output": True}
    result = ssi_cupy.deconvolve(picture(), fine, **options, **QUICK)
    coarse = result.model.physics.psf[0]
    offsets = [np.arange(n) - n // 2 for n in coarse.shape]
    widths = [np.sqrt((coarse.sum(1 - a) * offsets[a] ** 2).sum()) for a in (0, 1)]
    np.testing.assert_allclose(widths, (1.5, 1.0), rtol=0.06)  # coarse pixels blur a little


# ---- three dimensions, large images -------------------------------------------------------------


@pytest.mark.parametrize("depth, planes", [(1, 1), (2, 3), (3, 5), (5, 5)])
def test_thin_volumes(depth, planes):
    """Also thinner than the PSF, whose light then comes back from the mirror."""
    kernel = psf.gaussian((0.6, 1.0, 1.0), size=5)[2 - planes // 2 :][:planes]
    volume = picture(depth, 18, 17)
    restored = ssi_cupy.deconvolve(volume, kernel, **QUICK)
    assert restored.shape == volume.shape and np.isfinite(restored).all()


def test_a_psf_as_large_as_the_volume_is_convolved_with_by_fft():
    kernel = np.random.default_rng(2).random((8, 18, 17))
    result = ssi_cupy.denoise(picture(8, 18, 17), kernel, full_output=True, **QUICK)
    assert result.model.physics._plan(np.zeros((1, 1, 8, 18, 17), np.float32))[2] is not None
    assert np.isfinite(result.denoised).all()


def test_coarse_planes_are_not_pooled():
    options = {"spacing": (0.3, 0.1, 0.1), "full_output": True}
    net = ssi_cupy.deconvolve(picture(8, 32, 32), PSF_3D, **options, **QUICK).model.net
    assert net.windows[:2] == ((1, 2, 2), (1, 2, 2)) and net.aspect == pytest.approx(3)
    assert net.kernel(5, 0) == (3, 5, 5) and net.kernel(5, 2) == (5, 5, 5)


def test_tiles_are_those_of_the_model():
    image = picture(40, 36)
    options = {"tile_size": 24, "tile_overlap": 8, "refine": False, "full_output": True}
    result = ssi_cupy.denoise(image, PSF, **options, **QUICK)
    tiled = result.model.reblur(image, tile_size=24, tile_overlap=8)
    np.testing.assert_array_equal(result.denoised, tiled)
    assert (result.denoised != result.model.reblur(image)).any()


# ---- bad input --------------------------------------------------------------------------------

BAD = [
    ("image", {"image": spoilt(np.nan)}),
    ("image", {"image": spoilt(np.inf)}),
    ("image", {"image": np.zeros((0, 20))}),
    ("image", {"image": np.full((20, 20), 7.0)}),
    ("image", {"image": picture(400)}),
    ("image", {"image": picture() > 0.5}),
    ("image", {"image": picture() + 1j}),
    ("image", {"image": picture().astype(object)}),
    ("image", {"image": "image.tif"}),
    ("image", {"image": [[1, 2], [3]]}),
    ("image", {"image": picture(2, 2, 20, 20)}),
    ("image", {"image": picture(12, 40)}),
    ("psf", {"psf": 0 * PSF}),
    ("psf", {"psf": PSF - 0.5}),
    ("psf", {"psf": spoilt(np.nan, (5, 5))}),
    ("psf", {"psf": PSF[0]}),
    ("psf", {"psf": PSF_3D}),
    ("psf", {"psf": PSF, "image": picture(4, 20, 20)}),
    ("psf", {"psf": np.ones((90, 3))}),
    ("axes", {"axes": "YY"}),
    ("axes", {"axes": "QX"}),
    ("axes", {"axes": "TC"}),
    ("axes", {"axes": "ZYX"}),
    ("axes", {"axes": 3}),
    ("channel_axis", {"channel_axis": 2}),
    ("channel_axis", {"channel_axis": 0, "axes": "CX"}),
    ("mode", {"mode": "reflect-ish"}),
    ("recipe", {"recipe": "best"}),
    ("steps", {"num_iter": -1}),
    ("rng", {"rng": -1}),
    ("device", {"device": "tpu"}),
    ("precision", {"precision": "bf16"}),
    ("spacing", {"spacing": 0.0, "psf_spacing": 0.1}),
    ("spacing", {"spacing": (1, 1, 1), "psf_spacing": 0.1}),
    ("psf_spacing", {"spacing": 0.2, "psf_spacing": "0.1 µm"}),
    ("spacing", {"psf_spacing": 0.1}),
    ("spacing", {"spacing": (0.2, 0.1, 0.1)}),
    ("spacing", {"spacing": (0.1, 0.1), "image": picture(4, 20, 20), "psf": PSF_3D}),
    ("psf", {"psf": np.ones((9, 3, 3)), "image": picture(4, 20, 20)}),
    ("tile_size", {"tile_size": (8, 8, 8)}),
    ("tile_size", {"tile_size": -3}),
    ("tile_overlap", {"tile_size": 16, "tile_overlap": 16}),
    ("checkpoint", {"checkpoint": "c.npz", "image": picture(2, 20, 20), "channel_axis": 0}),
]


def test_an_empty_channel_is_found_before_the_training():
    steps = []
    stack = np.stack([picture(), np.ones((20, 24), np.float32)])
    with pytest.raises(InputError, match=r"^image\[1\]: expected .*, got the constant 1"):
        ssi_cupy.deconvolve(stack, PSF, channel_axis=0, callback=steps.append, **QUICK)
    assert not steps


@pytest.mark.parametrize("named, options", BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_bad_input_is_named(named, options):
    args = {"image": picture(), "psf": PSF} | QUICK | options
    with pytest.raises(InputError, match=f"^{named}: expected .*, got ") as caught:
        ssi_cupy.deconvolve(args.pop("image"), args.pop("psf"), **args)
    assert isinstance(caught.value, ValueError)


def test_a_device_that_is_not_there_is_an_error():
    with pytest.raises(DeviceError, match="^device: "):
        ssi_cupy.deconvolve(picture(), PSF, device="cuda", **QUICK)
