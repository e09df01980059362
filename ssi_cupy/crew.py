"""A crew of threads that shares out one loop at a time, in machine code.

A training step runs some two hundred loops, most of them for less than a millisecond. A thread
that Python wakes comes to each some 40 µs late, as it slept and as it needs the interpreter's
lock. So while loops follow each other, helpers wait here, in compiled code and without that lock.

What a helper has to know of a loop are two addresses: of a function ``(arguments, start, stop,
worker)``, which looks the same for every loop, and of the arguments in the caller's memory.
`launch` is the caller's side, compiled once for each loop, `serve` the helpers'. The caller leaves
only when no helper is inside, so the arguments live long enough.
"""

from __future__ import annotations

import platform
import sys
import types

from . import jit
from .jit import inline
from .llvm import Intrinsic

# A crew is an array of int64. What threads fight for has a cache line (8 words) to itself.
BUSY, OPEN, INSIDE, NEXT, FAILED = 0, 8, 16, 24, 32
RUN, ARGUMENTS, ITEMS, CHUNKS, WORKERS = 40, 41, 42, 43, 44
WORDS = 48

PAUSES = 64  # looks at the crew between two offers of the processor to others


def launch(crew, n, chunks, workers, scratch, *args):
    """Do items 0 … n - 1 of a loop in `chunks`, with up to ``workers - 1`` of who serve `crew`.

    Row i of `scratch` is what worker i has to itself; None for a loop that asks for none. Which
    worker runs a chunk changes nothing: loops write disjoint outputs.
    """
    run, arguments = job(scratch, args)
    if chunks < 2 or exchange(crew, BUSY, 1):  # not worth it, or another caller has the crew
        failed = call(run, arguments, 0, n, 0)
    else:
        crew[RUN], crew[ARGUMENTS] = run, arguments
        crew[ITEMS], crew[CHUNKS], crew[WORKERS] = n, chunks, workers
        crew[NEXT] = crew[FAILED] = 0
        exchange(crew, OPEN, 1)
        work(crew, 0)
        exchange(crew, OPEN, 0)
        waited = 0
        while read(crew, INSIDE):
            waited = wait(waited)
        failed = crew[FAILED]
        exchange(crew, BUSY, 0)
    if failed:
        raise RuntimeError("a compiled loop failed")


def job(scratch, args):
    """The addresses of the function that runs the loop, and of all its arguments.

    Each loop has its own, in place of this one: see `launcher`.
    """


def serve(crew, worker, patience):
    """Help with what comes, until for `patience` looks nothing has."""
    waited = 0
    while waited < patience:
        if read(crew, OPEN) and read(crew, NEXT) < crew[CHUNKS] and worker < crew[WORKERS]:
            add(crew, INSIDE, 1)
            if read(crew, OPEN) and worker < crew[WORKERS]:  # only now nobody changes the job
                work(crew, worker)
                waited = 0
            add(crew, INSIDE, -1)
        waited = wait(waited)


@inline
def work(crew, worker):
    """Take chunk after chunk until there is none."""
    n, chunks = crew[ITEMS], crew[CHUNKS]
    chunk = add(crew, NEXT, 1)
    while chunk < chunks:
        start, stop = n * chunk // chunks, n * (chunk + 1) // chunks
        if call(crew[RUN], crew[ARGUMENTS], start, stop, worker):
            crew[FAILED] = 1
        chunk = add(crew, NEXT, 1)


@inline
def wait(waited):
    """A moment; now and then one for whoever else wants the processor."""
    if waited % PAUSES:
        pause()
    else:
        offer()
    return waited + 1


# ---- words ----------------------------------------------------------------------------------


@Intrinsic
def read():
    """``read(crew, word)``. Like the next two, in one order that all threads agree on."""

    def build(builder, address):
        return builder.load_atomic(address, "seq_cst", 8)

    return _word("read", build)


@Intrinsic
def exchange():
    """``exchange(crew, word, value)``: write, and return what was there."""
    return _word("exchange", lambda b, at, value: b.atomic_rmw("xchg", at, value, "seq_cst"), True)


@Intrinsic
def add():
    """``add(crew, word, value)``: add, and return what was there."""
    return _word("add", lambda b, at, value: b.atomic_rmw("add", at, value, "seq_cst"), True)


def _word(name, build, valued=False):
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    def lower(context, builder, signature, args):
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        return build(builder, builder.gep(data, [args[1]]), *args[2:])

    if valued:

        def typed(typing, crew, word, value):
            return types.intp(crew, types.intp, types.intp), lower
    else:

        def typed(typing, crew, word):
            return types.intp(crew, types.intp), lower

    return intrinsic(typed)


@Intrinsic
def pause():
    """Tell the processor that this thread only waits."""

    def build(builder, ir):
        machine = platform.machine().lower()
        if machine in ("x86_64", "amd64"):
            _outside(builder, ir.VoidType(), "llvm.x86.sse2.pause")
        elif machine in ("aarch64", "arm64"):
            _outside(builder, ir.VoidType(), "llvm.aarch64.hint", ir.IntType(32)(1))

    return _effect(build)


@Intrinsic
def offer():
    """Let the system run another thread here, if one wants to."""

    def build(builder, ir):
        if sys.platform != "win32":
            _outside(builder, ir.IntType(32), "sched_yield")

    return _effect(build)


def _outside(builder, result, name, *args):
    """Call a function of the system's, or an instruction."""
    from llvmlite import ir
    from numba.core import cgutils

    kind = ir.FunctionType(result, [a.type for a in args])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _effect(build):
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    @intrinsic
    def effect(typing):
        def lower(context, builder, signature, args):
            build(builder, ir)
            return context.get_dummy_value()

        return types.void(), lower

    return effect


@Intrinsic
def call():
    """``call(run, arguments, start, stop, worker)``: the function at address `run`."""
    from llvmlite import ir
    from numba.core import types
    from numba.extending import intrinsic

    @intrinsic
    def call(typing, run, arguments, start, stop, worker):
        def lower(context, builder, signature, args):
            return builder.call(builder.inttoptr(args[0], _run_type(ir).as_pointer()), args[1:])

        return types.intp(*[types.intp] * 5), lower

    return call


def _run_type(ir):
    word = ir.IntType(64)
    return ir.FunctionType(word, [word] * 4)


# ---- a loop of one's own --------------------------------------------------------------------


def launcher(loop, fastmath):
    """`launch` for one loop, compiled on first use for each set of argument types."""
    loop = jit.resolved(loop)
    code = launch.__code__.replace(
        co_filename=loop.__code__.co_filename, co_firstlineno=loop.__code__.co_firstlineno
    )
    words = (exchange, work, read, wait, call)
    own = {word.__name__: word.compiled for word in words} | {"job": _job(loop, fastmath)}
    function = types.FunctionType(code, {**globals(), **own}, loop.__name__)
    function.__module__ = loop.__module__
    function.__qualname__ = f"{loop.__qualname__}_{jit.fingerprint(launch):08x}"
    return jit.njit(function, nogil=True, no_cfunc_wrapper=True)


def _job(loop, fastmath):
    """`job` for one loop: a function beside `launch` that unpacks the arguments, and calls it."""
    from llvmlite import ir
    from numba.core import cgutils, compiler, cpu, types
    from numba.extending import intrinsic
    from numba.np.arrayobj import make_array, populate_array

    @intrinsic
    def own_job(typing, scratch, args):
        def lower(context, builder, signature, values):
            given = signature.args[1].types
            own = () if isinstance(scratch, types.NoneType) else (scratch.copy(ndim=1),)
            kind = types.void(types.intp, types.intp, *own, *given)
            flags = compiler.Flags()
            flags.nrt, flags.forceinline, flags.error_model = True, True, "numpy"
            if fastmath:
                flags.fastmath = cpu.FastMathOptions(jit.FAST)
            compiled = context.compile_subroutine(builder, loop, kind, flags=flags)

            packed = ir.LiteralStructType([v.type for v in values])
            run = ir.Function(builder.module, _run_type(ir), compiled.fndesc.mangled_name + ".run")
            run.linkage = "internal"
            inner = ir.IRBuilder(run.append_basic_block())
            address, start, stop, worker = run.args
            data = inner.load(inner.inttoptr(address, packed.as_pointer()))
            arguments = [start, stop]
            if own:
                whole = make_array(scratch)(context, inner, inner.extract_value(data, 0))
                row = make_array(own[0])(context, inner)
                here = inner.mul(worker, inner.extract_value(whole.strides, 0))
                here = inner.add(inner.ptrtoint(whole.data, here.type), here)
                populate_array(
                    row,
                    data=inner.inttoptr(here, whole.data.type),
                    shape=[inner.extract_value(whole.shape, 1)],
                    strides=[whole.itemsize],
                    itemsize=whole.itemsize,
                    meminfo=None,
                )
                arguments.append(row._getvalue())
            everything = inner.extract_value(data, 1)
            arguments += [inner.extract_value(everything, i) for i in range(len(given))]
            status, _ = context.call_internal_no_propagate(inner, compiled.fndesc, kind, arguments)
            inner.ret(inner.zext(status.is_error, address.type))

            place = cgutils.alloca_once(builder, packed)
            for i, value in enumerate(values):
                builder.store(value, cgutils.gep_inbounds(builder, place, 0, i))
            addresses = [builder.ptrtoint(p, address.type) for p in (run, place)]
            return context.make_tuple(builder, signature.return_type, addresses)

        return types.UniTuple(types.intp, 2)(scratch, args), lower

    return own_job
