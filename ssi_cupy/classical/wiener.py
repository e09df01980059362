"""The Wiener filter, and the spectrum that it may be told."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..engine.arrays import any_array, as_array
from ..engine.backend import namespace
from ..engine.checks import InputError, number, positive_int, real_array, representable, varying
from ..engine.types import ArrayLike, Float32Array, Float64Array
from . import shared

SWEEPS = 8  # each brings what is missing of the data nearer to what the rest of them say


@any_array
def wiener(
    image: ArrayLike,
    psf: ArrayLike,
    balance: ArrayLike | Literal["auto"],
    *,
    pad: int = 32,
    clip: bool = False,
    weights: ArrayLike | None = None,
) -> Float32Array:
    """Wiener deconvolution: the linear filter ``h* / (|h|² + n)``, n the noise-to-signal ratio.

    Parameters
    ----------
    image : array, (Y, X) or (Z, Y, X), any real dtype
    psf : array of the same rank
        Divided by its sum.
    balance : float, 1-D array or "auto"
        A number is the weight of the power spectrum of the Laplacian, ``n = balance |Δ|²``, as in
        `skimage.restoration.wiener`. An array is n itself at equidistant radial frequencies, from
        0 to that of the corner (√ndim / 2 cycles per pixel); see `radial_power_spectrum`. "auto":
        the number that `calibrate` chooses by held-out pixels.
    pad : int
        Pixels of reflection around the image. Filtering is periodic beyond.
    clip : bool
        Clip the result to [0, 1].
    weights : array of the shape of `image`, optional
        How much each pixel of the image counts, in [0, 1]. What is missing of it is filled with
        what the re-blurred result says, starting from its neighbours, 8 times over.

    Returns
    -------
    array, shape of `image`, float32

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.

    References
    ----------
    .. [1] N. Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series",
       Wiley, 1949.
    """
    if shared.auto(balance):
        balance = shared.calibrated(wiener, image, psf, "balance", pad=pad, weights=weights)
    xp, y, psf = shared.inputs(image, psf, clip)
    w = shared.weights(weights, y)
    fft = shared.Periodic(xp, y, psf, pad)
    if not isinstance(balance, (tuple, list)) and not getattr(balance, "ndim", 0):
        noise = number(balance, "balance", low=0) * fft.laplacian**2
    else:
        balance = real_array(as_array(balance, "balance"), "balance", ndim=1)
        if float(balance.min()) < 0:
            raise InputError("balance", "no value below zero", f"{float(balance.min()):g}")
        known = xp.linspace(0, np.sqrt(y.ndim) / 2, len(balance))
        noise = xp.interp(shared.frequencies(xp, fft.shape), known, xp.asarray(balance))
        noise[(0,) * y.ndim] = 0  # the mean is no signal: keep it
    gain = fft.otf.conj() / xp.maximum(abs(fft.otf) ** 2 + noise, 1e-30)
    seen = known = fft.extend(y)
    if w is not None:
        seen, w = fft.extend(shared.filled(y, w)), fft.extend(w)
        for _ in range(SWEEPS):
            seen = w * known + (1 - w) * fft.inverse(fft.otf * gain * fft.forward(seen))
    return shared.result(fft.crop(fft.inverse(gain * fft.forward(seen))), clip)


def radial_power_spectrum(image: ArrayLike, bins: int = 64) -> Float64Array:
    """Mean squared magnitude of an image's Fourier transform (orthonormal), by frequency.

    For `wiener`: ``n = noise_variance / radial_power_spectrum(a similar, clean image)``.

    Parameters
    ----------
    image : array, any rank and real dtype
        Its mean is subtracted.
    bins : int
        How many frequencies.

    Returns
    -------
    array, (bins,), float64
        At equidistant frequencies from 0 to √ndim / 2 cycles per pixel, the corner's.
        Where no frequency is near, the value of its neighbours.

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    image = as_array(image, "image")
    xp = namespace(image)
    image = varying(real_array(image, "image"), "image").astype(np.float64)
    representable(float(image.min()), float(image.max()))
    bins = positive_int(bins, "bins", minimum=2)
    power = abs(xp.fft.rfftn(image - image.mean(), norm="ortho")) ** 2
    step = np.sqrt(image.ndim) / 2 / (bins - 1)
    index = (shared.frequencies(xp, image.shape) / step + 0.5).astype(int).ravel()
    total = xp.bincount(index, power.ravel(), bins)
    count = xp.bincount(index, minlength=bins)
    count[0] -= 1  # the mean, which was subtracted
    found = xp.flatnonzero(count)
    return xp.interp(xp.arange(bins), found, total[found] / count[found])
