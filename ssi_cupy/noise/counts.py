"""What a camera does to numbers: it counts, and it clips."""

from __future__ import annotations

import numpy as np

from ..engine.backend import host
from ..engine.types import Array

MOST_COUNTS, FEW_COUNTS = 4096, 30.0  # different values of all pixels; mean of the dim ones
COUNTED = 2.5  # times their mean that the variance of dim counts may be, structure included


def count_step(y: Array, values: Array | None = None) -> float:
    """What one count is in `y` if its values are counts (photons, events), or 0.

    Counts are whole multiples of a step, above the least value or below the greatest, and where
    they are few their variance is their mean (Poisson): so many zeros are no sensor's black. The
    variance of Gaussian noise that is clipped at black has nothing to do with the step.

    Parameters
    ----------
    y : (…, Y, X) array of real numbers
    values : array, optional
        Its different values, ascending, where they are known already.

    Returns
    -------
    float
    """
    from scipy import ndimage

    y = np.asarray(host(y), np.float64)
    values = np.unique(y) if values is None else np.asarray(values, np.float64)
    if not 2 <= len(values) <= MOST_COUNTS:
        return 0.0
    step = float(np.diff(values).min())
    for counts in ((y - values[0]) / step, (values[-1] - y) / step):
        if np.abs(counts - np.rint(counts)).max() > 0.01:
            return 0.0
        local = ndimage.uniform_filter(counts, (1,) * (y.ndim - 2) + (5, 5))  # not by their own
        dim = local <= np.median(local)  # value: clipped noise has many zeros, and more beside them
        pair = dim[..., 1:] & dim[..., :-1]
        if pair.sum() < 16:
            continue
        # Of two neighbours: half the squared difference is the variance, their mean the mean.
        variance = ((counts[..., 1:] - counts[..., :-1])[pair] ** 2).mean() / 2
        mean = (counts[..., 1:] + counts[..., :-1])[pair].mean() / 2
        if 0 < variance <= COUNTED * mean and mean <= FEW_COUNTS:
            return step
    return 0.0


def clipping(y: Array) -> tuple[float, float]:
    """What `y` was clipped at, below and above; infinite where it was not.

    Clipped are values at an end which more than one pixel in a thousand has, and three times as
    many as have the value next to it.
    """
    values, counts = np.unique(host(y), return_counts=True)
    return (-np.inf, np.inf) if count_step(y, values) else clipped_ends(values, counts)


def clipped_ends(values: Array, counts: Array) -> tuple[float, float]:
    """`clipping` of different values, ascending, and how often each is there; none are counts."""
    if len(values) < 8:
        return -np.inf, np.inf
    ends = ((0, 1), (-1, -2))  # an end, and the value next to it
    low, high = (counts[end] > max(0.001 * counts.sum(), 3 * counts[near]) for end, near in ends)
    return float(values[0]) if low else -np.inf, float(values[-1]) if high else np.inf
