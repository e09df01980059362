"""The pixels of one image of a set, as they are asked for: a look at all of them, boxes, a few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.checks import InputError
from ..engine.types import Array, Mode, Shape
from ..ops.pad import index_map

PIECE = 2**24  # pixels that are looked at at once
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Look:
    """What one pass over an image finds."""

    count: int
    mean: float
    squares: float  # Σ (y − mean)²
    low: float
    high: float


class Image:
    """One image: a name, a shape (C, Z, Y, X), and how to get at its pixels.

    `masked`, (1, Z, Y, X), "nan" or None, says which of them are none.
    """

    def __init__(
        self,
        name: str,
        shape: Shape,
        dtype: Any,
        pixels: Callable[[], Any],
        spacing: Mapping[str, float] | None = None,
        masked: Any = None,
    ) -> None:
        self.name, self.shape, self.dtype, self.pixels = name, shape, dtype, pixels
        self.spacing, self.masked = spacing or {}, masked

    def hidden(self, cut: Callable[[Any], Any]) -> Array | None:
        """Where a part is masked, (1, Z, Y, X); None where nothing is. `cut` takes it out."""
        if self.masked is None:
            return None
        if isinstance(self.masked, str):
            return np.isnan(cut(self.pixels())).any(axis=0, keepdims=True)
        return np.asarray(cut(self.masked)).astype(bool).any(axis=0, keepdims=True)

    def pieces(self) -> Iterator[tuple[Array, Array | None]]:
        """(pixels, where they are masked or None) of plane after plane, or of some rows of it."""
        pixels = self.pixels()
        rows = max(1, PIECE // self.shape[3])
        for c, z in np.ndindex(self.shape[:2]):
            for first in range(0, self.shape[2], rows):
                part = slice(first, min(first + rows, self.shape[2]))
                hidden = self.hidden(lambda a, z=z, part=part: a[:, z : z + 1, part])
                yield np.asarray(pixels[c, z, part]), None if hidden is None else hidden[0, 0]

    def thinned(self, every: int) -> Array:
        """One pixel of so many, where it is not masked, in float64."""
        found = []
        for y, hidden in self.pieces():
            y = y.reshape(-1)[::every].astype(np.float64)
            found.append(y if hidden is None else y[~hidden.reshape(-1)[::every]])
        found = np.concatenate(found)
        return found if found.size else np.array([self.found.mean])

    def look(self) -> None:
        """Mean and spread in float64, plane by plane; an `InputError` where one is not finite."""
        count, mean, squares, low, high = 0, 0.0, 0.0, np.inf, -np.inf
        for y, hidden in self.pieces():
            y = np.asarray(y, np.float64)
            if hidden is not None:
                y = y[~hidden]
                if not y.size:
                    continue
            here, own = y.size, float(y.mean())
            low, high = min(low, float(y.min())), max(high, float(y.max()))
            if not np.isfinite(low + high + own):
                raise InputError(self.name, "finite values", "NaN or infinite ones")
            if max(abs(low), abs(high)) > LARGEST:
                expected = f"values up to {LARGEST:.2g}, which float32 can hold"
                raise InputError(self.name, expected, f"{low:g} to {high:g}")
            total, step = count + here, own - mean
            squares += float(np.square(y - own).sum()) + step**2 * count * here / total
            mean, count = mean + step * here / total, total
        if not count:
            raise InputError("mask", f"pixels of {self.name} that are not masked", "none of them")
        self.found = Look(count, mean, squares, low, high)


def box(image: Any, start: Sequence[int], shape: Sequence[int], beyond: Mode = "wrap") -> Array:
    """A part of (C, Z, Y, X); what lies outside is where `index_map` says."""
    at = [
        index_map(n, max(0, -a), max(0, a + k - n), beyond, max(0, -a) + max(n, a + k))[
            max(0, a) : max(0, a) + k
        ]
        for a, k, n in zip(start, shape, image.shape[1:], strict=True)
    ]
    window = [slice(int(i.min()), int(i.max()) + 1) for i in at]
    part = np.asarray(image[(slice(None), *window)])
    for axis, (i, w, k) in enumerate(zip(at, window, shape, strict=True), 1):
        if w.stop - w.start != k or i[0] != w.start or i[-1] != w.stop - 1:
            part = part.take(i - w.start, axis)
    return part


class Slices:
    """(C, Z, Y, X) of what is read by slices and may have fewer axes, or one more of length 1."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape = (1, 1, 1, *array.shape)[-4:]

    def __getitem__(self, box: tuple[int | slice, ...]) -> Array:
        box = (*box, *(slice(None),) * (4 - len(box)))
        less = 4 - self.array.ndim
        found = np.asarray(self.array[(0,) * -less + box[max(less, 0) :]])
        return found[(None,) * sum(isinstance(b, slice) for b in box[: max(less, 0)])]
