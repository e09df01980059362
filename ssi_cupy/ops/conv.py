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
cache, rows end to end, each with its zero padding (a "flat" image, see `simd.py`). There, the
neighbour at tap (i, kz, ky, kx) is at a fixed distance, so one list of distances serves kernels
of any width and dimension, and register tiles run over pixels without minding where rows end.
The copy also applies what the reader of a feature map must apply, see `README.md`: with
``affine = (scale, shift)`` the op reads relu(scale · x + shift) in place of x.

Kernels of 3 × 3 and 5 × 5 between eight or more channels take another way on the CPU, with a
fraction of the products: see `winograd.py`. The plain sums here are what it is tested against.

The CUDA kernels cut the image otherwise, into tiles in shared memory, and need no list of
distances; how many of their threads have which pixels is at the end of this file.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from .. import cuda
from ..backend import contiguous, empty, inline, is_cupy, kernel, placed, zeros
from ..checks import InputError
from ..simd import OUTS, POINTS, TILE, VECS, correlate_tile, lanes, product_tile
from ..tape import op
from ..threads import share_out
from . import winograd
from .filters import combined, packed
from .winograd import forward_band, raised_weights, weights_item


def conv_forward(x, w, b=None, *, affine=None, moments=False):
    """y = w ⋆ x + b, "same" size, zeros outside.

    Parameters
    ----------
    x : (N, I, Z, Y, X) array
    w : (O, I, KZ, KY, KX) array, odd widths
    b : (O,) array, optional
    affine : (2, I) array, optional
        Read relu(affine[0] · x + affine[1]) in place of x.
    moments : bool
        Also return the sums over (N, Z, Y, X) of y − b and (y − b)², as a (2, O) float64 array:
        what batch normalisation needs, while y is still in the cache.

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


def conv_backward(gy, saved):
    """(gx, gw, gb) of `conv_forward`; with `affine`, gx is by the relu's output."""
    x, w, biased, affine = saved
    gx = conv_backward_input(gy, w)
    gw, gb = conv_backward_weights(gy, x, w.shape, affine)
    return (gx, gw, gb) if biased else (gx, gw)


def conv_backward_input(gy, w):
    """gx: gy convolved with w, mirrored in space, its inputs and outputs exchanged."""
    return _correlate(contiguous(gy), w, None, None, False, mirrored=True)[0]


def conv_backward_weights(gy, x, shape, affine=None):
    """(gw, gb): gw of `shape`, in two stages, so that its bits do not depend on the threads."""
    gy, x = contiguous(gy), contiguous(x)
    plan = _plan(x.shape, shape, x.dtype)
    slices, rows = plan.slices, plan.gradient_rows
    if is_cupy(x):
        slices, rows = _slices_on_cuda(x.shape, shape, x.itemsize)
    outputs = shape[0]
    blocks = -(-outputs // OUTS)
    triples = -(-int(np.prod(shape[1:])) // VECS)
    partial = empty((slices, blocks, triples, OUTS, VECS), x.dtype, like=x)
    bias = empty((slices, outputs), x.dtype, like=x)
    conv_weights_kernel(
        slices * plan.gradient_groups, x, _affine(affine, x), gy,
        placed(plan.gradient_taps, x), partial, bias,
        *plan.kernel_size, rows, slices,
        scratch=plan.gradient_scratch,
    )  # fmt: skip
    return combined(partial, shape), bias.sum(axis=0)


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
        planes = w.shape[1] // ky**2
        raised = empty(((ky + 3) ** 2, w.shape[0] * planes, OUTS), w.dtype)
        share_out(raised_weights.compiled, raised.shape[1], 256, (0, None), (w, raised, ky))
        w = raised
    return x, affine, w, b, taps, y, sums, kz, ky, *rest


@kernel(
    fastmath=True,
    launch=lambda n, args, threads: _forward_launch(args, threads),
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
                correlate_tile(scratch, i, taps, w.ravel(), block * taps.size * 8,
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


@kernel(fastmath=True, launch=lambda n, args, threads: _weights_launch(args, threads))
def conv_weights_kernel(
    start, stop, scratch, x, affine, gy, taps, partial, bias, kz, ky, kx, rows, slices
):
    if taps.size == 1:  # by Winograd's method; the number of groups
        for item in range(start, stop):
            weights_item(item, scratch, x, affine, gy, partial, bias, kz, ky, rows, slices,
                         taps[0])  # fmt: skip
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


# ---- how an image is cut ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Everything that follows from the shapes alone."""

    kernel_size: tuple[int, int, int]
    rows: int  # of a band
    bands: int  # over all images and planes
    groups: int  # of output channels, where there are too few bands to keep threads busy
    taps: np.ndarray  # none: by Winograd's method
    tile: int
    scratch: int
    # of the weights' gradient
    gradient_rows: int
    slices: int  # partial sums
    gradient_groups: int  # of output channels
    gradient_taps: np.ndarray  # their number made a multiple of VECS; or [gradient_groups]
    gradient_scratch: int


@functools.lru_cache(maxsize=256)
def _plan(x_shape, w_shape, dtype):
    if _by_winograd(x_shape, w_shape):
        return _winograd_plan(x_shape, w_shape, dtype)
    n, inputs, depth, height, width = x_shape
    kz, ky, kx = kernel_size = w_shape[2:]
    pitch = width + kx - 1
    # A band has at most 16 rows (fewer rows read its edges again more often), fits 1.5 MB, and is
    # small enough that there are 8 of them, unless it would then have fewer than 4 rows.
    fits = 1_500_000 // (dtype.itemsize * inputs * kz * pitch) - (ky - 1)
    rows = max(1, min(16, height, fits))
    while rows > 4 and n * depth * -(-height // rows) < 8:
        rows -= 1
    rows = -(-height // -(-height // rows))  # bands of nearly one size
    tall = rows + ky - 1
    distance = np.arange(inputs * kz)[:, None, None] * tall * pitch
    distance = distance + np.arange(ky)[:, None] * pitch + np.arange(kx)
    taps = distance.ravel().astype(np.int64)
    triples = np.concatenate([taps, np.zeros(-len(taps) % VECS, np.int64)])
    bands = n * depth * -(-height // rows)
    blocks = -(-w_shape[0] // OUTS)
    lane = lanes(dtype)
    tile = VECS * lane
    image = inputs * kz * tall * pitch + 2 * tile + kx + 64
    return _Plan(
        kernel_size=kernel_size,
        rows=rows,
        bands=bands,
        groups=min(blocks, -(-8 // bands)),
        taps=taps,
        tile=tile,
        scratch=image + OUTS * (rows * pitch + tile),
        gradient_rows=rows,
        slices=_slices(bands, blocks, len(triples)),
        gradient_groups=blocks,
        gradient_taps=triples,
        gradient_scratch=image + OUTS * (rows * pitch + lane),
    )


def _slices(bands, blocks, taps):
    """Partial sums of a weights' gradient: fewer where they are large."""
    return min(bands, max(2, min(16, 500_000 // (blocks * OUTS * taps))))


FEWEST_CHANNELS = 8  # on both sides, for Winograd's method to be worth its transforms
FEWEST_TILES = 16  # of a plane


def _by_winograd(x_shape, w_shape):
    outputs, inputs, _, ky, kx = w_shape
    tiles = -(-x_shape[3] // TILE) * -(-x_shape[4] // TILE)
    fits = ky == kx and ky in POINTS and tiles >= FEWEST_TILES
    return fits and min(inputs, outputs) >= FEWEST_CHANNELS


def _winograd_plan(x_shape, w_shape, dtype):
    n, inputs, depth, height, width = x_shape
    outputs, _, kz, r, _ = w_shape
    lane, planes, blocks, positions = lanes(dtype), inputs * kz, -(-outputs // OUTS), (r + 3) ** 2
    columns = winograd.columns_of(width)
    lines, across = -(-height // TILE), -(-width // (TILE * columns))
    line = -(-(columns + 1) // lane) * lane * TILE

    def bands(rows):
        return n * depth * -(-lines // rows) * across

    def scratch(rows, size, outputs, more=0):
        matrices = positions * ((planes + outputs) * size + 2 * lane)
        return matrices + more + line * (TILE * rows + 2 * r + 2) + 8 * lane

    # A band's matrices fit 900 kB, unless it would be less than two products wide.
    fits = 900_000 // (positions * dtype.itemsize * (planes + blocks * OUTS))
    rows = min(lines, max(1, max(fits, 2 * VECS * lane) // columns))
    while rows > 1 and bands(rows) < 8:
        rows -= 1
    rows = winograd.even_parts(lines, rows)
    groups = min(blocks, -(-8 // bands(rows)))
    size = winograd.pitch_of(rows * columns, lane)

    # A group of outputs has 6 MB of sums.
    gradient_groups = min(blocks, -(-positions * planes * blocks * OUTS // 1_500_000))
    of_group = -(-blocks // gradient_groups) * OUTS
    numbers = positions * (planes + of_group)
    gradient_rows = min(lines, max(1, (16 if numbers <= 8000 else 8) * lane // columns))
    gradient_rows = winograd.even_parts(lines, gradient_rows)
    while gradient_rows > 1 and bands(gradient_rows) < 8:
        gradient_rows -= 1
    tiles = n * depth * lines * -(-width // TILE)
    slices = _slices(bands(gradient_rows), blocks, planes * r * r)
    slices = min(slices, max(2, tiles // 256))
    per_band, per_slice = gradient_rows * columns, -(-bands(gradient_rows) // slices)
    capacity = winograd.capacity_of(numbers, lane, per_band, per_slice)
    gradient_size = winograd.pitch_of(capacity, lane)
    return _Plan(
        kernel_size=w_shape[2:],
        rows=rows * TILE,
        bands=bands(rows),
        groups=groups,
        taps=np.zeros(0, np.int64),
        tile=0,
        scratch=scratch(rows, size, -(-blocks // groups) * OUTS),
        gradient_rows=gradient_rows * TILE,
        slices=slices,
        gradient_groups=gradient_groups,
        gradient_taps=np.array([gradient_groups]),
        gradient_scratch=scratch(
            gradient_rows, gradient_size, of_group, positions * of_group * (planes + 2)
        ),
    )


def _correlate(x, w, b, affine, moments, mirrored=False):
    x = contiguous(x)
    outputs, inputs = w.shape[1::-1] if mirrored else w.shape[:2]
    plan = _plan(x.shape, (outputs, inputs, *w.shape[2:]), x.dtype)
    bias = b if b is not None else zeros(outputs, x.dtype, like=x)
    y = empty((x.shape[0], outputs, *x.shape[2:]), x.dtype, like=x)
    parts = 0
    if moments:  # of each band or tile, whichever there are more of; what nobody fills stays zero
        parts = max(plan.bands, _tiles(y.shape, inputs * w.shape[2], cuda.THREADS)[0])
    sums = zeros((parts, 2, outputs), np.float64, like=x)
    conv_forward_kernel(
        plan.bands * plan.groups,
        x, _affine(affine, x), packed(w, mirrored=mirrored), bias, placed(plan.taps, x), y, sums,
        *plan.kernel_size, plan.rows, plan.groups, plan.tile,
        scratch=plan.scratch,
    )  # fmt: skip
    return y, sums.sum(axis=0) if moments else None


def _affine(affine, x):
    return affine if affine is not None else empty((0, 0), x.dtype, like=x)


# ---- the same on CUDA -------------------------------------------------------------------------

ENOUGH = 264  # blocks that keep a large GPU busy: two for each of its processors
PIXELS = 4  # neighbours along X that a thread has
WARPS = {4: 10, 8: 8}  # of a block of conv_weights_kernel, at most; by itemsize
SHARED = 40960  # bytes of shared memory that a block takes, so that several fit


def _tiles(shape, planes, threads):
    """How conv_forward_kernel cuts y: ``(number of tiles, columns, lines, slices)``.

    A tile is 4 columns × lines pixels large, as large as leaves enough blocks. On small images
    it is smaller than a block of threads, of which `slices` groups then share the planes.
    """
    n, channels, depth, height, width = shape
    for slices in (1, 2, 4, 8):
        columns, lines = _rectangle(threads // slices)
        tiles = n * depth * -(-height // lines) * -(-width // (PIXELS * columns))
        enough = tiles * -(-channels // OUTS) >= ENOUGH
        if enough or threads // (2 * slices) < 32 or 2 * slices > planes:
            break
    return tiles, columns, lines, slices


def _rectangle(threads):
    """(columns, lines) of that many threads, a power of two; a tile is 4 × as wide."""
    columns = 16 if threads >= 128 else 8 if threads >= 64 else 4
    return columns, threads // columns


def _forward_launch(args, threads):
    x, y, (kz, ky, kx) = args[0], args[5], args[7:10]
    planes = x.shape[1] * kz
    _, columns, lines, slices = _tiles(y.shape, planes, threads)
    numbers = (lines + ky - 1) * _row_length(PIXELS * columns, kx) + ky * kx * OUTS
    fit = SHARED // (x.itemsize * numbers * slices)  # planes, as in conv.cu
    shared = slices * max(1, min(fit, 4)) * numbers
    if slices > 1:
        shared = max(shared, 4 * PIXELS * threads)
    across = -(-y.shape[4] // (PIXELS * columns)) * -(-y.shape[3] // lines)
    grid = across, -(-y.shape[1] // OUTS), y.shape[0] * y.shape[2]
    return grid, (columns, lines, slices), shared * x.itemsize


def _weights_launch(args, threads):
    x, partial, (kz, ky, kx) = args[0], args[4], args[6:9]
    lines, per_block, parts = _parts(x.shape[1] * kz, ky, x.itemsize, threads)
    tile = OUTS * 8 * 64 + per_block * (8 + lines - 1) * _row_length(64, kx)
    return (*partial.shape[:2], parts), (32, per_block * lines), tile * x.itemsize


def _parts(planes, ky, itemsize, threads):
    """Of conv_weights_kernel: rows of taps that a block has of a plane, a warp each; planes that
    it has; blocks for all planes."""
    warps = WARPS[itemsize]
    lines = min(ky, warps)
    per_block = max(1, min(planes, min(threads // 25, warps) // lines))
    return lines, per_block, -(-planes // per_block) * -(-ky // lines)


def _slices_on_cuda(x_shape, w_shape, itemsize):
    """(slices of the image, rows of a band) for conv_weights_kernel: as many slices as give enough
    blocks, of bands of 8 rows, which are one tile high; but partial sums of 64 MiB at most."""
    n, inputs, depth, height, _ = x_shape
    outputs, _, kz, ky, _ = w_shape
    blocks = -(-outputs // OUTS) * _parts(inputs * kz, ky, itemsize, cuda.THREADS)[2]
    fits = (64 << 20) // (itemsize * int(np.prod(w_shape)))
    return max(1, min(n * depth * -(-height // 8), -(-2 * ENOUGH // blocks), fits)), 8


def _row_length(width, kx):
    """Numbers in a row of a tile, as in tiles.cuh."""
    return width + (0 if kx == 1 else 4 if kx <= 5 else -(-kx // 4) * 4)


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
