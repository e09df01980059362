"""Batch normalisation, with the ReLU that follows it.

Forward, per channel, over the M = N · Z · Y · X values x of it (Ioffe and Szegedy 2015, Alg. 1)::

    μ = mean(x)    σ² = mean((x − μ)²)    x̂ = (x − μ) / √(σ² + ε)    y = γ · x̂ + β

This is affine in x once μ and σ are known: y = scale · x + shift with ::

    scale = γ / √(σ² + ε)        shift = β − scale · μ

so `batch_affine` finds that pair, and whoever reads the map may apply it (see `README.md`). It
takes sums over *parts* of the batch, in double precision, of x − p and of (x − p)² for a pivot p
near μ. With s and q the means of these, μ = p + s and σ² = q − s².

Backward, in training mode, where μ and σ depend on every x::

    gγ = Σ gy · x̂      gβ = Σ gy      gx = scale · (gy − gβ / M − x̂ · gγ / M)

With ``relu=True`` y goes through max(·, 0), and gy above is set to 0 where y ≤ 0. In inference mode
μ and σ are given, and gx = scale · gy.

Of a batch that is a part of an image and unlike the others, μ and σ are not those of the whole, by
which the network will be applied. *Batch renormalisation* (Ioffe 2017, Alg. 1) takes these, m and
s, and the gradient of the former: with r = σ / s and d = (μ − m) / s, constants to it, ::

    y = γ · (r · x̂ + d) + β        gγ = r · Σ gy · x̂ + d · Σ gy

neither of which is more than `MOST_R` and `MOST_D`.

With k *branches*, x holds k equal groups along N, and each has μ, σ, scale and shift of its own: an
affine then is (2, k · C), the first branch's channels first. gγ and gβ are sums over the branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..engine.backend import contiguous, empty, inline, kernel
from ..engine.checks import InputError
from ..engine.gpu.launch import block_per_item, blocks_per_item
from ..engine.types import Array
from ..tape import op

MOST_R, MOST_D = 5.0, 5.0  # of r and of |d|: more, and a training would run away
BLOCK = 16384  # pixels of a part, of one channel of one image


class Normed(NamedTuple):
    """A map x before its normalisation, and all that is known of that."""

    x: Array  # (N, C, Z, Y, X)
    affine: Array  # (2, branches · C): scale, shift
    found: Array  # (2, branches · C) float64: μ, 1 / √(σ² + ε)
    training: bool  # whether mean and variance are those of x
    relu: bool
    again: tuple[Array, Array] | None = None  # r and d, where it was renormalised


def batch_norm_forward(
    x: Array,
    gamma: Array,
    beta: Array,
    *,
    eps: float = 1e-5,
    statistics: Sequence[Array] | None = None,
    relu: bool = False,
    branches: int = 1,
) -> tuple[Array, Normed]:
    """y = γ (x − μ) / √(σ² + ε) + β, per channel.

    Parameters
    ----------
    x : (N, C, Z, Y, X) array
    gamma, beta : (C,) array
    eps : float
    statistics : (mean, variance), optional
        Inference mode: take these, two (C,) arrays, in place of the batch's own.
    relu : bool
        Return max(y, 0).
    branches : int
        Normalise each of so many groups of images by its own statistics.
    """
    x = contiguous(x)
    if x.shape[0] % branches:
        raise InputError("branches", f"a divisor of N = {x.shape[0]}", branches)
    normed = batch_affine(
        x, gamma, beta, eps=eps, statistics=statistics, relu=relu, branches=branches
    )
    return normalised(x, normed.affine, relu), normed


def batch_norm_backward(
    gy: Array,
    saved: Normed,
    *,
    plus: Array | None = None,
    into: tuple[Array | None, Array | None] = (None, None),
) -> tuple[Array, ...]:
    """(gx, gγ, gβ). `plus`, of x's shape, is added to gx: of a map that has another reader.

    gγ and gβ are written to the two arrays `into`, where these are given.
    """
    x, affine, found, training, relu, again = saved
    gy = contiguous(gy)
    n, channels = x.shape[:2]
    parts = _parts(x)
    partial = empty((parts, 2, channels), np.float64, like=x)
    batch_norm_sums_kernel(parts * channels, x, affine, gy, found, partial, relu, BLOCK)
    coefficients = empty((3, affine.shape[1]), x.dtype, like=x)
    gradients = [empty((channels,), x.dtype, like=x) if g is None else g for g in into]
    count = _count(x, affine) if training else 0
    batch_norm_coefficients_kernel(
        channels, partial, affine, found, coefficients, *gradients, count
    )
    gx = empty(x.shape, x.dtype, like=x)
    plus = empty((0,) * 5, x.dtype, like=x) if plus is None else contiguous(plus)
    batch_norm_backward_kernel(n * channels, x, affine, gy, found, coefficients, plus, gx, relu)
    if again is not None:
        r, d = again
        gradients[0][...] = r * gradients[0] + d * gradients[1]
    return gx, *gradients


def renormalised(
    normed: Normed, gamma: Array, beta: Array, statistics: Sequence[Array] | Array, eps: float
) -> Normed:
    """What normalises by (mean, variance) in place of the batch's own, which stay in the gradient.

    Parameters
    ----------
    normed : Normed
        Of one branch, in training mode; its affine is changed.
    gamma, beta : (C,) array
    statistics : two (C,) arrays
    eps : float
    """
    mean, variance = statistics
    inverse = 1 / np.sqrt(variance + variance.dtype.type(eps))
    own_mean, own_inverse = normed.found.astype(gamma.dtype)
    r = np.minimum(inverse / own_inverse, MOST_R)
    d = np.clip((own_mean - mean) * inverse, -MOST_D, MOST_D)
    scale = gamma * r * own_inverse
    normed.affine[0], normed.affine[1] = scale, beta + gamma * d - scale * own_mean
    return normed._replace(again=(r, d))


batch_norm = op(batch_norm_forward, batch_norm_backward)


def normalised(x: Array, affine: Array, relu: bool = True) -> Array:
    """relu(scale · x + shift), written: for a reader that cannot apply the affine itself."""
    y = empty(x.shape, x.dtype, like=x)
    batch_norm_forward_kernel(x.shape[0] * x.shape[1], x, affine, y, relu)
    return y


def batch_affine(
    x: Array,
    gamma: Array,
    beta: Array,
    *,
    moments: Array | None = None,
    pivot: Array | None = None,
    statistics: Sequence[Array] | Array | None = None,
    eps: float = 1e-5,
    relu: bool = True,
    branches: int = 1,
    into: Array | None = None,
    at: int = 0,
) -> Normed:
    """What normalises x and what the backward pass wants to know, as a `Normed`.

    Parameters
    ----------
    x : (N, C, Z, Y, X) array
    gamma, beta : (C,) array
    moments : (parts, 2, C) array of float64, optional
        Sums over parts of the batch, as many for each branch, of x − pivot and of (x − pivot)²,
        by who had x at hand. By default x is gone through for them.
    pivot : (C,) array, optional
        Of `moments`; 0 by default.
    statistics, eps, relu, branches
        As in `batch_norm_forward`.
    into : (branches, any) array of x's dtype, optional
        Where to write the batch's own, from `at` on: the means, and then the unbiased variances.
    """
    given, training = empty((0, 0), np.float64, like=x), statistics is None
    if not training:
        branches = 1  # alike for all
        given = empty((2, x.shape[1]), np.float64, like=x)
        given[0], given[1] = statistics
        moments = empty((0, 2, x.shape[1]), np.float64, like=x)
    elif moments is None:
        # Around a value of the channel itself: no cancellation where the mean is far from zero.
        pivot = contiguous(x[0, :, 0, 0, 0])
        moments = empty((_parts(x), 2, x.shape[1]), np.float64, like=x)
        batch_moments_kernel(len(moments) * x.shape[1], x, pivot, moments, BLOCK)
    pivot = empty((0,), x.dtype, like=x) if pivot is None else pivot
    affine = empty((2, branches * x.shape[1]), x.dtype, like=x)
    found = empty((2, branches * x.shape[1]), np.float64, like=x)
    into = empty((0, 0), x.dtype, like=x) if into is None or not training else into
    gamma, beta, count = contiguous(gamma), contiguous(beta), _count(x, affine)
    batch_affine_kernel(
        x.shape[1], moments, pivot, given, gamma, beta, affine, found, into, at, count, eps
    )
    return Normed(x, affine, found, training, relu)


def _parts(x):
    """How many parts a batch is summed in, of one channel each."""
    return x.shape[0] * -(-x[0, 0].size // BLOCK)


def _count(x, affine):
    """How many values a mean is over."""
    return x.size // affine.shape[1]


# ---- the loops --------------------------------------------------------------------------------


@inline
def _column(row, x, affine):
    """Which entry of an affine is that of row (n, c) of x."""
    channels = x.shape[1]
    branch = row // channels * (affine.shape[1] // channels) // x.shape[0]
    return branch * channels + row % channels


@kernel(fastmath=True, over=0)
def batch_moments_kernel(start, stop, x, pivot, moments, block):
    """Of each part, Σ (x − pivot) and Σ (x − pivot)²."""
    channels = x.shape[1]
    flat, blocks = x.reshape(x.shape[0] * channels, -1), len(moments) // x.shape[0]
    for item in range(start, stop):
        row, first = item // blocks, item % blocks * block
        around = pivot[row % channels]
        total, squares = 0.0, 0.0
        values = flat[row, first : min(first + block, flat.shape[1])]
        for i in range(len(values)):
            v = np.float64(values[i] - around)
            total += v
            squares += v * v
        part, channel = row // channels * blocks + item % blocks, row % channels
        moments[part, 0, channel], moments[part, 1, channel] = total, squares


@kernel(grain=1024, launch=block_per_item)
def batch_affine_kernel(
    start, stop, moments, pivot, given, gamma, beta, affine, found, into, at, count, eps
):
    """Scale and shift from the sums, or from a `given` mean and variance: an item is a channel."""
    channels, parts = len(gamma), len(moments)
    branches = affine.shape[1] // channels
    for c in range(start, stop):
        for branch in range(branches):
            total, squares = 0.0, 0.0
            for part in range(branch * parts // branches, (branch + 1) * parts // branches):
                total += moments[part, 0, c]
                squares += moments[part, 1, c]
            total, squares = total / count, squares / count
            around = np.float64(pivot[c]) if len(pivot) else 0.0
            mean, variance = around + total, max(squares - total * total, 0.0)
            if len(into):
                into[branch, at + c] = mean
                into[branch, at + channels + c] = variance * count / max(count - 1, 1)
            if len(given):
                mean, variance = given[0, c], given[1, c]
            inverse_std = 1 / np.sqrt(variance + eps)
            column, scale = branch * channels + c, gamma[c] * inverse_std
            affine[0, column], affine[1, column] = scale, beta[c] - scale * mean
            found[0, column], found[1, column] = mean, inverse_std


@kernel(launch=blocks_per_item, over=0)
def batch_norm_forward_kernel(start, stop, x, affine, y, relu):
    channels = x.shape[1]
    source = x.reshape(x.shape[0] * channels, -1)
    target = y.reshape(x.shape[0] * channels, -1)
    for row in range(start, stop):
        column = _column(row, x, affine)
        scale, shift = affine[0, column], affine[1, column]
        for i in range(source.shape[1]):
            v = source[row, i] * scale + shift
            target[row, i] = v if v > 0 or not relu else x.dtype.type(0)


@kernel(fastmath=True, over=0)
def batch_norm_sums_kernel(start, stop, x, affine, gy, found, partial, relu, block):
    """Of each part, Σ gy and Σ gy · (x − μ); gy counts only where the ReLU passes it."""
    channels = x.shape[1]
    flat = x.reshape(x.shape[0] * channels, -1)
    gradient = gy.reshape(x.shape[0] * channels, -1)
    blocks = len(partial) // x.shape[0]
    zero = x.dtype.type(0)
    for item in range(start, stop):
        row, first = item // blocks, item % blocks * block
        column = _column(row, x, affine)
        scale, shift, mean = affine[0, column], affine[1, column], x.dtype.type(found[0, column])
        total, product = 0.0, 0.0
        # Sums of 256 in the arrays' own precision, these summed in double: as fast as the former,
        # as exact as the latter.
        for at in range(first, min(first + block, flat.shape[1]), 256):
            some, more = zero, zero
            stop_at = min(at + 256, first + block, flat.shape[1])
            values, gs = flat[row, at:stop_at], gradient[row, at:stop_at]
            for i in range(len(values)):  # an index that cannot be negative: vectors
                v = values[i]
                g = gs[i]
                g = g if v * scale + shift > 0 or not relu else zero
                some += g
                more += g * (v - mean)
            total += some
            product += more
        part, channel = row // channels * blocks + item % blocks, row % channels
        partial[part, 0, channel], partial[part, 1, channel] = total, product


@kernel(grain=1024, launch=block_per_item)
def batch_norm_coefficients_kernel(
    start, stop, partial, affine, found, coefficients, g_gamma, g_beta, count
):
    """What gx = a · gy + b · (x − μ) + c takes from the sums, and (gγ, gβ): a channel is an item.

    `count` is the number of pixels that statistics are over, 0 where they were given.
    """
    parts, channels = len(partial), partial.shape[2]
    branches = affine.shape[1] // channels
    for c in range(start, stop):
        totals, products = 0.0, 0.0
        for branch in range(branches):
            total, product = 0.0, 0.0
            for part in range(branch * parts // branches, (branch + 1) * parts // branches):
                total += partial[part, 0, c]
                product += partial[part, 1, c]
            column = branch * channels + c
            inverse_std = found[1, column]
            product *= inverse_std
            scale = np.float64(affine[0, column])
            coefficients[0, column] = affine[0, column]
            if count:
                coefficients[1, column] = -scale * inverse_std * product / count
                coefficients[2, column] = -scale * total / count
            else:
                coefficients[1, column] = coefficients[2, column] = 0
            totals += total
            products += product
        g_gamma[c], g_beta[c] = products, totals


@kernel(launch=blocks_per_item, over=0)
def batch_norm_backward_kernel(start, stop, x, affine, gy, found, coefficients, plus, gx, relu):
    channels = x.shape[1]
    other = plus.reshape(plus.shape[0] * plus.shape[1], -1)
    source = x.reshape(x.shape[0] * channels, -1)
    gradient = gy.reshape(x.shape[0] * channels, -1)
    target = gx.reshape(x.shape[0] * channels, -1)
    for row in range(start, stop):
        column = _column(row, x, affine)
        scale, shift, mean = affine[0, column], affine[1, column], x.dtype.type(found[0, column])
        a, b, c = coefficients[0, column], coefficients[1, column], coefficients[2, column]
        for i in range(source.shape[1]):
            v = source[row, i]
            g = gradient[row, i]
            if relu:
                g = g if v * scale + shift > 0 else x.dtype.type(0)
            target[row, i] = a * g + b * (v - mean) + c
        if plus.size:
            for i in range(source.shape[1]):
                target[row, i] += other[row, i]
