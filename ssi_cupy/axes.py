"""An image's axes by their letters, the size of its pixels, and its PSFs on the same grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .engine.arrays import as_array, dims_of, is_data_array, spacing_of
from .engine.backend import host, log
from .engine.checks import InputError, point_spread_function, varying
from .engine.types import Array, Mode, Spacing
from .physics import LearnedPSF, PSFConvolution
from .psf import prepare
from .psf.guess import width_of_image, widths_of_optics
from .psf.measured import remarks_on
from .training.bracket import WIDEST
from .training.network import LEAST_SIDE
from .training.units import voxel

AXES = "TCZYX"
HIGHER = 2.0  # a guess: how much wider a blur is along Z, pixel by pixel


def described(
    image: Any, axes: str | None, channel_axis: int | None, spacing: Spacing | None
) -> tuple[str | None, Spacing | None]:
    """Axes and spacing: what is given, or what a DataArray says."""
    if axes is None and channel_axis is None:
        axes = dims_of(image)
    if spacing is None and isinstance(axes, str) and len(axes) == np.ndim(image):
        spacing = spacing_of(image, axes)
    return axes, spacing


def psf_spacing_of(
    psf: Any, psf_spacing: Spacing | None, spacing: Spacing | None, axes: str
) -> Spacing | None:
    """That of the PSF: what is given, or what a DataArray says where the image's is known."""
    if psf_spacing is None and spacing is not None and is_data_array(psf):
        letters = "".join(a for a in "ZYX" if a in axes)
        return spacing_of(psf, letters) if np.ndim(psf) == len(letters) else None
    return psf_spacing


def letters_and_psfs(
    image: Array, axes: str | None, channel_axis: int | None, psf: Any
) -> tuple[str, list[Array]]:
    """The letters of the axes of `image`, and a list of its PSFs: of none, one, or each channel."""
    several = isinstance(psf, (list, tuple)) and all(np.ndim(p) >= 2 for p in psf if _is_array(p))
    several = several and any(map(_is_array, psf))
    named = axes is not None or channel_axis is not None
    if psf is None:
        return _axes(image, axes, channel_axis, None), []
    if not several:
        psf = host(as_array(psf, "psf"))
        if not named or np.ndim(psf) < 3:
            psf = point_spread_function(psf, ndim=(2, 3))
            return _axes(image, axes, channel_axis, psf), [psf]
    axes = _axes(image, axes, channel_axis, None)
    rank, names = 2 + ("Z" in axes), [a for a in axes if a != "T"]
    if several and "C" not in axes:
        psf, several = np.stack([host(as_array(p, "psf")) for p in psf]), False
    if not several and "C" in axes and psf.ndim == rank + 1:
        order = [names.index(a) for a in ("C", *(a for a in "ZYX" if a in names))]
        psf, several = list(psf.transpose(order)), True
    if not several:
        psf = point_spread_function(psf, ndim=(2, 3))
        return _axes(image, axes, None, psf), [psf]
    channels = image.shape[axes.index("C")]
    if len(psf) != channels:
        raise InputError("psf", f"one, or one for each of {channels} channels", f"{len(psf)}")
    return axes, [
        point_spread_function(host(as_array(p, f"psf[{i}]")), f"psf[{i}]", ndim=rank)
        for i, p in enumerate(psf)
    ]


def _is_array(item):
    return hasattr(item, "shape") and hasattr(item, "dtype")


def _colours(image, psf):
    """Whether this looks like a picture in colours, whose axis nobody has named."""
    flat = psf is None or psf.ndim == 2
    return flat and image.ndim == 3 and image.shape[-1] in (3, 4) and image.shape[0] > 4


def _axes(image, axes, channel_axis, psf):
    """The letter of each axis of `image`, checked against the PSF."""
    if axes is None and channel_axis is None and _colours(image, psf):
        expected = f"-1 for colours of shape {image.shape}, or the argument axes"
        raise InputError("channel_axis", expected, "None")
    if channel_axis is not None:
        if axes is not None:
            raise InputError("channel_axis", "None where axes is given", repr(channel_axis))
        if not isinstance(channel_axis, (int, np.integer)) or not (
            -image.ndim <= channel_axis < image.ndim
        ):
            raise InputError("channel_axis", f"an axis of a {image.ndim}-D image", channel_axis)
    if axes is None:
        rank = image.ndim - (channel_axis is not None)
        if rank not in (2, 3):
            expected = "2 or 3 axes, or the argument axes or channel_axis to name them"
            raise InputError("image", expected, f"{image.ndim}-D, shape {image.shape}")
        axes = "ZYX"[-rank:]
        if channel_axis is not None:
            at = channel_axis % image.ndim
            axes = axes[:at] + "C" + axes[at:]
    if not isinstance(axes, str) or len(axes) != image.ndim or len(set(axes)) != len(axes):
        raise InputError("axes", f"{image.ndim} different letters of {AXES}", repr(axes))
    if set(axes) - set(AXES) or not {"Y", "X"} <= set(axes):
        raise InputError("axes", f"Y, X and others of {AXES}", repr(axes))
    if psf is not None and psf.ndim != 2 + ("Z" in axes):
        expected = f"a {2 + ('Z' in axes)}-D array for an image with axes {axes}"
        raise InputError("psf", expected, f"{psf.ndim}-D, shape {psf.shape}")
    sizes = dict(zip(axes, image.shape, strict=True))
    if min(sizes["Y"], sizes["X"]) < LEAST_SIDE:
        expected = f"at least {LEAST_SIDE} pixels along Y and X"
        raise InputError("image", expected, f"shape {image.shape}")
    return axes


def on_grid(psf: Array, spacing: Spacing | None, psf_spacing: Spacing | None) -> Array:
    """`psf` on the grid of the image: itself, or prepared if it was sampled on another."""
    if psf_spacing is None:
        return told(psf)
    grid = voxel(spacing, psf.ndim)
    if grid is None:
        raise InputError("spacing", "the image's pixel size, as psf_spacing is given", "None")
    try:
        psf_grid = voxel(psf_spacing, psf.ndim)
    except InputError as error:
        raise InputError("psf_spacing", error.expected, error.got) from None
    grids = grid[-psf.ndim :], psf_grid[-psf.ndim :]
    if np.allclose(*grids, rtol=1e-3):
        return told(psf)
    psf, report = prepare(psf, spacing=grids[0], psf_spacing=grids[1])
    what = "measured: cleaned and" if report.measured else "computed:"
    log.info("the point-spread function was taken for a %s resampled: %s", what, report)
    return psf


def told(psf: Array) -> Array:
    """`psf` as it is, with a warning where it is the picture of a point that nobody has cleaned."""
    if remarks := remarks_on(psf):
        log.warning("the point-spread function has %s: see psf.prepare", ", ".join(remarks))
    return psf


def blank(
    stack: Array, masks: Array | None, places: Sequence[tuple[int, ...]], others: Sequence[str]
) -> set[tuple[int, ...]]:
    """The places of time points that hold a single value: a shutter that was closed. So do those
    that are masked altogether."""
    found = set()
    for place in places:
        name = f"image[{', '.join(map(str, place))}]" if place else "image"
        y, mask = stack[place], None if masks is None else masks[place]
        lost = mask is not None and mask.all()
        try:
            varying(y if mask is None or lost else host(y)[~mask], name)
        except InputError as error:
            frames = [p for p in places if _but_time(p, others) == _but_time(place, others)]
            if len(frames) == 1:
                raise
            found.add(place)
            if found.issuperset(frames):
                raise
            why = f"left as it is: expected {error.expected}, got {error.got}"
            log.warning("%s is %s", name, "NaN: all of it is masked" if lost else why)
    return found


def _but_time(place, others):
    return [i for i, a in zip(place, others, strict=True) if a != "T"]


def blurs(
    image: Array, axes: str | None, channel_axis: int | None, psf: Any,
    optics: Mapping[str, float] | None, spacing: Spacing | None, psf_spacing: Spacing | None,
    mode: Mode,
) -> tuple[str, list[Any]]:  # fmt: skip
    """The letters of the axes of `image`, and its blur, or that of each channel."""
    if psf is None or isinstance(psf, str) or optics is not None:
        axes, _ = letters_and_psfs(image, axes, channel_axis, None)
        return axes, guessed(image, axes, psf, optics, spacing, mode)
    axes, psfs = letters_and_psfs(image, axes, channel_axis, psf)
    grids = spacing, psf_spacing_of(psf, psf_spacing, spacing, axes)
    return axes, [PSFConvolution(on_grid(p, *grids), mode=mode) for p in psfs]


def guessed(
    image: Array,
    axes: str,
    psf: Any,
    optics: Mapping[str, float] | None,
    spacing: Spacing | None,
    mode: Mode,
) -> list[LearnedPSF]:
    """A PSF to be learned, for each channel: from a guess by the optics or by the image itself."""
    if optics is not None and not (psf is None or isinstance(psf, str)):
        raise InputError("optics", "None where a psf is given", repr(optics))
    if psf not in (None, "gaussian") or (psf is None and optics is None):
        expected = "a point-spread function, 'gaussian' to learn one, or optics"
        raise InputError("psf", expected, repr(psf))
    deep = "Z" in axes
    if optics is not None:
        if not isinstance(optics, Mapping) or set(optics) - {"NA", "wvl", "ni"}:
            raise InputError("optics", "a dict of NA, wvl and ni, which a Gaussian has", optics)
        if missing := {"NA", "wvl"} - set(optics):
            raise InputError("optics", f"{', '.join(sorted(missing))} too", repr(optics))
        grid = voxel(spacing, 2 + deep)
        if grid is None:
            raise InputError("spacing", "the image's pixel size, as optics are given", "None")
        sizes = (grid[0], grid[2]) if deep else (grid[2],)
        return [LearnedPSF(widths_of_optics(**optics, spacing=sizes), mode=mode)]
    order = [axes.index(a) for a in ("C", "T", "Z", "Y", "X") if a in axes]
    planes = np.asarray(host(image)).transpose(order)
    channels = planes if "C" in axes else planes[None]
    widest = min(planes.shape[-2:]) / WIDEST
    widths = [min(width_of_image(channel), widest) for channel in channels]
    return [LearnedPSF((HIGHER * w, w) if deep else w, mode=mode) for w in widths]
