"""Which format a file's name means, for what the command line reads and writes."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.checks import FileError
from ..engine.types import Array, PathLike
from . import tiff
from .atomic import replacing, unwritable

WRITTEN = (".tif", ".tiff", ".npy")
MICROSCOPES = {".czi": "Zeiss", ".nd2": "Nikon", ".lif": "Leica", ".oib": "Olympus",
               ".oif": "Olympus", ".vsi": "Olympus", ".lsm": None, ".ims": "Imaris"}  # fmt: skip


def check_written(path: PathLike, argument: str) -> None:
    """A `FileError` where the name ends in what is not written."""
    if Path(path).suffix.lower() not in WRITTEN:
        expected = "a name that ends in .tif, .ome.tif or .npy"
        raise FileError(argument, expected, repr(str(path)))


def read(path: PathLike, argument: str = "path") -> Any:
    """An image of a TIFF, ``.npy`` or ``.npz`` file, as `tiff.Image`.

    An array has no names for its axes: the last two are Y and X, others are left open. Of an
    ``.npz`` the one array that it holds is read. Nothing is unpickled.

    Raises
    ------
    FileError
    """
    ending = Path(path).suffix.lower()
    if MICROSCOPES.get(ending) and Path(path).exists():
        expected = "a TIFF, as Fiji or Bio-Formats' bfconvert makes one"
        raise FileError(argument, expected, f"{str(path)!r}, a file of {MICROSCOPES[ending]}")
    if ending not in (".npy", ".npz"):
        return tiff.read(path, argument)
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


def write(
    path: PathLike,
    data: Array,
    axes: str | None = None,
    spacing: Any = None,
    *,
    like: Any = None,
    argument: str = "path",
) -> None:
    """Write float32 pixels in the format that the name means; see `tiff.write`."""
    check_written(path, argument)
    name = str(path).lower()
    if not name.endswith(".npy"):
        if name.endswith((".ome.tif", ".ome.tiff")):
            like = like or tiff.Image(np.asarray(data), axes or tiff.HYPERSTACK[-np.ndim(data) :])
            like = dataclasses.replace(like, flavour="ome")
        tiff.write(path, data, axes, spacing, like=like, argument=argument)
        return
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.asarray(data, np.float32), allow_pickle=False)
    except OSError as error:
        raise unwritable(path, argument, error) from error
