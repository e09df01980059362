"""A PSF made ready for an image: a computed one resampled, the picture of a point cleaned first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..engine.arrays import as_array
from ..engine.backend import host
from ..engine.checks import (
    InputError,
    choice,
    flag,
    number,
    odd_sizes,
    per_axis,
    positive,
    real_array,
    representable,
    varying,
)
from ..engine.types import ArrayLike, Float64Array, Sizes, Spacing
from .resampling import resample, sizes_of

ALIKE = 2e-3  # of the peak: what a computed PSF may differ by from its mirror image
PEDESTAL = 5e-3, 0.25  # of the peak: a rim between these, as even as
EVEN = 0.1, 0.01  # that, is a background; the latter of what looks computed otherwise
TURNS = 0.2  # steps up that are followed by steps down: 0.5 of noise, 0 of what is smooth
SECOND = 0.2  # of the peak: another point as bright as that is told,
OFF = 0.5  # pixels, and a centre that is so far from the middle


@dataclass(frozen=True)
class Preparation:
    """What `prepare` found and did. Pixels are those of the PSF as it came, unless said otherwise.

    Attributes
    ----------
    measured : bool
        Whether it was treated as the picture of a point, or as a computed PSF.
    background, noise : float
        What was subtracted, and the standard deviation around the background, in the PSF's unit.
    centre : tuple of float
        What became the middle pixel.
    spacing : tuple of float or None
        Of the prepared PSF, µm; None if nothing was resampled.
    shape : tuple of int
        Of the prepared PSF.
    kept : float
        The light of the prepared PSF, in units of all light above the background that came:
        measured before anything was cut off.
    remarks : tuple of str
        What a PSF should not have: a pedestal, a centre elsewhere, a second point.
    """

    measured: bool
    background: float
    noise: float
    centre: tuple[float, ...]
    spacing: tuple[float, ...] | None
    shape: tuple[int, ...]
    kept: float
    remarks: tuple[str, ...] = ()


def prepare(
    psf: ArrayLike,
    *,
    psf_spacing: Spacing | None = None,
    spacing: Spacing | None = None,
    measured: bool | None = None,
    background: float | Literal["auto"] | None = None,
    centre: bool | None = None,
    crop: bool | None = None,
    size: Sizes | None = None,
) -> tuple[Float64Array, Preparation]:
    """Make a PSF ready for an image: on its pixels, with sum 1.

    A computed PSF is resampled and nothing else. The picture of a point loses its background, is
    moved to the middle and cropped to what is the point; each step has a switch of its own.

    The point is what is connected to the brightest place and, after smoothing by one pixel, stands
    out of the background by three standard deviations. Its centre is the centroid of what is
    brighter than a fifth of the peak.

    Parameters
    ----------
    psf : numpy.ndarray, (Y, X) or (Z, Y, X), any real dtype
        A computed PSF, centred at the pixel ``shape // 2``, or a picture of one bead.
    psf_spacing, spacing : float or sequence of float, optional
        Distance of pixels in `psf`, and in the image that is to be restored, µm. By default
        nothing is resampled. Coarser pixels collect the light that falls on them.
    measured : bool, optional
        Whether `psf` is the picture of a point: by default, if it has an even pedestal, or noise
        (`looks_measured`). It is what the three switches are by default.
    background : float, "auto" or None
        The value where there is no light. "auto" takes the median of all pixels or that of the
        outermost, whichever is lower; None that of `measured`: "auto" or 0.
    centre : bool, optional
        Move the point's centroid to the middle pixel.
    crop : bool, optional
        Leave out what is not connected to the point, and the rim that it does not reach.
    size : int or sequence of int, optional
        Pixels of the result per axis, odd. By default as few as hold the point or, where nothing
        is cropped, all that came.

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
    psf = real_array(host(as_array(psf, "psf")), "psf", ndim=(2, 3))
    psf = varying(psf, "psf").astype(np.float64)
    representable(float(psf.min()), float(psf.max()), "psf")
    if (psf_spacing is None) != (spacing is None):
        missing = "psf_spacing" if psf_spacing is None else "spacing"
        raise InputError(missing, "both psf_spacing and spacing, or neither", "None")
    ratio = np.ones(psf.ndim)
    if spacing is not None:
        spacing = per_axis(spacing, "spacing", psf.ndim, positive)
        own = per_axis(psf_spacing, "psf_spacing", psf.ndim, positive)
        ratio = np.array([image_s / s for image_s, s in zip(spacing, own, strict=True)])
        if not 1e-3 < ratio.min() <= ratio.max() < 1e3:
            expected = "sizes of 1/1000 to 1000 times psf_spacing"
            raise InputError("spacing", expected, f"{ratio.min():.3g} to {ratio.max():.3g}")
    measured = looks_measured(psf) if measured is None else flag(measured, "measured")
    centre = measured if centre is None else flag(centre, "centre")
    crop = measured if crop is None else flag(crop, "crop")

    shell = psf[_shell(psf.shape)]
    if background is None:
        background = "auto" if measured else 0.0
    if isinstance(background, str):
        choice(background, "background", ("auto",))
        background = float(min(np.median(psf), np.median(shell)))
    background = number(background, "background")
    noise = _deviation(shell, np.median(shell))
    light = psf - background
    total = light.sum()
    middle = np.array([n // 2 for n in psf.shape], float)
    if measured or centre or crop:
        point, found, _ = _point(light, background, noise)
        middle = found if centre else middle
    light = np.where(point, np.maximum(light, 0), 0) if crop else light
    if not total > 0 or not light.max() > 0:
        raise InputError("psf", f"light above the background of {background:.3g}", "none")
    if size is None and crop:
        where = np.argwhere(point)
        reach = np.maximum(where.max(0) - middle, middle - where.min(0)) + 0.5
        size = [2 * max(int(np.ceil(r - 0.5)), 0) + 1 for r in reach / ratio]
    elif size is None:
        size = sizes_of(psf.shape, ratio, middle)
    prepared = resample(light, odd_sizes(size, psf.ndim), ratio, middle)
    kept = float(prepared.sum() * np.prod(ratio) / total)
    prepared = np.maximum(prepared, 0)
    report = Preparation(
        measured, background, noise, tuple(map(float, middle)), spacing, prepared.shape, kept,
        remarks_on(psf),
    )  # fmt: skip
    return prepared / prepared.sum(), report


def looks_measured(psf: Float64Array) -> bool:
    """Whether a PSF is the picture of a point rather than computed.

    It is if its rim is an even pedestal; or if it is not its own mirror image along Y and X, and
    its faint parts are noise, where a step up is followed by one down.
    """
    if _pedestal(psf) > 0:
        return True
    if _mirrored(psf):
        return False
    faint = psf <= np.median(psf)
    steps = np.diff(psf, axis=-1)
    inside = faint[..., :-2] & faint[..., 1:-1] & faint[..., 2:]
    first, second = steps[..., :-1][inside], steps[..., 1:][inside]
    return bool(np.sum(first * second) < -TURNS * np.sum(first**2))


def _mirrored(psf):
    """Whether a PSF is its own mirror image, about ``shape // 2`` or about the middle."""
    unlike = 0.0
    for axis in (-2, -1):
        cut = np.delete(psf, 0, axis) if psf.shape[axis] % 2 == 0 else psf
        unlike = max(unlike, min(np.abs(p - np.flip(p, axis)).max() for p in (cut, psf)))
    return unlike <= ALIKE * psf.max()


def remarks_on(psf: Float64Array) -> tuple[str, ...]:
    """What a PSF has that it should not have; nothing, of one that looks computed."""
    if not looks_measured(psf):
        return ()
    shell = psf[_shell(psf.shape)]
    background = float(min(np.median(psf), np.median(shell)))
    try:
        _, found, others = _point(psf - background, background, _deviation(shell, background))
    except InputError as error:
        return (f"not {error.expected}, but {error.got}",)
    return _remarks(psf, found, others)


def _point(light, background, noise):
    """(the pixels of the point, its centre, how many other points are nearly as bright).

    A hot pixel is no point: it is the brightest place in a smoothed picture, and what is connected
    to it above the noise (and the unevenness of the background) that is left there.
    """
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(light, np.minimum(1, np.array(light.shape) // 3))
    peak = np.unravel_index(np.argmax(smooth), light.shape)
    height = smooth[peak]
    parts, _ = ndimage.label(smooth > 3 * _deviation(smooth[_shell(light.shape)], 0))
    if parts[peak] == 0:
        raise InputError(
            "psf",
            "a point that stands out of the noise",
            f"a peak of {height:.3g} above a background of {background:.3g} ± {noise:.3g}",
        )
    point = parts == parts[peak]
    core = np.where(point, np.maximum(smooth - height / 5, 0), 0)
    centre = np.array(ndimage.center_of_mass(core))
    bright, count = ndimage.label(smooth > SECOND * height)
    others = [i for i in range(1, count + 1) if i != bright[peak]]
    return point, centre, len(others)


def _remarks(psf, centre, others):
    """What `_point` and `_pedestal` found, in words."""
    found = []
    if (pedestal := _pedestal(psf)) > 0:
        found.append(f"a pedestal of {pedestal / psf.max():.1%} of its peak")
    off = centre - np.array([n // 2 for n in psf.shape])
    if np.abs(off).max() > OFF:
        found.append(f"its centre {', '.join(f'{o:+.1f}' for o in off)} pixels from the middle")
    if others:
        found.append(f"{others + 1} points in place of one")
    return tuple(found)


def _pedestal(psf):
    """The median of the outermost pixels, where they are nearly alike and no light falls; or 0."""
    shell = psf[_shell(psf.shape)]
    middle = float(np.median(shell))
    even = _deviation(shell, middle) <= EVEN[int(_mirrored(psf))] * middle
    least, most = (share * psf.max() for share in PEDESTAL)
    return middle if even and least < middle < most else 0.0


def _deviation(values, centre):
    """Standard deviation around `centre` of normally distributed values, blind to outliers."""
    return float(1.4826 * np.median(np.abs(values - centre)))


def _shell(shape):
    """The outermost pixels of an array, as a mask. Axes of fewer than three pixels have none."""
    mask = np.ones(shape, bool)
    mask[tuple(slice(1, -1) if n > 2 else slice(None) for n in shape)] = False
    return mask
