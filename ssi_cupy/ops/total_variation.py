"""Terms of a loss that look at differences between neighbours.

∇ are the differences to the next pixel along each axis, without one beyond the last; n is the
number of pixels, or of differences::

    total_variation   L = mean √(|∇x|² + ε²)        gx = gL · ∇ᵀ(∇x / √(|∇x|² + ε²)) / n
    kernel_continuity L = mean (w[t+1] − w[t])²     gw = gL · 2 ∇ᵀ∇w / n

The smoothed total variation is that of [1]_.

References
----------
.. [1] L. Rudin, S. Osher, E. Fatemi, "Nonlinear total variation based noise removal algorithms",
   Physica D 60 (1992) 259-268.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.backend import empty, kernel
from ..engine.checks import InputError, number
from ..engine.types import Array
from ..tape import op
from .scalars import reduced, scalar

# ---- total variation ------------------------------------------------------------------------


def total_variation_forward(
    x: Array, *, eps: float = 1e-3, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> tuple[Any, Any]:
    """The mean length of the gradient of `x`, the same in all directions, smoothed below `eps`.

    Parameters
    ----------
    x : array, shape (N, C, Z, Y, X)
    eps : float
        In x's units per unit of `spacing`; a flat image has the value `eps`. 0 is allowed: flat
        places have no gradient then.
    spacing : three of float
        The distance of two pixels along Z, Y and X.

    Returns
    -------
    scalar of x's dtype
    """
    number(eps, "eps", low=0)
    if len(spacing) != 3 or min(spacing) <= 0:
        raise InputError("spacing", "three numbers above zero, for Z, Y and X", spacing)
    steps = tuple(x.dtype.type(1 / distance) for distance in spacing)
    x4 = x.reshape(-1, *x.shape[2:])
    # 1 / √(|∇x|² + ε²), which the backward would have to compute for four pixels at each
    inverse = empty(x4.shape, x.dtype, like=x)
    partial = empty(inverse[..., 0].size, np.float64, like=x)
    total_variation_forward_kernel(partial.size, x4, inverse, partial, x.dtype.type(eps), *steps)
    value, slope = reduced(partial, x, x.size)
    return value, (x, inverse, steps, slope)


def total_variation_backward(gl: Any, saved: Any) -> Array:
    x, inverse, steps, slope = saved
    gx, x4 = empty(x.shape, x.dtype, like=x), x.reshape(inverse.shape)
    arrays = x4, inverse, gx.reshape(x4.shape), scalar(gl, x), slope
    total_variation_backward_kernel(x4[..., 0].size, *arrays, *steps)
    return gx


@kernel(fastmath=True)
def total_variation_forward_kernel(start, stop, x, inverse, partial, eps, sz, sy, sx):
    _, depth, height, width = x.shape
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for row in range(start, stop):
        y, z, plane = row % height, row // height % depth, row // (height * depth)
        here = x[plane, z, y]
        # the last pixel's next is itself: no difference, no gradient
        below, behind = x[plane, z, min(y + 1, height - 1)], x[plane, min(z + 1, depth - 1), y]
        s = inverse[plane, z, y]
        for i in range(width):
            gx = sx * (here[min(i + 1, width - 1)] - here[i])
            gy, gz = sy * (below[i] - here[i]), sz * (behind[i] - here[i])
            s[i] = np.sqrt(gx * gx + gy * gy + gz * gz + eps * eps)
        length = 0.0
        for i in range(width):  # a sum in a loop of its own: see `backend.kernel`
            length += np.float64(s[i])
        for i in range(width):
            s[i] = np.divide(one, s[i]) if s[i] != zero else zero
        partial[row] = length


@kernel
def total_variation_backward_kernel(start, stop, x, inverse, gx, gl, slopes, sz, sy, sx):
    _, depth, height, width = x.shape
    scale = x.dtype.type(np.float64(gl[0]) * slopes[1])
    sxx, syy, szz = sx * sx, sy * sy, sz * sz
    for row in range(start, stop):
        y, z, plane = row % height, row // height % depth, row // (height * depth)
        here = x[plane, z, y]
        above, below = x[plane, z, max(y - 1, 0)], x[plane, z, min(y + 1, height - 1)]
        before, behind = x[plane, max(z - 1, 0), y], x[plane, min(z + 1, depth - 1), y]
        q, q_above = inverse[plane, z, y], inverse[plane, z, max(y - 1, 0)]
        q_before = inverse[plane, max(z - 1, 0), y]
        for i in range(width):
            left, right = max(i - 1, 0), min(i + 1, width - 1)
            own = sxx * (here[right] - here[i]) + syy * (below[i] - here[i])
            own += szz * (behind[i] - here[i])
            g = sxx * q[left] * (here[i] - here[left]) + syy * q_above[i] * (here[i] - above[i])
            g += szz * q_before[i] * (here[i] - before[i])
            gx[plane, z, y, i] = scale * (g - q[i] * own)


total_variation = op(total_variation_forward, total_variation_backward)


# ---- kernel continuity -------------------------------------------------------------------------


def kernel_continuity_forward(w: Array) -> tuple[Any, Any]:
    """The mean squared difference of neighbouring taps of a convolution kernel.

    Parameters
    ----------
    w : array, shape (O, I, kz, ky, kx)
        Taps have neighbours along kz, ky and kx; a kernel of a single tap has the value 0.

    Returns
    -------
    scalar of w's dtype
    """
    _, _, kz, ky, kx = w.shape
    filters, taps = w.shape[0] * w.shape[1], kz * ky * kx
    pairs = max(1, filters * (3 * taps - ky * kx - kz * kx - kz * ky))
    partial, slope = empty(filters, np.float64, like=w), empty(w.shape, w.dtype, like=w)
    arrays = w.reshape(filters, kz, ky, kx), slope.reshape(filters, kz, ky, kx), partial
    kernel_continuity_forward_kernel(filters, *arrays, w.dtype.type(2 / pairs))
    return reduced(partial, w, pairs)[0], slope


def kernel_continuity_backward(gl: Any, saved: Any) -> Array:
    return saved * scalar(gl, saved)  # so few numbers that the forward pass computes both


@kernel
def kernel_continuity_forward_kernel(start, stop, w, slope, partial, scale):
    _, depth, height, width = w.shape
    for f in range(start, stop):
        total = 0.0
        for z in range(depth):
            for y in range(height):
                for x in range(width):
                    here, g = w[f, z, y, x], w.dtype.type(0)
                    # at the border a tap is its own neighbour: no difference
                    rx = here - w[f, z, y, min(x + 1, width - 1)]
                    ry = here - w[f, z, min(y + 1, height - 1), x]
                    rz = here - w[f, min(z + 1, depth - 1), y, x]
                    total += np.float64(rx * rx) + np.float64(ry * ry) + np.float64(rz * rz)
                    g = rx + ry + rz + (here - w[f, z, y, max(x - 1, 0)])
                    g += (here - w[f, z, max(y - 1, 0), x]) + (here - w[f, max(z - 1, 0), y, x])
                    slope[f, z, y, x] = scale * g
        partial[f] = total


kernel_continuity = op(kernel_continuity_forward, kernel_continuity_backward)
