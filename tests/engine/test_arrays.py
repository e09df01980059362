"""The kinds of arrays that users bring × the public functions: the same bits as of a numpy array,
or a refusal by name. A kind whose package is not here is left out, and says so."""

import importlib

import numpy as np
import pytest

import ssi_cupy
from small_runs import PSF, picture, trained
from ssi_cupy import classical, metrics, psf
from ssi_cupy.engine.arrays import as_array
from ssi_cupy.engine.checks import InputError

IMAGE = picture()
QUICK = {"num_iter": 2, "progress": False}


class OnlySlices:
    """What has a shape, a dtype and slices, and nothing else."""

    def __init__(self, array):
        self._array = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, key):
        assert all(isinstance(k, slice) for k in key)
        return self._array[key]


class OnlyDLPack:
    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def having(name):
    """The module, or the test is skipped with the name of what is not here."""
    return pytest.importorskip(name, reason=f"{name} is not installed")


def zarr_of(array):
    made = having("zarr").create_array(store={}, shape=array.shape, dtype=array.dtype)
    made[...] = array
    return made


KINDS = {
    "list": lambda a: a.tolist(),
    "matrix": np.matrix,
    "fortran": np.asfortranarray,
    "big endian": lambda a: a.astype(">f4"),
    "memoryview": lambda a: memoryview(np.ascontiguousarray(a)),
    "unmasked": np.ma.masked_array,
    "slices": OnlySlices,
    "dlpack": OnlyDLPack,
    "torch": lambda a: having("torch").tensor(a),
    "torch with gradient": lambda a: having("torch").tensor(a, requires_grad=True),
    "jax": lambda a: having("jax").numpy.asarray(a),
    "xarray": lambda a: having("xarray").DataArray(a, dims=["z", "y", "x"][-a.ndim :]),
    "dask": lambda a: having("dask.array").from_array(a, chunks=8),
    "zarr": zarr_of,
    "quantity": lambda a: a * having("astropy.units").electron,
    "ccd": lambda a: having("astropy.nddata").CCDData(a, unit="adu"),
    "pandas": lambda a: having("pandas").DataFrame(a),
}

FUNCTIONS = {
    "deconvolve": lambda y, h: ssi_cupy.deconvolve(y, h, **QUICK),
    "denoise": lambda y, h: ssi_cupy.denoise(y, h, **QUICK),
    "fit": lambda y, h: trained(y, g=ssi_cupy.physics.PSFConvolution(h)).parameters,
    "predict": lambda y, h: model().predict(y),
    "reblur": lambda y, h: model().reblur(y, tile_size=20),
    "prepare": lambda y, h: psf.prepare(y, background=0)[0],
    "richardson_lucy": lambda y, h: classical.richardson_lucy(y, h, 2),
    "tv": lambda y, h: classical.tv_chambolle_pock(y, h, 2),
    "wiener": lambda y, h: classical.wiener(y, h, 0.1),
    "psnr": lambda y, h: metrics.psnr(IMAGE + 1, y, data_range=1),
    "mutual_information": lambda y, h: metrics.mutual_information(y, IMAGE),
}
MODEL = []


def model():
    if not MODEL:
        MODEL.append(trained(IMAGE))
    return MODEL[0]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_as_of_a_numpy_array(kind, name):
    kernel = PSF.astype(np.float32)
    image = np.clip(IMAGE, 0, None)  # Richardson-Lucy counts photons
    if name == "prepare":
        image = psf.gaussian(1.5, size=(23, 21)).astype(np.float32)
    expected = FUNCTIONS[name](image, kernel)
    found = FUNCTIONS[name](KINDS[kind](image), KINDS[kind](kernel))
    np.testing.assert_array_equal(np.asarray(found), expected)


def masked_ccd(a):
    return having("astropy.nddata").CCDData(a, unit="adu", mask=a > np.median(a))


REFUSED = {
    "masked": lambda a: np.ma.masked_greater(a, np.median(a)),
    "masked ccd": masked_ccd,
    "scipy sparse": lambda a: importlib.import_module("scipy.sparse").csr_matrix(a),
    "torch sparse": lambda a: having("torch").tensor(a).to_sparse(),
    "object": lambda a: a.astype(object),
    "bool": lambda a: a > 0.5,
    "complex": lambda a: a + 1j,
    "text": lambda a: "image.png",
    "dict": lambda a: {"image": a},
    "dataset": lambda a: having("xarray").Dataset({"a": (("y", "x"), a)}),
}


MASKED = {kind: REFUSED[kind] for kind in ("masked", "masked ccd")}
HONOUR_MASKS = ("deconvolve", "denoise", "fit", "predict", "reblur")  # others refuse them by name


@pytest.mark.parametrize("name", HONOUR_MASKS)
@pytest.mark.parametrize("kind", MASKED)
def test_masks_are_honoured(kind, name):
    hidden = np.where(IMAGE > np.median(IMAGE), np.float32(1e9), IMAGE)
    other = np.ma.masked_array(hidden, hidden == 1e9)
    found = FUNCTIONS[name](MASKED[kind](IMAGE), PSF)
    np.testing.assert_array_equal(found, FUNCTIONS[name](other, PSF))


@pytest.mark.parametrize(
    "kind, name",
    [(k, n) for k in REFUSED for n in FUNCTIONS if not (k in MASKED and n in HONOUR_MASKS)],
)
def test_what_is_no_array_of_numbers_is_refused_by_name(kind, name):
    expected = r"^(image|truth|psf)(\[\d\])?: expected .*, got .*"
    with pytest.raises(InputError, match=expected) as caught:
        FUNCTIONS[name](REFUSED[kind](IMAGE), PSF)
    assert "\n" not in str(caught.value)


def test_bfloat16_is_read_as_float32():
    torch = having("torch")
    tensor = torch.tensor(IMAGE, dtype=torch.bfloat16)
    np.testing.assert_array_equal(as_array(tensor, "image"), tensor.float().numpy())


# ---- arrays that name their axes, arrays to write to -----------------------------------------


def test_a_data_array_comes_back_as_one():
    xarray = having("xarray")
    stack = np.stack([IMAGE, 2 * IMAGE])
    coords = {"c": ["a", "b"], "y": np.arange(24) * 0.5, "x": np.arange(20) * 0.5}
    image = xarray.DataArray(stack, coords, dims=["c", "y", "x"], name="n", attrs={"by": "me"})
    found = ssi_cupy.deconvolve(image, PSF, **QUICK)
    expected = ssi_cupy.deconvolve(stack, PSF, axes="CYX", spacing=0.5, **QUICK)
    np.testing.assert_array_equal(found.data, expected)
    assert found.name == "n" and found.attrs == {"by": "me"} and found.dims == image.dims
    assert all(found.coords[k].equals(image.coords[k]) for k in coords)
    with pytest.raises(InputError, match="^image: expected the argument axes"):
        ssi_cupy.deconvolve(image.rename(c="q"), PSF, **QUICK)


def test_coordinates_are_the_spacing():
    xarray = having("xarray")
    volume = np.stack([picture(seed=s) for s in range(6)])
    coords = {"z": np.arange(6) * 300, "y": np.arange(24) * 100, "x": np.arange(20) * 100}
    image = xarray.DataArray(volume, coords, dims=list("zyx"))
    for name in "zyx":
        image.coords[name].attrs["units"] = "nm"
    result = ssi_cupy.denoise(image, full_output=True, **QUICK)
    assert result.model.spacing == pytest.approx((0.3, 0.1, 0.1))


@pytest.mark.parametrize("tile", [None, 20])
def test_results_are_written_into_a_zarr_array(tile):
    out = zarr_of(np.zeros_like(IMAGE))
    assert model().predict(IMAGE, tile_size=tile, out=out) is out
    np.testing.assert_array_equal(out[...], model().predict(IMAGE, tile_size=tile))


def test_results_are_written_by_slices_into_any_array():
    class Writable(OnlySlices):
        def __setitem__(self, key, value):
            self._array[key] = value

    for tile in (None, 20):
        plain = np.zeros_like(IMAGE)
        model().restore(IMAGE, tile_size=tile, out=(Writable(plain), Writable(other := 0 * plain)))
        restored, reblurred = model().restore(IMAGE, tile_size=tile)
        np.testing.assert_array_equal(plain, restored)
        np.testing.assert_array_equal(other, reblurred)
    with pytest.raises(InputError, match="^out: expected floating-point numbers, got int32"):
        model().predict(IMAGE, out=Writable(IMAGE.astype(np.int32)))


# ---- channels, colours, time -----------------------------------------------------------------


def test_each_channel_has_its_own_psf():
    stack, other = np.stack([IMAGE, picture(seed=2)], -1), PSF[::-1].copy()
    alone = [ssi_cupy.deconvolve(stack[..., i], h, **QUICK) for i, h in enumerate((PSF, other))]
    for several in ([PSF, other], np.stack([PSF, other], -1)):
        found = ssi_cupy.deconvolve(stack, several, channel_axis=-1, **QUICK)
        np.testing.assert_array_equal(found, np.stack(alone, -1))
    with pytest.raises(InputError, match="^psf: expected one, or one for each of 2 channels"):
        ssi_cupy.deconvolve(stack, [PSF] * 3, channel_axis=-1, **QUICK)


@pytest.mark.parametrize("kernel", [PSF, None])
@pytest.mark.parametrize("colours", [3, 4])
def test_colours_need_a_channel_axis(kernel, colours):
    with pytest.raises(InputError, match="^channel_axis: expected -1 for colours"):
        ssi_cupy.denoise(np.stack([IMAGE] * colours, -1), kernel, **QUICK)


def test_a_blank_frame_passes_with_a_warning(caplog):
    film = np.stack([IMAGE, np.full_like(IMAGE, 7), 2 * IMAGE])
    found = ssi_cupy.deconvolve(film, PSF, axes="TYX", **QUICK)
    np.testing.assert_array_equal(found[1], film[1])
    np.testing.assert_array_equal(found[2], ssi_cupy.deconvolve(film[2], PSF, **QUICK))
    assert "image[1] is left as it is" in caplog.text
    with pytest.raises(InputError, match="^image"):
        ssi_cupy.deconvolve(film[[1, 1]], PSF, axes="TYX", **QUICK)
