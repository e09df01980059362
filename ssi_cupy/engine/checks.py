"""What is wrong with an argument, said so that the caller can mend it.

Every complaint names the argument, what was expected and what came. All of them are
`ValueError`s; `DeviceError` and `FileError` exist so that a pipeline can tell "wrong number"
from "no such device" and "no such file".
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .types import Array, ArrayLike, DTypeLike, Sizes, Sliceable, T

MOST_TOLD = 260  # characters of what came


class InputError(ValueError):
    """An argument cannot be used. The message names it, what was expected and what came."""

    def __init__(self, argument: str, expected: object, got: object) -> None:
        got = " ".join(str(got).split())  # in one line, whatever came
        if len(got) > MOST_TOLD:  # a reason comes last
            got = f"{got[: MOST_TOLD - 80]} … {got[-80:]}"
        super().__init__(" ".join(f"{argument}: expected {expected}, got {got}".split()))
        self.argument, self.expected, self.got = argument, expected, got

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.argument, self.expected, self.got)


class DeviceError(InputError):
    """A device was asked for and cannot be used, or arrays of two devices were mixed."""


class FileError(InputError):
    """A file cannot be read or written, or does not hold what it should."""


class OutOfMemory(MemoryError):
    """There is too little memory. The message says for what, how much was needed and how much
    there is, in bytes in `needed` and `free` (None where it cannot be told)."""

    def __init__(self, device: str, needed: int | None, free: int | None) -> None:
        told = (
            f"memory: expected {_mib(needed)} on {device!r}, got {_mib(free)} that are free; "
            "smaller images need less; in a training a smaller batch or patch (or crop) of the "
            "recipe, in applying a network a smaller tile_size"
        )
        super().__init__(told)
        self.device, self.needed, self.free = device, needed, free

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.device, self.needed, self.free)


def _mib(size):
    return "more" if size is None else f"{size / 2**20:,.0f} MiB"


def real_array(array: ArrayLike, argument: str, *, ndim: Sizes | None = None) -> Array:
    """`array` if it is a non-empty, finite, real-valued numeric array, else an `InputError`.

    Parameters
    ----------
    array : numpy.ndarray or cupy.ndarray
    argument : str
        Its name in the caller's signature.
    ndim : int or tuple of int, optional
        The ranks allowed.
    """
    array = numbers(array, argument, ndim=ndim)
    if array.dtype.kind == "f":
        bad = int((~np.isfinite(array)).sum())  # numpy functions dispatch to cupy for cupy arrays
        if bad:
            raise InputError(argument, "finite values", f"{bad} NaN or infinite of {array.size}")
    return array


def numbers(array: ArrayLike | Sliceable, argument: str, *, ndim: Sizes | None = None) -> Any:
    """What `real_array` asks for but for the values, at which this does not look: `array` may lie
    on a disk, and be anything that has a shape and a dtype."""
    if not hasattr(array, "dtype") or not hasattr(array, "ndim"):
        try:
            array = np.asarray(array)
        except ValueError as error:
            raise InputError(argument, "an array of numbers", f"{error}") from None
    if array.dtype.kind not in "uif":
        raise InputError(argument, "an array of real numbers", f"dtype {array.dtype}")
    if 0 in array.shape:
        raise InputError(argument, "a non-empty array", f"shape {array.shape}")
    if ndim is not None and array.ndim not in np.atleast_1d(ndim):
        ranks = " or ".join(f"{n}-D" for n in np.atleast_1d(ndim))
        raise InputError(argument, f"a {ranks} array", f"{array.ndim}-D, shape {array.shape}")
    return array


def varying(array: Array, argument: str) -> Array:
    """`array` if it holds more than one value: a constant image has nothing to restore."""
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise InputError(argument, "an image with more than one value", f"the constant {low:g}")
    return array


HIGHEST = float(np.finfo(np.float32).max) / 8  # of an intensity
LEAST_STEPS = 16  # of a float, that the contrast of an image spans
MOST_PIXELS = 2**26  # of a PSF: 0.5 GiB


def representable(
    low: float, high: float, argument: str = "image", dtype: DTypeLike = np.float32
) -> None:
    """An `InputError` where float32, which results are in, cannot hold values of `low` to `high`.

    Computing is done in float64, or after scaling in float64, and would not mind an offset of any
    size; but put back on it the result would be constant, zero or infinite.
    """
    dtype = np.dtype(dtype)
    most, largest, contrast = float(np.finfo(dtype).max) / 8, max(abs(low), abs(high)), high - low
    if not largest < most or not contrast < most:
        raise InputError(argument, f"values below {most:.2g}, which {dtype} can hold with room",
                         f"{low:g} to {high:g}")  # fmt: skip
    step = float(np.spacing(dtype.type(largest)))
    if contrast < LEAST_STEPS * step:
        expected = f"a contrast of at least {LEAST_STEPS} steps of {dtype}, of {step:.2g} each here"
        raise InputError(argument, f"{expected}: take off an offset, or scale it",
                         f"{contrast:g} ({low:.9g} to {high:.9g})")  # fmt: skip


def choice(value: T, argument: str, options: Iterable[object]) -> T:
    """That of `options` which `value` equals."""
    options = tuple(options)
    plain = value is None or isinstance(value, (str, int, float, np.number))
    if not plain or value not in options:
        raise InputError(argument, "one of " + ", ".join(map(repr, options)), told(value))
    return options[options.index(value)]


def told(value: Any) -> str:
    """`repr` of what came, short enough for one line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # somebody's own class
        text = f"a {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:100]}… ({type(value).__name__})"


def path_like(value: Any, argument: str) -> str:
    """`value` if it is a str or an `os.PathLike`: a number would be a file that is open already."""
    try:
        text = os.fspath(value)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text or "\0" in text:
        raise InputError(argument, "a path, as str or os.PathLike", told(value))
    return value


def flag(value: Any, argument: str) -> bool:
    """`value` as a bool if it is one: "no" would count as yes."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(argument, "True or False", told(value))
    return bool(value)


def positive_int(value: Any, argument: str, *, minimum: int = 1, most: int | None = None) -> int:
    """`value` as an int if it is a whole number of at least `minimum`, and at most `most`."""
    fits = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not fits or value < minimum or (most is not None and value > most):
        limit = "" if most is None else f" and at most {most}"
        raise InputError(argument, f"a whole number of at least {minimum}{limit}", told(value))
    return int(value)


def number(value: Any, argument: str, *, low: float = -np.inf, high: float = np.inf) -> float:
    """`value` as a float if it is a finite number in [`low`, `high`]."""
    fits = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    try:
        found = float(value) if fits else math.nan
    except OverflowError:  # an int may be larger than any float
        found = math.nan
    if not math.isfinite(found) or not low <= found <= high:
        raise InputError(argument, f"a finite number in [{low:g}, {high:g}]", told(value))
    return found


def limit(value: Any, argument: str) -> float:
    """`value` as a float if it is a number, which may be infinite but not NaN."""
    infinite = isinstance(value, (float, np.floating)) and np.isinf(value)
    return float(value) if infinite else number(value, argument)


def positive(value: Any, argument: str) -> float:
    """`value` as a float if it is a finite number above zero."""
    value = number(value, argument, low=0)
    if value == 0:
        raise InputError(argument, "a number above zero", "0")
    return value


def per_axis(value: Any, argument: str, ndim: int, check: Callable) -> tuple[Any, ...]:
    """``check(v, argument)`` of one value for all axes, or of one for each of `ndim`: a tuple."""
    many = isinstance(value, (tuple, list, range)) or getattr(value, "ndim", 0) == 1
    values = tuple(value) if many else (value,) * ndim
    if len(values) != ndim:
        raise InputError(argument, f"one value, or one for each of {ndim} axes", told(value))
    return tuple(check(v, argument) for v in values)


def odd_sizes(size: Sizes, ndim: int) -> tuple[int, ...]:
    """`size`, one number or one per axis, as `ndim` odd numbers; at most `MOST_PIXELS` in all."""
    sizes = per_axis(size, "size", ndim, positive_int)
    if any(n % 2 == 0 for n in sizes):
        raise InputError("size", "odd numbers", told(size))
    if math.prod(sizes) > MOST_PIXELS:
        raise InputError("size", f"at most {MOST_PIXELS} pixels", "×".join(map(str, sizes)))
    return sizes


def point_spread_function(
    psf: ArrayLike, argument: str = "psf", *, ndim: Sizes | None = None
) -> Array:
    """`psf` if it is a usable point-spread function: finite, none below zero, sum above zero."""
    psf = real_array(psf, argument, ndim=ndim)
    if float(psf.min()) < 0:
        raise InputError(argument, "no value below zero", f"a minimum of {float(psf.min()):g}")
    with np.errstate(over="ignore"):
        total = float(psf.sum(dtype=np.float64))
    if not 0 < total < np.inf:
        raise InputError(argument, "a finite sum above zero", f"a sum of {total:g}")
    return psf


# ---- fields of dataclasses ------------------------------------------------------------------


def checked(check: Callable, default: Any = dataclasses.MISSING) -> Any:
    """A field of a `Checked` dataclass: ``check(value, name)`` returns what it becomes, or raises.

    Parameters
    ----------
    check : callable
        One of the functions of this file, or what `whole`, `real`, `one_of`, `made_of`, `maybe`
        and `several` return.
    default : optional
    """
    return dataclasses.field(default=default, metadata={"check": check})


class Checked:
    """A dataclass that looks at what its fields are given, each by its own check."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = field.metadata["check"](getattr(self, field.name), field.name)
            object.__setattr__(self, field.name, value)


def text(value: Any, argument: str) -> str:
    """`value` if it is a str that is not empty."""
    if not isinstance(value, str) or not value:
        raise InputError(argument, "a text", told(value))
    return value


def whole(low: int = 1, high: int | None = None) -> Callable:
    """The check for a whole number in [low, high]."""
    return lambda value, name: positive_int(value, name, minimum=low, most=high)


def real(
    low: float | None = -np.inf,
    high: float | None = np.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> Callable:
    """The check for a number in [low, high]; without low itself if `above`, high if `below`."""

    def check(value, name):
        found = number(value, name, low=low, high=high)
        if (above and found == low) or (below and found == high):
            bounds = f"{'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
            raise InputError(name, f"a finite number in {bounds}", told(value))
        return found

    return check


def one_of(*options: object) -> Callable:
    """The check for one of some values."""
    return lambda value, name: choice(value, name, options)


def made_of(*kinds: type) -> Callable:
    """The check for an object of one of some classes."""

    def check(value, name):
        if not isinstance(value, kinds):
            names = " or ".join(kind.__name__.replace("NoneType", "None") for kind in kinds)
            raise InputError(name, names, told(value))
        return value

    return check


def maybe(check: Callable) -> Callable:
    """The check for what may be None too."""
    return lambda value, name: None if value is None else check(value, name)


def several(check: Callable, low: int = 1, high: int | None = None) -> Callable:
    """The check for a sequence of `low` to `high` such values, which becomes a tuple."""

    def each(value, name):
        fits = isinstance(value, (tuple, list, np.ndarray)) and getattr(value, "ndim", 1) == 1
        if not fits or not low <= len(value) <= (len(value) if high is None else high):
            count = f"{low}" if low == high else f"{low} or more" if high is None else (
                f"{low} to {high}")  # fmt: skip
            raise InputError(name, f"a sequence of {count}", told(value))
        return tuple(check(item, name) for item in value)

    return each


def bounds(low: float, high: float) -> tuple[float, float]:
    """Two bounds, `low` below `high`, either of them infinite if need be."""
    low, high = limit(low, "low"), limit(high, "high")
    if not low < high:
        raise InputError("high", f"a number above low = {low:g}", f"{high:g}")
    return low, high
