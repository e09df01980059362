"""PSFs computed from optics: those of a widefield fluorescence microscope.

`microscope` follows Gibson and Lanni [1]_, `born_wolf` is its paraxial limit [3]_; both by the
Bessel series of Li, Xue and Blu [2]_.

Lengths are in µm and the pupil's radius ρ runs from 0 to 1. The intensity at the distance r from
the axis, with the stage at z, is [1]_, [2]_::

    |∫₀¹ J₀(k NA r ρ) exp(i W(ρ, z)) ρ dρ|²,   k = 2π / wvl

References
----------
.. [1] S. F. Gibson and F. Lanni, "Experimental test of an analytical model of aberration in an
   oil-immersion objective lens used in three-dimensional light microscopy", J. Opt. Soc. Am. A 9
   (1992) 154–166.
.. [2] J. Li, F. Xue and T. Blu, "Fast and accurate three-dimensional point spread function
   computation for fluorescence microscopy", J. Opt. Soc. Am. A 34 (2017) 1029–1034.
.. [3] M. Born and E. Wolf, "Principles of Optics", section 8.8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NotRequired, TypedDict, Unpack

import numpy as np

from ..engine.arrays import as_array
from ..engine.backend import log
from ..engine.checks import InputError, choice, number, positive_int, real, real_array, told
from ..engine.types import ArrayLike, Float64Array
from . import vectorial

MODELS = ("scalar", "vectorial")
CUT = 0.05  # of the light: where the pixels miss more than that, it is told

HIGHEST = 10  # of refractive indices
FARTHEST = 1e9  # µm, that anything measures
STEEPEST = 5000  # rad: the fit takes its third power of time, by then minutes
MOST_VOXELS = 2**31  # 16 GiB
MOST_PLANES = 10_000  # among which the focus is sought, in depths of focus


class Optics(TypedDict):
    """What `microscope` hands to `gibson_lanni`, which says what it is, and the model."""

    model: NotRequired[Literal["scalar", "vectorial"]]

    NA: float
    wvl: float
    ni: float
    ns: NotRequired[float | None]
    ni0: NotRequired[float | None]
    ng: NotRequired[float]
    ng0: NotRequired[float | None]
    tg: NotRequired[float]
    tg0: NotRequired[float | None]
    ti0: NotRequired[float]
    pz: NotRequired[float]


def gibson_lanni(
    r: ArrayLike,
    z: ArrayLike,
    *,
    NA: float,
    wvl: float,
    ni: float,
    ns: float | None = None,
    ni0: float | None = None,
    ng: float = 1.5,
    ng0: float | None = None,
    tg: float = 170,
    tg0: float | None = None,
    ti0: float = 150,
    pz: float = 0,
) -> Float64Array:
    """Intensity of the image of a point, off the axis and out of focus [1]_.

    With all indices equal (``ns = ni = ni0``, ``ng = ng0``, ``tg = tg0``) nothing aberrates and
    what is left is the scalar Debye integral of Richards and Wolf, symmetric in z.

    Parameters
    ----------
    r : array_like, any shape
        Distances from the axis in object space, µm.
    z : array_like, (Z,)
        Stage positions, µm: how much more immersion there is than the `ti0` of the design.
    NA : float
        Numerical aperture. Rays that a layer reflects totally (NA above its index) are left out.
    wvl : float
        Emission wavelength in vacuum, µm.
    ni, ns, ng : float
        Refractive indices of immersion, sample and coverslip. `ns` is `ni` where not given.
    ni0, ng0 : float
        What the objective was designed for. `ni` and `ng` where not given.
    tg, tg0, ti0 : float
        Thickness of the coverslip (as it is; by design), and of the immersion layer by design
        (the working distance), µm. They matter only where an index differs from its design.
    pz : float
        Depth of the point in the sample, below the coverslip, µm.

    Returns
    -------
    numpy.ndarray, (Z, *shape of r), float64
        1 at an unaberrated focus.

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    layers = _layers(NA, wvl, ni, ns, ni0, ng, ng0, tg, tg0, ti0, pz)
    z, r = real_array(as_array(z, "z"), "z", ndim=1), real_array(as_array(r, "r"), "r")
    if not np.abs(r).max() < FARTHEST:
        raise InputError("r", f"distances below {FARTHEST:g} µm", f"{np.abs(r).max():g}")
    return _intensity(r, z, layers.NA, layers.wvl, layers.path)


def microscope(
    shape: Sequence[int],
    *,
    dxy: float,
    dz: float | None = None,
    z: float = 0,
    **optics: Unpack[Optics],
) -> Float64Array:
    """PSF of a widefield fluorescence microscope: `gibson_lanni` on a grid of voxels.

    Parameters
    ----------
    shape : tuple of int, (Z, Y, X) or (Y, X)
        The centre is the middle pixel; of an even axis of k pixels it is pixel ``k // 2``.
    dxy : float
        Size of a pixel in object space, µm. Intensity is sampled at pixel centres.
    dz : float, optional
        Distance of planes, µm. Needed where `shape` has three axes.
    z : float
        How far the middle plane is from the focus, µm. The focus is where the point looks
        brightest, which `pz` and wrong indices shift.
    **optics
        NA, wvl, ni, …: as in `gibson_lanni`; and ``model``, "scalar" (default) or "vectorial",
        for an NA above about 1 (see `vectorial.py`).

    Returns
    -------
    numpy.ndarray, `shape`, float64, sum 1
        Where its pixels hold less than 95 % of the light, a warning tells the share that is
        lost: out of focus, the cone of light is wide.

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.

    Examples
    --------
    >>> microscope((9, 31, 31), NA=1.4, wvl=0.52, ni=1.515, ns=1.33, pz=2, dxy=0.1, dz=0.3).shape
    (9, 31, 31)

    Notes
    -----
    The scalar model is the integral as Gibson and Lanni have it, over an evenly lit pupil. A lens
    that obeys the sine condition asks for another factor of 1 / √cos θ in it, which changes up to
    2.5 % of the peak at NA 1.2 in water, and light has a polarisation. So where the NA is high,
    the vectorial model is right; the scalar one is what most programs compute.
    """
    lens = lens_of("microscope", **optics)
    psf = on_grid(shape, dxy, dz, z, lens)
    tell_lost(psf, dxy, lens)
    return psf / psf.sum()


@dataclass(frozen=True)
class Lens:
    """An objective in its layers: ``intensity(r, z)``, where it is in focus, and the light in all
    of a plane, µm²."""

    intensity: Callable[[ArrayLike, ArrayLike], Float64Array]
    focus: float
    energy: float
    NA: float
    wvl: float


def lens_of(function: str, model: str = "scalar", **optics: Any) -> Lens:
    """The `Lens` of some optics; `function` is who was asked for it, for messages."""
    choice(model, "model", MODELS)
    try:
        layers = _layers(**optics)
    except TypeError as error:  # an unknown or a missing keyword
        raise TypeError(str(error).replace("_layers()", f"{function}()")) from None
    settings = {"NA": layers.NA, "wvl": layers.wvl}
    intensity, energy = partial(_intensity, path=layers.path, **settings), 0.0
    if model == "vectorial":
        settings["indices"] = layers.indices
        intensity = partial(vectorial.intensity, path=layers.path, **settings)
        energy = vectorial.energy(**settings)
    energy = energy or layers.wvl**2 / (np.pi * layers.NA**2)  # by Parseval's theorem
    return Lens(intensity, layers.focus(intensity), energy, layers.NA, layers.wvl)


def tell_lost(psf: Float64Array, dxy: float, lens: Lens) -> None:
    """Warn where `on_grid` has left out a good part of the light."""
    planes = len(psf) if psf.ndim == 3 else 1
    lost = 1 - psf.sum() * dxy**2 / (planes * lens.energy)
    if lost > CUT:
        wide = "×".join(map(str, psf.shape))
        log.warning("%.0f %% of the light lie outside of a PSF of %s pixels", 100 * lost, wide)


def born_wolf(
    shape: Sequence[int],
    *,
    NA: float,
    wvl: float,
    ni: float,
    dxy: float,
    dz: float | None = None,
    z: float = 0,
) -> Float64Array:
    """PSF of an ideal microscope of small aperture [3]_: ``W = k z NA² ρ² / (2 ni)``.

    Parameters and errors as in `microscope`, from which it differs, two focal depths around, by
    1 % of the peak at NA 0.25 ni, 3 % at 0.4 and 13 % at 0.8.

    Returns
    -------
    numpy.ndarray, `shape`, float64, sum 1
    """
    NA, wvl, ni = _aperture(NA, wvl, ni)
    path = partial(_paraxial_path, ni=ni)
    intensity = partial(_intensity, NA=NA, wvl=wvl, path=path)
    psf = on_grid(shape, dxy, dz, z, Lens(intensity, 0.0, np.inf, NA, wvl))
    return psf / psf.sum()


def _paraxial_path(s, z, ni):
    return -z * s / (2 * ni)


@dataclass(frozen=True)
class _Layers:
    """What light crosses on its way: pairs of (thickness, index), as it is and by design."""

    NA: float
    wvl: float
    ni: float
    indices: tuple  # of immersion, coverslip and sample
    fixed: tuple  # (signed thickness, index) of all but the immersion as it is
    ti0: float

    def path(self, s, z):
        """Optical path difference in µm, [1]_, at ``s = (NA ρ)²`` and the stage positions z."""
        fixed = sum(t * np.sqrt(n * n - s) for t, n in self.fixed)
        return fixed + (self.ti0 + z) * np.sqrt(self.ni**2 - s)

    def focus(self, intensity):
        """The stage position where the point looks brightest, µm."""
        from scipy.optimize import minimize_scalar

        depth = self.wvl * self.ni / self.NA**2
        # Between the foci of the innermost and of the outer rays. The very last ones are few, and
        # may run along a layer without ever coming to a focus.
        edge = [self._ray_focus(s) for s in (0.0, 0.9 * self.NA**2)]
        if not np.ptp(edge) <= MOST_PLANES * depth:
            expected = f"foci of inner and outer rays within {MOST_PLANES} depths of focus"
            raise InputError("optics", expected, f"{np.ptp(edge):.3g} µm, of {depth:.3g} µm each")
        z = np.arange(min(edge) - depth, max(edge) + depth, depth / 8)

        def dimness(z):
            return -intensity(0, z)

        best = z[np.argmin(dimness(z))]
        bounds = (best - depth / 8, best + depth / 8)
        return float(minimize_scalar(lambda z: dimness([z])[0], bounds=bounds).x)

    def _ray_focus(self, s):
        """Where rays next to the one at s meet: the path has no slope in s there."""
        slope = sum(t / np.sqrt(n * n - s) for t, n in self.fixed)
        return -slope * np.sqrt(self.ni**2 - s) - self.ti0


def _layers(NA, wvl, ni, ns=None, ni0=None, ng=1.5, ng0=None, tg=170, tg0=None, ti0=150, pz=0):
    NA, wvl, ni = _aperture(NA, wvl, ni)
    index = {
        name: number(default if n is None else n, name, low=1, high=HIGHEST)
        for name, n, default in (("ns", ns, ni), ("ni0", ni0, ni), ("ng", ng, 0), ("ng0", ng0, ng))
    }
    thickness = {
        name: number(default if t is None else t, name, low=0, high=FARTHEST)
        for name, t, default in (("tg", tg, 0), ("tg0", tg0, tg), ("ti0", ti0, 0), ("pz", pz, 0))
    }
    fixed = (
        (thickness["pz"], index["ns"]),
        (thickness["tg"], index["ng"]),
        (-thickness["tg0"], index["ng0"]),
        (-thickness["ti0"], index["ni0"]),
    )
    indices = ni, index["ng"], index["ns"]
    return _Layers(min(NA, *index.values()), wvl, ni, indices, fixed, thickness["ti0"])


def _aperture(NA, wvl, ni):
    ni, wvl = number(ni, "ni", low=1, high=HIGHEST), number(wvl, "wvl", low=1e-6, high=1e6)
    NA = number(NA, "NA", low=1e-6)
    if NA >= ni:
        raise InputError("NA", f"a number below ni = {ni:g}", f"{NA:g}")
    return NA, wvl, ni


def grid_shape(shape: Sequence[int], least: int = 2) -> tuple[int, ...]:
    """`shape` as two or three whole numbers; with `least` 3, three."""
    names = "(Z, Y, X) or (Y, X)" if least == 2 else "(Z, Y, X)"
    try:
        found = tuple(positive_int(n, "shape") for n in shape)
    except TypeError:
        found = ()
    if not least <= len(found) <= 3 or math.prod(found) > MOST_VOXELS:
        raise InputError("shape", f"{names}, at most {MOST_VOXELS} pixels", told(shape))
    return found


def on_grid(shape: Sequence[int], dxy: float, dz: float | None, z: float, lens: Lens,
            away: tuple[float, float] = (0.0, 0.0)) -> Float64Array:  # fmt: skip
    """The intensity of a lens at the centres of pixels, with its axis `away` (y, x), µm."""
    shape = grid_shape(shape)
    dxy, z = real(0, FARTHEST, above=True)(dxy, "dxy"), number(z, "z", low=-FARTHEST, high=FARTHEST)
    if len(shape) == 3:
        z = z + (np.arange(shape[0]) - shape[0] // 2) * real(0, FARTHEST, above=True)(dz, "dz")
    y, x = (np.arange(n) - n // 2 - a / dxy for n, a in zip(shape[-2:], away, strict=True))
    # Many pixels are equally far from the axis: compute each distance once.
    squares, inverse = np.unique(np.add.outer(y * y, x * x), return_inverse=True)
    radial = lens.intensity(dxy * np.sqrt(squares), lens.focus + np.atleast_1d(z))
    return radial[:, inverse.reshape(shape[-2:])].reshape(shape)


def _intensity(r, z, NA, wvl, path):
    """`gibson_lanni` for any optical path ``path((NA ρ)², z)``, by the Bessel series of [2]_.

    The pupil function is fitted by ``exp(i W(ρ)) ≈ Σ c_m J₀(σ_m ρ)``. The integrals of these
    are known, with b = k NA r (Eq. 5), so that none is left to compute for any r::

        ∫₀¹ J₀(σ ρ) J₀(b ρ) ρ dρ = (σ J₁(σ) J₀(b) - b J₀(σ) J₁(b)) / (σ² - b²)
    """
    from scipy.special import j0, j1

    r, z = np.asarray(r, np.float64), np.asarray(z, np.float64)
    k = 2 * np.pi / wvl
    # As many terms as the steepest phase has waves, and some more.
    probe = np.linspace(0, 1, 17)
    ends = np.array([[z.min()], [z.max()]])
    steepest = np.abs(np.diff(k * path((NA * probe) ** 2, ends), axis=1)).max() * 16
    if not steepest <= STEEPEST:
        expected = f"planes and layers whose path bends by at most {STEEPEST} rad across the pupil"
        raise InputError("z", expected, f"{steepest:.3g} rad")
    spacing = 2.0  # of the frequencies σ. At π the J₀ were a basis of [0, 1]; closer, a frame
    terms = int(np.ceil((1.1 * steepest + 60) / spacing))
    sigma = spacing * (np.arange(terms) + 1 / 3)
    # Nodes that crowd towards the pupil's edge, where the fit would swing otherwise.
    rho = np.sin(np.pi / 2 * (np.arange(4 * terms) + 0.5) / (4 * terms))
    phase = k * (path((NA * rho) ** 2, z[:, None]) - path(0.0, z[:, None]))  # (Z, nodes)
    c = np.linalg.lstsq(j0(np.multiply.outer(rho, sigma)), np.exp(1j * phase).T, rcond=1e-13)[0]

    b = k * NA * r.reshape(-1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        known = (sigma * j1(sigma) * j0(b) - b * j0(sigma) * j1(b)) / (sigma**2 - b**2)
    middle = (sigma + b) / 2
    known = np.where(np.abs(sigma - b) < 1e-4, (j0(middle) ** 2 + j1(middle) ** 2) / 2, known)
    return (4 * np.abs(known @ c) ** 2).T.reshape(len(z), *r.shape)
