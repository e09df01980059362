"""Inference on Dask arrays: a lazy result, of the same tiles and so of the same bits.

A task restores one tile, from the pixels that it and its halo need; another adds up the tiles of
one chunk of the result, in their order. So a worker that is lost costs the tiles and chunks that it
had and no others, and chunks may be of any size. The model is one node of the graph: it travels to
each worker once. A process restores one tile at a time, with all its threads, or on its GPU.

Needs the extra ``dask``.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..engine.arrays import is_data_array, named_as
from ..engine.backend import Pool, host, log, moved, on_device, resolve_device
from ..engine.checks import InputError, numbers
from ..engine.gpu import driver
from ..engine.precision import Precision
from ..engine.types import Array, PathLike, Sizes
from ..files.zarr_chunks import Unfinished
from ..physics import apply
from ..recipes import Recipe
from ..training.checkpoints import fingerprint
from ..training.missing import Mask, as_mask, separated
from . import tiling
from .masked_image import BEYOND, Filled
from .predict import Cut, Restored
from .stack import Stack


def is_lazy(array: Any) -> bool:
    """Whether this is a Dask array, or a DataArray of one, whose chunks mask nothing."""
    inner = array.data if is_data_array(array) else array
    own = hasattr(inner, "__dask_graph__") and hasattr(inner, "dtype")
    return own and not np.ma.isMaskedArray(getattr(inner, "_meta", None))


def infer_lazily(
    model: Any,
    image: Any,
    mask: Mask,
    restored: bool,
    reblurred: bool,
    tile_size: Sizes | None = None,
    tile_overlap: Sizes | None = None,
) -> tuple[Any, Any]:
    """f(y) and g(f(y)) as Dask arrays of float32.

    They have the bits of `predict.infer` with the same tiles. By default these take up to
    `tiling.MOST` bytes, whatever memory is free here: an image that is smaller is one tile.

    Parameters
    ----------
    model : SelfSupervisedInverse
        A trained one, which nothing changes any more.
    image : (Y, X), (Z, Y, X) or (N, C, Z, Y, X) array of Dask
    mask : array of bool, "nan" or None
    restored, reblurred : bool
        Which are wanted; the others are None.
    tile_size, tile_overlap : int or tuple of int, optional
    """
    import dask.array as da
    from dask import delayed
    from dask.base import tokenize

    given, image = image, image.data if is_data_array(image) else image
    numbers(image, "image", ndim=(2, 3, 5))
    cut = Cut.of(model, image.shape, reblurred, tile_size, tile_overlap, most=tiling.MOST)
    looks = model.outliers(np.zeros((1,) * image.ndim)) is not None
    mask = _lazy_mask(mask, image) if mask is not None else None
    grid = _grid(cut)
    held = Held(model)
    names = image.name, getattr(mask, "name", None)
    token = tokenize(held.token, *names, cut.margin, grid, restored, reblurred)
    held = delayed(held, name=f"model-{token}", traverse=False)
    wanted = (restored or not cut.by_tile, reblurred and cut.by_tile)
    pieces, tiles = list(cut.pieces()), []
    for number, (batch, tile) in enumerate(pieces):
        window = cut.window(batch, tile)
        box, inside = window.box, None
        if looks or mask is not None:  # what is masked shows what lies around it
            box, inside = _wider(box, image.shape)
        hidden = None if mask is None else mask[box]
        run = functools.partial(_restored, window=window, inside=inside, wanted=wanted)
        name = f"tile-{token}-{number}"
        tiles.append(delayed(run)(held, image[box], hidden, dask_key_name=name))
    chunks = _chunks(image, cut)
    results = [
        _assembled(f"{name}-{token}", chunks, cut, grid, pieces, [tile[which] for tile in tiles])
        if wanted[which]
        else None
        for which, name in enumerate(("restored", "reblurred"))
    ]
    if reblurred and not cut.by_tile:  # any pixel may need any other
        blurred = delayed(_blurred)(held, results[0], dask_key_name=f"blurred-{token}")
        results[1] = da.from_delayed(blurred, image.shape, np.float32).rechunk(chunks)
    named = [array if array is None else named_as(array, given) for array in results]
    return named[0] if restored else None, named[1]


def _grid(cut):
    """For each of Z, Y, X, of each tile along it: (start, stop, from where, to where it counts)."""
    found = [{}, {}, {}]
    for tile in cut.tiles:
        for axis, weights in enumerate(tile.weights):
            start, counts = tile.start[axis], np.flatnonzero(weights)
            ends = start + int(counts[0]), start + int(counts[-1]) + 1
            found[axis][start] = (start, tile.stop[axis], *ends)
    return [list(axis.values()) for axis in found]


def _wider(box, shape):
    """A box with `BEYOND` pixels more around it, and the slices of `box` in that."""
    wide, inside = [], []
    for axis, (s, n) in enumerate(zip(box, shape, strict=True)):
        start, stop, _ = s.indices(n)
        far = BEYOND if axis >= len(shape) - 3 else 0
        wide.append(slice(max(start - far, 0), min(stop + far, n)))
        inside.append(slice(start - wide[-1].start, stop - wide[-1].start))
    return tuple(wide), tuple(inside)


def _lazy_mask(mask, image):
    """Where an image is masked, as a Dask array of bool."""
    import dask.array as da

    if isinstance(mask, str):
        as_mask(mask, image.shape, image[(slice(1),) * image.ndim].compute())  # or says what it is
        return da.isnan(image) if image.dtype.kind == "f" else None
    if not is_lazy(mask):
        mask = da.asarray(as_mask(mask, image.shape))
    elif mask.shape != image.shape:
        raise InputError("mask", f"the image's shape {image.shape}", f"shape {mask.shape}")
    return mask.astype(bool)


def _chunks(image, cut):
    """The chunks of the result: those of the image, or such as tiles have where they are small."""
    found, small = [list(sizes) for sizes in image.chunks], False
    for axis in range(-min(image.ndim, 3), 0):
        size, halo = image.shape[axis], cut.halo[axis]
        if max(image.chunks[axis]) >= min(halo, size):
            continue
        small, starts = True, sorted({tile.start[axis] for tile in cut.tiles})
        stride = max(np.diff(starts).tolist(), default=size)
        found[axis] = [min(stride, size - at) for at in range(0, size, stride)]
    if small:
        told = ("×".join(str(max(sizes)) for sizes in some) for some in (image.chunks, found))
        halo = "×".join(map(str, cut.halo[-min(image.ndim, 3) :]))
        log.warning("chunks of %s pixels are smaller than the halo of %s: the result has chunks "
                    "of %s", next(told), halo, next(told))  # fmt: skip
    return tuple(tuple(map(int, sizes)) for sizes in found)


def _assembled(name, chunks, cut, grid, pieces, values):
    """A Dask array of those tiles, each chunk of those that count in it, in their order."""
    import dask.array as da
    from dask import delayed

    starts = [np.cumsum([0, *sizes])[:-1].tolist() for sizes in chunks]
    blocks = np.empty([len(sizes) for sizes in chunks], dtype=object)
    counts = [len(axis) for axis in grid]
    batches = [batch for batch, tile in pieces[:: len(cut.tiles)]]
    for place in np.ndindex(blocks.shape):
        start = [s[i] for s, i in zip(starts, place, strict=True)]
        size = tuple(c[i] for c, i in zip(chunks, place, strict=True))
        origin = [0] * (3 - len(size)) + start[-3:]
        origin = tuple(a + m for a, m in zip(origin, cut.margin, strict=True))
        images = range(start[0], start[0] + size[0]) if len(size) == 5 else range(1)
        whole = (1,) * (3 - len(size)) + size[-3:]
        near = [[n for n, b in enumerate(batches) if {*images} & {*range(images.stop)[b]}]]
        for axis, at, length in zip(grid, origin, whole, strict=True):
            near.append([i for i, (*_, a, b) in enumerate(axis) if a < at + length and at < b])
        some = [np.ravel_multi_index(i, (len(batches), *counts)) for i in itertools.product(*near)]
        add = functools.partial(_added, size, origin, images, [pieces[i] for i in some])
        key = f"{name}-chunk-{'-'.join(map(str, place))}"
        chunk = delayed(add)([values[i] for i in some], dask_key_name=key)
        blocks[place] = da.from_delayed(chunk, size, np.float32, name=f"{name}-{key}")
    return da.block(blocks.tolist())


# ---- a stack ----------------------------------------------------------------------------------


def pixels_of(image: Any, mask: Mask) -> tuple[Any, Any]:
    """An image and where it is masked, as of `separated`; of a Dask array both are lazy."""
    if not is_lazy(image):
        return separated(image, mask)
    image = image.data if is_data_array(image) else image
    numbers(image, "image")
    return image, None if mask is None else _lazy_mask(mask, image)


def in_memory(
    image: Any, masked: Any, axes: str, recipe: Recipe, full_output: bool = False
) -> tuple[Any, Any]:
    """What `pixels_of` found, computed; but as it is where it is lazy, and images are so large that
    a training sees but parts of them."""
    if not is_lazy(image):
        return image, masked
    if not recipe.sees_a_part([n for a, n in zip(axes, image.shape, strict=True) if a in "ZYX"]):
        return separated(image, masked)
    if full_output:
        expected = "False for a large Dask array, whose result is lazy"
        raise InputError("full_output", expected, "True")
    return image, masked


def lazy_as(image: Any, result: Any) -> Any:
    """A result as a Dask array of the chunks of `image`, if that is one."""
    if not is_lazy(image):
        return result
    import dask.array as da

    lazy = da.from_array(result.data if is_data_array(result) else result, chunks=image.chunks)
    return named_as(lazy, image)


def restore_lazily(
    stack: Stack,
    groups: Sequence[Sequence[tuple[int, ...]]],
    closed: set[tuple[int, ...]],
    train: Callable[[int, Sequence[tuple[int, ...]]], Any],
    wanted: str,
    **tiles: Any,
) -> Any:
    """Each image of a stack as `stack.restore_each` has it, but that all after the training is
    lazy: neither judged nor refined, which takes the whole image.

    Parameters
    ----------
    wanted : {"restored", "denoised"}
        f(y) or g(f(y)).

    Others are those of `stack.restore_each`.
    """
    import dask.array as da

    found = {}
    for place in closed:
        y = stack.images[place].astype(np.float32)
        found[place] = y if stack.masks is None else da.where(stack.masks[place], np.nan, y)
    for group in groups:
        model = train(0, group)
        for place in group:
            own = stack.own(model, group, place) if len(group) > 1 else model
            function = own.predict if wanted == "restored" else own.reblur
            mask = None if stack.masks is None else stack.masks[place]
            found[place] = function(stack.images[place], mask=mask, **tiles)
    if () in found:
        return found[()]
    lazy = da.stack([found[place].astype(np.float32) for place in stack.places])
    return lazy.reshape(stack.images.shape)


def to_zarr(
    array: Any,
    path: PathLike,
    *,
    axes: str | None = None,
    spacing: Mapping[str, float] | None = None,
) -> None:
    """Compute a lazy result, and write it to an OME-Zarr chunk by chunk.

    A run that is interrupted or killed leaves ``path.part``, and the next one with the same image,
    model and settings goes on from there: chunks that are written are not computed again.

    Parameters
    ----------
    array : array of Dask
    path : path
        Where there is nothing yet. On several machines, of a folder that all of them see.
    axes : str, optional
        A letter of T, C, Z, Y, X for each axis; by default the last ones are Z, Y and X.
    spacing : dict of str to float, optional
        µm between pixels along Z, Y and X.

    Raises
    ------
    FileError
        Where it cannot be written, or what was begun there is of another array.
    """
    if not is_lazy(array):
        raise InputError("array", "an array of Dask", type(array).__name__)
    axes = "TCZYX"[-array.ndim :] if axes is None else axes
    Unfinished(path).write(array.data if is_data_array(array) else array, axes, spacing or {})


# ---- tasks ----------------------------------------------------------------------------------


def _added(size, origin, images, pieces, values):
    """One chunk of the result, of the tiles that reach into it."""
    out = np.empty(size, np.float32)
    five = out.reshape((1,) * (5 - out.ndim) + out.shape)
    for (batch, tile), value in zip(pieces, values, strict=True):
        own = range(*batch.indices(images.stop))  # the images that `value` has
        here = [n for n in images if n in own]
        part = five[here[0] - images.start : here[-1] + 1 - images.start]
        tile.add(part, value[here[0] - own.start : here[-1] + 1 - own.start], origin)
    return out


def _restored(held, y, mask, *, window, inside, wanted):
    """f(y) and g(f(y)) of one tile, float32 and on the CPU; None for what is not wanted."""
    y = np.asarray(y)
    with held.model() as model:
        if inside is not None:
            y = Filled(y, mask, model.outliers)[inside]
        with Pool(), Precision(model.precision), Restored(model) as restored_of:
            y = window.of(y)
            x = restored_of(y, y.shape[2:])
            found: list[Array | None] = [host(x.astype(np.float32)) if wanted[0] else None, None]
            if wanted[1]:
                found[1] = host(apply(model.physics, x).astype(np.float32))
    return tuple(a if a is None else np.array(a) for a in found)  # not of the pool


def _blurred(held, restored):
    """g of a whole image."""
    with held.model() as model:
        x = restored.reshape((1,) * (5 - restored.ndim) + restored.shape)
        x = moved(np.ascontiguousarray(x, np.float32), model.parameters)
        return host(apply(model.physics, x)).astype(np.float32).reshape(restored.shape)


# ---- the model on a worker --------------------------------------------------------------------


class Held:
    """A model as tasks use it: on the GPU of the process that it has come to, if there is one.

    Its device is chosen there as the model's was: by the argument ``device``.
    """

    _running = threading.Lock()  # one at a time, as each uses all threads, and much memory

    def __init__(self, model: Any) -> None:
        from dask.base import tokenize

        self._model, self._placed = copy.copy(model), None
        weights = host(model.parameters), host(model.statistics)
        about = repr(model.recipe), fingerprint(model.physics), model.precision
        self.token = tokenize(*weights, model.units, model.symmetries, *about)

    def __getstate__(self) -> dict[str, Any]:
        model = copy.copy(self._model)
        model._inputs, model.history = None, []
        for name in ("parameters", "statistics"):
            setattr(model, name, host(getattr(model, name)))
        return {"_model": model, "_placed": None, "token": self.token}

    @contextlib.contextmanager
    def model(self) -> Iterator[Any]:
        """The model on the device of this process, which no other thread uses meanwhile."""
        with self._running, contextlib.ExitStack() as stack:
            if resolve_device(self._model._device) == "cuda":
                stack.enter_context(driver.one_of(_number()))
            yield self._on_device()

    def _on_device(self):
        if self._placed is None:
            model = copy.copy(self._model)
            model.device = resolve_device(model._device)
            for name in ("parameters", "statistics"):
                setattr(model, name, on_device(getattr(model, name), model.device))
            self._placed = model
        return self._placed


def _number():
    """Which of several GPUs is that of this process: workers of one machine have one each."""
    distributed = sys.modules.get("distributed")
    if distributed is None or os.environ.get("CUDA_VISIBLE_DEVICES"):  # somebody has chosen
        return 0
    try:
        return int(distributed.get_worker().name)
    except (ValueError, TypeError):  # no worker, or one with a name
        return 0
