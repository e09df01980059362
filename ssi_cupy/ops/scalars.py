"""Single numbers that stay on the device: what a loss ends with, one kernel for each.

`reduced` makes a number of sums over parts, S and perhaps the sum of weights W, and d its divisor
(or W where d is 0, or 1 where that is 0 too)::

    m = S / d        value = m,  m²,  √m         slope = ∂ value / ∂ S = (1,  2 m,  1 / (2 √m)) / d

with a slope of 0 for √0. Sums run in float64, on a CPU in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.backend import empty, is_cupy, kernel
from ..engine.types import Array

POWERS = {"mean": 1, "square": 2, "root": 0}


def reduced(
    partial: Array, like: Array, divisor: float = 0.0, power: str = "mean"
) -> tuple[Any, Array]:
    """(value, slope) of the sum of parts.

    Parameters
    ----------
    partial : array of float64, shape (parts,) or (parts, 2)
        The second column are weights, whose sum is the divisor if none is given.
    like : array
        Its dtype is the value's.
    divisor : float
    power : {"mean", "square", "root"}

    Returns
    -------
    value : scalar of like's dtype
    slope : array of float64, shape (2,)
        The value once more, and its slope: what a kernel of a backward pass reads.
    """
    value, found = empty(1, like.dtype, like=like), empty(2, np.float64, like=like)
    columns = partial.reshape(len(partial), -1)
    reduced_kernel(1, columns, value, found, float(divisor), POWERS[power])
    return value[0], found


def weighted(terms: Sequence[Any], factors: Sequence[float]) -> Any:
    """Σ factors[i] · terms[i] of scalars, in float64, in the dtype of the first."""
    total = empty(1, np.float64, like=terms[0])
    value = empty(1, terms[0].dtype, like=terms[0])
    for i, (term, factor) in enumerate(zip(terms, factors, strict=True)):
        weighted_kernel(1, scalar(term, value), total, value, float(factor), i == 0)
    return value[0]


def add_to(total: Array, term: Any, factor: float) -> None:
    """total += factor · term: of an array of one float64."""
    like = empty(0, term.dtype, like=total)
    weighted_kernel(1, scalar(term, like), total, like, float(factor), False)


def scalar(value: Any, like: Array) -> Array:
    """`value` as an array of one element, which a kernel of either device can read."""
    if hasattr(value, "dtype") and value.dtype == like.dtype and is_cupy(value) == is_cupy(like):
        return value.reshape(1)
    array = empty(1, like.dtype, like=like)
    array[...] = value
    return array


@kernel
def reduced_kernel(start, stop, partial, value, found, divisor, power):
    for _ in range(start, stop):
        total, weight = 0.0, 0.0
        for i in range(len(partial)):
            total += partial[i, 0]
            if divisor == 0:
                weight += partial[i, 1]
        by = divisor if divisor != 0 else (weight if weight != 0 else 1.0)
        mean, slope = np.divide(total, by), 1.0
        if power == 2:
            mean, slope = mean * mean, 2 * mean
        elif power == 0:
            mean = np.sqrt(mean)
            slope = np.divide(0.5, mean) if mean > 0 else 0.0
        value[0] = mean
        found[0], found[1] = mean, np.divide(slope, by)


@kernel(grain=4096)
def weighted_kernel(start, stop, term, total, value, factor, first):
    for i in range(start, stop):
        total[i] = (0.0 if first else total[i]) + factor * np.float64(term[i])
        if value.size:
            value[i] = total[i]
