"""Vector code for `ops/winograd.py`: tiles of an image to their values at points and back, and the
products of these values.

Written as LLVM code for the reason that `register_tiles.py` gives. The plain loops that say the
same are in the docstrings, and in `ops/winograd.py`; tests hold them against each other.
"""

from __future__ import annotations

import numpy as np

from .llvm import LINE, VectorCode
from .register_tiles import OUTS

TILE = 4  # pixels of a tile, along Y and along X
# Kernels of r taps need r + 3 points: 0, ± these, and infinity. 32-bit floats lose little so.
POINTS = {3: (0.75, 1.5), 5: (0.5, 1.0, 2.0)}


def point_matrices(r):
    """(A, G, B) of a correlation with r taps: ``y = Aᵀ ((G w) · (Bᵀ d))``, TILE numbers of it.

    A (n, TILE) and G (n, r) are values of polynomials at the n = r + 3 points, B (n, n) those of
    the Lagrange basis that interpolates between them (Toom and Cook; Winograd 1980).
    """
    points = np.array([0, *(sign * p for p in POINTS[r] for sign in (1, -1))])
    n = len(points) + 1
    others = [np.delete(points, i) for i in range(n - 1)]
    scale = [np.prod(p - rest) for p, rest in zip(points, others, strict=True)]
    powers = points[:, None] ** np.arange(n)
    infinity = np.eye(n)[-1:]
    a = np.vstack([powers[:, :TILE], infinity[:, -TILE:]])
    g = np.vstack([powers[:, :r] / np.array(scale)[:, None], infinity[:, -r:]])
    b = np.zeros((n, n))
    for i, rest in enumerate(others):
        b[:-1, i] = np.poly(rest)[::-1]
    b[:, -1] = np.poly(points)[::-1]
    return a, g, b


def _points(code, matrix, phases, x, x0, step, n, y, y0, stride, count=None):
    """n lines, or n times `count` numbers, of matrix (rows, sources) · sources::

    for i in range(n * lanes):
        d = [x[x0 + c % phases * step + c // phases + i] for c in range(sources)]
        for j in range(rows):
            y[y0 + j * stride + i] = sum(matrix[j, c] * d[c] for c in range(sources))
    """
    count = count or LINE // code.itemsize
    vector = code.vector_of(min(count, code.lanes))
    with code.loop(code.index((n, count // vector.count))) as i:
        at = code.index((i, vector.count))
        first = code.at(x, x0, at)
        sources = [
            code.load(code.at(first, (step, c % phases), c // phases), 0, vector)
            for c in range(matrix.shape[1])
        ]
        first = code.at(y, y0, at)
        for j, value in enumerate(code.times(matrix, sources)):
            code.store(value, code.at(first, (stride, j)))


@VectorCode
def input_transform_rows_3(code, x, x0, step, n, y, y0, stride):
    """Bᵀ along Y, for kernels of 3: the sources are 6 rows."""
    _points(code, point_matrices(3)[2].T, 6, x, x0, step, n, y, y0, stride)


@VectorCode
def input_transform_3(code, x, x0, step, n, y, y0, stride):
    """Bᵀ along X: the sources are pixels in phases."""
    _points(code, point_matrices(3)[2].T, TILE, x, x0, step, n, y, y0, stride)


@VectorCode
def gradient_transform_3(code, x, x0, step, n, y, y0, stride):
    """A: four numbers to 6, along Y and along X."""
    _points(code, point_matrices(3)[0], TILE, x, x0, step, n, y, y0, stride)


@VectorCode
def weight_transform_3(code, x, x0, step, n, y, y0, stride):
    """G, for OUTS outputs at a time."""
    _points(code, point_matrices(3)[1], 3, x, x0, step, n, y, y0, stride, OUTS)


@VectorCode
def weight_gradient_transform_3(code, x, x0, step, n, y, y0, stride):
    """Gᵀ: 6 sums to the gradients of 3 taps."""
    _points(code, point_matrices(3)[1].T, 6, x, x0, step, n, y, y0, stride)


@VectorCode
def input_transform_rows_5(code, x, x0, step, n, y, y0, stride):
    """Bᵀ along Y, for kernels of 5: the sources are 8 rows."""
    _points(code, point_matrices(5)[2].T, 8, x, x0, step, n, y, y0, stride)


@VectorCode
def input_transform_5(code, x, x0, step, n, y, y0, stride):
    """Bᵀ along X: the sources are pixels in phases."""
    _points(code, point_matrices(5)[2].T, TILE, x, x0, step, n, y, y0, stride)


@VectorCode
def gradient_transform_5(code, x, x0, step, n, y, y0, stride):
    """A: four numbers to 8, along Y and along X."""
    _points(code, point_matrices(5)[0], TILE, x, x0, step, n, y, y0, stride)


@VectorCode
def weight_transform_5(code, x, x0, step, n, y, y0, stride):
    """G, for OUTS outputs at a time."""
    _points(code, point_matrices(5)[1], 5, x, x0, step, n, y, y0, stride, OUTS)


@VectorCode
def weight_gradient_transform_5(code, x, x0, step, n, y, y0, stride):
    """Gᵀ: 8 sums to the gradients of 5 taps."""
    _points(code, point_matrices(5)[1].T, 8, x, x0, step, n, y, y0, stride)


def _gather(code, r, x, x0, stride, n, y, y0, pitch):
    """Aᵀ along Y and X of n lines, and TILE rows of pixels::

    for i in range(n * lanes):
        points = [[x[x0 + (p * j + k) * stride + i] for k in range(p)] for j in range(p)]
        tile = A.T @ points @ A
        for row in range(TILE):
            for k in range(TILE):
                y[y0 + row * pitch + TILE * i + k] = tile[row, k]
    """
    back = point_matrices(r)[0].T
    points = back.shape[1]
    columns = code.memory(points * TILE)  # more than registers hold
    with code.loop(code.index((n, code.vectors))) as i:
        first = code.at(x, x0, (i, code.lanes))
        with code.loop(points) as k:
            column = code.at(first, (k, stride))
            column = [code.load(code.at(column, (stride, points * j))) for j in range(points)]
            for j, value in enumerate(code.times(back, column)):
                code.store(value, code.at(columns, (k, TILE * code.lanes)), j)
        first = code.at(y, y0, (i, TILE * code.lanes))
        with code.loop(TILE) as j:
            row = code.at(columns, (j, code.lanes))
            row = code.times(back, [code.load(row, TILE * k) for k in range(points)])
            for v, value in enumerate(code.interleaved(row)):
                code.store(value, code.at(first, (pitch, j)), v)


@VectorCode
def output_transform_3(code, x, x0, stride, n, y, y0, pitch):
    """For kernels of 3."""
    _gather(code, 3, x, x0, stride, n, y, y0, pitch)


@VectorCode
def output_transform_5(code, x, x0, stride, n, y, y0, pitch):
    """For kernels of 5."""
    _gather(code, 5, x, x0, stride, n, y, y0, pitch)


@VectorCode
def lay_phases(code, x, x0, start, stop, scale, shift, activate, n, y, y0, pitch):
    """n lines of each phase::

        for i in range(n * lanes):
            for k in range(TILE):
                v = x[x0 + TILE * i + k] * scale + shift
                v = v if v > 0 or not activate else 0
                y[y0 + k * pitch + i] = v if start <= TILE * i + k < stop else 0

    What is outside start … stop is not read either, so it need not exist.
    """
    from numba.core import cgutils

    builder, ir, vector = code.builder, code.ir, code.vector
    mask, place = (ir.VectorType(ir.IntType(bits), code.lanes) for bits in (1, 32))
    kind = ir.FunctionType(vector, [vector.as_pointer(), ir.IntType(32), mask, vector])
    name = code.name_of(vector)
    masked = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.masked.load.{name}.p0{name}"
    )
    empty = builder.icmp_signed("<", stop, start)
    length = builder.select(empty, code.integer(0), builder.sub(stop, start))

    def in_all_lanes(value):
        return code.splat(builder.trunc(value, ir.IntType(32)), place)

    offset = builder.sub(ir.Constant(place, list(range(code.lanes))), in_all_lanes(start))
    lengths, nothing = in_all_lanes(length), code.constant(vector, 0)
    scale, shift = code.splat(scale), code.splat(shift)

    def load(at, inside):
        """One vector, of lanes `inside` alone. Only AVX has an instruction for that; elsewhere
        it is done lane by lane, so not where all of them are inside."""
        pointer = builder.bitcast(code.at(x, x0, at), vector.as_pointer())
        operands = [pointer, ir.Constant(ir.IntType(32), code.itemsize), inside, nothing]
        if code.registers.bytes > 16:
            return builder.call(masked, operands)
        begins = builder.sub(at, start)
        ends = builder.sub(length, code.integer(code.lanes - 1))
        whole = builder.and_(
            builder.icmp_signed(">=", begins, code.integer(0)),
            builder.icmp_signed("<", begins, ends),
        )
        with builder.if_else(whole) as (then, otherwise):
            with then:
                plain, after_plain = code.load(code.at(x, x0, at)), builder.block
            with otherwise:
                careful, after_careful = builder.call(masked, operands), builder.block
        value = builder.phi(vector)
        value.add_incoming(plain, after_plain)
        value.add_incoming(careful, after_careful)
        return value

    def pixels_at(at, active):
        """One vector; comparing unsigned numbers asks for start and stop at once."""
        inside = builder.icmp_unsigned("<", builder.add(in_all_lanes(at), offset), lengths)
        value = load(at, inside)
        if not active:
            return value
        value = builder.fmul(value, scale, flags=["contract"])
        value = builder.fadd(value, shift, flags=["contract"])
        passed = builder.and_(inside, builder.fcmp_ordered(">", value, nothing))
        return builder.select(passed, value, nothing)

    def rows(active):
        with code.loop(code.index((n, code.vectors))) as i:
            at = code.index((i, TILE * code.lanes))
            pixels = [pixels_at(code.index(at, v * code.lanes), active) for v in range(TILE)]
            first = code.at(y, y0, (i, code.lanes))
            for k, value in enumerate(code.in_phases(pixels)):
                code.store(value, code.at(first, (pitch, k)))

    with builder.if_else(activate) as (then, otherwise):
        with then:
            rows(active=True)
        with otherwise:
            rows(active=False)
