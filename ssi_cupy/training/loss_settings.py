"""The settings of a recipe's losses for one image: its units, its noise (Huber's width, TV)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ..engine.backend import host
from ..engine.types import Array
from ..losses import Losses
from ..noise import NoiseModel, noise_model
from ..recipes import Recipe
from .image_noise import noise_share
from .units import relative

LEAST_NOISE = 1e-3  # of an image that seems to have none, for `losses_for`
PHOTONS = 10  # counts by which a pixel may be off before it is taken for an outlier
NOISY = 0.3  # what the weight of TV grows by, where the image's variance is all noise
BACKGROUND = 6  # noise levels between the darkest pixels and the darkest quarter, at most


def losses_for(
    g: Any,
    recipe: Recipe,
    y: Array,
    offset: float = 0.0,
    scale: float = 1.0,
    spacing: tuple[float, float, float] | None = None,
    ends: tuple[float, float] | None = None,
    shown: Array | None = None,
    noise: NoiseModel | None = None,
) -> Losses:
    """The losses of a recipe in units of the normalised image `y`.

    A recipe counts positivity from where the data are 0. Its bounds are those of the normalised
    image or, where that is standardised, parts of the image's range, in which their terms are
    measured too. That range is `ends`, where `y` is but a part of what is trained on. `shown` are
    the pixels of `y` that are not masked, by default all. With ``adaptive``, some settings are
    multiples of the noise of `y`, whose model is by default its own, and TV's weight grows further
    where hardly anything but noise is there. With the `spacing` of the pixels, differences along an
    axis are divided by their distance.
    """
    losses, shown = recipe.losses, y if shown is None else shown
    if spacing:
        losses = dataclasses.replace(losses, spacing=relative(spacing))
    losses = dataclasses.replace(losses, zero=(losses.zero - offset) / scale)
    if recipe.normalise == "standardise":
        low, high = ends or (float(shown.min()), float(shown.max()))
        unit = (high - low) ** (2 if losses.bound_squared else 1)
        losses = dataclasses.replace(
            losses, low=low + losses.low * (high - low), high=low + losses.high * (high - low),
            bound=losses.bound / unit, bound_blurred=losses.bound_blurred / unit,
        )  # fmt: skip
    if not recipe.adaptive:
        return losses
    noise = noise or noise_model(y, getattr(g, "psf", None))
    level = max(noise.level, LEAST_NOISE)
    # A photon where hardly any are is no outlier: cut off, the light would not come back.
    delta = losses.delta * level + PHOTONS * noise.step
    share = noise_share(noise, shown)
    return dataclasses.replace(
        losses, delta=delta, tv=(losses.tv + NOISY * share**4) * level if losses.tv else 0.0,
        low=_background(shown, level), high=noise.high,
    )  # fmt: skip


def _background(y, noise):
    """What no pixel of the restored image should be below: only a background says it.

    There is one where a quarter of the pixels can hardly be told from the darkest. Elsewhere the
    darkest pixels are what they are because of the blur, and the sharp image may be darker.
    """
    darkest, quarter = np.percentile(host(y), (0.5, 25))
    return float(darkest) if quarter - darkest <= BACKGROUND * noise else -np.inf
