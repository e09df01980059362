"""How wide the blur of an image is, by pixels that were held out.

A PSF that is too wide cannot have the image's edges, and one that is too narrow leaves the blur to
x, where total variation, which likes edges, pays for it. So, of pixels that it was not shown, ::

    E(r) = mean over held-out pixels of (y − h_r * x)²

is least near the width of the blur and grows to both sides of it: h_r is the PSF made r times as
wide, and x what total variation of a weight w restores with it. With w the best weight for that
width the least lies too low, by a tenth or so, as total variation blurs x a little and a narrower
PSF makes up for it; with half of that weight, about as much too high. So w is the best over √2.

What differs from the least by chance, pixel by pixel, cannot be told from it: those widths are an
interval. Of an image without edges it is wide, or lies above: its softness and the blur are one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..engine.checks import InputError
from ..engine.types import Array, Float64Array, Mode
from ..masking import validation_pixels
from ..physics import PSFConvolution
from .total_variation import tv_admm

HELD_OUT = 0.3
ITERATIONS, RHO = 30, 0.15  # of `tv_admm`; its penalty over the image's contrast times the noise's
WEIGHT = 2.0**-3  # of the noise: where the search for a weight of TV begins,
SPAN = 2.0**5  # how far it goes,
LESS = 2.0**-0.5  # and what of the best weight is taken
PAD = 16  # pixels around the image, at most
CAP = 5.0  # noise levels that a held-out residual counts as at most
TOLD = 2.0  # standard errors of a difference: what differs by less cannot be told apart


@dataclass(frozen=True)
class WidthProfile:
    """Held-out errors by width.

    Attributes
    ----------
    ratios : (n,) array of float64
        Widths that were tried, ascending, in units of the one that was given.
    errors : (n,) array of float64
        Mean held-out squares over the noise's variance.
    apart : (n,) array of float64
        By how many standard errors they are above the least.
    weight : float
        The best weight of total variation, over the noise.
    """

    ratios: Float64Array
    errors: Float64Array
    apart: Float64Array
    weight: float

    @property
    def best(self) -> float:
        """The ratio of least error, between those that were tried."""
        x, i = np.log(self.ratios), int(np.argmin(self.errors))
        if not 0 < i < len(x) - 1:
            return float(self.ratios[i])
        parabola = np.polyfit(x[i - 1 : i + 2] - x[i], self.errors[i - 1 : i + 2], 2)
        off = -parabola[1] / (2 * parabola[0]) if parabola[0] > 0 else 0.0
        return float(np.exp(x[i] + np.clip(off, x[i - 1] - x[i], x[i + 1] - x[i])))

    def interval(self, errors: float = TOLD) -> tuple[float, float]:
        """The ratios around the best that cannot be told from it; 0 or inf where that goes on."""
        return self._end(errors, -1), self._end(errors, 1)

    def _end(self, errors, way):
        x, i = np.log(self.ratios), int(np.argmin(self.errors))
        while 0 <= i + way < len(x):
            here, there = self.apart[i], self.apart[i + way]
            if there > errors:
                share = (errors - here) / (there - here)
                return float(np.exp(x[i] + share * (x[i + way] - x[i])))
            i += way
        return 0.0 if way < 0 else np.inf


def width_profile(
    image: Array,
    widened: Callable[[float], Array],
    ratios: Sequence[float],
    noise: float,
    *,
    masked: Array | None = None,
    mode: Mode = "mirror",
    weight: float | None = None,
    seed: int = 0,
) -> WidthProfile:
    """Held-out errors of an image for PSFs of several widths.

    Parameters
    ----------
    image : (Y, X) or (Z, Y, X) array of float64
    widened : callable
        Of a ratio: the PSF of that width, of the image's rank.
    ratios : sequence of float
        At least one.
    noise : float
        Standard deviation of the image's noise, above 0.
    masked : array of bool of the image's shape, optional
        Which pixels say nothing.
    mode : {"mirror", "nearest", "wrap", "constant"}
        What lies beyond the border of the image.
    weight : float, optional
        The best weight of total variation over the noise, where it is known.
    seed : int

    Returns
    -------
    WidthProfile
        Without widths whose PSF is far larger than the image.

    Raises
    ------
    InputError
        If those are all.
    """
    five = (1,) * (5 - image.ndim) + image.shape
    held = validation_pixels(five, HELD_OUT, seed, like=image).reshape(image.shape) > 0
    weights = 1.0 - held
    if masked is not None:
        weights[masked] = 0
        held &= ~masked
    kernels = {ratio: widened(ratio) for ratio in sorted(ratios)}
    most = tuple(n + min(n, PAD) for n in image.shape)
    fit = {r: k for r, k in kernels.items() if np.all(np.array(k.shape) <= most)}
    if not fit:
        raise InputError("psf", f"at most {most} pixels", f"shape {kernels[min(kernels)].shape}")
    one = _Held(image, held, weights, noise, mode)
    weight = one.best_weight(fit.values()) if weight is None else weight
    squares = np.array([one.squares(psf, LESS * weight) for psf in fit.values()])
    means = squares.mean(axis=1)
    behind = squares - squares[np.argmin(means)]
    error = behind.std(axis=1) / np.sqrt(squares.shape[1])
    apart = behind.mean(axis=1) / np.maximum(error, 1e-300)
    return WidthProfile(np.array(list(fit)), means, apart, weight)


class _Held:
    """Held-out squares over the noise's variance, of a PSF and a weight of total variation."""

    def __init__(self, image, held, weights, noise, mode):
        self.image, self.held, self.weights = image, held, weights
        self.noise, self.mode = noise, mode
        contrast = float(np.subtract(*np.percentile(image, (99.5, 0.5))))
        self.rho = float(np.clip(RHO * noise / max(contrast, noise), 0.01, 0.2))

    def squares(self, psf, weight):
        x = tv_admm(self.image, psf, ITERATIONS, weight=weight * self.noise, rho=self.rho,
                    pad=min(max(psf.shape), PAD), weights=self.weights)  # fmt: skip
        five = (1,) * (5 - x.ndim) + x.shape
        blurred = PSFConvolution(psf, self.mode).forward(x.astype(np.float64).reshape(five))
        off = (self.image - blurred.reshape(x.shape))[self.held] / self.noise
        return np.minimum(off**2, CAP**2)

    def best_weight(self, kernels):
        """That of the least error of all widths but the outermost."""
        kernels = list(kernels)
        some = kernels[1:-1] if len(kernels) > 2 else kernels
        return min((self.downhill(psf, WEIGHT) for psf in some), key=lambda found: found[1])[0]

    def downhill(self, psf, at):
        """(the weight of least error, that error): by factors of 2, one way or the other."""
        best = self.squares(psf, at).mean()
        for factor in (0.5, 2.0):
            began = at
            while 1 / SPAN <= at * factor / WEIGHT <= SPAN:
                found = self.squares(psf, at * factor).mean()
                if found >= best:
                    break
                at, best = at * factor, found
            if at != began:
                break
        return at, best
