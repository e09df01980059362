"""Deconvolution without learning: what a self-supervised restoration has to beat.

All functions take the image, then the point-spread function (PSF), and compute in float64. The
result is float32 on the scale of the image, which is not clipped unless asked for. Images may be
2-D or 3-D. `richardson_lucy` and the TV methods with a `mode` see the blur through
`physics.PSFConvolution`, as the network does; the others divide spectra.
"""

from __future__ import annotations

import numpy as np

from .backend import namespace
from .checks import (
    InputError,
    number,
    point_spread_function,
    positive_int,
    real_array,
    varying,
)
from .physics import PSFConvolution


def richardson_lucy(image, psf, num_iter=10, *, mode="mirror", clip=False, initial=None):
    """Richardson–Lucy deconvolution [1]_, [2]_: maximum likelihood for Poisson noise.

    Each iteration multiplies the estimate x by the back-projected ratio of data to prediction,
    ``x ← x · (h̃ * (y / (h * x))) / (h̃ * 1)``, where h̃ is the PSF mirrored along all axes. The
    convolutions continue images by `mode`. More iterations are sharper and noisier.

    Parameters
    ----------
    image : array, (Y, X) or (Z, Y, X), any real dtype
        No value below zero.
    psf : array of the same rank
        Divided by its sum.
    num_iter : int
        Number of iterations, at least 1.
    mode : {"mirror", "nearest", "wrap", "constant"}
        What lies outside the image, as in `scipy.ndimage`; "constant" is zero.
    clip : bool
        Clip the result to [0, 1], as the published figures have it.
    initial : array of the shape of `image`, optional
        Where to start; no value below zero. By default the mean of the image everywhere.
        (Which constant that is makes no difference.)

    Returns
    -------
    array, shape of `image`, float32

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.

    References
    ----------
    .. [1] W. H. Richardson, "Bayesian-based iterative method of image restoration",
       J. Opt. Soc. Am. 62 (1972) 55–59.
    .. [2] L. B. Lucy, "An iterative technique for the rectification of observed distributions",
       Astron. J. 79 (1974) 745–754.
    """
    return _richardson_lucy(image, psf, num_iter, 0.0, mode, clip, initial)


def richardson_lucy_tv(
    image, psf, num_iter=10, *, weight=0.002, mode="mirror", clip=False, initial=None
):
    """Richardson–Lucy deconvolution with total variation (TV) as prior [1]_.

    As `richardson_lucy`, but each estimate is also divided by ``1 - weight · div(∇x / |∇x|)``
    [1]_, which flattens noise and keeps edges.

    Parameters
    ----------
    image, psf, num_iter, mode, clip, initial
        As in `richardson_lucy`.
    weight : float in [0, 0.1]
        Of the TV. Does not depend on the image's scale. The paper takes 0.002.

    Returns
    -------
    array, shape of `image`, float32

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.

    References
    ----------
    .. [1] N. Dey et al., "Richardson–Lucy algorithm with total variation regularization for 3D
       confocal microscope deconvolution", Microsc. Res. Tech. 69 (2006) 260–266.
    """
    weight = number(weight, "weight", low=0, high=0.1)
    return _richardson_lucy(image, psf, num_iter, weight, mode, clip, initial)


def _richardson_lucy(image, psf, num_iter, weight, mode, clip, initial):
    xp, y, psf = _inputs(image, psf, nonnegative=True)
    num_iter = positive_int(num_iter, "num_iter")
    x = xp.full(y.shape, y.mean()) if initial is None else _initial(initial, y)
    # The mirrored PSF is not the adjoint of blur, which would gather the mirrored border onto the
    # pixels it came from: the published figures continue the ratio as they continue the image.
    blur, back = _Blur(psf, mode), _Blur(psf[(slice(None, None, -1),) * psf.ndim], mode)
    reach = back(xp.ones_like(y))  # 1, but for "constant": there the border sees less of the data
    floor = 1e-12 * float(y.max())  # the prediction can be 0 only where the data are
    for _ in range(num_iter):
        prior = 1 - weight * _divergence(_directions(_gradient(x), floor)) if weight else 1
        x = x * back(y / xp.maximum(blur(x), floor)) / (reach * prior)
    return _result(x, clip)


def wiener(image, psf, balance, *, pad=32, clip=False):
    """Wiener deconvolution: the linear filter ``h* / (|h|² + n)``, n the noise-to-signal ratio.

    Parameters
    ----------
    image : array, (Y, X) or (Z, Y, X), any real dtype
    psf : array of the same rank
        Divided by its sum.
    balance : float or 1-D array
        A number is the weight of the power spectrum of the Laplacian, ``n = balance |Δ|²``, as in
        `skimage.restoration.wiener`. An array is n itself at equidistant radial frequencies, from
        0 to that of the corner (√ndim / 2 cycles per pixel); see `radial_power_spectrum`.
    pad : int
        Pixels of reflection around the image. Filtering is periodic beyond.
    clip : bool
        Clip the result to [0, 1].

    Returns
    -------
    array, shape of `image`, float32

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.

    References
    ----------
    .. [1] N. Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series",
       Wiley, 1949.
    """
    xp, y, psf = _inputs(image, psf)
    fft = _Periodic(xp, y, psf, pad)
    if np.ndim(balance) == 0:
        noise = number(balance, "balance", low=0) * fft.laplacian**2
    else:
        balance = real_array(balance, "balance", ndim=1)
        if float(balance.min()) < 0:
            raise InputError("balance", "no value below zero", f"{float(balance.min()):g}")
        known = xp.linspace(0, np.sqrt(y.ndim) / 2, len(balance))
        noise = xp.interp(_frequencies(xp, fft.shape), known, xp.asarray(balance))
        noise[(0,) * y.ndim] = 0  # the mean is no signal: keep it
    gain = fft.otf.conj() / xp.maximum(abs(fft.otf) ** 2 + noise, 1e-30)
    return _result(fft.crop(fft.inverse(gain * fft.forward(fft.extend(y)))), clip)


def radial_power_spectrum(image, bins=64):
    """Mean squared magnitude of an image's Fourier transform (orthonormal), by frequency.

    For `wiener`: ``n = noise_variance / radial_power_spectrum(a similar, clean image)``.

    Parameters
    ----------
    image : array, any rank and real dtype
        Its mean is subtracted.
    bins : int
        How many frequencies.

    Returns
    -------
    array, (bins,), float64
        At equidistant frequencies from 0 to √ndim / 2 cycles per pixel, the corner's.
        Where no frequency is near, the value of its neighbours.

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    xp = namespace(image)
    image = varying(real_array(image, "image"), "image").astype(np.float64)
    bins = positive_int(bins, "bins", minimum=2)
    power = abs(xp.fft.rfftn(image - image.mean(), norm="ortho")) ** 2
    step = np.sqrt(image.ndim) / 2 / (bins - 1)
    index = (_frequencies(xp, image.shape) / step + 0.5).astype(int).ravel()
    total = xp.bincount(index, power.ravel(), bins)
    count = xp.bincount(index, minlength=bins)
    count[0] -= 1  # the mean, which was subtracted
    found = xp.flatnonzero(count)
    return xp.interp(xp.arange(bins), found, total[found] / count[found])


def tv_admm(image, psf, num_iter=60, *, weight=0.02, rho=0.2, pad=32, clip=False):
    """Total variation (TV) deconvolution by the alternating direction method of multipliers [1]_.

    Minimises ``½ ‖h * x - y‖² + weight Σ |∇x|``: with ``d`` for ∇x and ``u`` for the multipliers,

    - x solves ``(hᵀh + rho ∇ᵀ∇) x = hᵀy + rho ∇ᵀ(d - u)``, which is a division of spectra,
    - d is ∇x + u shortened by ``weight / rho``,
    - u grows by ∇x - d.

    Parameters
    ----------
    image : array, (Y, X) or (Z, Y, X), any real dtype
    psf : array of the same rank
        Divided by its sum.
    num_iter : int
        Number of iterations, at least 1.
    weight : float
        Of the TV, in units of the image (the default suits noise of 0.1 in an image in [0, 1]).
    rho : float
        Penalty, which changes the speed, not the goal.
    pad : int
        Pixels of reflection around the image. Convolution is periodic beyond.
    clip : bool
        Clip the result to [0, 1].

    Returns
    -------
    array, shape of `image`, float32

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.

    References
    ----------
    .. [1] S. Boyd et al., "Distributed optimization and statistical learning via the alternating
       direction method of multipliers", Found. Trends Mach. Learn. 3 (2011) 1–122, section 6.4.
    """
    xp, y, psf = _inputs(image, psf)
    num_iter, weight = positive_int(num_iter, "num_iter"), number(weight, "weight", low=0)
    rho = _positive(rho, "rho")
    fft = _Periodic(xp, y, psf, pad)
    back_projected = fft.otf.conj() * fft.forward(fft.extend(y))
    system = xp.maximum(abs(fft.otf) ** 2 + rho * fft.laplacian, 1e-30)
    u = target = [xp.zeros(fft.shape)] * y.ndim  # target = d - u
    for _ in range(num_iter):
        pulled = fft.forward(_divergence(target, periodic=True))
        x = fft.inverse((back_projected - rho * pulled) / system)
        moved = [g + m for g, m in zip(_gradient(x, periodic=True), u, strict=True)]
        length = xp.sqrt(sum(m * m for m in moved))
        kept = xp.maximum(1 - weight / rho / xp.maximum(length, 1e-30), 0)
        u = [m - kept * m for m in moved]
        target = [2 * kept * m - m for m in moved]
    return _result(fft.crop(x), clip)


def tv_chambolle_pock(image, psf, num_iter=200, *, weight=2.5e-3, mode="mirror", clip=False):
    """Total variation (TV) deconvolution by the primal-dual method of Chambolle and Pock [1]_.

    Minimises ``½ ‖h * x - y‖² + weight Σ |∇x|``, starting from 0.

    Parameters
    ----------
    image : array, (Y, X) or (Z, Y, X), any real dtype
    psf : array of the same rank
        Divided by its sum.
    num_iter : int
        Number of iterations, at least 1.
    weight : float
        Of the TV, in units of the image (the published value is for images in [0, 1]).
    mode : {"mirror", "nearest", "wrap", "constant"}
        What lies outside the image, as in `scipy.ndimage`; "constant" is zero.
    clip : bool
        Clip the result to [0, 1].

    Returns
    -------
    array, shape of `image`, float32

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.

    References
    ----------
    .. [1] A. Chambolle and T. Pock, "A first-order primal-dual algorithm for convex problems with
       applications to imaging", J. Math. Imaging Vis. 40 (2011) 120–145, Algorithm 1, θ = 1.
    """
    xp, y, psf = _inputs(image, psf)
    num_iter, weight = positive_int(num_iter, "num_iter"), number(weight, "weight", low=0)
    blur = _Blur(psf, mode)
    # Both steps 1/L, with L² ≥ ‖h‖² + ‖∇‖². The border's mirror images can lift ‖h‖² above 1.
    largest = float(blur.adjoint(xp.ones_like(y)).max())
    step = 1 / np.sqrt(largest + 4 * y.ndim)
    x = ahead = xp.zeros_like(y)
    p, q = xp.zeros_like(y), [xp.zeros_like(y) for _ in y.shape]
    for _ in range(num_iter):
        p = (p + step * (blur(ahead) - y)) / (1 + step)
        q = [a + step * g for a, g in zip(q, _gradient(ahead), strict=True)]
        if weight:
            scale = xp.maximum(xp.sqrt(sum(a * a for a in q)) / weight, 1)
            q = [a / scale for a in q]
        else:
            q = [0 * a for a in q]
        before, x = x, x - step * (blur.adjoint(p) - _divergence(q))
        ahead = 2 * x - before
    return _result(x, clip)


def tv_conjugate_gradient(
    image, psf, num_iter=100, *, weight=4.5e-3, smoothing=1e-10, mode="mirror", clip=False
):
    """Total variation (TV) deconvolution by the nonlinear conjugate gradients of Polak–Ribière.

    Goes downhill on ``½ ‖h * x - y‖² + weight Σ √(|∇x|² + smoothing²)``, starting from 0. Each
    step is as long as would be best for the first term alone: with little smoothing the minimum
    is not reached. It is here as a rival of the published benchmark, whose parameters are the
    defaults; to restore an image take `tv_admm` or `tv_chambolle_pock`.

    Parameters
    ----------
    image, psf, num_iter, weight, mode, clip
        As in `tv_chambolle_pock`.
    smoothing : float
        Gradients below it count as flat; in units of the image.

    Returns
    -------
    array, shape of `image`, float32

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.

    References
    ----------
    .. [1] E. Polak and G. Ribière, "Note sur la convergence de méthodes de directions conjuguées",
       Rev. Fr. Inform. Rech. Oper. 3 (1969) 35–43.
    """
    xp, y, psf = _inputs(image, psf)
    num_iter, weight = positive_int(num_iter, "num_iter"), number(weight, "weight", low=0)
    smoothing = _positive(smoothing, "smoothing")
    blur = _Blur(psf, mode)
    x = xp.zeros_like(y)
    data_slope = -blur.adjoint(y)
    slope = data_slope  # the TV of 0 has none
    direction = -slope
    for _ in range(num_iter):
        descent = -float((direction * slope).sum())
        if descent <= 0:  # what was kept of former directions leads uphill: forget them
            direction, descent = -slope, float((slope * slope).sum())
        curved = blur.adjoint(blur(direction))
        curvature = float((direction * curved).sum())
        if curvature <= 0:  # arrived
            break
        length = descent / curvature
        x = x + length * direction
        data_slope = data_slope + length * curved
        before = slope
        slope = data_slope - weight * _divergence(_directions(_gradient(x), smoothing))
        bend = float((slope * (slope - before)).sum()) / float((before * before).sum())
        direction = -slope + max(bend, 0.0) * direction
    return _result(x, clip)


# ---- what all of them share -------------------------------------------------------------------


class _Blur:
    """A `PSFConvolution` of float64 images without the axes N and C, 2-D or 3-D."""

    def __init__(self, psf, mode):
        self._model = PSFConvolution(psf, mode)

    def __call__(self, x):
        return self._on_5d(self._model.forward, x)

    def adjoint(self, y):
        return self._on_5d(self._model.adjoint, y)

    @staticmethod
    def _on_5d(function, x):
        return function(x.reshape((1,) * (5 - x.ndim) + x.shape)).reshape(x.shape)


class _Periodic:
    """Convolutions on an image that is extended by reflection, then periodic: spectra only."""

    def __init__(self, xp, image, psf, pad):
        from scipy.fft import next_fast_len

        pad = positive_int(pad, "pad", minimum=0)
        self.xp, self.axes = xp, tuple(range(image.ndim))
        self.shape = tuple(next_fast_len(n + 2 * pad, real=True) for n in image.shape)
        if any(k > n for k, n in zip(psf.shape, self.shape, strict=True)):
            raise InputError("psf", f"at most {self.shape} pixels", f"shape {psf.shape}")
        # Axes may be longer than asked for, where FFTs are faster. Half of it goes to each side.
        sizes = list(zip(self.shape, image.shape, strict=True))
        self.width = [((m - n) // 2, (m - n + 1) // 2) for m, n in sizes]
        self.inside = tuple(slice((m - n) // 2, (m - n) // 2 + n) for m, n in sizes)
        centred = xp.zeros(self.shape)
        centred[tuple(map(slice, psf.shape))] = psf / psf.sum()
        self.otf = self.forward(xp.roll(centred, [-(k // 2) for k in psf.shape], self.axes))
        angles = _angles(xp, self.shape)
        self.laplacian = sum(2 - 2 * xp.cos(a) for a in angles)  # = |∇|², of forward differences

    def extend(self, x):
        return self.xp.pad(x, self.width, "reflect")

    def crop(self, x):
        return x[self.inside]

    def forward(self, x):
        return self.xp.fft.rfftn(x, self.shape, self.axes)

    def inverse(self, x):
        return self.xp.fft.irfftn(x, self.shape, self.axes)


def _angles(xp, shape):
    """Angular frequencies of an rfftn, one broadcastable array for each axis."""
    lines = [xp.fft.fftfreq(n) for n in shape[:-1]] + [xp.fft.rfftfreq(shape[-1])]
    return xp.meshgrid(*(2 * np.pi * line for line in lines), indexing="ij", sparse=True)


def _frequencies(xp, shape):
    """Distance from frequency 0 in the spectrum of an rfftn, cycles per pixel."""
    return xp.sqrt(sum(a * a for a in _angles(xp, shape))) / (2 * np.pi)


def _gradient(x, periodic=False):
    """Forward differences along each axis. Behind the last pixel: its own value, or the first's."""
    xp, out = namespace(x), []
    for axis in range(x.ndim):
        first = x.take([0], axis) if periodic else x.take([-1], axis)
        out.append(xp.diff(x, axis=axis, append=first))
    return out


def _divergence(parts, periodic=False):
    """Minus the adjoint of `_gradient`."""
    xp, total = namespace(*parts), 0
    for axis, part in enumerate(parts):
        if periodic:
            total = total + part - xp.roll(part, 1, axis)
        else:
            inner = part.take(range(part.shape[axis] - 1), axis)
            total = total + xp.diff(inner, axis=axis, prepend=0, append=0)
    return total


def _directions(gradient, smoothing):
    """∇x / √(|∇x|² + smoothing²)."""
    length = namespace(*gradient).sqrt(sum(g * g for g in gradient) + smoothing**2)
    return [g / length for g in gradient]


def _positive(value, argument):
    value = number(value, argument, low=0)
    if value == 0:
        raise InputError(argument, "a number above zero", "0")
    return value


def _inputs(image, psf, nonnegative=False):
    """The namespace, the image and the PSF, checked, float64; the PSF of odd size."""
    xp = namespace(image, psf)
    image = varying(real_array(image, "image", ndim=(2, 3)), "image")
    if nonnegative and float(image.min()) < 0:
        raise InputError("image", "no value below zero", f"a minimum of {float(image.min()):g}")
    psf = point_spread_function(psf, ndim=image.ndim)
    # The centre of an even axis is at k // 2. One more zero makes that the middle, so that
    # mirroring the PSF keeps it there.
    psf = xp.pad(psf.astype(np.float64), [(0, 1 - k % 2) for k in psf.shape])
    return xp, image.astype(np.float64), psf


def _initial(initial, image):
    namespace(initial, image)
    initial = real_array(initial, "initial")
    if initial.shape != image.shape:
        raise InputError("initial", f"the image's shape {image.shape}", f"shape {initial.shape}")
    if float(initial.min()) < 0 or not float(initial.max()) > 0:
        raise InputError("initial", "no value below zero, and one above", "other values")
    return initial.astype(np.float64)


def _result(x, clip):
    return (x.clip(0, 1) if clip else x).astype(np.float32)
