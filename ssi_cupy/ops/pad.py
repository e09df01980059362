"""Padding by name, and cropping: in space, and along the batch.

The names are `scipy.ndimage`'s; the border of a row ``a b c d`` becomes

==============  =========================  ============
``mirror``      ``d c b | a b c d | c b a``  about the centre of the last pixel
``nearest``     ``a a a | a b c d | d d d``
``wrap``        ``b c d | a b c d | a b c``
``constant``    ``0 0 0 | a b c d | 0 0 0``
==============  =========================  ============

and a border wider than the image folds or wraps as often as it must.

Forward, for an index map ``m`` along each axis (a zero where ``m < 0``)::

    y[o] = x[m[o]]

Backward: a pixel that was copied to several places collects from all of them ::

    gx[i] = Σ_{o : m[o] = i} gy[o]

which is the transpose of the forward to the last bit of the index map, so the dot test holds.
`crop` is a padding with zeros read backwards: ``y[i] = x[i + start]``, ``gx[i + start] = gy[i]``.
`branch` does the same along the batch, and copies nothing in the forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine import backend
from ..engine.backend import kernel
from ..engine.checks import InputError, choice
from ..engine.gpu.launch import threads_per_item
from ..engine.types import Array, Mode, Shape
from ..tape import op

MODES = ("mirror", "nearest", "wrap", "constant")


def pad_forward(
    x: Array,
    *,
    widths: Sequence[tuple[int, int]],
    mode: Mode = "mirror",
    shape: Shape | None = None,
) -> tuple[Array, Any]:
    """`x` with a border.

    Parameters
    ----------
    x : (N, C, Z, Y, X) array
    widths : three (before, after) pairs of int, pixels
        For Z, Y and X.
    mode : {"mirror", "nearest", "wrap", "constant"}
    shape : three int, optional
        The output is this large, if that is more: zeros follow the border.

    Returns
    -------
    y : (N, C, before + Z + after, ...) array
    saved : what the backward needs

    Raises
    ------
    InputError
        If `mode` is none of the four.
    """
    axes = axis_maps(x.shape[2:], widths, mode, shape)
    x = backend.contiguous(x)
    y = backend.empty((*x.shape[:2], *(axis[-1] for axis in axes)), x.dtype, like=x)
    mz, my, mx = (backend.placed(index_map(*axis), x) for axis in axes)
    pad_forward_kernel(y[..., 0].size, _volumes(x), mz, my, mx, axes[2][1], _volumes(y))
    return y, axes


def pad_backward(gy: Array, saved: Any) -> Array:
    z_axis, y_axis, x_axis = axes = saved
    gy = backend.contiguous(gy)
    gx = backend.empty((*gy.shape[:2], *(axis[0] for axis in axes)), gy.dtype, like=gy)
    pad_backward_kernel(
        gx[..., 0].size,
        _volumes(gy),
        *(backend.placed(array, gy) for array in copies(*z_axis)),
        *(backend.placed(array, gy) for array in copies(*y_axis)),
        backend.placed(index_map(*x_axis), gy),
        x_axis[1],
        _volumes(gx),
    )
    return gx


@kernel(grain=32, launch=threads_per_item(32))
def pad_forward_kernel(start, stop, x, mz, my, mx, before, y):
    inner = x.shape[3]
    depth, height, width = y.shape[1:]
    for line in range(start, stop):
        c, z, v = line // height // depth, line // height % depth, line % height
        if mz[z] < 0 or my[v] < 0:
            for i in range(width):
                y[c, z, v, i] = 0
            continue
        to, source = y[c, z, v], x[c, mz[z], my[v]]
        for i in range(before):
            to[i] = source[mx[i]] if mx[i] >= 0 else 0
        for i in range(inner):
            to[before + i] = source[i]
        for i in range(before + inner, width):
            to[i] = source[mx[i]] if mx[i] >= 0 else 0


@kernel(grain=32, launch=threads_per_item(32))
def pad_backward_kernel(start, stop, gy, fz, lz, fy, ly, mx, before, gx):
    """`lz[fz[z]:fz[z + 1]]` are the planes that plane z was copied to; so for the lines."""
    width = gy.shape[3]
    depth, height, inner = gx.shape[1:]
    for line in range(start, stop):
        c, z, v = line // height // depth, line // height % depth, line % height
        to = gx[c, z, v]
        for i in range(inner):
            to[i] = 0
        for a in range(fz[z], fz[z + 1]):
            for b in range(fy[v], fy[v + 1]):
                source = gy[c, lz[a], ly[b]]
                for i in range(before):
                    if mx[i] >= 0:
                        to[mx[i]] += source[i]
                for i in range(inner):
                    to[i] += source[before + i]
                for i in range(before + inner, width):
                    if mx[i] >= 0:
                        to[mx[i]] += source[i]


pad = op(pad_forward, pad_backward)


def crop_forward(x: Array, *, start: Sequence[int], shape: Sequence[int]) -> tuple[Array, Any]:
    """The part of `x` that begins at `start` and has `shape`, both three int."""
    window = (..., *(slice(a, a + n) for a, n in zip(start, shape, strict=True)))
    y = backend.empty((*x.shape[:2], *shape), x.dtype, like=x)
    y[...] = x[window]
    return y, (start, x.shape[2:])


def crop_backward(gy: Array, saved: Any) -> Array:
    start, outer = saved
    widths = [(a, o - n - a) for a, n, o in zip(start, gy.shape[2:], outer, strict=True)]
    return pad_forward(gy, widths=widths, mode="constant")[0]


crop = op(crop_forward, crop_backward)


def branch_forward(x: Array, *, index: int, of: int) -> tuple[Array, Any]:
    """Group `index` of the `of` equal groups that `x` (N, C, Z, Y, X) holds along N: a view."""
    size, rest = divmod(len(x), of)
    if rest or not 0 <= index < of:
        raise InputError("index", f"one of {of} groups of equal size", f"{index}, N = {len(x)}")
    place = slice(index * size, (index + 1) * size)
    return x[place], (place, x.shape)


def branch_backward(gy: Array, saved: Any) -> Array:
    place, shape = saved
    gx = backend.zeros(shape, gy.dtype, like=gy)
    gx[place] = gy
    return gx


branch = op(branch_forward, branch_backward)


def axis_maps(
    inner: Sequence[int],
    widths: Sequence[tuple[int, int]],
    mode: Mode,
    shape: Sequence[int] | None = None,
) -> list[tuple[int, int, int, Mode, int]]:
    """What `index_map` has to be asked for each axis, and all that `pad_backward` needs."""
    choice(mode, "mode", MODES)
    full = [n + sum(w) for n, w in zip(inner, widths, strict=True)]
    outer = full if shape is None else [max(s, f) for s, f in zip(shape, full, strict=True)]
    return [(n, *w, mode, o) for n, w, o in zip(inner, widths, outer, strict=True)]


@functools.lru_cache(maxsize=256)
def index_map(n: int, before: int, after: int, mode: Mode, length: int) -> Array:
    """For each place along a padded axis the pixel it is a copy of, -1 for a zero.

    Parameters
    ----------
    n : int
        The pixels of the axis.
    before, after : int
        The width of the border.
    mode : str
    length : int
        Of the padded axis: ``before + n + after``, and zeros from there on.

    Returns
    -------
    (length,) array of int
    """
    i = np.arange(-before, length - before)
    if mode == "mirror":  # a triangle wave of period 2 (n - 1)
        m = (n - 1) - np.abs(i % max(2 * (n - 1), 1) - (n - 1))
    elif mode == "nearest":
        m = np.clip(i, 0, n - 1)
    elif mode == "wrap":
        m = i % n
    else:
        m = np.where((i < 0) | (i >= n), -1, i)
    return np.where(i < n + after, m, -1).astype(np.int64)


@functools.lru_cache(maxsize=256)
def copies(n: int, before: int, after: int, mode: Mode, length: int) -> tuple[Array, Array]:
    """`index_map` turned round: pixel i went to ``places[first[i]:first[i + 1]]``."""
    m = index_map(n, before, after, mode, length)
    places = np.argsort(m, kind="stable")
    return np.searchsorted(m[places], np.arange(n + 1)).astype(np.int64), places.astype(np.int64)


def _volumes(x):
    """(N, C, Z, Y, X) as (N C, Z, Y, X)."""
    return x.reshape(-1, *x.shape[2:])
