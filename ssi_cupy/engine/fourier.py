"""Real Fourier transforms of (N, C, Z, Y, X) arrays: scipy's on the CPU, cuFFT on a GPU."""

from __future__ import annotations

from typing import Any

from .backend import is_cupy
from .cpu.threads import num_threads
from .gpu import driver
from .types import Array, Shape


def plans_for(x: Array) -> Any:
    """What the Fourier transforms of arrays like `x` can be prepared with: None on the CPU.

    On a GPU cuFFT's plans, with the memory that they work in. Who holds them decides how long they
    live; without them, cupy makes and keeps some of its own.
    """
    axes = _transformed(x.shape[2:])
    return driver.fourier_plans(x.shape, x.dtype, axes) if is_cupy(x) and len(axes) > 1 else None


def rfftn(x: Array, plans: Any = None) -> Array:
    """The real Fourier transform of (N, C, Z, Y, X) over Z, Y and X, in fresh memory."""
    if is_cupy(x):
        return driver.fft().rfftn(x, axes=_transformed(x.shape[2:]), plan=plans and plans[0])
    from scipy import fft

    workers = num_threads()  # lines are shared out whole: the bits stay the same
    spectrum = fft.rfft(x, workers=workers)
    for axis in _transformed(x.shape[2:])[:-1]:  # in place: on fresh memory each would cost two
        spectrum = fft.fft(spectrum, axis=axis, overwrite_x=True, workers=workers)
    return spectrum


def irfftn(spectrum: Array, shape: Shape, plans: Any = None) -> Array:
    """The inverse of `rfftn`, for an image of `shape` (Z, Y, X). The spectrum is used up."""
    axes = _transformed(shape)
    if is_cupy(spectrum):
        s = [shape[axis] for axis in axes]
        plan = plans and plans[1]
        return driver.fft().irfftn(spectrum, s=s, axes=axes, overwrite_x=True, plan=plan)
    from scipy import fft

    workers = num_threads()
    for axis in axes[:-1]:
        spectrum = fft.ifft(spectrum, axis=axis, overwrite_x=True, workers=workers)
    return fft.irfft(spectrum, n=shape[-1], overwrite_x=True, workers=workers)


def _transformed(shape):
    """Axes of one pixel need no transform."""
    return tuple(axis for axis in (-3, -2) if shape[axis] > 1) + (-1,)
