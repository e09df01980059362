"""Make a blurred, noisy image of a clean one, the way the published benchmark does.

The degradation is that of Kobayashi, Solak, Batson, Royer, "Image Deconvolution via
Noise-Tolerant Self-Supervised Inversion" (2020), Eq. 7, in the order in which its code
draws random numbers, so that the paper's table is reproduced to its last digit::

    x = normalise(image)                          # float32 in [0, 1]
    b = psf * x                                   # true convolution
    y = b + sqrt(alpha b + sigma²) · N(0, 1)      # shot and read-out noise
    y = y (1 - s) + s · U(0, 1),  s = U(0, 1) < salt_pepper
    y = round(2^bits y) / 2^bits, clipped to [0, 1]

>>> import numpy as np
>>> ramp = np.linspace(0, 1, 64).reshape(8, 8)
>>> degrade(ramp, np.ones((3, 3)), rng=0).dtype
dtype('float32')
"""

from __future__ import annotations

import numpy as np

from .engine.arrays import as_array
from .engine.backend import moved
from .engine.checks import (
    InputError,
    number,
    point_spread_function,
    positive_int,
    real_array,
    varying,
)
from .engine.types import ArrayLike, Float32Array, Float64Array, Mode
from .physics import PSFConvolution

MOST = 1e100  # of a noise


def normalise(image: ArrayLike) -> Float32Array:
    """Shift and scale an image so that its values span [0, 1].

    Parameters
    ----------
    image : numpy.ndarray, any shape, any real dtype

    Returns
    -------
    numpy.ndarray, same shape, float32

    Raises
    ------
    InputError
        If `image` is empty, constant or holds NaN or infinite values.
    """
    image = varying(real_array(as_array(image, "image"), "image"), "image").astype(np.float64)
    low, high = float(image.min()), float(image.max())
    if not high - low < np.inf:
        raise InputError("image", "a contrast that float64 can hold", f"{low:g} to {high:g}")
    return ((image - low) / (high - low)).astype(np.float32)  # not before: an offset costs digits


def blur(image: ArrayLike, psf: ArrayLike, mode: Mode = "constant") -> Float64Array:
    """Convolve an image with a point-spread function (PSF), at the image's size.

    A true convolution by `physics.PSFConvolution`, which has the PSF's centre at the pixel
    ``size // 2`` of each axis.

    Parameters
    ----------
    image : numpy.ndarray, (Y, X) or (Z, Y, X), any real dtype
    psf : numpy.ndarray of the same rank
        Divided by its sum.
    mode : {"constant", "mirror", "nearest", "wrap"}
        What lies outside the image, as in `scipy.ndimage`; "constant" is zero.

    Returns
    -------
    numpy.ndarray, shape of `image`, float64

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    image = real_array(as_array(image, "image"), "image", ndim=(2, 3)).astype(np.float64)
    psf = point_spread_function(as_array(psf, "psf"), ndim=image.ndim)
    stack = image.reshape((1,) * (5 - image.ndim) + image.shape)  # (1, 1, Z, Y, X)
    return PSFConvolution(psf, mode).forward(stack).reshape(image.shape)


def degrade(
    image: ArrayLike,
    psf: ArrayLike,
    *,
    alpha: float = 0.001,
    sigma: float = 0.1,
    salt_pepper: float = 0.01,
    bits: int | None = 10,
    mode: Mode = "constant",
    rng: int | np.random.RandomState | np.random.Generator = 0,
) -> Float32Array:
    """Blur an image and add the noise of a camera: the published benchmark's degradation.

    The defaults are those of the 2-D benchmark. The 3-D benchmark has ``salt_pepper=0``.

    Parameters
    ----------
    image : numpy.ndarray, (Y, X) or (Z, Y, X), any real dtype
        The clean image. It is normalised to [0, 1] first; what `normalise` returns is the
        truth to compare with.
    psf : numpy.ndarray of the same rank
        Divided by its sum.
    alpha : float
        Variance of the shot noise per unit of brightness.
    sigma : float
        Standard deviation of the read-out noise, in units of the normalised image.
    salt_pepper : float in [0, 1]
        The fraction of pixels that are replaced by a uniform random value. 0 for none.
    bits : int or None
        The result is rounded to multiples of ``2**-bits``. None leaves it unrounded.
    mode : {"constant", "mirror", "nearest", "wrap"}
        What lies outside the image, as in `scipy.ndimage`. The benchmark fills with zeros.
    rng : int, numpy.random.RandomState or numpy.random.Generator
        A seed of numpy's legacy generator (which the published figures were drawn from), or a
        generator to draw from. The global generator of numpy is left alone.

    Returns
    -------
    numpy.ndarray, shape of `image`, float32, values in [0, 1]

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    alpha = number(alpha, "alpha", low=0, high=MOST)
    sigma = number(sigma, "sigma", low=0, high=MOST)
    salt_pepper = number(salt_pepper, "salt_pepper", low=0, high=1)
    if bits is not None:
        bits = positive_int(bits, "bits", most=1000)
    rng = _generator(rng)
    image = real_array(as_array(image, "image"), "image", ndim=(2, 3))

    blurred = blur(normalise(image), psf, mode)
    # The order of the draws is the published one. FFTs leave tiny values below zero: no variance.
    normal = moved(rng.normal(size=image.shape), blurred)
    y = blurred + np.sqrt(np.maximum(alpha * blurred, 0) + sigma**2) * normal
    if salt_pepper > 0:
        where, what = (moved(rng.uniform(size=image.shape), blurred) for _ in range(2))
        y = np.where(where < salt_pepper, what, y)
    if bits is not None:
        y = np.around(2.0**bits * y) / 2.0**bits
    return np.clip(y, 0, 1).astype(np.float32)


def _generator(rng):
    if isinstance(rng, (np.random.RandomState, np.random.Generator)):
        return rng
    try:
        return np.random.RandomState(positive_int(rng, "rng", minimum=0))
    except ValueError:
        raise InputError(
            "rng", "a seed in [0, 2**32) or a generator of numpy.random", repr(rng)
        ) from None
