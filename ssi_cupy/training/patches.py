"""What a network is trained on, part by part: random patches of one image, or of many.

A pixel of the measured image has its light from a neighbourhood as wide as the point-spread
function. So a *patch*, the pixels that the loss looks at, is drawn with a *halo*: what is cut out
is a *box*, wider than the patch by the reach of the PSF on every side, or up to the border of the
image. On the patch, blurring the box is blurring the image:

    g(x[box]) = g(x)[box]    at every pixel of the patch

Patches lie as those of plain random cropping do, uniformly over all places at which they fit, so a
pixel has a say as often as it would there. Where beyond the border the other side of the image
follows (mode "wrap"), the box goes on there too.

Everything random is a function of (seed, step, number of the patch in its batch).
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from .. import symmetry
from ..engine.backend import empty, host, is_cupy, moved, namespace, zeros
from ..engine.checks import InputError
from ..engine.types import Array, Shape
from ..masking import StratifiedMask
from ..random import WORD_BITS, Stream, philox
from ..recipes import Recipe
from ..symmetry import Symmetry
from ..training.image_sets import Images
from . import missing
from .patch_geometry import geometry
from .units import units_of

VALIDATION_PATCHES = 20  # at least so many are looked at in each validation
CALIBRATION_PATCHES = 32  # batch norms are calibrated on so many, of a set
VALIDATION_STEP = 2**31  # the first step of their random numbers: none that a training has


class Patches:
    """Random patches of one image, rotated and flipped.

    Its validation pixels are hidden wherever a box has them, and never in the loss; the validation
    loss is taken on patches that stay the same.

    Parameters
    ----------
    image : (1, C, Z, Y, X) array of float32
        Normalised, on the device of the training; filled where it is masked.
    recipe : Recipe
        Of which ``patch``, ``batch`` and ``validation`` are used.
    reach : three of int
        Of the PSF.
    wrap : bool
    symmetries : list of symmetries
    seed : int
    multiple : three of int
    masked : (1, 1, Z, Y, X) array of bool, on the CPU, optional
        The pixels of the image that are masked.

    Attributes
    ----------
    shape : (N, C, Z, Y, X)
        Of a batch of boxes.
    like : array
        On the device of the training.
    checks : int
        How many batches a validation has.
    """

    def __init__(
        self,
        image: Array,
        recipe: Recipe,
        *,
        reach: Shape,
        symmetries: Sequence[Symmetry],
        seed: int,
        wrap: bool = False,
        multiple: Shape = (1, 1, 1),
        masked: Array | None = None,
    ) -> None:
        shape = image.shape[2:]
        self.geometry, _ = geometry([shape], recipe.patch, reach, wrap, multiple)
        self.image = self.like = self.home = image
        self.mean = float(missing.seen(host(image), masked).mean())
        self.pixels = missing.validation(image.shape, recipe.validation, seed, masked, like=image)
        self.masked = masked
        self._begin(recipe, image.shape[1], symmetries, seed)

    def _begin(self, recipe, channels, symmetries, seed):
        self.seed, box = seed, self.geometry.box
        self.shape = (recipe.batch, channels, *box)
        square = box[1] == box[2]
        self.symmetries = [transform for transform in symmetries if square or not transform[0]]
        self.checks = -(-VALIDATION_PATCHES // recipe.batch) if recipe.validation else 0
        self.missing = None
        if self._any_masked():
            self.missing = missing.Missing(recipe.batch * math.prod(box), self.like)

    # ---- of one image; of many, `ImageSet` has others ----

    def _count(self, validating):
        return 1

    def _size(self, which, validating):
        return self.image.shape[2:]

    def _cut(self, which, start, validating):
        """(box of the image, of its validation pixels), each (C, Z, Y, X)."""
        return _box(self.image[0], start, self.shape[2:]), _box(
            self.pixels[0], start, self.shape[2:]
        )

    def _any_masked(self):
        return self.masked is not None

    def _masked(self, which, start, validating):
        """Where the box is masked, (1, Z, Y, X)."""
        return _box(self.masked[0], start, self.shape[2:])

    def every(self) -> Iterator[Array]:
        """The whole image in all its symmetries."""
        for transform in self.symmetries:
            yield symmetry.apply(self.image, transform)

    def fingerprint(self) -> str:
        """Shape and checksum."""
        crc = 0 if self.masked is None else zlib.crc32(self.masked)
        return f"{self.image.shape}, crc {zlib.crc32(host(self.image), crc):08x}"

    # ---- of both ----

    def shape_of(self, step: int) -> Shape:
        """The shape of a batch: in all steps the same."""
        return self.shape

    def draw(self, step: int, y: Array, validation: Array, inside: Array) -> None:
        """Fill the buffers with the batch of a step.

        Parameters
        ----------
        step : int
        y : array of float32, `shape`
            The boxes.
        validation : array of uint8, (N, 1, Z, Y, X)
            1 at pixels that are hidden always, and never in the loss.
        inside : array of uint8, (N, 1, Z, Y, X)
            1 at the pixels of the patches: there the loss may look.
        """
        self._fill(step, y, validation, inside, False)

    def check(self, number: int, y: Array, validation: Array, inside: Array) -> None:
        """Fill the buffers with batch `number` of a validation, always the same.

        Here `validation` are the pixels to hide and, where they are inside, to predict.
        """
        self._fill(VALIDATION_STEP + number, y, validation, inside, True)

    def _fill(self, step, y, validation, inside, validating):
        buffers = y, validation, inside
        staged = is_cupy(y) and not is_cupy(self.home)  # one copy of all is faster than many
        places = [np.empty(b.shape, b.dtype) for b in buffers] if staged else buffers
        masked = np.zeros(inside.shape, bool)
        for i in range(len(y)):
            which, at, transform = self._place(step, i, validating)
            start = self.geometry.start(at, self._size(which, validating))
            patch = zeros((1, *self.shape[2:]), np.uint8, like=self.home)
            patch[(0, *self.geometry.inside(at, start))] = 1
            for place, part in zip(
                places, (*self._cut(which, start, validating), patch), strict=True
            ):
                place[i] = symmetry.apply(part[None], transform)[0]
            if self.missing is not None:
                masked[i] = symmetry.apply(self._masked(which, start, validating)[None], transform)
        if staged:
            for buffer, place in zip(buffers, places, strict=True):
                buffer[...] = moved(place, buffer)
        if self.missing is not None:
            self.missing.hide(masked, y, validation, inside)

    def _place(self, step, i, validating):
        """(number of the image, place of the patch in it, its transform) of patch `i` of a step."""
        key = self.seed & 0xFFFFFFFF, self.seed >> 32
        which, *words = (int(w) for w in philox((i, 0, step, Stream.CROP), key))
        which = which * self._count(validating) >> 32
        if validating:  # image after image, and not transformed
            which = (step - VALIDATION_STEP) * self.shape[0] + i
            which %= self._count(validating)
        free = [
            n - p + 1
            for n, p in zip(self._size(which, validating), self.geometry.patch, strict=True)
        ]
        at = tuple(word * n >> 32 for word, n in zip(words, free, strict=True))
        transform = int(
            philox((i, 0, step, Stream.SYMMETRY), key)[0] * np.uint64(len(self.symmetries))
            >> WORD_BITS
        )
        return which, at, symmetry.IDENTITY if validating else self.symmetries[transform]


def some_batches(source: Patches) -> Iterator[Array]:
    """The first `CALIBRATION_PATCHES` boxes of a training, batch by batch."""
    n, _, *box = source.shape
    for step in range(-(-CALIBRATION_PATCHES // n)):
        y = empty(source.shape, np.float32, source.like)
        source.draw(step, y, *(empty((n, 1, *box), np.uint8, source.like) for _ in range(2)))
        yield y


def _box(image, start, shape):
    """A part of (C, Z, Y, X); what lies outside is found on the other side."""
    part = image
    for axis, (a, n) in enumerate(zip(start, shape, strict=True), 1):
        if 0 <= a and a + n <= image.shape[axis]:
            part = part[(slice(None),) * axis + (slice(a, a + n),)]
        else:
            at = np.arange(a, a + n) % image.shape[axis]
            part = part.take(moved(at, image), axis=axis)
    return part


class ImageSet(Patches):
    """Random patches of many images, all in one unit.

    A share of the images is held out: on fixed patches of them the validation loss is taken, with
    fixed pixels hidden. Of a single image, pixels are held out, as `Patches` does.

    Parameters
    ----------
    images : Images
    recipe : Recipe
    units : (offset, scale)
    training, validating : list of int
        Which of the images are for what.
    like : array
        On the device of the training.

    Others are those of `Patches`.
    """

    def __init__(
        self,
        images: Images,
        recipe: Recipe,
        *,
        reach: Shape,
        symmetries: Sequence[Symmetry],
        seed: int,
        like: Array,
        wrap: bool = False,
        multiple: Shape = (1, 1, 1),
    ) -> None:
        shapes = [shape[1:] for shape in images.shapes]
        self.geometry, chosen = geometry(shapes, recipe.patch, reach, wrap, multiple)
        if len(chosen) < 2:
            raise InputError("image", "at least two images that a patch fits into", len(chosen))
        self.images, self.like, self.home = images, like, None  # they are on the CPU
        self.held_out = held_out(len(chosen), recipe.validation, seed)
        self.parts = [
            [c for i, c in enumerate(chosen) if (i in self.held_out) == out]
            for out in (False, True)
        ]
        self.units = units_of(images.subset(self.parts[0]), recipe.normalise)
        self.mean = (images.subset(self.parts[0]).moments()[0] - self.units[0]) / self.units[1]
        mask = recipe.mask or StratifiedMask()
        self.mask = dataclasses.replace(mask, per_channel=False)
        self._begin(recipe, images.shapes[0][0], symmetries, seed)

    def sample(self) -> tuple[Array, Array]:
        """Part of a training image, (1, C, Z, Y, X), in the unit of the training, of the first in
        which there is more than one value; and its pixels that are not masked."""
        for i in self.parts[0]:
            shape = [min(n, m) for n, m in zip(self.images.shapes[i][1:], SAMPLE, strict=True)]
            found = self._normalised(i, (0, 0, 0), shape)[None]
            masked = self.images.masked(i, (0, 0, 0), shape)
            shown = missing.seen(found, None if masked is None else masked[None])
            if shown.size and shown.min() < shown.max():
                break
        return found, shown

    def ends(self) -> tuple[float, float]:
        """(least, greatest) of the training images, in the unit of the training."""
        offset, scale = self.units
        low, high = self.images.subset(self.parts[0]).ends()
        return (low - offset) / scale, (high - offset) / scale

    def every(self) -> Iterator[Array]:
        """Some batches of all that there is."""
        return some_batches(self)

    def fingerprint(self) -> str:
        """A checksum of names, shapes and moments of all images."""
        crc = zlib.crc32(repr(self.images.describe()).encode())
        return f"{len(self.images)} images, crc {crc:08x}"

    def _normalised(self, image, start, shape):
        offset, scale = self.units
        return ((self.images.box(image, start, shape) - offset) / scale).astype(np.float32)

    def _count(self, validating):
        return len(self.parts[validating])

    def _size(self, which, validating):
        return self.images.shapes[self.parts[validating][which]][1:]

    def _cut(self, which, start, validating):
        shape = self.shape[2:]
        image = self._normalised(self.parts[validating][which], start, shape)
        return image, zeros((1, *shape), np.uint8)

    def _any_masked(self):
        return self.images.any_masked

    def _masked(self, which, start, validating):
        shape = self.shape[2:]
        found = self.images.masked(self.parts[validating][which], start, shape)
        return np.zeros((1, *shape), bool) if found is None else found

    def check(self, number: int, y: Array, validation: Array, inside: Array) -> None:
        super().check(number, y, validation, inside)
        step = VALIDATION_STEP + number
        hidden = self.mask.draw(self.shape, self.seed, step, step, like=y)
        if self.missing is not None:  # those are in `validation` alone
            hidden = namespace(hidden).bitwise_or(hidden, validation)
        validation[...] = hidden


SAMPLE = (64, 512, 512)  # pixels along (Z, Y, X) of an image that stands for the set


def held_out(count: int, share: float, seed: int) -> set[int]:
    """The images that are held out: `share` of `count`, at least one where there is any share."""
    if not share:
        return set()
    number = min(count - 1, max(1, round(share * count)))
    words = philox((np.arange(count, dtype=np.uint64), 0, 0, Stream.VALIDATION),
                   (seed & 0xFFFFFFFF, seed >> 32))[0]  # fmt: skip
    return set(np.argsort(words, kind="stable")[:number].tolist())
