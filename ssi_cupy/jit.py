"""How a plain Python loop becomes machine code: by numba, on first use, kept on disk."""

from __future__ import annotations

import functools
import inspect
import logging
import types
import zlib

log = logging.getLogger("ssi_cupy")


class Inline:
    """A function that kernels call. Compiled into them."""

    def __init__(self, function, fastmath=False):
        self.function, self.fastmath = function, fastmath
        functools.update_wrapper(self, function)

    def __call__(self, *args):
        return self.function(*args)

    @functools.cached_property
    def compiled(self):
        # Where sums may be reordered, never as a call. A process that compiles has two machine
        # codes of such a function, alone and in its kernel, with sums in different orders; it
        # would call the former, and one that reads the kernel from the cache the latter.
        options = {"forceinline": True} if self.fastmath else {}
        return jit(self.function, nogil=True, fastmath=self.fastmath, **options)


def inline(function=None, *, fastmath=False):
    """Make an `Inline` of a plain Python function; `fastmath` as in `kernel`."""
    if function is None:
        return lambda function: Inline(function, fastmath)
    return Inline(function, fastmath)


def jit(function, fastmath=False, **options):
    """`njit`, with the lazy objects that `function` names replaced by what they stand for."""
    if fastmath:
        options["fastmath"] = FAST
    return njit(resolved(function), **options)


FAST = {"reassoc", "contract", "arcp", "nsz"}  # sums in any order; NaN stays NaN


def njit(function, **options):
    """numba's, cached on disk where that can be written."""
    import numba

    options["error_model"] = "numpy"  # x / 0 is an infinity, as on the GPU, and needs no branch
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError as error:  # no folder to cache in: say once what that costs
        _say_no_cache(str(error))
        return numba.njit(**options)(function)


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


@functools.cache
def _say_no_cache(error):
    log.warning(
        "compiled loops cannot be kept (%s): every new process compiles them again, for about "
        "half a minute; set NUMBA_CACHE_DIR to a folder that can be written to avoid that",
        error,
    )
