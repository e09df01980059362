"""Vector code for `ops/winograd.py`: tiles of an image to their values at points and back, and the
products of these values.

Written as LLVM code for the reason that `register_tiles.py` gives. The plain loops that say the
same are in the docstrings, and in `ops/winograd.py`; tests hold them against each other.
"""

from __future__ import annotations

import numpy as np

from . import llvm
from .llvm import Intrinsic
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


def _points(matrix, phases, width=None):
    """``spread(x, x0, step, n, y, y0, stride)``: n vectors of matrix (rows, sources) · sources::

        for i in range(n * lanes):
            d = [x[x0 + c % phases * step + c // phases + i] for c in range(sources)]
            for j in range(rows):
                y[y0 + j * stride + i] = sum(matrix[j, c] * d[c] for c in range(sources))

    `width` is the number of lanes, where it is not that of a register.
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    product = llvm.transposed_times if matrix.shape[0] < matrix.shape[1] else llvm.times

    @intrinsic
    def spread(typing, x, x0, step, n, y, y0, stride):
        def build(context, builder, signature, args):
            _, vector, data = llvm.types_of(context, builder, signature, args, ir, cgutils)
            x_, x0_, step_, n_, y_, y0_, stride_ = data
            if width is not None:
                vector = ir.VectorType(vector.element, width)
            with cgutils.for_range(builder, n_) as loop:
                at = builder.mul(loop.index, llvm.integer(loop.index, vector.count))
                first = builder.add(x0_, at)
                sources = []
                for c in range(matrix.shape[1]):
                    here = builder.add(first, builder.mul(step_, llvm.integer(step_, c % phases)))
                    here = builder.add(here, llvm.integer(here, c // phases))
                    sources.append(llvm.load(builder, builder.gep(x_, [here]), 0, vector))
                first = builder.add(y0_, at)
                for j, value in enumerate(product(builder, matrix, sources, ir)):
                    here = builder.add(first, builder.mul(stride_, llvm.integer(stride_, j)))
                    llvm.store(builder, value, builder.gep(y_, [here]), 0, vector)
            return context.get_dummy_value()

        index = types.intp
        return types.void(x, index, index, index, y, index, index), build

    return spread


@Intrinsic
def input_transform_rows_3():
    """Bᵀ along Y, for kernels of 3: the sources are 6 rows."""
    return _points(point_matrices(3)[2].T, 6)


@Intrinsic
def input_transform_3():
    """Bᵀ along X: the sources are pixels in phases."""
    return _points(point_matrices(3)[2].T, TILE)


@Intrinsic
def gradient_transform_3():
    """A: four numbers to 6, along Y and along X."""
    return _points(point_matrices(3)[0], TILE)


@Intrinsic
def weight_transform_3():
    """G, for OUTS outputs at a time."""
    return _points(point_matrices(3)[1], 3, OUTS)


@Intrinsic
def weight_gradient_transform_3():
    """Gᵀ: 6 sums to the gradients of 3 taps."""
    return _points(point_matrices(3)[1].T, 6)


@Intrinsic
def input_transform_rows_5():
    """Bᵀ along Y, for kernels of 5: the sources are 8 rows."""
    return _points(point_matrices(5)[2].T, 8)


@Intrinsic
def input_transform_5():
    """Bᵀ along X: the sources are pixels in phases."""
    return _points(point_matrices(5)[2].T, TILE)


@Intrinsic
def gradient_transform_5():
    """A: four numbers to 8, along Y and along X."""
    return _points(point_matrices(5)[0], TILE)


@Intrinsic
def weight_transform_5():
    """G, for OUTS outputs at a time."""
    return _points(point_matrices(5)[1], 5, OUTS)


@Intrinsic
def weight_gradient_transform_5():
    """Gᵀ: 8 sums to the gradients of 5 taps."""
    return _points(point_matrices(5)[1].T, 8)


def _gather(r):
    """``gather(x, x0, stride, n, y, y0, pitch)``: Aᵀ along Y and X, and TILE rows of pixels::

    for i in range(n * lanes):
        points = [[x[x0 + (p * j + k) * stride + i] for k in range(p)] for j in range(p)]
        tile = A.T @ points @ A
        for row in range(TILE):
            for k in range(TILE):
                y[y0 + row * pitch + TILE * i + k] = tile[row, k]
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    back = point_matrices(r)[0].T
    points = back.shape[1]

    @intrinsic
    def gather(typing, x, x0, stride, n, y, y0, pitch):
        def build(context, builder, signature, args):
            _, vector, data = llvm.types_of(context, builder, signature, args, ir, cgutils)
            x_, x0_, stride_, n_, y_, y0_, pitch_ = data
            with cgutils.for_range(builder, n_) as loop:
                at = builder.mul(loop.index, llvm.integer(loop.index, vector.count))
                first = builder.add(x0_, at)
                rows = [[] for _ in range(TILE)]
                for k in range(points):
                    column = []
                    for j in range(points):
                        here = builder.mul(stride_, llvm.integer(stride_, points * j + k))
                        here = builder.gep(x_, [builder.add(first, here)])
                        column.append(llvm.load(builder, here, 0, vector))
                    for row, value in zip(
                        rows, llvm.transposed_times(builder, back, column, ir), strict=True
                    ):
                        row.append(value)
                first = builder.add(y0_, builder.mul(at, llvm.integer(at, TILE)))
                for j, row in enumerate(rows):
                    here = builder.add(first, builder.mul(pitch_, llvm.integer(pitch_, j)))
                    pixels = llvm.interleaved(
                        builder, llvm.transposed_times(builder, back, row, ir), ir
                    )
                    for v, value in enumerate(pixels):
                        llvm.store(builder, value, builder.gep(y_, [here]), v, vector)
            return context.get_dummy_value()

        index = types.intp
        return types.void(x, index, index, index, y, index, index), build

    return gather


@Intrinsic
def output_transform_3():
    """For kernels of 3."""
    return _gather(3)


@Intrinsic
def output_transform_5():
    """For kernels of 5."""
    return _gather(5)


@Intrinsic
def lay_phases():
    """``lay_phases(x, x0, start, stop, scale, shift, activate, n, y, y0, pitch)``: in phases::

    for i in range(n * lanes):
        for k in range(TILE):
            v = x[x0 + TILE * i + k] * scale + shift
            v = v if v > 0 or not activate else 0
            y[y0 + k * pitch + i] = v if start <= TILE * i + k < stop else 0

    What is outside start … stop is not read either, so it need not exist.
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def lay_phases(typing, x, x0, start, stop, scale, shift, activate, n, y, y0, pitch):
        def build(context, builder, signature, args):
            _, vector, data = llvm.types_of(context, builder, signature, args, ir, cgutils)
            x_, x0_, start_, stop_, scale_, shift_, activate_, n_, y_, y0_, pitch_ = data
            mask, place = (ir.VectorType(ir.IntType(n), vector.count) for n in (1, 32))
            kind = f"v{vector.count}f{64 if vector.count == 8 else 32}"
            arguments = [vector.as_pointer(), ir.IntType(32), mask, vector]
            load = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, arguments),
                f"llvm.masked.load.{kind}.p0{kind}",
            )
            empty = builder.icmp_signed("<", stop_, start_)
            length = builder.select(empty, llvm.integer(stop_, 0), builder.sub(stop_, start_))
            first, length = (
                llvm.splat(builder, builder.trunc(value, ir.IntType(32)), place, ir)
                for value in (start_, length)
            )
            first = builder.sub(ir.Constant(place, list(range(vector.count))), first)
            scale_, shift_ = (llvm.splat(builder, value, vector, ir) for value in (scale_, shift_))
            nothing = ir.Constant(vector, [0.0] * vector.count)
            align = ir.Constant(ir.IntType(32), llvm.align(vector))

            def pixels_at(at, active):
                """One vector; comparing unsigned numbers asks for start and stop at once."""
                here = llvm.splat(builder, builder.trunc(at, ir.IntType(32)), place, ir)
                inside = builder.icmp_unsigned("<", builder.add(here, first), length)
                pointer = builder.gep(x_, [builder.add(x0_, at)])
                pointer = builder.bitcast(pointer, vector.as_pointer())
                value = builder.call(load, [pointer, align, inside, nothing])
                if not active:
                    return value
                value = builder.fmul(value, scale_, flags=["contract"])
                value = builder.fadd(value, shift_, flags=["contract"])
                passed = builder.and_(inside, builder.fcmp_ordered(">", value, nothing))
                return builder.select(passed, value, nothing)

            def rows(active):
                with cgutils.for_range(builder, n_) as loop:
                    at = builder.mul(loop.index, llvm.integer(loop.index, TILE * vector.count))
                    pixels = [
                        pixels_at(builder.add(at, llvm.integer(at, v * vector.count)), active)
                        for v in range(TILE)
                    ]
                    at = builder.add(y0_, builder.mul(loop.index, llvm.integer(at, vector.count)))
                    for k, value in enumerate(llvm.in_phases(builder, pixels, ir)):
                        here = builder.add(at, builder.mul(pitch_, llvm.integer(pitch_, k)))
                        llvm.store(builder, value, builder.gep(y_, [here]), 0, vector)

            with builder.if_else(activate_) as (then, otherwise):
                with then:
                    rows(active=True)
                with otherwise:
                    rows(active=False)
            return context.get_dummy_value()

        index, real = types.intp, x.dtype
        return types.void(
            x, index, index, index, real, real, types.boolean, index, y, index, index
        ), build

    return lay_phases
