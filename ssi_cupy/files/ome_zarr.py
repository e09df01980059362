"""OME-Zarr (NGFF): read in versions 0.4 and 0.5, written in 0.4. Needs the extra ``io``.

An image is a folder: an array for each resolution, of which the finest is read, and JSON that names
the axes and tells how far apart the pixels are. An array of Zarr without that JSON is read too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.checks import FileError, path_like
from ..engine.types import Array, DTypeLike, PathLike, Shape
from .atomic import unwritable
from .tiff import Image, micrometres

KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def needs_zarr(path: PathLike, argument: str) -> Any:
    """The package, or a `FileError` where it is not installed."""
    try:
        import zarr
    except ImportError:
        got = f"{str(path)!r}, without the package zarr"
        raise FileError(argument, "another format, or: pip install zarr", got) from None
    return zarr


def read(path: PathLike, argument: str = "path", series: int | None = None) -> Image:
    """The image of an OME-Zarr folder, or the one array of a Zarr folder, as `tiff.Image`.

    Raises
    ------
    FileError
        Also where zarr is not installed.
    """
    return _read(path, argument, series, lambda array: np.asarray(array[...]))


def read_lazily(path: PathLike, argument: str = "path", series: int | None = None) -> Image:
    """`read`, with the pixels as a Dask array of the chunks that the file has."""

    def lazy(array):
        import dask.array

        return dask.array.from_zarr(array)

    return _read(path, argument, series, lazy)


def _read(path, argument, series, pixels):
    zarr = needs_zarr(path, argument)
    expected = "a readable OME-Zarr image, or a Zarr array"
    if not os.path.isdir(path_like(path, argument)):
        raise FileError(argument, expected, f"{str(path)!r}, which is no folder")
    try:
        node = zarr.open(os.fspath(path), mode="r")
        attributes = dict(node.attrs)
        found = attributes.get("ome", attributes).get("multiscales") or []
        if not found and not hasattr(node, "shape"):
            raise FileError(argument, expected, f"{str(path)!r}, a group with no multiscales")
        scales = found[_number(series, len(found), path)] if found else {}
        data = pixels(node[scales["datasets"][0]["path"]] if scales else node)
        axes, spacing = _described(scales, data)
    except FileError:
        raise
    except Exception as error:  # of a parser fed with anything at all
        raise FileError(argument, expected, f"{str(path)!r} ({error})") from error
    return Image(data, axes, spacing)


def _number(series, count, path):
    if not (series or 0) < count:
        raise FileError("series", f"a number below {count}, as {str(path)!r} has so many", series)
    return series or 0


def _described(scales, data):
    """(letters of the axes, µm between pixels)."""
    names = [a["name"] if isinstance(a, dict) else a for a in scales.get("axes", ())]
    if len(names) != data.ndim:
        return "QPIHGF"[: max(data.ndim - 2, 0)] + "YX"[-data.ndim :], {}
    transforms = [*scales["datasets"][0].get("coordinateTransformations", ())]
    transforms += scales.get("coordinateTransformations", ())
    sizes = np.ones(data.ndim)
    for transform in transforms:
        if transform.get("type") == "scale":
            sizes = sizes * transform["scale"]
    spacing = {}
    for name, axis, size in zip(names, scales["axes"], sizes, strict=True):
        unit = micrometres(axis.get("unit", "")) if isinstance(axis, dict) else None
        if name.upper() in "ZYX" and unit and 0 < size < np.inf:
            spacing[name.upper()] = float(size * unit)
    return "".join(name.upper()[:1] for name in names), spacing


def write(
    path: PathLike,
    data: Array,
    axes: str,
    spacing: Mapping[str, float],
    *,
    name: str | None = None,
    argument: str = "path",
    compression: str | None = None,
) -> None:
    """Write an OME-Zarr folder, whole or not at all, where there is nothing yet.

    Parameters
    ----------
    path : str or os.PathLike
    data : array
        One chunk for each plane.
    axes : str
        Some of T, C, Z, Y, X.
    spacing : dict of str to float
        µm between pixels along Z, Y and X, as far as known.
    name : str, optional
    argument : str
        What complaints call `path`.
    compression : {"zlib"}, optional
        By default, Zarr's own.
    """
    needs_zarr(path, argument)
    order = axis_order(axes)
    data = np.ascontiguousarray(data.transpose([axes.index(a) for a in order]))
    scratch = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.part")
    try:
        try:
            planes = (1,) * (data.ndim - 2) + data.shape[-2:]
            how = order, spacing, name or Path(path).stem, compression
            array = make(scratch, data.shape, data.dtype, planes, *how)
            array[...] = data
            os.rename(scratch, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise unwritable(path, argument, error) from error


def axis_order(axes: str) -> str:
    """The letters of some axes in the order of OME-Zarr."""
    order = "".join(a for a in "TCZYX" if a in axes)
    if len(order) != len(axes):
        raise FileError("axes", "letters of T C Z Y X, for OME-Zarr", repr(axes))
    return order


def make(
    path: PathLike,
    shape: Shape,
    dtype: DTypeLike,
    chunks: Shape,
    axes: str,
    spacing: Mapping[str, float],
    name: str,
    compression: str | None = None,
) -> Any:
    """An OME-Zarr folder with an empty array, which is returned. Others are those of `write`."""
    import zarr

    options = {}
    if compression:
        from numcodecs import Zlib

        options["compressors"] = Zlib()
    # Zarr's format 2 is that of NGFF 0.4.
    group = zarr.open_group(os.fspath(path), mode="a", zarr_format=2)
    group.attrs["multiscales"] = [_multiscales(axes, spacing, name)]
    encoding = {"name": "v2", "separator": "/"}
    return group.create_array("0", shape=shape, dtype=dtype, chunks=chunks, **options,
                              chunk_key_encoding=encoding, overwrite=True)  # fmt: skip


def _multiscales(axes, spacing, name) -> dict[str, Any]:
    described, scale = [], []
    for letter in axes.lower():
        axis = {"name": letter, "type": KINDS[letter]}
        if letter.upper() in spacing:
            axis["unit"] = "micrometer"
        described.append(axis)
        scale.append(float(spacing.get(letter.upper(), 1.0)))
    transforms = [{"type": "scale", "scale": scale}]
    datasets = [{"path": "0", "coordinateTransformations": transforms}]
    return {"version": "0.4", "name": name, "axes": described, "datasets": datasets}
