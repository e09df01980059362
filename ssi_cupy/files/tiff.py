"""TIFF files: pixels, what their axes mean, and how far apart the pixels are.

Three flavours are told apart, plain, ImageJ hyperstack and OME, and what is read in one is written
back in the same. Spacings are micrometres throughout.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from ..engine.backend import log
from ..engine.checks import FileError, InputError, choice, path_like
from ..engine.types import Array, ArrayLike, PathLike, Shape
from . import metadata as others
from . import pixels, tiff_claims
from .atomic import replacing, unwritable

SPATIAL = "ZYX"
HYPERSTACK = "TZCYX"  # the order in which ImageJ stores its axes
IMAGEJ_TYPES = ("float32", "uint8", "uint16")
MOST = 2**32 - 1  # of a number in a TIFF
COMPRESSIONS = (None, "zlib")
CLASSIC_LIMIT = 2**32 - 2**25  # bytes of pixels; the rest of 4 GiB is for what describes them

_MICROMETRES = {
    "pm": 1e-6, "å": 1e-4, "nm": 1e-3, "nanometer": 1e-3, "millimeter": 1e3,
    "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25400.0, "inch": 25400.0,
}  # fmt: skip
_RESOLUTION_UNIT = {2: 25400.0, 3: 1e4}  # TIFF 6.0: 1 none, 2 inch, 3 centimetre


@dataclass(frozen=True)
class Image:
    """What a TIFF file holds.

    Attributes
    ----------
    data : numpy.ndarray
    axes : str
        One letter per axis: T time, Z Y X space, C channel, S colour sample; I or Q where the
        file does not say what the axis is.
    spacing : dict of str to float
        µm between pixels along Z, Y and X, for those that the file tells.
    flavour : {"plain", "imagej", "ome"}
    metadata : dict
        What else the file tells, see `metadata.py`.
    """

    data: Array
    axes: str
    spacing: dict[str, float] = field(default_factory=dict)
    flavour: Literal["plain", "imagej", "ome"] = "plain"
    metadata: dict[str, Any] = field(default_factory=dict)


# ---- reading --------------------------------------------------------------------------------


def read(path: PathLike, argument: str = "path", series: int | None = None) -> Image:
    """An image of a TIFF file.

    Parameters
    ----------
    path : str or os.PathLike
    argument : str
        What the complaint calls `path`.
    series : int, optional
        Which image, from 0, where the file has several; by default the first, and that is said.

    Returns
    -------
    Image

    Raises
    ------
    FileError
        If the file is missing, truncated, or no TIFF.
    """
    number = series or 0
    with _opened(path, argument, series) as (file, series):
        data = series.asarray()
        if data.shape != tuple(series.shape) or data.dtype.newbyteorder("=") != series.dtype:
            raise ValueError(f"{data.dtype} of shape {data.shape}, not {series.dtype} of shape "
                             f"{series.shape}")  # fmt: skip
        data, axes = pixels.of_page(data, series.axes, series.keyframe, file.is_imagej)
        told = _spacing(file, series, number), _flavour(file), others.of_file(file, number)
        return Image(data, axes, *told)


@dataclass(frozen=True)
class Layout:
    """What a TIFF file says about its first image, without the pixels.

    Attributes
    ----------
    path : str or os.PathLike
    shape : tuple of int
    axes : str
        As of `Image`.
    dtype : numpy.dtype
        With the byte order of the file.
    offset : int or None
        Where the pixels begin, if they lie in the file in one piece as they are in memory.
    spacing : dict of str to float
        As of `Image`.
    """

    path: PathLike | None
    shape: Shape
    axes: str
    dtype: np.dtype[Any]
    offset: int | None
    spacing: dict[str, float] = field(default_factory=dict)

    def pixels(self, argument: str = "path") -> Array:
        """All pixels: mapped from the file where they lie in one piece, else read.

        Of what is mapped only the pixels that are looked at are ever in memory.
        """
        if self.offset is None:
            return read(self.path, argument, 0).data
        try:
            options = {"dtype": self.dtype, "mode": "r", "offset": self.offset}
            return np.memmap(self.path, shape=self.shape, **options)
        except (OSError, ValueError) as error:  # it was whole when `layout` looked at it
            raise _unreadable(self.path, argument, error) from error


def layout(path: PathLike, argument: str = "path") -> Layout:
    """The `Layout` of a TIFF file. Arguments and errors as of `read`."""
    with _opened(path, argument) as (file, series):
        if not pixels.changes(series.keyframe, series.axes, file.is_imagej):
            dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
            offset, spacing = series.dataoffset, _spacing(file, series)
            return Layout(path, series.shape, series.axes, dtype, offset, spacing)
    image = read(path, argument, 0)
    return Layout(path, image.data.shape, image.axes, image.data.dtype, None, image.spacing)


@contextmanager
def _opened(path, argument, number=None):
    """(file, one of its images) of a TIFF file that is whole."""
    import tifffile

    path_like(path, argument)
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # to open a FIFO is to wait
            raise ValueError("no regular file")
        with _complaints_of(tifffile) as complaints, tifffile.TiffFile(path) as file:
            if not file.series:
                raise tifffile.TiffFileError("no image in it")
            series = _chosen(file.series, path, number)
            tiff_claims.check(file, series)
            yield file, series
        if complaints:
            raise tifffile.TiffFileError(complaints[0])
    except FileNotFoundError:
        raise FileError(argument, "an existing TIFF file", f"{str(path)!r}") from None
    except InputError:
        raise
    except Exception as error:  # a parser fed with anything at all fails in any way at all
        raise _unreadable(path, argument, error) from error


def _chosen(series, path, number):
    if number is None and len(series) > 1:
        listed = ", ".join(f"{i}: {s.axes} {tuple(s.shape)}" for i, s in enumerate(series[:8]))
        log.warning("%s has %d images, of which the first is taken (another by series=, or "
                    "--series): %s", path, len(series), listed)  # fmt: skip
    number = 0 if number is None else number
    if not number < len(series):
        raise FileError("series", f"a number below {len(series)}, as {str(path)!r} has so many",
                        number)  # fmt: skip
    return series[number]


def _unreadable(path, argument, error):
    if "imagecodecs" in str(error):
        got = f"{str(path)!r} ({error})"
        needs = "a TIFF that is not compressed in this way, or: pip install imagecodecs"
        return FileError(argument, needs, got)
    return FileError(argument, "a readable TIFF file", f"{str(path)!r} ({error})")


@contextmanager
def _complaints_of(tifffile):
    """tifffile logs many a damage and returns what is left; here that is an error."""
    complaints, thread = [], threading.get_ident()

    class Collect(logging.Handler):
        def emit(self, record):
            if record.thread == thread:
                complaints.append(record.getMessage())

    log, handler = logging.getLogger(tifffile.__name__), Collect(logging.ERROR)
    log.addHandler(handler)
    try:
        yield complaints
    finally:
        log.removeHandler(handler)


def _flavour(file):
    return "ome" if file.is_ome else "imagej" if file.is_imagej else "plain"


def _spacing(file, series, number=0):
    if file.is_ome:
        found = _ome_spacing(others.ome_image(file.ome_metadata, number)[1])
    else:
        found = _resolution_spacing(series.keyframe.tags, file.imagej_metadata or {})
    return {axis: size for axis, size in found.items() if 0 < size < np.inf}


def _ome_spacing(pixels):
    found = {}
    for axis in SPATIAL:
        unit = micrometres(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if unit and (size := pixels.get(f"PhysicalSize{axis}")):
            found[axis] = float(size) * unit
    return found


def _resolution_spacing(tags, imagej):
    unit = micrometres(imagej.get("unit", ""))
    if unit is None:
        code = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 1
        # In a plain file inches are the resolution of a print, not of a microscope.
        unit = _RESOLUTION_UNIT.get(code) if imagej or code == 3 else None
    if unit is None:
        return {}
    found = {}
    if "spacing" in imagej:
        found["Z"] = float(imagej["spacing"]) * unit
    for axis in "YX":
        if f"{axis}Resolution" in tags:
            pixels, per = tags[f"{axis}Resolution"].value
            found[axis] = per / pixels * unit if pixels else 0.0
    return found


def micrometres(unit: str) -> float | None:
    """How many µm a unit is, None if it is not a length."""
    unit = unit.replace(r"\u00B5", "µ").replace("\u03bc", "µ")  # ImageJ's escape; the Greek mu
    return _MICROMETRES.get(unit.strip().lower())


# ---- writing --------------------------------------------------------------------------------


def write(
    path: PathLike,
    data: ArrayLike,
    axes: str | None = None,
    spacing: Mapping[str, float] | None = None,
    *,
    like: Image | None = None,
    argument: str = "path",
    dtype: str = "float32",
    compression: str | None = None,
) -> None:
    """Write pixels, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
    data : numpy.ndarray
    axes : str, optional
        One letter per axis of `data`; default, that of `like`, or the last of "TZCYX". ImageJ
        stores its axes in the order TZCYX, and colour samples S are stored as channels C, so
        `data` is transposed to that where need be.
    spacing : dict of str to float, optional
        µm between pixels along Z, Y and X, as far as known; default, that of `like`.
    like : Image, optional
        The image whose flavour, axes and spacing to keep. A plain one is written as ImageJ
        hyperstack where its axes allow: a plain file has no room for them.
    argument : str
        What the complaint calls `path`.
    dtype : str
        As of `pixels.as_dtype`. ImageJ's files have float32, uint8 and uint16 alone: others are
        written as OME.
    compression : {"zlib"}, optional
    """
    import tifffile

    choice(compression, "compression", COMPRESSIONS)
    data = pixels.as_dtype(data, dtype)
    axes = _axes_of(data, axes if axes else like.axes if like else None)
    spacing = dict((like.spacing if like else None) or {}) if spacing is None else dict(spacing)
    data, axes = samples_as_channels(data, axes)
    flavour = _flavour_for(data, axes, like)
    if flavour == "imagej" or (flavour == "ome" and not axes.endswith("YX")):
        order = "".join(a for a in HYPERSTACK if a in axes)
        data, axes = data.transpose([axes.index(a) for a in order]), order
    options = {"plain": _plain, "imagej": _imagej, "ome": _ome}[flavour](axes, spacing)
    if like is not None and flavour == like.flavour != "plain":
        kept = {"imagej": others.for_imagej, "ome": others.for_ome}[flavour]
        options["metadata"] = kept(like.metadata, axes, data.shape) | options["metadata"]
    told = like.metadata if like is not None and flavour == "ome" else {}
    whole = others.ome_xml(told, axes, data.shape, data.dtype.name, spacing)
    if whole is not None:
        options = {"description": whole, "metadata": None}
    if compression is not None:
        options["compression"] = compression
    try:
        with replacing(path, argument) as temporary:
            big = data.nbytes > CLASSIC_LIMIT
            tifffile.imwrite(temporary, data, bigtiff=big, photometric="minisblack", **options)
    except OSError as error:
        raise unwritable(path, argument, error) from error


def _axes_of(data, axes):
    axes = HYPERSTACK[-data.ndim :] if axes is None else axes
    if len(axes) != data.ndim or len(set(axes)) != len(axes):
        raise InputError("axes", f"{data.ndim} different letters", repr(axes))
    return axes


def samples_as_channels(data: Array, axes: str) -> tuple[Array, str]:
    """Colours as channels, in front of Y."""
    if "S" not in axes or "C" in axes:
        return data, axes
    without = axes.replace("S", "")
    at = max(without.find("Y"), 0)
    return np.moveaxis(data, axes.index("S"), at), without[:at] + "C" + without[at:]


def _flavour_for(data, axes, like):
    if not set("YX") <= set(axes) <= set(HYPERSTACK):
        return "plain"
    if like is not None and like.flavour == "ome" or data.dtype.name not in IMAGEJ_TYPES:
        return "ome"
    if data.nbytes > CLASSIC_LIMIT:
        return "ome"  # ImageJ cannot open a BigTIFF as a hyperstack
    return "imagej"


def _plain(axes, spacing):
    return {"metadata": {"axes": axes}} | _resolution(spacing, 1e4, "CENTIMETER")


def _imagej(axes, spacing):
    metadata = {"axes": axes}
    resolution = _resolution(spacing, 1.0, "NONE")
    if resolution:  # without it, a unit would make every pixel one unit wide
        metadata["unit"] = "um"
        if "Z" in spacing:
            metadata["spacing"] = spacing["Z"]
    return {"imagej": True, "metadata": metadata} | resolution


def _resolution(spacing, unit, name):
    if not {"X", "Y"} <= set(spacing):
        return {}
    resolution = rational(unit / spacing["X"]), rational(unit / spacing["Y"])
    return {"resolution": resolution, "resolutionunit": name}


def rational(value: float) -> tuple[int, int]:
    """Numerator and denominator, each of 32 bits. Of a float, a tifffile of before 2026 drops the
    digits of one where the other is large: a millionth of a pixel's size."""
    value = min(value, MOST)
    fraction = Fraction(value).limit_denominator(min(MOST, max(1, int(MOST / value))))
    return fraction.numerator, fraction.denominator


def _ome(axes, spacing):
    metadata = {"axes": axes}
    for axis in spacing:
        metadata |= {f"PhysicalSize{axis}": spacing[axis], f"PhysicalSize{axis}Unit": "µm"}
    return {"ome": True, "metadata": metadata}
