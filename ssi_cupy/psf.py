"""Point-spread functions (PSFs): the image of a point, computed from optics or measured.

`gaussian` needs no optics. `microscope` computes the PSF of a widefield fluorescence microscope
after Gibson and Lanni [1]_, and `born_wolf` its paraxial limit; both by the Bessel series of Li,
Xue and Blu [2]_. `prepare` makes a PSF of the picture of a bead. All give float64 arrays of sum 1.

In the optics, lengths are in µm and the pupil's radius ρ runs from 0 to 1. The intensity at the
distance r from the axis, with the stage at z, is [1]_, [2]_::

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

from dataclasses import dataclass

import numpy as np

from .checks import InputError, choice, number, positive_int, real_array, varying


def gaussian(sigma, *, ndim=2, size=None):
    """A Gaussian PSF, sampled at pixel centres.

    Parameters
    ----------
    sigma : float or sequence of float
        Standard deviation in pixels, of all axes or one per axis (which then says the rank).
        0 along an axis means no blur along it.
    ndim : int
        Rank of the PSF, if `sigma` is one number.
    size : int or sequence of int, optional
        Pixels per axis, odd. By default the PSF ends after 4 sigma.

    Returns
    -------
    numpy.ndarray, rank `ndim`, float64
        Sum 1, with the centre in the middle pixel.

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    sigmas = [sigma] * positive_int(ndim, "ndim") if np.ndim(sigma) == 0 else list(sigma)
    if not sigmas:
        raise InputError("sigma", "a number, or one per axis", repr(sigma))
    sigmas = [number(s, "sigma", low=0) for s in sigmas]
    if size is None:
        size = [2 * int(np.ceil(4 * s)) + 1 for s in sigmas]
    psf = np.ones(())
    for s, n in zip(sigmas, _odd(size, len(sigmas)), strict=True):
        r = np.arange(n) - n // 2
        line = np.exp(-((r / s) ** 2) / 2) if s > 0 else (r == 0).astype(np.float64)
        psf = np.multiply.outer(psf, line / line.sum())
    return psf / psf.sum()


# ---- computed from optics -----------------------------------------------------------------------


def gibson_lanni(
    r, z, *, NA, wvl, ni, ns=None, ni0=None, ng=1.5, ng0=None, tg=170, tg0=None, ti0=150, pz=0
):
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
    return _intensity(r, z, layers.NA, layers.wvl, layers.path)


def microscope(shape, *, dxy, dz=None, z=0, **optics):
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
        NA, wvl, ni, …: as in `gibson_lanni`.

    Returns
    -------
    numpy.ndarray, `shape`, float64, sum 1

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.

    Examples
    --------
    >>> microscope((9, 31, 31), NA=1.4, wvl=0.52, ni=1.515, ns=1.33, pz=2, dxy=0.1, dz=0.3).shape
    (9, 31, 31)
    """
    try:
        layers = _layers(**optics)
    except TypeError as error:  # an unknown or a missing keyword
        raise TypeError(str(error).replace("_layers()", "microscope()")) from None
    return _on_grid(shape, dxy, dz, z, layers.NA, layers.wvl, layers.path, layers.focus())


def born_wolf(shape, *, NA, wvl, ni, dxy, dz=None, z=0):
    """PSF of an ideal microscope of small aperture [3]_: ``W = k z NA² ρ² / (2 ni)``.

    Parameters and errors as in `microscope`, from which it differs, two focal depths around, by
    1 % of the peak at NA 0.25 ni, 3 % at 0.4 and 13 % at 0.8.

    Returns
    -------
    numpy.ndarray, `shape`, float64, sum 1
    """
    NA, wvl, ni = _aperture(NA, wvl, ni)
    return _on_grid(shape, dxy, dz, z, NA, wvl, lambda s, z: -z * s / (2 * ni), 0.0)


@dataclass(frozen=True)
class _Layers:
    """What light crosses on its way: pairs of (thickness, index), as it is and by design."""

    NA: float
    wvl: float
    ni: float
    fixed: tuple  # (signed thickness, index) of all but the immersion as it is
    ti0: float

    def path(self, s, z):
        """Optical path difference in µm, [1]_, at ``s = (NA ρ)²`` and the stage positions z."""
        fixed = sum(t * np.sqrt(n * n - s) for t, n in self.fixed)
        return fixed + (self.ti0 + z) * np.sqrt(self.ni**2 - s)

    def focus(self):
        """The stage position where the point looks brightest, µm."""
        from scipy.optimize import minimize_scalar

        depth = self.wvl * self.ni / self.NA**2
        # Between the foci of the innermost and of the outer rays. The very last ones are few, and
        # may run along a layer without ever coming to a focus.
        edge = [self._ray_focus(s) for s in (0.0, 0.9 * self.NA**2)]
        z = np.arange(min(edge) - depth, max(edge) + depth, depth / 8)

        def dimness(z):
            return -_intensity(0, z, self.NA, self.wvl, self.path)

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
        name: number(default if n is None else n, name, low=1)
        for name, n, default in (("ns", ns, ni), ("ni0", ni0, ni), ("ng", ng, 0), ("ng0", ng0, ng))
    }
    thickness = {
        name: number(default if t is None else t, name, low=0)
        for name, t, default in (("tg", tg, 0), ("tg0", tg0, tg), ("ti0", ti0, 0), ("pz", pz, 0))
    }
    fixed = (
        (thickness["pz"], index["ns"]),
        (thickness["tg"], index["ng"]),
        (-thickness["tg0"], index["ng0"]),
        (-thickness["ti0"], index["ni0"]),
    )
    return _Layers(min(NA, *index.values()), wvl, ni, fixed, thickness["ti0"])


def _aperture(NA, wvl, ni):
    ni, wvl = number(ni, "ni", low=1), _positive(wvl, "wvl")
    NA = _positive(NA, "NA")
    if NA >= ni:
        raise InputError("NA", f"a number below ni = {ni:g}", f"{NA:g}")
    return NA, wvl, ni


def _on_grid(shape, dxy, dz, z, NA, wvl, path, focus):
    try:
        shape = tuple(positive_int(n, "shape") for n in shape)
    except TypeError:
        raise InputError("shape", "(Z, Y, X) or (Y, X)", repr(shape)) from None
    if len(shape) not in (2, 3):
        raise InputError("shape", "(Z, Y, X) or (Y, X)", repr(shape))
    dxy, z = _positive(dxy, "dxy"), number(z, "z")
    if len(shape) == 3:
        z = z + (np.arange(shape[0]) - shape[0] // 2) * _positive(dz, "dz")
    y, x = (np.arange(n) - n // 2 for n in shape[-2:])
    # Many pixels are equally far from the axis: compute each distance once.
    squares, inverse = np.unique(np.add.outer(y * y, x * x), return_inverse=True)
    radial = _intensity(dxy * np.sqrt(squares), focus + np.atleast_1d(z), NA, wvl, path)
    psf = radial[:, inverse.reshape(shape[-2:])].reshape(shape)
    return psf / psf.sum()


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


# ---- measured -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preparation:
    """What `prepare` found and did. Pixels are those of the measured PSF, unless said otherwise."""

    background: float  # what was subtracted, in the unit of the measured PSF
    noise: float  # standard deviation around the background, same unit
    centre: tuple[float, ...]  # where the point was found, pixels
    spacing: tuple[float, ...] | None  # of the prepared PSF, µm; None if nothing was resampled
    shape: tuple[int, ...]  # of the prepared PSF
    kept: float  # the fraction of the light above background that lies inside `shape`


def prepare(psf, *, psf_spacing=None, spacing=None, background="auto", size=None):
    """Make a PSF of the picture of a point: no background, centred, cropped, resampled, sum 1.

    The point is what is connected to the brightest place and, after smoothing by one pixel, stands
    out of the background by three standard deviations. Its centre is the centroid of what is
    brighter than a fifth of the peak.

    Parameters
    ----------
    psf : numpy.ndarray, (Y, X) or (Z, Y, X), any real dtype
        A picture of one bead, or a PSF of another program.
    psf_spacing, spacing : float or sequence of float, optional
        Distance of pixels in `psf`, and in the image that is to be restored, µm. By default
        nothing is resampled. Coarser pixels collect the light that falls on them.
    background : float or "auto"
        The value where there is no light. "auto" takes the median of all pixels or that of the
        outermost, whichever is lower. Give 0 for a computed PSF.
    size : int or sequence of int, optional
        Pixels of the result per axis, odd. By default as few as hold the point.

    Returns
    -------
    psf : numpy.ndarray, odd shape, float64
        No value below zero, sum 1, with its centre in the middle pixel.
    report : Preparation

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    from scipy import ndimage

    psf = varying(real_array(psf, "psf", ndim=(2, 3)), "psf").astype(np.float64)
    if (psf_spacing is None) != (spacing is None):
        missing = "psf_spacing" if psf_spacing is None else "spacing"
        raise InputError(missing, "both psf_spacing and spacing, or neither", "None")
    ratio = np.ones(psf.ndim)
    if spacing is not None:
        spacing = _per_axis(spacing, "spacing", psf.ndim)
        ratio = np.array(spacing) / _per_axis(psf_spacing, "psf_spacing", psf.ndim)

    shell = _shell(psf.shape)
    if isinstance(background, str):
        choice(background, "background", ("auto",))
        background = float(min(np.median(psf), np.median(psf[shell])))
    background = number(background, "background")
    noise = _deviation(psf[shell], np.median(psf[shell]))
    light = psf - background

    # A hot pixel is no point: look for the brightest place in a smoothed picture, and for what
    # is connected to it above the noise (and the unevenness of the background) that is left there.
    smooth = ndimage.gaussian_filter(light, np.minimum(1, np.array(psf.shape) // 3))
    peak = np.unravel_index(np.argmax(smooth), psf.shape)
    parts, _ = ndimage.label(smooth > 3 * _deviation(smooth[shell], 0))
    if parts[peak] == 0:
        raise InputError(
            "psf",
            "a point that stands out of the noise",
            f"a peak of {smooth[peak]:.3g} above a background of {background:.3g} ± {noise:.3g}",
        )
    point = parts == parts[peak]
    light = np.where(point, np.maximum(light, 0), 0)
    core = np.where(point, np.maximum(smooth - smooth[peak] / 5, 0), 0)
    centre = np.array(ndimage.center_of_mass(core))

    if size is None:
        where = np.argwhere(point)
        reach = np.maximum(where.max(0) - centre, centre - where.min(0)) + 0.5
        size = [2 * max(int(np.ceil(r - 0.5)), 0) + 1 for r in reach / ratio]
    size = _odd(size, psf.ndim)

    # Each new pixel is the mean over the part of the picture that it covers.
    parts = np.ceil(ratio).astype(int)
    lines = []
    for n, m, step, c in zip(size, parts, ratio, centre, strict=True):
        fine = (np.arange(n * m) + 0.5) / m - n / 2  # new pixels, from the centre
        lines.append(c + fine * step)
    grid = np.meshgrid(*lines, indexing="ij")
    sampled = ndimage.map_coordinates(light, grid, order=3, mode="grid-constant")
    blocks = sampled.reshape([k for n, m in zip(size, parts, strict=True) for k in (n, m)])
    prepared = np.maximum(blocks.mean(tuple(range(1, 2 * psf.ndim, 2))), 0)
    total = prepared.sum()
    kept = float(min(total * np.prod(ratio) / light.sum(), 1))
    report = Preparation(
        background, noise, tuple(map(float, centre)), spacing, prepared.shape, kept
    )
    return prepared / total, report


def _deviation(values, centre):
    """Standard deviation around `centre` of normally distributed values, blind to outliers."""
    return float(1.4826 * np.median(np.abs(values - centre)))


def _shell(shape):
    """The outermost pixels of an array, as a mask. Axes of fewer than three pixels have none."""
    mask = np.ones(shape, bool)
    mask[tuple(slice(1, -1) if n > 2 else slice(None) for n in shape)] = False
    return mask


# ---- arguments ----------------------------------------------------------------------------------


def _positive(value, argument):
    value = number(value, argument, low=0)
    if value == 0:
        raise InputError(argument, "a number above zero", "0")
    return value


def _per_axis(values, argument, ndim):
    values = [values] * ndim if np.ndim(values) == 0 else list(values)
    if len(values) != ndim:
        raise InputError(argument, f"a number, or one for each of {ndim} axes", repr(values))
    return tuple(_positive(v, argument) for v in values)


def _odd(size, ndim):
    sizes = [size] * ndim if np.ndim(size) == 0 else list(size)
    if len(sizes) != ndim:
        raise InputError("size", f"a number, or one for each of {ndim} axes", repr(size))
    if any(positive_int(n, "size") % 2 == 0 for n in sizes):
        raise InputError("size", "odd numbers", repr(size))
    return sizes
