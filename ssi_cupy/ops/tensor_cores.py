"""The convolution on a GPU's tensor cores, which multiply small matrices of rounded numbers.

`precision.py` says who asks for it; here is which convolutions can, those between enough channels,
and how. With k a tap, the sums of `conv.py` are products of matrices,

    y        = Σ_k  w[:, :, k] · x[:, · + k − P]      outputs × inputs  times  inputs × pixels
    gx       = Σ_k  w[:, :, k]ᵀ · gy[:, · − k + P]    inputs × outputs  times  outputs × pixels
    gw[…, k] = gy · x[:, · + k − P]ᵀ                  outputs × pixels  times  pixels × inputs

of which the second is the first for mirrored weights.

A number v is rounded to TF32, 11 significant bits, half away from zero. What is lost is at most
2⁻¹¹ of each number. Or it is split, v = h + l, both of TF32, and of the product of two such sums

    v v' = h h' + h l' + l h' + l l'

the last, at most 2⁻²² of the whole, is left out (three products: "tf32x3").

Tensor cores do not round sums, they cut them towards zero [1]_: four products and what they are
added to are aligned to the largest of them and cut behind its 25th bit, and their sum behind its
24th. So such a step loses at most 5 · 2⁻²⁴ + 2⁻²³ = 3.5 · 2⁻²³ of the largest number in it, and K
products at most 3.5 · 2⁻²³ · K / 4 of the largest that their sum has been ("tf32"). With three
products, eight of these begin at zero, and their sum is added in float32, to the nearest: what is
cut is at most 7 · 2⁻²³ of the sum of the sizes of such eights, whatever K is.

On a CPU numbers are rounded likewise and then convolved as ever, so that what "tf32" does to a
training can be seen there; to "tf32x3", float32 itself comes as near. On neither is cut.

References
----------
.. [1] M. Fasi, N. J. Higham, M. Mikaitis, S. Pranesh, "Numerical behavior of NVIDIA tensor cores",
   PeerJ Computer Science 7:e330 (2021): of the A100; later ones keep more bits, see F. A. Khattak,
   M. Mikaitis, "Accurate models of NVIDIA tensor cores", arXiv:2512.07004 (2025).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..engine import precision
from ..engine.backend import contiguous, empty, is_cupy, kernel
from ..engine.checks import DeviceError
from ..engine.gpu import driver, launch
from ..engine.gpu.launch import threads_per_item
from ..engine.types import Array, Shape
from .conv_tiling import ENOUGH
from .packed_weights import combined

FEWEST_INPUTS, FEWEST_OUTPUTS = 8, 16  # channels, for matrices of 16 × 8 to be worth it
WIDEST = 7  # kernel along Y or X
SHARED = 40960, 98304  # bytes of shared memory that a block takes, forward and for the weights
WARPS = 6  # of a block, at most: then there are two blocks to a processor
PIXELS = 128  # of a tile of matrix_weights_kernel
ALONE = "on CUDA alone"


def products(x: Array, outputs: int, inputs: int, kernel_size: Shape) -> int:
    """How many products of TF32 numbers stand for one: 1, 3, or 0 for a plain convolution."""
    number = precision.PRODUCTS[precision.current()]
    large = inputs >= FEWEST_INPUTS and outputs >= FEWEST_OUTPUTS
    if not number or not large or x.dtype != np.float32 or max(kernel_size[1:]) > WIDEST:
        return 0
    if not is_cupy(x):
        return 1 if number == 1 else 0
    if not driver.has_tensor_cores():
        expected = "'float32' on a GPU of a compute capability below 8.0"
        raise DeviceError("precision", expected, repr(precision.current()))
    return number


def rounded(x: Array, affine: Array | None = None) -> Array:
    """relu(affine · x), or x, to TF32: what a tensor core sees of it."""
    x = contiguous(x)
    y = empty(x.shape, x.dtype, like=x)
    affine = empty((0, 0), x.dtype, like=x) if affine is None else affine
    round_kernel(x.size, x, affine, y)
    return y


def correlate(
    x: Array, w: Array, b: Array, affine: Array, moments: bool, mirrored: bool, number: int
) -> tuple[Array, Array]:
    """What `conv._correlate` does, on CUDA, by that `number` of products."""
    outputs, inputs = w.shape[1::-1] if mirrored else w.shape[:2]
    y = empty((x.shape[0], outputs, *x.shape[2:]), x.dtype, like=x)
    cut = forward_cut(y.shape, inputs, w.shape[2:], launch.THREADS)
    blocks = cut.blocks * cut.octets
    packed = empty((1 if number == 1 else 2, blocks * math.prod(w.shape[2:]), 128), x.dtype, like=x)
    pack_matrix_kernel(blocks, contiguous(w).reshape(*w.shape[:2], -1), packed, mirrored)
    sums = empty((cut.tiles if moments else 0, 2, outputs), np.float64, like=x)
    settings = *w.shape[2:], cut.tall, cut.columns, cut.staged
    matrix_forward_kernel(cut.tiles, x, affine, packed, b, y, sums, *settings)
    return y, sums


def weights_gradient(
    gy: Array,
    x: Array,
    shape: Shape,
    affine: Array,
    into: tuple[Array | None, Array | None],
    number: int,
) -> tuple[Array, Array]:
    """What `conv.conv_backward_weights` does, on CUDA, by that `number` of products."""
    cut = weights_cut(x.shape, shape, launch.THREADS)
    outputs, taps = shape[0], math.prod(shape[1:])
    partial = empty((cut.slices, -(-outputs // 8), -(-taps // 3), 8, 3), x.dtype, like=x)
    bias = empty((cut.slices, outputs), x.dtype, like=x)
    settings = *shape[2:], number, cut.tall, cut.columns, cut.slices
    matrix_weights_kernel(cut.slices, x, affine, gy, partial, bias, *settings)
    return combined(partial, bias, shape, into)


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
    def tiles(self) -> int:
        return self.grid[0]

    @property
    def blocks(self) -> int:
        """Times 16 outputs that there are weights for, zeros where there are no outputs."""
        return self.grid[1] * self.block[1] * self.tall


def _outputs(outputs, most):
    """(tall, warps of a block along the outputs, blocks along them)."""
    tall = 3 if -(-outputs // 48) * 48 < -(-outputs // 32) * 32 else 2
    warps = -(-outputs // (16 * tall))
    blocks = -(-warps // most)
    return tall, -(-warps // blocks), blocks


def _padded(numbers, apart):
    """Numbers from plane to plane, as in tensor_cores.cu."""
    return -(-(numbers - apart) // 32) * 32 + apart


def forward_cut(shape: Shape, inputs: int, kernel_size: Shape, threads: int) -> Cut:
    """The `Cut` of a convolution to `shape`, for blocks of at most so many threads."""
    n, outputs, depth, height, width = shape
    _, ky, kx = kernel_size
    most = min(WARPS, threads // 32)
    tall, along, blocks = _outputs(outputs, min(3, most))
    columns = min(32, max(8, 1 << (width - 1).bit_length()))
    across = most // along
    while True:
        lines = across * (64 if tall == 2 else 32) // columns
        grid = -(-height // lines) * -(-width // columns) * n * depth, blocks, 1
        if across == 1 or (math.prod(grid) >= ENOUGH and lines < 2 * height):
            break
        across //= 2
    octets = -(-inputs // 8)
    octet = 8 * 4 * _padded((lines + ky - 1) * (columns + kx - 1), 8)
    staged = max(1, min(octets, SHARED[0] // octet))
    shared = max(staged * octet, 2 * 16 * tall * along * across * 4)
    return Cut(tall, columns, grid, (32, along, across), shared, octets, staged=staged)


def weights_cut(x_shape: Shape, w_shape: Shape, threads: int) -> Cut:
    """The `Cut` of a weights' gradient, likewise."""
    n, inputs, depth, height, width = x_shape
    outputs, _, kz, ky, kx = w_shape
    taps, octets = ky * kx, -(-inputs // 8)
    most = min(WARPS, threads // 32)
    columns = 8 if width <= 8 else 16
    lines = PIXELS // columns
    plane = 4 * _padded((lines + ky - 1) * (columns + kx - 1), 4)

    def shared():
        every = range(0, octets * taps, across * of_warp)
        ends = [(first, min(octets * taps, first + across * of_warp)) for first in every]
        span = max((last - 1) // taps + 1 - first // taps for first, last in ends)
        return 4 * 16 * tall * along * (_padded(PIXELS, 4) + 1) + 8 * span * plane

    for widest in range(min(3, most), 0, -1):
        tall, along, blocks = _outputs(outputs, widest)
        of_warp = 9 if tall == 2 else 6
        across = max(1, min(most // along, -(-octets * taps // of_warp)))
        while across > 1 and shared() > SHARED[1]:
            across -= 1
        if shared() <= SHARED[1]:
            break
    parts = -(-octets * taps // (across * of_warp)) * kz
    count = n * depth * -(-height // lines) * -(-width // columns)
    fits = (64 << 20) // (4 * math.prod(w_shape))
    slices = max(1, min(count, -(-2 * ENOUGH // (blocks * parts)), fits))
    grid = slices, blocks, parts
    return Cut(tall, columns, grid, (32, along, across), shared(), octets, slices=slices)


def _forward_launch(n, args, threads):
    x, y, kernel_size = args[0], args[4], tuple(args[6:9])
    cut = forward_cut(y.shape, x.shape[1], kernel_size, threads)
    return cut.grid, cut.block, cut.shared


def _weights_launch(n, args, threads):
    x, gy, kernel_size = args[0], args[2], tuple(args[5:8])
    cut = weights_cut(x.shape, (gy.shape[1], x.shape[1], *kernel_size), threads)
    return cut.grid, cut.block, cut.shared


# ---- the loops --------------------------------------------------------------------------------


@kernel(grain=32768)
def round_kernel(start, stop, x, affine, y):
    """y = relu(affine · x), rounded. An item is a pixel of a channel of an image.

    A tensor core does not see the last 13 bits; half of the first of them is added before. Of a NaN
    that might make a zero, so it stays what it is.
    """
    pixels = x[0, 0].size
    source, target = x.ravel(), y.ravel()
    words = target.view(np.uint32)
    half, seen = np.uint32(0x1000), np.uint32(0xFFFFE000)
    activate = affine.shape[0] == 2
    for i in range(start, stop):
        v = source[i]
        if activate:
            channel = i // pixels % x.shape[1]
            v = v * affine[0, channel] + affine[1, channel]
            v = v if v > 0 else x.dtype.type(0)
        target[i] = v
        if v == v:
            words[i] = (words[i] + half) & seen


# On CUDA alone: what these are held against are the loops of `conv.py`, on rounded numbers.


def _a_thread_each(n, args, threads):
    return threads_per_item(1)(args[1][0].size, args, threads)


@kernel(launch=_a_thread_each)
def pack_matrix_kernel(start, stop, w, into, mirrored):
    raise NotImplementedError(ALONE)


@kernel(launch=_forward_launch)
def matrix_forward_kernel(
    start, stop, x, affine, w, b, y, sums, kz, ky, kx, tall, columns, staged
):  # fmt: skip
    raise NotImplementedError(ALONE)


@kernel(launch=_weights_launch)
def matrix_weights_kernel(
    start, stop, x, affine, gy, partial, bias, kz, ky, kx, products, tall, columns, slices
):
    raise NotImplementedError(ALONE)
