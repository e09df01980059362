"""Richardson–Lucy, plain and with total variation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

from ..engine.arrays import any_array
from ..engine.checks import number, positive_int
from ..engine.interrupts import Interrupts
from ..engine.types import Array, ArrayLike, Float32Array, Mode
from . import shared

UNSEEN = 1e-6  # of the data's weight around a pixel: what has less is left as it is


@any_array
def richardson_lucy(
    image: ArrayLike,
    psf: ArrayLike,
    num_iter: int | Literal["auto"] = 10,
    *,
    mode: Mode = "mirror",
    clip: bool = False,
    initial: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Float32Array:
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
    num_iter : int or "auto"
        Number of iterations, at least 1; "auto": what `calibrate` chooses by held-out pixels.
    mode : {"mirror", "nearest", "wrap", "constant"}
        What lies outside the image, as in `scipy.ndimage`; "constant" is zero.
    clip : bool
        Clip the result to [0, 1], as the published figures have it.
    initial : array of the shape of `image`, optional
        Where to start; no value below zero. By default the mean of the image everywhere.
        (Which constant that is makes no difference.)
    weights : array of the shape of `image`, optional
        How much each pixel of the image counts, in [0, 1]: 0 for one that is not to be looked at,
        as a dead or a held-out one. The update is ``x · (h̃ * (w y / (h * x))) / (h̃ * w)``.

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
    if shared.auto(num_iter):
        num_iter = int(shared.calibrated(richardson_lucy, image, psf, "num_iter", mode=mode,
                                         initial=initial, weights=weights))  # fmt: skip
    return _richardson_lucy(image, psf, num_iter, 0.0, mode, clip, initial, weights)


@any_array
def richardson_lucy_tv(
    image: ArrayLike,
    psf: ArrayLike,
    num_iter: int | Literal["auto"] = 10,
    *,
    weight: float | Literal["auto"] = 0.002,
    mode: Mode = "mirror",
    clip: bool = False,
    initial: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Float32Array:
    """Richardson–Lucy deconvolution with total variation (TV) as prior [1]_.

    As `richardson_lucy`, but each estimate is also divided by ``1 - weight · div(∇x / |∇x|)``
    [1]_, which flattens noise and keeps edges.

    Parameters
    ----------
    image, psf, num_iter, mode, clip, initial, weights
        As in `richardson_lucy`.
    weight : float in [0, 0.1], or "auto"
        Of the TV. Does not depend on the image's scale. The paper takes 0.002. "auto": what
        `calibrate` chooses, for the given iterations, or for the best number for each weight.

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
    options = {"mode": mode, "initial": initial, "weights": weights}
    if shared.auto(weight):
        weight = shared.calibrated(richardson_lucy_tv, image, psf, "weight", num_iter=num_iter,
                                   **options)  # fmt: skip
    weight = number(weight, "weight", low=0, high=0.1)
    if shared.auto(num_iter):
        num_iter = int(shared.calibrated(richardson_lucy_tv, image, psf, "num_iter", weight=weight,
                                         **options))  # fmt: skip
    return _richardson_lucy(image, psf, num_iter, weight, mode, clip, initial, weights)


def iterates(
    image: ArrayLike,
    psf: ArrayLike,
    *,
    weight: float = 0.0,
    mode: Mode = "mirror",
    initial: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    clip: bool = False,
) -> Iterator[tuple[Array, Array]]:
    """(h * x before it, x after it) of each iteration of `richardson_lucy_tv`, endlessly."""
    xp, y, psf = shared.inputs(image, psf, clip, nonnegative=True)
    w = shared.weights(weights, y)
    x = xp.full(y.shape, y.mean()) if initial is None else shared.initial(initial, y)
    # The mirrored PSF is not the adjoint of blur, which would gather the mirrored border onto the
    # pixels it came from: the published figures continue the ratio as they continue the image.
    blur, back = shared.Blur(psf, mode), shared.Blur(psf[(slice(None, None, -1),) * psf.ndim], mode)
    reach = back(xp.ones_like(y) if w is None else w)  # "constant": the border sees less of it
    floor = 1e-12 * float(y.max())  # the prediction can be 0 only where the data are
    while True:
        blurred = blur(x)
        prior = (
            1 - weight * shared.divergence(shared.directions(shared.gradient(x), floor))
            if weight
            else 1
        )
        ratio = y / xp.maximum(blurred, floor)
        if w is None:
            x = x * back(ratio) / (reach * prior)
        else:
            change = back(w * ratio) / (xp.maximum(reach, UNSEEN) * prior)
            x = xp.where(reach > UNSEEN, x * change, x)
        yield blurred, x


def _richardson_lucy(image, psf, num_iter, weight, mode, clip, initial, weights):
    num_iter = positive_int(num_iter, "num_iter")
    steps = iterates(image, psf, weight=weight, mode=mode, initial=initial, weights=weights,
                     clip=clip)  # fmt: skip
    with Interrupts() as interrupts:
        for _, found in itertools.islice(steps, num_iter):
            interrupts.check()
            x = found
    return shared.result(x, clip)
