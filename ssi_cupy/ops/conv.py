"""Convolution with zero padding, the output as large as the input.

Forward, for kernels of odd width K = 2 P + 1 (an axis of any dimension alike)::

    y[n, o, p] = b[o] + Σ_i Σ_k  w[o, i, k] · x[n, i, p + k − P]

Backward, with gy = ∂L/∂y: every y[p] that read x[q] had k = q − p + P, so ::

    gx[n, i, q] = Σ_o Σ_k  w[o, i, k] · gy[n, o, q − k + P]      (a convolution of gy, w mirrored)
    gw[o, i, k] = Σ_n Σ_p  gy[n, o, p] · x[n, i, p + k − P]      (gy against x, shifted by the tap)
    gb[o]       = Σ_n Σ_p  gy[n, o, p]

(Networks call this convolution; in the words of signal processing it is a correlation. A blur by
a point-spread function is a true convolution and lives in `fft_convolution.py`.)

How the loops work: a *band* of rows is copied into scratch memory that fits the second-level
cache, rows end to end, each with its zero padding (a "flat" image, see `register_tiles.py`). There,
the neighbour at tap (i, kz, ky, kx) is at a fixed distance, so one list of distances serves kernels
of any width and dimension, and register tiles run over pixels without minding where rows end.
The copy also applies what the reader of a feature map must apply, see `README.md`: with
``affine = (scale, shift)`` the op reads relu(scale · x + shift) in place of x.

Kernels of 3 × 3 and 5 × 5 between eight or more channels take another way on the CPU, with a
fraction of the products: see `winograd.py`. The plain sums here are what it is tested against.

Where less than float32's precision is enough, see `tensor_cores.py`.

The CUDA kernels cut the image otherwise, into tiles in shared memory, and need no list of
distances. How an image is cut, for either, is in `conv_tiling.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..engine.backend import contiguous, empty, inline, is_cupy, kernel, num_threads, placed
from ..engine.checks import InputError
from ..engine.cpu.register_tiles import OUTS, VECS, correlate_tile, product_tile
from ..engine.gpu import launch
from ..engine.types import Array, Shape
from ..tape import op
from . import conv_tiling, tensor_cores
from .conv_tiling import forward_launch, plan_of, slices_on_cuda, tiles_on_cuda, weights_launch
from .packed_weights import combined, packed
from .winograd import at_points, forward_band, weights_item


def conv_forward(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    affine: Array | None = None,
    moments: bool = False,
) -> tuple[Array, Any]:
    """y = w ⋆ x + b, "same" size, zeros outside.

    Parameters
    ----------
    x : (N, I, Z, Y, X) array
    w : (O, I, KZ, KY, KX) array, odd widths
    b : (O,) array, optional
    affine : (2, I) array, optional
        Read relu(affine[0] · x + affine[1]) in place of x.
    moments : bool
        Also return the sums of y − b and of (y − b)² over each part of the batch, a (parts, 2, O)
        float64 array: what `batch_affine` needs, while y is still in the cache.

    Returns
    -------
    y : (N, O, Z, Y, X) array
    saved : tuple
        With `moments`, ``(saved, sums)``.
    """
    _check(x, w, b)
    y, sums = _correlate(x, w, b, affine, moments)
    saved = (x, w, b is not None, affine)
    return (y, (saved, sums)) if moments else (y, saved)


def conv_backward(gy: Array, saved: Any) -> tuple[Array, ...]:
    """(gx, gw, gb) of `conv_forward`; with `affine`, gx is by the relu's output."""
    x, w, biased, affine = saved
    gx = conv_backward_input(gy, w)
    gw, gb = conv_backward_weights(gy, x, w.shape, affine)
    return (gx, gw, gb) if biased else (gx, gw)


def conv_backward_input(gy: Array, w: Array) -> Array:
    """gx: gy convolved with w, mirrored in space, its inputs and outputs exchanged."""
    return _correlate(contiguous(gy), w, None, None, False, mirrored=True)[0]


def conv_backward_weights(
    gy: Array,
    x: Array,
    shape: Shape,
    affine: Array | None = None,
    into: tuple[Array | None, Array | None] = (None, None),
) -> tuple[Array, Array]:
    """(gw, gb): gw of `shape`, in two stages, so that its bits do not depend on the threads.

    They are written to the two arrays `into`, where these are given.
    """
    gy, x = contiguous(gy), contiguous(x)
    if number := tensor_cores.products(x, *shape[:2], shape[2:]):
        if is_cupy(x):
            return tensor_cores.weights_gradient(gy, x, shape, _affine(affine, x), into, number)
        gy, x, affine = tensor_cores.rounded(gy), tensor_cores.rounded(x, affine), None
    plan = plan_of(x.shape, shape, x.dtype, num_threads())
    slices, rows = plan.slices, plan.gradient_rows
    if is_cupy(x):
        slices, rows = slices_on_cuda(x.shape, tuple(shape), x.itemsize, conv_tiling.ENOUGH)
    outputs = shape[0]
    blocks = -(-outputs // OUTS)
    triples = -(-math.prod(shape[1:]) // VECS)
    partial = empty((slices, blocks, triples, OUTS, VECS), x.dtype, like=x)
    bias = empty((slices, outputs), x.dtype, like=x)
    conv_weights_kernel(
        slices * plan.gradient_groups, x, _affine(affine, x), gy,
        placed(plan.gradient_taps, x), partial, bias,
        *plan.kernel_size, rows, slices,
        scratch=plan.gradient_scratch,
    )  # fmt: skip
    return combined(partial, bias, shape, into)


conv = op(conv_forward, conv_backward)


# ---- the loops --------------------------------------------------------------------------------


@inline
def _lay_flat(x, affine, n, z, y0, rows, kz, ky, kx, flat):
    """Rows y0 − ky//2 … of all channels and kz planes, end to end with their zero padding."""
    channels, depth, height, width = x.shape[1:]
    pad, pitch, tall = kx // 2, width + kx - 1, rows + ky - 1
    activate = affine.shape[0] == 2
    at = 0
    for i in range(channels):
        for dz in range(kz):
            zz = z + dz - kz // 2
            for r in range(tall):
                yy = y0 + r - ky // 2
                if 0 <= zz < depth and 0 <= yy < height:
                    for j in range(pad):
                        flat[at + j] = 0
                        flat[at + pad + width + j] = 0
                    if activate:
                        scale, shift = affine[0, i], affine[1, i]
                        for j in range(width):
                            v = x[n, i, zz, yy, j] * scale + shift
                            flat[at + pad + j] = v if v > 0 else x.dtype.type(0)
                    else:
                        for j in range(width):
                            flat[at + pad + j] = x[n, i, zz, yy, j]
                else:
                    for j in range(pitch):
                        flat[at + j] = 0
                at += pitch
    return at


def _with_raised_weights(args):
    """What the loop of `conv_forward_kernel` is given: by Winograd's method, weights at points."""
    x, affine, w, b, taps, y, sums, kz, ky, *rest = args
    if len(taps) == 0:
        w = at_points(w, ky)
    return x, affine, w, b, taps, y, sums, kz, ky, *rest


@kernel(
    fastmath=True,
    launch=forward_launch,
    prepare=_with_raised_weights,
)
def conv_forward_kernel(
    start, stop, scratch, x, affine, w, b, taps, y, sums, kz, ky, kx, rows, groups, tile
):
    if taps.size == 0:
        for item in range(start, stop):
            forward_band(item, scratch, x, affine, w, b, y, sums, kz, ky, rows, groups)
        return
    channels, depth, height, width = y.shape[1:]
    pitch = width + kx - 1
    bands = -(-height // rows)
    blocks = w.shape[0]
    length = (rows - 1) * pitch + width
    length = -(-length // tile) * tile
    for item in range(start, stop):
        band, group = item // groups, item % groups
        n, z, y0 = band // (depth * bands), band // bands % depth, band % bands * rows
        end = _lay_flat(x, affine, n, z, y0, rows, kz, ky, kx, scratch)
        out = (end + 2 * tile + 15) // 16 * 16  # on a cache line, behind all that tiles read
        here = min(rows, height - y0)
        used = min(length, here * pitch)
        for block in range(group * blocks // groups, (group + 1) * blocks // groups):
            for i in range(0, used, tile):
                correlate_tile(scratch, i, taps, taps.size, w.ravel(), block * taps.size * 8,
                               scratch, out + i, length)  # fmt: skip
            for o in range(block * 8, min(block * 8 + 8, channels)):
                bias = b[o]
                total, squares = 0.0, 0.0
                for r in range(here):
                    at = out + (o - block * 8) * length + r * pitch
                    row, row2 = x.dtype.type(0), x.dtype.type(0)
                    for j in range(width):  # sums in a loop of their own: see `backend.kernel`
                        v = scratch[at + j]
                        row += v
                        row2 += v * v
                    for j in range(width):
                        y[n, o, z, y0 + r, j] = scratch[at + j] + bias
                    total += row
                    squares += row2
                if sums.size:
                    sums[band, 0, o] = total
                    sums[band, 1, o] = squares


@kernel(fastmath=True, launch=weights_launch)
def conv_weights_kernel(
    start, stop, scratch, x, affine, gy, taps, partial, bias, kz, ky, kx, rows, slices
):
    if taps.size == 2:  # by Winograd's method; the number of groups, and of tiles to gather
        for item in range(start, stop):
            weights_item(item, scratch, x, affine, gy, partial, bias, kz, ky, rows, slices,
                         taps[0], taps[1])  # fmt: skip
        return
    channels, depth, height, width = gy.shape[1:]
    pitch = width + kx - 1
    bands = -(-height // rows)
    count = gy.shape[0] * depth * bands
    blocks = partial.shape[1]
    lane = 64 // x.itemsize
    length = -(-rows * pitch // lane) * lane
    # 8 rows of gy of a chunk's length stay near; all chunks are of nearly one length.
    chunks = max(1, (length + 40 * lane) // (80 * lane))
    out = partial.ravel()
    stride = partial[0, 0].size
    for item in range(start, stop):
        part, block = item // blocks, item % blocks
        first = (part * blocks + block) * stride
        out[first : first + stride] = 0
        outputs = min(8, channels - block * 8)
        bias[part, block * 8 : block * 8 + outputs] = 0
        for band in range(part * count // slices, (part + 1) * count // slices):
            n, z, y0 = band // (depth * bands), band // bands % depth, band % bands * rows
            end = _lay_flat(x, affine, n, z, y0, rows, kz, ky, kx, scratch)
            scratch[end : end + lane + kx] = 0  # read, times a zero of gy: must not be NaN
            g = (end + kx + 2 * lane) // lane * lane  # rows of gy start on a cache line
            for o in range(8):
                at = g + o * length
                if o >= outputs:
                    scratch[at : at + length] = 0
                    continue
                for r in range(rows):
                    if y0 + r < height:
                        row = gy[n, block * 8 + o, z, y0 + r]
                        total = x.dtype.type(0)
                        for j in range(width):  # see `backend.kernel`
                            total += row[j]
                        for j in range(width):
                            scratch[at + j] = row[j]
                        bias[part, block * 8 + o] += total
                        for j in range(width, pitch):
                            scratch[at + j] = 0
                    else:
                        for j in range(pitch):
                            scratch[at + j] = 0
                    at += pitch
                for j in range(at, g + (o + 1) * length):
                    scratch[j] = 0
            for part_of_row in range(chunks):
                i = part_of_row * (length // lane) // chunks * lane
                n_pixels = (part_of_row + 1) * (length // lane) // chunks * lane - i
                for t in range(0, taps.size, 3):
                    product_tile(scratch, g + i, length, scratch, i, taps, t,
                                 n_pixels, out, first + t * 8)  # fmt: skip


# ---- what all of them share ------------------------------------------------------------------


def _correlate(x, w, b, affine, moments, mirrored=False):
    x = contiguous(x)
    outputs, inputs = w.shape[1::-1] if mirrored else w.shape[:2]
    plan = plan_of(x.shape, (outputs, inputs, *w.shape[2:]), x.dtype, num_threads())
    bias = b if b is not None else placed(plan.no_bias, x)
    if number := tensor_cores.products(x, outputs, inputs, w.shape[2:]):
        if is_cupy(x):
            return tensor_cores.correlate(x, w, bias, _affine(affine, x), moments, mirrored, number)
        x, w, affine = tensor_cores.rounded(x, affine), tensor_cores.rounded(w), None
    y = empty((x.shape[0], outputs, *x.shape[2:]), x.dtype, like=x)
    parts = 0
    if moments:
        tiles, *_ = tiles_on_cuda(y.shape, inputs * w.shape[2], launch.THREADS)
        parts = tiles if is_cupy(x) else plan.bands
    sums = empty((parts, 2, outputs), np.float64, like=x)
    conv_forward_kernel(
        plan.bands * plan.groups,
        x, _affine(affine, x), packed(w, mirrored=mirrored), bias, placed(plan.taps, x), y, sums,
        *plan.kernel_size, plan.rows, plan.groups, plan.tile,
        scratch=plan.scratch,
    )  # fmt: skip
    return y, sums


def _affine(affine, x):
    return affine if affine is not None else empty((0, 0), x.dtype, like=x)


def _check(x, w, b):
    if x.ndim != 5:
        raise InputError("x", "an (N, C, Z, Y, X) array", f"shape {x.shape}")
    if w.ndim != 5 or any(k % 2 == 0 for k in w.shape[2:]):
        raise InputError("w", "an (O, I, KZ, KY, KX) array of odd widths", f"shape {w.shape}")
    if w.shape[1] != x.shape[1]:
        raise InputError("w", f"{x.shape[1]} input channels", f"{w.shape[1]}")
    if w.dtype != x.dtype:
        raise InputError("w", f"dtype {x.dtype}", f"{w.dtype}")
    if b is not None and b.shape != w.shape[:1]:
        raise InputError("b", f"shape ({w.shape[0]},)", f"{b.shape}")
