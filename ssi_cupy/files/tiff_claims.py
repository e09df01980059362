"""What a TIFF file claims, held against what it has, before memory is asked for.

A damaged header can ask for terabytes, and a file of a megabyte can decode to many gigabytes.
Pixels that are not compressed must all be in the file; compressed ones may be up to `EXPANSION`
times what is stored of them. Who has files that are really compressed further sets the environment
variable ``SSI_CUPY_TIFF_EXPANSION`` to more.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..engine.checks import InputError, number
from ..engine.memory import free_memory

EXPANSION = 100.0  # of micrographs 1.5 to 10
SMALL = 64 * 2**20  # bytes of pixels that any file may hold
VARIABLE = "SSI_CUPY_TIFF_EXPANSION"


def check(file: Any, series: Any) -> None:
    """A ValueError that says what is wrong, where the first image cannot be what it claims to be.

    Parameters
    ----------
    file : tifffile.TiffFile
    series : tifffile.TiffPageSeries
    """
    shape, dtype = tuple(map(int, series.shape)), series.dtype
    if dtype is None or np.dtype(dtype).kind not in "buifc" or min(shape, default=0) < 1:
        raise ValueError(f"pixels of dtype {dtype} and shape {shape}")
    claimed = int(np.prod([1, *map(int, shape)], dtype=object)) * np.dtype(dtype).itemsize
    pages = [page for page in series.pages if page is not None]
    if not pages:
        raise ValueError("no page of its image in it")
    stored, packed = 0, False
    for page in pages:
        size = page.parent.filehandle.size  # OME images may be spread over several files
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if offset + count > size:  # they would be read as zeros, not as an error
                raise ValueError(f"truncated: pixels up to byte {offset + count} of {size}")
        stored += sum(page.databytecounts)
        packed = packed or int(page.keyframe.compression) != 1
    if series.dataoffset is not None:  # in one piece, also where only the first page says so
        size = file.filehandle.size
        if series.dataoffset + claimed > size:
            raise ValueError(
                f"truncated: pixels up to byte {series.dataoffset + claimed} of {size}"
            )
        stored = claimed
    else:
        _check_pages(pages, series, claimed)
    if not packed:
        bits = max((int(page.keyframe.bitspersample) for page in pages), default=0)
        if stored * 8 * np.dtype(dtype).itemsize < claimed * bits or bits < 1:
            raise ValueError(f"{claimed} bytes of pixels of which it has {stored}")
    elif claimed > max(SMALL, (most := _expansion()) * stored):
        raise ValueError(
            f"{claimed / 2**20:,.0f} MiB of pixels in {stored / 2**20:,.3f} MiB, more than "
            f"{most:g} times as many; if that is right, set {VARIABLE} to more"
        )
    if series.dataoffset is None and claimed > (free := free_memory()):
        raise ValueError(f"{claimed / 2**20:,.0f} MiB of pixels, of memory {free / 2**20:,.0f} MiB "
                         "are free; without compression it could be read in parts")  # fmt: skip


def _check_pages(pages, series, claimed):
    """All pages of one kind, together as large as the image: what is to be filled is filled."""
    total = 0
    for page in pages:
        if page.dtype is None or page.dtype != series.dtype:
            raise ValueError(f"a page of {page.dtype} in an image of {series.dtype}")
        total += int(np.prod([1, *map(int, page.shape)], dtype=object)) * page.dtype.itemsize
    if pages and total * (len(series.pages) / len(pages)) != claimed:
        raise ValueError(f"pages of {total} bytes in an image of {claimed}")


def _expansion():
    text = os.environ.get(VARIABLE)
    if text is None:
        return EXPANSION
    try:
        return number(float(text), VARIABLE, low=1)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(VARIABLE, "a number", repr(text)) from None
