"""Convolution with fewer products: kernels of 3 × 3 and 5 × 5, by the method of Winograd.

A row of w has r taps, and m = 7 − r numbers of y are wanted, so six of x are read, d. Both are
polynomials, and their correlation can be found from its values at six points (Winograd 1980)::

    y = Aᵀ ((G w) · (Bᵀ d))        6 products in place of m r:   8 → 12 for r = 3, 10 for r = 5

In both directions of an image, with tiles of m × m pixels of y, and d of 6 × 6 of x::

    y = Aᵀ (Σ_i (G w G') · (Bᵀ d B)) A                            36 products in place of (m r)²

which is 4 times fewer for 3 × 3, and 2.8 times for 5 × 5. Along Z, and over input channels, the
products are summed as they are; each of the 36 positions then is a matrix product of its own. The
gradient by the input is a convolution too. By the weights, with what is linear turned round::

    gw = G' (Σ_tiles (A gy Aᵀ) · (Bᵀ d B)) G

The points 0, ±3/4, ±3/2, ∞ lose least in float32: about twice the rounding of the plain sum.

How the loops work: a *band* is some rows of tiles, or a part of these in wide images, of one plane,
so small that all of its 36 positions stay in the second-level cache. Rows of x are laid in
*phases*, every m-th pixel next to each other, so that neighbours in a vector are neighbouring
tiles, and no transform needs anything but loads, multiply-adds and stores (`simd.py`).
"""

from __future__ import annotations

import numpy as np

from ..backend import inline
from ..simd import (
    contract_tile,
    gather_2,
    gather_4,
    lay_2,
    lay_4,
    lower_weights_3,
    lower_weights_5,
    matrix_tile_1,
    matrix_tile_2,
    matrix_tile_3,
    raise_2,
    raise_4,
    raise_weights_3,
    raise_weights_5,
    spread_2,
    spread_4,
    spread_rows,
)

POSITIONS = 36


# ---- how an image is cut: all of it follows from the shapes -------------------------------------


@inline
def ceil_div(a, b):
    return -(-a // b)


@inline
def even_parts(whole, most):
    """The size of the parts of `whole`, all but the last alike, none larger than `most`."""
    return ceil_div(whole, ceil_div(whole, most))


@inline
def columns_of(width, m):
    """Tiles in a row of a band."""
    return even_parts(ceil_div(width, m), 128)


@inline
def pitch_of(tiles, lane):
    """Vectors that hold so many tiles and one more, an odd number, so that rows of them do not
    fall on the same lines of the cache; in numbers."""
    return (ceil_div(tiles, lane) | 1) * lane + lane * (ceil_div(tiles, lane) & 1) * 2


@inline
def stride_of(rows, size, lane):
    """From one position of `rows` rows to the next: an odd number of vectors too."""
    return (rows * size // lane | 1) * lane


@inline
def capacity_of(planes, outputs, lane):
    """Tiles that a weights' gradient gathers: sums over fewer have more lanes to add up."""
    return (16 if planes + outputs <= 300 else 8) * lane


# ---- the transforms -----------------------------------------------------------------------------


@inline
def lay_row(source, affine, channel, shift, m, pitch, flat, to):
    """A row of an image in phases: pixel shift + m t + k comes to ``to + k pitch + t``.

    `shift` is negative where padding comes first.
    """
    one = source.dtype.type(1)
    activate = affine.shape[0] == 2
    scale, offset = (affine[0, channel], affine[1, channel]) if activate else (one, one - one)
    count = pitch // (64 // source.itemsize)
    if m == 2:
        lay_2(source, shift, -shift, len(source) - shift, scale, offset, activate,
              count, flat, to, pitch)  # fmt: skip
    else:
        lay_4(source, shift, -shift, len(source) - shift, scale, offset, activate,
              count, flat, to, pitch)  # fmt: skip


@inline
def spread_band(x, affine, n, z, y0, x0, rows, across, m, kz, flat, work, to, size):
    """Bᵀ d B of all planes (channel, dz) of a band: `rows` rows of `across` tiles.

    Position p of plane k, tile t comes to ``to + p stride + k size + t``, with `stride_of`.
    """
    channels, depth, height, width = x.shape[1:]
    lane = 64 // x.itemsize
    pitch = ceil_div(across + 2, lane) * lane
    pad = 2 if m == 2 else 1
    planes = channels * kz
    stride = stride_of(planes, size, lane)
    laid = work
    tall = m * rows + 6 - m
    raised = laid + tall * m * pitch
    for plane in range(planes):
        channel, zz = plane // kz, z + plane % kz - kz // 2
        for r in range(tall):
            at, yy = laid + r * m * pitch, y0 + r - pad
            if 0 <= zz < depth and 0 <= yy < height:
                lay_row(x[n, channel, zz, yy], affine, channel, x0 - pad, m, pitch, flat, at)
            else:
                flat[at : at + m * pitch] = 0
        for r in range(rows):
            first = laid + r * m * m * pitch
            spread_rows(flat, first, m * pitch, m * pitch // lane, flat, raised, m * pitch)
            for j in range(6):
                source = raised + j * m * pitch
                target = to + 6 * j * stride + plane * size + r * across
                if m == 2:
                    spread_2(flat, source, pitch, ceil_div(across, lane),
                             flat, target, stride)  # fmt: skip
                else:
                    spread_4(flat, source, pitch, ceil_div(across, lane),
                             flat, target, stride)  # fmt: skip


@inline(fastmath=True)
def raise_band(
    gy, affine, n, z, y0, x0, first, outputs, rows, across, m, flat, work, to, size, sums
):
    """A gy Aᵀ of outputs first … of a band, as `spread_band`; adds Σ gy to `sums`."""
    channels, _, height, width = gy.shape[1:]
    lane = 64 // gy.itemsize
    pitch = ceil_div(across, lane) * lane
    stride = stride_of(outputs, size, lane)
    laid = work
    raised = laid + m * m * pitch
    none = affine[:0]  # gy is read as it is
    for o in range(outputs):
        for r in range(rows):
            for dy in range(m):
                here, yy = laid + dy * m * pitch, y0 + r * m + dy
                if first + o < channels and yy < height:
                    row = gy[n, first + o, z, yy]
                    pixels = row[x0 : min(width, x0 + m * across)]
                    total = gy.dtype.type(0)
                    for j in range(len(pixels)):
                        total += pixels[j]
                    sums[first + o] += total
                    lay_row(row, none, 0, x0, m, pitch, flat, here)
                else:
                    flat[here : here + m * pitch] = 0
            if m == 2:
                raise_2(flat, laid, m * pitch, m * pitch // lane, flat, raised, m * pitch)
            else:
                raise_4(flat, laid, m * pitch, m * pitch // lane, flat, raised, m * pitch)
            for j in range(6):
                source = raised + j * m * pitch
                target = to + 6 * j * stride + o * size + r * across
                if m == 2:
                    raise_2(flat, source, pitch, ceil_div(across, lane),
                            flat, target, stride)  # fmt: skip
                else:
                    raise_4(flat, source, pitch, ceil_div(across, lane),
                            flat, target, stride)  # fmt: skip


@inline
def raised_weights(start, stop, w, out, r):
    """G w G' of items (block, plane): w (blocks, planes · r², 8) → out (36, items, 8)."""
    local = np.empty(6 * 5 * 8, w.dtype)
    taps, points, stride = w.ravel(), out.ravel(), 8 * out.shape[1]
    for item in range(start, stop):
        if r == 3:
            raise_weights_3(taps, item * 72, 24, 3, local, 0, 24)
            for j in range(6):
                raise_weights_3(local, j * 24, 8, 1, points, 6 * j * stride + item * 8, stride)
        else:
            raise_weights_5(taps, item * 200, 40, 5, local, 0, 40)
            for j in range(6):
                raise_weights_5(local, j * 40, 8, 1, points, 6 * j * stride + item * 8, stride)


# ---- the products -------------------------------------------------------------------------------


@inline
def multiply(w, w0, x, x0, pitch, count, vectors, y, y0, stride):
    """8 rows of a matrix product, in tiles of three vectors or two; one where there is but one."""
    lane = 64 // x.itemsize
    at = 0
    while at < vectors:
        left = vectors - at
        if left == 1:
            matrix_tile_1(w, w0, x, x0 + at * lane, pitch, count, y, y0 + at * lane, stride)
            at += 1
        elif left == 2 or left == 4:
            matrix_tile_2(w, w0, x, x0 + at * lane, pitch, count, y, y0 + at * lane, stride)
            at += 2
        else:
            matrix_tile_3(w, w0, x, x0 + at * lane, pitch, count, y, y0 + at * lane, stride)
            at += 3


@inline(fastmath=True)
def forward_band(item, scratch, x, affine, w, b, y, sums, kz, m, rows, groups):
    """One item of `conv_forward_kernel`: a band of y, of one group of outputs."""
    channels, depth, height, width = y.shape[1:]
    lane = 64 // x.itemsize
    planes = x.shape[1] * kz
    blocks = ceil_div(channels, 8)
    columns = columns_of(width, m)
    size = pitch_of(rows // m * columns, lane)
    across_all = ceil_div(ceil_div(width, m), columns)
    bands = ceil_div(height, rows) * across_all
    band, group = item // groups, item % groups
    n, z, within = band // (depth * bands), band // bands % depth, band % bands
    y0, x0 = within // across_all * rows, within % across_all * columns * m
    across = min(columns, ceil_div(width - x0, m))
    lines = ceil_div(min(rows, height - y0), m)
    first, last = group * blocks // groups, (group + 1) * blocks // groups
    outputs = (last - first) * 8
    stride = stride_of(planes, size, lane)
    found = 36 * stride
    found_stride = stride_of(outputs, size, lane)
    work = found + 36 * found_stride

    spread_band(x, affine, n, z, y0, x0, lines, across, m, kz, scratch, work, 0, size)
    vectors = ceil_div(lines * across, lane)
    flat = w.ravel()
    for position in range(36):
        at = 0
        while at < vectors:  # as wide as a tile, so that it stays near for all outputs
            wide = min(3, vectors - at)
            if vectors - at == 4:
                wide = 2
            for block in range(first, last):
                multiply(
                    flat, (position * blocks + block) * planes * 8,
                    scratch, position * stride + at * lane, size, planes, wide,
                    scratch,
                    found + position * found_stride + (block - first) * 8 * size + at * lane, size,
                )  # fmt: skip
            at += wide

    long = ceil_div(across, lane) * lane * m
    wide = min(m * across, width - x0)
    for o in range(first * 8, min(last * 8, channels)):
        total, squares = 0.0, 0.0
        for line in range(lines):
            at = found + (o - first * 8) * size + line * across
            if m == 2:
                gather_2(scratch, at, found_stride, ceil_div(across, lane), scratch, work, long)
            else:
                gather_4(scratch, at, found_stride, ceil_div(across, lane), scratch, work, long)
            for r in range(min(m, height - y0 - line * m)):
                pixels = scratch[work + r * long : work + r * long + wide]
                row, row2 = x.dtype.type(0), x.dtype.type(0)
                for j in range(wide):  # sums in a loop of their own: see `backend.kernel`
                    v = pixels[j]
                    row += v
                    row2 += v * v
                bias = b[o]
                target = y[n, o, z, y0 + line * m + r, x0 : x0 + wide]
                for j in range(wide):
                    target[j] = pixels[j] + bias
                total += row
                squares += row2
        if sums.size:
            sums[band, 0, o] = total
            sums[band, 1, o] = squares


@inline(fastmath=True)
def weights_item(item, scratch, x, affine, gy, partial, bias, kz, m, rows, slices, groups):
    """One item of `conv_weights_kernel`: the bands of a slice, for one group of outputs.

    Tiles of several bands are gathered before they are multiplied, where bands are small.
    """
    channels, depth, height, width = gy.shape[1:]
    lane = 64 // x.itemsize
    planes = x.shape[1] * kz
    blocks = ceil_div(channels, 8)
    columns = columns_of(width, m)
    across_all = ceil_div(ceil_div(width, m), columns)
    bands = ceil_div(height, rows) * across_all
    count = gy.shape[0] * depth * bands
    part, group = item // groups, item % groups
    first, last = group * blocks // groups, (group + 1) * blocks // groups
    outputs = (last - first) * 8
    capacity = max(rows // m * columns, capacity_of(planes, outputs, lane))
    size = pitch_of(capacity, lane)
    even = ceil_div(planes, 3) * 3
    stride, gradient_stride = stride_of(planes, size, lane), stride_of(outputs, size, lane)
    gradient = 36 * stride
    summed = gradient + 36 * gradient_stride
    work = summed + 36 * outputs * even
    scratch[summed : summed + 36 * outputs * even] = 0
    bias[part, first * 8 : min(last * 8, channels)] = 0

    tiles = 0
    stop = (part + 1) * count // slices
    for band in range(part * count // slices, stop):
        n, z, within = band // (depth * bands), band // bands % depth, band % bands
        y0, x0 = within // across_all * rows, within % across_all * columns * m
        across = min(columns, ceil_div(width - x0, m))
        lines = ceil_div(min(rows, height - y0), m)
        spread_band(x, affine, n, z, y0, x0, lines, across, m, kz, scratch, work, tiles, size)
        raise_band(gy, affine, n, z, y0, x0, first * 8, outputs, lines, across, m, scratch, work,
                   gradient + tiles, size, bias[part])  # fmt: skip
        tiles += lines * across
        if tiles + rows // m * columns <= capacity and band + 1 < stop:
            continue
        vectors = ceil_div(tiles, lane)
        for position in range(36):  # what is behind the last tile
            for row in range(planes + outputs):
                at = position * stride + row * size
                if row >= planes:
                    at = gradient + position * gradient_stride + (row - planes) * size
                for j in range(at + tiles, at + vectors * lane):
                    scratch[j] = 0
        for position in range(36):
            at = position * stride
            for block in range(last - first):
                for k in range(0, planes, 3):
                    contract_tile(
                        scratch, gradient + position * gradient_stride + block * 8 * size, size,
                        scratch, at + k * size, at + min(k + 1, planes - 1) * size,
                        at + min(k + 2, planes - 1) * size, vectors,
                        scratch, summed + ((position * (last - first) + block) * even + k) * 8,
                    )  # fmt: skip
        tiles = 0

    r = 7 - m
    row = even * 8  # sums of all planes
    stride = (last - first) * row
    lowered = row + lane
    ends = 6 * r * lowered  # where the transforms were is room now
    for block in range(last - first):
        at, count = summed + block * row, ceil_div(row, lane)
        for k in range(6):
            if r == 3:
                lower_weights_3(scratch, at + k * stride, 6 * stride, count,
                                scratch, k * lowered, 6 * lowered)  # fmt: skip
            else:
                lower_weights_5(scratch, at + k * stride, 6 * stride, count,
                                scratch, k * lowered, 6 * lowered)  # fmt: skip
        for i in range(r):
            if r == 3:
                lower_weights_3(scratch, 6 * i * lowered, lowered, count,
                                scratch, ends + i * r * lowered, lowered)  # fmt: skip
            else:
                lower_weights_5(scratch, 6 * i * lowered, lowered, count,
                                scratch, ends + i * r * lowered, lowered)  # fmt: skip
        out = partial[part, first + block]
        out[-1] = 0
        for plane in range(planes):
            for tap in range(r * r):
                to = plane * r * r + tap
                for o in range(8):
                    out[to // 3, o, to % 3] = scratch[ends + tap * lowered + plane * 8 + o]
