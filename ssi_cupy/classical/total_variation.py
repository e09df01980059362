"""Least squares with total variation: ADMM, Chambolle–Pock, conjugate gradients."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..engine.arrays import any_array
from ..engine.checks import HIGHEST, number, positive, positive_int
from ..engine.interrupts import Interrupts
from ..engine.types import ArrayLike, Float32Array, Mode
from . import shared


@any_array
def tv_admm(
    image: ArrayLike,
    psf: ArrayLike,
    num_iter: int = 60,
    *,
    weight: float | Literal["auto"] = 0.02,
    rho: float = 0.2,
    pad: int = 32,
    clip: bool = False,
    weights: ArrayLike | None = None,
) -> Float32Array:
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
    weight : float or "auto"
        Of the TV, in units of the image (the default suits noise of 0.1 in an image in [0, 1]).
        "auto": what `calibrate` chooses by held-out pixels.
    rho : float
        Penalty, which changes the speed, not the goal.
    pad : int
        Pixels of reflection around the image. Convolution is periodic beyond.
    clip : bool
        Clip the result to [0, 1].
    weights : array of the shape of `image`, optional
        How much each pixel of the image counts, in [0, 1]: 0 for one that is not to be looked at,
        as a dead or a held-out one. What is missing of it is what the estimate says, as of then:
        ``w y + (1 - w) h * x`` takes the place of y, which minimises the weighted squares.

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
    if shared.auto(weight):
        weight = shared.calibrated(tv_admm, image, psf, "weight", num_iter=num_iter, rho=rho,
                                   pad=pad, weights=weights)  # fmt: skip
    xp, y, psf = shared.inputs(image, psf, clip)
    w = shared.weights(weights, y)
    num_iter, weight = positive_int(num_iter, "num_iter"), number(weight, "weight", low=0)
    rho = positive(rho, "rho")
    fft = shared.Periodic(xp, y, psf, pad)
    seen = known = fft.extend(y)
    if w is not None:
        seen, w = fft.extend(shared.filled(y, w)), fft.extend(w)
    back_projected = fft.otf.conj() * fft.forward(seen)
    system = xp.maximum(abs(fft.otf) ** 2 + rho * fft.laplacian, 1e-30)
    u = target = [xp.zeros(fft.shape)] * y.ndim  # target = d - u
    with Interrupts() as interrupts:
        for _ in range(num_iter):
            interrupts.check()
            pulled = fft.forward(shared.divergence(target, periodic=True))
            solved = (back_projected - rho * pulled) / system
            x = fft.inverse(solved)
            if w is not None:
                seen = w * known + (1 - w) * fft.inverse(fft.otf * solved)
                back_projected = fft.otf.conj() * fft.forward(seen)
            moved = [g + m for g, m in zip(shared.gradient(x, periodic=True), u, strict=True)]
            length = xp.sqrt(sum(m * m for m in moved))
            kept = xp.maximum(1 - weight / rho / xp.maximum(length, 1e-300), 0)
            u = [m - kept * m for m in moved]
            target = [2 * kept * m - m for m in moved]
    return shared.result(fft.crop(x), clip)


@any_array
def tv_chambolle_pock(
    image: ArrayLike,
    psf: ArrayLike,
    num_iter: int = 200,
    *,
    weight: float | Literal["auto"] = 2.5e-3,
    mode: Mode = "mirror",
    clip: bool = False,
    weights: ArrayLike | None = None,
) -> Float32Array:
    """Total variation (TV) deconvolution by the primal-dual method of Chambolle and Pock [1]_.

    Minimises ``½ ‖h * x - y‖² + weight Σ |∇x|``, starting from 0.

    Parameters
    ----------
    image : array, (Y, X) or (Z, Y, X), any real dtype
    psf : array of the same rank
        Divided by its sum.
    num_iter : int
        Number of iterations, at least 1.
    weight : float or "auto"
        Of the TV, in units of the image (the published value is for images in [0, 1]). "auto":
        what `calibrate` chooses by held-out pixels.
    mode : {"mirror", "nearest", "wrap", "constant"}
        What lies outside the image, as in `scipy.ndimage`; "constant" is zero.
    clip : bool
        Clip the result to [0, 1].
    weights : array of the shape of `image`, optional
        How much the square of each pixel's residual counts, in [0, 1]: 0 for a pixel that is not
        to be looked at, as a dead or a held-out one.

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
    if shared.auto(weight):
        weight = shared.calibrated(tv_chambolle_pock, image, psf, "weight", num_iter=num_iter,
                                   mode=mode, weights=weights)  # fmt: skip
    xp, y, psf = shared.inputs(image, psf, clip)
    w = shared.weights(weights, y)
    w = 1.0 if w is None else w
    num_iter, weight = positive_int(num_iter, "num_iter"), number(weight, "weight", low=0)
    blur = shared.Blur(psf, mode)
    step = 1 / np.sqrt(shared.largest_gain(xp, y, psf, blur))
    x = ahead = xp.zeros_like(y)
    p, q = xp.zeros_like(y), [xp.zeros_like(y) for _ in y.shape]
    with Interrupts() as interrupts:
        for _ in range(num_iter):
            interrupts.check()
            p = w * (p + step * (blur(ahead) - y)) / (w + step)
            q = [a + step * g for a, g in zip(q, shared.gradient(ahead), strict=True)]
            if weight:
                scale = xp.maximum(xp.sqrt(sum(a * a for a in q)) / weight, 1)
                q = [a / scale for a in q]
            else:
                q = [0 * a for a in q]
            before, x = x, x - step * (blur.adjoint(p) - shared.divergence(q))
            ahead = 2 * x - before
    return shared.result(x, clip)


@any_array
def tv_conjugate_gradient(
    image: ArrayLike,
    psf: ArrayLike,
    num_iter: int = 100,
    *,
    weight: float | Literal["auto"] = 4.5e-3,
    smoothing: float = 1e-10,
    mode: Mode = "mirror",
    clip: bool = False,
    weights: ArrayLike | None = None,
) -> Float32Array:
    """Total variation (TV) deconvolution by the nonlinear conjugate gradients of Polak–Ribière.

    Goes downhill on ``½ ‖h * x - y‖² + weight Σ √(|∇x|² + smoothing²)``, starting from 0. Each
    step is as long as would be best for the first term alone. With little smoothing the slope of
    the second one jumps from step to step, the steps shrink to nothing, and the minimum is not
    reached. It is here as a rival of the published benchmark, whose parameters are the defaults
    (with ``mode="constant"``); to restore an image take `tv_admm` or `tv_chambolle_pock`.

    Parameters
    ----------
    image, psf, num_iter, weight, mode, clip, weights
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
    if shared.auto(weight):
        weight = shared.calibrated(tv_conjugate_gradient, image, psf, "weight", num_iter=num_iter,
                                   smoothing=smoothing, mode=mode, weights=weights)  # fmt: skip
    xp, y, psf = shared.inputs(image, psf, clip)
    w = shared.weights(weights, y)
    w = 1.0 if w is None else w
    num_iter, weight = positive_int(num_iter, "num_iter"), number(weight, "weight", low=0)
    smoothing = number(smoothing, "smoothing", low=1e-100, high=HIGHEST)
    blur = shared.Blur(psf, mode)
    x = xp.zeros_like(y)
    data_slope = -blur.adjoint(w * y)
    slope = data_slope  # the TV of 0 has none
    direction = -slope
    with Interrupts() as interrupts:
        for _ in range(num_iter):
            interrupts.check()
            descent = -float((direction * slope).sum())
            curved = blur.adjoint(w * blur(direction))
            curvature = float((direction * curved).sum())
            if curvature <= 0:  # arrived
                break
            length = descent / curvature  # backwards, where the direction leads uphill
            x = x + length * direction
            data_slope = data_slope + length * curved
            before = slope
            slope = data_slope - weight * shared.curvature(x, smoothing)
            bend = float((slope * (slope - before)).sum()) / float((before * before).sum())
            direction = -slope + max(bend, 0.0) * direction
    return shared.result(x, clip)
