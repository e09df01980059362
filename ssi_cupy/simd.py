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

import functools

import numpy as np

OUTS = 8  # output channels of a tile
VECS = 3  # vectors of pixels of a tile
BYTES = 64  # of one vector: a cache line, and one AVX-512 register


def lanes(dtype):
    """How many numbers of `dtype` a vector holds: 16 of float32, 8 of float64."""
    return BYTES // dtype.itemsize


class Intrinsic:
    """A piece of LLVM code that kernels call by name. Built on first use, as numba is heavy."""

    def __init__(self, build):
        self._build = build
        functools.update_wrapper(self, build)

    @functools.cached_property
    def compiled(self):
        return self._build()


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
            scalar, vector, data = _types(context, builder, signature, args, ir, cgutils)
            x_, x0_, taps_, w_, w0_, y_, y0_, stride_ = data
            sums = [[_zero(builder, vector, ir) for _ in range(VECS)] for _ in range(OUTS)]
            count = cgutils.create_struct_proxy(signature.args[2])(context, builder, args[2]).nitems
            with cgutils.for_range(builder, count) as loop:
                tap = builder.load(builder.gep(taps_, [loop.index]))
                here = builder.gep(x_, [builder.add(x0_, tap)])
                pixels = [_load(builder, here, v, vector) for v in range(VECS)]
                first = builder.add(w0_, builder.mul(loop.index, _int(loop.index, OUTS)))
                weights = builder.gep(w_, [first])
                for o in range(OUTS):
                    weight = builder.load(builder.gep(weights, [_int(loop.index, o)]))
                    weight = _splat(builder, weight, vector, ir)
                    for v in range(VECS):
                        _add_product(builder, sums[o][v], weight, pixels[v])
            for o in range(OUTS):
                row = builder.gep(y_, [builder.add(y0_, builder.mul(stride_, _int(stride_, o)))])
                for v in range(VECS):
                    _store(builder, builder.load(sums[o][v]), row, v, vector)
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
            scalar, vector, data = _types(context, builder, signature, args, ir, cgutils)
            g_, g0_, stride_, x_, x0_, taps_, t0_, n_, out_, out0_ = data
            sums = [[_zero(builder, vector, ir) for _ in range(VECS)] for _ in range(OUTS)]
            rows = [
                builder.gep(g_, [builder.add(g0_, builder.mul(stride_, _int(stride_, o)))])
                for o in range(OUTS)
            ]
            shifted = []
            for v in range(VECS):
                tap = builder.load(builder.gep(taps_, [builder.add(t0_, _int(t0_, v))]))
                shifted.append(builder.gep(x_, [builder.add(x0_, tap)]))
            count = builder.udiv(n_, _int(n_, vector.count))
            with cgutils.for_range(builder, count) as loop:
                at = builder.mul(loop.index, _int(loop.index, vector.count))
                pixels = [_load(builder, builder.gep(p, [at]), 0, vector) for p in shifted]
                for o in range(OUTS):
                    gradient = _load(builder, builder.gep(rows[o], [at]), 0, vector)
                    for v in range(VECS):
                        _add_product(builder, sums[o][v], gradient, pixels[v])
            name = f"llvm.vector.reduce.fadd.v{vector.count}f{64 if vector.count == 8 else 32}"
            reduce = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(scalar, [scalar, vector]), name
            )
            for o in range(OUTS):
                for v in range(VECS):
                    total = builder.call(
                        reduce, [scalar(0.0), builder.load(sums[o][v])], fastmath=["reassoc"]
                    )
                    at = builder.add(out0_, _int(out0_, o * VECS + v))
                    place = builder.gep(out_, [at])
                    builder.store(builder.fadd(builder.load(place), total), place)
            return context.get_dummy_value()

        index = types.intp
        return types.void(g, index, index, x, index, taps, index, index, out, index), build

    return product_tile


# ---- tiles from their values at points (see ops/winograd.py) ------------------------------------

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

    product = _transposed_times if matrix.shape[0] < matrix.shape[1] else _times

    @intrinsic
    def spread(typing, x, x0, step, n, y, y0, stride):
        def build(context, builder, signature, args):
            _, vector, data = _types(context, builder, signature, args, ir, cgutils)
            x_, x0_, step_, n_, y_, y0_, stride_ = data
            if width is not None:
                vector = ir.VectorType(vector.element, width)
            with cgutils.for_range(builder, n_) as loop:
                at = builder.mul(loop.index, _int(loop.index, vector.count))
                first = builder.add(x0_, at)
                sources = []
                for c in range(matrix.shape[1]):
                    here = builder.add(first, builder.mul(step_, _int(step_, c % phases)))
                    here = builder.add(here, _int(here, c // phases))
                    sources.append(_load(builder, builder.gep(x_, [here]), 0, vector))
                first = builder.add(y0_, at)
                for j, value in enumerate(product(builder, matrix, sources, ir)):
                    here = builder.add(first, builder.mul(stride_, _int(stride_, j)))
                    _store(builder, value, builder.gep(y_, [here]), 0, vector)
            return context.get_dummy_value()

        index = types.intp
        return types.void(x, index, index, index, y, index, index), build

    return spread


@Intrinsic
def spread_rows_3():
    """Bᵀ along Y, for kernels of 3: the sources are 6 rows."""
    return _points(point_matrices(3)[2].T, 6)


@Intrinsic
def spread_3():
    """Bᵀ along X: the sources are pixels in phases."""
    return _points(point_matrices(3)[2].T, TILE)


@Intrinsic
def raise_3():
    """A: four numbers to 6, along Y and along X."""
    return _points(point_matrices(3)[0], TILE)


@Intrinsic
def raise_weights_3():
    """G, for OUTS outputs at a time."""
    return _points(point_matrices(3)[1], 3, OUTS)


@Intrinsic
def lower_weights_3():
    """Gᵀ: 6 sums to the gradients of 3 taps."""
    return _points(point_matrices(3)[1].T, 6)


@Intrinsic
def spread_rows_5():
    """Bᵀ along Y, for kernels of 5: the sources are 8 rows."""
    return _points(point_matrices(5)[2].T, 8)


@Intrinsic
def spread_5():
    """Bᵀ along X: the sources are pixels in phases."""
    return _points(point_matrices(5)[2].T, TILE)


@Intrinsic
def raise_5():
    """A: four numbers to 8, along Y and along X."""
    return _points(point_matrices(5)[0], TILE)


@Intrinsic
def raise_weights_5():
    """G, for OUTS outputs at a time."""
    return _points(point_matrices(5)[1], 5, OUTS)


@Intrinsic
def lower_weights_5():
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
            _, vector, data = _types(context, builder, signature, args, ir, cgutils)
            x_, x0_, stride_, n_, y_, y0_, pitch_ = data
            with cgutils.for_range(builder, n_) as loop:
                at = builder.mul(loop.index, _int(loop.index, vector.count))
                first = builder.add(x0_, at)
                rows = [[] for _ in range(TILE)]
                for k in range(points):
                    column = []
                    for j in range(points):
                        here = builder.mul(stride_, _int(stride_, points * j + k))
                        here = builder.gep(x_, [builder.add(first, here)])
                        column.append(_load(builder, here, 0, vector))
                    for row, value in zip(
                        rows, _transposed_times(builder, back, column, ir), strict=True
                    ):
                        row.append(value)
                first = builder.add(y0_, builder.mul(at, _int(at, TILE)))
                for j, row in enumerate(rows):
                    here = builder.add(first, builder.mul(pitch_, _int(pitch_, j)))
                    pixels = _interleaved(builder, _transposed_times(builder, back, row, ir), ir)
                    for v, value in enumerate(pixels):
                        _store(builder, value, builder.gep(y_, [here]), v, vector)
            return context.get_dummy_value()

        index = types.intp
        return types.void(x, index, index, index, y, index, index), build

    return gather


@Intrinsic
def gather_3():
    """For kernels of 3."""
    return _gather(3)


@Intrinsic
def gather_5():
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
            _, vector, data = _types(context, builder, signature, args, ir, cgutils)
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
            length = builder.select(empty, _int(stop_, 0), builder.sub(stop_, start_))
            first, length = (
                _splat(builder, builder.trunc(value, ir.IntType(32)), place, ir)
                for value in (start_, length)
            )
            first = builder.sub(ir.Constant(place, list(range(vector.count))), first)
            scale_, shift_ = (_splat(builder, value, vector, ir) for value in (scale_, shift_))
            nothing = ir.Constant(vector, [0.0] * vector.count)
            align = ir.Constant(ir.IntType(32), _align(vector))

            def pixels_at(at, active):
                """One vector; comparing unsigned numbers asks for start and stop at once."""
                here = _splat(builder, builder.trunc(at, ir.IntType(32)), place, ir)
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
                    at = builder.mul(loop.index, _int(loop.index, TILE * vector.count))
                    pixels = [
                        pixels_at(builder.add(at, _int(at, v * vector.count)), active)
                        for v in range(TILE)
                    ]
                    at = builder.add(y0_, builder.mul(loop.index, _int(at, vector.count)))
                    for k, value in enumerate(_phases(builder, pixels, ir)):
                        here = builder.add(at, builder.mul(pitch_, _int(pitch_, k)))
                        _store(builder, value, builder.gep(y_, [here]), 0, vector)

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
            _, vector, data = _types(context, builder, signature, args, ir, cgutils)
            w_, w0_, x_, x0_, pitch_, count_, y_, y0_, stride_ = data
            sums = [[_zero(builder, vector, ir) for _ in range(vecs)] for _ in range(OUTS)]
            with cgutils.for_range(builder, count_) as loop:
                here = builder.gep(x_, [builder.add(x0_, builder.mul(loop.index, pitch_))])
                pixels = [_load(builder, here, v, vector) for v in range(vecs)]
                first = builder.add(w0_, builder.mul(loop.index, _int(loop.index, OUTS)))
                weights = builder.gep(w_, [first])
                for o in range(OUTS):
                    weight = builder.load(builder.gep(weights, [_int(loop.index, o)]))
                    weight = _splat(builder, weight, vector, ir)
                    for v in range(vecs):
                        _add_product(builder, sums[o][v], weight, pixels[v])
            for o in range(OUTS):
                row = builder.gep(y_, [builder.add(y0_, builder.mul(stride_, _int(stride_, o)))])
                for v in range(vecs):
                    _store(builder, builder.load(sums[o][v]), row, v, vector)
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
            scalar, vector, data = _types(context, builder, signature, args, ir, cgutils)
            g_, g0_, stride_, x_, *starts, n_, y_, y0_ = data
            sums = [[_zero(builder, vector, ir) for _ in range(OUTS)] for _ in range(VECS)]
            rows = [
                builder.gep(g_, [builder.add(g0_, builder.mul(stride_, _int(stride_, o)))])
                for o in range(OUTS)
            ]
            sources = [builder.gep(x_, [start]) for start in starts]
            with cgutils.for_range(builder, n_) as loop:
                at = builder.mul(loop.index, _int(loop.index, vector.count))
                pixels = [_load(builder, builder.gep(p, [at]), 0, vector) for p in sources]
                for o in range(OUTS):
                    gradient = _load(builder, builder.gep(rows[o], [at]), 0, vector)
                    for v in range(VECS):
                        _add_product(builder, sums[v][o], gradient, pixels[v])
            eight = ir.VectorType(scalar, OUTS)
            for v in range(VECS):
                vectors = [builder.load(s) for s in sums[v]]
                while len(vectors) > 1 or vectors[0].type.count > OUTS:
                    if len(vectors) == 1:
                        vectors = [vectors[0], None]
                    vectors = [
                        _sum_of_neighbours(builder, *vectors[i : i + 2], ir)
                        for i in range(0, len(vectors), 2)
                    ]
                place = builder.gep(y_, [builder.add(y0_, _int(y0_, v * OUTS))])
                place = builder.bitcast(place, eight.as_pointer())
                align = _align(vector)
                total = builder.fadd(builder.load(place, align=align), vectors[0])
                builder.store(total, place, align=align)
            return context.get_dummy_value()

        i = types.intp
        return types.void(g, i, i, x, i, i, i, i, y, i), build

    return contract_tile


# ---- LLVM, a word at a time -------------------------------------------------------------------


def _types(context, builder, signature, args, ir, cgutils):
    """The scalar and vector type of the first array; every argument as pointer or integer."""
    values = []
    for type_, value in zip(signature.args, args, strict=True):
        if hasattr(type_, "ndim"):
            value = cgutils.create_struct_proxy(type_)(context, builder, value).data
        values.append(value)
    scalar = context.get_data_type(signature.args[0].dtype)
    vector = ir.VectorType(scalar, BYTES // context.get_abi_sizeof(scalar))
    return scalar, vector, values


def _int(like, value):
    return like.type(value)


def _zero(builder, vector, ir):
    """A vector of zeros in a variable. LLVM keeps it in a register: nobody takes its address."""
    with builder.goto_entry_block():
        variable = builder.alloca(vector)
    builder.store(ir.Constant(vector, [0.0] * vector.count), variable)
    return variable


def _load(builder, pointer, v, vector):
    address = builder.gep(pointer, [_int64(v * vector.count)])
    return builder.load(builder.bitcast(address, vector.as_pointer()), align=_align(vector))


def _store(builder, value, pointer, v, vector):
    address = builder.gep(pointer, [_int64(v * vector.count)])
    builder.store(value, builder.bitcast(address, vector.as_pointer()), align=_align(vector))


def _align(vector):
    """Rows start anywhere: promise no more than one number's alignment."""
    return 8 if str(vector.element) == "double" else 4


def _int64(value):
    from llvmlite import ir

    return ir.IntType(64)(value)


def _splat(builder, scalar, vector, ir):
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, _int64(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, undefined, zeros)


def _add_product(builder, variable, a, b):
    """variable += a * b, fused where the processor can ("contract"), two roundings elsewhere."""
    product = builder.fmul(a, b, flags=["contract"])
    builder.store(builder.fadd(builder.load(variable), product, flags=["contract"]), variable)


def _shuffle(builder, a, b, lanes, ir):
    """Lanes of a, and counted on, of b."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(a, b, mask)


def _sum_of_neighbours(builder, a, b, ir):
    """(a0 + a1, a2 + a3, …, b0 + b1, …); without b half as long."""
    width = a.type.count * (1 if b is None else 2)
    b = ir.Constant(a.type, ir.Undefined) if b is None else b
    even = _shuffle(builder, a, b, list(range(0, width, 2)), ir)
    return builder.fadd(even, _shuffle(builder, a, b, list(range(1, width, 2)), ir))


def _phases(builder, vectors, ir):
    """Vectors of consecutive numbers → one of every len(vectors)-th number, for each phase."""
    if len(vectors) == 1:
        return vectors
    n = vectors[0].type.count
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    even = [_shuffle(builder, a, b, list(range(0, 2 * n, 2)), ir) for a, b in pairs]
    odd = [_shuffle(builder, a, b, list(range(1, 2 * n, 2)), ir) for a, b in pairs]
    even, odd = _phases(builder, even, ir), _phases(builder, odd, ir)
    return [phase for both in zip(even, odd, strict=True) for phase in both]


def _interleaved(builder, phases, ir):
    """The inverse of `_phases`."""
    if len(phases) == 1:
        return phases
    n = phases[0].type.count
    even = _interleaved(builder, phases[::2], ir)
    odd = _interleaved(builder, phases[1::2], ir)
    found = []
    for a, b in zip(even, odd, strict=True):
        for half in (0, n // 2):
            lanes = [half + i // 2 + i % 2 * n for i in range(n)]
            found.append(_shuffle(builder, a, b, lanes, ir))
    return found


def _linear(builder, factors, vectors, ir):
    """Σ factor · vector, or None where all factors are 0."""
    terms = sorted(zip(factors, vectors, strict=True), key=lambda t: t[0] != 1)
    total = None
    for factor, v in terms:
        if factor == 0:
            continue
        if factor != 1:
            constant = ir.Constant(v.type, [float(factor)] * v.type.count)
            v = builder.fmul(v, constant, flags=["contract"])
        total = v if total is None else builder.fadd(total, v, flags=["contract"])
    return total


def _times(builder, matrix, vectors, ir):
    """matrix · vectors. Rows of points ±p share what is even and what is odd in p."""
    found = [_linear(builder, matrix[0], vectors, ir)]
    for row in matrix[1:-1:2]:
        even = _linear(builder, row[::2], vectors[::2], ir)
        odd = _linear(builder, row[1::2], vectors[1::2], ir)
        found += [builder.fadd(even, odd), builder.fsub(even, odd)]
    return [*found, _linear(builder, matrix[-1], vectors, ir)]


def _transposed_times(builder, matrix, vectors, ir):
    """The same where points are the columns of the matrix: sums and differences come first."""
    folded, columns = [vectors[0]], [matrix[:, 0]]
    for i in range(1, len(vectors) - 1, 2):
        folded += [builder.fadd(*vectors[i : i + 2]), builder.fsub(*vectors[i : i + 2])]
        power = np.arange(len(matrix)) % 2
        columns += [matrix[:, i] * (1 - power), matrix[:, i] * power]
    folded.append(vectors[-1])
    columns.append(matrix[:, -1])
    return [_linear(builder, row, folded, ir) for row in np.array(columns).T]
