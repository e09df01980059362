"""What all of them share: the blur, spectra, differences, and what is checked."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.arrays import as_array
from ..engine.backend import is_cupy, moved, namespace
from ..engine.checks import (
    HIGHEST,
    InputError,
    flag,
    point_spread_function,
    positive_int,
    real_array,
    representable,
    varying,
)
from ..engine.types import Array, ArrayLike, Float32Array, Mode, Shape
from ..physics import PSFConvolution

LEAST_SHARE = 1e-3  # of known neighbours, for their mean to stand in for a pixel


class Blur:
    """A `PSFConvolution` of float64 images without the axes N and C, 2-D or 3-D."""

    def __init__(self, psf: Array, mode: Mode) -> None:
        self._model = PSFConvolution(psf, mode)

    def __call__(self, x: Array) -> Array:
        return self._on_5d(self._model.forward, x)

    def adjoint(self, y: Array) -> Array:
        return self._on_5d(self._model.adjoint, y)

    @staticmethod
    def _on_5d(function, x):
        return function(x.reshape((1,) * (5 - x.ndim) + x.shape)).reshape(x.shape)


class Periodic:
    """Convolutions on an image that is extended by reflection, then periodic: spectra only."""

    def __init__(self, xp: Any, image: Array, psf: Array, pad: int) -> None:
        from scipy.fft import next_fast_len

        pad = positive_int(pad, "pad", minimum=0)
        self.xp, self.axes = xp, tuple(range(image.ndim))
        self.shape = tuple(next_fast_len(n + 2 * pad, real=True) for n in image.shape)
        if any(k > n for k, n in zip(psf.shape, self.shape, strict=True)):
            raise InputError("psf", f"at most {self.shape} pixels", f"shape {psf.shape}")
        # Axes may be longer than asked for, where FFTs are faster. Half of it goes to each side.
        sizes = list(zip(self.shape, image.shape, strict=True))
        self.width = [((m - n) // 2, (m - n + 1) // 2) for m, n in sizes]
        self.inside = tuple(slice((m - n) // 2, (m - n) // 2 + n) for m, n in sizes)
        centred = xp.zeros(self.shape)
        centred[tuple(map(slice, psf.shape))] = psf / psf.sum()
        self.otf = self.forward(xp.roll(centred, [-(k // 2) for k in psf.shape], self.axes))
        # |∇|², of forward differences
        self.laplacian = sum(2 - 2 * xp.cos(a) for a in angles(xp, self.shape))

    def extend(self, x: Array) -> Array:
        return self.xp.pad(x, self.width, "reflect")

    def crop(self, x: Array) -> Array:
        return x[self.inside]

    def forward(self, x: Array) -> Array:
        return self.xp.fft.rfftn(x, self.shape, self.axes)

    def inverse(self, x: Array) -> Array:
        return self.xp.fft.irfftn(x, self.shape, self.axes)


def largest_gain(xp: Any, image: Array, psf: Array, blur: Blur) -> float:
    """What ‖h * x‖² + ‖∇x‖² does not exceed, for ‖x‖ = 1.

    The two are large at different frequencies, so it is the largest value of the sum of their
    spectra. At the border, what is mirrored into the image can be seen twice, which lifts the
    first; that this suffices is not proven, but held against dense matrices in the tests.
    """
    border = float(blur.adjoint(xp.ones_like(image)).max())
    spectra = Periodic(xp, image, psf, max(psf.shape))
    return float((border * abs(spectra.otf) ** 2 + spectra.laplacian).max())


def angles(xp: Any, shape: Shape) -> Sequence[Array]:
    """Angular frequencies of an rfftn, one broadcastable array for each axis."""
    lines = [xp.fft.fftfreq(n) for n in shape[:-1]] + [xp.fft.rfftfreq(shape[-1])]
    return xp.meshgrid(*(2 * np.pi * line for line in lines), indexing="ij", sparse=True)


def frequencies(xp: Any, shape: Shape) -> Array:
    """Distance from frequency 0 in the spectrum of an rfftn, cycles per pixel."""
    return xp.sqrt(sum(a * a for a in angles(xp, shape))) / (2 * np.pi)


def gradient(x: Array, periodic: bool = False) -> list[Array]:
    """Forward differences along each axis. Behind the last pixel: its own value, or the first's."""
    xp, out = namespace(x), []
    for axis in range(x.ndim):
        first = x.take([0], axis) if periodic else x.take([-1], axis)
        out.append(xp.diff(x, axis=axis, append=first))
    return out


def divergence(parts: Sequence[Array], periodic: bool = False) -> Array:
    """Minus the adjoint of `gradient`."""
    xp, total = namespace(*parts), 0
    for axis, part in enumerate(parts):
        if periodic:
            total = total + part - xp.roll(part, 1, axis)
        else:
            inner = part.take(range(part.shape[axis] - 1), axis)
            total = total + xp.diff(inner, axis=axis, prepend=0, append=0)
    return total


def directions(gradient: Sequence[Array], smoothing: float) -> list[Array]:
    """∇x / √(|∇x|² + smoothing²)."""
    length = namespace(*gradient).sqrt(sum(g * g for g in gradient) + smoothing**2)
    return [g / length for g in gradient]


def curvature(x: Array, smoothing: float) -> Array:
    """∇ · (∇x / √(|∇x|² + smoothing²)): minus the gradient of the smoothed total variation."""
    return divergence(directions(gradient(x), smoothing))


def inputs(
    image: ArrayLike, psf: ArrayLike, clip: bool, nonnegative: bool = False
) -> tuple[Any, Array, Array]:
    """The namespace, the image and the PSF, checked, float64; the PSF of odd size."""
    flag(clip, "clip")
    image, psf = as_array(image, "image"), as_array(psf, "psf")
    if is_cupy(image):
        psf = moved(psf, image)  # small, and mostly computed on the CPU
    xp = namespace(image, psf)
    image = varying(real_array(image, "image", ndim=(2, 3)), "image")
    low, high = float(image.min()), float(image.max())
    representable(low, high)
    if nonnegative and low < 0:
        raise InputError("image", "no value below zero", f"a minimum of {low:g}")
    psf = point_spread_function(psf, ndim=image.ndim)
    # The centre of an even axis is at k // 2. One more zero makes that the middle, so that
    # mirroring the PSF keeps it there.
    psf = xp.pad(psf.astype(np.float64), [(0, 1 - k % 2) for k in psf.shape])
    return xp, image.astype(np.float64), psf


def initial(initial: ArrayLike, image: Array) -> Array:
    initial = as_array(initial, "initial")
    namespace(initial, image)
    initial = real_array(initial, "initial")
    if initial.shape != image.shape:
        raise InputError("initial", f"the image's shape {image.shape}", f"shape {initial.shape}")
    low, high = float(initial.min()), float(initial.max())
    if low < 0 or not high > 0:
        raise InputError("initial", "no value below zero, and one above", f"{low:g} to {high:g}")
    # Which constant it is multiplied by makes no difference: by the power of two that leads to
    # the image's scale, below which a prediction of it would count as zero.
    exponent = math.frexp(float(image.max()))[1] - math.frexp(high)[1]
    return namespace(initial).ldexp(initial.astype(np.float64), exponent)


def weights(weights: ArrayLike | None, image: Array, argument: str = "weights") -> Array | None:
    """How much each pixel counts, checked, float64; None where all count alike."""
    if weights is None:
        return None
    weights = as_array(weights, argument)
    if is_cupy(image):
        weights = moved(weights, image)
    if weights.dtype == bool:
        weights = weights.astype(np.uint8)
    weights = real_array(weights, argument)
    if weights.shape != image.shape:
        raise InputError(argument, f"the image's shape {image.shape}", f"shape {weights.shape}")
    low, high = float(weights.min()), float(weights.max())
    if low < 0 or not 0 < high <= 1:
        raise InputError(argument, "values in [0, 1], one above 0", f"{low:g} to {high:g}")
    return weights.astype(np.float64)


def filled(image: Array, weights: Array) -> Array:
    """What is missing of the weight of a pixel, filled with the mean of its neighbours."""
    xp = namespace(image)
    bell = [np.exp(-0.5 * np.arange(-2.0, 3) ** 2) if n > 4 else np.ones(1) for n in image.shape]
    near = Blur(functools.reduce(np.multiply.outer, bell), "mirror")
    share, total = near(weights), near(weights * image)
    overall = float((weights * image).sum()) / float(weights.sum())
    mean = xp.where(share > LEAST_SHARE, total / xp.maximum(share, LEAST_SHARE), overall)
    return weights * image + (1 - weights) * mean


def auto(value: object) -> bool:
    """Whether a setting is to be calibrated."""
    return isinstance(value, str) and value == "auto"


def calibrated(method: Callable, image: Array, psf: ArrayLike, name: str, **options: Any) -> float:
    """The setting of that name that `calibrate` chooses."""
    from .calibrate import calibrate

    return calibrate(method, image, psf, setting=name, **options).setting


def result(x: Array, clip: bool) -> Float32Array:
    x = x.clip(0, 1) if clip else x
    largest = float(abs(x).max())
    if not largest <= HIGHEST:
        raise InputError("image", "one whose restoration float32 can hold, with these settings",
                         f"values up to {largest:g}")  # fmt: skip
    return x.astype(np.float32)
