"""The words that vector code is written in (LLVM), and how kernels call it."""

from __future__ import annotations

import functools
import inspect
import sys

import numpy as np

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

    def source(self):
        """All text that it is made of: that of its file and of this one."""
        files = (sys.modules[self.__module__], sys.modules[__name__])
        return "".join(map(inspect.getsource, files))


def types_of(context, builder, signature, args, ir, cgutils):
    """The scalar and vector type of the first array; every argument as pointer or integer."""
    values = []
    for type_, value in zip(signature.args, args, strict=True):
        if hasattr(type_, "ndim"):
            value = cgutils.create_struct_proxy(type_)(context, builder, value).data
        values.append(value)
    scalar = context.get_data_type(signature.args[0].dtype)
    vector = ir.VectorType(scalar, BYTES // context.get_abi_sizeof(scalar))
    return scalar, vector, values


def integer(like, value):
    return like.type(value)


def zero(builder, vector, ir):
    """A vector of zeros in a variable. LLVM keeps it in a register: nobody takes its address."""
    with builder.goto_entry_block():
        variable = builder.alloca(vector)
    builder.store(ir.Constant(vector, [0.0] * vector.count), variable)
    return variable


def load(builder, pointer, v, vector):
    address = builder.gep(pointer, [int64(v * vector.count)])
    return builder.load(builder.bitcast(address, vector.as_pointer()), align=align(vector))


def store(builder, value, pointer, v, vector):
    address = builder.gep(pointer, [int64(v * vector.count)])
    builder.store(value, builder.bitcast(address, vector.as_pointer()), align=align(vector))


def align(vector):
    """Rows start anywhere: promise no more than one number's alignment."""
    return 8 if str(vector.element) == "double" else 4


def int64(value):
    from llvmlite import ir

    return ir.IntType(64)(value)


def splat(builder, scalar, vector, ir):
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, int64(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, undefined, zeros)


def add_product(builder, variable, a, b):
    """variable += a * b, fused where the processor can ("contract"), two roundings elsewhere."""
    product = builder.fmul(a, b, flags=["contract"])
    builder.store(builder.fadd(builder.load(variable), product, flags=["contract"]), variable)


def shuffle(builder, a, b, lanes, ir):
    """Lanes of a, and counted on, of b."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(a, b, mask)


def sum_of_neighbours(builder, a, b, ir):
    """(a0 + a1, a2 + a3, …, b0 + b1, …); without b half as long."""
    width = a.type.count * (1 if b is None else 2)
    b = ir.Constant(a.type, ir.Undefined) if b is None else b
    even = shuffle(builder, a, b, list(range(0, width, 2)), ir)
    return builder.fadd(even, shuffle(builder, a, b, list(range(1, width, 2)), ir))


def in_phases(builder, vectors, ir):
    """Vectors of consecutive numbers → one of every len(vectors)-th number, for each phase."""
    if len(vectors) == 1:
        return vectors
    n = vectors[0].type.count
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    even = [shuffle(builder, a, b, list(range(0, 2 * n, 2)), ir) for a, b in pairs]
    odd = [shuffle(builder, a, b, list(range(1, 2 * n, 2)), ir) for a, b in pairs]
    even, odd = in_phases(builder, even, ir), in_phases(builder, odd, ir)
    return [phase for both in zip(even, odd, strict=True) for phase in both]


def interleaved(builder, phases, ir):
    """The inverse of `in_phases`."""
    if len(phases) == 1:
        return phases
    n = phases[0].type.count
    even = interleaved(builder, phases[::2], ir)
    odd = interleaved(builder, phases[1::2], ir)
    found = []
    for a, b in zip(even, odd, strict=True):
        for half in (0, n // 2):
            lanes = [half + i // 2 + i % 2 * n for i in range(n)]
            found.append(shuffle(builder, a, b, lanes, ir))
    return found


def linear(builder, factors, vectors, ir):
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


def times(builder, matrix, vectors, ir):
    """matrix · vectors. Rows of points ±p share what is even and what is odd in p."""
    found = [linear(builder, matrix[0], vectors, ir)]
    for row in matrix[1:-1:2]:
        even = linear(builder, row[::2], vectors[::2], ir)
        odd = linear(builder, row[1::2], vectors[1::2], ir)
        found += [builder.fadd(even, odd), builder.fsub(even, odd)]
    return [*found, linear(builder, matrix[-1], vectors, ir)]


def transposed_times(builder, matrix, vectors, ir):
    """The same where points are the columns of the matrix: sums and differences come first."""
    folded, columns = [vectors[0]], [matrix[:, 0]]
    for i in range(1, len(vectors) - 1, 2):
        folded += [builder.fadd(*vectors[i : i + 2]), builder.fsub(*vectors[i : i + 2])]
        power = np.arange(len(matrix)) % 2
        columns += [matrix[:, i] * (1 - power), matrix[:, i] * power]
    folded.append(vectors[-1])
    columns.append(matrix[:, -1])
    return [linear(builder, row, folded, ir) for row in np.array(columns).T]
