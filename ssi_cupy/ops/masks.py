"""Masks of uint8, pixel by pixel: either, both, one but not the other."""

from __future__ import annotations

import numpy as np

from ..engine.backend import empty, kernel
from ..engine.gpu.launch import blocks_per_item
from ..engine.types import Array

EITHER, BOTH, BUT = range(3)


def combined(a: Array, b: Array, how: int) -> Array:
    """a or b, a and b, a but not b; one channel of b may be for all of a's.

    Parameters
    ----------
    a : array of uint8, shape (N, C, Z, Y, X)
    b : array of uint8, shape (N, 1, Z, Y, X) or (N, C, Z, Y, X)
    how : {EITHER, BOTH, BUT}
    """
    found = empty(a.shape, np.uint8, like=a)
    rows = [m.reshape(m.shape[0] * m.shape[1], -1) for m in (a, b, found)]
    combine_masks_kernel(len(rows[0]), *rows, len(rows[0]) // len(rows[1]), how)
    return found


@kernel(launch=blocks_per_item, over=0)
def combine_masks_kernel(start, stop, a, b, found, group, how):
    for plane in range(start, stop):
        for i in range(a.shape[1]):
            m, other = a[plane, i], b[plane // group, i]
            if how == 0:
                found[plane, i] = m | other
            else:
                found[plane, i] = m & (other if how == 1 else ~other)
