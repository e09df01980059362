"""Batch normalisation, with the ReLU that follows it.

Forward, per channel, over the M = N · Z · Y · X values x of it (Ioffe and Szegedy 2015, Alg. 1)::

    μ = mean(x)    σ² = mean((x − μ)²)    x̂ = (x − μ) / √(σ² + ε)    y = γ · x̂ + β

This is affine in x once μ and σ are known: y = scale · x + shift with ::

    scale = γ / √(σ² + ε)        shift = β − scale · μ

so `batch_affine` returns that pair, and whoever reads the map may apply it (see `README.md`).

Backward, in training mode, where μ and σ depend on every x::

    gγ = Σ gy · x̂      gβ = Σ gy      gx = scale · (gy − gβ / M − x̂ · gγ / M)

With ``relu=True`` y goes through max(·, 0), and gy above is set to 0 where y ≤ 0. In inference mode
μ and σ are given, and gx = scale · gy.

With k *branches*, x holds k equal groups along N, and each has μ, σ, scale and shift of its own: an
affine then is (2, k · C), the first branch's channels first. gγ and gβ are sums over the branches.
"""

from __future__ import annotations

import numpy as np

from ..backend import contiguous, empty, inline, kernel
from ..checks import InputError
from ..cuda import blocks_per_item, threads_per_item
from ..tape import op

BLOCK = 16384  # pixels of a partial sum


def batch_norm_forward(x, gamma, beta, *, eps=1e-5, statistics=None, relu=False, branches=1):
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
    if statistics is None:
        mean, variance = batch_statistics(x, branches)
    else:
        mean, variance = statistics
    affine, saved = batch_affine(x, mean, variance, gamma, beta, eps, statistics is None, relu)
    return normalised(x, affine, relu), saved


def batch_norm_backward(gy, saved, *, plus=None):
    """(gx, gγ, gβ). `plus`, of x's shape, is added to gx: of a map that has another reader."""
    x, affine, mean, inverse_std, training, relu = saved
    gy = contiguous(gy)
    n, channels = x.shape[:2]
    pixels = x[0, 0].size
    blocks = -(-pixels // BLOCK)
    branches = affine.shape[1] // channels
    centre = contiguous(mean.astype(x.dtype).reshape(-1))
    partial = empty((n, channels, blocks, 2), np.float64, like=x)
    batch_norm_sums_kernel(n * channels * blocks, x, affine, gy, centre, partial, relu, BLOCK)
    coefficients = empty((3, branches * channels), x.dtype, like=x)
    gradient = empty((2, channels), x.dtype, like=x)
    count = n // branches * pixels if training else 0
    batch_norm_coefficients_kernel(
        channels, partial, affine, inverse_std.reshape(-1), coefficients, gradient, count
    )
    gx = empty(x.shape, x.dtype, like=x)
    plus = empty((0,) * 5, x.dtype, like=x) if plus is None else contiguous(plus)
    batch_norm_backward_kernel(n * channels, x, affine, gy, centre, coefficients, plus, gx, relu)
    return gx, *gradient


batch_norm = op(batch_norm_forward, batch_norm_backward)


def normalised(x, affine, relu=True):
    """relu(scale · x + shift), written: for a reader that cannot apply the affine itself."""
    y = empty(x.shape, x.dtype, like=x)
    batch_norm_forward_kernel(x.shape[0] * x.shape[1], x, affine, y, relu)
    return y


def batch_statistics(x, branches=1):
    """(mean, variance) of each channel, (C,) float64 arrays, or (branches, C) of several.

    The variance is the biased one.
    """
    n, channels = x.shape[:2]
    pixels = x[0, 0].size
    blocks = -(-pixels // BLOCK)
    # Sums around a value of the channel itself: no cancellation where the mean is far from zero.
    pivot = contiguous(x[0, :, 0, 0, 0])
    partial = empty((n, channels, blocks, 2), np.float64, like=x)
    batch_moments_kernel(n * channels * blocks, x, pivot, partial, BLOCK)
    return moments_to_statistics(_sums(partial, branches), pivot, n // branches * pixels)


def _sums(partial, branches):
    """Over images and blocks: (N, C, blocks, 2) → (2, C), or (2, branches, C) of several."""
    if branches == 1:
        return partial.sum(axis=(0, 2)).T
    sums = partial.reshape(branches, -1, *partial.shape[1:]).sum(axis=(1, 3))
    return sums.transpose(2, 0, 1)


def moments_to_statistics(sums, pivot, count):
    """(mean, variance) from Σ (x − pivot) and Σ (x − pivot)² over `count` values."""
    mean, square = sums / count
    return pivot + mean, np.maximum(square - mean * mean, 0)


def batch_affine(x, mean, variance, gamma, beta, eps=1e-5, training=True, relu=True):
    """The pair (scale, shift), (2, C), and what `batch_norm_backward` wants to have saved.

    From (branches, C) means and variances a (2, branches · C) pair.
    """
    inverse_std = 1 / np.sqrt(variance.astype(np.float64) + eps)
    scale = gamma * inverse_std
    affine = empty((2, scale.size), x.dtype, like=x)
    affine[0], affine[1] = scale.reshape(-1), (beta - scale * mean).reshape(-1)
    return affine, (x, affine, mean, inverse_std, training, relu)


# ---- the loops --------------------------------------------------------------------------------


@inline
def _column(row, x, affine):
    """Which entry of an affine is that of row (n, c) of x."""
    channels = x.shape[1]
    branch = row // channels * (affine.shape[1] // channels) // x.shape[0]
    return branch * channels + row % channels


@kernel(fastmath=True, over=0)
def batch_moments_kernel(start, stop, x, pivot, partial, block):
    channels = x.shape[1]
    flat, sums = x.reshape(x.shape[0] * channels, -1), partial.reshape(-1, 2)
    blocks = partial.shape[2]
    for item in range(start, stop):
        row, first = item // blocks, item % blocks * block
        around = pivot[row % channels]
        total, squares = 0.0, 0.0
        values = flat[row, first : min(first + block, flat.shape[1])]
        for i in range(len(values)):
            v = np.float64(values[i] - around)
            total += v
            squares += v * v
        sums[item, 0], sums[item, 1] = total, squares


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
def batch_norm_sums_kernel(start, stop, x, affine, gy, centre, partial, relu, block):
    """Of each block, Σ gy and Σ gy · (x − μ); gy counts only where the ReLU passes it."""
    channels = x.shape[1]
    flat = x.reshape(x.shape[0] * channels, -1)
    gradient = gy.reshape(x.shape[0] * channels, -1)
    sums = partial.reshape(-1, 2)
    blocks = partial.shape[2]
    zero = x.dtype.type(0)
    for item in range(start, stop):
        row, first = item // blocks, item % blocks * block
        column = _column(row, x, affine)
        scale, shift, mean = affine[0, column], affine[1, column], centre[column]
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
        sums[item, 0], sums[item, 1] = total, product


@kernel(grain=1024, launch=threads_per_item(1))
def batch_norm_coefficients_kernel(
    start, stop, partial, affine, inverse_std, coefficients, gradient, count
):
    """What gx = a · gy + b · (x − μ) + c takes from the sums, and (gγ, gβ): a channel is an item.

    `count` is the number of pixels that statistics are over, 0 where they were given.
    """
    images, channels, blocks = partial.shape[:3]
    branches = affine.shape[1] // channels
    for c in range(start, stop):
        g_gamma, g_beta = 0.0, 0.0
        for branch in range(branches):
            total, product = 0.0, 0.0
            for n in range(branch * images // branches, (branch + 1) * images // branches):
                for block in range(blocks):
                    total += partial[n, c, block, 0]
                    product += partial[n, c, block, 1]
            column = branch * channels + c
            product *= inverse_std[column]
            scale = np.float64(affine[0, column])
            coefficients[0, column] = affine[0, column]
            if count:
                coefficients[1, column] = -scale * inverse_std[column] * product / count
                coefficients[2, column] = -scale * total / count
            else:
                coefficients[1, column] = coefficients[2, column] = 0
            g_gamma += product
            g_beta += total
        gradient[0, c], gradient[1, c] = g_gamma, g_beta


@kernel(launch=blocks_per_item, over=0)
def batch_norm_backward_kernel(start, stop, x, affine, gy, centre, coefficients, plus, gx, relu):
    channels = x.shape[1]
    other = plus.reshape(plus.shape[0] * plus.shape[1], -1)
    source = x.reshape(x.shape[0] * channels, -1)
    gradient = gy.reshape(x.shape[0] * channels, -1)
    target = gx.reshape(x.shape[0] * channels, -1)
    for row in range(start, stop):
        column = _column(row, x, affine)
        scale, shift, mean = affine[0, column], affine[1, column], centre[column]
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
