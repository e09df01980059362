"""A pool of threads that shares out one loop at a time, in machine code.

A training step runs some two hundred loops, most of them for less than a millisecond. A thread
that Python wakes comes to each some 40 µs late, as it slept and as it needs the interpreter's
lock. So while loops follow each other, workers wait here, in compiled code and without that lock.

What a worker has to know of a loop are two addresses: of a function ``(arguments, start, stop,
worker)``, which looks the same for every loop, and of the arguments in the caller's memory.
`launcher` compiles that function, `share` is the caller's side, `serve` the workers'. The caller
leaves only when no worker is inside, so the arguments live long enough.
"""

from __future__ import annotations

import functools
import inspect
import platform
import sys
import zlib

from . import jit
from .jit import inline
from .llvm import Intrinsic

# A pool is int64 words in memory. What threads fight for has a cache line (8 words) to itself.
BUSY, OPEN, INSIDE, NEXT, FAILED = 0, 8, 16, 24, 32
RUN, ARGUMENTS, ITEMS, CHUNKS, WORKERS = 40, 41, 42, 43, 44
WORDS = 48

PAUSES = 64  # looks at the pool between two offers of the processor to other threads


def share(pool, n, chunks, workers, run, arguments):
    """The caller's side: items 0 … n - 1 in `chunks`, with up to ``workers - 1`` of who serve.

    Which worker runs a chunk changes nothing, as loops write disjoint outputs. Returns whether one
    failed.
    """
    if chunks < 2 or exchange(pool, BUSY, 1):  # not worth it, or another caller has the pool
        return call(run, arguments, 0, n, 0)
    exchange(pool, RUN, run)
    exchange(pool, ARGUMENTS, arguments)
    exchange(pool, ITEMS, n)
    exchange(pool, CHUNKS, chunks)
    exchange(pool, WORKERS, workers)
    exchange(pool, NEXT, 0)
    exchange(pool, FAILED, 0)
    exchange(pool, OPEN, 1)
    work(pool, 0)
    exchange(pool, OPEN, 0)
    waited = 0
    while read(pool, INSIDE):
        waited = wait(waited)
    failed = read(pool, FAILED)
    exchange(pool, BUSY, 0)
    return failed


def serve(pool, worker, patience):
    """A worker's side: help with what comes, until for `patience` looks nothing has."""
    waited = 0
    while waited < patience:
        worthwhile = read(pool, NEXT) < read(pool, CHUNKS) and worker < read(pool, WORKERS)
        if worthwhile and read(pool, OPEN):
            add(pool, INSIDE, 1)
            if read(pool, OPEN) and worker < read(pool, WORKERS):  # only now it stays as it is
                work(pool, worker)
                waited = 0
            add(pool, INSIDE, -1)
        waited = wait(waited)


@inline
def work(pool, worker):
    """Take chunk after chunk until there is none."""
    n, chunks = read(pool, ITEMS), read(pool, CHUNKS)
    chunk = add(pool, NEXT, 1)
    while chunk < chunks:
        start, stop = n * chunk // chunks, n * (chunk + 1) // chunks
        if call(read(pool, RUN), read(pool, ARGUMENTS), start, stop, worker):
            exchange(pool, FAILED, 1)
        chunk = add(pool, NEXT, 1)


@inline
def wait(waited):
    """A moment; now and then one for whoever else wants the processor."""
    if waited % PAUSES:
        pause()
    else:
        offer()
    return waited + 1


@functools.cache
def compiled_share():
    """The address of `share` in machine code."""
    return jit.cfunc(share, 6).address


@functools.cache
def compiled_serve():
    return jit.jit(serve, nogil=True)


# ---- words ----------------------------------------------------------------------------------


@Intrinsic
def read():
    """``read(pool, word)``. Like the next two, in one order that all threads agree on."""
    return _word(2, lambda builder, at: builder.load_atomic(at, "seq_cst", 8))


@Intrinsic
def exchange():
    """``exchange(pool, word, value)``: write, and return what was there."""
    return _word(3, lambda builder, at, value: builder.atomic_rmw("xchg", at, value, "seq_cst"))


@Intrinsic
def add():
    """``add(pool, word, value)``: add, and return what was there."""
    return _word(3, lambda builder, at, value: builder.atomic_rmw("add", at, value, "seq_cst"))


def _word(operands, build):
    """The first operand is an address, the second counts words from there."""

    def at_word(builder, pool, word, *value):
        pointer = builder.inttoptr(pool, pool.type.as_pointer())
        return build(builder, builder.gep(pointer, [word]), *value)

    return jit.integers(operands, at_word)


@Intrinsic
def call():
    """``call(run, arguments, start, stop, worker)``: the function at address `run`."""

    def build(builder, run, *args):
        return builder.call(builder.inttoptr(run, _function(args).as_pointer()), args)

    return jit.integers(5, build)


@Intrinsic
def pause():
    """Tell the processor that this thread only waits."""

    def build(builder):
        from llvmlite import ir

        machine = platform.machine().lower()
        if machine in ("x86_64", "amd64"):
            _outside(builder, ir.VoidType(), "llvm.x86.sse2.pause")
        elif machine in ("aarch64", "arm64"):
            _outside(builder, ir.VoidType(), "llvm.aarch64.hint", ir.IntType(32)(1))

    return jit.integers(0, build)


@Intrinsic
def offer():
    """Let the system run another thread here, if one wants to."""

    def build(builder):
        from llvmlite import ir

        if sys.platform != "win32":
            _outside(builder, ir.IntType(32), "sched_yield")

    return jit.integers(0, build)


def _outside(builder, result, name, *args):
    """Call a function of the system's, or an instruction."""
    from llvmlite import ir
    from numba.core import cgutils

    kind = ir.FunctionType(result, [a.type for a in args])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _function(args):
    """A function of integers that returns one."""
    from llvmlite import ir

    return ir.FunctionType(ir.IntType(64), [a.type for a in args])


# ---- a loop -----------------------------------------------------------------------------------


LAUNCH = """
def {name}(share, pool, n, chunks, workers, scratch, {args}):
    return shared(share, pool, n, chunks, workers, scratch, ({args},))
"""


def launcher(loop, fastmath):
    """A compiled ``launch(share, pool, n, chunks, workers, scratch, *args)`` of a `Kernel`'s loop.

    It does the loop by the `share` at that address. Row i of `scratch` is what worker i has to
    itself, or it is None. Written out for so many arguments, as numba is slow to look at ``*args``.
    """
    piece = jit.Piece(loop, fastmath)
    loop, code = piece.function, piece.function.__code__
    names = list(inspect.signature(loop).parameters)[2:]
    if "scratch" in names:
        names.remove("scratch")
    function = {"shared": _shared(piece)}
    exec(LAUNCH.format(name=loop.__name__, args=", ".join(names)), function)
    function = function[loop.__name__]
    function.__code__ = function.__code__.replace(
        co_filename=code.co_filename, co_firstlineno=code.co_firstlineno
    )
    function.__module__ = loop.__module__
    text = "".join(inspect.getsource(module) for module in (sys.modules[__name__], jit))
    function.__qualname__ = f"{loop.__qualname__}_{zlib.crc32(text.encode()):08x}"
    return jit.njit(function, nogil=True, no_cfunc_wrapper=True)


def _shared(piece):
    """Write the loop's own ``run(arguments, start, stop, worker)``, and have it shared out."""
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    @intrinsic
    def shared(typing, share, pool, n, chunks, workers, scratch, args):
        packed = types.Tuple([scratch, args])

        def lower(context, builder, signature, values):
            share, *numbers = values[:-2]
            arguments = context.make_tuple(builder, packed, values[-2:])
            place = cgutils.alloca_once_value(builder, arguments)
            name = f"{builder.function.name}.run"
            run = ir.Function(builder.module, _function([share] * 4), name)
            run.linkage = "internal"
            _write(run, context, place.type, packed, piece)
            numbers += [builder.ptrtoint(address, share.type) for address in (run, place)]
            share = builder.inttoptr(share, _function(numbers).as_pointer())
            return builder.call(share, numbers)

        return types.intp(share, pool, n, chunks, workers, scratch, args), lower

    return shared


def _write(run, context, pointer, packed, piece):
    """Fill the function `run`: unpack what lies at its first argument, and call the piece."""
    from llvmlite import ir
    from numba.core import types
    from numba.np.arrayobj import make_array, populate_array

    builder = ir.IRBuilder(run.append_basic_block())
    address, start, stop, worker = run.args
    scratch, args = packed
    data = builder.load(builder.inttoptr(address, pointer))
    memory, rest = builder.extract_value(data, 0), builder.extract_value(data, 1)
    values, kinds = [start, stop], [types.intp, types.intp]
    if not isinstance(scratch, types.NoneType):
        whole = make_array(scratch)(context, builder, memory)
        kinds.append(scratch.copy(ndim=1))
        row = make_array(kinds[-1])(context, builder)
        here = builder.mul(worker, builder.extract_value(whole.strides, 0))
        here = builder.add(builder.ptrtoint(whole.data, here.type), here)
        populate_array(
            row,
            data=builder.inttoptr(here, whole.data.type),
            shape=[builder.extract_value(whole.shape, 1)],
            strides=[whole.itemsize],
            itemsize=whole.itemsize,
            meminfo=None,
        )
        values.append(row._getvalue())
    values += [builder.extract_value(rest, i) for i in range(len(args))]
    signature = types.none(*kinds, *args)
    status, _ = context.call_internal_no_propagate(
        builder, piece.added(context, signature.args), signature, values
    )
    builder.ret(builder.zext(status.is_error, address.type))
