"""Convolution with a Gaussian whose widths, angle and place are parameters, on a periodic grid.

Forward, with the frequency f in cycles per pixel, and u, v its parts along and across the angle φ::

    y = F⁻¹[ H · F x ],    H(f) = exp( −2π² (σ_z² f_z² + σ² (e²ᵃ u² + e⁻²ᵃ v²)) − 2πi f·t )

Backward. By x it is the correlation, as in `fft_convolution`. By the parameters, with Γ = conj(F x)
F gy summed over the batch (each frequency of the half spectrum counted as often as it occurs)::

    by log σ_z   Σ Re(conj(Γ) H) · −4π² σ_z² f_z²
    by log σ     Σ Re(conj(Γ) H) · −4π² σ² (e²ᵃ u² + e⁻²ᵃ v²)
    by a         Σ Re(conj(Γ) H) · −4π² σ² (e²ᵃ u² − e⁻²ᵃ v²)
    by φ         Σ Re(conj(Γ) H) · −4π² σ² (e²ᵃ − e⁻²ᵃ) u v
    by t         Σ Im(conj(Γ) H) · 2π f

The parameters are an array (log σ_z, log σ, a, φ, t_z, t_y, t_x), in memory: a CUDA graph that is
replayed reads what they have become. A Gaussian needs no pixels to be sampled at, so that σ may be
small; and none at which it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine import fourier
from ..engine.backend import empty, kernel
from ..engine.types import Array, Shape
from ..tape import op

NUMBER = 7  # of the parameters


def gaussian_convolution_forward(
    x: Array, parameters: Array, *, centre: Shape = (0, 0, 0), plans: Any = None
) -> tuple[Array, Any]:
    """Blur `x`.

    Parameters
    ----------
    x : (N, C, Z, Y, X) array
    parameters : (7,) array of the dtype of x
        log σ_z, log σ, a, φ (radians, from X towards Y), t_z, t_y, t_x; pixels.
    centre : three of int
        Pixels along Z, Y and X by which y lies further back: ``y[i] = Σ_m h[m] x[i + centre − m]``.
    plans : optional
        Of `fourier.plans_for` for arrays like `x`.

    Returns
    -------
    y : array like x
    saved : what the backward needs
    """
    shape = x.shape[2:]
    parts = empty((*shape[:2], shape[2] // 2 + 1, 2), x.dtype, like=x)  # real and imaginary
    gaussian_transfer_kernel(shape[0] * shape[1], parameters, parts, shape[2], *centre)
    transfer = parts.view(np.result_type(x.dtype, np.complex64))[..., 0]
    spectrum = fourier.rfftn(x, plans)
    y = fourier.irfftn(spectrum * transfer, shape, plans)
    return y, (spectrum, transfer, parts, parameters, shape, plans)  # `parts` owns the memory


def gaussian_convolution_backward(gy: Array, saved: Any) -> tuple[Array, Array]:
    spectrum, transfer, _, parameters, shape, plans = saved
    arrived = fourier.rfftn(gy, plans)
    gamma = (np.conjugate(spectrum) * arrived).sum(axis=(0, 1))
    product = np.conjugate(gamma) * transfer
    arrived *= np.conjugate(transfer)
    gx = fourier.irfftn(arrived, shape, plans)
    parts = product.view(gy.dtype).reshape(*product.shape, 2)
    partial = empty((shape[0] * shape[1], NUMBER), np.float64, like=gy)
    gaussian_gradient_kernel(len(partial), parameters, parts, partial, shape[2])
    return gx, (partial.sum(axis=0) / np.prod(shape)).astype(parameters.dtype)


gaussian_convolution = op(gaussian_convolution_forward, gaussian_convolution_backward)


def sampled(sigmas: Sequence[float], sizes: Sequence[int]) -> Array:
    """A Gaussian along the axes at the centres of pixels, float64, sum 1; σ = 0 is no blur."""
    psf = np.ones(())
    for s, n in zip(sigmas, sizes, strict=True):
        r = np.arange(n) - n // 2
        line = np.exp(-((r / s) ** 2) / 2) if s > 1e-9 else (r == 0).astype(np.float64)
        psf = np.multiply.outer(psf, line / line.sum())
    return psf / psf.sum()


# ---- the loops --------------------------------------------------------------------------------


@kernel
def gaussian_transfer_kernel(start, stop, parameters, transfer, width, cz, cy, cx):
    depth, height, columns, _ = transfer.shape
    wide_z, wide = np.exp(2.0 * parameters[0]), np.exp(2.0 * parameters[1])
    along, across = wide * np.exp(2.0 * parameters[2]), wide * np.exp(-2.0 * parameters[2])
    cosine, sine = np.cos(np.float64(parameters[3])), np.sin(np.float64(parameters[3]))
    tz, ty, tx = parameters[4] - cz, parameters[5] - cy, parameters[6] - cx
    for row in range(start, stop):
        z, y = row // height, row % height
        fz = (z if 2 * z <= depth else z - depth) / depth
        fy = (y if 2 * y <= height else y - height) / height
        for x in range(columns):
            fx = x / width
            u, v = cosine * fx + sine * fy, cosine * fy - sine * fx
            power = wide_z * fz * fz + along * u * u + across * v * v
            size = np.exp(-2.0 * np.pi * np.pi * power)
            turn = -2.0 * np.pi * (fz * tz + fy * ty + fx * tx)
            transfer[z, y, x, 0] = size * np.cos(turn)
            transfer[z, y, x, 1] = size * np.sin(turn)


@kernel
def gaussian_gradient_kernel(start, stop, parameters, product, partial, width):
    depth, height, columns, _ = product.shape
    wide_z, wide = np.exp(2.0 * parameters[0]), np.exp(2.0 * parameters[1])
    along, across = wide * np.exp(2.0 * parameters[2]), wide * np.exp(-2.0 * parameters[2])
    cosine, sine = np.cos(np.float64(parameters[3])), np.sin(np.float64(parameters[3]))
    for row in range(start, stop):
        z, y = row // height, row % height
        fz = (z if 2 * z <= depth else z - depth) / depth
        fy = (y if 2 * y <= height else y - height) / height
        sum_z, sum_all, sum_a, sum_angle, sum_t, sum_x = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for x in range(columns):
            fx = x / width
            u, v = cosine * fx + sine * fy, cosine * fy - sine * fx
            twice = 1.0 if x == 0 or 2 * x == width else 2.0
            real = twice * product[z, y, x, 0]
            imaginary = twice * product[z, y, x, 1]
            sum_z += real
            sum_all += real * (along * u * u + across * v * v)
            sum_a += real * (along * u * u - across * v * v)
            sum_angle += real * u * v
            sum_t += imaginary
            sum_x += imaginary * fx
        slope = -4.0 * np.pi * np.pi
        partial[row, 0] = slope * wide_z * fz * fz * sum_z
        partial[row, 1] = slope * sum_all
        partial[row, 2] = slope * sum_a
        partial[row, 3] = slope * (along - across) * sum_angle
        partial[row, 4] = 2.0 * np.pi * fz * sum_t
        partial[row, 5] = 2.0 * np.pi * fy * sum_t
        partial[row, 6] = 2.0 * np.pi * sum_x
