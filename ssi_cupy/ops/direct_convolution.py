"""Convolution of each channel with one small PSF, tap by tap. What needs no border ("valid").

Forward, for a PSF of k pixels along an axis::

    y[i] = Σ_m psf[m] x[i + k - 1 - m],   i = 0 … n - k

Backward: every y that a pixel went into gives its share back ::

    gx[j] = Σ_m psf[m] gy[j - (k - 1) + m]

(gy is zero outside), which is the forward again: of gy with a border of k - 1 zeros, with the
PSF turned round. There is no gradient by the PSF.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..engine import backend
from ..engine.backend import kernel
from ..engine.cpu.llvm import lanes
from ..engine.cpu.register_tiles import OUTS, VECS, correlate_tile
from ..engine.types import Array
from ..tape import op
from .pad import pad_forward


def direct_convolution_forward(x: Array, psf: Array) -> tuple[Array, Any]:
    """Convolve every channel of `x` with `psf` where it lies wholly inside.

    Parameters
    ----------
    x : (N, C, Z, Y, X) array
    psf : (KZ, KY, KX) array

    Returns
    -------
    y : (N, C, Z - KZ + 1, Y - KY + 1, X - KX + 1) array
    saved : what the backward needs
    """
    return _correlated(x, psf[::-1, ::-1, ::-1]), psf


def direct_convolution_backward(gy: Array, saved: Any) -> tuple[Array, None]:
    psf = saved
    border = [(k - 1, k - 1) for k in psf.shape]
    return _correlated(pad_forward(gy, widths=border, mode="constant")[0], psf), None


direct_convolution = op(direct_convolution_forward, direct_convolution_backward)


def _correlated(x, psf):
    """``y[i] = Σ_j psf[j] x[i + j]``."""
    kz, ky, kx = psf.shape
    depth, height, width = (n - k + 1 for n, k in zip(x.shape[2:], psf.shape, strict=True))
    pixels = VECS * lanes(x.dtype)
    if height < OUTS or width < pixels:  # smaller than one tile: zeros around, crop afterwards
        grown = [(0, 0), (0, max(OUTS - height, 0)), (0, max(pixels - width, 0))]
        y = _correlated(pad_forward(x, widths=grown, mode="constant")[0], psf)
        return backend.contiguous(y[..., :height, :width])

    psf = backend.host(psf)
    taps, weights = _tables(psf.tobytes(), psf.shape, psf.dtype, x.shape[3:], x.dtype)
    x = backend.contiguous(x)
    y = backend.empty((*x.shape[:2], depth, height, width), x.dtype, like=x)
    direct_convolution_kernel(
        y[..., 0, 0].size * -(-height // OUTS),
        x.reshape(-1, *x.shape[2:]),
        backend.placed(taps, x),
        backend.placed(weights, x),
        y.reshape(-1, *y.shape[2:]),
        pixels,
        scratch=OUTS * pixels,
    )
    return y


@functools.lru_cache(maxsize=32)
def _tables(psf, shape, dtype, size, x_dtype):
    """The distances of the taps in an image of `size` (Y, X), and their weights.

    A tile is OUTS lines high. The line o of it meets PSF line r - o in image line r.
    """
    kz, ky, kx = shape
    psf = np.frombuffer(psf, dtype).reshape(shape)
    weights = np.zeros((kz, ky + OUTS - 1, kx, OUTS), x_dtype)
    for o in range(OUTS):
        weights[:, o : o + ky, :, o] = psf
    z, r, j = np.ogrid[:kz, : ky + OUTS - 1, :kx]
    return ((z * size[0] + r) * size[1] + j).reshape(-1), weights.reshape(-1)


def _launch(n, args, threads):
    """On CUDA a thread has four pixels of a line, a block a tile of 64 × 16."""
    x, y = args[0], args[3]
    kz, ky, kx = (a - b + 1 for a, b in zip(x.shape[1:], y.shape[1:], strict=True))
    columns = 16 if threads >= 128 else 8
    lines = threads // columns
    length = 4 * columns + (0 if kx == 1 else 4 if kx <= 5 else -(-kx // 4) * 4)
    shared = (lines + ky - 1) * length + ky * kx
    tiles = -(-y.shape[3] // (4 * columns)) * -(-y.shape[2] // lines)
    return (tiles * y.shape[1] * y.shape[0],), (columns, lines), shared * x.itemsize


@kernel(launch=_launch)
def direct_convolution_kernel(start, stop, scratch, x, taps, weights, y, pixels):
    """An item is OUTS lines of y. The last tiles step back to stay inside the image."""
    depth, height, width = y.shape[1:]
    tall, wide = x.shape[2], x.shape[3]
    blocks = (height + OUTS - 1) // OUTS
    flat = x.reshape(x.size)
    for item in range(start, stop):
        c, z, top = item // blocks // depth, item // blocks % depth, item % blocks * OUTS
        first = min(top, height - OUTS)
        for left in range(0, width, pixels):
            begin = min(left, width - pixels)
            here = ((c * x.shape[1] + z) * tall + first) * wide + begin
            correlate_tile(flat, here, taps, taps.size, weights, 0, scratch, 0, pixels)
            for line in range(top, first + OUTS):
                source = (line - first) * pixels - begin
                for i in range(left, begin + pixels):
                    y[c, z, line, i] = scratch[source + i]
