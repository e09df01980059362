"""Register tiles: the two inner loops of every convolution, spelt out for the vector unit.

A convolution is bound by arithmetic only if its sums stay in registers while it runs over the
taps. No compiler finds that blocking by itself, so it is written here as LLVM code: OUTS × VECS
vectors of sums, and for each tap VECS loads of the image and OUTS weights, each used OUTS or
VECS times. With 8 × 3 sums that is 24 multiply-adds for 11 loads.

Images are "flat": rows laid end to end in one line, each with its padding, so that the
neighbour at (dy, dx) is the one at a fixed distance ``dy * pitch + dx``, and rows end where
nothing has to stop. What is computed in the padding is thrown away.

The plain loops that say the same are in the docstrings; tests hold them against each other.
"""

from __future__ import annotations

from . import llvm
from .llvm import Intrinsic

OUTS = 8  # output channels of a tile
VECS = 3  # vectors of pixels of a tile


@Intrinsic
def correlate_tile():
    """``correlate_tile(x, x0, taps, w, w0, y, y0, stride)``: one tile of a correlation::

    for o in range(OUTS):
        for i in range(VECS * lanes):
            y[y0 + o * stride + i] = sum(
                w[w0 + t * OUTS + o] * x[x0 + taps[t] + i] for t in range(len(taps)))
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def correlate_tile(typing, x, x0, taps, w, w0, y, y0, stride):
        def build(context, builder, signature, args):
            scalar, vector, data = llvm.types_of(context, builder, signature, args, ir, cgutils)
            x_, x0_, taps_, w_, w0_, y_, y0_, stride_ = data
            sums = [[llvm.zero(builder, vector, ir) for _ in range(VECS)] for _ in range(OUTS)]
            count = cgutils.create_struct_proxy(signature.args[2])(context, builder, args[2]).nitems
            with cgutils.for_range(builder, count) as loop:
                tap = builder.load(builder.gep(taps_, [loop.index]))
                here = builder.gep(x_, [builder.add(x0_, tap)])
                pixels = [llvm.load(builder, here, v, vector) for v in range(VECS)]
                first = builder.add(w0_, builder.mul(loop.index, llvm.integer(loop.index, OUTS)))
                weights = builder.gep(w_, [first])
                for o in range(OUTS):
                    weight = builder.load(builder.gep(weights, [llvm.integer(loop.index, o)]))
                    weight = llvm.splat(builder, weight, vector, ir)
                    for v in range(VECS):
                        llvm.add_product(builder, sums[o][v], weight, pixels[v])
            for o in range(OUTS):
                row = builder.gep(
                    y_, [builder.add(y0_, builder.mul(stride_, llvm.integer(stride_, o)))]
                )
                for v in range(VECS):
                    llvm.store(builder, builder.load(sums[o][v]), row, v, vector)
            return context.get_dummy_value()

        return types.void(x, types.intp, taps, w, types.intp, y, types.intp, types.intp), build

    return correlate_tile


@Intrinsic
def product_tile():
    """``product_tile(g, g0, stride, x, x0, taps, t0, n, out, out0)``: sums over pixels::

        for o in range(OUTS):
            for v in range(VECS):
                out[out0 + o * VECS + v] += sum(
                    g[g0 + o * stride + i] * x[x0 + taps[t0 + v] + i] for i in range(n))

    `n` must be a multiple of the lanes. The sum runs lane by lane, then over the lanes.
    """
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def product_tile(typing, g, g0, stride, x, x0, taps, t0, n, out, out0):
        def build(context, builder, signature, args):
            scalar, vector, data = llvm.types_of(context, builder, signature, args, ir, cgutils)
            g_, g0_, stride_, x_, x0_, taps_, t0_, n_, out_, out0_ = data
            sums = [[llvm.zero(builder, vector, ir) for _ in range(VECS)] for _ in range(OUTS)]
            rows = [
                builder.gep(g_, [builder.add(g0_, builder.mul(stride_, llvm.integer(stride_, o)))])
                for o in range(OUTS)
            ]
            shifted = []
            for v in range(VECS):
                tap = builder.load(builder.gep(taps_, [builder.add(t0_, llvm.integer(t0_, v))]))
                shifted.append(builder.gep(x_, [builder.add(x0_, tap)]))
            count = builder.udiv(n_, llvm.integer(n_, vector.count))
            with cgutils.for_range(builder, count) as loop:
                at = builder.mul(loop.index, llvm.integer(loop.index, vector.count))
                pixels = [llvm.load(builder, builder.gep(p, [at]), 0, vector) for p in shifted]
                for o in range(OUTS):
                    gradient = llvm.load(builder, builder.gep(rows[o], [at]), 0, vector)
                    for v in range(VECS):
                        llvm.add_product(builder, sums[o][v], gradient, pixels[v])
            name = f"llvm.vector.reduce.fadd.v{vector.count}f{64 if vector.count == 8 else 32}"
            reduce = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(scalar, [scalar, vector]), name
            )
            for o in range(OUTS):
                for v in range(VECS):
                    total = builder.call(
                        reduce, [scalar(0.0), builder.load(sums[o][v])], fastmath=["reassoc"]
                    )
                    at = builder.add(out0_, llvm.integer(out0_, o * VECS + v))
                    place = builder.gep(out_, [at])
                    builder.store(builder.fadd(builder.load(place), total), place)
            return context.get_dummy_value()

        index = types.intp
        return types.void(g, index, index, x, index, taps, index, index, out, index), build

    return product_tile
