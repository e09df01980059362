"""How far a restored pixel may be off: a standard deviation for each, of what can be known of it.

The trained network is applied to images that could as well have been measured: g(f(y)) with noise
of the image's level (a parametric bootstrap, Efron and Tibshirani 1993, chapter 6), each seen by
one of the symmetries that the training used. How the results scatter, and how far their mean is
from f(y), what was put in, is taken for how far f(y) scatters around the truth and is off it ::

    u² = scale² · smoothed [ mean_b (x_b − x̄)² + (x̄ − f(y))² ]

all of it at the frequencies that the PSF passes. What it does not pass, no data can tell: there a
restored image is a guess, and that is not in u. The scale is `SCALE`, for the network errs in more
than noise explains: what it smoothes away it smoothes away of every draw. Where held-out pixels are
missed by more than that, the scale is what they say.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from ..engine.backend import contiguous, host, moved
from ..engine.types import Array, Float64Array, Shape
from ..noise import noise_model
from ..physics import PSFConvolution
from . import tiling
from .predict import infer
from .refinement import refine
from .residual import transfer

DRAWS = 8
BAND = 0.05  # |H| from which on the PSF is taken to pass a frequency
SMOOTH = 1.5  # pixels: so many draws tell a variance to a half, neighbours together better
AT_ONCE = 2**21  # pixels: of larger images,
PART = {2: 1024, 3: 128}  # pixels a side that one part has, by the number of axes
SCALE = 1.75  # by the errors on 2-D micrographs, see bench/README.md


def uncertainty(
    model: Any, image: Array, restored: Array, denoised: Array, *, refined: bool = False,
    numbers: dict[str, float] | None = None, **tiles: Any,
) -> Float64Array:  # fmt: skip
    """Standard deviation of a restored image, pixel by pixel, in its units.

    Of a large image it is found part by part.

    Parameters
    ----------
    model : SelfSupervisedInverse
    image, restored, denoised : (Y, X) or (Z, Y, X) array
    refined : bool
        Whether the two were refined.
    numbers : dict, optional
        Of the `Verdict`: ``chi2`` of held-out pixels and its standard error.
    **tiles
        ``tile_size`` and ``tile_overlap`` of the inference.

    Returns
    -------
    array of float64, on the CPU
    """
    found = np.empty(image.shape)
    for number, part in enumerate(parts_of(image.shape)):
        some = [a[part.box] for a in (image, restored, denoised)]
        settings = {"refined": refined, "numbers": numbers, "seed": model.seed + number}
        part.add(found, _uncertainty(model, *some, **settings, **tiles))
    return found


def _uncertainty(model, image, restored, denoised, *, refined, numbers, seed, **tiles):
    from scipy import ndimage

    y, x, gx = (host(a).astype(np.float64) for a in (image, restored, denoised))
    g = model.physics
    known = model.noise or noise_model(y, getattr(g, "psf", None))
    noise, low, high = known.level, known.low, known.high
    rng = np.random.default_rng(seed)
    draws, moves = [], []
    for draw in range(DRAWS):
        again = np.clip(gx + noise * rng.normal(size=y.shape), low, high)
        one = copy.copy(model)
        one.symmetries = [model.symmetries[draw % len(model.symmetries)]]
        again = moved(contiguous(again), image)
        sharp, blurred = infer(one, again, True, True, **tiles)
        if refined:
            sharp, blurred = refine(again, sharp, blurred, g)
        moves.append(float(((host(blurred) - gx) ** 2).mean()))
        draws.append(passed(host(sharp) - x, g))
    mean, variance = np.mean(draws, axis=0), np.var(draws, axis=0, ddof=1)
    width = [SMOOTH * (n > 1) for n in y.shape]
    scale = _scale(numbers or {}, noise, float(np.mean(moves)))
    return scale * np.sqrt(ndimage.gaussian_filter(variance + mean**2, width, mode="mirror"))


def parts_of(shape: Shape) -> list[tiling.Tile]:
    """A single part, or several of `PART` that overlap."""
    ndim = sum(n > 1 for n in shape)
    if math.prod(shape) <= AT_ONCE or ndim not in PART:
        return tiling.tiles(shape, shape)
    return tiling.tiles(shape, PART[ndim], PART[ndim] // 8, blind=PART[ndim] // 16)


def _scale(numbers, noise, variance):
    """`SCALE`, or more where held-out pixels are missed by more than g(f(y)) is said to be off."""
    beyond = numbers.get("chi2", 0.0) - 1 - 3 * numbers.get("chi2_error", 0.0)
    if beyond <= 0 or not variance > 0:
        return SCALE
    return max(SCALE, float(np.sqrt(beyond * noise**2 / variance)))


def passed(image: Array, g: Any) -> Float64Array:
    """The frequencies of an image that the PSF passes; all of them, where there is none."""
    from scipy import fft

    image = np.asarray(image, np.float64)
    if not isinstance(g, PSFConvolution):
        return image
    mirrored = [(n, 0) for n in image.shape]  # so that the border makes no frequencies of its own
    whole = np.pad(image, mirrored, "symmetric")
    psf = g.psf.reshape(g.psf.shape[-image.ndim :])
    kept = transfer(psf, whole.shape) >= BAND
    whole = fft.irfftn(fft.rfftn(whole) * kept, whole.shape)
    return whole[tuple(slice(n, None) for n in image.shape)]
