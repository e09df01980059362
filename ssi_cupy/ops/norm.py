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
"""

from __future__ import annotations

import numpy as np

from ..backend import contiguous, empty, kernel, namespace
from ..cuda import blocks_per_item
from ..tape import op

BLOCK = 16384  # pixels of a partial sum


def batch_norm_forward(x, gamma, beta, *, eps=1e-5, statistics=None, relu=False):
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
    """
    x = contiguous(x)
    if statistics is None:
        mean, variance = batch_statistics(x)
    else:
        mean, variance = statistics
    affine, saved = batch_affine(x, mean, variance, gamma, beta, eps, statistics is None, relu)
    y = empty(x.shape, x.dtype, like=x)
    batch_norm_forward_kernel(x.shape[0] * x.shape[1], x, affine, y, relu)
    return y, saved


def batch_norm_backward(gy, saved):
    """(gx, gγ, gβ)."""
    x, affine, mean, inverse_std, training, relu = saved
    xp = namespace(gy)
    gy = contiguous(gy)
    n, channels = x.shape[:2]
    pixels = x[0, 0].size
    blocks = -(-pixels // BLOCK)
    centre = mean.astype(x.dtype)
    partial = empty((n, channels, blocks, 2), np.float64, like=x)
    batch_norm_sums_kernel(n * channels * blocks, x, affine, gy, centre, partial, relu, BLOCK)
    g_beta, g_gamma = xp.moveaxis(partial.sum(axis=(0, 2)), 1, 0)
    g_gamma = g_gamma * inverse_std
    # gx = a · gy + b · (x − μ) + c
    coefficients = empty((3, channels), x.dtype, like=x)
    coefficients[0] = affine[0]
    if training:
        count = n * pixels
        coefficients[1] = -affine[0] * inverse_std * g_gamma / count
        coefficients[2] = -affine[0] * g_beta / count
    else:
        coefficients[1:] = 0
    gx = empty(x.shape, x.dtype, like=x)
    batch_norm_backward_kernel(n * channels, x, affine, gy, centre, coefficients, gx, relu)
    return gx, g_gamma.astype(x.dtype), g_beta.astype(x.dtype)


batch_norm = op(batch_norm_forward, batch_norm_backward)


def batch_statistics(x):
    """(mean, variance) of each channel, (C,) float64 arrays. The variance is the biased one."""
    n, channels = x.shape[:2]
    pixels = x[0, 0].size
    blocks = -(-pixels // BLOCK)
    # Sums around a value of the channel itself: no cancellation where the mean is far from zero.
    pivot = contiguous(x[0, :, 0, 0, 0])
    partial = empty((n, channels, blocks, 2), np.float64, like=x)
    batch_moments_kernel(n * channels * blocks, x, pivot, partial, BLOCK)
    sums = partial.sum(axis=(0, 2)).T
    return moments_to_statistics(sums, pivot, n * pixels)


def moments_to_statistics(sums, pivot, count):
    """(mean, variance) from Σ (x − pivot) and Σ (x − pivot)² over `count` values."""
    mean, square = sums / count
    return pivot + mean, np.maximum(square - mean * mean, 0)


def batch_affine(x, mean, variance, gamma, beta, eps=1e-5, training=True, relu=True):
    """The (2, C) pair (scale, shift), and what `batch_norm_backward` wants to have saved."""
    inverse_std = 1 / np.sqrt(variance.astype(np.float64) + eps)
    scale = gamma * inverse_std
    affine = empty((2, len(gamma)), x.dtype, like=x)
    affine[0], affine[1] = scale, beta - scale * mean
    return affine, (x, affine, mean, inverse_std, training, relu)


# ---- the loops --------------------------------------------------------------------------------


@kernel(fastmath=True)
def batch_moments_kernel(start, stop, x, pivot, partial, block):
    channels = x.shape[1]
    flat, sums = x.reshape(x.shape[0] * channels, -1), partial.reshape(-1, 2)
    blocks = partial.shape[2]
    for item in range(start, stop):
        row, first = item // blocks, item % blocks * block
        around = pivot[row % channels]
        total, squares = 0.0, 0.0
        for i in range(first, min(first + block, flat.shape[1])):
            v = np.float64(flat[row, i] - around)
            total += v
            squares += v * v
        sums[item, 0], sums[item, 1] = total, squares


@kernel(launch=blocks_per_item)
def batch_norm_forward_kernel(start, stop, x, affine, y, relu):
    channels = x.shape[1]
    source = x.reshape(x.shape[0] * channels, -1)
    target = y.reshape(x.shape[0] * channels, -1)
    for row in range(start, stop):
        scale, shift = affine[0, row % channels], affine[1, row % channels]
        for i in range(source.shape[1]):
            v = source[row, i] * scale + shift
            target[row, i] = v if v > 0 or not relu else x.dtype.type(0)


@kernel(fastmath=True)
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
        channel = row % channels
        scale, shift, mean = affine[0, channel], affine[1, channel], centre[channel]
        total, product = 0.0, 0.0
        # Sums of 256 in the arrays' own precision, these summed in double: as fast as the former,
        # as exact as the latter.
        for at in range(first, min(first + block, flat.shape[1]), 256):
            some, more = zero, zero
            for i in range(at, min(at + 256, flat.shape[1])):
                v = flat[row, i]
                g = gradient[row, i]
                if relu:
                    g = g if v * scale + shift > 0 else zero
                some += g
                more += g * (v - mean)
            total += some
            product += more
        sums[item, 0], sums[item, 1] = total, product


@kernel(launch=blocks_per_item)
def batch_norm_backward_kernel(start, stop, x, affine, gy, centre, coefficients, gx, relu):
    channels = x.shape[1]
    source = x.reshape(x.shape[0] * channels, -1)
    gradient = gy.reshape(x.shape[0] * channels, -1)
    target = gx.reshape(x.shape[0] * channels, -1)
    for row in range(start, stop):
        channel = row % channels
        scale, shift, mean = affine[0, channel], affine[1, channel], centre[channel]
        a, b, c = coefficients[0, channel], coefficients[1, channel], coefficients[2, channel]
        for i in range(source.shape[1]):
            v = source[row, i]
            g = gradient[row, i]
            if relu:
                g = g if v * scale + shift > 0 else x.dtype.type(0)
            target[row, i] = a * g + b * (v - mean) + c
