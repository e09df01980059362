"""Products of a Winograd convolution: what `winograd_transforms.py` has made of image and weights.

Vector code, for the reason that `register_tiles.py` gives. The plain loops that say the same are in
the docstrings, and in `ops/winograd.py`; tests hold them against each other.
"""

from __future__ import annotations

from . import llvm
from .llvm import Intrinsic
from .register_tiles import OUTS, VECS


def _matrix_tile(vecs):
    """``tile(w, w0, x, x0, pitch, count, y, y0, stride)``: a matrix product, OUTS × vecs of it::

    for o in range(OUTS):
        for i in range(vecs * lanes):
            y[y0 + o * stride + i] = sum(
                w[w0 + k * OUTS + o] * x[x0 + k * pitch + i] for k in range(count))
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def tile(typing, w, w0, x, x0, pitch, count, y, y0, stride):
        def build(context, builder, signature, args):
            _, vector, data = llvm.types_of(context, builder, signature, args, ir, cgutils)
            w_, w0_, x_, x0_, pitch_, count_, y_, y0_, stride_ = data
            sums = [[llvm.zero(builder, vector, ir) for _ in range(vecs)] for _ in range(OUTS)]
            with cgutils.for_range(builder, count_) as loop:
                here = builder.gep(x_, [builder.add(x0_, builder.mul(loop.index, pitch_))])
                pixels = [llvm.load(builder, here, v, vector) for v in range(vecs)]
                first = builder.add(w0_, builder.mul(loop.index, llvm.integer(loop.index, OUTS)))
                weights = builder.gep(w_, [first])
                for o in range(OUTS):
                    weight = builder.load(builder.gep(weights, [llvm.integer(loop.index, o)]))
                    weight = llvm.splat(builder, weight, vector, ir)
                    for v in range(vecs):
                        llvm.add_product(builder, sums[o][v], weight, pixels[v])
            for o in range(OUTS):
                row = builder.gep(
                    y_, [builder.add(y0_, builder.mul(stride_, llvm.integer(stride_, o)))]
                )
                for v in range(vecs):
                    llvm.store(builder, builder.load(sums[o][v]), row, v, vector)
            return context.get_dummy_value()

        index = types.intp
        return types.void(w, index, x, index, index, index, y, index, index), build

    return tile


@Intrinsic
def matrix_tile_1():
    """A matrix product, one vector of pixels wide."""
    return _matrix_tile(1)


@Intrinsic
def matrix_tile_2():
    """Two vectors wide."""
    return _matrix_tile(2)


@Intrinsic
def matrix_tile_3():
    """Three vectors wide, as wide as registers allow."""
    return _matrix_tile(VECS)


@Intrinsic
def contract_tile():
    """``contract_tile(g, g0, stride, x, x0, x1, x2, n, y, y0)``: sums over n vectors of pixels::

        for v, xv in enumerate((x0, x1, x2)):
            for o in range(OUTS):
                y[y0 + v * OUTS + o] += sum(
                    g[g0 + o * stride + i] * x[xv + i] for i in range(n * lanes))

    As `product_tile`, with outputs next to each other: the lanes of 8 sums are added up together,
    by halves, into one vector of 8.
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def contract_tile(typing, g, g0, stride, x, x0, x1, x2, n, y, y0):
        def build(context, builder, signature, args):
            scalar, vector, data = llvm.types_of(context, builder, signature, args, ir, cgutils)
            g_, g0_, stride_, x_, *starts, n_, y_, y0_ = data
            sums = [[llvm.zero(builder, vector, ir) for _ in range(OUTS)] for _ in range(VECS)]
            rows = [
                builder.gep(g_, [builder.add(g0_, builder.mul(stride_, llvm.integer(stride_, o)))])
                for o in range(OUTS)
            ]
            sources = [builder.gep(x_, [start]) for start in starts]
            with cgutils.for_range(builder, n_) as loop:
                at = builder.mul(loop.index, llvm.integer(loop.index, vector.count))
                pixels = [llvm.load(builder, builder.gep(p, [at]), 0, vector) for p in sources]
                for o in range(OUTS):
                    gradient = llvm.load(builder, builder.gep(rows[o], [at]), 0, vector)
                    for v in range(VECS):
                        llvm.add_product(builder, sums[v][o], gradient, pixels[v])
            eight = ir.VectorType(scalar, OUTS)
            for v in range(VECS):
                vectors = [builder.load(s) for s in sums[v]]
                while len(vectors) > 1 or vectors[0].type.count > OUTS:
                    if len(vectors) == 1:
                        vectors = [vectors[0], None]
                    vectors = [
                        llvm.sum_of_neighbours(builder, *vectors[i : i + 2], ir)
                        for i in range(0, len(vectors), 2)
                    ]
                place = builder.gep(y_, [builder.add(y0_, llvm.integer(y0_, v * OUTS))])
                place = builder.bitcast(place, eight.as_pointer())
                align = llvm.align(vector)
                total = builder.fadd(builder.load(place, align=align), vectors[0])
                builder.store(total, place, align=align)
            return context.get_dummy_value()

        i = types.intp
        return types.void(g, i, i, x, i, i, i, i, y, i), build

    return contract_tile
