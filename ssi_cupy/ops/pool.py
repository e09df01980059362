"""Max-pooling over windows that do not overlap.

Forward, for a window of size S (an axis of any dimension alike)::

    y[n, c, q] = max over 0 ≤ s < S of x[n, c, S q + s]

What is left over at the end of an axis that S does not divide is not pooled. Backward: the
gradient goes to the pixel that was the maximum; to the first one, where several were::

    gx[n, c, p] = gy[n, c, q]  where p is the first maximum of window q,  0 elsewhere
"""

from __future__ import annotations

from typing import Any

from ..engine.backend import contiguous, empty, inline, kernel
from ..engine.checks import InputError
from ..engine.gpu.launch import blocks_per_item
from ..engine.types import Array
from ..tape import op


def max_pool_forward(
    x: Array, *, window: tuple[int, int, int] = (1, 2, 2), affine: Array | None = None
) -> tuple[Array, Any]:
    """The maximum of each window.

    Parameters
    ----------
    x : (N, C, Z, Y, X) array
    window : (int, int, int)
        Its size along Z, Y and X.
    affine : (2, C) array, optional
        Read relu(affine[0] · x + affine[1]) in place of x.

    Returns
    -------
    y : (N, C, Z // window[0], Y // window[1], X // window[2]) array
    """
    x = contiguous(x)
    size = tuple(s // w for s, w in zip(x.shape[2:], window, strict=True))
    if min(size) < 1:
        raise InputError("x", f"at least {window} pixels along Z, Y and X", f"{x.shape[2:]}")
    affine = empty((0, 0), x.dtype, like=x) if affine is None else affine
    y = empty((*x.shape[:2], *size), x.dtype, like=x)
    max_pool_forward_kernel(x.shape[0] * x.shape[1], x, affine, y, *window)
    return y, (x, affine, window)


def max_pool_backward(gy: Array, saved: Any, *, plus: Array | None = None) -> Array:
    """gx, by the relu's output where there was an `affine`. `plus`, of x's shape, is added."""
    x, affine, window = saved
    gx = empty(x.shape, x.dtype, like=x)
    plus = empty((0,) * 5, x.dtype, like=x) if plus is None else contiguous(plus)
    max_pool_backward_kernel(x.shape[0] * x.shape[1], x, affine, contiguous(gy), plus, gx, *window)
    return gx


max_pool = op(max_pool_forward, max_pool_backward)


# ---- the loops --------------------------------------------------------------------------------


@inline
def _activate(v, affine, c):
    """v, or what its affine and the ReLU make of it."""
    if affine.shape[0] == 2:
        v = v * affine[0, c] + affine[1, c]
        return v if v > 0 else affine.dtype.type(0)
    return v


@kernel(launch=blocks_per_item, over=0)
def max_pool_forward_kernel(start, stop, x, affine, y, wz, wy, wx):
    channels, depth, height, width = y.shape[1:]
    for item in range(start, stop):
        n, c = item // channels, item % channels
        for z in range(depth):
            for i in range(height):
                row = y[n, c, z, i]
                for dz in range(wz):
                    for dy in range(wy):
                        first = dz == 0 and dy == 0
                        source = x[n, c, z * wz + dz, i * wy + dy]
                        if wx == 2:  # known at compile time, this loop uses the vector unit
                            for j in range(width):
                                v = _activate(source[2 * j], affine, c)
                                v2 = _activate(source[2 * j + 1], affine, c)
                                v = v2 if v2 > v else v
                                row[j] = v if first or v > row[j] else row[j]
                        else:
                            for j in range(width):
                                for dx in range(wx):
                                    v = _activate(source[j * wx + dx], affine, c)
                                    if (first and dx == 0) or v > row[j]:
                                        row[j] = v


@inline
def _give_back(upper, lower, affine, c, row, target, first_row):
    """Windows of 2 × 2: adds to one of their two rows the gradient, where the first maximum is."""
    zero = row.dtype.type(0)
    activate = affine.shape[0] == 2
    scale, shift = (affine[0, c], affine[1, c]) if activate else (zero, zero)
    for j in range(len(row)):
        v0, v1, v2, v3 = upper[2 * j], upper[2 * j + 1], lower[2 * j], lower[2 * j + 1]
        if activate:
            v0, v1 = v0 * scale + shift, v1 * scale + shift
            v2, v3 = v2 * scale + shift, v3 * scale + shift
            v0, v1 = v0 if v0 > 0 else zero, v1 if v1 > 0 else zero
            v2, v3 = v2 if v2 > 0 else zero, v3 if v3 > 0 else zero
        top, bottom = v1 if v1 > v0 else v0, v3 if v3 > v2 else v2
        left, best = (v0, top) if first_row else (v2, bottom)
        here = (not bottom > top) if first_row else bottom > top
        target[2 * j] += row[j] if here and left == best else zero
        target[2 * j + 1] += row[j] if here and left != best else zero


@kernel(launch=blocks_per_item, over=0)
def max_pool_backward_kernel(start, stop, x, affine, gy, plus, gx, wz, wy, wx):
    channels, depth, height, width = gy.shape[1:]
    zero = x.dtype.type(0)
    for item in range(start, stop):
        n, c = item // channels, item % channels
        start_from = plus[n, c].reshape(-1) if plus.size else gx[n, c].reshape(-1)
        whole = gx[n, c].reshape(-1)
        for j in range(len(whole)):
            whole[j] = start_from[j] if plus.size else zero
        for z in range(depth):
            for i in range(height):
                if wz == 1 and wy == 2 and wx == 2:
                    upper, lower = x[n, c, z, 2 * i], x[n, c, z, 2 * i + 1]
                    _give_back(upper, lower, affine, c, gy[n, c, z, i], gx[n, c, z, 2 * i], True)
                    _give_back(
                        upper, lower, affine, c, gy[n, c, z, i], gx[n, c, z, 2 * i + 1], False
                    )
                    continue
                for j in range(width):
                    best, at = _activate(x[n, c, z * wz, i * wy, j * wx], affine, c), (0, 0, 0)
                    for dz in range(wz):
                        for dy in range(wy):
                            for dx in range(wx):
                                v = x[n, c, z * wz + dz, i * wy + dy, j * wx + dx]
                                v = _activate(v, affine, c)
                                if v > best:
                                    best, at = v, (dz, dy, dx)
                    dz, dy, dx = at
                    gx[n, c, z * wz + dz, i * wy + dy, j * wx + dx] += gy[n, c, z, i, j]
