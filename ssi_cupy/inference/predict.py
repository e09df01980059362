"""Inference: a trained network applied to an image, whole or tile by tile.

f(y) is the average over the rotations and flips that the training used, each undone, in the units
of the image; g(f(y)) is what the forward model makes of it. Both are computed in a *frame*: the
image and the mirrored margin around it that `margin_of` asks for. Where the frame does not
fit into memory it is cut into tiles, of which one at a time is read, computed and written. They
begin where the network's pooling windows do, seen from either end, and overlap by twice what the
network and the point-spread function see. So the result is that of the whole image, up to rounding.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .. import symmetry
from ..engine.arrays import by_slices
from ..engine.backend import Pool, empty, free_memory, host, is_cupy, log, moved
from ..engine.checks import InputError, numbers, real_array, representable
from ..engine.gpu.graph import Capture
from ..engine.interrupts import Interrupts
from ..engine.precision import Precision
from ..engine.types import Array, ArrayLike, Shape, Sizes, Sliceable
from ..ops.pad import index_map
from ..physics import apply
from ..training.forward_model import margin_of, reach_of, wraps
from ..training.units import normalised
from ..unet import Network, unet_forward
from . import tiling

SPARE = 1.3  # a map is not used again for one of another size, as of odd levels
OFTEN = 3  # tiles of one shape, for which a CUDA graph is worth it
WORK = 50  # bytes per pixel and channel beside the network's maps: the blur's grid, results


def infer(
    model: Any,
    image: ArrayLike | Sliceable,
    restored: Array | bool,
    reblurred: Array | bool,
    tile_size: Sizes | None = None,
    tile_overlap: Sizes | None = None,
) -> tuple[Any, Any]:
    """f(y) and g(f(y)) of a trained model.

    Parameters
    ----------
    model : SelfSupervisedInverse
    image : (Y, X), (Z, Y, X) or (N, C, Z, Y, X) array
        Or anything else that has a shape and a dtype and is read by slices.
    restored, reblurred : array or bool
        Where to write each; True for a new array, False where it is not wanted.
    tile_size, tile_overlap : int or tuple of int, optional

    Returns
    -------
    restored, reblurred : array or None
    """
    image = numbers(by_slices(image, "image"), "image", ndim=(2, 3, 5))
    cut = Cut.of(model, image.shape, reblurred is not False, tile_size, tile_overlap)
    unwanted = not cut.by_tile and restored is False
    restored = True if unwanted else restored
    restored, reblurred = (_output(out, image, model.units) for out in (restored, reblurred))
    often = Counter(tile.shape for _, tile in cut.pieces())
    with (
        Pool(),
        Precision(model.precision),
        Interrupts() as interrupts,
        Restored(model, [shape for shape, runs in often.items() if runs >= OFTEN]) as restored_of,
    ):
        for batch, tile in cut.pieces():
            interrupts.check()
            window = cut.window(batch, tile)
            x = restored_of(window.of(image[window.box]), tile.shape)
            if restored is not None:
                tile.add(_part(restored, batch), x.astype(np.float32), cut.margin)
            if reblurred is not None and cut.by_tile:
                x = apply(model.physics, x)
                tile.add(_part(reblurred, batch), x.astype(np.float32), cut.margin)
            del x  # its memory is the next one's
            for array in (image, restored, reblurred):
                tiling.release(array)
    if not cut.by_tile:
        x = moved(np.ascontiguousarray(host(_part(restored)[...]), np.float32), model.parameters)
        _part(reblurred)[...] = moved(apply(model.physics, x), reblurred)
    return None if unwanted else restored, reblurred


def memory(net: Network, pixels: float) -> float:
    """The bytes that inference takes at most for a tile of that many pixels.

    ``4 · SPARE · footprint + WORK · channels`` for each, where the `footprint` of a network tells
    of its feature maps; and the network's weights, copied as its loops want them.
    """
    maps = 4 * SPARE * net.footprint
    return pixels * (maps + WORK * max(net.inputs, net.outputs)) + 16 * net.size


def _locality(g):
    """How far along Z, Y and X g moves light; None where any pixel may see any other."""
    try:
        return None if wraps(g) else reach_of(g)
    except InputError:  # a model of one's own that does not say
        return None


def _given(tile_size, tile_overlap, shape):
    """Both for (Z, Y, X), or None: checked."""
    shape = shape[-3:]
    found = tiling.sizes(tile_size, tile_overlap, shape)
    fill = (1, 0)  # of a Z that the image has not
    return [v and (n,) * (3 - len(v)) + v for n, v in zip(fill, found, strict=True)]


def _tiles(model, shape, frame, local, fits, most, tile_size, tile_overlap):
    """The tiles of the frame, in order, a single one where it fits into memory; their halo."""
    net = model.net
    reach = tuple(map(sum, zip(net.reach, model.inputs.reach, local, strict=True)))
    step = net.smallest
    if any(exchange for exchange, _ in model.symmetries):  # then Y is X, and X is Y
        reach = (reach[0], *2 * [max(reach[1:])])
        step = (step[0], *2 * [math.lcm(*step[1:])])
    exact = tuple(2 * far for far in reach)
    if tile_size is None:
        if fits:
            return tiling.tiles(frame, frame), exact
        most = min(most, tiling.MOST) - memory(net, 0)
        most = max(most / (memory(net, 1) - memory(net, 0)), 1.0)
        tile_size, overlap = tiling.choose(frame, reach, most)
    else:  # a tile that holds the image holds its margin too
        both = zip(tile_size, shape, frame, strict=True)
        tile_size = tuple(f if t >= n else min(t, f) for t, n, f in both)
        can = tiling.overhead(frame, tile_size, exact) < math.inf
        overlap = exact if can else tiling.quarter(tile_size, exact)
    overlap = tile_overlap or overlap
    cut = [t < f for t, f in zip(tile_size, frame, strict=True)]
    short = [c and o < e for c, o, e in zip(cut, overlap, exact, strict=True)]
    if any(short):
        log.warning(
            "tiles of %s pixels overlap by %s; only with %s would their seams leave no trace",
            *("×".join(map(str, some[frame[0] == 1 :])) for some in (tile_size, overlap, exact)),
        )
    blind = tuple(0 if s else far for s, far in zip(short, reach, strict=True))
    return tiling.tiles(frame, tile_size, overlap, step=step, blind=blind), exact


@dataclass(frozen=True)
class Window:
    """What is read of an image for a tile: the slices `box`; and what its frame makes of that."""

    box: tuple[slice, ...]
    maps: list[Array]  # for each of Z, Y, X: which pixel of the image each of the tile's is

    def of(self, y: Array) -> Array:
        """The pixels of the tile, (N, C, Z, Y, X) in float64, of those in `box`."""
        y = real_array(np.asarray(host(y)), "image").astype(np.float64)
        y = y.reshape((1,) * (5 - y.ndim) + y.shape)
        for axis, i in enumerate(self.maps, start=2):
            first = int(i.min())
            if len(i) != y.shape[axis] or i[0] != first:
                y = y.take(i - first, axis)
        return y


@dataclass(frozen=True)
class Cut:
    """How an image is restored: whole, or tile by tile.

    Attributes
    ----------
    shape : tuple of int
        Of the image.
    margin : (int, int, int)
        Of the frame around it.
    tiles : list of Tile
        Of the frame.
    halo : (int, int, int)
        By how much tiles overlap where their seams are to leave no trace.
    whole : bool
        Whether all images of a batch are restored at once.
    by_tile : bool
        Whether g(f(y)) can be told of a tile of f(y).
    """

    shape: tuple[int, ...]
    margin: Shape
    tiles: list[tiling.Tile]
    halo: Shape
    whole: bool
    by_tile: bool

    @classmethod
    def of(
        cls,
        model: Any,
        shape: Shape,
        reblurred: bool,
        tile_size: Sizes | None = None,
        tile_overlap: Sizes | None = None,
        most: float | None = None,
    ) -> Self:
        """The cut of an image of `shape` into tiles that fit into memory.

        Parameters
        ----------
        model : SelfSupervisedInverse
        shape : tuple of int
            (Y, X), (Z, Y, X) or (N, C, Z, Y, X).
        reblurred : bool
            Whether g(f(y)) is wanted too.
        tile_size, tile_overlap : int or tuple of int, optional
        most : float, optional
            Bytes that a tile may take; by default half of what is free.
        """
        given, five = shape, (1,) * (5 - len(shape)) + tuple(shape)
        if five[1] != model.net.outputs:
            raise InputError("image", f"{model.net.outputs} channels", f"{five[1]}")
        if (five[2] > 1) != (model.net.ndim == 3):
            expected = f"a {model.net.ndim}-D image, as the model was trained on"
            raise InputError("image", expected, f"shape {tuple(shape)}")
        if any(n < least for n, least in zip(five[2:], model.net.smallest, strict=True)):
            expected = f"at least {model.net.smallest} pixels along (Z, Y, X), as the network pools"
            raise InputError("image", expected, f"shape {tuple(shape)}")
        margin = margin_of(model.physics, model.recipe, five[2:])
        local = _locality(model.physics) if reblurred else (0, 0, 0)
        sizes = _given(tile_size, tile_overlap, shape)
        frame = tuple(n + 2 * m for n, m in zip(five[2:], margin, strict=True))
        most = free_memory(model.parameters) / 2 if most is None else most
        fits = memory(model.net, five[0] * math.prod(frame)) <= most
        tiles, halo = _tiles(model, five[2:], frame, local or (0, 0, 0), fits, most, *sizes)
        whole = fits and len(tiles) == 1
        return cls(tuple(given), margin, tiles, halo, whole, whole or local is not None)

    def pieces(self) -> Iterator[tuple[slice, tiling.Tile]]:
        """(which images of the batch, which tile) in the order in which they are to be added."""
        count = 1 if len(self.shape) < 5 else self.shape[0]
        batches = [slice(None)] if self.whole else [slice(n, n + 1) for n in range(count)]
        return itertools.product(batches, self.tiles)

    def window(self, batch: slice, tile: tiling.Tile) -> Window:
        """What is read for a tile of some images."""
        sizes = ((1, 1, 1) + self.shape)[-3:]
        maps = [
            index_map(n, m, m, "mirror", n + 2 * m)[box]
            for n, m, box in zip(sizes, self.margin, tile.box, strict=True)
        ]
        inside = [slice(int(i.min()), int(i.max()) + 1) for i in maps]
        return Window((batch, slice(None), *inside)[-len(self.shape) :], maps)


class Restored:
    """f(y) of tiles in the image's units, on the device of the model.

    On a GPU, tiles of the shapes that come `often` are restored by a CUDA graph.
    """

    def __init__(self, model: Any, often: Sequence[Shape] = ()) -> None:
        self.model, self.often = model, often
        self.capture = Capture(is_cupy(model.parameters) and model.graph)
        self.places = {}

    def __enter__(self) -> Self:
        self.capture.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.capture.__exit__(*error)
        self.capture.close()

    def __call__(self, y: Array, shape: Shape) -> Array:
        offset, scale = self.model.units
        like = self.model.parameters
        y = moved(normalised(y, offset, scale, like.dtype), like)
        if shape in self.often:
            seen, x = self.places.setdefault(y.shape, (y, empty(y.shape, y.dtype, like=y)))
            if seen is not y:
                seen[...] = y
            self.capture(y.shape, self._run, seen, x)
        else:
            x = empty(y.shape, y.dtype, like=y)
            self._run(y, x)
        return x / len(self.model.symmetries) * scale + offset

    def _run(self, y, x):
        model = self.model
        settings = {"net": model.net, "statistics": model.statistics, "keep": False}
        x[...] = 0
        for transform in model.symmetries:
            shown = model.inputs(symmetry.apply(y, transform))
            out = unet_forward(shown, model.parameters, **settings)[0]
            x += symmetry.undo(out, transform)


def _output(out, image, units):
    """An array to write to: the caller's own, or a new one on the device of the image."""
    if out is False:
        return None
    if out is True:
        return empty(tuple(image.shape), np.float32, like=image)
    ours = isinstance(out, np.ndarray) or is_cupy(out)
    written = ours or tiling.by_slices(out)
    if not written or np.ma.isMaskedArray(out):
        expected = "an array of numpy or cupy, or one that is written by slices, as of Zarr"
        raise InputError("out", expected, type(out).__name__)
    if out.dtype.kind != "f":
        raise InputError("out", "floating-point numbers", str(out.dtype))
    if out.dtype.itemsize < 4:  # float32 holds what the model was trained on
        representable(*sorted((units[0], units[0] + units[1])), "out", out.dtype)
    if tuple(out.shape) != tuple(image.shape):
        raise InputError("out", f"the image's shape {tuple(image.shape)}", f"{out.shape}")
    both = isinstance(out, np.ndarray) and isinstance(image, np.ndarray)
    if both and np.shares_memory(out, image):
        # where tiles overlap, results would be read as the image
        raise InputError("out", "memory of its own", "that of the image")
    return out


def _part(array, batch=np.s_[:]):
    """Some images of `array` as (N, C, Z, Y, X): a view, also of memory that is not contiguous."""
    if not (isinstance(array, np.ndarray) or is_cupy(array)):
        return tiling.Slices(array, batch)
    return array[(None,) * (5 - array.ndim)][batch]
