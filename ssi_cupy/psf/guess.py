"""How wide a blur is at a guess: by the microscope's optics, or by the image's spectrum.

What pictures show has a power spectrum that falls as f^−2.5 or so [1]_. A Gaussian blur multiplies
that by exp(−4π²σ²f²), and noise adds a constant: the best fitting σ is the guess. On the images of
the benchmark it is right to 20 % or so where these have edges; it says how to begin, not how wide
the blur is.

References
----------
.. [1] A. van der Schaaf and J. van Hateren, "Modelling the power spectra of natural images:
   statistics and information", Vision Research 36 (1996) 2759–2770.
.. [2] B. Zhang, J. Zerubia and J.-C. Olivo-Marin, "Gaussian approximations of fluorescence
   microscope point-spread function models", Appl. Opt. 46 (2007) 1819–1829, Table 1, paraxial.
"""

from __future__ import annotations

import numpy as np

from ..engine.checks import InputError, positive
from ..engine.types import Array

FALL = 2.5
LOW, OWN = 2, 0.5  # the first annulus that counts; the blur of a sharp image's own pixels
NARROWEST, WIDEST = 0.5, 8.0  # pixels
MISFIT = 0.2  # of a logarithm of the power: what pictures differ by


def width_of_image(image: Array) -> float:
    """σ of the blur of an image, pixels, from the power of its rings of equal frequency.

    Parameters
    ----------
    image : (…, Y, X) array
        The spectra of its planes are averaged.
    """
    from scipy import fft, optimize

    planes = np.asarray(image, np.float64).reshape(-1, *image.shape[-2:])
    height, width = image.shape[-2:]
    window = np.multiply.outer(*(np.hanning(n + 2)[1:-1] for n in (height, width)))
    mean = (planes * window).sum(axis=(1, 2), keepdims=True) / window.sum()
    power = (np.abs(fft.fft2((planes - mean) * window)) ** 2).mean(axis=0)
    f = np.hypot(*np.meshgrid(fft.fftfreq(height), fft.fftfreq(width), indexing="ij"))
    ring = np.rint(f * min(height, width)).astype(int).ravel()
    counts = np.bincount(ring)[LOW : min(height, width) // 2]
    inside = slice(LOW, LOW + len(counts))
    mean_power = np.bincount(ring, power.ravel())[inside] / counts
    f = np.bincount(ring, f.ravel())[inside] / counts
    log_power = np.log(np.maximum(mean_power, 1e-12 * mean_power.max()))
    weight = 1 / np.sqrt(2 / counts + MISFIT**2)
    top, noise = log_power[0] + FALL * np.log(f[0]), np.median(log_power[-len(f) // 6 :])

    def misfit(p):
        blur = -4 * np.pi**2 * (np.exp(2 * p[1]) + OWN**2) * f**2
        return weight * (np.logaddexp(p[0] - FALL * np.log(f) + blur, p[2]) - log_power)

    bounds = [(-np.inf, np.log(NARROWEST), -np.inf), (np.inf, np.log(WIDEST), np.inf)]
    fits = [optimize.least_squares(misfit, (top, np.log(s), noise), bounds=bounds)
            for s in (0.7, 1.5, 3.0)]  # fmt: skip
    return float(np.exp(min(fits, key=lambda fit: fit.cost).x[1]))


def widths_of_optics(
    NA: float, wvl: float, ni: float | None = None, *, spacing: tuple[float, ...]
) -> tuple[float, ...]:
    """σ of a widefield microscope's PSF in pixels, [2]_: across, or along Z and across.

    Parameters
    ----------
    NA, wvl, ni : float
        As of `microscope`; `ni` for a volume.
    spacing : (dxy,) or (dz, dxy)
        µm.
    """
    NA, wvl = positive(NA, "NA"), positive(wvl, "wvl")
    if ni is not None and not NA < positive(ni, "ni"):
        raise InputError("NA", f"a number below ni = {ni:g}", f"{NA:g}")
    across = np.sqrt(2) / (2 * np.pi) * wvl / NA / spacing[-1]
    if len(spacing) == 1:
        return (float(across),)
    if ni is None:
        raise InputError("optics", "ni too, for a volume", "none")
    along = np.sqrt(6) / np.pi * ni * wvl / NA**2 / spacing[0]
    return float(along), float(across)
