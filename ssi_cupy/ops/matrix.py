"""The convolution on a GPU's matrix units, which multiply small matrices of rounded numbers.

`precision.py` says who asks for it; here is which convolutions can, those between enough channels,
and how. With k a tap, the sums of `conv.py` are products of matrices,

    y        = Σ_k  w[:, :, k] · x[:, · + k − P]      outputs × inputs  times  inputs × pixels
    gw[…, k] = gy · x[:, · + k − P]ᵀ                  outputs × pixels  times  pixels × inputs

A number v is rounded to TF32, 11 significant bits, half away from zero. What is lost is at most
2⁻¹¹ of each number. Or it is split, v = h + l, both of TF32, and of the product of two such sums

    v v' = h h' + h l' + l h' + l l'

the last, at most 2⁻²² of the whole, is left out (three products: "tf32x3").

On a CPU the loops below do the same, number by number: to see what that precision does to a
training, not to be fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .. import cuda, precision
from ..backend import contiguous, empty, inline, is_cupy, kernel
from ..checks import DeviceError
from ..cuda import threads_per_item
from .cutting import ENOUGH, lay_flat
from .filters import combined

FEWEST_INPUTS, FEWEST_OUTPUTS = 8, 16  # channels, for matrices of 16 × 8 to be worth it
WIDEST = 7  # kernel along Y or X
SHARED = 40960, 98304  # bytes of shared memory that a block takes, forward and for the weights
PIXELS = 128  # of a tile of matrix_weights_kernel
PARTS = 8  # sums of a weights' gradient on the CPU


def products(x, outputs, inputs, kernel_size):
    """How many products of TF32 numbers stand for one: 1, 3, or 0 for a plain convolution."""
    number = precision.PRODUCTS[precision.current()]
    large = inputs >= FEWEST_INPUTS and outputs >= FEWEST_OUTPUTS
    if not number or not large or x.dtype != np.float32 or max(kernel_size[1:]) > WIDEST:
        return 0
    if is_cupy(x) and not cuda.has_matrix_units():
        expected = "'float32' on a GPU of a compute capability below 8.0"
        raise DeviceError("precision", expected, repr(precision.current()))
    return number


def correlate(x, w, b, affine, moments, mirrored, number):
    """What `conv._correlate` does, by that `number` of products."""
    outputs, inputs = w.shape[1::-1] if mirrored else w.shape[:2]
    y = empty((x.shape[0], outputs, *x.shape[2:]), x.dtype, like=x)
    cut = forward_cut(y.shape, inputs, w.shape[2:], cuda.THREADS)
    into = (1 if number == 1 else 2, cut.blocks * math.prod((cut.octets, *w.shape[2:])), 128)
    packed = empty(into, x.dtype, like=x)
    filters = contiguous(w).reshape(*w.shape[:2], -1)
    pack_matrix_kernel(cut.blocks * cut.octets, filters, packed, mirrored)
    rows = math.prod((len(y), *y.shape[2:4]))
    parts = (cut.tiles if is_cupy(x) else rows) if moments else 0
    sums = empty((parts, 2, outputs), np.float64, like=x)
    matrix_forward_kernel(
        rows, x, affine, packed, b, y, sums, *w.shape[2:], cut.tall, cut.columns, cut.staged,
        scratch=2 * _flat(x, w.shape[2:]) + x.shape[4],
    )  # fmt: skip
    return y, sums


def weights_gradient(gy, x, shape, affine, into, number):
    """What `conv.conv_backward_weights` does, by that `number` of products."""
    cut = weights_cut(x.shape, shape, cuda.THREADS)
    slices = cut.slices if is_cupy(x) else min(PARTS, math.prod((len(x), *x.shape[2:4])))
    outputs, taps = shape[0], math.prod(shape[1:])
    partial = empty((slices, -(-outputs // 8), -(-taps // 3), 8, 3), x.dtype, like=x)
    bias = empty((slices, outputs), x.dtype, like=x)
    matrix_weights_kernel(
        slices, x, affine, gy, partial, bias, *shape[2:], number, cut.tall, cut.columns, slices,
        scratch=2 * (_flat(x, shape[2:]) + x.shape[4]),
    )  # fmt: skip
    return combined(partial, bias, shape, into)


def _flat(x, kernel_size):
    kz, ky, kx = kernel_size
    return x.shape[1] * kz * ky * (x.shape[4] + kx - 1)


# ---- how an image is cut on CUDA ----------------------------------------------------------------
#
# A block of threads is (32 lanes, warps `along` the outputs, warps `across` the matrix's columns).


@dataclass(frozen=True)
class Cut:
    """Everything that follows from the shapes alone."""

    tall: int  # times 16 outputs of a warp
    columns: int  # of a tile of pixels
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int  # bytes
    octets: int  # of inputs
    staged: int = 0  # octets in shared memory at once
    slices: int = 0

    @property
    def tiles(self):
        return self.grid[0] * self.grid[2]

    @property
    def blocks(self):
        """Times 16 outputs that there are weights for, zeros where there are no outputs."""
        return self.grid[1] * self.block[1] * self.tall


def _outputs(outputs, most):
    """(tall, warps of a block along the outputs, blocks along them)."""
    tall = 3 if -(-outputs // 48) * 48 < -(-outputs // 32) * 32 else 2
    warps = -(-outputs // (16 * tall))
    blocks = -(-warps // most)
    return tall, -(-warps // blocks), blocks


def _padded(numbers, apart):
    """Numbers from plane to plane, as in matrix.cu."""
    return -(-(numbers - apart) // 32) * 32 + apart


def forward_cut(shape, inputs, kernel_size, threads):
    """The `Cut` of a convolution to `shape`, for blocks of at most that many threads."""
    n, outputs, depth, height, width = shape
    _, ky, kx = kernel_size
    most = threads // 32
    tall, along, blocks = _outputs(outputs, min(4, most))
    columns = min(32, max(8, 1 << (width - 1).bit_length()))
    across = 1 << (most // along).bit_length() - 1  # a power of two
    while True:
        lines = across * (64 if tall == 2 else 32) // columns
        grid = -(-height // lines) * -(-width // columns), blocks, n * depth
        if across == 1 or (math.prod(grid) >= ENOUGH and lines < 2 * height):
            break
        across //= 2
    octets = -(-inputs // 8)
    octet = 8 * 4 * _padded((lines + ky - 1) * (columns + kx - 1), 8)
    staged = max(1, min(octets, SHARED[0] // octet))
    shared = max(staged * octet, 2 * 16 * tall * along * across * 4)
    return Cut(tall, columns, grid, (32, along, across), shared, octets, staged=staged)


def weights_cut(x_shape, w_shape, threads):
    """The `Cut` of a weights' gradient, for blocks of at most 6 warps."""
    n, inputs, depth, height, width = x_shape
    outputs, _, kz, ky, kx = w_shape
    taps, octets = ky * kx, -(-inputs // 8)
    most = min(6, threads // 32)
    columns = 8 if width <= 8 else 16
    lines = PIXELS // columns
    plane = 4 * _padded((lines + ky - 1) * (columns + kx - 1), 4)

    def shared(along, of_block):
        ends = [(f, min(octets * taps, f + of_block)) for f in range(0, octets * taps, of_block)]
        span = max((last - 1) // taps + 1 - first // taps for first, last in ends)
        return 4 * 16 * tall * along * (_padded(PIXELS, 4) + 1) + 8 * span * plane

    tall, along, blocks = _outputs(outputs, min(3, most))
    of_warp = 9 if tall == 2 else 6
    across = max(1, min(most // along, -(-octets * taps // of_warp)))
    while across > 1 and shared(along, across * of_warp) > SHARED[1]:
        across -= 1
    parts = -(-octets * taps // (across * of_warp)) * kz
    count = n * depth * -(-height // lines) * -(-width // columns)
    fits = (64 << 20) // (4 * math.prod(w_shape))
    slices = max(1, min(count, -(-2 * ENOUGH // (blocks * parts)), fits))
    size = shared(along, across * of_warp)
    grid = slices, blocks, parts
    return Cut(tall, columns, grid, (32, along, across), size, octets, slices=slices)


def _forward_launch(n, args, threads):
    x, y, kernel_size = args[0], args[4], tuple(args[6:9])
    cut = forward_cut(y.shape, x.shape[1], kernel_size, threads)
    return cut.grid, cut.block, cut.shared


def _weights_launch(n, args, threads):
    x, gy, kernel_size = args[0], args[2], tuple(args[5:8])
    cut = weights_cut(x.shape, (gy.shape[1], x.shape[1], *kernel_size), threads)
    return cut.grid, cut.block, cut.shared


# ---- the loops --------------------------------------------------------------------------------


@inline
def _to_tf32(numbers, low, size, split):
    """The first `size` numbers, rounded in place; what that leaves out to `low` if they are split.

    A matrix unit does not see the last 13 bits; half of the first of them is added before. Of a NaN
    that may make a zero, so it stays, or is in `low`.
    """
    words, lower = numbers.view(np.uint32), low.view(np.uint32)
    half, seen = np.uint32(0x1000), np.uint32(0xFFFFE000)
    for j in range(size):
        v = numbers[j]
        if split or v == v:
            words[j] = (words[j] + half) & seen
        if split:
            low[j] = v - numbers[j]
            lower[j] = lower[j] & seen


@inline
def _place(o, i, tap, octets, taps):
    """Where a weight is in a half of the packed ones: how the lanes of a warp hold a matrix."""
    step = (o // 16 * octets + i // 8) * taps + tap
    return step * 128 + (o % 8 * 4 + i % 4) * 4 + o % 16 // 8 + i % 8 // 4 * 2


def _a_thread_each(n, args, threads):
    return threads_per_item(1)(args[1][0].size, args, threads)


@kernel(launch=_a_thread_each)
def pack_matrix_kernel(start, stop, w, into, mirrored):
    """An item is 16 outputs of 8 inputs: `into` is [high, low][item, tap][lane][4]."""
    taps = w.shape[2]
    outputs, inputs = (w.shape[1], w.shape[0]) if mirrored else (w.shape[0], w.shape[1])
    octets = (inputs + 7) // 8
    split = into.shape[0] == 2
    high, low = into[0].ravel(), into[into.shape[0] - 1].ravel()
    for item in range(start, stop):
        size = taps * 128
        here = high[item * size : (item + 1) * size]
        here[:] = 0
        for o in range(item // octets * 16, min(item // octets * 16 + 16, outputs)):
            for i in range(item % octets * 8, min(item % octets * 8 + 8, inputs)):
                for tap in range(taps):
                    v = w[i, o, taps - 1 - tap] if mirrored else w[o, i, tap]
                    high[_place(o, i, tap, octets, taps)] = v
        _to_tf32(here, low[item * size : (item + 1) * size], size, split)


@kernel(fastmath=True, launch=_forward_launch)
def matrix_forward_kernel(
    start, stop, scratch, x, affine, w, b, y, sums, kz, ky, kx, tall, columns, staged
):
    channels, depth, height, width = y.shape[1:]
    inputs, octets, taps = x.shape[1], (x.shape[1] + 7) // 8, kz * ky * kx
    pitch = width + kx - 1
    size = inputs * kz * ky * pitch
    high, low = scratch[:size], scratch[size : 2 * size]
    row = scratch[2 * size : 2 * size + width]
    split = w.shape[0] == 2
    w_high, w_low = w[0].ravel(), w[w.shape[0] - 1].ravel()
    for item in range(start, stop):
        n, z, line = item // (depth * height), item // height % depth, item % height
        lay_flat(x, affine, n, z, line, 1, kz, ky, kx, high)
        _to_tf32(high, low, size, split)
        for o in range(channels):
            row[:] = 0
            for i in range(inputs):
                for tap in range(taps):
                    at = (i * kz * ky + tap // kx) * pitch + tap % kx
                    place = _place(o, i, tap, octets, taps)
                    v, v_low = w_high[place], w_low[place]
                    if split:
                        for j in range(width):
                            row[j] += v * high[at + j] + (v * low[at + j] + v_low * high[at + j])
                    else:
                        for j in range(width):
                            row[j] += v * high[at + j]
            total, squares = x.dtype.type(0), x.dtype.type(0)
            for j in range(width):  # sums in a loop of their own: see `backend.kernel`
                total += row[j]
                squares += row[j] * row[j]
            for j in range(width):
                y[n, o, z, line, j] = row[j] + b[o]
            if sums.size:
                sums[item, 0, o] = total
                sums[item, 1, o] = squares


@kernel(fastmath=True, launch=_weights_launch)
def matrix_weights_kernel(
    start, stop, scratch, x, affine, gy, partial, bias, kz, ky, kx, products, tall, columns, slices
):
    channels, depth, height, width = gy.shape[1:]
    inputs, taps = x.shape[1], kz * ky * kx
    pitch = width + kx - 1
    size, count = inputs * kz * ky * pitch, gy.shape[0] * depth * height
    high, low = scratch[:size], scratch[size : 2 * size]
    g, g_low = scratch[2 * size : 2 * size + width], scratch[2 * size + width :]
    split = products == 3
    for part in range(start, stop):
        partial[part] = 0
        bias[part] = 0
        for item in range(part * count // slices, (part + 1) * count // slices):
            n, z, line = item // (depth * height), item // height % depth, item % height
            lay_flat(x, affine, n, z, line, 1, kz, ky, kx, high)
            _to_tf32(high, low, size, split)
            for o in range(channels):
                for j in range(width):
                    g[j] = gy[n, o, z, line, j]
                    g_low[j] = 0
                _to_tf32(g, g_low, width, split)
                total = x.dtype.type(0)
                for j in range(width):
                    total += g[j] + g_low[j]
                bias[part, o] += total
                for tap in range(inputs * taps):
                    at = tap // kx * pitch + tap % kx
                    total = x.dtype.type(0)
                    if split:
                        for j in range(width):
                            v = g[j] * low[at + j] + g_low[j] * high[at + j]
                            total += g[j] * high[at + j] + v
                    else:
                        for j in range(width):
                            total += g[j] * high[at + j]
                    partial[part, o // 8, tap // 3, o % 8, tap % 3] += total
