"""Nearest-neighbour upsampling, concatenation of channels, and both in one pass.

Upsampling by S repeats each pixel; what the target has more than S times the source (an odd
level) is zero. Its adjoint sums what was repeated::

    y[n, c, p] = x[n, c, p // S]            gx[n, c, q] = Σ over 0 ≤ s < S of gy[n, c, S q + s]

Concatenation stacks channels, and its backward cuts gy in two::

    y = (a, b)                              ga = gy[:, :A]      gb = gy[:, A:]

`upsample_concat` is what a decoder level begins with: (skip, upsampled low), each read through
its affine (see `README.md`), written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..engine.backend import contiguous, empty, inline, kernel, namespace
from ..engine.checks import InputError
from ..engine.gpu.launch import blocks_per_item
from ..engine.types import Array
from ..tape import op


def upsample_forward(
    x: Array, *, size: Sequence[int], factor: tuple[int, int, int] = (1, 2, 2)
) -> tuple[Array, Any]:
    """Repeat each pixel of x (N, C, z, y, x) `factor` times; zeros up to `size` (Z, Y, X)."""
    nothing = empty((x.shape[0], 0, *size), x.dtype, like=x)
    y, (*_, saved) = upsample_concat_forward(nothing, x, factor=factor)
    return y, saved


def upsample_backward(gy: Array, saved: Any) -> Array:
    """gx: sums over what was repeated."""
    shape, factor = saved
    gx = empty(shape, gy.dtype, like=gy)
    upsample_backward_kernel(shape[0] * shape[1], contiguous(gy), 0, gx, *factor)
    return gx


upsample = op(upsample_forward, upsample_backward)


def concat_forward(a: Array, b: Array) -> tuple[Array, int]:
    """(a, b) along the channels; a (N, A, Z, Y, X) and b (N, B, Z, Y, X) → (N, A + B, Z, Y, X)."""
    if a.shape[0] != b.shape[0] or a.shape[2:] != b.shape[2:]:
        raise InputError("b", f"shape ({a.shape[0]}, any, *{a.shape[2:]})", f"{b.shape}")
    return namespace(a, b).concatenate((a, b), axis=1), a.shape[1]


def concat_backward(gy: Array, saved: int) -> tuple[Array, Array]:
    """(ga, gb): gy cut in two."""
    return gy[:, :saved], gy[:, saved:]


concat = op(concat_forward, concat_backward)


def upsample_concat_forward(
    skip: Array,
    low: Array,
    *,
    factor: tuple[int, int, int] = (1, 2, 2),
    skip_affine: Array | None = None,
    low_affine: Array | None = None,
) -> tuple[Array, Any]:
    """concat(skip, upsample(low)), each read as relu(scale · x + shift) where it has an affine.

    Parameters
    ----------
    skip : (N, A, Z, Y, X) array
    low : (N, B, z, y, x) array, with Z // factor[0] = z and so on
    factor : (int, int, int)
    skip_affine, low_affine : (2, A) and (2, B) array, optional
    """
    fits = tuple(s // f for s, f in zip(skip.shape[2:], factor, strict=True))
    if low.shape[2:] != fits or low.shape[0] != skip.shape[0]:
        raise InputError("low", f"(Z, Y, X) = {fits} for {skip.shape[2:]}", f"{low.shape[2:]}")
    skip, low = contiguous(skip), contiguous(low)
    (n, channels), more = skip.shape[:2], low.shape[1]
    neutral = empty((0, 0), low.dtype, like=low)
    y = empty((n, channels + more, *skip.shape[2:]), low.dtype, like=low)
    upsample_concat_forward_kernel(
        n * (channels + more), skip, neutral if skip_affine is None else skip_affine,
        low, neutral if low_affine is None else low_affine, y, *factor,
    )  # fmt: skip
    return y, (skip.shape, (low.shape, factor))


def upsample_concat_backward(gy: Array, saved: Any) -> tuple[Array, Array]:
    """(gskip, glow), by the relu's outputs where there were affines."""
    (n, channels, *_), (shape, factor) = saved
    g_low = empty(shape, gy.dtype, like=gy)
    upsample_backward_kernel(n * shape[1], contiguous(gy), channels, g_low, *factor)
    return gy[:, :channels], g_low


upsample_concat = op(upsample_concat_forward, upsample_concat_backward)


# ---- the loops --------------------------------------------------------------------------------


@inline
def _read(source, affine, c, target):
    """target = source, through its affine and the ReLU where there is one."""
    zero = source.dtype.type(0)
    if affine.shape[0] == 2:
        scale, shift = affine[0, c], affine[1, c]
        for j in range(len(source)):
            v = source[j] * scale + shift
            target[j] = v if v > 0 else zero
    else:
        for j in range(len(source)):
            target[j] = source[j]


@inline
def _read_twice(source, affine, c, target):
    """The same, each pixel repeated; known at compile time, such a loop uses the vector unit."""
    zero = source.dtype.type(0)
    if affine.shape[0] == 2:
        scale, shift = affine[0, c], affine[1, c]
        for j in range(len(source)):
            v = source[j] * scale + shift
            v = v if v > 0 else zero
            target[2 * j] = v
            target[2 * j + 1] = v
    else:
        for j in range(len(source)):
            target[2 * j] = source[j]
            target[2 * j + 1] = source[j]


@kernel(launch=blocks_per_item, over=4)
def upsample_concat_forward_kernel(start, stop, skip, skip_affine, low, low_affine, y, fz, fy, fx):
    channels, depth, height, width = y.shape[1:]
    first = skip.shape[1]
    for item in range(start, stop):
        n, c = item // channels, item % channels
        if c < first:
            _read(skip[n, c].reshape(-1), skip_affine, c, y[n, c].reshape(-1))
            continue
        k = c - first
        for z in range(depth):
            for i in range(height):
                row = y[n, c, z, i]
                if z // fz >= low.shape[2] or i // fy >= low.shape[3]:
                    row[:] = 0
                    continue
                if i % fy:  # the row above is the same
                    above = y[n, c, z, i - 1]
                    for j in range(width):
                        row[j] = above[j]
                    continue
                source = low[n, k, z // fz, i // fy]
                if fx == 2:
                    _read_twice(source, low_affine, k, row)
                else:
                    for j in range(low.shape[4]):
                        for d in range(fx):
                            row[j * fx + d] = source[j]
                    _read(row, low_affine, k, row)
                row[low.shape[4] * fx :] = 0


@kernel(launch=blocks_per_item, over=2)
def upsample_backward_kernel(start, stop, gy, first, gx, fz, fy, fx):
    channels, depth, height, width = gx.shape[1:]
    for item in range(start, stop):
        n, c = item // channels, item % channels
        for z in range(depth):
            for i in range(height):
                row = gx[n, c, z, i]
                row[:] = 0
                for dz in range(fz):
                    for dy in range(fy):
                        source = gy[n, first + c, z * fz + dz, i * fy + dy]
                        if fx == 2:  # known at compile time, this loop uses the vector unit
                            for j in range(width):
                                row[j] += source[2 * j] + source[2 * j + 1]
                        else:
                            for j in range(width):
                                for dx in range(fx):
                                    row[j] += source[j * fx + dx]
