"""Point-spread functions (PSFs): the image of a point, computed from optics or measured.

`gaussian` needs no optics. `microscope` computes the PSF of a widefield fluorescence microscope,
scalar or vectorial, and `born_wolf` its paraxial limit (`optics.py`); `confocal`, `spinning_disk`,
`two_photon` and `light_sheet` those of other microscopes (`modalities.py`). `prepare` puts a PSF
on an image's pixels, and makes one of the picture of a bead (`measured.py`). All give float64
arrays of sum 1.
"""

from __future__ import annotations

import numpy as np

from ..engine.checks import (
    MOST_PIXELS,
    InputError,
    odd_sizes,
    per_axis,
    positive_int,
    real,
    told,
)
from ..engine.types import Float64Array, Sizes, Spacing
from ..ops.gaussian_convolution import sampled
from .measured import Preparation, prepare
from .modalities import confocal, light_sheet, spinning_disk, two_photon
from .optics import born_wolf, gibson_lanni, microscope

__all__ = [
    "Preparation", "born_wolf", "confocal", "gaussian", "gibson_lanni", "light_sheet", "microscope",
    "prepare", "spinning_disk", "two_photon",
]  # fmt: skip


def gaussian(sigma: Spacing, *, ndim: int = 2, size: Sizes | None = None) -> Float64Array:
    """A Gaussian PSF, sampled at pixel centres.

    Parameters
    ----------
    sigma : float or sequence of float
        Standard deviation in pixels, of all axes or one per axis (which then says the rank).
        0 along an axis means no blur along it.
    ndim : int
        Rank of the PSF, if `sigma` is one number.
    size : int or sequence of int, optional
        Pixels per axis, odd. By default the PSF ends after 4 sigma.

    Returns
    -------
    numpy.ndarray, rank `ndim`, float64
        Sum 1, with the centre in the middle pixel.

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    many = isinstance(sigma, (tuple, list)) or getattr(sigma, "ndim", 0) == 1
    ndim = len(sigma) if many else positive_int(ndim, "ndim", most=32)
    if not 1 <= ndim <= 32:
        raise InputError("sigma", "a number, or one per axis", told(sigma))
    sigmas = per_axis(sigma, "sigma", ndim, real(0, MOST_PIXELS))
    if size is None:
        size = [2 * int(np.ceil(4 * s)) + 1 for s in sigmas]
    return sampled(sigmas, odd_sizes(size, len(sigmas)))
