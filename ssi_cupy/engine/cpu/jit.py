"""How a plain Python loop becomes machine code: by numba, on first use, kept on disk."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import zlib
from collections.abc import Callable, Iterator

from .compile_cache import say_no_cache, seal


class Inline:
    """A function that kernels call. Compiled into them."""

    def __init__(self, function, fastmath=False):
        self.function, self.fastmath = function, fastmath
        functools.update_wrapper(self, function)

    def __call__(self, *args):
        return self.function(*args)

    @functools.cached_property
    def compiled(self):
        return Piece(self.function, self.fastmath).intrinsic()


def inline(function=None, *, fastmath=False):
    """Make an `Inline` of a plain Python function; `fastmath` as in `kernel`."""
    if function is None:
        return lambda function: Inline(function, fastmath)
    return Inline(function, fastmath)


def jit(function, **options):
    """`njit`, with the lazy objects that `function` names replaced by what they stand for."""
    return njit(resolved(function), **options)


def njit(function, **options):
    """numba's, cached on disk where that can be written."""
    import numba

    made = numba.njit(function, error_model=ERRORS, **options)
    _keep(made)
    return made


def cfunc(function, operands):
    """`function` of that many integers, which returns one, as a C function with an `address`."""
    from numba.core.ccallback import CFunc
    from numba.core.sigutils import normalize_signature
    from numba.core.types import intp

    signature = normalize_signature(intp(*[intp] * operands))
    made = CFunc(resolved(function), signature, locals={}, options={})
    _keep(made)
    made.compile()
    return made


@contextlib.contextmanager
def compiling(tell: Callable[[str], None]) -> Iterator[None]:
    """Within this, ``tell(name)`` is called before a loop is compiled, which takes a second or
    more; one that is read from the cache takes none."""
    from numba.core import event

    class Told(event.Listener):
        def on_start(self, event):
            tell(event.data["dispatcher"].py_func.__name__)

        def on_end(self, event):
            pass

    with event.install_listener("numba:compile", Told()):
        yield


def _keep(made):
    """Let numba keep what it compiles on disk, where there is a folder for that."""
    try:
        made.enable_caching()
    except RuntimeError as error:
        say_no_cache(str(error))
    else:
        seal(made._cache)


class Piece:
    """The code of a function that compiled code calls, with no machine code of its own.

    numba would compile what a loop calls for itself first, then once more into the loop, and so on
    through all levels; half of a first step was spent on that. And a process that compiles would
    have two machine codes of one function, with sums in different orders where that is allowed,
    while one that reads the loop from the cache has the loop's alone.
    """

    def __init__(self, function, fastmath=False):
        self.function, self.fastmath = resolved(function), fastmath
        self._built = {}

    def built(self, args):
        """What numba knows of it for such argument types; `library` has its code."""
        found = self._built.get(args)
        if found is None:
            from numba.core.compiler import Flags, compile_internal
            from numba.core.cpu import FastMathOptions
            from numba.core.registry import cpu_target

            flags = Flags()
            flags.nrt = flags.forceinline = flags.no_compile = True
            flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
            flags.error_model = ERRORS
            if self.fastmath:
                flags.fastmath = FastMathOptions(FAST)
            context, typing = cpu_target.target_context, cpu_target.typing_context
            text = _text_class()(context.codegen(), self.function.__name__)
            found = compile_internal(typing, context, text, self.function, args, None, flags, {})
            self._built[args] = found
        return found

    def added(self, context, args):
        """Add its code to what is being compiled; its description, to call it by."""
        found, library = self.built(args), context.active_code_library
        for other in (found.library, *found.library.linked):
            library.add_linking_library(other)
        return found.fndesc

    def intrinsic(self):
        """As other compiled functions call it."""
        from numba.core.types import unliteral
        from numba.extending import intrinsic

        def called(typing, *args):
            def lower(context, builder, signature, values):
                fndesc = self.added(context, signature.args)
                return context.call_internal(builder, fndesc, signature, values)

            return self.built(tuple(map(unliteral, args))).signature, lower

        return intrinsic(with_parameters(called, inspect.signature(self.function).parameters))


@functools.cache
def _text_class():
    from numba.core.codegen import JITCodeLibrary

    class Text(JITCodeLibrary):
        """The code of a function, for libraries that link it. Not compiled for itself."""

        def __init__(self, codegen, name):
            super().__init__(codegen, name)
            self.linked = []

        def add_linking_library(self, library):
            self.linked.append(library)

        def _ensure_finalized(self):
            pass

    return Text


ERRORS = "numpy"  # x / 0 is an infinity, as on the GPU, and needs no branch
FAST = {"reassoc", "contract", "arcp", "nsz"}  # sums in any order; NaN stays NaN


def integers(operands, build):
    """``build(builder, *values)`` of that many integers, as a function that compiled code calls."""
    from numba.core.types import intp, void
    from numba.extending import intrinsic

    def lower(context, builder, signature, values):
        found = build(builder, *values)
        return context.get_dummy_value() if found is None else found

    def typed(typing, *args):
        return (intp if operands else void)(*[intp] * operands), lower

    return intrinsic(with_parameters(typed, map("operand_{}".format, range(operands))))


def with_parameters(function, names):
    """A function ``(typing, *args)`` that says to numba how its arguments are called."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("typing", *names)]
    function.__signature__ = inspect.Signature(parameters)
    return function


def resolved(function):
    """`function`, with the lazy objects that it names replaced by what they stand for."""
    named = (function.__globals__.get(name) for name in function.__code__.co_names)
    lazy = {value.__name__: value.compiled for value in named if hasattr(value, "compiled")}
    if not lazy:
        return function
    found = types.FunctionType(
        function.__code__, {**function.__globals__, **lazy}, function.__name__
    )
    found.__module__ = function.__module__
    # numba's cache looks at the file of `function` alone. With what is compiled into it in its
    # name, a change there is a cache miss too.
    found.__qualname__ = f"{function.__name__}_{fingerprint(function):08x}"
    return found


def fingerprint(function):
    """A number that changes with the source of what is compiled into `function`."""
    text = inspect.getsource(function)
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if hasattr(value, "compiled"):
            inner = getattr(value, "function", None)
            text += str(fingerprint(inner)) if inner else value.source()
    return zlib.crc32(text.encode())
