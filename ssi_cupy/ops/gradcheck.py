"""Checks an op as the rows of `tests/cases.py` are checked: on anybody's own op.

With L(x) = <gy, f(x)> for a fixed random gy, the gradient that the backward gives is held against
the slope of L along one random direction v, which has all components in it::

    <gx, v> = L'(0) ≈ (L(-2t) - 8 L(-t) + 8 L(t) - L(2t)) / 12 t,    L(t) being L(x + t v)

and where f is linear, A(x), its backward against the dot test ``<A x, gy> = <x, Aᵀ gy>``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.backend import host, moved
from ..engine.checks import InputError, number, positive
from ..tape import Tape


class GradientError(AssertionError):
    """A backward that does not belong to its forward."""


def check_op(
    op: Callable,
    *args: Any,
    wrt: Sequence[int] | None = None,
    linear: Sequence[int] = (),
    tolerance: float = 1e-6,
    step: float = 1e-4,
    seed: int = 0,
    **settings: Any,
) -> dict[int, float]:
    """Check an op's gradients in float64, and that its backward is the adjoint where it is linear.

    Keep the arrays clear of kinks by more than `step`: at x = 0 a ReLU has no slope.

    Parameters
    ----------
    op : callable
        Made by `ssi_cupy.tape.op`.
    *args : arrays and other values
        What to call it with; arrays that have a gradient as float64.
    wrt : sequence of int, optional
        Which of `args` have a gradient; by default all float64 arrays.
    linear : sequence of int
        Those in which the op is linear, for the dot test, to 1e-12.
    tolerance : float
        The most that a slope may be off, relative to its own size.
    step : float
        How far x is moved along v, v having components of about 1.
    seed : int
    **settings
        Keyword arguments of the op.

    Returns
    -------
    dict
        For each of `wrt`, how far the slope was off.

    Raises
    ------
    GradientError
        Where a gradient is wrong, has another dtype or is missing, or an input was written to.
    """
    number(step, "step", low=1e-12, high=1.0)
    positive(tolerance, "tolerance")
    if wrt is None:
        wrt = [i for i, a in enumerate(args) if getattr(a, "dtype", None) == np.float64]
    for i in (*wrt, *linear):
        if getattr(args[i], "dtype", None) != np.float64:
            got = getattr(args[i], "dtype", type(args[i]).__name__)
            raise InputError(f"args[{i}]", "a float64 array, as its gradient is checked", got)
    if not wrt:
        raise InputError("wrt", "at least one float64 array to check the gradient of", "none")
    rng = np.random.default_rng(seed)
    before = [host(a).copy() if hasattr(a, "dtype") else a for a in args]
    tape = Tape()
    inputs = [tape.var(a) if i in wrt else a for i, a in enumerate(args)]
    out = op(*inputs, **settings)
    gy = _like(rng.normal(size=np.shape(out.value)), out.value)
    tape.backward(out, gy)
    for i, (array, value) in enumerate(zip(args, before, strict=True)):
        if hasattr(array, "dtype") and not np.array_equal(host(array), value, equal_nan=True):
            raise GradientError(f"input {i} was written to")
    errors = {}
    for i in wrt:
        gradient = inputs[i].grad
        if gradient.dtype != np.float64:
            raise GradientError(f"the gradient of input {i} is {gradient.dtype}, not float64")
        v = _like(rng.normal(size=np.shape(args[i])), args[i])

        def along(t, i=i, v=v):
            moved = [a + t * v if j == i else a for j, a in enumerate(args)]
            return float((gy * op(*moved, **settings)).sum())

        slope = (along(-2 * step) - 8 * along(-step) + 8 * along(step) - along(2 * step)) / 12
        slope, told = slope / step, float((gradient * v).sum())
        size = _norm(gradient) * _norm(v) / np.sqrt(np.size(host(v)))
        errors[i] = abs(slope - told) / max(abs(told), size, 1e-300)
        if not errors[i] <= tolerance:
            raise GradientError(
                f"the gradient of input {i} says a slope of {told:.9g} along a random direction, "
                f"differences say {slope:.9g}: off by {errors[i]:.1e}, allowed {tolerance:.1e}"
            )
    for i in linear:
        _dot_test(op, args, i, linear, settings, gy)
    return errors


def _dot_test(op, args, i, linear, settings, gy):
    """<A x, gy> = <x, Aᵀ gy>, where f(x) = A x + what it is at x = 0."""
    rest = [a * 0 if j in linear and j != i else a for j, a in enumerate(args)]
    nothing = [a * 0 if j == i else a for j, a in enumerate(rest)]
    tape = Tape()
    x = tape.var(rest[i])
    out = op(*(x if j == i else a for j, a in enumerate(rest)), **settings)
    y = out.value - op(*nothing, **settings)
    tape.backward(out, gy)
    left, right = float((y * gy).sum()), float((rest[i] * x.grad).sum())
    if not abs(left - right) <= 1e-12 * max(_norm(y) * _norm(gy), 1e-300):
        raise GradientError(
            f"the backward is not the adjoint in input {i}: <A x, y> = {left:.15g}, "
            f"<x, Aᵀ y> = {right:.15g}"
        )


def _like(values, array):
    """`values` on the device of `array`."""

    return moved(values, array) if np.ndim(values) else values


def _norm(array):
    return float(np.linalg.norm(np.ravel(host(array))))
