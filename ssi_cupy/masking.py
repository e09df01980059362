"""Which pixels are hidden (masks), and what they are filled with.

A mask is a uint8 array, 1 where a pixel is hidden, of shape (N, 1, Z, Y, X): a hidden pixel hides
all its channels. With ``per_channel`` it is (N, C, Z, Y, X), and each channel hides its own.

What a hidden pixel is filled with never depends on the value of any hidden pixel. That is what
makes the network blind to them (J-invariance [1]_), and what the tests of this file hold.

References
----------
.. [1] J. Batson, L. Royer, "Noise2Self: Blind denoising by self-supervision", ICML (2019).
.. [2] A. Krull, T.-O. Buchholz, F. Jug, "Noise2Void - learning denoising from single noisy
   images", CVPR (2019): stratified masks, filled by neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from .engine.backend import empty, in_memory, kernel, moved, placed, zeros
from .engine.checks import (
    Checked,
    InputError,
    checked,
    choice,
    flag,
    maybe,
    number,
    positive_int,
    real,
)
from .engine.gpu.launch import threads_per_item
from .engine.types import Array, Shape
from .ops.masks import BOTH, BUT, EITHER, combined
from .random import CHUNK, Stream, below, bits, chunks, fill_normals, fill_words, place, words

NO_NOISE = np.zeros(1)
Fill: TypeAlias = Literal["zero", "gaussian", "neighbour", "local_mean"]
FILLS = ("zero", "gaussian", "neighbour", "local_mean")


# ---- which pixels ---------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomMask(Checked):
    """Each pixel is hidden with the same probability, which changes during the training.

    Attributes
    ----------
    start, end : float
        The probability at the first step, and the one that it goes to.
    decay : float
        What is left of the way to `end` after each step: d ← decay · d + (1 − decay) · end.
    over : float, optional
        Go from `start` to `end` linearly instead, over this share of the steps.
    per_channel : bool
    """

    start: float = checked(real(0, 1), 0.5)
    end: float = checked(real(0, 1), 0.05)
    decay: float = checked(real(0, 1), 0.995)
    over: float | None = checked(maybe(real(0, 1)), None)
    per_channel: bool = checked(flag, False)

    def density(self, step: int, steps: int) -> float:
        """The probability at `step` (from 0) of `steps`."""
        if self.over is None:
            left = self.decay**step
        else:
            left = max(0.0, 1 - step / max(self.over * steps, 1))
        return self.end + (self.start - self.end) * left

    def limit(self, step: int, steps: int) -> float:
        """A random word of 32 bits below it hides its pixel. Whole: no device rounds it."""
        return float(round(self.density(step, steps) * 2**32))

    def draw(
        self, shape: Shape, seed: int, step: int, steps: int, like: Array | None = None
    ) -> Array:
        """The mask of one step for images of `shape` (N, C, Z, Y, X)."""
        return self.mark(shape, seed, step, self.limit(step, steps), like)

    def mark(
        self,
        shape: Shape,
        seed: int,
        step: int | Array,
        limit: float | Array,
        like: Array | None = None,
    ) -> Array:
        """The mask of a `limit`; that and `step` may be a `backend.in_memory` each."""
        mask = empty(_mask_shape(shape, self.per_channel), np.uint8, like)
        at = in_memory(limit, like), *place(seed, Stream.MASK, step, like)
        random_mask_kernel(chunks(mask.size), mask.reshape(-1), *at)
        return mask


@kernel(grain=16, launch=threads_per_item(CHUNK))
def random_mask_kernel(start, stop, mask, limit, step, stream, seed):
    w, below_it = np.empty((4, CHUNK), np.uint64), np.uint64(limit[0])
    for chunk in range(start, stop):
        fill_words(w, chunk, np.uint64(step[0]), stream, seed)
        first = 4 * CHUNK * chunk
        for i in range(min(4 * CHUNK, mask.size - first)):
            mask[first + i] = w[i & 3, i >> 2] < below_it


@dataclass(frozen=True)
class StratifiedMask(Checked):
    """One random pixel in each box of a grid that covers the image [2]_.

    The boxes are squares, or cubes in 3-D, of the whole side that comes closest to `fraction`.
    At the far border a box may reach over the edge, and its pixel too: then it hides none. So
    every pixel is hidden with the same probability.

    Attributes
    ----------
    fraction : float
        One in how many pixels is hidden, in (0, 1].
    per_channel : bool
    """

    fraction: float = checked(real(0, 1, above=True), 1 / 32)
    per_channel: bool = checked(flag, False)

    def density(self, step: int, steps: int) -> float:
        """The fraction asked for. Sides are whole numbers, so the mask's own comes near it."""
        return self.fraction

    def side(self, shape: Shape) -> int:
        """The side of a box in images of `shape` (N, C, Z, Y, X), pixels."""
        return max(1, round(self.fraction ** (-1 / max(1, sum(n > 1 for n in shape[2:])))))

    def limit(self, step: int, steps: int) -> float:
        """Nothing that changes from step to step, but as of `RandomMask`."""
        return 0.0

    def draw(
        self, shape: Shape, seed: int, step: int, steps: int, like: Array | None = None
    ) -> Array:
        """The mask of one step for images of `shape` (N, C, Z, Y, X)."""
        return self.mark(shape, seed, step, None, like)

    def mark(
        self,
        shape: Shape,
        seed: int,
        step: int | Array,
        limit: float | Array | None = None,
        like: Array | None = None,
    ) -> Array:
        """As of `RandomMask`, with a `limit` that is not looked at."""
        mask = zeros(_mask_shape(shape, self.per_channel), np.uint8, like)
        n, c, z, y, x = mask.shape
        side = self.side(shape)
        depth = side if z > 1 else 1
        boxes = -(-z // depth), -(-y // side), -(-x // side)
        count, planes = n * c * boxes[0] * boxes[1] * boxes[2], mask.reshape(n * c, z, y, x)
        at = place(seed, Stream.MASK, step, like)
        stratified_mask_kernel(count, planes, *boxes, depth, side, *at)
        return mask


@kernel(grain=1024)
def stratified_mask_kernel(start, stop, mask, bz, by, bx, depth, side, step, stream, seed):
    for box in range(start, stop):
        a, b, c, _ = words(np.uint64(box), np.uint64(step[0]), stream, seed)
        z = box // (bx * by) % bz * depth + below(a, depth)
        y = box // bx % by * side + below(b, side)
        x = box % bx * side + below(c, side)
        if z < mask.shape[1] and y < mask.shape[2] and x < mask.shape[3]:
            mask[box // (bx * by * bz), z, y, x] = 1


def validation_pixels(shape: Shape, fraction: float, seed: int, like: Array | None = None) -> Array:
    """The pixels that the training never sees: `fraction` of each image, at least one.

    Parameters
    ----------
    shape : tuple of int
        (N, C, Z, Y, X) of the images.
    fraction : float
        In [0, 1); 0 keeps none.
    seed : int
    like : array, optional
        Its device is where the result is made.

    Returns
    -------
    array of uint8, shape (N, 1, Z, Y, X)
        1 at a validation pixel. They depend on the seed alone: drawn once, used in every step.
    """
    if not number(fraction, "fraction", low=0, high=1) < 1:
        raise InputError("fraction", "a number in [0, 1)", fraction)
    mask = zeros(_mask_shape(shape, False), np.uint8)  # once in a training: made on the CPU
    pixels = mask[0].size
    if fraction:
        drawn = bits((mask.shape[0], pixels), seed, Stream.VALIDATION, 0)
        last = max(1, round(fraction * pixels)) - 1  # those with the smallest words
        limit = np.partition(drawn, last, axis=1)[:, last : last + 1]
        mask.reshape(drawn.shape)[...] = drawn <= limit
    return moved(mask, like)


def keep_blind(mask: Array, validation: Array) -> tuple[Array, Array]:
    """Hide the validation pixels too, and keep them out of the loss.

    Parameters
    ----------
    mask : array of uint8, shape (N, 1, Z, Y, X) or (N, C, Z, Y, X)
    validation : array of uint8, shape (N, 1, Z, Y, X)

    Returns
    -------
    hidden, counted : array of uint8
        What the network must not see; what its loss looks at: the hidden ones that are not
        validation pixels.
    """
    return combined(mask, validation, EITHER), combined(mask, validation, BUT)


def within(pixels: Array, inside: Array) -> Array:
    """The pixels of a mask that are inside: where both arrays of uint8 are 1."""
    return combined(pixels, inside, BOTH)


def outside(pixels: Array, of: Array) -> Array:
    """The pixels of a mask that are not among others: where the second array of uint8 is 0."""
    return combined(pixels, of, BUT)


def _mask_shape(shape, per_channel):
    return (shape[0], shape[1] if per_channel else 1, *shape[2:])


# ---- what they are filled with --------------------------------------------------------------


@dataclass(frozen=True)
class NoiseLevel(Checked):
    """The noise added to the training image: ``start / (1 + decay · step / steps)``.

    Attributes
    ----------
    start : float
        Standard deviation at the first step, in the image's units.
    decay : float
    """

    start: float = checked(real(0), 0.1)
    decay: float = checked(real(0), 10_000.0)

    def level(self, step: int, steps: int) -> float:
        """The standard deviation at `step` (from 0) of `steps`."""
        return self.start / (1 + self.decay * step / steps)


def fill(
    image: Array,
    hidden: Array,
    how: Fill,
    seed: int,
    step: int | Array,
    *,
    sigma: float = 0.2,
    mean: float = 0.0,
    radius: int | None = None,
    noise: float | Array = 0.0,
) -> Array:
    """A copy of `image` in which the hidden pixels are replaced, and the others may get noise.

    Parameters
    ----------
    image : array of float32 or float64, shape (N, C, Z, Y, X)
    hidden : array of uint8, shape (N, 1, Z, Y, X) or (N, C, Z, Y, X)
    how : {"zero", "gaussian", "neighbour", "local_mean"}
        "gaussian": `mean` + `sigma` · N(0, 1). "neighbour": the value of a random pixel of the
        neighbourhood that is not hidden itself [2]_. "local_mean": the mean of all those. Where
        the whole neighbourhood is hidden, both give `mean`.
    seed : int
    step : int or `backend.in_memory`
    sigma, mean : float
        In the image's units. A `mean` that was computed with the hidden pixels in it is a small
        leak; standardised images have 0.
    radius : int, optional
        The neighbourhood is (2 · radius + 1) pixels wide in every direction, cut off at the
        border. 2 for "neighbour", 1 for "local_mean".
    noise : float or `backend.in_memory`
        Standard deviation of Gaussian noise that is added to the image before pixels are hidden.

    Returns
    -------
    array like `image`
    """
    choice(how, "how", FILLS)
    if hidden.shape not in (image.shape, _mask_shape(image.shape, False)):
        expected = f"the image's shape {image.shape} or one channel of it"
        raise InputError("hidden", expected, hidden.shape)
    if how in ("zero", "gaussian"):
        sigma, mean = (0.0, 0.0) if how == "zero" else (sigma, mean)
        return _fill_gaussian(image, hidden, mean, sigma, noise, seed, step)
    pick = how == "neighbour"
    radius = positive_int((2 if pick else 1) if radius is None else radius, "radius")
    if getattr(noise, "shape", ()) or noise:
        image = add_noise(image, noise, seed, step)
    filled = empty(image.shape, image.dtype, like=image)
    n, c, z, y, x = image.shape
    planes = (array.reshape(-1, z, y, x) for array in (image, hidden, filled))
    settings = c // hidden.shape[1], radius, pick, image.dtype.type(mean)
    at = place(seed, Stream.PICK, step, image)
    fill_neighbour_kernel(n * c * z * y, *planes, *settings, *at)
    return filled


def add_noise(image: Array, sigma: float | Array, seed: int, step: int | Array) -> Array:
    """A copy of `image` with Gaussian noise of standard deviation `sigma`."""
    nothing = zeros(_mask_shape(image.shape, False), np.uint8, like=image)
    return _fill_gaussian(image, nothing, 0.0, 0.0, sigma, seed, step)


def _fill_gaussian(image, hidden, mean, sigma, noise, seed, step):
    filled = empty(image.shape, image.dtype, like=image)
    n, c = image.shape[:2]
    group, plane = c // hidden.shape[1], image[0, 0].size
    arrays = (array.reshape(-1) for array in (image, hidden, filled))
    none = not getattr(noise, "shape", ()) and not noise
    noise = placed(NO_NOISE, image) if none else in_memory(noise, image)
    levels = image.dtype.type(mean), image.dtype.type(sigma), noise
    at = place(seed, Stream.FILL, step, image)
    fill_gaussian_kernel(chunks(image.size), *arrays, group, plane, *levels, *at)
    return filled


@kernel(grain=16, launch=threads_per_item(CHUNK))
def fill_gaussian_kernel(
    start, stop, image, hidden, filled, group, plane, mean, sigma, noise, step, stream, seed
):
    w, z = np.empty((4, CHUNK), np.uint64), np.zeros((4, CHUNK))
    added = image.dtype.type(noise[0])
    for chunk in range(start, stop):
        if sigma > 0 or added > 0:
            fill_normals(z, w, chunk, np.uint64(step[0]), stream, seed)
        first = 4 * CHUNK * chunk
        for i in range(first, min(first + 4 * CHUNK, filled.size)):
            # `group` channels share a mask
            at = i if group == 1 else i // (group * plane) * plane + i % plane
            normal = image.dtype.type(z[i & 3, (i - first) >> 2])
            seen, standing_in = image[i] + added * normal, mean + sigma * normal
            filled[i] = standing_in if hidden[at] else seen


@kernel(grain=16, launch=threads_per_item(32))
def fill_neighbour_kernel(
    start, stop, image, hidden, filled, group, radius, pick, mean, step, stream, seed
):
    _, depth, height, width = image.shape
    for row in range(start, stop):
        y, z, plane = row % height, row // height % depth, row // (height * depth)
        z0, z1 = max(z - radius, 0), min(z + radius + 1, depth)
        y0, y1 = max(y - radius, 0), min(y + radius + 1, height)
        hide = hidden[plane // group]
        for x in range(width):
            if not hide[z, y, x]:
                filled[plane, z, y, x] = image[plane, z, y, x]
                continue
            x0, x1 = max(x - radius, 0), min(x + radius + 1, width)
            size_x, size_yx = x1 - x0, (y1 - y0) * (x1 - x0)
            four = words(np.uint64(row * width + x), np.uint64(step[0]), stream, seed)
            value, found = mean, False
            if pick:  # three throws, which mostly do
                for throw in range(3):
                    at = below(four[throw], (z1 - z0) * size_yx)
                    k, j, i = z0 + at // size_yx, y0 + at // size_x % (y1 - y0), x0 + at % size_x
                    if not found and not hide[k, j, i]:
                        value, found = image[plane, k, j, i], True
            chosen = -1
            while not found:  # count all that can be seen; if one is to be picked, go there
                seen, total = 0, 0.0
                for k in range(z0, z1):
                    for j in range(y0, y1):
                        for i in range(x0, x1):
                            if not hide[k, j, i]:
                                total += image[plane, k, j, i]
                                if seen == chosen:
                                    value = image[plane, k, j, i]
                                seen += 1
                found = seen == 0 or not pick or chosen >= 0
                if seen > 0 and not pick:
                    value = image.dtype.type(total * (1.0 / seen))
                chosen = below(four[3], seen)
            filled[plane, z, y, x] = value
