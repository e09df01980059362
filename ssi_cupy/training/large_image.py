"""An image that is too large to be looked at whole in every step: each looks at a part of it.

What a step costs does not grow with the image then, nor does memory, as parts are read by slices
from wherever the image is: an array, a memory-mapped file, Zarr or Dask. They are the patches of
`patches.py`, but that

- there is one in each step, as large as can be. Of as many pixels, several small ones are worth
  less, for most of their pixels are near a border, where the network does not see what it will see
  in the whole image (700² pixels: one of 512² 31.8 dB, four of 256² 31.1, four of 144² 30.9);
- they follow each other evenly: their middles are a sequence of low discrepancy (Roberts 2018:
  multiples of the inverse powers of the root of x^(d+1) = x + 1), so that no part of the image is
  forgotten, its corners neither;
- their boxes go on beyond the border of the image where a whole image has a margin (`margin_of`):
  that is masked, so that it shows the mirror image of what can be seen, as a margin does;
- the pixels that are held out repeat themselves from block to block, so that whoever has a part of
  the image knows which of it they are;
- the PSF reaches as far as all but `BEYOND` of its light does.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from ..engine.backend import empty, host, log
from ..engine.checks import InputError
from ..engine.types import Array, Shape
from ..masking import validation_pixels
from ..noise import NoiseModel, outliers
from ..random import Stream, philox, pick
from ..recipes import Recipe
from ..symmetry import Symmetry
from . import missing
from .image_sets import Images
from .patch_geometry import Geometry
from .patches import Patches, some_batches
from .units import units_of

BEYOND = 0.01  # of the PSF's light may fall outside the halo of a patch
LEAST, EVEN = 16, 8  # pixels a side: the least of a patch; what sides of boxes are multiples of
BLOCK = {2: (1, 512, 512), 3: (64, 64, 64)}  # pixels along Z, Y, X after which validation repeats
BOXES = 24  # by which it is told how uneven an image is
SAMPLES, SAMPLE = 64, {2: (1, 128, 128), 3: (32, 64, 64)}  # boxes that noise is measured in


class LargeImage(Patches):
    """Patches of a large image, one in each step; of several images, of one after the other.

    Parameters
    ----------
    images : Images
        Of one shape, and all in one unit.
    recipe : Recipe
        Of which ``at_once`` says how many pixels a step looks at.
    reach, margin : three of int
        Of the PSF; and how far beyond the border the image is restored.
    like : array
        On the device of the training.

    Others, and attributes, are those of `Patches`.
    """

    def __init__(
        self,
        images: Images,
        recipe: Recipe,
        *,
        reach: Shape,
        margin: Shape,
        symmetries: Sequence[Symmetry],
        seed: int,
        like: Array,
        wrap: bool = False,
    ) -> None:
        channels, *shape = images.shapes[0]
        if len({*images.shapes}) > 1:
            expected = "images of one shape, for a recipe without a patch"
            raise InputError(images.argument, expected, " and ".join(map(str, {*images.shapes})))
        self.images, self.like, self.home = images, like, None  # it is on the CPU
        self.ndim = 2 if shape[0] == 1 else 3
        self.geometry = geometry(tuple(shape), recipe.at_once, reach, margin, wrap)
        self.beyond = "wrap" if wrap else "mirror"
        self.units = units_of(images, recipe.normalise)
        self.mean = (images.moments()[0] - self.units[0]) / self.units[1]
        self.held_out = held_out_block(self.ndim, recipe.validation, seed)
        self.noise: NoiseModel | None = None
        self.level = 0.0  # of the noise, in the unit of the training
        self._begin(dataclasses.replace(recipe, batch=1), channels, symmetries, seed)
        self.checks = 0  # a step has validation pixels of its own

    def find_outliers(self, psf: Array, noise: NoiseModel) -> None:
        """From now on mask what neither light nor noise, in units of the image, explains."""
        self.noise, self.psf = noise, psf
        self.missing = missing.Missing(math.prod(self.shape[2:]), self.like)

    def sample(self) -> tuple[Array, Array | None]:
        """Boxes evenly from all over the images, (N, C, Z, Y, X), in the unit of the training; and
        where they are masked, (N, 1, Z, Y, X), or None."""
        many = len(self.images)
        side, places = _grid(self.images.shapes[0][1:], SAMPLE[self.ndim], SAMPLES / many)
        boxes = [(i, at, side) for i in range(0, many, -(-many // SAMPLES)) for at in places]
        found = np.stack([self._normalised(*box) for box in boxes])
        hidden = [self.images.masked(*box) for box in boxes]
        if all(h is None for h in hidden):
            return found, None
        return found, np.stack([np.zeros((1, *side), bool) if h is None else h for h in hidden])

    def unevenness(self) -> float:
        """The coefficient of variation of the variance of some boxes, noise taken off: above 1,
        most of the image is dark beside a few bright parts."""
        n, _, *box = self.shape
        made = (
            empty(self.shape, np.float32, self.like),
            *(empty((n, 1, *box), np.uint8, self.like) for _ in range(2)),
        )
        found = []
        for step in range(BOXES):
            self.draw(step, *made)
            y, hidden, _ = map(host, made)
            found.append(float(y[np.broadcast_to(hidden == 0, y.shape)].var()))
        found = np.maximum(np.array(found) - self.level**2, 0)
        return float(found.std() / max(found.mean(), np.finfo(float).tiny))

    def ends(self) -> tuple[float, float]:
        """(least, greatest) of the image, in the unit of the training."""
        offset, scale = self.units
        low, high = sorted((end - offset) / scale for end in self.images.ends())
        return low, high

    def every(self) -> Iterator[Array]:
        """Some batches of all that there is."""
        return some_batches(self)

    def fingerprint(self) -> str:
        """A checksum of shape and moments."""
        crc = zlib.crc32(repr(self.images.describe()).encode())
        return f"{self.images.shapes[0]}, crc {crc:08x}"

    def _normalised(self, which, start, shape):
        offset, scale = self.units
        y = self.images.box(which, start, shape, self.beyond)
        return ((y - offset) / scale).astype(np.float32)

    def _size(self, which, validating):
        return self.images.shapes[which][1:]

    def _cut(self, which, start, validating):
        shape = self.shape[2:]
        return self._normalised(which, start, shape), block_at(self.held_out, start, shape)

    def _any_masked(self):
        return self.images.any_masked or any(self.geometry.margin)

    def _masked(self, which, start, validating):
        shape, sizes = self.shape[2:], self._size(which, validating)
        found = self.images.masked(which, start, shape, self.beyond)
        found = np.zeros((1, *shape), bool) if found is None else found
        if self.noise is not None:
            y = self.images.box(which, start, shape, self.beyond)[None]
            found = found | outliers(y, self.psf, self.noise)[0].any(axis=0, keepdims=True)
        if any(self.geometry.margin):
            for axis, (a, k, n) in enumerate(zip(start, shape, sizes, strict=True), 1):
                at = np.arange(a, a + k)
                beyond = ((at < 0) | (at >= n)).reshape(tuple(-1 if b == axis else 1
                                                               for b in range(4)))  # fmt: skip
                found = found | beyond
        return found

    def _place(self, step, i, validating):
        number, which = divmod(step, len(self.images))
        shape = self._size(which, validating)
        key = self.seed & 0xFFFFFFFF, self.seed >> 32
        first = [float(word) / 2**32 for word in philox((0, 0, 0, Stream.CROP), key)[:3]]
        middle = _place(number, first, shape)
        at = tuple(
            max(0, min(m - p // 2, n - p))
            for m, p, n in zip(middle, self.geometry.patch, shape, strict=True)
        )
        turn = pick(len(self.symmetries), self.seed, Stream.SYMMETRY, step)
        return which, at, self.symmetries[turn]


def _place(number, first, sizes):
    """Place `number` of the sequence, along Z, Y and X: below `sizes`."""
    axes = [axis for axis, n in enumerate(sizes) if n > 1]
    root = 2.0
    for _ in range(40):
        root = (1 + root) ** (1 / (len(axes) + 1))
    at, begin = [0, 0, 0], np.broadcast_to(first, 3)
    for power, axis in enumerate(axes, 1):
        at[axis] = int((begin[axis] + number * (1 / root**power % 1)) % 1 * sizes[axis])
    return tuple(at)


def _grid(shape, side, most):
    """(sides of a box, places of about `most` of them at most, evenly in an image)."""
    side = tuple(min(s, n) for s, n in zip(side, shape, strict=True))
    times = [n / s for n, s in zip(shape, side, strict=True)]
    fewer = min(1.0, most / math.prod(times)) ** (1 / max(sum(t > 1 for t in times), 1))
    counts = [max(1, math.ceil(t * fewer - 1e-9) if fewer == 1 else int(t * fewer)) for t in times]
    axes = [
        np.linspace(0, n - s, c).astype(int).tolist() if c > 1 else [(n - s) // 2]
        for n, s, c in zip(shape, side, counts, strict=True)
    ]
    return side, list(itertools.product(*axes))


def geometry(
    shape: Shape, at_once: int, reach: Shape, margin: Shape, wrap: bool = False
) -> Geometry:
    """A box of about `at_once` pixels, whose patch is as near a square or a cube as the image
    (Z, Y, X) allows."""
    frame = [n + 2 * m for n, m in zip(shape, margin, strict=True)]
    around = [(2 * r, f) for r, f in zip(reach, frame, strict=True)]
    side = LEAST
    while side < max(frame) and math.prod(min(side + r, f) for r, f in around) < at_once:
        side += 1
    box = tuple(min(-(-(side + r) // EVEN) * EVEN if f > 1 else 1, f) for r, f in around)
    patch = tuple(
        n if b >= f else min(b - 2 * r, n)
        for b, f, n, r in zip(box, frame, shape, reach, strict=True)
    )
    return Geometry(patch, box, reach, wrap, margin)


def reach_of_light(psf: Array) -> Shape:
    """How far along Z, Y and X a PSF (Z, Y, X) reaches, but for `BEYOND` of its light."""
    reach = []
    for axis, size in enumerate(psf.shape):
        line = psf.sum(axis=tuple(a for a in range(3) if a != axis))
        middle = size // 2
        within = [line[middle - r : middle + r + 1].sum() for r in range(middle + 1)]
        enough = np.asarray(within) >= (1 - BEYOND / 3) * line.sum()
        reach.append(int(np.argmax(enough)) if enough.any() else middle)
    if any(r < size // 2 for r, size in zip(reach, psf.shape, strict=True)):
        log.info("patches have a halo of %s pixels (Z, Y, X), beyond which the PSF has at most "
                 "%g %% of its light", " × ".join(map(str, reach)), 100 * BEYOND)  # fmt: skip
    return tuple(reach)


# ---- which pixels are held out --------------------------------------------------------------


def held_out_block(ndim: int, fraction: float, seed: int) -> Array:
    """One block of validation pixels, (1, Z, Y, X) of uint8."""
    return validation_pixels((1, 1, *BLOCK[ndim]), fraction, seed)[0]


def block_at(block: Array, start: Sequence[int], shape: Sequence[int]) -> Array:
    """The part of an endless repetition of a `block` (1, Z, Y, X) that begins at `start`."""
    at = [np.arange(a, a + n) % k for a, n, k in zip(start, shape, block.shape[1:], strict=True)]
    return block[np.ix_((0,), *at)]
