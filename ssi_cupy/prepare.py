"""What a training has to know before its first step: the image's units, the forward model in
them, the network, and what is beyond the border.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from . import symmetry
from .backend import empty, host
from .checks import InputError, positive_int
from .images import Images
from .noise import estimate_noise
from .physics import (
    Clamp,
    Composition,
    Identity,
    PSFConvolution,
    SensorResponse,
    apply,
    is_linear,
)
from .tape import Tape
from .unet import UNet

LEAST_SIDE = 16  # pixels along Y and X
LEAST_NOISE = 0.01  # of an image that seems to have none, for `losses_for`
NEAR = 2**0.5  # how far from a cube a voxel may be that is treated as one
BROADEN = np.array([[0.095, 0.14, 0.095], [0.14, 0.2, 0.14], [0.095, 0.14, 0.095]])


def forward_model(g, recipe, y, offset=0.0, scale=1.0):
    """The forward model that a recipe trains with, in units of the normalised image `y`."""
    from scipy.signal import convolve

    if recipe.broaden and isinstance(g, PSFConvolution):
        weights = BROADEN[None] / BROADEN.sum()
        g = PSFConvolution(**g.settings() | {"psf": convolve(g.psf, weights)})
    parts = [Clamp(0, 1)] if recipe.clamp else []
    parts.append(_in_units(g, offset, scale, y))
    if recipe.sensor:
        parts += _sensor(g, y)
    return Composition(*parts) if len(parts) > 1 else parts[0]


class InUnits:
    """A forward model of intensities, for normalised ones: x ↦ (g(scale · x + offset) − offset) /
    scale."""

    def __init__(self, g, offset, scale):
        self.g, self.offset, self.scale = g, offset, scale

    def forward(self, x):
        return (apply(self.g, x * self.scale + self.offset) - self.offset) / self.scale

    def backward(self, gy, x):
        tape = Tape()
        x = tape.var(x * self.scale + self.offset)
        tape.backward(apply(self.g, x), gy)  # the scale of x and that of y cancel
        return x.grad


def _in_units(g, offset, scale, y):
    """`g` itself where it is linear and leaves constants alone: then units are nothing to it."""
    ones = empty(y.shape, np.float32, like=y)
    ones[...] = 1
    image = apply(g, ones)
    if image.shape != ones.shape:
        raise InputError("physics", f"an output of the input's shape {y.shape}", f"{image.shape}")
    keeps = is_linear(g) and np.abs(image - 1).max() <= 1e-5
    return g if keeps or (offset, scale) == (0, 1) else InUnits(g, offset, scale)


def losses_for(g, recipe, y, offset=0.0, scale=1.0, spacing=None, ends=None):
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
    noise = max(_noise(g, y), LEAST_NOISE)
    return dataclasses.replace(
        losses, delta=losses.delta * noise, tv=losses.tv * noise, high=_clipping(y)[1]
    )


def _sensor(g, y):
    """A `SensorResponse` where `y` is clipped, and nothing where it is not."""
    low, high = _clipping(y)
    if np.isinf(low) and np.isinf(high):
        return []
    return [SensorResponse(_noise(g, y), low=low, high=high)]


def _noise(g, y):
    low, high = _clipping(y)
    return estimate_noise(host(y), getattr(g, "psf", None), low=low, high=high)


def _clipping(y):
    """What `y` was clipped at, below and above; infinite where it was not.

    Clipped are values at an end which more than one pixel in a thousand has, and three times as
    many as have the value next to it.
    """
    values, counts = np.unique(host(y), return_counts=True)
    if len(values) < 8:
        return -np.inf, np.inf
    ends = ((0, 1), (-1, -2))  # an end, and the value next to it
    low, high = (counts[end] > max(0.001 * y.size, 3 * counts[near]) for end, near in ends)
    return float(values[0]) if low else -np.inf, float(values[-1]) if high else np.inf


def network_for(y, template=None, spacing=None):
    """A network for images of y's shape: pooled along each axis as often as its size allows.

    The lowest level keeps 4 pixels along Y and X, and 2 along Z: statistics of fewer values say
    nothing about another image, or about a turned one. Where the voxels are no cubes, only their
    shorter sides are pooled until they nearly are, to within √2, and kernels have the fewer taps
    along Z the higher the voxels of a level are.

    Parameters
    ----------
    y : (N, C, Z, Y, X) array
    template : Network, optional
        Of the same kind, as deep and as wide; a `UNet` by default.
    spacing : (float, float, float), optional
        Distances of pixels along Z, Y and X, in any unit.
    """
    channels, (depth, height, width) = y.shape[1], y.shape[2:]
    if min(height, width) < LEAST_SIDE:
        expected = f"at least {LEAST_SIDE} pixels along Y and X, of a patch with its halo too"
        raise InputError("image", expected, f"shape {y.shape[2:]}")
    template = template or UNet()
    aspect = relative(spacing)[0] if spacing and depth > 1 else 1.0
    windows, z, across = [], 1, 1  # and how many pixels of the image one of the level is
    for _ in template.pooling:
        deep, wide = depth >= 4 * z, min(height, width) >= 8 * across
        high = aspect * min(1, z / across) > NEAR
        flat = aspect * max(1, z / across) < 1 / NEAR
        window = (2 if deep and not high else 1, *2 * [2 if wide and not (deep and flat) else 1])
        windows.append(window)
        z, across = z * window[0], across * window[1]
    return dataclasses.replace(
        template, ndim=2 if depth == 1 else 3, inputs=channels, outputs=channels,
        windows=tuple(windows), aspect=aspect,
    )  # fmt: skip


def voxel(spacing, ndim):
    """Pixel sizes along Z, Y and X, for one number or one for each of the `ndim` axes.

    None stays None. That of a Z which an image has not is the mean of the others.
    """
    if spacing is None:
        return None
    try:
        sizes = np.broadcast_to(np.asarray(spacing, float), (ndim,))
    except (ValueError, TypeError):
        names = " ".join("ZYX"[-ndim:])
        expected = f"a pixel size in µm, or {ndim} for {names}"
        raise InputError("spacing", expected, repr(spacing)) from None
    if not np.all(np.isfinite(sizes)) or np.any(sizes <= 0):
        raise InputError("spacing", "pixel sizes above zero, in µm", repr(spacing))
    return (*[float(sizes.mean())] * (3 - ndim), *sizes.tolist())


def relative(spacing):
    """Pixel sizes in units of those across, in the plane."""
    z, y, x = spacing
    across = (y + x) / 2
    return z / across, y / across, x / across


def units_of(y, normalise):
    """(offset, scale) such that (y − offset) / scale runs from about 0 to about 1; with
    "standardise", such that its mean is 0 and its standard deviation 1.

    `y` is an array, or an `images.Images`: then they are those of the whole set.
    """
    many = isinstance(y, Images)
    low, high = y.ends() if many else (float(y.min()), float(y.max()))
    if low == high:
        raise InputError("image", "an image with more than one value", f"the constant {low:g}")
    if normalise == "standardise":
        return y.moments() if many else (float(y.mean()), float(y.std()))
    if normalise == "percentile":
        shares = 0.5, 99.5
        some = y.percentiles(shares) if many else np.percentile(y, shares)
        if some[1] > some[0]:
            low, high = map(float, some)
    return low, high - low


def allowed_turns(g, recipe=None):
    """The turns and flips that a forward model allows, or those that the recipe names."""
    if recipe is not None and recipe.turns is not True:
        return list(recipe.turns)
    if isinstance(g, Identity):
        return symmetry.every(2)
    if isinstance(g, PSFConvolution):
        return symmetry.of_psf(g.psf[0] if len(g.psf) == 1 else g.psf)
    return [symmetry.IDENTITY]


def reach_of(g):
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


def wraps(g):
    """Whether the other side of the image lies beyond its border."""
    if isinstance(g, Composition):
        return any(map(wraps, g.models))
    return getattr(g, "mode", None) == "wrap"


def margin_of(g, recipe, shape):
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
