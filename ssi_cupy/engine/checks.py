"""What is wrong with an argument, said so that the caller can mend it.

Every complaint names the argument, what was expected and what came. All of them are
`ValueError`s; `DeviceError` and `FileError` exist so that a pipeline can tell "wrong number"
from "no such device" and "no such file".
"""

from __future__ import annotations

import numpy as np


class InputError(ValueError):
    """An argument cannot be used. The message names it, what was expected and what came."""

    def __init__(self, argument, expected, got):
        super().__init__(f"{argument}: expected {expected}, got {got}")
        self.argument, self.expected, self.got = argument, expected, got

    def __reduce__(self):
        return type(self), (self.argument, self.expected, self.got)


class DeviceError(InputError):
    """A device was asked for and cannot be used, or arrays of two devices were mixed."""


class FileError(InputError):
    """A file cannot be read or written, or does not hold what it should."""


class OutOfMemory(MemoryError):
    """There is too little memory. The message says for what, how much was needed and how much
    there is, in bytes in `needed` and `free` (None where it cannot be told)."""

    def __init__(self, device, needed, free):
        told = (
            f"memory: expected {_mib(needed)} on {device!r}, got {_mib(free)} that are free; "
            "smaller images, patches or tiles need less"
        )
        super().__init__(told)
        self.device, self.needed, self.free = device, needed, free

    def __reduce__(self):
        return type(self), (self.device, self.needed, self.free)


def _mib(size):
    return "more" if size is None else f"{size / 2**20:,.0f} MiB"


def real_array(array, argument, *, ndim=None):
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


def numbers(array, argument, *, ndim=None):
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


def varying(array, argument):
    """`array` if it holds more than one value: a constant image has nothing to restore."""
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise InputError(argument, "an image with more than one value", f"the constant {low:g}")
    return array


def choice(value, argument, options):
    """`value` if it is one of `options`."""
    options = tuple(options)
    if value not in options:
        raise InputError(argument, "one of " + ", ".join(map(repr, options)), repr(value))
    return value


def positive_int(value, argument, *, minimum=1):
    """`value` as an int if it is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
        raise InputError(argument, f"a whole number of at least {minimum}", repr(value))
    return int(value)


def number(value, argument, *, low=-np.inf, high=np.inf):
    """`value` as a float if it is a finite number in [`low`, `high`]."""
    fits = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not fits or not np.isfinite(value) or not low <= value <= high:
        raise InputError(argument, f"a finite number in [{low:g}, {high:g}]", repr(value))
    return float(value)


def positive(value, argument):
    """`value` as a float if it is a finite number above zero."""
    value = number(value, argument, low=0)
    if value == 0:
        raise InputError(argument, "a number above zero", "0")
    return value


def odd_sizes(size, ndim):
    """`size`, one number or one per axis, as a list of `ndim` odd numbers."""
    sizes = [size] * ndim if np.ndim(size) == 0 else list(size)
    if len(sizes) != ndim:
        raise InputError("size", f"a number, or one for each of {ndim} axes", repr(size))
    if any(positive_int(n, "size") % 2 == 0 for n in sizes):
        raise InputError("size", "odd numbers", repr(size))
    return sizes


def point_spread_function(psf, argument="psf", *, ndim=None):
    """`psf` if it is a usable point-spread function: finite, none below zero, sum above zero."""
    psf = real_array(psf, argument, ndim=ndim)
    if float(psf.min()) < 0:
        raise InputError(argument, "no value below zero", f"a minimum of {float(psf.min()):g}")
    if float(psf.sum()) <= 0:
        raise InputError(argument, "a sum above zero", "zeros only")
    return psf
