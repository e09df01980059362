"""The words that vector code is written in (LLVM), and how kernels call it.

What kernels see is the same everywhere: numbers are taken by *lines* of 64 bytes, a line of the
cache. What a line is made of differs: one register of AVX-512, two of AVX2, four of SSE or NEON.
Of these a processor has 16 or 32. A loop whose sums do not fit them writes some to memory and reads
them back in each round ("spills"), and costs twice its time. So `Registers` asks the processor, and
`Registers.tile` cuts what a loop should hold at once into parts that fit, which are then done one
after the other. The largest reads least: of a × b sums, each of a numbers meets each of b vectors,
so a round is a b multiply-adds for a + b loads. It needs registers for the sums, for the b vectors,
for one of the a numbers, and, where a multiply-add is two instructions, for a product.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import math
import re
import sys
from dataclasses import dataclass

import numpy as np

from .jit import with_parameters

LINE = 64  # bytes: vector code takes numbers by so many, and rows of scratch memory are of these


def lanes(dtype):
    """How many numbers of `dtype` a line holds: 16 of float32, 8 of float64."""
    return LINE // dtype.itemsize


# ---- the processor ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Registers:
    """The vector registers of a processor."""

    bytes: int  # of one
    number: int
    fused: bool  # whether a multiply-add is one instruction

    def tile(self, numbers, vectors):
        """The largest tile (a, b) that fits: a divides `numbers`, b divides `vectors`."""
        fitting = [
            (a, b)
            for a in range(1, numbers + 1)
            for b in range(1, vectors + 1)
            if numbers % a == vectors % b == 0 and a * b + b + 1 + (not self.fused) <= self.number
        ]
        return max(fitting, key=lambda tile: math.prod(tile) / sum(tile))


@functools.cache
def registers():
    """Those of the processor that numba compiles for: this one, or what NUMBA_CPU_NAME and
    NUMBA_CPU_FEATURES say."""
    from numba.core.registry import cpu_target

    return registers_of(cpu_target.target_context.codegen()._tm)


def registers_of(target_machine):
    """Ask LLVM in its own words: which registers does a multiply-add of 64 bytes use?"""
    from llvmlite import binding, ir

    module = ir.Module()
    module.triple = target_machine.triple
    vector = ir.VectorType(ir.FloatType(), LINE // 4)
    kind = ir.FunctionType(ir.VoidType(), [vector.as_pointer()] * 3)
    builder = ir.IRBuilder(ir.Function(module, kind, "probe").append_basic_block())
    a, b, c = map(builder.load, builder.function.args)
    product = builder.fmul(a, b, flags=["contract"])
    total = builder.fadd(product, c, flags=["contract"])
    builder.store(total, builder.function.args[0])
    builder.ret_void()
    text = target_machine.emit_assembly(binding.parse_assembly(str(module)))
    fused = re.search("fmadd|fmla", text) is not None
    for name, size, number in (("zmm", 64, 32), ("ymm", 32, 16), ("xmm", 16, 16)):
        if name in text:
            return Registers(size, number, fused)
    return Registers(16, 32 if fused else 16, fused)  # NEON; little is promised of others


# ---- what kernels call --------------------------------------------------------------------------


class Intrinsic:
    """A piece of LLVM code that kernels call by name. Built on first use, as numba is heavy."""

    def __init__(self, build):
        self._build = build
        functools.update_wrapper(self, build)

    @functools.cached_property
    def compiled(self):
        return self._build()

    def source(self):
        """All text that it is made of: that of its file, and of those that this one imports."""
        own = vars(sys.modules[self.__module__]).values()
        named = {getattr(value, "__module__", None) or "" for value in own}
        named |= {__name__, self.__module__}
        files = sorted(name for name in named if name.startswith(__package__ + "."))
        return "".join(inspect.getsource(sys.modules[name]) for name in files)


class VectorCode(Intrinsic):
    """An intrinsic that a function ``write(code, *operands)`` writes, `code` being a `Code`.

    Kernels call it with the operands: arrays, of which it gets the addresses of their first
    numbers, integers, booleans, and numbers of the first array's type. It returns nothing.
    """

    def __init__(self, write):
        super().__init__(self._intrinsic)
        functools.update_wrapper(self, write)
        self.write = write

    def _intrinsic(self):
        from numba.core import cgutils, types
        from numba.extending import intrinsic

        def lower(context, builder, signature, values):
            operands = [
                cgutils.create_struct_proxy(type_)(context, builder, value).data
                if isinstance(type_, types.Array)
                else value
                for type_, value in zip(signature.args, values, strict=True)
            ]
            scalar = context.get_data_type(signature.args[0].dtype)
            self.write(Code(builder, scalar, registers()), *operands)
            return context.get_dummy_value()

        def typed(typing, *args):
            def kind(type_):
                if isinstance(type_, types.Array | types.Boolean):
                    return type_
                return args[0].dtype if isinstance(type_, types.Float) else types.intp

            return types.void(*map(kind, args)), lower

        names = list(inspect.signature(self.write).parameters)[1:]
        return intrinsic(with_parameters(typed, names))


class Code:
    """Where vector code is written to, and its words.

    Indices are LLVM's integers or Python's, and a pair of these stands for their product.
    """

    def __init__(self, builder, scalar, registers):
        from llvmlite import ir

        self.ir, self.builder, self.scalar = ir, builder, scalar
        self.itemsize = 8 if isinstance(scalar, ir.DoubleType) else 4
        self.registers = registers
        self.vectors = LINE // registers.bytes  # of a line
        self.vector = self.vector_of(registers.bytes // self.itemsize)
        self.lanes = self.vector.count

    def vector_of(self, count):
        return self.ir.VectorType(self.scalar, count)

    def name_of(self, vector):
        """As the names of LLVM's functions end."""
        return f"v{vector.count}f{8 * self.itemsize}"

    # ---- integers and addresses

    def integer(self, value):
        return self.ir.IntType(64)(value) if isinstance(value, int) else value

    def index(self, *terms):
        """The sum of the terms."""
        found = None
        for term in terms:
            pair = isinstance(term, tuple)
            term = self.builder.mul(*map(self.integer, term)) if pair else self.integer(term)
            found = term if found is None else self.builder.add(found, term)
        return found

    def at(self, pointer, *terms):
        """The address so many numbers further."""
        return self.builder.gep(pointer, [self.index(*terms)])

    @contextlib.contextmanager
    def loop(self, count):
        """What follows, for each index below `count`."""
        from numba.core import cgutils

        if count == 1:
            yield self.integer(0)
        else:
            with cgutils.for_range(self.builder, self.integer(count)) as loop:
                yield loop.index

    # ---- vectors

    def load(self, pointer, v=0, vector=None):
        vector = vector or self.vector
        address = self.builder.bitcast(self.at(pointer, v * vector.count), vector.as_pointer())
        return self.builder.load(address, align=self.itemsize)  # rows start anywhere

    def store(self, value, pointer, v=0):
        address = self.at(pointer, v * value.type.count)
        address = self.builder.bitcast(address, value.type.as_pointer())
        self.builder.store(value, address, align=self.itemsize)

    def add_to(self, pointer, value):
        self.store(self.builder.fadd(self.load(pointer, 0, value.type), value), pointer)

    def zeros(self, *shape):
        """Vectors of zeros in variables, which LLVM keeps in registers as nobody takes their
        address."""
        if shape:
            return [self.zeros(*shape[1:]) for _ in range(shape[0])]
        with self.builder.goto_entry_block():
            variable = self.builder.alloca(self.vector)
        self.builder.store(self.constant(self.vector, 0), variable)
        return variable

    def memory(self, count):
        """Room for so many vectors, on the stack."""
        with self.builder.goto_entry_block():
            room = self.builder.alloca(self.vector, size=self.integer(count))
        return self.builder.bitcast(room, self.scalar.as_pointer())

    def constant(self, vector, value):
        return self.ir.Constant(vector, [float(value)] * vector.count)

    def splat(self, scalar, vector=None):
        vector = vector or self.vector
        undefined = self.ir.Constant(vector, self.ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, self.integer(0))
        return self.shuffle(one, undefined, [0] * vector.count)

    def add_product(self, variable, a, b):
        """variable += a * b, fused ("contract") where the processor can, else rounded twice."""
        product = self.builder.fmul(a, b, flags=["contract"])
        total = self.builder.fadd(self.builder.load(variable), product, flags=["contract"])
        self.builder.store(total, variable)

    def shuffle(self, a, b, lanes):
        """Lanes of a, and counted on, of b."""
        mask = self.ir.Constant(self.ir.VectorType(self.ir.IntType(32), len(lanes)), lanes)
        return self.builder.shuffle_vector(a, b, mask)

    # ---- the sums of lanes

    def total(self, vector):
        """The sum of all lanes."""
        from numba.core import cgutils

        kind = self.ir.FunctionType(self.scalar, [self.scalar, vector.type])
        name = f"llvm.vector.reduce.fadd.{self.name_of(vector.type)}"
        reduce = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(reduce, [self.scalar(0.0), vector], fastmath=["reassoc"])

    def totals(self, vectors):
        """The sums of all lanes of each vector, next to each other in one vector or several."""
        for _ in range(self.lanes.bit_length() - 1):
            pairs = itertools.zip_longest(vectors[::2], vectors[1::2])
            vectors = [self.sum_of_neighbours(*pair) for pair in pairs]
        return vectors

    def sum_of_neighbours(self, a, b):
        """(a0 + a1, a2 + a3, …, b0 + b1, …); without b half as long."""
        width = a.type.count * (1 if b is None else 2)
        b = self.ir.Constant(a.type, self.ir.Undefined) if b is None else b
        even = self.shuffle(a, b, list(range(0, width, 2)))
        return self.builder.fadd(even, self.shuffle(a, b, list(range(1, width, 2))))

    # ---- every n-th number

    def in_phases(self, vectors):
        """Vectors of consecutive numbers → one of every len(vectors)-th number, for each phase."""
        if len(vectors) == 1:
            return vectors
        n = vectors[0].type.count
        pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
        even = self.in_phases([self.shuffle(a, b, list(range(0, 2 * n, 2))) for a, b in pairs])
        odd = self.in_phases([self.shuffle(a, b, list(range(1, 2 * n, 2))) for a, b in pairs])
        return [phase for both in zip(even, odd, strict=True) for phase in both]

    def interleaved(self, phases):
        """The inverse of `in_phases`."""
        if len(phases) == 1:
            return phases
        n = phases[0].type.count
        found = []
        halves = self.interleaved(phases[::2]), self.interleaved(phases[1::2])
        for a, b in zip(*halves, strict=True):
            for half in (0, n // 2):
                found.append(self.shuffle(a, b, [half + i // 2 + i % 2 * n for i in range(n)]))
        return found

    # ---- a small matrix, times vectors

    def linear(self, factors, vectors):
        """Σ factor · vector, or None where all factors are 0."""
        terms = sorted(zip(factors, vectors, strict=True), key=lambda t: t[0] != 1)
        total = None
        for factor, v in terms:
            if factor == 0:
                continue
            if factor != 1:
                v = self.builder.fmul(v, self.constant(v.type, factor), flags=["contract"])
            total = v if total is None else self.builder.fadd(total, v, flags=["contract"])
        return total

    def times(self, matrix, vectors):
        """matrix · vectors. What belongs to points ±p is found from sums and differences: of rows
        what is even and what is odd in p, or, where points are the columns, of the vectors."""
        if matrix.shape[0] < matrix.shape[1]:
            return self._transposed_times(matrix, vectors)
        found = [self.linear(matrix[0], vectors)]
        for row in matrix[1:-1:2]:
            even = self.linear(row[::2], vectors[::2])
            odd = self.linear(row[1::2], vectors[1::2])
            found += [self.builder.fadd(even, odd), self.builder.fsub(even, odd)]
        return [*found, self.linear(matrix[-1], vectors)]

    def _transposed_times(self, matrix, vectors):
        folded, columns = [vectors[0]], [matrix[:, 0]]
        for i in range(1, len(vectors) - 1, 2):
            pair = vectors[i : i + 2]
            folded += [self.builder.fadd(*pair), self.builder.fsub(*pair)]
            power = np.arange(len(matrix)) % 2
            columns += [matrix[:, i] * (1 - power), matrix[:, i] * power]
        folded.append(vectors[-1])
        columns.append(matrix[:, -1])
        return [self.linear(row, folded) for row in np.array(columns).T]
