"""Convolution with fewer products: kernels of 3 × 3 and 5 × 5, by the method of Winograd.

A row of w has r taps, d is r + 3 numbers of x, and 4 numbers of y are wanted. As w and d are
polynomials, y can be found from their values at n = r + 3 points (Winograd 1980)::

    y = Aᵀ ((G w) · (Bᵀ d))           n products in place of 4 r: half as many for r = 3

In both directions of an image, with tiles of 4 × 4 pixels of y::

    y = Aᵀ (Σ_i (G w G') · (Bᵀ d B)) A       n² products in place of 16 r²

which is 4 times fewer for 3 × 3, and 6 times for 5 × 5. Along Z, and over input channels, the
products are summed as they are; each of the n² *positions* then is a matrix product of its own.
The gradient by the input is a convolution too. By the weights, what is linear is turned round::

    gw = G' (Σ_tiles (A gy Aᵀ) · (Bᵀ d B)) G

The points (`winograd_transforms.POINTS`) are those that lose least in float32: some 1e-6 of the
values, a few times as much as the plain sum.

How the loops work: a *band* is some rows of tiles, or a part of these in wide images, of one plane,
so small that all of its positions stay in the second-level cache. Rows of x are laid in *phases*,
every fourth pixel next to each other, so that neighbours in a vector are neighbouring tiles, and no
transform needs anything but loads, multiply-adds and stores (`winograd_transforms.py`).
"""

from __future__ import annotations

import functools

import numpy as np

from ..engine.backend import Loop, empty, inline
from ..engine.cpu.winograd_products import (
    contract_tile,
    matrix_tile_1,
    matrix_tile_2,
    matrix_tile_3,
)
from ..engine.cpu.winograd_transforms import (
    gradient_transform_3,
    gradient_transform_5,
    input_transform_3,
    input_transform_5,
    input_transform_rows_3,
    input_transform_rows_5,
    lay_phases,
    output_transform_3,
    output_transform_5,
    weight_gradient_transform_3,
    weight_gradient_transform_5,
    weight_transform_3,
    weight_transform_5,
)
from ..engine.types import Array

# ---- how an image is cut: all of it follows from the shapes -------------------------------------


@inline
def ceil_div(a, b):
    return -(-a // b)


@inline
def even_parts(whole, most):
    """The size of the parts of `whole`, all but the last alike, none larger than `most`."""
    return ceil_div(whole, ceil_div(whole, most))


@inline
def columns_of(width):
    """Tiles in a row of a band."""
    return even_parts(ceil_div(width, 4), 128)


@inline
def pitch_of(tiles, lane):
    """Room for so many tiles and a vector more: an odd number of vectors, in numbers.

    Were it even, or a power of two, rows would fall on the same few lines of the cache.
    """
    vectors = ceil_div(tiles, lane) + 1
    return (vectors | 1) * lane


@inline
def stride_of(rows, size, lane):
    """From one position of `rows` rows to the next: an odd number of vectors too."""
    return (rows * size // lane | 1) * lane


# ---- the transforms -----------------------------------------------------------------------------


@inline
def lay_row(source, affine, channel, shift, pitch, flat, to):
    """A row of an image in phases: pixel shift + 4 t + k comes to ``to + k pitch + t``.

    `shift` is negative where padding comes first.
    """
    one = source.dtype.type(1)
    activate = affine.shape[0] == 2
    scale, offset = (affine[0, channel], affine[1, channel]) if activate else (one, one - one)
    lay_phases(source, shift, -shift, len(source) - shift, scale, offset, activate,
               pitch // (64 // source.itemsize), flat, to, pitch)  # fmt: skip


@inline
def input_transform_band(x, affine, n, z, y0, x0, rows, across, r, kz, flat, work, to, size):
    """Bᵀ d B of all planes (channel, dz) of a band: `rows` rows of `across` tiles.

    Position p of plane k, tile t comes to ``to + p stride + k size + t``, with `stride_of`.
    """
    channels, depth, height = x.shape[1:4]
    lane = 64 // x.itemsize
    pitch = ceil_div(across + 1, lane) * lane  # tiles reach into the next one
    line, vectors = 4 * pitch, ceil_div(across, lane)
    planes = channels * kz
    stride = stride_of(planes, size, lane)
    tall = 4 * rows + r - 1
    transformed = work + tall * line
    for plane in range(planes):
        channel, zz = plane // kz, z + plane % kz - kz // 2
        for dy in range(tall):
            at, yy = work + dy * line, y0 + dy - r // 2
            if 0 <= zz < depth and 0 <= yy < height:
                row = x[n, channel, zz, yy]
                lay_row(row, affine, channel, x0 - r // 2, pitch, flat, at)
            else:
                flat[at : at + line] = 0
        for i in range(rows):
            at, target = work + i * 4 * line, to + plane * size + i * across
            if r == 3:
                input_transform_rows_3(flat, at, line, line // lane, flat, transformed, line)
                for j in range(6):
                    input_transform_3(
                        flat, transformed + j * line, pitch, vectors,
                        flat, target + 6 * j * stride, stride,
                    )  # fmt: skip
            else:
                input_transform_rows_5(flat, at, line, line // lane, flat, transformed, line)
                for j in range(8):
                    input_transform_5(
                        flat, transformed + j * line, pitch, vectors,
                        flat, target + 8 * j * stride, stride,
                    )  # fmt: skip


@inline(fastmath=True)
def gradient_transform_band(
    gy, affine, n, z, y0, x0, first, outputs, rows, across, r, flat, work, to, size, sums
):
    """A gy Aᵀ of outputs first … of a band, as `input_transform_band`; adds Σ gy to `sums`."""
    channels, _, height, width = gy.shape[1:]
    lane = 64 // gy.itemsize
    pitch = ceil_div(across, lane) * lane
    line, vectors = 4 * pitch, pitch // lane
    stride = stride_of(outputs, size, lane)
    transformed = work + 4 * line
    none = affine[:0]  # gy is read as it is
    for o in range(outputs):
        for i in range(rows):
            for dy in range(4):
                at, yy = work + dy * line, y0 + 4 * i + dy
                if first + o < channels and yy < height:
                    row = gy[n, first + o, z, yy]
                    pixels = row[x0 : min(width, x0 + 4 * across)]
                    total = gy.dtype.type(0)
                    for j in range(len(pixels)):
                        total += pixels[j]
                    sums[first + o] += total
                    lay_row(row, none, 0, x0, pitch, flat, at)
                else:
                    flat[at : at + line] = 0
            target = to + o * size + i * across
            if r == 3:
                gradient_transform_3(flat, work, line, line // lane, flat, transformed, line)
                for j in range(6):
                    gradient_transform_3(
                        flat, transformed + j * line, pitch, vectors,
                        flat, target + 6 * j * stride, stride,
                    )  # fmt: skip
            else:
                gradient_transform_5(flat, work, line, line // lane, flat, transformed, line)
                for j in range(8):
                    gradient_transform_5(
                        flat, transformed + j * line, pitch, vectors,
                        flat, target + 8 * j * stride, stride,
                    )  # fmt: skip


def at_points(w: Array, r: int) -> Array:
    """The `transformed_weights` of w, on rows of an odd number of lines: see `pitch_of`."""
    lane, items = 64 // w.itemsize, w.shape[0] * (w.shape[1] // r**2)
    out = empty(((r + 3) ** 2, (ceil_div(8 * items, lane) | 1) * lane // 8, 8), w.dtype)
    transformed_weights(items, w, out, r)
    return out


@functools.partial(Loop, grain=32)
def transformed_weights(start, stop, w, out, r):
    """G w G' of items (block, plane): w (blocks, planes · r², 8) → out (n², items or more, 8)."""
    local = np.empty(8 * 5 * 8, w.dtype)
    taps, points, stride = w.ravel(), out.ravel(), 8 * out.shape[1]
    for item in range(start, stop):
        if r == 3:
            weight_transform_3(taps, item * 72, 24, 3, local, 0, 24)
            for j in range(6):
                weight_transform_3(local, j * 24, 8, 1, points, 6 * j * stride + item * 8, stride)
        else:
            weight_transform_5(taps, item * 200, 40, 5, local, 0, 40)
            for j in range(8):
                weight_transform_5(local, j * 40, 8, 1, points, 8 * j * stride + item * 8, stride)


@inline
def weight_gradient_band(flat, at, stride, planes, r, work, out):
    """gw of a block of 8 outputs, from its sums: position p of plane k at ``at + p stride + 8 k``.

    `out` is (taps / 3, 8, 3), as `conv_weights_kernel` wants it.
    """
    lane = 64 // out.itemsize
    count = ceil_div(8 * planes, lane)
    line = (count + 1) * lane
    ends = work + 8 * r * line
    for k in range(r + 3):
        if r == 3:
            weight_gradient_transform_3(
                flat, at + k * stride, 6 * stride, count, flat, work + k * line, 8 * line
            )
        else:
            weight_gradient_transform_5(
                flat, at + k * stride, 8 * stride, count, flat, work + k * line, 8 * line
            )
    for i in range(r):
        if r == 3:
            weight_gradient_transform_3(
                flat, work + 8 * i * line, line, count, flat, ends + i * r * line, line
            )
        else:
            weight_gradient_transform_5(
                flat, work + 8 * i * line, line, count, flat, ends + i * r * line, line
            )
    out[-1] = 0  # a last three may not be full
    for plane in range(planes):
        for tap in range(r * r):
            to = plane * r * r + tap
            for o in range(8):
                out[to // 3, o, to % 3] = flat[ends + tap * line + plane * 8 + o]


# ---- the products -------------------------------------------------------------------------------


@inline
def multiply(w, w0, x, x0, pitch, count, vectors, y, y0, stride):
    """8 rows of a matrix product, one to three vectors wide."""
    if vectors == 1:
        matrix_tile_1(w, w0, x, x0, pitch, count, y, y0, stride)
    elif vectors == 2:
        matrix_tile_2(w, w0, x, x0, pitch, count, y, y0, stride)
    else:
        matrix_tile_3(w, w0, x, x0, pitch, count, y, y0, stride)


@inline(fastmath=True)
def forward_band(item, scratch, x, affine, w, b, y, sums, kz, r, rows, groups):
    """One item of `conv_forward_kernel`: a band of y, of one group of outputs."""
    channels, depth, height, width = y.shape[1:]
    lane = 64 // x.itemsize
    planes, positions = x.shape[1] * kz, (r + 3) * (r + 3)
    blocks = ceil_div(channels, 8)
    columns = columns_of(width)
    size = pitch_of(rows // 4 * columns, lane)
    parts = ceil_div(ceil_div(width, 4), columns)
    bands = ceil_div(height, rows) * parts
    band, group = item // groups, item % groups
    n, z, within = band // (depth * bands), band // bands % depth, band % bands
    y0, x0 = within // parts * rows, within % parts * columns * 4
    across = min(columns, ceil_div(width - x0, 4))
    lines = ceil_div(min(rows, height - y0), 4)
    first, last = group * blocks // groups, (group + 1) * blocks // groups
    outputs = (last - first) * 8
    stride, found_stride = stride_of(planes, size, lane), stride_of(outputs, size, lane)
    found = positions * stride
    work = found + positions * found_stride

    input_transform_band(x, affine, n, z, y0, x0, lines, across, r, kz, scratch, work, 0, size)
    vectors = ceil_div(lines * across, lane)
    flat = w.ravel()
    for position in range(positions):
        at = 0
        while at < vectors:  # three vectors stay in the first-level cache for all outputs
            wide = 2 if vectors - at == 4 else min(3, vectors - at)
            for block in range(first, last):
                multiply(
                    flat, (position * w.shape[1] + block * planes) * 8,
                    scratch, position * stride + at * lane, size, planes, wide, scratch,
                    found + position * found_stride + (block - first) * 8 * size + at * lane, size,
                )  # fmt: skip
            at += wide

    vectors = ceil_div(across, lane)
    long = vectors * lane * 4
    wide = min(4 * across, width - x0)
    for o in range(first * 8, min(last * 8, channels)):
        total, squares = 0.0, 0.0
        for line in range(lines):
            at = found + (o - first * 8) * size + line * across
            if r == 3:
                output_transform_3(scratch, at, found_stride, vectors, scratch, work, long)
            else:
                output_transform_5(scratch, at, found_stride, vectors, scratch, work, long)
            for dy in range(min(4, height - y0 - line * 4)):
                pixels = scratch[work + dy * long : work + dy * long + wide]
                row, row2 = x.dtype.type(0), x.dtype.type(0)
                for j in range(wide):  # sums in a loop of their own: see `backend.kernel`
                    v = pixels[j]
                    row += v
                    row2 += v * v
                bias = b[o]
                target = y[n, o, z, y0 + line * 4 + dy, x0 : x0 + wide]
                for j in range(wide):
                    target[j] = pixels[j] + bias
                total += row
                squares += row2
        if sums.size:
            sums[band, 0, o] = total
            sums[band, 1, o] = squares


@inline(fastmath=True)
def weights_item(
    item, scratch, x, affine, gy, partial, bias, kz, r, rows, slices, groups, capacity
):
    """One item of `conv_weights_kernel`: the bands of a slice, for one group of outputs.

    Tiles of several bands are gathered before they are multiplied, where bands are small: sums over
    fewer have more lanes to add up; more than `capacity` take more memory.
    """
    channels, depth, height, width = gy.shape[1:]
    lane = 64 // x.itemsize
    planes, positions = x.shape[1] * kz, (r + 3) * (r + 3)
    blocks = ceil_div(channels, 8)
    columns = columns_of(width)
    parts = ceil_div(ceil_div(width, 4), columns)
    bands = ceil_div(height, rows) * parts
    count = gy.shape[0] * depth * bands
    part, group = item // groups, item % groups
    first, last = group * blocks // groups, (group + 1) * blocks // groups
    outputs = (last - first) * 8
    per_band = rows // 4 * columns
    size = pitch_of(capacity, lane)
    even = ceil_div(planes, 3) * 3
    stride, gradient_stride = stride_of(planes, size, lane), stride_of(outputs, size, lane)
    gradient = positions * stride
    summed = gradient + positions * gradient_stride
    summed_stride = outputs * even
    work = summed + positions * summed_stride
    scratch[summed:work] = 0
    bias[part, first * 8 : min(last * 8, channels)] = 0

    tiles = 0
    stop = (part + 1) * count // slices
    for band in range(part * count // slices, stop):
        n, z, within = band // (depth * bands), band // bands % depth, band % bands
        y0, x0 = within // parts * rows, within % parts * columns * 4
        across = min(columns, ceil_div(width - x0, 4))
        lines = ceil_div(min(rows, height - y0), 4)
        input_transform_band(
            x, affine, n, z, y0, x0, lines, across, r, kz, scratch, work, tiles, size
        )
        gradient_transform_band(
            gy, affine, n, z, y0, x0, first * 8, outputs, lines, across, r, scratch, work,
            gradient + tiles, size, bias[part],
        )  # fmt: skip
        tiles += lines * across
        if tiles + per_band <= capacity and band + 1 < stop:
            continue
        vectors = ceil_div(tiles, lane)
        for position in range(positions):
            at, to = position * stride, gradient + position * gradient_stride
            for k in range(planes):  # what is behind the last tile
                scratch[at + k * size + tiles : at + k * size + vectors * lane] = 0
            for o in range(outputs):
                scratch[to + o * size + tiles : to + o * size + vectors * lane] = 0
            for o in range(0, outputs, 8):
                for k in range(0, planes, 3):
                    contract_tile(
                        scratch, to + o * size, size, scratch, at + k * size,
                        at + min(k + 1, planes - 1) * size, at + min(k + 2, planes - 1) * size,
                        vectors, scratch, summed + position * summed_stride + o * even + k * 8,
                    )  # fmt: skip
        tiles = 0

    for block in range(first, last):
        at = summed + (block - first) * 8 * even
        weight_gradient_band(scratch, at, summed_stride, planes, r, 0, partial[part, block])
