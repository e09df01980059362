"""Every argument of the public functions, each with everything that it should not be.

A call ends in an `InputError` of one line, or in a result without NaN: never in an error of
numpy's, nor in one of memory. Python's own `TypeError` is for the number
and the names of arguments, not for their values.
"""

import inspect
import math

import numpy as np
import pytest

from small_runs import PSF, picture
from ssi_cupy import classical, degrade, metrics, noise, physics, recipes, symmetry
from ssi_cupy import psf as psfs
from ssi_cupy.engine.checks import InputError
from ssi_cupy.inference import tiling

NAN, INF = float("nan"), float("inf")
TINY = np.finfo(np.float64).tiny
NUMBERS = [0, 1, -1, 3, 2**31, 2**63, 2**70, 10**400, -(2**70), 0.5, -0.5, NAN, INF, -INF, 5e-324,
           TINY, 1e-300, 1e150, 1e300, 1.7e308, -1.7e308, np.float32(0.5), np.float64(NAN),
           np.int64(2), np.uint8(255), np.float16(3)]  # fmt: skip
OTHERS = [None, True, False, np.bool_(True), 1 + 0j, "", "no", "2", "mirror\n", b"1", [], (), {},
          set(), [1], [NAN], [[1]], [1, [2, 3]], (1, 1, 1), (0, 0), (-1, 2), ((1, 2, 2),), object(),
          int, len, range(3), np.datetime64("2020-01-01"), slice(2), Ellipsis]  # fmt: skip
RAMP = np.linspace(0.0, 1.0, 24 * 20).reshape(24, 20)
ARRAYS = [
    np.arange(3), np.zeros((2, 2)), np.array(1.0), np.array("a"), np.array([None, 1]),
    np.zeros((0, 3)), np.ones((24, 20)), RAMP, RAMP * 1e-300, RAMP * 1e300, RAMP * 1e-320,
    (RAMP - 0.5) * 3.4e308, RAMP * 2.5 + 1e9, RAMP * 1e-9 + 1e9, RAMP * 2e38, -RAMP, RAMP + 1j,
    RAMP.astype(np.float16), (RAMP * 255).astype(np.uint8), RAMP > 0.5, (RAMP * 2e19).astype("u8"),
    np.where(RAMP > 0.5, NAN, RAMP), np.where(RAMP > 0.5, INF, RAMP), RAMP[:1], RAMP[:, :1],
    RAMP[:1, :1], RAMP[None], RAMP[None, None, None], RAMP[::-1, ::-1], RAMP.astype(">f4"),
    np.ma.masked_greater(RAMP, 0.5), RAMP.astype(object), RAMP.astype("U8"),
    RAMP.astype(np.longdouble), RAMP.view([("a", float)]), np.broadcast_to(0.5, (24, 20)),
]  # fmt: skip
NASTY = NUMBERS + OTHERS + ARRAYS
OF_ARRAYS = {"image", "psf", "truth", "initial", "balance", "r", "z", "sigma", "rng", "values"}
LARGE = 200  # counts and sizes beyond are right, and take their time

image, psf = picture().astype(np.float64), PSF
positive_image = image - image.min()
optics = {"NA": 0.8, "wvl": 0.5, "ni": 1.33}
CALLS = {
    classical.richardson_lucy: {"image": positive_image, "psf": psf, "num_iter": 2},
    classical.richardson_lucy_tv: {"image": positive_image, "psf": psf, "num_iter": 2},
    classical.tv_admm: {"image": image, "psf": psf, "num_iter": 2},
    classical.tv_chambolle_pock: {"image": image, "psf": psf, "num_iter": 2},
    classical.tv_conjugate_gradient: {"image": image, "psf": psf, "num_iter": 2},
    classical.wiener: {"image": image, "psf": psf, "balance": 0.1},
    classical.radial_power_spectrum: {"image": image},
    metrics.psnr: {"truth": image, "image": image + 0.1, "data_range": 1.0},
    metrics.rmse: {"truth": image, "image": image + 0.1},
    metrics.ssim: {"truth": image, "image": image + 0.1, "data_range": 1.0},
    metrics.mutual_information: {"truth": image, "image": image**2},
    metrics.spectral_mutual_information: {"truth": image, "image": image**2},
    psfs.gaussian: {"sigma": 1.0},
    psfs.prepare: {"psf": np.pad(np.ones((3, 3)), 8), "spacing": 0.2, "psf_spacing": 0.1},
    psfs.born_wolf: {"shape": (5, 6), "dxy": 0.1, **optics},
    psfs.microscope: {"shape": (3, 4, 5), "dxy": 0.1, "dz": 0.2, **optics},
    psfs.confocal: {"shape": (3, 4), "dxy": 0.1, "ex_wvl": 0.48, **optics},
    psfs.spinning_disk: {"shape": (3, 4), "dxy": 0.1, "ex_wvl": 0.48, "pitch": 2.0, **optics},
    psfs.two_photon: {"shape": (5, 6), "dxy": 0.1, **optics},
    psfs.light_sheet: {"shape": (3, 4, 5), "dxy": 0.1, "dz": 0.3, "sheet": 3.0, **optics},
    psfs.gibson_lanni: {"r": np.arange(4.0), "z": np.arange(3.0), **optics},
    degrade.normalise: {"image": image}, degrade.blur: {"image": image, "psf": psf},
    degrade.degrade: {"image": image, "psf": psf},
    noise.estimate_noise: {"image": image, "psf": psf},
    noise.noise_model: {"image": image, "psf": psf},
    noise.outliers: {"image": image, "psf": psf, "noise": noise.NoiseModel(0.1)},
    symmetry.every: {"ndim": 2}, symmetry.of_psf: {"psf": psf},
    recipes.get: {"name": "SSI"}, recipes.seed_from: {"rng": 0},
    tiling.tiles: {"shape": (9, 9), "tile_size": 4},
    physics.PSFConvolution: {"psf": psf}, physics.Clamp: {},
    physics.SensorResponse: {"noise": 0.1}, physics.from_dict: {"values": {"kind": "identity"}},
}  # fmt: skip
FAR = ("z", "dz", "pz", "tg", "tg0", "ti0", "pitch")  # µm
OPTICS = ("NA", "wvl", "ni", "ns", "ni0", "ng", "ng0", "tg", "tg0", "ti0", "pz")
PAIRS = [(f, name) for f in CALLS for name in inspect.signature(f).parameters if name != "optics"]
PAIRS += [(psfs.microscope, name) for name in OPTICS]


def huge(value):
    return isinstance(value, int) and value > LARGE


def outcome(call):
    """What a call returns, or the `InputError` that it raises."""
    try:
        with np.errstate(all="ignore"):
            found = call()
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        return error
    assert finite(found), found
    return found


def finite(found):
    if isinstance(found, (tuple, list)):
        return all(map(finite, found))
    kind = getattr(getattr(found, "dtype", None), "kind", "")
    if kind == "f":
        return bool(np.isfinite(found).all())
    return not (isinstance(found, float) and math.isnan(found))


@pytest.mark.parametrize("function, name", PAIRS, ids=lambda of: getattr(of, "__name__", of))
def test_a_bad_argument_is_named_or_the_result_is_right(function, name):
    wrong = []
    for value in NASTY if name in OF_ARRAYS else NUMBERS + OTHERS + ARRAYS[:8]:
        if name in FAR and isinstance(value, np.uint8):
            continue  # right, and slow
        if huge(value) and name in ("num_iter", "bins", "pad", "size", "shape", "ndim", "sigma"):
            continue
        try:
            outcome(lambda: function(**CALLS[function] | {name: value}))  # noqa: B023
        except Exception as error:
            wrong.append(f"{name}={str(value)[:60]!r}: {type(error).__name__}: {str(error)[:100]}")
    assert not wrong, "\n".join(wrong)
