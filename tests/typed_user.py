"""What a user writes, for a type checker to read; nobody runs it. See test_typing.py."""

import dataclasses
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import ssi_cupy
from ssi_cupy import (
    InputError,
    Restoration,
    SelfSupervisedInverse,
    classical,
    deconvolve,
    degrade,
    denoise,
    metrics,
    physics,
    psf,
    recipes,
)

Float32 = NDArray[np.float32]
image = np.zeros((64, 64))
kernel = psf.gaussian(1.5, ndim=2)
kernel = psf.gaussian([2, 1, 1], size=9)
kernel = psf.microscope((17, 17), NA=0.8, wvl=0.6, ni=1.33, dxy=0.406, z=3.0)


# ---- one call -------------------------------------------------------------------------------


def low_enough(step: dict[str, Any]) -> bool:
    return bool(step["loss"] < 0.1)


seen: list[dict[str, Any]] = []
x: np.ndarray = deconvolve(image, kernel)
assert_type(deconvolve(image, kernel), Float32)
assert_type(denoise(image), Float32)
assert_type(denoise(image, kernel, full_output=True), Restoration)
assert_type(deconvolve(image, kernel, full_output=bool(seen)), Float32 | Restoration)
deconvolve(
    image, kernel, recipe=recipes.SSI, num_iter=10, rng=np.random.default_rng(0), axes="YX",
    spacing=(0.1, 0.1), psf_spacing=0.1, mode="constant", tile_size=(128, 64), tile_overlap=16,
    device="cpu", precision="tf32", callback=low_enough, progress=False, checkpoint="state.npz",
    resume=Path("state.npz"),
)  # fmt: skip
denoise([[0.0, 1.0], [1.0, 0.0]], callback=seen.append, channel_axis=0)
denoise(image, callback=lambda step: print(step["loss"]))

full = deconvolve(image, kernel, full_output=True)
assert_type(full.restored, Float32)
assert_type(full.model, SelfSupervisedInverse)
assert_type(full.history[-1]["loss"], float)
assert_type(full.seconds, dict[str, float])
try:
    deconvolve(image, kernel)
except InputError as error:
    print(error.argument, error.expected, error.got)


# ---- a model --------------------------------------------------------------------------------


class Shading:
    """A linear forward model of the user's own."""

    def forward(self, x: Float32) -> Float32:
        return 2 * x

    def adjoint(self, y: Float32) -> Float32:
        return 2 * y


class Square:
    """One that is not linear."""

    def forward(self, x: Float32) -> Float32:
        return x * x

    def backward(self, gy: Float32, x: Float32) -> Float32:
        return 2 * x * gy


g = physics.PSFConvolution(kernel, mode="wrap")
assert_type(g.forward(image), NDArray[Any])
SelfSupervisedInverse(physics.Composition(Shading(), Square(), physics.Clamp(0, 1), g))
SelfSupervisedInverse(g, recipe=recipes.DEFAULT, rng=None, spacing=[0.3, 0.1, 0.1])
model = SelfSupervisedInverse(Shading(), "deconoising")
assert_type(model.fit(image, steps=10, callback=low_enough), SelfSupervisedInverse)
model.fit("folder/*.tif").fit(Path("folder")).fit([image, image]).fit(["a.tif", Path("b.tif")])
sharp, denoised = model.predict(image), model.reblur(image)
pair: tuple[np.ndarray, np.ndarray] = model.restore(image)
out = np.lib.format.open_memmap("out.npy", mode="w+", dtype=np.float32, shape=(4, 4))
assert_type(model.predict(np.load("in.npy", mmap_mode="r"), out=out), NDArray[Any])
model.save("model.npz")
model = SelfSupervisedInverse.load(Path("model.npz"), device="cpu")
rates: list[float] = [step["lr"] for step in model.history]
if model.net is not None:
    assert_type(model.net.size, int)
recipe = dataclasses.replace(recipes.NOISE2SELF, network=ssi_cupy.unet.ResidualUNet(width=16))
recipe = dataclasses.replace(recipe, steps=100, normalise="percentile", augment=True)
assert_type(recipes.names(), tuple[str, ...])


# ---- the rest -------------------------------------------------------------------------------

assert_type(classical.richardson_lucy(image, kernel, num_iter=5), Float32)
assert_type(classical.wiener(image, kernel, 0.1), Float32)
assert_type(metrics.psnr(image, x, data_range=1.0), float)
assert_type(metrics.scores(image, x), dict[str, float])
assert_type(degrade.degrade(image, kernel, alpha=0.01, bits=None, rng=1), Float32)
prepared, how = psf.prepare(image, spacing=0.1, psf_spacing=(0.2, 0.2))
assert_type(how.centre, tuple[float, ...])


# ---- what is wrong: a checker that is strict complains of a comment that hides nothing ----------

deconvolve(image)  # type: ignore[call-overload]
deconvolve(image, kernel, modes="mirror")  # type: ignore[call-overload]
deconvolve(image, kernel, device="gpu")  # type: ignore[call-overload]
denoise(image).restored  # type: ignore[attr-defined]  # noqa: B018
SelfSupervisedInverse(object())  # type: ignore[arg-type]
