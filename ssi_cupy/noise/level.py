"""The noise level of an image, read off the frequencies that its PSF cannot pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine import checks
from ..engine.arrays import as_array
from ..engine.backend import host
from ..engine.types import Array, ArrayLike, Float64Array


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
    low, high = checks.bounds(low, high)
    image, spectrum, window, blocked = blocked_part(image, psf)
    power = np.abs(spectrum[..., blocked]) ** 2 / np.sum(window**2)
    measured = np.median(power) / np.log(2)
    return _unclipped(image, window**2, float(np.sqrt(measured)), low, high)


def blocked_part(
    image: ArrayLike, psf: ArrayLike | None
) -> tuple[Float64Array, Any, Float64Array, Array]:
    """(5-D float64 image, its spectrum under a Hann window, that window, the frequencies which the
    PSF passes less than 1 % of, or at least 2 % of all)."""
    from scipy import fft

    image = host(checks.real_array(as_array(image, "image"), "image", ndim=(2, 3, 5)))
    image = checks.varying(image, "image")
    psf = np.ones((1, 1)) if psf is None else host(as_array(psf, "psf"))
    psf = checks.point_spread_function(psf, ndim=(2, 3))
    checks.representable(float(image.min()), float(image.max()))
    image = np.asarray(image, np.float64)
    image = image if image.ndim == 5 else image.reshape((1, 1, 1, *image.shape)[-5:])
    psf = psf if psf.ndim == 3 else psf[None]
    shape = image.shape[2:]

    window = np.ones(shape)
    for axis, n in enumerate(shape):
        hann = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
        window *= np.expand_dims(hann, [a for a in range(3) if a != axis])
    spectrum = fft.rfftn((image - image.mean()) * window, axes=(-3, -2, -1))

    grid = np.zeros(shape)
    folded = np.ix_(*(np.arange(k) % n for k, n in zip(psf.shape, shape, strict=True)))
    np.add.at(grid, folded, psf / psf.sum())
    passed = np.abs(fft.rfftn(grid))
    frequencies = [np.fft.fftfreq(n) for n in shape[:2]] + [np.fft.rfftfreq(shape[2])]
    radius = sum(f**2 for f in np.meshgrid(*frequencies, indexing="ij", sparse=True))
    order = np.lexsort((-radius.reshape(-1), passed.reshape(-1).round(6)))
    order = order[: max(np.count_nonzero(passed < 0.01), order.size // 50, 1)]
    blocked = np.zeros(passed.shape, bool)
    blocked.reshape(-1)[order] = True
    return image, spectrum, window, blocked


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
