"""Where a training's images come from: what the network is shown in each step.

A source is asked for one batch after another, and fills arrays that stay where they are, so that a
whole step can be captured once and replayed. It has ::

    shape                               (N, C, Z, Y, X) of a batch
    like                                an array on the device where batches are made
    shape_of(step)                      the batch's shape in that step: `shape`, or Y and X swapped
    draw(step, y, validation, inside)   fill the three, a pure function of the seed and the step
    every()                             all there is to see, batch by batch, for calibration
    mean                                of the image, which hidden pixels may be filled with
    missing                             the masked pixels of what was drawn last, or None
    fingerprint()                       what a checkpoint knows it by
    checks                              how many batches a validation has, if it is apart
    check(number, y, validation, inside)    fill the three with one of them, always the same

Where `checks` is 0, every step has its validation: of the pixels that it has hidden for that.

`y`, float32, is target and network input; `validation`, uint8 of one channel, the pixels that are
always hidden and never in the loss; `inside`, alike, those that the loss may look at. A masked
pixel is always hidden, and not inside (see `missing.py`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .. import symmetry
from ..engine.backend import host, moved
from ..engine.types import Array, Shape
from ..random import Stream, pick
from ..symmetry import Symmetry
from . import missing
from .missing import seen, transformed

MOST_MEASURED = 64  # images in a symmetry each, that statistics are measured on


class WholeImage:
    """The whole image in every step, transformed by one of its symmetries.

    Parameters
    ----------
    y : (N, C, Z, Y, X) array of float32
        In units of the training.
    validation : float
        The fraction of pixels that is kept for validation.
    symmetries : list of symmetry
        Of which one is picked in each step.
    seed : int
    masked : (N, 1, Z, Y, X) array of bool, on the CPU, optional
        Of `y`, which is filled there.
    """

    def __init__(
        self,
        y: Array,
        *,
        validation: float,
        symmetries: Sequence[Symmetry] = (symmetry.IDENTITY,),
        seed: int = 0,
        masked: Array | None = None,
    ) -> None:
        self.y = self.like = y
        self.shape, self.symmetries, self.seed = y.shape, list(symmetries), seed
        self.mean = float(seen(host(y), masked).mean())  # on the CPU, as on every device
        self.validation = missing.validation(y.shape, validation, seed, masked, like=y)
        self.masked, self.missing = masked, None
        if masked is not None:
            self.shown = moved((~masked).astype(np.uint8), y)
            self.pixels = [moved(numbers, y) for numbers in missing.mirrored(masked)]
            self.missing = missing.Missing(len(self.pixels[0]), y)
        self._drawn, self._into, self.checks = None, None, 0

    def shape_of(self, step: int) -> Shape:
        """The batch's shape in a step: that of the image, or with Y and X exchanged."""
        *first, y, x = self.shape
        return (*first, x, y) if self._symmetry(step)[0] else self.shape

    def draw(self, step: int, y: Array, validation: Array, inside: Array) -> None:
        """Fill `y`, `validation` and `inside`; all of it is inside that is not masked."""
        transform = self._symmetry(step)
        if self._drawn == transform and self._into is y:  # which holds it still
            return
        symmetry.apply(self.y, transform, out=y)
        symmetry.apply(self.validation, transform, out=validation)
        inside[...] = 1
        if self.missing is not None:
            symmetry.apply(self.shown, transform, out=inside)
            validation += 1 - inside
            shape = self.shape[2:]
            self.missing.write(*(transformed(n, shape, transform) for n in self.pixels))
        self._drawn, self._into = transform, y

    def forget(self) -> None:
        """The arrays that it has drawn into hold something else by now."""
        self._drawn = None

    def every(self) -> Iterator[Array]:
        """The image in all its symmetries."""
        for transform in self.symmetries:
            yield symmetry.apply(self.y, transform)

    def fingerprint(self) -> str:
        """Shape and checksum."""
        crc = zlib.crc32(host(self.y), 0 if self.masked is None else zlib.crc32(self.masked))
        return f"{self.shape}, crc {crc:08x}"

    def _symmetry(self, step):
        return self.symmetries[pick(len(self.symmetries), self.seed, Stream.SYMMETRY, step)]


class ImagesInTurn:
    """One of several images of a size in every step, whole and transformed by a symmetry.

    Image after image, so that each is seen as often; of all the same pixels are kept for
    validation, so far as they are not masked.

    Parameters
    ----------
    y : (N, C, Z, Y, X) array of float32
        In units of the training.
    masked : (N, 1, Z, Y, X) array of bool, on the CPU, optional

    Others are those of `WholeImage`.
    """

    def __init__(
        self,
        y: Array,
        *,
        validation: float,
        symmetries: Sequence[Symmetry] = (symmetry.IDENTITY,),
        seed: int = 0,
        masked: Array | None = None,
    ) -> None:
        self.like, self.shape = y, (1, *y.shape[1:])
        options = {"validation": validation, "symmetries": symmetries, "seed": seed}
        masks = [None] * len(y) if masked is None else [masked[i : i + 1] for i in range(len(y))]
        self.images = [
            WholeImage(y[i : i + 1], masked=mask, **options) for i, mask in enumerate(masks)
        ]
        self.mean = float(np.mean([image.mean for image in self.images]))
        self.missing, self.checks, self._drawn = None, 0, None
        if masked is not None:
            most = max(len(image.pixels[0]) for image in self.images)
            self.missing = missing.Missing(most, y)
            for image in self.images:
                image.missing = self.missing

    def shape_of(self, step: int) -> Shape:
        """The batch's shape in a step."""
        return self.images[0].shape_of(step)

    def draw(self, step: int, y: Array, validation: Array, inside: Array) -> None:
        """Fill the three with the next image."""
        image = self.images[step % len(self.images)]
        if self._drawn is not image:
            image.forget()
        image.draw(step, y, validation, inside)
        self._drawn = image

    def every(self) -> Iterator[Array]:
        """The images in all their symmetries; of very many, as many of these evenly."""
        images, ways = len(self.images), len(self.images[0].symmetries)
        for j in range(min(images * ways, MOST_MEASURED)):
            i = j % images if images <= MOST_MEASURED else j * images // MOST_MEASURED
            image = self.images[i]
            yield symmetry.apply(image.y, image.symmetries[(j // images + i) % ways])

    def fingerprint(self) -> str:
        """Those of all images."""
        told = repr([image.fingerprint() for image in self.images])
        return f"{len(self.images)} images, crc {zlib.crc32(told.encode()):08x}"


def whole(count: int) -> Callable[..., WholeImage | ImagesInTurn]:
    """The source of batches of so many whole images."""
    return WholeImage if count == 1 else ImagesInTurn
