"""An image to be restored of which some pixels are masked: filled as `training/missing.py` says."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.arrays import by_slices, parted
from ..engine.backend import host, is_cupy, moved
from ..engine.checks import InputError, numbers
from ..training.missing import Mask, as_mask, filled, of_all_channels, separated
from . import tiling

BEYOND = 64  # pixels around a tile that its masked pixels may show


def masked_image(image: Any, mask: Mask) -> Any:
    """What is read by slices in place of `image`: itself where nothing is masked.

    Parameters
    ----------
    image : (Y, X), (Z, Y, X) or (N, C, Z, Y, X) array
        Of any library. What does not lie in memory is filled as it is read.
    mask : array of bool, "nan" or None
    """
    inner, own = parted(image)
    if mask is None and own is None:
        return by_slices(image, "image")
    there = numbers(by_slices(inner, "image"), "image", ndim=(2, 3, 5))
    if not (type(there) is np.ndarray or is_cupy(there)):
        return _Filled(there, mask)
    pixels, masked = separated(image, mask)
    return pixels if masked is None else moved(_filled(host(pixels), masked), pixels)


def _filled(pixels, masked):
    """In float64."""
    shape = (1,) * (5 - pixels.ndim) + pixels.shape
    y, masked = pixels.astype(np.float64).reshape(shape), masked.reshape(shape)
    return filled(y, of_all_channels(masked)).reshape(pixels.shape)


class _Filled:
    """Something that is read by slices, and filled with what lies up to `BEYOND` pixels away; from
    further away only where all of that is masked."""

    def __init__(self, image, mask):
        self.image, self.shape = image, tuple(image.shape)
        self.dtype, self.ndim = np.dtype(np.float64), image.ndim
        self.mask = mask
        if not isinstance(mask, str):
            self.mask = by_slices(mask, "mask")
            if tuple(self.mask.shape) != self.shape:
                self.mask = as_mask(mask, self.shape)
        elif mask != "nan":
            as_mask(mask, self.shape)  # says what is wrong

    def __getitem__(self, box):
        box = [slice(*s.indices(n)) for s, n in zip(box, self.shape, strict=True)]
        beyond, farthest = BEYOND, 4 * max(self.shape)
        part, masked, inside = self._around(box, beyond)
        while masked.all() and beyond < farthest:
            beyond *= 4
            part, masked, inside = self._around(box, beyond)
        if masked.all():
            raise InputError("mask", "an image with pixels that are not masked", "none of them")
        tiling.release(self.image)
        return _filled(np.where(masked, 0, part), masked)[inside]

    def _around(self, box, beyond):
        """(pixels of a wider box, where it is masked, the slices of `box` in it)."""
        wide, inside = [], []
        for axis, (s, n) in enumerate(zip(box, self.shape, strict=True)):
            far = beyond if axis >= self.ndim - 3 else 0
            wide.append(slice(max(s.start - far, 0), min(s.stop + far, n)))
            inside.append(slice(s.start - wide[-1].start, s.stop - wide[-1].start))
        part = np.asarray(host(self.image[tuple(wide)]))
        mask = self.mask if isinstance(self.mask, str) else np.asarray(self.mask[tuple(wide)])
        return part, as_mask(mask, part.shape, part), tuple(inside)
