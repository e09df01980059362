"""An OME-Zarr that is written chunk by chunk, and goes on where a run before has ended."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.checks import FileError
from ..engine.types import PathLike
from . import ome_zarr
from .atomic import check_writable, unwritable

RUN = "run.json"  # what the chunks that are there are of


class Unfinished:
    """The folder that becomes an OME-Zarr once it is whole: ``out.zarr.part`` beside it.

    It is made at once, so that what cannot be written is known before hours of work.

    Parameters
    ----------
    path : path
        Of the OME-Zarr, where there is nothing yet.
    argument : str
        What complaints call it.

    Raises
    ------
    FileError
    """

    def __init__(self, path: PathLike, argument: str = "path") -> None:
        ome_zarr.needs_zarr(path, argument)
        self.path, self.argument = Path(path), argument
        self.folder = self.path.with_name(f"{self.path.name}.part")
        if os.path.lexists(path):
            raise FileError(argument, "a name that is free, for a folder", f"{str(path)!r}")
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(path, argument, error) from None
        check_writable(self.folder / "probe", argument)

    def leave(self) -> None:
        """Take the folder away if there is nothing in it: the run has failed before it began."""
        try:
            self.folder.rmdir()
        except OSError:
            pass

    def beside(self, name: str) -> Path:
        """A file of the run, which is gone when that is done: the state of its training."""
        return self.folder / name

    def write(
        self, array: Any, axes: str, spacing: Mapping[str, float], name: str | None = None
    ) -> None:
        """Compute and write the chunks of a Dask array that are not there yet.

        Each appears whole or not at all. A run that is killed leaves those that it has written,
        and the next one, of the same array, writes the others.

        Parameters
        ----------
        array : array of Dask
            Its name says what it is of: Dask makes it of all that goes into it.
        axes : str
            Some of T, C, Z, Y, X.
        spacing : dict of str to float
            µm between pixels along Z, Y and X, as far as known.
        name : str, optional
        """
        import dask

        order = ome_zarr.axis_order(axes)
        array = array.transpose([axes.index(a) for a in order])
        array = array.rechunk(tuple(map(max, array.chunks)))  # all alike, but the last ones
        title = name or self.path.stem
        try:
            self._begin(array, order, spacing, title)
            tasks = [
                dask.delayed(_written)(str(self.folder), place, array.blocks[place])
                for place in np.ndindex(array.numblocks)
                if not self.folder.joinpath("0", *map(str, place)).exists()
            ]
            dask.compute(*tasks)
            os.rename(self.folder, self.path)
            for file in self.path.iterdir():
                if file.is_file() and not file.name.startswith(".z"):
                    file.unlink()
        except OSError as error:
            raise unwritable(self.path, self.argument, error) from error

    def _begin(self, array, order, spacing, title):
        """Make the empty array, or see whether the one that is there is of the same."""
        run = {"array": array.name, "shape": list(array.shape), "dtype": str(array.dtype),
               "chunks": list(array.chunksize)}  # fmt: skip
        kept = self.folder / RUN
        if kept.exists():
            if json.loads(kept.read_text()) != run:
                expected = "the name of another file, or of one that this run has begun"
                got = f"{str(self.folder)!r}, begun from another image or with other settings"
                raise FileError(self.argument, expected, got)
            return
        ome_zarr.make(self.folder, array.shape, array.dtype, array.chunksize, order, spacing, title)
        scratch = kept.with_suffix(".new")
        scratch.write_text(json.dumps(run))
        scratch.replace(kept)


def _written(folder, place, block):
    """Write one chunk; also where it is zero throughout, for its file says that it is there."""
    import zarr

    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_group(folder, mode="r+", zarr_format=2)["0"]
        starts = [i * n for i, n in zip(place, array.chunks, strict=True)]
        array[tuple(slice(a, a + n) for a, n in zip(starts, block.shape, strict=True))] = block
