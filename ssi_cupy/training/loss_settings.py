"""The settings of a recipe's losses for one image: its units, its noise (Huber's width, TV)."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..engine.types import Array
from ..losses import Losses
from ..noise import clipping, noise_of
from ..recipes import Recipe
from .units import relative

LEAST_NOISE = 0.01  # of an image that seems to have none, for `losses_for`


def losses_for(
    g: Any,
    recipe: Recipe,
    y: Array,
    offset: float = 0.0,
    scale: float = 1.0,
    spacing: tuple[float, float, float] | None = None,
    ends: tuple[float, float] | None = None,
) -> Losses:
    """The losses of a recipe in units of the normalised image `y`.

    A recipe counts positivity from where the data are 0. Its bounds are those of the normalised
    image or, where that is standardised, parts of the image's range, in which their terms are
    measured too. That range is `ends`, where `y` is but a part of what is trained on. With
    ``adaptive``, some settings are multiples of the noise of `y`. With the `spacing` of the pixels,
    differences along an axis are divided by their distance.
    """
    losses = recipe.losses
    if spacing:
        losses = dataclasses.replace(losses, spacing=relative(spacing))
    losses = dataclasses.replace(losses, zero=(losses.zero - offset) / scale)
    if recipe.normalise == "standardise":
        low, high = ends or (float(y.min()), float(y.max()))
        unit = (high - low) ** (2 if losses.bound_squared else 1)
        losses = dataclasses.replace(
            losses, low=low + losses.low * (high - low), high=low + losses.high * (high - low),
            bound=losses.bound / unit, bound_blurred=losses.bound_blurred / unit,
        )  # fmt: skip
    if not recipe.adaptive:
        return losses
    noise = max(noise_of(g, y), LEAST_NOISE)
    return dataclasses.replace(
        losses, delta=losses.delta * noise, tv=losses.tv * noise, high=clipping(y)[1]
    )
