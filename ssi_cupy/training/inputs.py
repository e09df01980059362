"""What the network is shown: the masked image and, beside it, Wiener-filtered copies of it.

A UNet learns to invert a blur slowly. Where noise is low, the linear filter ::

    w_n = F⁻¹[ conj(H) / (|H|² + n) ]          (Wiener 1949; H the transfer function)

has done most of it already, so its results for a few noise-to-signal ratios n come as further
channels, and the network chooses among them from place to place. They are functions of the pixels
that can be seen, so a hidden pixel stays hidden (J-invariance), and as they are inputs, no gradient
goes through them. Filters are cut off a little beyond the PSF, so that tiles need not see far.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..engine.backend import empty
from ..engine.types import Array
from ..physics import PSFConvolution

BEYOND = 4  # pixels that a filter reaches beyond twice the PSF's radius,
FARTHEST = 24  # and the most that it reaches
LEAST_LEVEL = 1e-5  # a filter with less would amplify the rounding of float32


class NetworkInputs:
    """Adds the filtered copies to what the network is shown.

    Parameters
    ----------
    g : object
        The forward model. Without a PSF there is nothing to invert, and nothing is added.
    levels : sequence of float
        Noise-to-signal ratios, one for each copy.
    """

    def __init__(self, g: object, levels: Iterable[float]) -> None:
        self.of = g, list(levels)
        self.levels = [float(n) for n in self.of[1]] if _blurs(g) else []
        self._filters = [_Filter(wiener_kernel(_kernel(g), n)) for n in self.levels]
        self.reach = (
            tuple(k // 2 for k in self._filters[0].psf.shape) if self._filters else 3 * (0,)
        )

    def channels(self, number: int) -> int:
        """How many channels the network has for an image of so many."""
        return number * (1 + len(self.levels))

    def __call__(self, seen: Array) -> Array:
        """`seen` (N, C, Z, Y, X) and its copies, (N, C (1 + copies), Z, Y, X)."""
        if not self._filters:
            return seen
        n, c = seen.shape[:2]
        shown = empty((n, self.channels(c), *seen.shape[2:]), seen.dtype, like=seen)
        shown[:, :c] = seen
        for i, one in enumerate(self._filters, 1):
            shown[:, i * c : (i + 1) * c] = one.forward(seen)
        return shown


def levels_for(g: object, multiples: Sequence[float], noise: float, variance: float) -> list[float]:
    """The noise-to-signal ratios of a recipe's `multiples`, for an image of that `variance`."""
    if not _blurs(g):
        return []
    ratio = min(noise**2 / max(variance - noise**2, 1e-3 * variance), 1.0)
    return [max(float(multiple * ratio), LEAST_LEVEL) for multiple in multiples]


def wiener_kernel(psf: Array, ratio: float) -> Array:
    """The Wiener filter of a PSF as a kernel of odd size that sums to 1, faded out at its ends."""
    from scipy import fft

    reach = [min(2 * (k // 2) + BEYOND, FARTHEST) if k > 1 else 0 for k in psf.shape]
    grid = [4 * r + k if k > 1 else 1 for r, k in zip(reach, psf.shape, strict=True)]
    placed = np.zeros(grid)
    placed[tuple(slice(k) for k in psf.shape)] = psf
    axes = (0, 1, 2)
    transfer = fft.rfftn(np.roll(placed, [-(k // 2) for k in psf.shape], axes))
    kernel = fft.irfftn(np.conj(transfer) / (np.abs(transfer) ** 2 + ratio), s=grid)
    kernel = np.roll(kernel, reach, axes)[tuple(slice(2 * r + 1) for r in reach)]
    for axis, r in enumerate(reach):
        inside = np.minimum(1, (r + 1 - np.abs(np.arange(-r, r + 1))) / max(r / 3, 1))
        fade = np.sin(np.pi / 2 * inside) ** 2
        kernel = kernel * np.expand_dims(fade, [a for a in axes if a != axis])
    return kernel / kernel.sum()


class _Filter(PSFConvolution):
    """A convolution with a kernel that may be negative, and wider than the image."""

    def __init__(self, kernel):
        self.psf, self.mode, self.method = np.ascontiguousarray(kernel), "mirror", "fft"
        self._plans = {}

    def _check_size(self, shape):
        pass


def _blurs(g):
    return isinstance(g, PSFConvolution) and g.psf.size > 1


def _kernel(g):
    """A PSF that is learned changes; what the network is shown does not."""
    return getattr(g, "guessed_psf", g.psf)
