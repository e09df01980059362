"""An image to be restored of which some pixels are masked: filled as `training/missing.py` says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.arrays import by_slices, parted
from ..engine.backend import host, is_cupy, moved
from ..engine.checks import InputError, numbers
from ..engine.types import Array
from ..training.missing import Mask, as_mask, filled, of_all_channels, separated
from . import tiling

AT_ONCE = 2**22  # pixels that are filled at once
BEYOND = 64  # pixels around a tile that its masked pixels may show


Find = Callable[[Array], "Array | None"]


def nothing(image: Array) -> None:
    """What finds no outliers in an image."""


def masked_image(image: Any, mask: Mask, find: Find = nothing) -> Any:
    """What is read by slices in place of `image`: itself where nothing is masked.

    Parameters
    ----------
    image : (Y, X), (Z, Y, X) or (N, C, Z, Y, X) array
        Of any library. What does not lie in memory is filled as it is read.
    mask : array of bool, "nan" or None
    find : callable, optional
        Gives the outliers of a piece of the image, which are masked too, or None.
    """
    inner, own = parted(image)
    there = numbers(by_slices(inner, "image"), "image", ndim=(2, 3, 5))
    if not (type(there) is np.ndarray or is_cupy(there)):
        looks = find is not nothing and find(np.zeros((1,) * there.ndim)) is not None
        if mask is None and own is None and not looks:
            return by_slices(image, "image")
        return Filled(there, mask, find)
    pixels, masked = separated(image, mask)
    if pixels.size > AT_ONCE and not (masked is None and find is nothing):
        return _by_slabs(pixels, masked, find)
    return _filled(pixels, masked, find)


def _by_slabs(pixels, masked, find):
    """A copy of a large array, filled, in its own dtype: what stands for a pixel is another."""
    lazy, found = Filled(host(pixels), masked, find), np.empty(pixels.shape, pixels.dtype)
    axis = int(np.argmax(pixels.shape))
    step = max(1, AT_ONCE * pixels.shape[axis] // pixels.size)
    for first in range(0, pixels.shape[axis], step):
        box = [slice(None)] * pixels.ndim
        box[axis] = slice(first, first + step)
        found[tuple(box)] = lazy[box]
    return moved(found, pixels)


def _filled(pixels, masked, find):
    """In float64; as it is where nothing is masked."""
    if masked is None and find is nothing:
        return pixels
    shape = (1,) * (5 - pixels.ndim) + pixels.shape
    y = host(pixels).astype(np.float64).reshape(shape)
    masked = None if masked is None else of_all_channels(masked.reshape(shape))
    y = filled(y, masked)
    found = of_all_channels(find(y))
    if found is not None:
        y = filled(y, found if masked is None else found | masked)
    elif masked is None:
        return pixels
    return moved(y.reshape(pixels.shape), pixels)


class Filled:
    """Something that is read by slices, and filled with what lies up to `BEYOND` pixels away; from
    further away only where all of that is masked."""

    def __init__(self, image: Any, mask: Any, find: Find = nothing) -> None:
        self.image, self.shape, self.find = image, tuple(image.shape), find
        self.dtype, self.ndim = np.dtype(np.float64), image.ndim
        self.mask = mask
        if mask is not None and not isinstance(mask, str):
            self.mask = by_slices(mask, "mask")
            if tuple(self.mask.shape) != self.shape:
                self.mask = as_mask(mask, self.shape)
        elif mask not in (None, "nan"):
            as_mask(mask, self.shape)  # says what is wrong

    def __getitem__(self, box: tuple[slice, ...]) -> Array:
        box = [slice(*s.indices(n)) for s, n in zip(box, self.shape, strict=True)]
        beyond, farthest = BEYOND, 4 * max(self.shape)
        part, masked, inside = self._around(box, beyond)
        while masked.all() and beyond < farthest:
            beyond *= 4
            part, masked, inside = self._around(box, beyond)
        if masked.all():
            raise InputError("mask", "an image with pixels that are not masked", "none of them")
        tiling.release(self.image)
        masked = masked if masked.any() else None
        part = part if masked is None else np.where(masked, 0, part)
        return _filled(part, masked, self.find)[inside]

    def _around(self, box, beyond):
        """(pixels of a wider box, where it is masked, the slices of `box` in it)."""
        wide, inside = [], []
        for axis, (s, n) in enumerate(zip(box, self.shape, strict=True)):
            far = beyond if axis >= self.ndim - 3 else 0
            wide.append(slice(max(s.start - far, 0), min(s.stop + far, n)))
            inside.append(slice(s.start - wide[-1].start, s.stop - wide[-1].start))
        part = np.asarray(host(self.image[tuple(wide)]))
        if self.mask is None:
            return part, np.zeros(part.shape, bool), tuple(inside)
        mask = self.mask if isinstance(self.mask, str) else np.asarray(self.mask[tuple(wide)])
        return part, as_mask(mask, part.shape, part), tuple(inside)
