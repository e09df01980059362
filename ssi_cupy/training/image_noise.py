"""The noise of the image that is trained on, and what of it is no image: outliers are masked."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..engine.backend import log
from ..engine.types import Array
from ..masking import RandomMask
from ..noise import NoiseModel, noise_model, outliers
from ..physics import PSFConvolution
from ..recipes import Recipe
from .missing import filled, of_all_channels

STRONG = 0.15, 0.3  # shares of noise from which on fewer pixels stay hidden, and the fewest
MOST = 0.02  # of all pixels that may be outliers: where more seem to be, the PSF is too wide


def noise_of(y: Array, model: Any) -> NoiseModel | None:
    """The noise model of an image (N, C, Z, Y, X), by what is known of the camera, if the recipe of
    a `SelfSupervisedInverse` asks for it."""
    recipe = model.recipe
    if not (recipe.adaptive or recipe.sensor or recipe.wiener):
        return None
    return noise_model(y, getattr(model.physics, "psf", None), **model.camera)


def noise_share(noise: NoiseModel, shown: Array) -> float:
    """How much of the variance of an image's pixels is noise, from 0 to 1."""
    variance = noise.level**2
    return variance / max(float(shown.var()), variance) if variance else 0.0


def mask_for(recipe: Recipe, noise: NoiseModel | None, shown: Array) -> Any:
    """Which pixels a recipe hides. Where it is ``adaptive``, as many stay hidden as at the start
    unless the noise is strong: only then a network learns too much of it from so many."""
    mask = recipe.mask
    if not (recipe.adaptive and noise and isinstance(mask, RandomMask)):
        return mask
    low, high = STRONG
    fall = min(max((noise_share(noise, shown) - low) / (high - low), 0.0), 1.0)
    return dataclasses.replace(mask, end=mask.start + fall * (mask.end - mask.start))


def noise_and_mask(
    y: Array, masked: Array | None, model: Any
) -> tuple[NoiseModel | None, Array | None]:
    """The noise model of an image, and the pixels that are masked or outliers.

    Parameters
    ----------
    y : (N, C, Z, Y, X) array of float64, on the CPU
        Filled where it is masked.
    masked : (N, 1, Z, Y, X) array of bool; or None, where nothing is
    model : SelfSupervisedInverse
        Its recipe looks for outliers if it is ``adaptive``. A forward model without a PSF can
        explain every pixel.
    """
    noise = noise_of(y, model)
    if noise is None or not model.recipe.adaptive:
        return noise, masked
    found = of_all_channels(spoilt(y, model.physics, dataclasses.replace(noise, outliers=1.0)))
    if found is None:
        return noise, masked
    found = found if masked is None else found & ~masked
    share = float(found.mean())
    if share > MOST:
        log.warning(
            "image: %.1f %% of the pixels stick out by more than the PSF allows, too many to be "
            "hot or dead: is the PSF wider than the blur?", 100 * share,
        )  # fmt: skip
    if not 0 < share <= MOST:
        return noise, masked
    masked = found if masked is None else found | masked
    noise = noise_of(filled(y, masked), model)
    return dataclasses.replace(noise, outliers=share), masked


def spoilt(y: Array, g: Any, noise: NoiseModel | None) -> Array | None:
    """The outliers of an image, an array of bool on the CPU; None where they are not looked for,
    because the image that was trained on had none."""
    if noise is None or not noise.outliers or not isinstance(g, PSFConvolution):
        return None
    return outliers(y, g.psf, noise)
