"""A PSF on pixels of another size: band-limited, and with its light where it was.

Between pixels a PSF is what the sampling theorem says, the sum of shifted sinc functions [1]_, cut
off by Kaiser's window. A coarser pixel collects the light that falls on it: the mean over its area,
where the finer one was already the mean over its own, so over a box of √(ratio² − 1) pixels.

References
----------
.. [1] C. E. Shannon, "Communication in the presence of noise", Proc. IRE 37 (1949) 10–21.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..engine.types import Float64Array

LOBES, BETA = 8, 8.0  # of the windowed sinc, to either side; Kaiser's shape
SLACK = 0.1  # of a pixel at the rim that is not worth a pixel more


def sizes_of(shape: Sequence[int], ratio: Sequence[float], centre: Sequence[float]) -> list[int]:
    """Odd sizes in pixels `ratio` times as large, that hold an array around its `centre`."""
    far = [max(c, n - 1 - c) + 0.5 for n, c in zip(shape, centre, strict=True)]
    return [
        2 * max(int(np.ceil(f / r - 0.5 - SLACK)), 0) + 1 for f, r in zip(far, ratio, strict=True)
    ]


def resample(
    psf: Float64Array, size: Sequence[int], ratio: Sequence[float], centre: Sequence[float]
) -> Float64Array:
    """`psf` on `size` pixels, `ratio` times as large, the middle one at `centre` (in old pixels).

    Values are a density: their sum is that of `psf` divided by the product of the ratios, but for
    what lies outside of the new pixels. Beyond its border `psf` is dark, and a new pixel that
    is half there is half as bright.
    """
    for axis, (n, r, c) in enumerate(zip(size, ratio, centre, strict=True)):
        if (n, r, c) != (psf.shape[axis], 1, n // 2):
            matrix = _matrix(psf.shape[axis], n, r, c)
            psf = np.moveaxis(np.tensordot(matrix, psf, axes=(1, axis)), 0, axis)
    return psf


def widened(psf: Float64Array, factor: float) -> Float64Array:
    """A PSF with sum 1 that is `factor` times as wide along all of its axes, of odd sizes."""
    ratio = [1 / factor if n > 1 else 1.0 for n in psf.shape]
    centre = [n // 2 for n in psf.shape]
    found = np.maximum(resample(psf, sizes_of(psf.shape, ratio, centre), ratio, centre), 0)
    return found / found.sum()


def _matrix(old, new, ratio, centre):
    """The weights of `old` pixels in each of `new` ones, (new, old)."""
    box = np.sqrt(max(ratio**2 - 1, 0))
    places = centre + (np.arange(new) - new // 2) * ratio
    reach = int(np.ceil(LOBES + box / 2)) + 1
    near = np.floor(places)[:, None].astype(int) + np.arange(-reach, reach + 1)
    weights = np.zeros((new, old))
    nodes, shares = np.polynomial.legendre.leggauss(2 + 2 * int(np.ceil(box)))
    for node, share in zip(nodes * box / 2, shares / 2, strict=True):
        lobe = near - places[:, None] - node
        window = np.i0(BETA * np.sqrt(np.clip(1 - (lobe / LOBES) ** 2, 0, None)))
        sinc = np.sinc(lobe) * window * (np.abs(lobe) < LOBES)
        sinc *= share / sinc.sum(axis=1, keepdims=True)
        rows = np.broadcast_to(np.arange(new)[:, None], near.shape)
        np.add.at(weights, (rows, np.clip(near, 0, old - 1)), sinc)  # no ringing at the border
    low, high = places - ratio / 2, places + ratio / 2
    covered = np.clip(np.minimum(high, old - 0.5) - np.maximum(low, -0.5), 0, None) / ratio
    return weights * covered[:, None]
