"""Terms of a loss: images in, one number out.

With the mean over all pixels p of all N images and C channels, and n their number::

    masked_loss       L = Σ m ρ(x − y) / n          gx = gL · m ρ'(x − y) / n
                      or over Σ m instead of n
                      ρ(r) = r²                     ρ'(r) = 2 r
                           = |r|                          = sign r
                           = r²/2, |r| ≤ δ                = r
                             δ (|r| − δ/2), above         = δ sign r
    bound             E = mean(relu(l − x) + relu(x − h))
                      L = E, or E²                  gx = gL · (1 or 2 E) · ([x > h] − [x < l]) / n
    positivity        L = mean|min(x − o, 0)| / s   gx = −gL · [x < o] / (s n)
    invariance        L = √(Σ m (a − b)² / Σ m)     ga = gL · m (a − b) / (L Σ m), gb = −ga
    weighted_sum      L = Σ aᵢ Lᵢ                   gLᵢ = gL · aᵢ

The Huber ρ is that of [1]_. Sums run in float64 over blocks that depend on the shape alone, then
over the blocks in their order. A NaN in `x` makes the loss NaN, so that a training that diverges
is seen; pixels whose mask is 0 count for nothing, whatever they hold.

References
----------
.. [1] P. J. Huber, "Robust estimation of a location parameter", Annals of Mathematical
   Statistics 35 (1964) 73-101.
.. [2] M. Papkov, K. Palo, L. Parts, "Self-supervised single-image deconvolution with Siamese
   neural networks" (2023), Eq. 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from ..engine.backend import empty, kernel
from ..engine.checks import InputError, choice, number
from ..engine.types import Array
from ..tape import op
from .scalars import reduced, scalar, weighted

BLOCK = 4096  # pixels whose sum is one item's work
Kind: TypeAlias = Literal["l2", "l1", "huber"]
KINDS = {"l2": 0, "l1": 1, "huber": 2}


# ---- masked loss ----------------------------------------------------------------------------


def masked_loss_forward(
    x: Array,
    y: Array,
    mask: Array,
    *,
    kind: Kind = "l2",
    delta: float = 1.0,
    normalise: Literal["pixels", "masked"] = "pixels",
) -> tuple[Any, Any]:
    """The loss of `x` against `y` at the pixels of a mask.

    Parameters
    ----------
    x, y : array, shape (N, C, Z, Y, X)
        Prediction and target. The gradient is wanted by `x` alone.
    mask : array of uint8 or of x's dtype, shape (N, 1, Z, Y, X) or (N, C, Z, Y, X)
        The weight of each pixel.
    kind : {"l2", "l1", "huber"}
    delta : float
        Where Huber's loss goes over from a parabola to a line.
    normalise : {"pixels", "masked"}
        What the sum is divided by: the number of all pixels, or the sum of the weights (a loss of
        0 where that is 0).

    Returns
    -------
    scalar of x's dtype
    """
    return _masked_loss(x, y, mask, kind, delta, normalise)


def _masked_loss(x, y, mask, kind="l2", delta=1.0, normalise="pixels", power="mean"):
    choice(kind, "kind", KINDS)
    choice(normalise, "normalise", ("pixels", "masked"))
    if x.shape != y.shape:
        raise InputError("y", f"x's shape {x.shape}", y.shape)
    if mask.shape not in (x.shape, (x.shape[0], 1, *x.shape[2:])):
        raise InputError("mask", f"x's shape {x.shape} or one channel of it", mask.shape)
    x2, y2, mask2 = (a.reshape(a.shape[0] * a.shape[1], -1) for a in (x, y, mask))
    settings = x.shape[1] // mask.shape[1], KINDS[kind], x.dtype.type(delta)
    blocks = -(-x2.shape[1] // BLOCK)
    partial = empty((x2.shape[0] * blocks, 2), np.float64, like=x)
    masked_loss_forward_kernel(len(partial), x2, y2, mask2, partial, blocks, *settings)
    loss, slope = reduced(partial, x, x.size if normalise == "pixels" else 0.0, power)
    return loss, (x, y, mask, settings, slope)


def masked_loss_backward(gl: Any, saved: Any) -> tuple[Array, None, None]:
    x, y, mask, settings, slope = saved
    gx = empty(x.shape, x.dtype, like=x)
    arrays = (a.reshape(a.shape[0] * a.shape[1], -1) for a in (x, y, mask, gx))
    blocks = -(-x[0, 0].size // BLOCK)
    n = x.shape[0] * x.shape[1] * blocks
    masked_loss_backward_kernel(n, *arrays, scalar(gl, x), slope, blocks, *settings)
    return gx, None, None


@kernel(fastmath=True)
def masked_loss_forward_kernel(start, stop, x, y, mask, partial, blocks, group, kind, delta):
    half = x.dtype.type(0.5)
    for block in range(start, stop):
        plane, first = block // blocks, block % blocks * BLOCK
        loss, weight = 0.0, 0.0
        for i in range(first, min(first + BLOCK, x.shape[1])):
            m, r = mask[plane // group, i], abs(x[plane, i] - y[plane, i])
            rho = r
            if kind == 0:
                rho = r * r
            elif kind == 2:
                rho = delta * (r - half * delta) if r > delta else half * r * r
            if m != 0:
                loss += np.float64(m) * np.float64(rho)
                weight += np.float64(m)
        partial[block, 0], partial[block, 1] = loss, weight


@kernel
def masked_loss_backward_kernel(
    start, stop, x, y, mask, gx, gl, slopes, blocks, group, kind, delta
):  # fmt: skip
    zero, one, two = x.dtype.type(0), x.dtype.type(1), x.dtype.type(2)
    scale = x.dtype.type(np.float64(gl[0]) * slopes[1])
    for block in range(start, stop):
        plane, first = block // blocks, block % blocks * BLOCK
        for i in range(first, min(first + BLOCK, x.shape[1])):
            m, r = mask[plane // group, i], x[plane, i] - y[plane, i]
            slope = two * r
            if kind == 1:
                slope = one if r > zero else (-one if r < zero else r)
            elif kind == 2:
                slope = min(max(r, -delta), delta)
            gx[plane, i] = scale * x.dtype.type(m) * slope if m != 0 else zero


masked_loss = op(masked_loss_forward, masked_loss_backward)


# ---- invariance -----------------------------------------------------------------------------


def invariance_forward(a: Array, b: Array, mask: Array) -> tuple[Any, Any]:
    """How far two outputs differ at the pixels of a mask: the root of the mean square [2]_.

    Parameters
    ----------
    a, b : array, shape (N, C, Z, Y, X)
    mask : array of uint8 or of a's dtype, shape (N, 1, Z, Y, X) or (N, C, Z, Y, X)

    Returns
    -------
    scalar of a's dtype
        0 where the mask is empty.
    """
    return _masked_loss(a, b, mask, normalise="masked", power="root")


def invariance_backward(gl: Any, saved: Any) -> tuple[Array, Array, None]:
    a, b, *how = saved
    return masked_loss_backward(gl, saved)[0], masked_loss_backward(gl, (b, a, *how))[0], None


invariance = op(invariance_forward, invariance_backward)


# ---- bounds and positivity ------------------------------------------------------------------


def bound_forward(
    x: Array, *, low: float = 0.0, high: float = 1.0, squared: bool = False
) -> tuple[Any, Any]:
    """How far `x` leaves [`low`, `high`], on average over all pixels; squared after averaging
    on request (as the first recipe has it).

    Parameters
    ----------
    x : array, shape (N, C, Z, Y, X)
    low, high : float
        In x's units. An infinite one bounds nothing.
    squared : bool

    Returns
    -------
    scalar of x's dtype
    """
    value, slope = reduced(_excess(x, low, high), x, x.size, "square" if squared else "mean")
    return value, (x, low, high, slope)


def bound_backward(gl: Any, saved: Any) -> Array:
    x, low, high, slope = saved
    gx = empty(x.shape, x.dtype, like=x)
    limits = x.dtype.type(low), x.dtype.type(high)
    bound_backward_kernel(x.size, x.reshape(-1), gx.reshape(-1), scalar(gl, x), slope, *limits)
    return gx


def positivity_forward(x: Array, *, zero: float = 0.0, scale: float = 1.0) -> tuple[Any, Any]:
    """The mean of |min(x − `zero`, 0)|, in units of `scale` (a standard deviation, say)."""
    number(scale, "scale", low=np.finfo(np.float64).tiny)
    value, slope = reduced(_excess(x, zero, np.inf), x, x.size * scale)
    return value, (x, zero, np.inf, slope)


def _excess(x, low, high):
    partial = empty(-(-x.size // BLOCK), np.float64, like=x)
    limits = x.dtype.type(low), x.dtype.type(high)
    bound_forward_kernel(partial.size, x.reshape(-1), partial, *limits)
    return partial


@kernel(fastmath=True)
def bound_forward_kernel(start, stop, x, partial, low, high):
    zero = x.dtype.type(0)
    for block in range(start, stop):
        excess = 0.0
        for i in range(block * BLOCK, min((block + 1) * BLOCK, x.size)):
            # NaN is neither inside nor below, so it ends up in the sum
            inside = low <= x[i] <= high
            excess += np.float64(zero if inside else (low - x[i] if x[i] < low else x[i] - high))
        partial[block] = excess


@kernel(grain=BLOCK)
def bound_backward_kernel(start, stop, x, gx, gl, slopes, low, high):
    scale = x.dtype.type(np.float64(gl[0]) * slopes[1])
    for i in range(start, stop):
        up, down = x.dtype.type(x[i] > high), x.dtype.type(x[i] < low)
        gx[i] = scale * (up - down)


bound = op(bound_forward, bound_backward)
positivity = op(positivity_forward, bound_backward)


# ---- sums --------------------------------------------------------------------------------------


def weighted_sum_forward(*terms: Any, weights: Sequence[float]) -> tuple[Any, Any]:
    """Σ weights[i] · terms[i] of scalars, in the dtype of the first."""
    return weighted(terms, weights), (weights, terms[0])


def weighted_sum_backward(gl: Any, saved: Any) -> tuple[Any, ...]:
    weights, like = saved
    gl = scalar(gl, like)[0]
    return tuple(gl if w == 1 else weighted([gl], [w]) for w in weights)


weighted_sum = op(weighted_sum_forward, weighted_sum_backward)
