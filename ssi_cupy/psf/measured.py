"""A PSF made of the picture of a point, a bead for instance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..engine.arrays import as_array
from ..engine.backend import host
from ..engine.checks import InputError, choice, number, odd_sizes, positive, real_array, varying
from ..engine.types import ArrayLike, Float64Array, Sizes, Spacing


@dataclass(frozen=True)
class Preparation:
    """What `prepare` found and did. Pixels are those of the measured PSF, unless said otherwise."""

    background: float  # what was subtracted, in the unit of the measured PSF
    noise: float  # standard deviation around the background, same unit
    centre: tuple[float, ...]  # where the point was found, pixels
    spacing: tuple[float, ...] | None  # of the prepared PSF, µm; None if nothing was resampled
    shape: tuple[int, ...]  # of the prepared PSF
    kept: float  # the fraction of the light above background that lies inside `shape`


def prepare(
    psf: ArrayLike,
    *,
    psf_spacing: Spacing | None = None,
    spacing: Spacing | None = None,
    background: float | Literal["auto"] = "auto",
    size: Sizes | None = None,
) -> tuple[Float64Array, Preparation]:
    """Make a PSF of the picture of a point: no background, centred, cropped, resampled, sum 1.

    The point is what is connected to the brightest place and, after smoothing by one pixel, stands
    out of the background by three standard deviations. Its centre is the centroid of what is
    brighter than a fifth of the peak.

    Parameters
    ----------
    psf : numpy.ndarray, (Y, X) or (Z, Y, X), any real dtype
        A picture of one bead, or a PSF of another program.
    psf_spacing, spacing : float or sequence of float, optional
        Distance of pixels in `psf`, and in the image that is to be restored, µm. By default
        nothing is resampled. Coarser pixels collect the light that falls on them.
    background : float or "auto"
        The value where there is no light. "auto" takes the median of all pixels or that of the
        outermost, whichever is lower. Give 0 for a computed PSF.
    size : int or sequence of int, optional
        Pixels of the result per axis, odd. By default as few as hold the point.

    Returns
    -------
    psf : numpy.ndarray, odd shape, float64
        No value below zero, sum 1, with its centre in the middle pixel.
    report : Preparation

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    from scipy import ndimage

    psf = real_array(host(as_array(psf, "psf")), "psf", ndim=(2, 3))
    psf = varying(psf, "psf").astype(np.float64)
    if (psf_spacing is None) != (spacing is None):
        missing = "psf_spacing" if psf_spacing is None else "spacing"
        raise InputError(missing, "both psf_spacing and spacing, or neither", "None")
    ratio = np.ones(psf.ndim)
    if spacing is not None:
        spacing = _per_axis(spacing, "spacing", psf.ndim)
        ratio = np.array(spacing) / _per_axis(psf_spacing, "psf_spacing", psf.ndim)

    shell = _shell(psf.shape)
    if isinstance(background, str):
        choice(background, "background", ("auto",))
        background = float(min(np.median(psf), np.median(psf[shell])))
    background = number(background, "background")
    noise = _deviation(psf[shell], np.median(psf[shell]))
    light = psf - background

    # A hot pixel is no point: look for the brightest place in a smoothed picture, and for what
    # is connected to it above the noise (and the unevenness of the background) that is left there.
    smooth = ndimage.gaussian_filter(light, np.minimum(1, np.array(psf.shape) // 3))
    peak = np.unravel_index(np.argmax(smooth), psf.shape)
    parts, _ = ndimage.label(smooth > 3 * _deviation(smooth[shell], 0))
    if parts[peak] == 0:
        raise InputError(
            "psf",
            "a point that stands out of the noise",
            f"a peak of {smooth[peak]:.3g} above a background of {background:.3g} ± {noise:.3g}",
        )
    point = parts == parts[peak]
    light = np.where(point, np.maximum(light, 0), 0)
    core = np.where(point, np.maximum(smooth - smooth[peak] / 5, 0), 0)
    centre = np.array(ndimage.center_of_mass(core))

    if size is None:
        where = np.argwhere(point)
        reach = np.maximum(where.max(0) - centre, centre - where.min(0)) + 0.5
        size = [2 * max(int(np.ceil(r - 0.5)), 0) + 1 for r in reach / ratio]
    size = odd_sizes(size, psf.ndim)

    # Each new pixel is the mean over the part of the picture that it covers.
    parts = np.ceil(ratio).astype(int)
    lines = []
    for n, m, step, c in zip(size, parts, ratio, centre, strict=True):
        fine = (np.arange(n * m) + 0.5) / m - n / 2  # new pixels, from the centre
        lines.append(c + fine * step)
    grid = np.meshgrid(*lines, indexing="ij")
    sampled = ndimage.map_coordinates(light, grid, order=3, mode="grid-constant")
    blocks = sampled.reshape([k for n, m in zip(size, parts, strict=True) for k in (n, m)])
    prepared = np.maximum(blocks.mean(tuple(range(1, 2 * psf.ndim, 2))), 0)
    total = prepared.sum()
    kept = float(min(total * np.prod(ratio) / light.sum(), 1))
    report = Preparation(
        background, noise, tuple(map(float, centre)), spacing, prepared.shape, kept
    )
    return prepared / total, report


def _deviation(values, centre):
    """Standard deviation around `centre` of normally distributed values, blind to outliers."""
    return float(1.4826 * np.median(np.abs(values - centre)))


def _shell(shape):
    """The outermost pixels of an array, as a mask. Axes of fewer than three pixels have none."""
    mask = np.ones(shape, bool)
    mask[tuple(slice(1, -1) if n > 2 else slice(None) for n in shape)] = False
    return mask


def _per_axis(values, argument, ndim):
    values = [values] * ndim if np.ndim(values) == 0 else list(values)
    if len(values) != ndim:
        raise InputError(argument, f"a number, or one for each of {ndim} axes", repr(values))
    return tuple(positive(v, argument) for v in values)
