"""Pixels that say nothing of the sample: masked ones, of dead detectors, saturated, off the field.

A masked pixel is hidden in every step, scored in none and counted in no statistic. Where a network
or a Fourier transform must have a number, it shows what lies on the other side of the mask's
border. With n, the pixel nearest to p that is not masked, p shows what can be seen at ::

    2 n − p            the mirror image, as `mirror` has it beyond the border of an image
    n + f (n − p)      f in (0, 1): where that is masked too, the mirror image of a strip along n

So the values that stand there have the texture and the noise of those beside them, and none is
made of what was masked. In a step of the training the hidden pixels are filled first: what shows a
hidden pixel shows what that was filled with, and stays as blind.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from ..engine.arrays import as_array, parted
from ..engine.backend import host, kernel, moved, namespace
from ..engine.checks import InputError, numbers, real_array, told
from ..engine.types import Array, ArrayLike, Shape
from ..masking import validation_pixels, within
from ..symmetry import Symmetry

Mask: TypeAlias = "ArrayLike | Literal['nan'] | None"
NONE = -1  # in the place of a number: fewer pixels are masked than there is room for
KEPT = 32  # batches of which it is known what their masked pixels show
STRIPS = (np.inf, 64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0)  # pixels that a mirrored strip is wide


# ---- which ------------------------------------------------------------------------------------


def separated(image: Any, mask: Mask, argument: str = "image") -> tuple[Array, Array | None]:
    """An image and where it is masked.

    Parameters
    ----------
    image : array
        Of any library. What a masked array masks is masked.
    mask : array of bool, "nan" or None
        True, or not 0, where a pixel is masked; of the image's shape, or of one that is broadcast
        to it as numpy does. "nan" masks what is NaN.
    argument : str
        What complaints call `image`.

    Returns
    -------
    pixels : numpy or cupy array
        Finite. In the place of masked pixels is one that is not.
    masked : numpy array of bool, of the image's shape; or None, where none is

    Raises
    ------
    InputError
    """
    image, own = parted(image)
    pixels = numbers(as_array(image, argument), argument)
    masked = _union(pixels, own, mask)
    if masked is None:
        return real_array(pixels, argument), None
    if masked.all():
        raise InputError("mask", "an image with pixels that are not masked", "none of them")
    first = np.unravel_index(np.argmin(masked), masked.shape)
    seen = pixels[tuple(slice(int(i), int(i) + 1) for i in first)].reshape(-1)
    pixels = namespace(pixels).where(moved(masked, pixels), seen, pixels)
    return real_array(pixels, argument), masked


def _union(pixels, *masks):
    """Where any of the masks is set, as a numpy array of bool; None where none is."""
    found = [as_mask(mask, pixels.shape, pixels) for mask in masks if mask is not None]
    masked = np.logical_or.reduce(found) if found else None
    return masked if found and masked.any() else None


def as_mask(mask: Mask, shape: Shape, pixels: Array | None = None) -> Array:
    """A numpy array of bool and of `shape`; "nan" is where `pixels` are NaN."""
    expected = f"'nan', or an array of bool that fits the image's shape {tuple(shape)}"
    if isinstance(mask, str):
        if mask != "nan" or pixels is None:
            raise InputError("mask", expected, told(mask))
        return np.isnan(host(pixels)) if pixels.dtype.kind == "f" else np.zeros(shape, bool)
    mask = host(as_array(mask, "mask"))
    if mask.dtype.kind != "b":
        mask = real_array(mask, "mask") != 0
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise InputError("mask", expected, f"shape {mask.shape}") from None


def of_all_channels(masked: Array | None) -> Array | None:
    """(N, 1, Z, Y, X) of (N, C, Z, Y, X): a pixel that is masked in one channel is in all."""
    return None if masked is None else masked.any(axis=1, keepdims=True)


def seen(y: Array, masked: Array | None) -> Array:
    """What of `y` (N, C, Z, Y, X) is not masked: all of it, or a vector."""
    return y if masked is None else y[~np.broadcast_to(masked, y.shape)]


def validation(
    shape: Shape, fraction: float, seed: int, masked: Array | None, like: Array
) -> Array:
    """`masking.validation_pixels` that are not masked: more of all where that would leave none."""
    found = validation_pixels(shape, fraction, seed, like=like)
    if masked is None or not fraction:
        return found
    shown = moved((~masked).astype(np.uint8), like)
    while True:
        inside = within(found, shown)
        if host(inside).any(axis=(1, 2, 3, 4)).all():
            return inside
        fraction = min(2 * fraction, (1 + fraction) / 2)
        found = validation_pixels(shape, fraction, seed, like=like)


# ---- what stands in their place -----------------------------------------------------------------


def mirrored(masked: Array) -> tuple[Array, Array]:
    """Which pixel each masked pixel shows.

    Parameters
    ----------
    masked : (N, 1, Z, Y, X) array of bool

    Returns
    -------
    places, sources : arrays of int64
        Numbers of pixels, counted in the order of `masked`. Where nothing of an image can be seen,
        a pixel shows itself.
    """
    from scipy import ndimage

    places = np.flatnonzero(masked)
    sources, done = places.copy(), 0
    for n, hidden in enumerate(masked[:, 0]):
        at = np.argwhere(hidden).T
        if 0 < at.shape[1] < hidden.size:
            nearest = ndimage.distance_transform_edt(
                hidden, return_distances=False, return_indices=True
            )[:, hidden]
            found = np.ravel_multi_index(_across(hidden, at, nearest), hidden.shape)
            sources[done : done + found.size] = found + n * hidden.size
        done += at.shape[1]
    return places, sources


def _across(hidden, at, nearest):
    """(3, count): the pixels across the border from `at`, none of which is hidden."""
    way = nearest - at
    distance = np.sqrt((way.astype(float) ** 2).sum(axis=0))
    found, left = nearest.copy(), np.ones(len(distance), bool)
    limits = np.array(hidden.shape)[:, None] - 1
    for strip in STRIPS:
        beyond = distance
        if np.isfinite(strip):  # there and back within the strip
            beyond = np.abs((distance + strip) % (2 * strip) - strip)
        there = nearest + np.rint(way * (beyond / distance)).astype(nearest.dtype)
        inside = ((there >= 0) & (there <= limits)).all(axis=0)
        good = left & inside
        good[good] = ~hidden[tuple(there[:, good])]
        found[:, good] = there[:, good]
        left &= ~good
    return found


def filled(y: Array, masked: Array | None) -> Array:
    """`y` (N, C, Z, Y, X), with what `mirrored` says in the place of masked pixels: a copy."""
    if masked is None:
        return y
    n, c = y.shape[:2]
    y, flat = (a.reshape(n, c, -1) for a in (y.copy(), y))
    pixels = y.shape[2]
    places, sources = mirrored(masked)
    image, place, source = places // pixels, places % pixels, sources % pixels
    y[image, :, place] = flat[image, :, source]
    return y.reshape(n, c, *masked.shape[2:])


class Missing:
    """The masked pixels of a batch: arrays on its device that stay where they are.

    Parameters
    ----------
    count : int
        The most masked pixels that a batch has.
    like : array
    """

    def __init__(self, count: int, like: Array) -> None:
        self.places, self.sources = (moved(np.zeros(count, np.int64), like) for _ in range(2))
        self.known: dict[tuple[Shape, bytes], tuple[Array, Array]] = {}  # by where they are

    def write(self, places: Array, sources: Array) -> None:
        """Those of the next batch, on its device."""
        for mine, new in ((self.places, places), (self.sources, sources)):
            mine[: len(new)] = new
            mine[len(new) :] = NONE

    def hide(self, masked: Array, y: Array, validation: Array, inside: Array) -> None:
        """Fill the masked pixels of a batch, (N, 1, Z, Y, X) of bool on the CPU, and put them
        among those that are hidden always, and outside."""
        key = masked.shape, np.packbits(masked).tobytes()
        if key not in self.known:
            if len(self.known) >= KEPT:
                self.known.clear()
            self.known[key] = mirrored(masked)
        self.write(*(moved(numbers, y) for numbers in self.known[key]))
        self.fill(y)
        masked = moved(masked.astype(np.uint8), inside)
        inside *= 1 - masked
        namespace(validation, masked).bitwise_or(validation, masked, out=validation)

    def fill(self, y: Array) -> Array:
        """`y` (N, C, Z, Y, X), filled in place."""
        planes = y.reshape(*y.shape[:2], -1)
        copy_missing_kernel(len(self.places), planes, self.places, self.sources)
        return y


@kernel(grain=4096)
def copy_missing_kernel(start, stop, image, places, sources):
    _, channels, pixels = image.shape
    for i in range(start, stop):
        if places[i] == NONE:
            continue
        n, place, source = places[i] // pixels, places[i] % pixels, sources[i] % pixels
        for c in range(channels):
            image[n, c, place] = image[n, c, source]


def transformed(numbers: Array, shape: Shape, symmetry: Symmetry) -> Array:
    """Numbers of pixels in images of `shape` (Z, Y, X), after `symmetry.apply` of these."""
    exchange, flips = symmetry
    depth, height, width = shape
    x, y, rest = numbers % width, numbers // width % height, numbers // (width * height)
    z, n = rest % depth, rest // depth
    if exchange:
        x, y, width, height = y, x, height, width
    z = depth - 1 - z if 2 in flips else z
    y = height - 1 - y if 3 in flips else y
    x = width - 1 - x if 4 in flips else x
    return ((n * depth + z) * height + y) * width + x
