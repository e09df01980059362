"""Microscopes that see more than a widefield one: products of the light that excites a point and
of what the detector gathers of its emission.

    confocal        h(ex_wvl) · (h(wvl) ∗ pinhole)                                  [1]_
    spinning disk   (Σ of all pinholes' h(ex_wvl) ∗ pinhole ∗ pinhole) · h(wvl)      [2]_
    two photons     h(wvl)²                                                         [3]_
    light sheet     sheet(z) · h(wvl)                                               [4]_

Each takes the optics of `optics.microscope`, with `wvl` the emission's (that of two photons, the
excitation's), and gives a PSF of sum 1 on the same grid.

References
----------
.. [1] T. Wilson and C. Sheppard, "Theory and practice of scanning optical microscopy" (1984).
.. [2] T. Shimozawa et al., "Improving spinning disk confocal microscopy by preventing pinhole
   cross-talk for intravital imaging", PNAS 110 (2013) 3399–3404.
.. [3] W. Denk, J. Strickler and W. Webb, "Two-photon laser scanning fluorescence microscopy",
   Science 248 (1990) 73–76.
.. [4] C. Engelbrecht and E. Stelzer, "Resolution enhancement in a light-sheet-based microscope",
   Opt. Lett. 31 (2006) 1477–1479.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from ..engine.checks import InputError, number, positive, told
from ..engine.types import Float64Array
from .optics import Lens, Optics, grid_shape, lens_of, on_grid

AIRY = 1.22  # wavelengths over NA: the diameter of Airy's first dark ring
FINE = 5  # parts of a pixel's side, each in a pinhole or not
WIDEST = 500  # pixels, of a pinhole's radius
RINGS = 3  # of neighbouring pinholes whose light is counted


def confocal(
    shape: Sequence[int],
    *,
    dxy: float,
    dz: float | None = None,
    z: float = 0,
    ex_wvl: float,
    pinhole: float = 1.0,
    **optics: Unpack[Optics],
) -> Float64Array:
    """PSF of a confocal laser-scanning microscope.

    Parameters
    ----------
    shape, dxy, dz, z, **optics
        As in `microscope`; `wvl` is the emission's.
    ex_wvl : float
        Excitation wavelength in vacuum, µm.
    pinhole : float
        Its diameter in Airy units of the emission; 0 for the limit of a tiny one.

    Returns
    -------
    numpy.ndarray, `shape`, float64, sum 1

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    excitation, emission = _lenses("confocal", ex_wvl, optics)
    through = _through(shape, dxy, dz, z, emission, _disc(pinhole, emission, dxy))
    return _whole(on_grid(shape, dxy, dz, z, excitation) * through)


def spinning_disk(
    shape: Sequence[int],
    *,
    dxy: float,
    dz: float | None = None,
    z: float = 0,
    ex_wvl: float,
    pinhole: float = 1.0,
    pitch: float,
    **optics: Unpack[Optics],
) -> Float64Array:
    """PSF of a spinning-disk microscope: a confocal one with many pinholes at once.

    A camera looks at the pinholes, so where in a pinhole light comes from is seen. Light that
    excites passed it too. Out of focus, what came through one leaves by its neighbours.

    Parameters
    ----------
    shape, dxy, dz, z, ex_wvl, pinhole, **optics
        As in `confocal`.
    pitch : float
        Distance of the pinholes, which form a square lattice, in object space, µm.

    Returns
    -------
    numpy.ndarray, `shape`, float64, sum 1
    """
    from scipy.signal import convolve

    excitation, emission = _lenses("spinning_disk", ex_wvl, optics)
    disc, pitch = _disc(pinhole, emission, dxy), number(pitch, "pitch", low=1e-6, high=1e6)
    disc = convolve(disc, disc)
    lattice = pitch * np.arange(-RINGS, RINGS + 1)
    light = sum(_through(shape, dxy, dz, z, excitation, disc, (y, x))
                for y in lattice for x in lattice)  # fmt: skip
    return _whole(light * on_grid(shape, dxy, dz, z, emission))


def two_photon(
    shape: Sequence[int],
    *,
    dxy: float,
    dz: float | None = None,
    z: float = 0,
    **optics: Unpack[Optics],
) -> Float64Array:
    """PSF of a two-photon microscope: the excitation's squared; all that is emitted is counted.

    Parameters are those of `microscope`; `wvl` is the excitation's, in vacuum.

    Returns
    -------
    numpy.ndarray, `shape`, float64, sum 1
    """
    return _whole(on_grid(shape, dxy, dz, z, lens_of("two_photon", **optics)) ** 2)


def light_sheet(
    shape: Sequence[int],
    *,
    dxy: float,
    dz: float,
    z: float = 0,
    sheet: float | None = None,
    sheet_NA: float | None = None,
    ex_wvl: float | None = None,
    **optics: Unpack[Optics],
) -> Float64Array:
    """PSF of a light-sheet microscope, the sheet lying in the plane of focus.

    Parameters
    ----------
    shape : (Z, Y, X)
    dxy, dz, z, **optics
        As in `microscope`.
    sheet : float
        The sheet's thickness, full width at half maximum, µm; or
    sheet_NA, ex_wvl : float
        the aperture that forms it and the excitation wavelength in µm: a Gaussian beam with the
        waist ``ex_wvl / (π sheet_NA)``.

    Returns
    -------
    numpy.ndarray, `shape`, float64, sum 1
    """
    lens = lens_of("light_sheet", **optics)
    shape = grid_shape(shape, least=3)
    beam = [value is not None for value in (sheet_NA, ex_wvl)]
    if any(beam) != all(beam) or all(beam) == (sheet is not None):
        got = told((sheet, sheet_NA, ex_wvl))
        raise InputError("sheet", "a thickness, or else sheet_NA and ex_wvl", got)
    if sheet is None:
        waist = positive(ex_wvl, "ex_wvl") / (np.pi * positive(sheet_NA, "sheet_NA"))
        sheet = waist * np.sqrt(2 * np.log(2))
    detection = on_grid(shape, dxy, dz, z, lens)
    heights = number(z, "z") + dz * (np.arange(shape[0]) - shape[0] // 2)
    profile = np.exp(-4 * np.log(2) * (heights / positive(sheet, "sheet")) ** 2)
    if not profile.sum() > 0:
        raise InputError("z", "planes that the sheet lights", f"{heights.min():g} µm and farther")
    return _whole(profile[:, None, None] * detection)


def _lenses(function, ex_wvl, optics):
    """The objective as it excites, and as it gathers what is emitted."""
    positive(ex_wvl, "ex_wvl")
    emission = lens_of(function, **optics)
    return lens_of(function, **optics | {"wvl": ex_wvl}), emission


def _disc(pinhole, lens, dxy):
    """A pinhole on the grid: of each pixel the share that lies inside; sum 1."""
    radius = number(pinhole, "pinhole", low=0) * AIRY * lens.wvl / lens.NA / 2
    if not radius / positive(dxy, "dxy") <= WIDEST:
        raise InputError("pinhole", f"a radius of at most {WIDEST} pixels", f"{radius:.3g} µm")
    reach = int(np.ceil(radius / dxy))
    fine = (np.arange((2 * reach + 1) * FINE) + 0.5) / FINE - reach - 0.5
    inside = np.add.outer(fine**2, fine**2) <= max(radius / dxy, 0.5 / FINE) ** 2
    disc = inside.reshape(2 * reach + 1, FINE, 2 * reach + 1, FINE).sum(axis=(1, 3))
    return disc / disc.sum()


def _through(shape, dxy, dz, z, lens: Lens, disc, away=(0.0, 0.0)):
    """The intensity convolved with a pinhole, of which the rim is not cut off."""
    from scipy.signal import fftconvolve

    more, shape = len(disc) - 1, grid_shape(shape)
    wide = (*shape[:-2], *(n + more for n in shape[-2:]))
    found = on_grid(wide, dxy, dz, z, lens, away)
    disc = disc.reshape((1,) * (found.ndim - 2) + disc.shape)
    return np.maximum(fftconvolve(found, disc, mode="valid", axes=(-2, -1)), 0)


def _whole(psf):
    return psf / psf.sum()
