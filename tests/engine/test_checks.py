"""Settings are looked at when they are given: a right result, or an `InputError` of one line."""

import dataclasses
import json

import numpy as np
import pytest

from ssi_cupy import SelfSupervisedInverse, masking, optim, physics, recipes, symmetry, unet
from ssi_cupy import psf as psfs
from ssi_cupy.engine import checks
from ssi_cupy.engine.checks import InputError
from ssi_cupy.files import model_file
from ssi_cupy.inference.tiling import tiles
from ssi_cupy.losses import Losses

NAN, INF = float("nan"), float("inf")
NASTY = [
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**70, 10**400, -(2**70), 0.5, -0.5, NAN, INF,
    -INF, 1e-320, 1e308, 1 + 0j, "", "no", "2", b"1", [], (), {}, [1], [NAN], [[1]], (1, 1, 1),
    ((1, 2, 2),), object(), int, len, np.float32(0.5), np.float64(NAN), np.int64(2), np.bool_(True),
    np.arange(3), np.zeros((2, 2)), np.array(1.0), np.array("a"), np.datetime64("2020-01-01"),
]  # fmt: skip
DATACLASSES = [
    Losses(), masking.RandomMask(), masking.StratifiedMask(), masking.NoiseLevel(),
    optim.Constant(), optim.Plateau(), optim.StepDecay(), optim.OneCycle(), unet.UNet(),
    unet.ResidualUNet(), unet.PlainUNet(), recipes.DEFAULT, recipes.NOISE2SAME,
]  # fmt: skip
FIELDS = [(made, field.name) for made in DATACLASSES for field in dataclasses.fields(made)]


def named(value):
    return f"{type(value[0]).__name__}.{value[1]}"


def refused(function):
    """Whether it raises an `InputError`, and that in one line."""
    try:
        function()
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        return True
    return False


@pytest.mark.parametrize("made, name", FIELDS, ids=map(named, FIELDS))
def test_every_field_of_every_dataclass(made, name):
    assert "check" in {f.name: f for f in dataclasses.fields(made)}[name].metadata
    for value in NASTY:
        try:
            new = dataclasses.replace(made, **{name: value})
        except InputError as error:
            assert "\n" not in str(error)
            continue
        kept = getattr(new, name)
        assert not isinstance(kept, (np.generic, np.ndarray, list))  # plain: a file can hold it
        assert hash(new) == hash(dataclasses.replace(new)) and new == dataclasses.replace(new)
        again = model_file._parts(json.loads(model_file.describe(new)))
        assert again == new
        if isinstance(kept, float) and (type(made), name) not in {
            (Losses, "low"),
            (Losses, "high"),
        }:
            assert np.isfinite(kept)


@pytest.mark.parametrize("function", [
    lambda: unet.UNet(momentum=NAN), lambda: unet.UNet(widths=(8, 0)), lambda: unet.UNet(aspect=0),
    lambda: unet.UNet(widths=8), lambda: unet.UNet(widths=(8, 8), windows=((1, 2, 2),) * 2),
    lambda: unet.ResidualUNet(momentum=2), lambda: unet.ResidualUNet(aspect=NAN),
    lambda: unet.PlainUNet(gain=INF), lambda: masking.NoiseLevel(start=NAN),
    lambda: masking.NoiseLevel(decay=-1), lambda: Losses(low=NAN), lambda: Losses(low=2, high=1),
    lambda: Losses(zero=NAN), lambda: Losses(zero=INF), lambda: Losses(spacing=(1, 1)),
    lambda: Losses(spacing=(1, 0, 1)), lambda: Losses(spacing=NAN),
    lambda: Losses(bound_squared="no"), lambda: Losses(positivity=1, scale=0),
    lambda: dataclasses.replace(recipes.DEFAULT, margin="no"),
    lambda: dataclasses.replace(recipes.DEFAULT, average=1.0),
    lambda: dataclasses.replace(recipes.DEFAULT, name=3),
    lambda: SelfSupervisedInverse(physics.Identity(), graph="no"),
    lambda: optim.Adam(3, np.float32, betas=0), lambda: optim.Adam(3, np.float32, betas=(0.9,)),
    lambda: optim.Adam(3, np.float32, seed=-1), lambda: optim.Adam(3, np.float32, seed=1.5),
    lambda: optim.Adam(3, np.int32), lambda: optim.Adam(3, "nothing"), lambda: optim.Adam(-1, "f4"),
    lambda: optim.MovingAverage(3, None), lambda: tiles((9, 9), 4, 1, step=0),
    lambda: tiles((9, 9), 0), lambda: tiles((9, 9), 4, -1), lambda: tiles((9, 9), 4, blind=1.5),
    lambda: checks.number(2**2000, "n"), lambda: checks.number(NAN, "n"),
    lambda: checks.number(np.array(1.0), "n"), lambda: checks.choice(np.arange(3), "c", (1, 2)),
    lambda: checks.choice([1], "c", (1, 2)), lambda: checks.choice({}, "c", (None, "a")),
    lambda: physics.PSFConvolution(np.full((3, 3), 1e308)),
    lambda: symmetry.check([]), lambda: symmetry.check(np.zeros(3)), lambda: symmetry.check("abc"),
])  # fmt: skip
def test_what_cannot_be_used_is_said_to_be(function):
    assert refused(function)


def test_large_whole_numbers_are_numbers():
    assert checks.number(2**70, "n") == 2.0**70
    assert Losses(low=-INF, high=INF).high == INF  # bounds may be infinite


def test_a_psf_whose_sum_is_more_than_its_own_type_holds():
    psf = np.full((3, 3), 3e38, np.float32)
    assert np.allclose(physics.PSFConvolution(psf).psf, 1 / 9)


def test_functions_of_arrays_say_what_they_cannot_use():
    """Every setting of these, each with every nasty value: an `InputError`, or no error at all."""
    image, psf = np.random.default_rng(0).random((1, 1, 1, 16, 18)), np.ones((3, 3))
    hidden = np.zeros(image.shape, np.uint8)
    calls = {
        "sigma": lambda v: psfs.gaussian(v), "ndim": lambda v: psfs.gaussian(1.0, ndim=v),
        "mode": lambda v: physics.PSFConvolution(psf, mode=v),
        "method": lambda v: physics.PSFConvolution(psf, method=v),
        "noise": lambda v: physics.SensorResponse(v),
        "gain": lambda v: physics.SensorResponse(1, v),
        "low": lambda v: physics.Clamp(low=v), "high": lambda v: physics.Clamp(high=v),
        "recipe": lambda v: recipes.get(v), "seed": lambda v: recipes.seed_from(v),
        "how": lambda v: masking.fill(image, hidden, v, 0, 0),
        "fraction": lambda v: masking.validation_pixels((1, 1, 1, 8, 8), v, 0),
    }  # fmt: skip
    for name, call in calls.items():
        for value in NASTY:
            if name in ("sigma", "ndim") and isinstance(value, (int, float)) and value > 100:
                continue  # right, and large
            try:
                call(value)
            except InputError as error:
                assert "\n" not in str(error), name
            except MemoryError:
                pytest.fail(f"{name} = {value!r}")
