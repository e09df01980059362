"""The noise model of an image: how much noise there is at each brightness, and what was clipped.

A sensor counts photons, amplifies them and adds noise of its own. So the variance of a pixel is a
line in the light b that is on it (Foi et al. 2008 [1]_) ::

    var(b) = gain · (b − offset) + read_noise²

References
----------
.. [1] A. Foi, M. Trimeche, V. Katkovnik, K. Egiazarian, "Practical Poissonian-Gaussian noise
   modeling and fitting for single-image raw-data", IEEE Trans. Image Process. 17 (2008) 1737–1754.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ..engine import checks
from ..engine.arrays import as_array
from ..engine.backend import host
from ..engine.checks import Checked, checked, real
from ..engine.types import Array, ArrayLike
from .counts import clipped_ends, count_step
from .level import blocked_part, estimate_noise


@dataclass(frozen=True)
class NoiseModel(Checked):
    """What is known of an image's noise, in its units.

    Attributes
    ----------
    level : float
        Its standard deviation, the root mean square over the image.
    gain : float
        By how much the variance grows with the light: what one photon is, where photons are what
        is counted. Negative of an image in which light is dark.
    read_noise : float
        Standard deviation where there is no light,
    offset : float
        and the reading there.
    low, high : float
        What the sensor clipped at; infinite where it did not.
    step : float
        What one count is if the values are counts, else 0.
    outliers : float
        The share of the pixels that are masked, because neither light nor noise explains them.
    """

    level: float = checked(real(0))
    gain: float = checked(real(), 0.0)
    read_noise: float = checked(real(0), 0.0)
    offset: float = checked(real(), 0.0)
    low: float = checked(checks.limit, -np.inf)
    high: float = checked(checks.limit, np.inf)
    step: float = checked(real(0), 0.0)
    outliers: float = checked(real(0, 1), 0.0)

    def variance(self, light: Array) -> Array:
        """gain · (b − offset) + read_noise², and at least read_noise², of an array of light."""
        return (self.gain * (light - self.offset)).clip(0) + self.read_noise**2

    def in_units(self, offset: float, scale: float) -> NoiseModel:
        """The same of the image (y − offset) / scale."""
        size = abs(scale)
        ends = sorted((end - offset) / scale for end in (self.low, self.high))
        return NoiseModel(
            self.level / size, self.gain / scale, self.read_noise / size,
            (self.offset - offset) / scale, *ends, self.step / size, self.outliers,
        )  # fmt: skip


def noise_model(
    image: ArrayLike,
    psf: ArrayLike | None = None,
    *,
    gain: float | None = None,
    read_noise: float | None = None,
    offset: float | None = None,
) -> NoiseModel:
    """The noise model of an image: what is not given is estimated.

    The level is that of `estimate_noise`. Where that does not tell more in the bright parts than in
    the dark ones, the gain is 0 and the noise is the same everywhere. Counts have the gain of one
    count, and no read noise.

    Parameters
    ----------
    image : ([Z,] Y, X) or (N, C, Z, Y, X) array of real numbers
    psf : ([Z,] Y, X) array, optional
        Without one, or with one that passes nearly everything, a gain is not estimated: texture
        would be taken for noise.
    gain, read_noise, offset : float, optional
        What is known of the camera, in units of the image: the variance of a pixel is
        ``gain · (b − offset) + read_noise²``.

    Returns
    -------
    NoiseModel

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    image = checks.real_array(as_array(image, "image"), "image", ndim=(2, 3, 5))
    checks.representable(float(image.min()), float(image.max()))
    image = np.asarray(host(checks.varying(image, "image")), np.float64)
    known = known_camera(gain, read_noise, offset)
    values, counts = np.unique(image, return_counts=True)
    step = count_step(image, values)
    low, high = (-np.inf, np.inf) if step else clipped_ends(values, counts)
    level = estimate_noise(image, psf, low=low, high=high)
    found = {"gain": 0.0, "read_noise": level, "offset": 0.0}
    if step:
        bright = values[-1] - np.median(image) > np.median(image) - values[0]
        found = {"gain": step if bright else -step, "read_noise": 0.0,
                 "offset": float(values[0 if bright else -1])}  # fmt: skip
    elif "gain" not in known or "read_noise" not in known:
        found = _line(image, psf, level, low, high, known)
    found |= known
    model = NoiseModel(level, **found, low=low, high=high, step=step)
    if "gain" in known and "read_noise" in known:
        level = float(np.sqrt(model.variance(image).mean()))
    return dataclasses.replace(model, level=level)


def known_camera(
    gain: float | None, read_noise: float | None, offset: float | None
) -> dict[str, float]:
    """Those that are not None, checked, by their name."""
    given = {"gain": gain, "read_noise": read_noise, "offset": offset}
    least = {"read_noise": 0.0}
    return {
        name: checks.number(value, name, low=least.get(name, -np.inf))
        for name, value in given.items() if value is not None
    }  # fmt: skip


BINS, LEAST_RATIO = 16, 1.5  # of brightness; variance at the bright end over that at the dark one
MEDIAN = 0.4549  # of the square of a standard normal number


def _line(image, psf, level, low, high, known):
    """Gain, read noise and offset by a line through the variance in bins of brightness.

    What the blocked frequencies hold is noise; the squares of their part of the image, where the
    image is about so bright, have the median of one degree of freedom.
    """
    from scipy import fft, ndimage

    flat = {"gain": 0.0, "read_noise": level, "offset": 0.0}
    image, spectrum, window, blocked = blocked_part(image, psf)
    if psf is None or blocked.mean() < 0.05 or level == 0:
        return flat
    noise = fft.irfftn(spectrum * blocked, image.shape[2:], axes=(-3, -2, -1))
    light = ndimage.gaussian_filter(image, [0, 0, *(2.0 * (n > 1) for n in image.shape[2:])])
    seen = (window > 0.25) & (light > low + 3 * level) & (light < high - 3 * level)
    squares, light = ((noise / window) ** 2)[seen], light[seen]
    if light.size < 64 * BINS:
        return flat
    edges = np.quantile(light, np.linspace(0, 1, BINS + 1))
    bins = np.clip(np.searchsorted(edges, light, side="right") - 1, 0, BINS - 1)
    full = [b for b in range(BINS) if np.count_nonzero(bins == b) >= 32]
    b = np.array([light[bins == i].mean() for i in full])
    v = np.array([np.median(squares[bins == i]) for i in full]) / MEDIAN
    v *= level**2 / np.mean(v)  # the share of all frequencies that is blocked
    weights = 1 / np.maximum(v, 1e-3 * v.max())
    slope, base = np.polyfit(b, v, 1, w=weights)
    if "gain" in known:
        slope = known["gain"]
        base = np.average(v - slope * b, weights=weights**2)
    ends = slope * b[[0, -1]] + base
    if "gain" not in known and not ends.max() > LEAST_RATIO * max(ends.min(), 0):
        return flat
    dark = b[0] if slope > 0 else b[-1]
    offset = known.get("offset", float(dark))
    return {"gain": float(slope), "offset": offset,
            "read_noise": float(np.sqrt(max(slope * offset + base, 0)))}  # fmt: skip
