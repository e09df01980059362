"""What a trained network says of pixels that its training never saw, and that it is not shown; and
how far that is off, by what a sensor would have read."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.backend import contiguous, host, moved
from ..engine.types import Array
from ..masking import fill
from ..physics import SensorResponse
from ..training.large_image import block_at, held_out_block
from ..training.missing import filled, validation
from .predict import infer
from .refinement import can_refine, refine

CAP = 3.0  # noise levels that a held-out residual counts as at most: an outlier is no failure


def held_out_pixels(
    model: Any,
    shape: tuple[int, ...],
    mask: Array | None = None,
    start: tuple[int, ...] | None = None,
) -> Array | None:
    """Which pixels of an image of `shape` the training of a model has not seen, on the CPU.

    None where it has seen all, or was not of a single image. With `start`, they are those of the
    part of a large image that begins there.
    """
    recipe, five = model.recipe, (1,) * (5 - len(shape)) + tuple(shape)
    if start is not None and recipe.validation:
        block = held_out_block(2 if five[2] == 1 else 3, recipe.validation, model.seed)
        at = (0,) * (3 - len(start)) + tuple(start)
        found = block_at(block, at, five[2:]).reshape(shape).astype(bool)
        return found if mask is None else found & ~mask
    if not recipe.validation or (recipe.crop and recipe.crop < max(shape[-2:])):
        return None
    masked = None if mask is None else mask.reshape(five)
    like = np.zeros(1, np.float32)
    found = validation(five, recipe.validation, model.seed, masked, like)
    return found.reshape(shape).astype(bool)


def blind_prediction(
    model: Any,
    image: Array,
    pixels: Array,
    refined: bool = False,
    mask: Array | None = None,
    **tiles: Any,
) -> Array:
    """g(f(y)) where f is not shown the held-out pixels: as (pixels,) of float64.

    Parameters
    ----------
    model : SelfSupervisedInverse
        A trained one.
    image : (Y, X) or (Z, Y, X) array
    pixels : array of bool of its shape
    refined : bool
        Refine the result as `refinement.refine` does, with the prediction itself in the place of
        the held-out pixels.
    mask : array of bool of its shape, optional
        Which pixels say nothing.
    **tiles
        ``tile_size`` and ``tile_overlap`` of `infer`.

    Returns
    -------
    (n,) array of float64, on the CPU
    """
    five = (1,) * (5 - image.ndim) + image.shape
    y = host(image).astype(np.float64)
    recipe, hidden = model.recipe, pixels.reshape(five).astype(np.uint8)
    how = recipe.validation_fill or recipe.fill
    mean = float(y[~pixels].mean())
    masked = None if mask is None else mask.reshape(five)
    options = {"sigma": recipe.fill_sigma * abs(model.units[1]), "mean": mean}
    seen = fill(y.reshape(five), hidden, how, model.seed, 0, **options)
    seen = filled(seen, masked).reshape(image.shape)  # what shows a hidden pixel is as blind
    seen = moved(contiguous(seen), image)
    sharp, blurred = infer(model, seen, True, True, **tiles)
    if refined and can_refine(model.physics):
        stand_in = filled(np.where(pixels, host(blurred), y).reshape(five), masked)
        stand_in = moved(stand_in.reshape(image.shape), image)
        _, blurred = refine(stand_in, sharp, blurred, model.physics, mask)
    return host(blurred)[pixels].astype(np.float64)


class Reading:
    """What a sensor reads: the mean and the variance of light with noise, clipped."""

    def __init__(self, noise: float, low: float, high: float) -> None:
        self.noise, self.low, self.high = noise, low, high
        self.clips = noise > 0 and (np.isfinite(low) or np.isfinite(high))

    def mean(self, light: Array) -> Array:
        if not self.clips:
            return light
        response = SensorResponse(self.noise, low=self.low, high=self.high)
        five = np.ascontiguousarray(light.reshape((1,) * (5 - light.ndim) + light.shape))
        return response.forward(five).reshape(light.shape)

    def variance(self, light: Array) -> Array:
        if not self.clips:
            return np.full(light.shape, self.noise**2)
        z = np.linspace(-4, 4, 81)
        weight = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
        readings = np.clip(light[..., None] + self.noise * z, self.low, self.high)
        average = readings @ weight
        return np.maximum((readings**2) @ weight - average**2, 1e-3 * self.noise**2)


class HeldOut:
    """The held-out pixels, what they are and what the network says."""

    def __init__(self, y: Array, pixels: Array, blind: Array, reading: Reading) -> None:
        self.y, self.pixels, self.blind, self.reading = y, pixels, blind, reading

    def squares(self, predicted: Array, some: Any = np.s_[:]) -> Array:
        """Squared residuals of (mean readings) `predicted` at `some`, over the mean variance."""
        variance = self.reading.variance(self.blind[some])
        square = (self.y[self.pixels][some] - predicted) ** 2
        return np.minimum(square, CAP**2 * self.reading.noise**2) / variance.mean()

    def network(self, some: Any = np.s_[:]) -> Array:
        return self.squares(self.reading.mean(self.blind)[some], some)
