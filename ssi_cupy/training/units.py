"""The units of an image: what makes it run from about 0 to 1, and how large its pixels are."""

from __future__ import annotations

import numpy as np

from ..engine.checks import InputError, representable
from ..engine.types import Array, DTypeLike, Spacing
from .image_sets import Images


def units_of(y: Array | Images, normalise: str) -> tuple[float, float]:
    """(offset, scale) such that (y − offset) / scale runs from about 0 to about 1; with
    "percentile" the background is at 0 in either polarity, so that an image and its negative are
    one; with "standardise", such that its mean is 0 and its standard deviation 1.

    `y` is an array, or an `images.Images`: then they are those of the whole set.
    """
    many = isinstance(y, Images)
    low, high = y.ends() if many else (float(y.min()), float(y.max()))
    if low == high:
        raise InputError("image", "an image with more than one value", f"the constant {low:g}")
    representable(low, high)
    if normalise == "standardise":
        return y.moments() if many else (float(y.mean()), float(y.std()))
    if normalise == "percentile":
        shares = 0.5, 50, 99.5
        some = y.percentiles(shares) if many else np.percentile(y, shares)
        if some[2] > some[0]:
            low, middle, high = map(float, some)
            if high - middle < middle - low:  # dark on bright: what most pixels show is at 0
                return high, low - high
    return low, high - low


FARTHEST = 1e12  # contrasts from the training's that values may lie


def normalised(y: Array, offset: float, scale: float, dtype: DTypeLike = np.float32) -> Array:
    """(y − offset) / scale, in float64, as `dtype`; an `InputError` for an image of other units."""
    with np.errstate(over="ignore"):
        found = ((y - offset) / scale).astype(dtype)
    if not (abs(found.max()) < FARTHEST and abs(found.min()) < FARTHEST):  # nor is NaN
        raise InputError("image", "values like those that the model was trained on",
                         f"{float(y.min()):g} to {float(y.max()):g}")  # fmt: skip
    return found


def voxel(spacing: Spacing | None, ndim: int) -> tuple[float, float, float] | None:
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


def relative(spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    """Pixel sizes in units of those across, in the plane."""
    z, y, x = spacing
    across = (y + x) / 2
    return z / across, y / across, x / across
