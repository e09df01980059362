"""Which format a file's name means, for what the command line reads and writes."""

from __future__ import annotations

import dataclasses
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..engine.checks import FileError, InputError
from ..engine.types import Array, PathLike, Shape
from . import ome_zarr, pixels, tiff
from .atomic import check_writable, replacing, unwritable

WRITTEN = (".tif", ".tiff", ".npy", ".png", ".zarr")
READ = (*WRITTEN, ".npz")
MICROSCOPES = {".czi": "Zeiss", ".nd2": "Nikon", ".lif": "Leica", ".oib": "Olympus",
               ".oif": "Olympus", ".vsi": "Olympus", ".lsm": None, ".ims": "Imaris"}  # fmt: skip


def check_written(
    path: PathLike,
    argument: str,
    *,
    dtype: str = "float32",
    compression: str | None = None,
    axes: str | None = None,
    shape: Shape | None = None,
) -> None:
    """A `FileError` where the name ends in what is not written, or not with these settings.

    Parameters
    ----------
    path, argument
        The path, and what complaints call it.
    dtype, compression
        As of `write`.
    axes, shape : optional
        Of what is to be written, once they are known.
    """
    ending = Path(path).suffix.lower()
    if ending not in WRITTEN:
        expected = "a name that ends in .tif, .ome.tif, .npy, .png or .zarr"
        raise FileError(argument, expected, repr(str(path)))
    if ending == ".zarr" and os.path.lexists(path):
        raise FileError(argument, "a name that is free, for a folder", f"{str(path)!r}")
    if ending == ".zarr":
        ome_zarr.needs_zarr(path, argument)
    if compression is not None and ending in (".npy", ".png"):
        raise InputError("compression", f"none, for a file {ending}", repr(compression))
    if ending != ".png":
        return
    _imagecodecs(path, argument)
    if dtype not in ("uint8", "uint16"):
        raise InputError("dtype", "uint8 or uint16, for a PNG", repr(dtype))
    if shape is not None:
        sizes = dict(zip(axes or "", shape, strict=True))
        flat = math.prod(n for a, n in sizes.items() if a not in "YXC") == 1
        if not flat or sizes.get("C", 1) not in (1, 3):
            got = f"axes {axes} of shape {tuple(shape)}"
            raise FileError(argument, "another format: a PNG holds one plane, grey or RGB", got)


def _imagecodecs(path, argument):
    try:
        import imagecodecs
    except ImportError:
        got = f"{str(path)!r}, without the package imagecodecs"
        raise FileError(argument, "another format, or: pip install imagecodecs", got) from None
    return imagecodecs


def read(path: PathLike, argument: str = "path", series: int | None = None) -> tiff.Image:
    """An image of a TIFF, ``.npy``, ``.npz``, PNG or OME-Zarr file, as `tiff.Image`.

    An array has no names for its axes: the last two are Y and X, others are left open. Of an
    ``.npz`` the one array that it holds is read. Nothing is unpickled.

    Parameters
    ----------
    path : str or os.PathLike
    argument : str
        What the complaint calls `path`.
    series : int, optional
        Which image, from 0, of a TIFF or OME-Zarr that has several.

    Raises
    ------
    FileError
    """
    ending = Path(path).suffix.lower()
    if MICROSCOPES.get(ending) and Path(path).exists():
        expected = "a TIFF, as Fiji or Bio-Formats' bfconvert makes one"
        raise FileError(argument, expected, f"{str(path)!r}, a file of {MICROSCOPES[ending]}")
    if ending not in (".npy", ".npz", ".png", ".zarr"):
        return tiff.read(path, argument, series)
    if ending == ".zarr":
        return ome_zarr.read(path, argument, series)
    if series:
        raise FileError("series", f"0 or none, as {str(path)!r} has one image", series)
    if ending == ".png":
        return _read_png(path, argument)
    expected = "a whole file of one array of numbers"
    try:
        data = np.load(path, allow_pickle=False)
        if ending == ".npz":
            with data as held:
                if len(held.files) != 1:
                    names = ", ".join(held.files)
                    raise FileError(argument, expected, f"{str(path)!r} with {names or 'none'}")
                data = held[held.files[0]]
    except OSError as error:
        raise FileError(argument, expected, f"{str(path)!r} ({error.strerror or error})") from None
    except FileError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile):  # numpy's advice is to unpickle it
        raise FileError(argument, expected, f"{str(path)!r}, which is another") from None
    return tiff.Image(data, "QPIHGF"[: max(data.ndim - 2, 0)] + "YX"[-data.ndim :])


def _read_png(path, argument):
    """Grey or RGB; alpha is left out."""
    codecs = _imagecodecs(path, argument)
    try:
        data = codecs.png_decode(Path(path).read_bytes())
    except OSError as error:
        expected = "an existing PNG file"
        raise FileError(argument, expected, f"{str(path)!r} ({error.strerror or error})") from None
    except Exception as error:  # of a parser fed with anything at all
        raise FileError(argument, "a readable PNG", f"{str(path)!r} ({error})") from None
    if data.ndim == 3 and data.shape[-1] in (2, 4):
        data = pixels.without_alpha(data)
    if data.ndim == 3 and data.shape[-1] == 1:
        data = data[..., 0]
    return tiff.Image(data, "YXS"[: data.ndim])


def write(
    path: PathLike,
    data: Array,
    axes: str | None = None,
    spacing: Mapping[str, float] | None = None,
    *,
    like: tiff.Image | None = None,
    argument: str = "path",
    dtype: str = "float32",
    compression: str | None = None,
) -> None:
    """Write pixels in the format that the name means; see `tiff.write`."""
    check_written(path, argument, dtype=dtype, compression=compression)
    name, ending = str(path).lower(), Path(path).suffix.lower()
    axes = axes or (like.axes if like else tiff.HYPERSTACK[-np.ndim(data) :])
    if ending.startswith(".tif"):
        if name.endswith((".ome.tif", ".ome.tiff")):
            like = dataclasses.replace(like or tiff.Image(np.asarray(data), axes), flavour="ome")
        tiff.write(path, data, axes, spacing, like=like, argument=argument, dtype=dtype,
                   compression=compression)  # fmt: skip
        return
    data = pixels.as_dtype(data, dtype)
    if ending == ".zarr":
        spacing = (like.spacing if like else {}) if spacing is None else spacing
        data, axes = tiff.samples_as_channels(data, axes)
        ome_zarr.write(path, data, axes, spacing, argument=argument, compression=compression)
        return
    check_writable(path, argument)
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            if ending == ".png":
                check_written(path, argument, dtype=dtype, axes=axes.replace("S", "C"),
                              shape=data.shape)  # fmt: skip
                file.write(_imagecodecs(path, argument).png_encode(_plane(data, axes)))
            else:
                np.save(file, data, allow_pickle=False)
    except OSError as error:
        raise unwritable(path, argument, error) from error


def _plane(data, axes):
    """(Y, X) or (Y, X, 3) of one plane."""
    axes = axes.replace("S", "C")
    order = [a for a in axes if a not in "YXC"] + ["Y", "X"] + ["C"] * ("C" in axes)
    plane = data.transpose([axes.index(a) for a in order])
    plane = plane[(0,) * (len(order) - 2 - ("C" in axes))]
    return np.ascontiguousarray(
        plane[..., 0] if plane.shape[-1:] == (1,) and "C" in axes else plane
    )
