"""Many images of one kind, one at a time: arrays, or TIFF files that never are all in memory.

Where a TIFF is not compressed, the pixels that are asked for are mapped from the file, and given
back at once. Compressed ones are read whole, and the last few are kept.
"""

from __future__ import annotations

import copy
import functools
import glob
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..engine.arrays import by_slices
from ..engine.backend import host, log
from ..engine.checks import FileError, InputError, numbers, path_like, real_array, told
from ..engine.types import Array, ArrayLike, Mode, PathLike, Shape
from ..files import tiff
from .missing import as_mask, separated
from .pixels import Image, Slices, box
from .progress import counted

CACHE = 256 * 2**20  # bytes of pixels of compressed files that are kept
SAMPLE = 2**20  # pixels of all images that percentiles are taken of
ENDINGS = (".tif", ".tiff")

# A sequence is one of arrays and paths, which type checkers cannot tell from an array's rows.
Source: TypeAlias = "ArrayLike | PathLike | Sequence[Any] | Images"


def is_many(image: object) -> bool:
    """Whether an argument means a set of images: a path, paths or a list of arrays."""
    if isinstance(image, (Images, str, os.PathLike)):
        return True
    return isinstance(image, (list, tuple)) and any(map(_is_one, image))


def _is_one(item):
    return isinstance(item, (str, os.PathLike)) or getattr(item, "ndim", 0) >= 2


def find(where: PathLike, argument: str = "image") -> list[Path]:
    """The TIFF files that a path means: the file itself, those of a folder, or of a pattern.

    Returns
    -------
    list of Path, in the order of their names
    """
    path = Path(path_like(where, argument))
    try:
        path.exists()
    except OSError as error:  # a name that is too long
        expected = "an existing TIFF file or folder"
        raise FileError(argument, expected, f"{str(where)!r} ({error.strerror})") from None
    if path.is_dir():
        found = [p for p in sorted(path.iterdir()) if _is_tiff(p)]
        where = f"the folder {str(where)!r}"
    elif path.exists():
        return [path]
    elif not glob.has_magic(str(where)):
        raise FileError(argument, "an existing TIFF file or folder", repr(str(where)))
    else:
        found = [p for p in map(Path, sorted(glob.glob(str(where)))) if p.is_file()]
        where = f"the pattern {str(where)!r}"
    if not found:
        raise FileError(argument, "at least one TIFF file", f"none in {where}")
    return found


def _is_tiff(path):
    # names that begin with a dot are scraps, of other systems and of files being written
    return path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith(".")


def gather(
    what: Source,
    axes: str | None = None,
    argument: str = "image",
    bad: Callable[[InputError], object] | None = None,
    progress: bool = False,
    mask: Any = None,
) -> Images:
    """The `Images` that an argument means.

    Parameters
    ----------
    what : path, list of paths and arrays, or (N, C, Z, Y, X) array
        A path is that of a TIFF file, of a folder of them, or a pattern as ``data/*.tif``. Arrays
        are (Y, X), (Z, Y, X) or (C, Z, Y, X).
    axes : str, optional
        A letter of T, C, Z, Y, X for each axis of the files, where they do not say it themselves.
        Time points are images of their own.
    argument : str
        What complaints call `what`.
    bad : callable, optional
        Called with the `InputError` of each file that cannot be used, which is then left out. By
        default it is raised.
    progress : bool
        Show a progress bar.
    mask : "nan", or a list of arrays and None, optional
        As of `missing.separated`, for all images or one for each; of one array, one array.

    Raises
    ------
    InputError
        If there is none, if one cannot be used, or if they are not all 2-D or all 3-D and of as
        many channels.
    """
    if isinstance(what, Images):
        if mask is not None:
            raise InputError("mask", "None for images that `gather` has made", told(mask))
        return what
    if isinstance(what, (str, os.PathLike)):
        what = find(what, argument)
    elif hasattr(what, "ndim"):
        pixels, masked = separated(what, mask, argument)
        what = list(host(real_array(pixels, argument, ndim=5)))
        mask = None if masked is None else list(masked)
    cache, found, masks = _Cache(), [], _one_each(mask, len(what))
    for i, item in enumerate(counted(what, "looking at", progress)):
        try:
            if isinstance(item, (str, os.PathLike)):
                fresh = _of_file(item, axes, argument, cache, masks[i])
            else:
                fresh = [_of_array(item, f"{argument}[{i}]", masks[i])]
            for image in fresh:
                image.look()
            found += fresh
        except InputError as error:
            if bad is None:
                raise
            bad(error)
    if not found:
        raise InputError(argument, "at least one image", "none that can be used")
    return Images(found, argument)


def _one_each(mask, count):
    if mask is None or isinstance(mask, str) and mask == "nan":
        return [mask] * count
    if not isinstance(mask, (list, tuple)) or len(mask) != count:
        expected = f"'nan', or a list of one for each of {count} images"
        raise InputError("mask", expected, told(mask))
    return mask


class Images:
    """A set of images, all 2-D or all 3-D, and of as many channels. `gather` makes it.

    Attributes
    ----------
    names : list of str
    shapes : list of (C, Z, Y, X)
    """

    names: list[str]
    shapes: list[Shape]

    def __init__(self, images: Sequence[Any], argument: str = "image") -> None:
        self._images, self.argument = images, argument
        self.names, self.shapes = [i.name for i in images], [i.shape for i in images]
        self._alike("rank", lambda i: "3-D" if i.shape[1] > 1 else "2-D")
        self._alike("channels", lambda i: f"{i.shape[0]} channels")
        kinds = {i.dtype.newbyteorder("="): i.name for i in images}
        if len(kinds) > 1:
            listed = ", ".join(f"{kind} ({name})" for kind, name in kinds.items())
            log.warning("the images are of several kinds, %s: their values are taken as they "
                        "are, in one unit", listed)  # fmt: skip

    def _alike(self, what, kind):
        first = self._images[0]
        for other in self._images:
            if kind(other) != kind(first):
                got = f"{kind(first)} ({first.name}) and {kind(other)} ({other.name})"
                raise InputError(self.argument, f"images that are alike in {what}", got)

    def __len__(self) -> int:
        return len(self._images)

    def __repr__(self) -> str:
        first = f"{self.names[0]!r} {self.shapes[0]}" + ", …" * (len(self) > 1)
        return f"Images({len(self)}: {first})"

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Pixel sizes of the first image along ([Z,] Y, X), µm, or None if its file has none."""
        axes, found = "ZYX" if self.shapes[0][1] > 1 else "YX", self._images[0].spacing
        return tuple(found[a] for a in axes) if set(axes) <= set(found) else None

    def subset(self, places: Iterable[int]) -> Images:
        """The `Images` at these places."""
        part = copy.copy(self)
        part._images = [self._images[i] for i in places]
        part.names, part.shapes = (
            [list_[i] for i in places] for list_ in (self.names, self.shapes)
        )
        return part

    def whole(self, i: int) -> Array:
        """Image `i`, (C, Z, Y, X), as it is."""
        return np.asarray(self._images[i].pixels())

    @property
    def any_masked(self) -> bool:
        """Whether pixels of any image may be masked."""
        return any(image.masked is not None for image in self._images)

    def box(
        self, i: int, start: Sequence[int], shape: Sequence[int], beyond: Mode = "wrap"
    ) -> Array:
        """A (C, *shape) copy from image `i`; what lies outside is found on the other side, or where
        another mode says. Masked pixels have the mean of the others."""
        image, masked = self._images[i], self.masked(i, start, shape, beyond)
        part = box(image.pixels(), start, shape, beyond)
        return np.array(part) if masked is None else np.where(masked, image.found.mean, part)

    def masked(
        self, i: int, start: Sequence[int], shape: Sequence[int], beyond: Mode = "wrap"
    ) -> Array | None:
        """Where that box is masked, (1, *shape) of bool; None where nothing of the image is."""
        return self._images[i].hidden(lambda a: box(a, start, shape, beyond))

    def moments(self) -> tuple[float, float]:
        """(mean, standard deviation) of all pixels, in float64."""
        found = [image.found for image in self._images]
        count = sum(f.count for f in found)
        mean = sum(f.mean * (f.count / count) for f in found)
        squares = sum(f.squares + f.count * (f.mean - mean) ** 2 for f in found)
        return mean, float(np.sqrt(squares / count))

    def ends(self) -> tuple[float, float]:
        """(least, greatest) of all pixels."""
        found = [image.found for image in self._images]
        return min(f.low for f in found), max(f.high for f in found)

    def percentiles(self, shares: Sequence[float]) -> Array:
        """Percentiles of a million pixels, as many of each image and evenly spread in it."""
        each, some = max(64, SAMPLE // len(self)), []
        for i in range(len(self)):
            some.append(self._images[i].thinned(-(-math.prod(self.shapes[i]) // each)))
        return np.percentile(np.concatenate(some), shares)

    def describe(self) -> list[tuple[str, Shape, float, float]]:
        """Names, shapes and moments, to tell one set from another."""
        return [(i.name, i.shape, i.found.mean, i.found.squares) for i in self._images]


def of_one(array: Any, mask: Any = None) -> Images:
    """The `Images` of a single array, which is not read as a whole.

    Parameters
    ----------
    array : (Y, X), (Z, Y, X) or (1, C, Z, Y, X) array
        Or anything else that has a shape and a dtype and is read by slices.
    mask : array of bool, or "nan", optional
        The pixels that say nothing.
    """
    return of_several([array], [mask])


def of_several(arrays: Sequence[Any], masks: Sequence[Any]) -> Images:
    """The `Images` of arrays, each with its mask or None, as of `of_one`."""
    found = []
    for number, (array, mask) in enumerate(zip(arrays, masks, strict=True)):
        held = Slices(numbers(by_slices(array, "image"), "image", ndim=(2, 3, 5)))
        if mask is not None and not isinstance(mask, str):
            mask = Slices(by_slices(mask, "mask"))
        name = "image" if len(arrays) == 1 else f"image {number}"
        read = functools.partial(_itself, held)
        image = Image(name, held.shape, np.dtype(held.array.dtype), read, masked=mask)
        image.look()
        found.append(image)
    return Images(found)


def _itself(held):
    return held


def _of_array(array, name, mask):
    pixels, masked = separated(array, mask, name)
    pixels = host(real_array(pixels, name, ndim=(2, 3, 4)))
    shape = (1,) * (4 - pixels.ndim) + pixels.shape
    if masked is not None:
        masked = masked.reshape(shape).any(axis=0, keepdims=True)
    held = functools.partial(np.reshape, pixels, shape)
    return Image(name, shape, pixels.dtype, held, masked=masked)


def _of_file(path, axes, argument, cache, mask):
    """The images of a TIFF file, one for each time point."""
    layout = tiff.layout(path, argument)
    if layout.dtype.kind not in "uif" or 0 in layout.shape:
        got = f"{str(path)!r} with {layout.dtype} of shape {layout.shape}"
        raise FileError(argument, "TIFF files of real numbers", got)
    letters = letters_of(layout, axes, argument)
    sizes = dict(zip(letters, layout.shape, strict=True))
    order = [letters.index(a) for a in "TCZYX" if a in letters]
    full = [sizes.get(a, 1) for a in "TCZYX"]
    masks = [None] * full[0]
    if isinstance(mask, str):
        masks = ["nan" if layout.dtype.kind == "f" else None] * full[0]
    elif mask is not None:
        mask = as_mask(mask, layout.shape).transpose(order).reshape(full)
        masks = [m.any(axis=0, keepdims=True) if m.any() else None for m in mask]
    names = [Path(path).name] if full[0] == 1 else [f"{path} [T={t}]" for t in range(full[0])]
    frames = [
        functools.partial(_frame, layout, cache, argument, order, full, t) for t in range(full[0])
    ]
    return [
        Image(name, tuple(full[1:]), layout.dtype, frame, layout.spacing, mask)
        for name, frame, mask in zip(names, frames, masks, strict=True)
    ]


def _frame(layout, cache, argument, order, full, t):
    """The pixels of one time point, mapped from the file or cached."""
    data = layout.pixels(argument) if layout.offset is not None else cache.get(layout, argument)
    return data.transpose(order).reshape(full)[t]


def letters_of(layout: tiff.Layout, axes: str | None = None, argument: str = "image") -> str:
    """The letter of each axis of a file; what it leaves open is asked for, not guessed."""
    letters = (axes or layout.axes).replace("S", "" if "C" in (axes or layout.axes) else "C")
    right = len(letters) == len(set(letters)) == len(layout.shape)
    if not right or set(letters) - set("TCZYX") or not {"Y", "X"} <= set(letters):
        expected = f"a letter of T C Z Y X for each axis of {layout.shape}, as ZYX"
        got = repr(letters) + (f" of {str(layout.path)!r}" if layout.path else "")
        raise FileError("axes", expected, got)
    return letters


class _Cache:
    """The pixels of the files that were read last."""

    def __init__(self, limit=CACHE):
        self.limit, self.size, self.kept = limit, 0, OrderedDict()

    def __reduce__(self):
        return type(self), (self.limit,)  # without the pixels

    def get(self, layout, argument):
        key = str(layout.path)
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        pixels = layout.pixels(argument)
        self.kept[key], self.size = pixels, self.size + pixels.nbytes
        while self.size > self.limit and len(self.kept) > 1:
            self.size -= self.kept.popitem(last=False)[1].nbytes
        return pixels
