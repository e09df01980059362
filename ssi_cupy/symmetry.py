"""Turns and flips: which of them leave a point-spread function as it is.

If a blur g has a symmetry s, then g(s(x)) = s(g(x)): a transformed image is as good an example of
the same blur as the image itself. So an image may be rotated and flipped to train on, and a
restoration averaged over its rotations and flips, but only by symmetries that the PSF has.

A symmetry is ``(exchange, flips)``: exchange Y and X or not, then reverse these axes of
(N, C, Z, Y, X). With one exchange and two flips these are the 8 of the square, and with a flip of
Z the 16 of a square prism. The identity comes first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from .engine.backend import contiguous
from .engine.checks import InputError, choice, number, real_array, told
from .engine.types import Array

Symmetry: TypeAlias = tuple[bool, tuple[int, ...]]
IDENTITY: Symmetry = (False, ())


def every(ndim: int) -> list[Symmetry]:
    """All rotations and flips of an image: 8 in 2-D, 16 in 3-D (Z is never exchanged: its pixels
    have another size)."""
    axes = (3, 4) if choice(ndim, "ndim", (2, 3)) == 2 else (2, 3, 4)
    flips = [f for n in range(len(axes) + 1) for f in itertools.combinations(axes, n)]
    return [(exchange, f) for exchange in (False, True) for f in flips]


def of_psf(psf: Array, tolerance: float = 1e-3) -> list[Symmetry]:
    """The rotations and flips about its centre that change no value of `psf` by more than
    `tolerance` of its peak.

    Parameters
    ----------
    psf : (Y, X) or (Z, Y, X) array
        The centre is the pixel ``shape // 2``.
    tolerance : float
    """
    psf = real_array(psf, "psf", ndim=(2, 3))
    tolerance = number(tolerance, "tolerance", low=0)
    padded = np.pad(psf, [(0, 1 - n % 2) for n in psf.shape])  # the centre in the very middle
    side = max(padded.shape[-2:])
    square = [(0, 0)] * (psf.ndim - 2) + [((side - n) // 2,) * 2 for n in padded.shape[-2:]]
    image = np.pad(padded, square).reshape((1,) * (5 - psf.ndim) + (*padded.shape[:-2], side, side))
    limit = tolerance * float(np.abs(psf).max())
    return [s for s in every(psf.ndim) if float(np.abs(apply(image, s) - image).max()) <= limit]


def apply(image: Array, symmetry: Symmetry, out: Array | None = None) -> Array:
    """`image` (N, C, Z, Y, X) transformed: a contiguous copy, or the image itself for the identity.
    With `out`, an array of the transformed shape, it is written there."""
    exchange, flips = symmetry
    transformed = image.swapaxes(3, 4) if exchange else image
    transformed = np.flip(transformed, flips) if flips else transformed
    if out is None:
        return contiguous(transformed)
    out[...] = transformed
    return out


def undo(image: Array, symmetry: Symmetry) -> Array:
    """The inverse of `apply`."""
    exchange, flips = symmetry
    transformed = np.flip(image, flips) if flips else image
    return contiguous(transformed.swapaxes(3, 4) if exchange else transformed)


def check(
    symmetries: bool | Sequence[Symmetry], argument: str = "augment"
) -> bool | Sequence[Symmetry]:
    """True or False as it is, some symmetries as a tuple; anything else is an `InputError`."""
    if isinstance(symmetries, bool):
        return symmetries
    known = every(3)
    try:
        found = tuple((bool(swap), tuple(map(int, flips))) for swap, flips in symmetries)
    except (TypeError, ValueError, OverflowError):
        found = ()
    if not found or any(s not in known for s in found):
        expected = "True, False or some of (exchange, flips), as (True, (3,))"
        raise InputError(argument, expected, told(symmetries))
    return found
