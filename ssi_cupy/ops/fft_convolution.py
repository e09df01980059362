"""Convolution by the Fourier transform, on a periodic grid.

Forward, with the transfer function ``h = rfft(psf)``::

    y = irfft(rfft(x) · h),   that is   y[i] = Σ_j psf[j] x[(i - j) mod n]

Backward: the matrix of a real convolution has the transpose whose transfer function is the
complex conjugate, a correlation ::

    gx = irfft(rfft(gy) · conj(h)),   that is   gx[i] = Σ_j psf[j] gy[(i + j) mod n]

There is no gradient by `h`. Other boundaries than the periodic one are a matter of padding
first and cropping afterwards: `transfer_function` puts the PSF such that what is left to crop
begins at index 0. float32 stays float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine import fourier
from ..engine.backend import contiguous, kernel
from ..engine.gpu.launch import blocks_per_item
from ..engine.types import Array, DTypeLike, Shape
from ..tape import op


def fft_convolution_forward(x: Array, transfer: Array, *, plans: Any = None) -> tuple[Array, Any]:
    """Convolve `x` with the PSF behind a transfer function.

    Parameters
    ----------
    x : (N, C, Z, Y, X) array
    transfer : (Z, Y, X // 2 + 1) complex array
        From `transfer_function`.
    plans : optional
        Of `fourier.plans_for` for arrays like `x`.

    Returns
    -------
    y : (N, C, Z, Y, X) array
    saved : what the backward needs
    """
    return _filtered(x, transfer, plans=plans), (transfer, plans)


def fft_convolution_backward(gy: Array, saved: Any) -> tuple[Array, None]:
    transfer, plans = saved
    return _filtered(gy, transfer, plans=plans, conjugate=True), None


fft_convolution = op(fft_convolution_forward, fft_convolution_backward)


def _filtered(x, transfer, plans=None, conjugate=False):
    spectrum = contiguous(fourier.rfftn(x, plans))
    both = spectrum, contiguous(transfer, spectrum.dtype)
    parts = [a.view(spectrum.dtype.char.lower()).reshape(-1, a.shape[-1], 2) for a in both]
    filter_kernel(len(parts[0]), *parts, conjugate)
    return fourier.irfftn(spectrum, x.shape[2:], plans)


@kernel(launch=blocks_per_item, over=0)
def filter_kernel(start, stop, spectrum, transfer, conjugate):
    for line in range(start, stop):
        s, h = spectrum[line], transfer[line % len(transfer)]
        for i in range(len(s)):
            a, b, c, d = s[i, 0], s[i, 1], h[i, 0], h[i, 1]
            d = -d if conjugate else d
            s[i, 0], s[i, 1] = a * c - b * d, a * d + b * c


def transfer_function(psf: Array, shape: Shape, dtype: DTypeLike) -> Array:
    """The transfer function of the convolution of a bordered image.

    For an image with a border of k - 1 pixels in total along each axis, k being the PSF's size,
    and zeros from there up to `shape`: ``y[i] = Σ_m psf[m] x[i + k - 1 - m]``.

    Parameters
    ----------
    psf : (KZ, KY, KX) array
    shape : three int
        Of the periodic grid; at least the PSF's.
    dtype : numpy dtype
        Of the image: float32 or float64.

    Returns
    -------
    (Z, Y, X // 2 + 1) array, complex64 or complex128
    """
    from scipy import fft

    grid = np.zeros(shape)
    kz, ky, kx = psf.shape
    grid[:kz, :ky, :kx] = psf
    grid = np.roll(grid, (1 - kz, 1 - ky, 1 - kx), axis=(0, 1, 2))
    return fft.rfftn(grid).astype(np.result_type(dtype, np.complex64))


def fast_shape(shape: Shape) -> Shape:
    """The smallest shape of at least `shape` whose real transform is fast."""
    from scipy import fft

    return tuple(1 if n == 1 else fft.next_fast_len(int(n), real=True) for n in shape)


def direct_is_faster(shape: Shape, psf_shape: Shape, grid: Shape, on_gpu: bool = False) -> bool:
    """Whether `direct_convolution` takes less time for an image of `shape` than an FFT on `grid`.

    On a CPU measured on two cores, from 64² to 512² and 128²×32: where the two take the same time.
    With tiles of 8 × 48 pixels a line of the PSF is met by 7 lines more than it has. On a GPU
    estimated, not measured: a transform there and back moves some 80 bytes for each pixel, as long
    as which takes a GPU of today to multiply and add about 170 times.
    """
    z, y, x = shape
    kz, ky, kx = psf_shape
    if on_gpu:
        return kz * ky * kx <= 170
    products = z * (-(-y // 8) * 8) * (-(-x // 48) * 48) * kz * (ky + 7) * kx
    butterflies = np.prod(grid, dtype=float) * np.log2(np.prod(grid, dtype=float))
    return products <= 24 * butterflies
