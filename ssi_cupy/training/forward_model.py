"""The forward model that a training uses: in the units of the image, with the sensor's clipping;
its symmetries, its reach, and how far beyond the border is restored along.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import symmetry
from ..engine.backend import empty, host
from ..engine.checks import InputError, positive_int
from ..engine.types import Array, Shape
from ..noise import NoiseModel, noise_model
from ..ops.pad import crop, pad
from ..physics import (
    Clamp,
    Composition,
    Identity,
    PSFConvolution,
    SensorResponse,
    apply,
    is_linear,
    to_dict,
)
from ..physics.learned import living
from ..recipes import Recipe
from ..symmetry import Symmetry
from ..tape import Tape

BROADEN = np.array([[0.095, 0.14, 0.095], [0.14, 0.2, 0.14], [0.095, 0.14, 0.095]])


def forward_model(
    g: Any,
    recipe: Recipe,
    y: Array,
    offset: float = 0.0,
    scale: float = 1.0,
    noise: NoiseModel | None = None,
) -> Any:
    """The forward model that a recipe trains with, in units of the normalised image `y`, whose
    noise model is by default its own."""
    from scipy.signal import convolve

    if recipe.broaden and isinstance(g, PSFConvolution):
        weights = BROADEN[None] / BROADEN.sum()
        psf = convolve(g.psf, weights)
        g = PSFConvolution(psf, mode=g.mode, method=g.method, normalise=False)
    parts = [Clamp(0, 1)] if recipe.clamp else []
    parts.append(_in_units(g, offset, scale, y))
    if recipe.sensor:
        parts += _sensor(noise or noise_model(y, getattr(g, "psf", None)))
    return Composition(*parts) if len(parts) > 1 else parts[0]


class InUnits:
    """A forward model of intensities, for normalised ones: x ↦ (g(scale · x + offset) − offset) /
    scale."""

    def __init__(self, g: Any, offset: float, scale: float) -> None:
        self.g, self.offset, self.scale = g, offset, scale
        if (psf := living(g)) is not None:
            psf.unit = scale

    def forward(self, x: Array) -> Array:
        return (apply(self.g, x * self.scale + self.offset) - self.offset) / self.scale

    def backward(self, gy: Array, x: Array) -> Array:
        tape = Tape()
        x = tape.var(x * self.scale + self.offset)
        tape.backward(apply(self.g, x), gy)  # the scale of x and that of y cancel
        return x.grad


def _in_units(g, offset, scale, y):
    """`g` itself where it is linear and leaves constants alone: then units are nothing to it."""
    ones = empty(y.shape, np.float32, like=y)
    ones[...] = 1
    image = host(apply(g, ones))
    if image.shape != ones.shape:
        raise InputError("physics", f"an output of the input's shape {y.shape}", f"{image.shape}")
    keeps = is_linear(g) and np.abs(image - 1).max() <= 1e-5
    return g if keeps or (offset, scale) == (0, 1) else InUnits(g, offset, scale)


def _sensor(noise):
    """A `SensorResponse` where the image is clipped, and nothing where it is not."""
    if np.isinf(noise.low) and np.isinf(noise.high):
        return []
    return [SensorResponse(noise.level, low=noise.low, high=noise.high)]


def allowed_symmetries(g: Any, recipe: Recipe | None = None) -> list[Symmetry]:
    """The rotations and flips that a forward model allows, or those that the recipe names."""
    if recipe is not None and recipe.augment is not True:
        return list(recipe.augment)
    if isinstance(g, Identity):
        return symmetry.every(2)
    if {"anisotropy", "shift"} & set(getattr(g, "learn", ())):
        return [symmetry.IDENTITY]  # what it will be is not known yet
    if isinstance(g, PSFConvolution):
        return symmetry.of_psf(g.psf[0] if len(g.psf) == 1 else g.psf)
    return [symmetry.IDENTITY]


def reach_of(g: Any) -> Shape:
    """How many pixels along (Z, Y, X) the light of a point may move to either side.

    A forward model of one's own that treats all places alike says it by an attribute ``reach``.

    Raises
    ------
    InputError
        For a model that does not say: it cannot be applied to a part of an image.
    """
    if isinstance(g, Composition):
        return tuple(map(sum, zip(*map(reach_of, g.models), strict=True)))
    if isinstance(g, InUnits):
        return reach_of(g.g)
    if isinstance(g, PSFConvolution):
        return tuple(k // 2 for k in g.psf.shape)
    if isinstance(g, (Identity, Clamp, SensorResponse)):
        return (0, 0, 0)
    said = getattr(g, "reach", None)
    try:
        return tuple(positive_int(n, "reach", minimum=0) for n in np.broadcast_to(said, 3))
    except (TypeError, ValueError):
        expected = "for training on patches, a model with an attribute reach = (z, y, x), pixels"
        raise InputError("physics", expected, f"{type(g).__name__} with {said}") from None


def wraps(g: Any) -> bool:
    """Whether the other side of the image lies beyond its border."""
    if isinstance(g, Composition):
        return any(map(wraps, g.models))
    return getattr(g, "mode", None) == "wrap"


def margin_of(g: Any, recipe: Recipe, shape: Shape) -> Shape:
    """How far beyond the border of an image of `shape` (Z, Y, X) is restored along with it.

    An image sees, through the blur, what lies outside of it, up to the radius of the PSF. Where
    the boundary mode is a guess (mirror, nearest), a model that must explain the image from within
    draws false lines along the border; with a margin it puts the light where it came from, and
    the margin is cut off at the end. Where the mode is knowledge (wrap, constant), or the forward
    model is not a `PSFConvolution`, there is none; nor where patches are trained on.
    """
    if recipe.patch or not (
        recipe.margin and isinstance(g, PSFConvolution) and g.mode in ("mirror", "nearest")
    ):
        return (0, 0, 0)
    radii = [min(k // 2, n // 2) for k, n in zip(g.psf.shape, shape, strict=True)]
    return (radii[0], max(radii[1:]), max(radii[1:]))


def with_margin(y: Any, margin: Shape) -> Any:
    """`y` (N, C, Z, Y, X) with a mirrored margin of that many pixels around it."""
    return pad(y, widths=[(m, m) for m in margin], mode="mirror") if any(margin) else y


def without_margin(x: Any, margin: Shape, shape: Shape) -> Any:
    """The inverse of `with_margin`; `shape` is that of the (Z, Y, X) inside."""
    return crop(x, start=margin, shape=shape) if any(margin) else x


def is_ours(g: Any) -> bool:
    """Whether it is of `physics`: what a user's does on the CPU would be frozen in a graph."""
    try:
        to_dict(g)
    except InputError:
        return False
    return True
