"""How `conv.py` cuts an image: everything there follows from shapes alone.

On the CPU into *bands* of rows whose working set fits the second-level cache, with a list of the
distances at which the taps lie; on CUDA into tiles of a block of threads. A weights' gradient is
summed over *slices* of the image first, then over the slices in their order, so their number must
not depend on the threads. *Groups* of output channels share out what is left of a small image: each
transforms the same input anew, so there are no more of them than the threads need.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.cpu.llvm import lanes
from ..engine.cpu.register_tiles import OUTS, VECS
from ..engine.cpu.winograd_transforms import POINTS, TILE
from ..engine.types import Array, Grid, Shape
from . import winograd

# ---- on the CPU ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Everything that follows from the shapes alone."""

    kernel_size: tuple[int, int, int]
    no_bias: Array  # zeros
    rows: int  # of a band
    bands: int  # over all images and planes
    groups: int  # of output channels, where there are too few bands for the threads
    taps: Array  # none: by Winograd's method
    tile: int
    scratch: int
    # of the weights' gradient
    gradient_rows: int
    slices: int  # partial sums
    gradient_groups: int  # of output channels
    gradient_taps: Array  # their number made a multiple of VECS; or [groups, tiles to gather]
    gradient_scratch: int


@functools.lru_cache(maxsize=256)
def plan_of(x_shape: Shape, w_shape: Shape, dtype: np.dtype[Any], threads: int) -> Plan:
    """The `Plan` of a convolution of x by w. No bit of a result depends on the threads."""
    if _by_winograd(x_shape, w_shape):
        return _winograd_plan(x_shape, w_shape, dtype, threads)
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
    return Plan(
        kernel_size=kernel_size,
        no_bias=np.zeros(w_shape[0], dtype),
        rows=rows,
        bands=bands,
        groups=_groups(blocks, bands, threads),
        taps=taps,
        tile=tile,
        scratch=image + OUTS * (rows * pitch + tile),
        gradient_rows=rows,
        slices=_slices(bands, blocks, len(triples)),
        gradient_groups=blocks,
        gradient_taps=triples,
        gradient_scratch=image + OUTS * (rows * pitch + lane),
    )


def _groups(blocks, parts, threads):
    """Groups of output channels that make two items for each thread of so many parts."""
    return min(blocks, -(-2 * threads // parts)) if threads > 1 else 1


def _slices(parts, blocks, taps):
    """Partial sums of a weights' gradient: fewer where they are large."""
    return min(parts, max(2, min(16, 500_000 // (blocks * OUTS * taps))))


FEWEST_CHANNELS = 8  # on both sides, for Winograd's method to be worth its transforms
FEWEST_TILES = 4  # of a plane


def _by_winograd(x_shape, w_shape):
    outputs, inputs, _, ky, kx = w_shape
    tiles = -(-x_shape[3] // TILE) * -(-x_shape[4] // TILE)
    fits = ky == kx and ky in POINTS and tiles >= FEWEST_TILES
    return fits and min(inputs, outputs) >= FEWEST_CHANNELS


def _winograd_plan(x_shape, w_shape, dtype, threads):
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

    # A band's matrices fit 900 kB, unless it would be less than two products wide. There are 8
    # bands, unless they would have less than a line of tiles, of which every product costs as much.
    fits = 900_000 // (positions * dtype.itemsize * (planes + blocks * OUTS))
    rows = min(lines, max(1, max(fits, 2 * VECS * lane) // columns))
    while rows > 1 and bands(rows) < 8 and (rows - 1) * columns >= lane:
        rows -= 1
    rows = winograd.even_parts(lines, rows)
    groups = _groups(blocks, bands(rows), threads)
    size = winograd.pitch_of(rows * columns, lane)

    # A group of outputs has 6 MB of sums. How many tiles are gathered for these, and the slices,
    # decide on the order of the sums.
    gradient_groups = min(blocks, -(-positions * planes * blocks * OUTS // 1_500_000))
    numbers = positions * (planes + -(-blocks // gradient_groups) * OUTS)
    gathered = (16 if numbers <= 8000 else 8) * lane
    tiles = n * depth * lines * -(-width // TILE)
    fewest = 2 if blocks == 1 else 1
    slices = min(_slices(tiles, blocks, planes * r * r), max(fewest, tiles // 256))
    slices += slices > 1 and slices % 2
    gradient_rows = winograd.even_parts(lines, min(lines, max(1, gathered // columns)))
    while gradient_rows > 1 and bands(gradient_rows) < slices:
        gradient_rows -= 1
    slices = min(slices, bands(gradient_rows))
    gradient_groups = max(gradient_groups, _groups(blocks, slices, threads))
    of_group = -(-blocks // gradient_groups) * OUTS
    per_band, per_slice = gradient_rows * columns, -(-bands(gradient_rows) // slices)
    capacity = max(per_band, min(per_band * per_slice, gathered))
    gradient_size = winograd.pitch_of(capacity, lane)
    return Plan(
        kernel_size=w_shape[2:],
        no_bias=np.zeros(outputs, dtype),
        rows=rows * TILE,
        bands=bands(rows),
        groups=groups,
        taps=np.zeros(0, np.int64),
        tile=0,
        scratch=scratch(rows, size, -(-blocks // groups) * OUTS),
        gradient_rows=gradient_rows * TILE,
        slices=slices,
        gradient_groups=gradient_groups,
        gradient_taps=np.array([gradient_groups, capacity]),
        gradient_scratch=scratch(
            gradient_rows, gradient_size, of_group, positions * of_group * (planes + 2)
        ),
    )


# ---- on CUDA ------------------------------------------------------------------------------------

ENOUGH = 264  # blocks that keep a large GPU busy: two for each of its processors
PIXELS = 4  # neighbours along X that a thread has
WARPS = 8  # of a block of conv_weights_kernel
ROWS = {3: 3, 5: 2}  # of taps, that a warp of it has, by the kernel's width; else 1
TILE_SIZE = {4: (12, 64), 8: (8, 64)}  # lines and columns of its tiles, by itemsize
SHARED = 40960  # bytes of shared memory that a block takes, so that several fit
MOST = 62 << 10  # that a block of conv_weights_kernel takes at most, which every GPU has


def tiles_on_cuda(shape: Shape, planes: int, threads: int) -> tuple[int, int, int, int]:
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


def forward_launch(n: int, args: tuple[Any, ...], threads: int) -> Grid:
    """The grid of conv_forward_kernel."""
    x, y, (kz, ky, kx) = args[0], args[5], args[7:10]
    planes = x.shape[1] * kz
    tiles, columns, lines, slices = tiles_on_cuda(y.shape, planes, threads)
    numbers = (lines + ky - 1) * _row_length(PIXELS * columns, kx) + ky * kx * OUTS
    fit = SHARED // (x.itemsize * numbers * slices)  # planes, as in conv.cu
    shared = slices * max(1, min(fit, 4)) * numbers
    if slices > 1:
        shared = max(shared, 4 * PIXELS * threads)
    return (tiles, -(-y.shape[1] // OUTS)), (columns, lines, slices), shared * x.itemsize


def weights_launch(n: int, args: tuple[Any, ...], threads: int) -> Grid:
    """The grid of conv_weights_kernel."""
    x, partial, (kz, ky, kx) = args[0], args[4], args[6:9]
    lines, per_block, parts = _parts(x.shape[1] * kz, ky, kx, x.itemsize)
    tall, wide = TILE_SIZE[x.itemsize]
    planes = min(per_block, x.shape[1] * kz)
    tile = OUTS * tall * wide + planes * (tall + lines - 1) * _row_length(wide, kx)
    slices, blocks = partial.shape[:2]
    return (slices * parts, blocks), (32, WARPS), tile * x.itemsize


def _parts(planes, ky, kx, itemsize):
    """Of conv_weights_kernel: rows of taps that a block has of a plane; planes that it has; blocks
    for all planes."""
    rows = WARPS * ROWS.get(kx, 1)
    lines = min(ky, rows)
    tall, wide = TILE_SIZE[itemsize]
    numbers = (tall + lines - 1) * _row_length(wide, kx)  # of a plane
    fit = (MOST // itemsize - OUTS * tall * wide) // numbers
    per_block = max(1, min(rows // lines, fit))
    return lines, per_block, -(-planes // per_block) * -(-ky // lines)


@functools.lru_cache(maxsize=256)
def slices_on_cuda(x_shape: Shape, w_shape: Shape, itemsize: int, enough: int) -> tuple[int, int]:
    """(slices of the image, lines of a tile) for conv_weights_kernel.

    As many slices as leave the fewest of the `enough` places for blocks idle, and the fewest tiles
    of a slice too many; but partial sums of 64 MiB at most.
    """
    n, inputs, depth, height, width = x_shape
    outputs, _, kz, ky, kx = w_shape
    tall, wide = TILE_SIZE[itemsize]
    tiles = n * depth * -(-height // tall) * -(-width // wide)
    blocks = -(-outputs // OUTS) * _parts(inputs * kz, ky, kx, itemsize)[2]
    fits = (64 << 20) // (itemsize * int(np.prod(w_shape)))
    most = max(1, min(tiles, fits, -(-4 * enough // blocks)))

    def time(slices):  # in tiles, one after the other
        return -(-tiles // slices) * -(-blocks * slices // enough)

    return min(range(1, most + 1), key=time), tall


def _row_length(width, kx):
    """Numbers in a row of a tile, as in tiles.cuh."""
    return width + (0 if kx == 1 else 4 if kx <= 5 else -(-kx // 4) * 4)
