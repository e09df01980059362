"""A trained network applied to an image, `predict.py`, by tiles where it is large, `tiling.py`, and
lazily to a Dask array, `dask_arrays.py`."""

from __future__ import annotations

from .dask_arrays import to_zarr

__all__ = ["to_zarr"]
