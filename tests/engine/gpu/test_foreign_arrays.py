"""Arrays of other libraries that lie on a GPU, at every door: what they tell is
`__cuda_array_interface__`, or DLPack. On the stand-in, whose device memory is the host's."""

import sys

import numpy as np
import pytest

import ssi_cupy
from emulation import fake_cupy
from small_runs import PSF, model_of, picture
from ssi_cupy import classical, degrade, physics, psf
from ssi_cupy.classical import shared
from ssi_cupy.engine.arrays import as_array, by_slices
from ssi_cupy.engine.checks import DeviceError, InputError
from ssi_cupy.noise import estimate_noise

IMAGE = np.clip(picture((18, 21)), 0, None) / 2
HIDDEN = (IMAGE > np.quantile(IMAGE, 0.9)).astype(np.uint8)
QUICK = {"num_iter": 1, "progress": False, "refine": False}


class OnGPU:
    """What a tensor of another library shows of itself."""

    def __init__(self, array, **told):
        self.array = array
        self.__cuda_array_interface__ = array.__array_interface__ | {"version": 3} | told


class OnGPUByDLPack:
    """The same, by DLPack alone; on a kDLCUDA or a kDLCUDAManaged device."""

    def __init__(self, array, kind=2):
        self.shown, self.kind = OnGPU(array), kind

    def __dlpack__(self, **options):
        raise BufferError("not in the CPU's memory")

    def __dlpack_device__(self):
        return self.kind, 0


def read_only(a):
    a.flags.writeable = False
    return OnGPU(a)


def with_gaps(a):
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan, a.dtype)
    wide[..., ::2] = a
    return OnGPU(wide[..., ::2])


KINDS = {
    "interface": OnGPU,
    "read-only": read_only,
    "with gaps": with_gaps,
    "transposed": lambda a: OnGPU(np.ascontiguousarray(a.T).T),
    "dlpack": OnGPUByDLPack,
    "dlpack, managed": lambda a: OnGPUByDLPack(a, 13),
}
DTYPES = {"float64": np.float64, "float16": np.float16, "uint16": np.uint16, "int32": np.int32}


def fitted(y, h):
    return model_of(g=physics.PSFConvolution(h)).fit(y, steps=1, progress=False)


DOORS = {
    "deconvolve": lambda y, h: ssi_cupy.deconvolve(y, h, **QUICK),
    "denoise": lambda y, h: ssi_cupy.denoise(y, h, **QUICK),
    "mask": lambda y, h: ssi_cupy.deconvolve(y, h, mask=OnGPU(HIDDEN), **QUICK),
    "fit": lambda y, h: fitted(y, h).parameters,
    "predict": lambda y, h: fitted(IMAGE, PSF).predict(y),
    "reblur": lambda y, h: fitted(IMAGE, PSF).reblur(y, tile_size=20),
    "classical": lambda y, h: shared.inputs(y, h, False)[1],
    "weights": lambda y, h: shared.weights(y, as_array(OnGPU(IMAGE), "image")),
    "prepare": lambda y, h: psf.prepare(h, background=0)[0],
    "degrade": lambda y, h: degrade.degrade(y, h, rng=0),
    "estimate_noise": lambda y, h: np.float64(estimate_noise(y, h)),
}  # fmt: skip


def numbers(found):
    return found.get() if isinstance(found, fake_cupy.ndarray) else np.asarray(found)


def copies(dtype=np.float32):
    image = 100 * IMAGE if np.dtype(dtype).kind in "iu" else IMAGE
    return image.astype(dtype), PSF.astype(np.float32)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_taken_as_cupys_own_to_the_same_bits(device, kind, door):
    import cupy

    expected = DOORS[door](*map(cupy.asarray, copies()))
    image, kernel = copies()
    found = DOORS[door](KINDS[kind](image), KINDS[kind](kernel))
    assert type(found) is type(expected)
    np.testing.assert_array_equal(numbers(found), numbers(expected))
    for now, before in zip((image, kernel), copies(), strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_its_dtype_may_be_any_real_one(device, dtype):
    import cupy

    image, kernel = copies(DTYPES[dtype])
    expected = DOORS["deconvolve"](cupy.asarray(image), cupy.asarray(kernel))
    found = DOORS["deconvolve"](OnGPU(image), OnGPU(kernel))
    assert type(found) is cupy.ndarray and found.dtype == np.float32
    np.testing.assert_array_equal(found.get(), expected.get())


def test_nothing_of_it_is_copied(device):
    image = IMAGE.copy()
    for kind in (OnGPU, OnGPUByDLPack):
        for door in (as_array, by_slices):
            assert door(kind(image), "image").data.ptr == image.ctypes.data
    assert device.counts["uploads"] == 0


# ---- what is refused ----------------------------------------------------------------------------

WRONG = {
    "a mask": (OnGPU(IMAGE, mask=OnGPU(HIDDEN)), "an array of numbers, got .*masked arrays"),
    "bfloat16": (OnGPU(IMAGE, typestr="<V2"), "an array of numbers, got .*<V2"),
    "text": (OnGPU(IMAGE, typestr="nonsense"), "an array of numbers, got "),
    "complex": (OnGPU(IMAGE.astype(np.complex64)), "got dtype complex64"),
    "bool": (OnGPU(IMAGE > 0), "got dtype bool"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_used_is_refused_in_a_line_by_its_name(device, kind):
    array, says = WRONG[kind]
    for door in (
        lambda: ssi_cupy.deconvolve(array, PSF, **QUICK),
        lambda: fitted(array, PSF),
        lambda: classical.richardson_lucy(array, PSF, 1),
    ):
        with pytest.raises(InputError, match=f"^image: .*{says}") as error:
            door()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["cupy", "interface", "dlpack"])
def test_one_on_another_gpu_is_refused_by_its_name(device, kind, monkeypatch):
    import cupy

    image = IMAGE.copy()
    at = image.ctypes.data
    monkeypatch.setattr(fake_cupy, "FOREIGN", [(at, at + image.nbytes, 1)])
    array = OnGPUByDLPack(image) if kind == "dlpack" else OnGPU(image)
    array = cupy.asarray(array) if kind == "cupy" else array
    says = "^image: expected an array on GPU 0, the current one, got one on GPU 1$"
    for door in (
        lambda: ssi_cupy.denoise(array, **QUICK),
        lambda: model_of().fit(array, steps=1, progress=False),
        lambda: classical.wiener(array, PSF, 0.1),
        lambda: by_slices(array, "image"),
    ):
        with pytest.raises(DeviceError, match=says):
            door()


@pytest.mark.parametrize("kind", [OnGPU, OnGPUByDLPack])
def test_without_cupy_it_says_what_is_missing(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match="^image: .* got one on a GPU: cupy: pip install"):
        ssi_cupy.deconvolve(kind(IMAGE), PSF, **QUICK)
