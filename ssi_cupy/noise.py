"""The noise level of an image, from the image itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from .engine import checks
from .engine.arrays import as_array
from .engine.backend import host
from .engine.types import Array, ArrayLike


def estimate_noise(
    image: ArrayLike, psf: ArrayLike | None = None, *, low: float = -np.inf, high: float = np.inf
) -> float:
    """The noise level of an image, read off the frequencies that the PSF cannot pass.

    There the image holds nothing but noise. The power of white noise at one frequency is
    exponentially distributed, so that its median is ln 2 times its mean, σ²; the median is little
    troubled by the few frequencies that the image's borders leak into (a Hann window keeps
    most of that away).

    Noise of any other kind counts too: 1 % of salt and pepper raises a level of 0.1 by about
    9 %, and of noise that grows with the signal this gives the root mean square.

    Parameters
    ----------
    image : ([Z,] Y, X) or (N, C, Z, Y, X) array
    psf : ([Z,] Y, X) array, optional
        Without one, or if it passes nearly everything, the highest frequencies are taken, and
        fine texture is counted as noise.
    low, high : float, optional
        What the image was clipped at. Clipping takes noise away: two thirds of its power where
        the light is at black. With these given, that is made good: from each pixel's local mean
        follows how much of the noise passed there, and σ is set such that the sum fits: to
        about 5 % on photographs of which a third and more is black.

    Returns
    -------
    float
        Standard deviation, in the units of `image`.
    """
    from scipy import fft

    image = checks.real_array(as_array(image, "image"), "image", ndim=(2, 3, 5))
    image = checks.varying(image, "image")
    psf = np.ones((1, 1)) if psf is None else as_array(psf, "psf")
    psf = checks.point_spread_function(psf, ndim=(2, 3))
    checks.representable(float(image.min()), float(image.max()))
    low, high = checks.bounds(low, high)
    image = np.asarray(image, np.float64)
    image = image if image.ndim == 5 else image.reshape((1, 1, 1, *image.shape)[-5:])
    psf = psf if psf.ndim == 3 else psf[None]
    shape = image.shape[2:]

    window = np.ones(shape)
    for axis, n in enumerate(shape):
        hann = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
        window *= np.expand_dims(hann, [a for a in range(3) if a != axis])
    spectrum = fft.rfftn((image - image.mean()) * window, axes=(-3, -2, -1))
    power = np.abs(spectrum) ** 2 / np.sum(window**2)

    grid = np.zeros(shape)
    folded = np.ix_(*(np.arange(k) % n for k, n in zip(psf.shape, shape, strict=True)))
    np.add.at(grid, folded, psf / psf.sum())
    passed = np.abs(fft.rfftn(grid))
    frequencies = [np.fft.fftfreq(n) for n in shape[:2]] + [np.fft.rfftfreq(shape[2])]
    radius = sum(f**2 for f in np.meshgrid(*frequencies, indexing="ij", sparse=True))
    order = np.lexsort((-radius.reshape(-1), passed.reshape(-1).round(6)))
    blocked = order[: max(np.count_nonzero(passed < 0.01), order.size // 50, 1)]
    measured = np.median(power.reshape(-1, order.size)[:, blocked]) / np.log(2)
    return _unclipped(image, window**2, float(np.sqrt(measured)), low, high)


def _unclipped(image, weights, measured, low, high):
    """The noise before clipping, of an image that shows `measured` after it."""
    from scipy import ndimage

    if measured == 0 or (np.isinf(low) and np.isinf(high)):
        return measured
    mean = ndimage.gaussian_filter(image, [0, 0, *(1.5 * (n > 1) for n in image.shape[2:])])
    z = np.linspace(-5, 5, 201)
    weight = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    darkest, brightest = max(low, image.min()), min(high, image.max())
    noise = measured
    for _ in range(20):
        light = np.linspace(darkest - 4 * noise, brightest + 4 * noise, 400)
        readings = np.clip(light[:, None] + noise * z, low, high)
        average = readings @ weight
        variance = (readings - average[:, None]) ** 2 @ weight
        share = np.interp(mean, average, variance).mean((0, 1)) / noise**2
        share = np.average(share, weights=weights)
        noise = measured / np.sqrt(max(share, 0.01))  # an image that is all black tells nothing
    return float(noise)


def noise_of(g: Any, y: Array) -> float:
    """`estimate_noise` of `y` by the PSF of a forward model, clipping made good."""
    low, high = clipping(y)
    return estimate_noise(host(y), getattr(g, "psf", None), low=low, high=high)


MOST_COUNTS, FEW_COUNTS = 4096, 30.0  # different values of all pixels; mean of the dim ones
COUNTED = 2.5  # times their mean that the variance of dim counts may be, structure included


def count_step(y: Array, values: Array | None = None) -> float:
    """What one count is in `y` if its values are counts (photons, events), or 0.

    Counts are whole multiples of a step, above the least value or below the greatest, and where
    they are few their variance is their mean (Poisson): so many zeros are no sensor's black. The
    variance of Gaussian noise that is clipped at black has nothing to do with the step.

    Parameters
    ----------
    y : (…, Y, X) array of real numbers
    values : array, optional
        Its different values, ascending, where they are known already.

    Returns
    -------
    float
    """
    from scipy import ndimage

    y = np.asarray(host(y), np.float64)
    values = np.unique(y) if values is None else np.asarray(values, np.float64)
    if not 2 <= len(values) <= MOST_COUNTS:
        return 0.0
    step = float(np.diff(values).min())
    for counts in ((y - values[0]) / step, (values[-1] - y) / step):
        if np.abs(counts - np.rint(counts)).max() > 0.01:
            return 0.0
        local = ndimage.uniform_filter(counts, (1,) * (y.ndim - 2) + (5, 5))  # not by their own
        dim = local <= np.median(local)  # value: clipped noise has many zeros, and more beside them
        pair = dim[..., 1:] & dim[..., :-1]
        if pair.sum() < 16:
            continue
        # Of two neighbours: half the squared difference is the variance, their mean the mean.
        variance = ((counts[..., 1:] - counts[..., :-1])[pair] ** 2).mean() / 2
        mean = (counts[..., 1:] + counts[..., :-1])[pair].mean() / 2
        if 0 < variance <= COUNTED * mean and mean <= FEW_COUNTS:
            return step
    return 0.0


def clipping(y: Array) -> tuple[float, float]:
    """What `y` was clipped at, below and above; infinite where it was not.

    Clipped are values at an end which more than one pixel in a thousand has, and three times as
    many as have the value next to it.
    """
    y = host(y)
    values, counts = np.unique(y, return_counts=True)
    if len(values) < 8 or count_step(y, values):
        return -np.inf, np.inf
    ends = ((0, 1), (-1, -2))  # an end, and the value next to it
    low, high = (counts[end] > max(0.001 * y.size, 3 * counts[near]) for end, near in ends)
    return float(values[0]) if low else -np.inf, float(values[-1]) if high else np.inf
