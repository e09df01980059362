"""The vectorial PSF: what apertures above about 1 make of the polarisation of light.

Light that meets the focus at a steep angle does not oscillate across the axis any more. Averaged
over all polarisations (those of the light that excites, or by reciprocity the directions of the
dipoles that emit), the intensity is, after Richards and Wolf [1]_ and through the layers of Török
and Varga [2]_, with the angle θ in the immersion and k = 2π / wvl ::

    |I₀|² + 2 |I₁|² + |I₂|²

    I₀ = ∫ √cos θ sin θ (tₛ + tₚ cos θₛ) J₀(k n r sin θ) exp(i W) dθ
    I₁ = ∫ √cos θ sin θ       tₚ sin θₛ  J₁(k n r sin θ) exp(i W) dθ
    I₂ = ∫ √cos θ sin θ (tₛ − tₚ cos θₛ) J₂(k n r sin θ) exp(i W) dθ

θₛ is the angle in the sample, tₛ and tₚ are what Fresnel lets pass of either polarisation from the
immersion through the coverslip into the sample, and W is the path of Gibson and Lanni, which the
scalar model has too. The √cos θ is that of an aplanatic lens; the scalar integral of Gibson and
Lanni, ∫ sin θ cos θ J₀ exp(i W) dθ, has an evenly lit pupil.

References
----------
.. [1] B. Richards and E. Wolf, "Electromagnetic diffraction in optical systems II", Proc. R. Soc.
   A 253 (1959) 358–379, Eqs. 2.31 and 3.
.. [2] P. Török and P. Varga, "Electromagnetic diffraction of light focused through a stratified
   medium", Appl. Opt. 36 (1997) 2305–2312.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.checks import InputError
from ..engine.types import ArrayLike, Float64Array

STEEPEST = 10_000  # rad: by then a plane takes minutes
NODES = 80  # of the integral, and as many more as the phase has quarters of a wave


def intensity(
    r: ArrayLike,
    z: ArrayLike,
    NA: float,
    wvl: float,
    path: Callable[[Any, Any], Float64Array],
    indices: tuple[float, float, float],
) -> Float64Array:
    """The intensity at the distances `r` from the axis, with the stage at each of `z`.

    Parameters
    ----------
    r, z : array_like
        µm.
    NA, wvl : float
    path : callable
        The optical path difference ``path((n sin θ)², z)``, µm.
    indices : three of float
        Of immersion, coverslip and sample.

    Returns
    -------
    numpy.ndarray, (Z, *shape of r), float64
        1 at an unaberrated focus.
    """
    from scipy.special import j0, j1

    r, z = np.asarray(r, np.float64), np.asarray(z, np.float64)
    k = 2 * np.pi / wvl
    ends = np.array([[z.min()], [z.max()]])
    steps = np.abs(np.diff(k * path((NA * np.linspace(0, 1, 33)) ** 2, ends), axis=1))
    phase = steps.sum(axis=1).max() + k * NA * r.max(initial=0)
    if not phase <= STEEPEST:
        expected = f"planes, layers and distances whose phase turns by at most {STEEPEST} rad"
        raise InputError("z", expected, f"{phase:.3g} rad")
    sines, amplitudes, _ = _integrands(NODES + int(2 * phase / np.pi), NA, indices)
    rays = np.exp(1j * k * (path(sines**2, z[:, None]) - path(0.0, z[:, None])))
    b = k * np.multiply.outer(sines, r.ravel())
    zeroth, first = j0(b), j1(b)
    second = np.where(b > 1e-3, 2 * first / np.maximum(b, 1e-3) - zeroth, b**2 / 8)
    found, focus = 0.0, amplitudes[0].sum() ** 2
    for share, amplitude, wave in zip((1, 2, 1), amplitudes, (zeroth, first, second), strict=True):
        found = found + share * np.abs((rays * amplitude) @ wave) ** 2
    return (found / focus).reshape(len(z), *r.shape)


def energy(NA: float, wvl: float, indices: tuple[float, float, float]) -> float:
    """The integral of `intensity` over a whole plane, µm²: the same for each of them.

    By Parseval's theorem for Hankel transforms, ∫ |∫ g J(k n r sin θ) dθ|² r dr is
    ∫ g² / (k² n² sin θ cos θ) dθ.
    """
    _, amplitudes, (angle, weights) = _integrands(400, NA, indices)
    power = amplitudes[0] ** 2 + 2 * amplitudes[1] ** 2 + amplitudes[2] ** 2
    k = 2 * np.pi / wvl * indices[0]
    total = np.sum(power / weights / (np.sin(angle) * np.cos(angle))) / k**2
    return float(2 * np.pi * total / amplitudes[0].sum() ** 2)


def _integrands(number, NA, indices):
    """(n sin θ, the three amplitudes, (θ, weights)); the weights are in the amplitudes too.

    Nodes crowd at the outermost ray, where the light may run along a layer.
    """
    nodes, weights = np.polynomial.legendre.leggauss(number)
    most, nodes = np.arcsin(NA / indices[0]), (nodes + 1) * np.pi / 4
    angle, weights = most * np.sin(nodes), most * np.cos(nodes) * weights * np.pi / 4
    sines = indices[0] * np.sin(angle)
    cosines = [np.sqrt(np.maximum(1 - (sines / n) ** 2, 0)) for n in indices]
    across = along = np.ones_like(sines)  # tₛ, tₚ
    for n1, n2, c1, c2 in zip(indices, indices[1:], cosines, cosines[1:], strict=False):
        across = across * 2 * n1 * c1 / (n1 * c1 + n2 * c2)
        along = along * 2 * n1 * c1 / (n2 * c1 + n1 * c2)
    lens = np.sqrt(cosines[0]) * np.sin(angle) * weights
    tilted = along * cosines[-1]
    parts = lens * (across + tilted), lens * along * sines / indices[-1], lens * (across - tilted)
    return sines, parts, (angle, weights)
