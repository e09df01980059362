"""Tiles: an image that is too large for the memory, piece by piece.

Neighbouring tiles overlap, and where they do, each counts the more the further a pixel lies from
the tile's own border: a weight like a pyramid, divided by the sum over all tiles (Papkov et al.
2023), so that the weights of a pixel sum to 1. Along one axis, for tile i and pixel p ::

    wᵢ(p) = min(p − first pixel + 1, last pixel − p + 1) − blind      (0 where that is below 0)
    weight = Π over the axes of wᵢ(p) / Σⱼ wⱼ(p)

An end of a tile that is an end of the image is no border, and takes no weight away. What `blind`
pixels at a border hold does not count at all: where an operation looks no further than `blind`
pixels and tiles overlap by twice that, the result is that of the whole image, up to rounding.

>>> import numpy as np
>>> image = np.random.default_rng(0).random((100, 70))
>>> result = np.empty_like(image)
>>> for tile in tiles(image.shape, 32, 8):
...     tile.add(result, np.sqrt(image[tile.box]))
>>> np.allclose(result, np.sqrt(image))
True
"""

from __future__ import annotations

import itertools
import math
import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.backend import moved
from ..engine.checks import InputError, per_axis, several, whole
from ..engine.types import Array, Float32Array, Shape, Sizes

MOST = 2 << 30  # bytes: larger tiles save nothing worth having
OVERHEAD = 8.0  # the most that exact tiles may compute, over the pixels of the image


@dataclass(frozen=True)
class Tile:
    """A box of an image, and what its pixels count.

    Attributes
    ----------
    start, stop : tuple of int
        Its first pixel, and the one after its last, along each axis.
    weights : tuple of arrays
        A float32 array along each axis, whose product is the weight of a pixel.
    fresh : tuple of int
        Along each axis, the first pixel of the image that no tile before this one counts at.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    weights: tuple[Float32Array, ...]
    fresh: tuple[int, ...]

    @property
    def box(self) -> tuple[slice, ...]:
        """The slices that cut it out of the image."""
        return tuple(map(slice, self.start, self.stop))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))

    def add(self, out: Array, values: Array, origin: Shape | None = None) -> None:
        """Add the weighted `values` to `out`; tiles must come in the order of `tiles`.

        Parameters
        ----------
        out : (…, *image's shape) array
            May hold anything before the first tile, and may be a memory-mapped file.
        values : (…, *tile's shape) array
        origin : tuple of int, optional
            Where in the tiled frame `out` begins, if it is a part of that.
        """
        origin = origin or (0,) * len(self.start)
        sizes = out.shape[len(out.shape) - len(self.start) :]
        to, inside, weights, fresh = [], [], [], []
        for start, w, at, size, new in zip(
            self.start, self.weights, origin, sizes, self.fresh, strict=True
        ):
            counts = np.flatnonzero(w)
            first, last = max(counts[0], at - start), min(counts[-1] + 1, at + size - start)
            if first >= last:
                return
            inside.append(slice(first, last))
            to.append(slice(start + first - at, start + last - at))
            weights.append(w[first:last])
            fresh.append(slice(max(0, new - start - first), None))
        to, values = (..., *to), values[(..., *inside)]
        if all((w == 1).all() for w in weights):
            out[to] = moved(values, out)
            return
        for axis, w in enumerate(weights):
            values = values * moved(w.reshape((-1,) + (1,) * (len(weights) - 1 - axis)), values)
        there = out[to]
        there[(..., *fresh)] = 0
        there += moved(values, out)
        if isinstance(out, Slices):  # what came was a copy
            out[to] = there


def tiles(
    shape: Shape, tile_size: Sizes, tile_overlap: Sizes = 0, *, step: Sizes = 1, blind: Sizes = 0
) -> list[Tile]:
    """Cut an image into overlapping tiles, all of the same size.

    Parameters
    ----------
    shape : tuple of int
    tile_size : int or tuple of int
        At most this large, for all axes or for each; an axis that is no longer is not cut.
    tile_overlap : int or tuple of int
        By how many pixels neighbours overlap, at least.
    step : int or tuple of int
        Tiles begin at multiples of it, and seen from the far end of the image they end at
        multiples of it. For a network that pools, then, a tile's windows are the image's, also
        where it is flipped. Tiles become larger where they must for that.
    blind : int or tuple of int
        How many pixels at a tile's border do not count; at most half the overlap.

    Returns
    -------
    list of Tile

    Raises
    ------
    InputError
        Where a setting is not one for each axis, or more than half the overlap is blind.
    """
    shape = several(whole())(shape, "shape")
    given = {"tile_size": tile_size, "tile_overlap": tile_overlap, "step": step, "blind": blind}
    settings = [
        per_axis(value, name, len(shape), whole(1 if name in ("tile_size", "step") else 0))
        for name, value in given.items()
    ]
    axes = [_cut(*axis) for axis in zip(shape, *settings, strict=True)]
    return [Tile(*zip(*pieces, strict=True)) for pieces in itertools.product(*axes)]


def _cut(size, tile, overlap, step, blind):
    """(start, stop, weights, fresh) of each tile along one axis."""
    if tile < size:
        length = tile - (tile - size) % step  # as long as the image, in the rest by step
        length += max(0, -((length - overlap - step) // step)) * step
    if tile >= size or length >= size:
        return [(0, size, np.ones(size, np.float32), 0)]
    if 2 * blind > overlap:  # then there are pixels that count in no tile
        raise InputError("blind", f"at most half the overlap of {overlap}", blind)
    number = _number(size, length, overlap, step)
    while length - step >= overlap + step and number == _number(size, length - step, overlap, step):
        length -= step  # the same number of tiles, and none larger than it must be
    steps = (size - length) // step
    starts = [i * steps // (number - 1) * step for i in range(number)]
    i = np.arange(1, length + 1)
    raw = []
    for start in starts:
        left = i if start else np.full(length, length)
        right = i[::-1] if start + length < size else np.full(length, length)
        raw.append(np.maximum(np.minimum(left, right) - blind, 0).astype(float))
    total = np.zeros(size)
    for start, w in zip(starts, raw, strict=True):
        total[start : start + length] += w
    pieces, fresh = [], 0
    for start, w in zip(starts, raw, strict=True):
        stop = start + length
        pieces.append((start, stop, (w / total[start:stop]).astype(np.float32), fresh))
        fresh = start + int(np.flatnonzero(w)[-1]) + 1
    return pieces


def _number(size, length, overlap, step):
    stride = (length - overlap) // step * step
    return -(-(size - length) // stride) + 1


# ---- how large ----------------------------------------------------------------------------------


def sizes(tile_size: Sizes | None, tile_overlap: Sizes | None, shape: Shape) -> list[Shape | None]:
    """Both arguments as a tuple for the axes of `shape`, or None; or what is wrong with them.

    Raises
    ------
    InputError
        That names `tile_size` or `tile_overlap`: no whole numbers, not one for each axis, or a
        tile that is not larger than what it has in common with the next.
    """
    names = "ZYX"[-len(shape) :]
    found = []
    for value, name, least in ((tile_size, "tile_size", 1), (tile_overlap, "tile_overlap", 0)):
        if value is not None:
            value = per_axis(value, name, len(shape), whole(least))
        found.append(value)
    if None not in found:
        for tile, overlap, size, name in zip(*found, shape, names, strict=True):
            if tile < size and overlap >= tile:
                expected = f"less than tile_size, which is {tile} along {name}"
                raise InputError("tile_overlap", expected, overlap)
    return found


def choose(shape: Shape, reach: Shape, pixels: float) -> tuple[Shape, Shape]:
    """The largest tiles of that many pixels, and by how much they overlap.

    Tiles are as long along each axis, or as long as the image. They overlap by twice the reach,
    so that nothing is lost; but where they then had more than `OVERHEAD` times as many pixels as
    the image, by a quarter of a tile.

    Parameters
    ----------
    shape : tuple of int
    reach : tuple of int
        How far a pixel sees along each axis.
    pixels : float
        The most that a tile may have.

    Returns
    -------
    tile_size, tile_overlap : tuples of int
    """
    side = 1.0
    for least, most in itertools.pairwise([1, *sorted({*shape})]):  # axes that long are whole
        free = sum(size > least for size in shape)
        fixed = math.prod(size for size in shape if size <= least)
        side = min(most, (pixels / fixed) ** (1 / free)) if free else side
        if side < most:
            break
    tile = tuple(max(1, min(size, int(side + 1e-9))) for size in shape)
    exact = tuple(2 * far for far in reach)
    if overhead(shape, tile, exact) <= OVERHEAD:
        return tile, exact
    return tile, quarter(tile, exact)


def quarter(tile: Shape, overlap: Shape) -> Shape:
    """An overlap of a quarter of a tile, where that is less than `overlap`."""
    return tuple(min(o, t // 4) for t, o in zip(tile, overlap, strict=True))


def overhead(shape: Shape, tile: Shape, overlap: Shape) -> float:
    """How many pixels tiles have, over those of the image; infinite where they cannot be."""
    total = 1.0
    for size, t, o in zip(shape, tile, overlap, strict=True):
        if t < size:
            total *= t / (t - o) if t > o else math.inf
    return total


# ---- arrays on a disk ---------------------------------------------------------------------------


def by_slices(array: object) -> bool:
    """Whether this can be written by slices, at once: Zarr's and HDF5's arrays, not Dask's."""
    has = (hasattr(array, n) for n in ("shape", "ndim", "__getitem__", "__setitem__"))
    kind = getattr(getattr(array, "dtype", None), "kind", None)  # a tensor's has none
    return all(has) and kind is not None and not hasattr(array, "__dask_graph__")


class Slices:
    """Some images of what is read and written by slices, as an (N, C, Z, Y, X) array.

    Parameters
    ----------
    array : (Y, X), (Z, Y, X) or (N, C, Z, Y, X)
    batch : slice
        Of the axis N.
    """

    def __init__(self, array: Any, batch: slice) -> None:
        full = (1,) * (5 - array.ndim) + tuple(array.shape)
        self.array, self.batch = array, batch
        self.shape = (len(range(full[0])[batch]), *full[1:])
        self.dtype, self.ndim = array.dtype, 5

    def _place(self, box):
        """The slices of all axes; `box` is an Ellipsis, and slices of the last three or none."""
        box = box[1:] if isinstance(box, tuple) else (slice(None),) * 3
        return (self.batch, slice(None), *box)[-self.array.ndim :]

    def __getitem__(self, box: Any) -> Array:
        found = np.array(self.array[self._place(box)])
        return found.reshape((1,) * (5 - found.ndim) + found.shape)

    def __setitem__(self, box: Any, values: Array) -> None:
        self.array[self._place(box)] = values.reshape(values.shape[5 - self.array.ndim :])


def release(array: object) -> None:
    """Let go of the pages of a memory-mapped file that were read or written.

    They stay in the file and in the system's cache, but count no longer as this process's memory.
    Nothing happens to any other array, nor to one whose changes are not meant for the file.
    """
    shared = False
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            shared = array.mode != "c"
        array = array.base
    if shared and isinstance(array, mmap.mmap) and hasattr(array, "madvise"):
        array.madvise(mmap.MADV_DONTNEED)
