"""Pixels that hold no light: hot or dead ones, cosmic rays, salt and pepper."""

from __future__ import annotations

import numpy as np

from ..engine.arrays import as_array
from ..engine.backend import host
from ..engine.checks import InputError, point_spread_function, real_array
from ..engine.types import Array, ArrayLike
from .model import NoiseModel

AT_ONCE = 2**22  # pixels that are looked at at once
UNLIKELY = 4.0  # noise levels by which an outlier is off what its neighbours explain
NEAR, FAR = 1.0, 1.2  # those by which a neighbour, and the darkest median, is off by chance
TOLERANCE = 1.3  # of what they explain: the PSF may be narrower than it is said to be
LEAST_SHARE = 0.5  # of its light, that a pixel's neighbours have: with less, all is possible


def outliers(image: ArrayLike, psf: ArrayLike, noise: NoiseModel) -> Array:
    """Pixels that no light can explain: hot or dead ones, cosmic rays, salt and pepper.

    What a lens blurs cannot stand alone: wherever light falls on a background b, a pixel's
    nearest neighbours yᵢ get at least q = min (ring * psf) / psf times as much of it as the pixel.
    So it is an outlier, on the bright side, if ::

        y − b > UNLIKELY σ(m) + TOLERANCE Σᵢ max(yᵢ − b − NEAR σ(m), 0) / q

    with noise of σ(m) at the neighbours' median m, and for b that median or, where the least of
    these medians within the PSF is further below it than noise would be, so much less; and if all
    its neighbours but one are darker. On the dark side, likewise.

    Parameters
    ----------
    image : ([Z,] Y, X) or (N, C, Z, Y, X) array of real numbers
    psf : ([Z,] Y, X) array
        One that leaves nearly all its light in a single pixel explains every pixel.
    noise : NoiseModel

    Returns
    -------
    array of bool, of the image's shape, on the CPU

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    from scipy import ndimage

    image = real_array(as_array(image, "image"), "image", ndim=(2, 3, 5))
    image = host(image)
    psf = point_spread_function(as_array(psf, "psf"), ndim=(2, 3))
    psf = np.asarray(host(psf), np.float64)
    if not isinstance(noise, NoiseModel):
        raise InputError("noise", "a NoiseModel, as noise_model makes one", type(noise).__name__)
    five = image.reshape((1,) * (5 - image.ndim) + image.shape)
    psf = psf.reshape((1,) * (3 - psf.ndim) + psf.shape)
    ring = np.ones([3 if n > 1 else 1 for n in five.shape[2:]])
    ring[tuple(n // 2 for n in ring.shape)] = 0
    around = ndimage.convolve(psf, ring, mode="constant")
    bright, centre = psf > 0.1 * psf.max(), [n // 2 for n in psf.shape]
    share = (around[bright] / psf[bright]).min()
    if share < LEAST_SHARE:
        return np.zeros(image.shape, bool)
    reach = np.abs(np.argwhere(psf > 0.01 * psf.max()) - centre).max(axis=0)
    found = np.empty(five.shape, bool)
    axis = 2 + int(np.argmax(five.shape[2:]))
    length, far = five.shape[axis], int(reach[axis - 2]) + 1
    step = max(1, AT_ONCE * length // five.size)
    for first in range(0, length, step):  # slabs, with what decides of their pixels beside them
        begin, last = max(0, first - far), min(first + step, length)
        some = five.take(range(begin, min(last + far, length)), axis).astype(np.float64)
        inside = _stick_out(some, ring, reach, share, noise)
        found[(slice(None),) * axis + (slice(first, last),)] = inside.take(
            range(first - begin, last - begin), axis
        )
    return found.reshape(image.shape)


def _stick_out(five, ring, reach, share, noise):
    """The outliers of an image (N, C, Z, Y, X), as `outliers` says.

    Only where a pixel is far enough above all its neighbours but one, all is computed. In volumes
    the least of the medians is that at every other voxel.
    """
    from scipy import ndimage

    wide = np.pad(five, [(0, 0)] * 2 + [(n // 2, n // 2) for n in ring.shape], mode="symmetric")
    near = [
        wide[(..., *(slice(i, i + n) for i, n in zip(at, five.shape[2:], strict=True)))]
        for at in np.argwhere(ring)
    ]
    every = 2 if five.shape[2] > 1 else 1
    some = (..., *[slice(None, None, every if n > 1 else 1) for n in five.shape[2:]])
    middles = np.median([y[some] for y in near], axis=0)
    size = [1, 1, *(2 * -(-reach // every) + 1)]
    least_sigma = np.sqrt(noise.read_noise**2 + noise.step**2)
    found = np.zeros(five.shape, bool)
    for side in (1, -1):
        second = _second(near, side)  # of a pair, one may stand alone
        at = np.nonzero(side * five > side * second + least_sigma)
        if not at[0].size:
            continue
        y, around = five[at], np.stack([values[at] for values in near])
        middle = np.median(around, axis=0)
        sigma = np.sqrt(noise.variance(middle) + noise.step**2)
        least = (ndimage.minimum_filter if side == 1 else ndimage.maximum_filter)(middles, size)
        least = least[tuple(
            i if axis < 2 or five.shape[axis] == 1 else i // every for axis, i in enumerate(at)
        )]  # fmt: skip
        back = middle - side * np.maximum(side * (middle - least) - FAR * sigma, 0)
        explained = np.maximum(side * (around - back) - NEAR * sigma, 0).sum(axis=0)
        beyond = side * (y - back) > UNLIKELY * sigma + explained * TOLERANCE / share
        beyond &= side * y > side * second[at] + sigma
        found[tuple(i[beyond] for i in at)] = True
    return found


def _second(arrays, side):
    """The second largest of some arrays, pixel by pixel; the second least with `side` -1."""
    more, less = (np.maximum, np.minimum) if side == 1 else (np.minimum, np.maximum)
    first, second = more(arrays[0], arrays[1]), less(arrays[0], arrays[1])
    for values in arrays[2:]:
        second = more(second, less(first, values))
        first = more(first, values)
    return second
