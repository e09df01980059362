"""One number in, one number out.

relu::

    y = max(x, 0)                          gx = gy where y > 0, else 0 (0 at x = 0)

clamp::

    y = min(max(x, low), high)             gx = gy where low ≤ x ≤ high, else 0 (gy at the bounds)

sensor_response, the expected reading of a sensor that adds Gaussian noise and clips: with
m = gain x + offset, a = |m - low| / σ, b = |m - high| / σ, the normal density φ and its upper
tail Q(u) = ∫_u^∞ φ, and T(u) = ∫_u^∞ Q = φ(u) - u Q(u) ::

    y = E[clip(m + σ N(0, 1), low, high)] = clip(m, low, high) + σ (T(a) - T(b))
    gx = gy · gain · P(low < m + σ N(0, 1) < high)

               ⎧ 1 - Q(a) - Q(b)   between the bounds
    P(...)  =  ⎨ Q(a) - Q(b)       below low
               ⎩ Q(b) - Q(a)       above high

Both sides of a bound are written with the distance from it, so nothing large is subtracted
from anything large, and float32 loses nothing. Proof: E[max(m + σN, low)] - low = ∫_low^∞
P(m + σN > t) dt = σ T((low - m)/σ), and T(-u) = u + T(u).

Every loop runs over the flat memory; the arrays may have any shape. NaN stays NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine import backend
from ..engine.backend import inline, kernel
from ..engine.types import Array
from ..tape import op


def relu_forward(x: Array) -> tuple[Array, Any]:
    """max(x, 0), element by element."""
    x = backend.contiguous(x)
    y = backend.empty(x.shape, x.dtype, like=x)
    relu_forward_kernel(x.size, x.reshape(-1), y.reshape(-1))
    return y, y


def relu_backward(gy: Array, saved: Any) -> Array:
    y, gy = saved, backend.contiguous(gy)
    gx = backend.empty(gy.shape, gy.dtype, like=gy)
    relu_backward_kernel(gy.size, gy.reshape(-1), y.reshape(-1), gx.reshape(-1))
    return gx


@kernel(grain=8192)
def relu_forward_kernel(start, stop, x, y):
    for i in range(start, stop):
        y[i] = 0 if x[i] < 0 else x[i]


@kernel(grain=8192)
def relu_backward_kernel(start, stop, gy, y, gx):
    for i in range(start, stop):
        gx[i] = gy[i] if y[i] > 0 else 0


relu = op(relu_forward, relu_backward)


def clamp_forward(x: Array, *, low: float = 0.0, high: float = 1.0) -> tuple[Array, Any]:
    """`x` with what is below `low` raised to it and what is above `high` lowered to it."""
    x = backend.contiguous(x)
    y = backend.empty(x.shape, x.dtype, like=x)
    low, high = x.dtype.type(low), x.dtype.type(high)
    clamp_forward_kernel(x.size, x.reshape(-1), low, high, y.reshape(-1))
    return y, (x, low, high)


def clamp_backward(gy: Array, saved: Any) -> Array:
    x, low, high = saved
    gy = backend.contiguous(gy)
    gx = backend.empty(gy.shape, gy.dtype, like=gy)
    clamp_backward_kernel(gy.size, gy.reshape(-1), x.reshape(-1), low, high, gx.reshape(-1))
    return gx


@kernel(grain=8192)
def clamp_forward_kernel(start, stop, x, low, high, y):
    for i in range(start, stop):
        y[i] = low if x[i] < low else (high if x[i] > high else x[i])


@kernel(grain=8192)
def clamp_backward_kernel(start, stop, gy, x, low, high, gx):
    for i in range(start, stop):
        gx[i] = gy[i] if low <= x[i] <= high else 0


clamp = op(clamp_forward, clamp_backward)


def sensor_response_forward(
    x: Array,
    *,
    noise: float,
    gain: float = 1.0,
    offset: float = 0.0,
    low: float = 0.0,
    high: float = 1.0,
) -> tuple[Array, Any]:
    """What a clipping sensor with Gaussian noise reads on average.

    Parameters
    ----------
    x : array
        Light.
    noise : float
        Standard deviation σ of the noise, in units of the reading. 0 is plain clipping.
    gain, offset : float
        The reading without noise and clipping is ``gain * x + offset``.
    low, high : float
        What the sensor clips at. May be infinite.

    Returns
    -------
    y : array
        Readings, in the shape and dtype of `x`.
    slope : array
        dy/dx, for the backward. It costs next to nothing here, and twice the time there.
    """
    x = backend.contiguous(x)
    y, slope = backend.empty(x.shape, x.dtype, like=x), backend.empty(x.shape, x.dtype, like=x)
    settings = (max(float(noise), 1e-300), float(gain), float(offset), float(low), float(high))
    sensor_response_kernel(x.size, x.reshape(-1), *settings, y.reshape(-1), slope.reshape(-1))
    return y, slope


def sensor_response_backward(gy: Array, saved: Any) -> Array:
    slope = saved
    return np.multiply(gy, slope, out=backend.empty(gy.shape, gy.dtype, like=gy))


@kernel(grain=4096, fastmath=True)
def sensor_response_kernel(start, stop, x, noise, gain, offset, low, high, y, slope):
    per_noise = np.divide(1.0, noise)
    for i in range(start, stop):
        m = gain * x[i] + offset
        a, b = _up_to_9(abs(m - low) * per_noise), _up_to_9(abs(m - high) * per_noise)
        density_a, density_b = normal_density(a), normal_density(b)
        tail_a, tail_b = density_a * mills_ratio(a), density_b * mills_ratio(b)
        clipped = low if m < low else (high if m > high else m)
        y[i] = clipped + noise * ((density_a - a * tail_a) - (density_b - b * tail_b))
        outside = tail_a - tail_b if m < low else tail_b - tail_a
        slope[i] = gain * (outside if m < low or m > high else 1 - tail_a - tail_b)


sensor_response = op(sensor_response_forward, sensor_response_backward)


# The C library's erfc and exp take one number at a time. The two below are sums and products
# only, which the compiler does for 8 pixels at a time, with "fastmath" at least: 1.6 ms for 512²
# pixels instead of 10. Every pixel goes through the same steps, whichever thread has it.


@inline
def _up_to_9(u):
    """Beyond 9 standard deviations lies 1e-19 of the noise."""
    return 9.0 if u > 9.0 else u


@inline
def normal_density(u):
    """exp(-u²/2)/√(2π) for 0 ≤ u ≤ 9, to 1e-14: Taylor's series of its 64th root."""
    t = u * u * (-1 / 128)
    p = 1 + t / 12 * (1 + t / 13 * (1 + t / 14))
    p = 1 + t * (1 / 8) * (1 + t * (1 / 9) * (1 + t * (1 / 10) * (1 + t * (1 / 11) * p)))
    p = 1 + t * (1 / 4) * (1 + t * (1 / 5) * (1 + t * (1 / 6) * (1 + t * (1 / 7) * p)))
    p = 1 + t * (1 + t * (1 / 2) * (1 + t * (1 / 3) * p))
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    return p * 0.3989422804014327


@inline
def mills_ratio(u):
    """Q(u)/φ(u) for 0 ≤ u ≤ 9, to 1e-14: a Chebyshev fit in a variable that runs from -1 to 1."""
    s = 17 / 9 - np.divide(104 / 9, u + 4)  # numpy's division has no check for zero in the way
    p = 9.954536258561477e-10 + s * 3.8131181150965616e-10
    p = -2.524195255459056e-08 + s * (-5.229528633865702e-09 + s * p)
    p = 4.5957115832373265e-07 + s * (4.0793032278018035e-08 + s * p)
    p = -8.234906050570633e-06 + s * (-1.9909212158499228e-07 + s * p)
    p = 0.00016538505096891712 + s * (3.159078164321445e-06 + s * p)
    p = -0.003158250706398337 + s * (-0.00033336934494329005 + s * p)
    p = -0.09798323261521137 + s * (0.025279631661086224 + s * p)
    p = -0.4707795295165636 + s * (0.25302060615488 + s * p)
    return 0.4035808455450227 + s * p
