"""Convolutions that step by their own width, and their transposes: down and up between levels.

A kernel of size S that steps by S looks at blocks that do not overlap (an axis of any dimension
alike). With k in 0 … S − 1, forward ::

    strided_conv       y[n, o, q] = b[o] + Σ_i Σ_k  w[o, i, k] · x[n, i, S q + k]
    transposed_conv    y[n, o, S q + k] = b[o] + Σ_i  w[i, o, k] · x[n, i, q]

Each is, with w the same, the adjoint of the other in x. Where S does not divide an axis, x has
zeros behind its far end for `strided_conv` (y is ⌈size / S⌉ large), and `transposed_conv` cuts off
what its target has no place for; what a target has more than S times the source is zero. Both are
products of matrices: with `space_to_depth`, which makes the S pixels of a block S channels, ::

    B x[n, (c, k), q] = x[n, c, S q + k]        y = W B x + b        and        y = Bᵀ (Wᵀ x + b)

where W is w with its axes (i, k), or (o, k), taken as one: a convolution with a 1×1 kernel, see
`conv.py`. Backward, Bᵀ being `depth_to_space`::

    strided_conv       gx = Bᵀ Wᵀ gy        gW = gy (B x)ᵀ        gb = Σ gy
    transposed_conv    gx = W B gy          gW = x (B gy)ᵀ        gb = Σ gy where there is a source

`join` is what a decoder level begins with: the transposed convolution of the map below, added to
the encoder's map or stacked on it, and written once. It reads both through their affines (see
`README.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..engine.backend import contiguous, empty, kernel
from ..engine.checks import InputError, choice
from ..engine.gpu.launch import blocks_per_item
from ..engine.types import Array
from ..tape import op
from .conv import conv_backward_input, conv_backward_weights, conv_forward


def strided_conv_forward(x: Array, w: Array, b: Array | None = None) -> tuple[Array, Any]:
    """The convolution that steps by its kernel's size.

    Parameters
    ----------
    x : (N, I, Z, Y, X) array
    w : (O, I, SZ, SY, SX) array
    b : (O,) array, optional

    Returns
    -------
    y : (N, O, ⌈Z / SZ⌉, ⌈Y / SY⌉, ⌈X / SX⌉) array
    """
    _check(x, w, b, inputs=1)
    y, _ = conv_forward(space_to_depth(x, w.shape[2:]), w.reshape(len(w), -1, 1, 1, 1), b)
    return y, (x, w, b is not None)


def strided_conv_backward(gy: Array, saved: Any, *, plus: Array | None = None) -> tuple[Array, ...]:
    """(gx, gw, gb), the last where there was a b. `plus`, of x's shape, is added to gx."""
    x, w, biased = saved
    matrix = w.reshape(len(w), -1, 1, 1, 1)
    blocks = space_to_depth(x, w.shape[2:])
    gw, gb = conv_backward_weights(gy, blocks, matrix.shape)
    del blocks
    gx = depth_to_space(conv_backward_input(gy, matrix), w.shape[2:], x.shape[2:], plus)
    return (gx, gw.reshape(w.shape), gb) if biased else (gx, gw.reshape(w.shape))


strided_conv = op(strided_conv_forward, strided_conv_backward)


def transposed_conv_forward(
    x: Array, w: Array, b: Array | None = None, *, size: Sequence[int] | None = None
) -> tuple[Array, Any]:
    """The transpose of the convolution that steps by its kernel's size.

    Parameters
    ----------
    x : (N, I, z, y, x) array
    w : (I, O, SZ, SY, SX) array
    b : (O,) array, optional
    size : (int, int, int), optional
        (Z, Y, X) of the result: that of `x` times the kernel's by default.

    Returns
    -------
    y : (N, O, Z, Y, X) array
    """
    size = size or tuple(n * s for n, s in zip(x.shape[2:], w.shape[2:], strict=True))
    nothing = empty((len(x), 0, *size), x.dtype, like=x)
    y, saved = join_forward(nothing, x, w, b)
    return y, saved


def transposed_conv_backward(gy: Array, saved: Any) -> tuple[Array, ...]:
    """(gx, gw, gb), the last where there was a b."""
    return join_backward(gy, saved)[1:]


transposed_conv = op(transposed_conv_forward, transposed_conv_backward)


def join_forward(
    skip: Array,
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    how: Literal["concat", "add"] = "concat",
    skip_affine: Array | None = None,
    affine: Array | None = None,
) -> tuple[Array, Any]:
    """The map of an encoder level with the transposed convolution of the map below it.

    Parameters
    ----------
    skip : (N, A, Z, Y, X) array
    x : (N, I, z, y, x) array
    w : (I, O, SZ, SY, SX) array
    b : (O,) array, optional
    how : {"concat", "add"}
        Stack `skip` and the transposed convolution along the channels, or add them (A = O).
    skip_affine, affine : (2, A) and (2, I) array, optional
        Read relu(affine[0] · map + affine[1]) in place of `skip` and `x`.

    Returns
    -------
    y : (N, A + O, Z, Y, X) or (N, O, Z, Y, X) array
    """
    _check(x, w, b, inputs=0)
    add = choice(how, "how", ("concat", "add")) == "add"
    if len(skip) != len(x) or (add and skip.shape[1] != w.shape[1]):
        expected = f"({len(x)}, {w.shape[1] if add else 'any'}, Z, Y, X)"
        raise InputError("skip", f"shape {expected}", f"{skip.shape}")
    matrix = w.reshape(len(w), -1).T[:, :, None, None, None]
    taps = int(np.prod(w.shape[2:]))
    bias = None
    if b is not None:
        bias = empty((len(b), taps), b.dtype, like=b)
        bias[...] = b[:, None]
        bias = bias.reshape(-1)
    blocks, _ = conv_forward(x, matrix, bias, affine=affine)
    y = depth_to_space(blocks, w.shape[2:], skip.shape[2:], skip, skip_affine, add)
    return y, (x, w, b is not None, affine, 0 if add else skip.shape[1])


def join_backward(gy: Array, saved: Any) -> tuple[Array, ...]:
    """(gskip, gx, gw, gb), by the relu's outputs where there were affines; gb if there was a b."""
    x, w, biased, affine, first = saved
    matrix = w.reshape(len(w), -1).T[:, :, None, None, None]
    blocks = space_to_depth(gy, w.shape[2:], x.shape[2:], first)
    gw, gb = conv_backward_weights(blocks, x, matrix.shape, affine)
    gw = contiguous(gw[:, :, 0, 0, 0].T).reshape(w.shape)
    gx = conv_backward_input(blocks, matrix)
    g_skip = gy[:, :first] if first else gy
    return (g_skip, gx, gw, gb.reshape(w.shape[1], -1).sum(axis=1))[: 4 if biased else 3]


join = op(join_forward, join_backward)


def space_to_depth(
    x: Array, block: Sequence[int], size: Sequence[int] | None = None, first: int = 0
) -> Array:
    """The pixels of each block as channels of their own: B of the equations above.

    Parameters
    ----------
    x : (N, C, Z, Y, X) array
    block : (int, int, int)
    size : (int, int, int), optional
        (Z, Y, X) of the result, ⌈size / block⌉ by default. Zeros where x has nothing for it.
    first : int
        The first channel to take.
    """
    x = contiguous(x)
    size = size or tuple(-(-n // s) for n, s in zip(x.shape[2:], block, strict=True))
    n, channels = len(x), x.shape[1] - first
    y = empty((n, channels * int(np.prod(block)), *size), x.dtype, like=x)
    space_to_depth_kernel(n * channels, x, y, first, *block)
    return y


def depth_to_space(
    x: Array,
    block: Sequence[int],
    size: Sequence[int],
    skip: Array | None = None,
    affine: Array | None = None,
    add: bool = True,
) -> Array:
    """Channels back to the pixels of each block: the adjoint of `space_to_depth`.

    Parameters
    ----------
    x : (N, C · SZ · SY · SX, z, y, x) array
    block : (int, int, int)
        (SZ, SY, SX).
    size : (int, int, int)
        (Z, Y, X) of the result. Zeros where x has nothing for it.
    skip : (N, A, Z, Y, X) array, optional
        Added to the result, or put in front of its channels.
    affine : (2, A) array, optional
        Read relu(affine[0] · skip + affine[1]) in place of `skip`.
    add : bool
    """
    x = contiguous(x)
    n, channels = len(x), x.shape[1] // int(np.prod(block))
    skip = empty((0,) * 5, x.dtype, like=x) if skip is None else contiguous(skip)
    affine = empty((0, 0), x.dtype, like=x) if affine is None else affine
    first = 0 if add else skip.shape[1]
    y = empty((n, first + channels, *size), x.dtype, like=x)
    depth_to_space_kernel(n * (first + channels), x, skip, affine, y, first, *block)
    return y


def _check(x, w, b, inputs):
    """`inputs` is the axis of w that has one entry for each channel of x."""
    if x.ndim != 5:
        raise InputError("x", "an (N, C, Z, Y, X) array", f"shape {x.shape}")
    if w.ndim != 5 or w.shape[inputs] != x.shape[1]:
        shape = (f"O, {x.shape[1]}", f"{x.shape[1]}, O")[inputs == 0]
        raise InputError("w", f"an ({shape}, SZ, SY, SX) array", f"shape {w.shape}")
    if w.dtype != x.dtype:
        raise InputError("w", f"dtype {x.dtype}", f"{w.dtype}")
    if b is not None and b.shape != (w.shape[1 - inputs],):
        raise InputError("b", f"shape ({w.shape[1 - inputs]},)", f"{b.shape}")


# ---- the loops --------------------------------------------------------------------------------


@kernel(launch=blocks_per_item)
def space_to_depth_kernel(start, stop, x, y, first, sz, sy, sx):
    channels = x.shape[1] - first
    depth, height, width = y.shape[2:]
    for item in range(start, stop):
        n, c = item // channels, item % channels
        source = x[n, first + c]
        for tap in range(sz * sy * sx):
            dz, dy, dx = tap // (sy * sx), tap // sx % sy, tap % sx
            inside = min(width, (source.shape[2] - dx + sx - 1) // sx)
            for z in range(depth):
                for i in range(height):
                    to = y[n, c * sz * sy * sx + tap, z, i]
                    zz, ii = z * sz + dz, i * sy + dy
                    if zz >= source.shape[0] or ii >= source.shape[1]:
                        to[:] = 0
                        continue
                    row = source[zz, ii]
                    if sx == 2:  # known at compile time, this loop uses the vector unit
                        for j in range(inside):
                            to[j] = row[2 * j + dx]
                    else:
                        for j in range(inside):
                            to[j] = row[sx * j + dx]
                    to[inside:] = 0


@kernel(launch=blocks_per_item)
def depth_to_space_kernel(start, stop, x, skip, affine, y, first, sz, sy, sx):
    channels, depth, height, width = y.shape[1:]
    zero = y.dtype.type(0)
    activate = affine.shape[0] == 2
    for item in range(start, stop):
        n, c = item // channels, item % channels
        k = (c - first) * sz * sy * sx
        beside = skip.size > 0 and (first == 0 or c < first)
        scale, shift = (affine[0, c], affine[1, c]) if activate and beside else (zero, zero)
        for z in range(depth):
            for i in range(height):
                to = y[n, c, z, i]
                if beside:
                    for j in range(width):
                        v = skip[n, c, z, i, j]
                        if activate:
                            v = max(v * scale + shift, zero)
                        to[j] = v
                else:
                    to[:] = 0
                if c < first or z // sz >= x.shape[2] or i // sy >= x.shape[3]:
                    continue
                for dx in range(sx):
                    tap = (z % sz * sy + i % sy) * sx + dx
                    row = x[n, k + tap, z // sz, i // sy]
                    for j in range(min(row.size, (width - dx + sx - 1) // sx)):
                        to[j * sx + dx] += row[j]
