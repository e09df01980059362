"""How strong a classical method should be, by data that it was not shown.

A restoration that is too sharp explains noise, and noise does not repeat: on data that took no part
in it, its re-blurred image h * x is off by more than that of the best one. So ::

    setting = argmin over settings of the mean over held-out data of (y − h * x_setting)²

which is, but for the variance of the noise, the mean squared error of h * x (Batson and Royer 2019,
Proposition 1). What is held out are pixels, whose weight in the data term is 0; or, of photon
counts, a random share of the photons of every pixel: what is left and what was taken are
independent Poisson variables of the same mean but for a factor ("thinning").

Of h * x little is noise that h takes away, of x much more, so that the best number of iterations
for x is less than that for h * x. Of all numbers whose error cannot be told from the least (by two
standard errors of the difference, pixel by pixel; of counts by one) the smallest is taken, in the
manner of the "one standard error rule" (Breiman et al. 1984). As few held-out data tell little
apart, iterations are chosen by `FOLDS` sets of them. Weights of total variation need no such thing.

Where light is in a few points of an otherwise dark image, few data tell anything, and Richardson–
Lucy is stopped too early, for half a dB to one and a half: give ``num_iter`` there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..engine.backend import host, moved
from ..engine.checks import InputError, choice, number, positive_int
from ..engine.types import Array, ArrayLike, Float64Array, Rng
from ..masking import validation_pixels
from ..noise import count_step
from ..random import seed_from
from . import shared
from .richardson_lucy import iterates, richardson_lucy, richardson_lucy_tv
from .total_variation import tv_admm, tv_chambolle_pock, tv_conjugate_gradient
from .wiener import wiener

OUTLIER = 5.0  # standard deviations of the noise: a held-out residual counts as no more than that
FOLDS = 3  # times that data are held out to choose a number of iterations
WITHIN = {"pixels": 2.0, "counts": 1.0}  # standard errors: what differs by less is not told apart
ENOUGH = 6000  # held-out pixels; of larger images a smaller fraction is held out
PATIENCE = 0.5  # of the best number of iterations: when so many more were no better, it is over,
LEAST_PATIENCE = 5  # but not before so many
MOST = 500  # iterations that are tried
FACTOR = 2.0  # from one weight to the next; around the best one its root is tried too
SPAN = 2.0**12  # weights that far above and below the first are the last ones
SETTINGS = {  # of each method: what may be chosen; the first one by default, and where it starts
    richardson_lucy: ("num_iter",), richardson_lucy_tv: ("num_iter", "weight"),
    tv_admm: ("weight",), tv_chambolle_pock: ("weight",), tv_conjugate_gradient: ("weight",),
    wiener: ("balance",),
}  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found.

    Attributes
    ----------
    name : str
        Of the setting: "num_iter", "weight" or "balance".
    setting : int or float
        The chosen one.
    error, standard_error : float
        Its mean held-out error, in the square of the image's units, the noise's variance included;
        and by how much it may be off by chance.
    curve : (n, 3) array of float64
        All settings that were tried, ascending, with their errors and standard errors.
    hold_out : str
        What was held out, "pixels" or "counts".
    """

    name: str
    setting: float
    error: float
    standard_error: float
    curve: Float64Array
    hold_out: str


def calibrate(
    method: Callable,
    image: ArrayLike,
    psf: ArrayLike,
    *,
    setting: str | None = None,
    hold_out: Literal["auto", "pixels", "counts"] = "auto",
    fraction: float | None = None,
    held_out: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    rng: Rng = 0,
    most: int = MOST,
    **options: Any,
) -> Calibration:
    """Choose a setting of a classical method by data that the method was not shown [1]_.

    Parameters
    ----------
    method : function
        One of `ssi_cupy.classical`: `richardson_lucy`, `richardson_lucy_tv`, `tv_admm`,
        `tv_chambolle_pock`, `tv_conjugate_gradient` or `wiener`.
    image : array, (Y, X) or (Z, Y, X), any real dtype
    psf : array of the same rank
    setting : str, optional
        Which one to choose: "num_iter" of Richardson–Lucy by default, else "weight" or "balance".
    hold_out : {"auto", "pixels", "counts"}
        Pixels; or of each pixel's photons a random share, which needs whole numbers that count
        them. "auto" holds out counts where the image's noise is that of counts.
    fraction : float, optional
        How much is held out, in (0, 1); by default a tenth, of large images less.
    held_out : array of bool or uint8 of the image's shape, optional
        Which pixels, in place of random ones.
    weights : array of the image's shape, optional
        How much each pixel counts, see the methods; those of weight 0 are not held out either.
    rng : int, numpy.random.Generator or None
        The seed of what is held out.
    most : int
        Iterations of Richardson–Lucy that are tried at most.
    **options
        Other arguments of the method.

    Returns
    -------
    Calibration

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.

    References
    ----------
    .. [1] J. Batson, L. Royer, "Noise2Self: blind denoising by self-supervision", ICML 2019,
       section 3.1: calibration of classical denoisers.
    """
    if method not in SETTINGS:
        expected = "one of " + ", ".join(m.__name__ for m in SETTINGS)
        raise InputError("method", expected, getattr(method, "__name__", repr(method)))
    name = choice(setting or SETTINGS[method][0], "setting", SETTINGS[method])
    _check_options(method, name, options)
    positive_int(most, "most")
    _, y, kernel = shared.inputs(image, psf, False)
    fraction = min(0.1, ENOUGH / y.size) if fraction is None else fraction
    if not 0 < number(fraction, "fraction", low=0, high=1) < 1:
        raise InputError("fraction", "a number above 0 and below 1", f"{fraction:g}")
    choice(hold_out, "hold_out", ("auto", "pixels", "counts"))
    if hold_out == "auto":
        counts = held_out is None and count_step(host(y)) and float(y.min()) >= 0
        hold_out = "counts" if counts else "pixels"
    split = _thinned if hold_out == "counts" else _without_pixels
    walk, folds, seed = _weights, 1, seed_from(rng)
    if name == "num_iter":
        walk, folds = _iterations, FOLDS if held_out is None else 1
    data = [split(y, fraction, held_out, weights, seed + i) for i in range(folds)]
    tried = dict(sorted(walk(method, name, data, kernel, options, most)))
    errors = np.array(list(tried.values()))
    means = errors.mean(axis=1)
    spread = errors.std(axis=1) / np.sqrt(errors.shape[1])
    at = int(np.argmin(means))
    if name == "num_iter":
        apart = (errors - errors[at]).std(axis=1) / np.sqrt(errors.shape[1])
        at = int(np.argmax(means - means[at] <= WITHIN[hold_out] * apart))
    curve = np.column_stack([list(tried), means, spread])
    best = list(tried)[at]
    return Calibration(name, best, float(means[at]), float(spread[at]), curve, hold_out)


def _check_options(method, name, options):
    known = set(inspect.signature(method).parameters) - {"image", "psf", "clip", name}
    for option in options:
        if option not in known:
            raise InputError(option, "one of the method's: " + ", ".join(sorted(known)), "another")


# ---- what is held out -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Data:
    """What the method is shown, and the errors of its prediction h * x on what it is not."""

    shown: Array
    weights: Array | None
    errors: Callable[[Array], Float64Array]


def _without_pixels(y, fraction, held_out, weights, seed):
    w = shared.weights(weights, y)
    if held_out is None:
        drawn = validation_pixels((1,) * (5 - y.ndim) + y.shape, fraction, seed, like=y)
        held_out = drawn.reshape(y.shape)
    held_out = shared.weights(held_out, y, "held_out") > 0
    if w is not None:
        held_out &= w > 0
    if not 0 < int(held_out.sum()) < y.size:
        raise InputError("held_out", "some pixels, and not all", f"{int(held_out.sum())}")
    w = (1.0 if w is None else w) * (1.0 - held_out)
    target, guess = host(y[held_out]), host(shared.filled(y, w)[held_out])
    limit = OUTLIER * 1.4826 * float(np.median(np.abs(target - guess)))

    def errors(blurred):
        square = (target - host(blurred[held_out])) ** 2
        return np.minimum(square, limit**2) if limit else square

    return _Data(y, w, errors)


def _thinned(y, fraction, held_out, weights, seed):
    """Counts split at random, each photon by itself; what is shown is scaled to the image's."""
    if held_out is not None:
        raise InputError("held_out", "none, where hold_out is 'counts'", "an array")
    counts, step = host(y), count_step(host(y)) or 1.0
    counts = counts / step
    if counts.min() < 0 or np.abs(counts - np.rint(counts)).max() > 0.01:
        raise InputError("image", "photon counts, whole numbers from 0, for hold_out='counts'",
                         f"values from {y.min():g} to {y.max():g}")  # fmt: skip
    taken = np.random.default_rng(seed).binomial(np.rint(counts).astype(np.int64), fraction)
    shown = (counts - taken) / (1 - fraction) * step
    w = shared.weights(weights, y)
    counted = 1.0 if w is None else host(w)
    groups = np.random.default_rng(seed + 1).integers(0, min(ENOUGH, taken.size), taken.size)
    sizes = np.maximum(np.bincount(groups), 1)
    target = taken / fraction * step

    def errors(blurred):
        """Squares, for it is these that bright points are missed by, and not the deviance."""
        square = counted * (target - host(blurred)) ** 2
        return np.bincount(groups, square.ravel()) / sizes

    return _Data(moved(shown, y), w, errors)


# ---- which settings are tried ---------------------------------------------------------------


def _iterations(method, name, data, psf, options, most) -> Iterator:
    """Every number of iterations, until the best is well behind."""
    known = {key: options[key] for key in ("weight", "mode", "initial") if key in options}
    best, best_at = np.inf, 1
    walks = [iterates(one.shown, psf, weights=one.weights, **known) for one in data]
    for done, found in enumerate(zip(*walks, strict=True)):
        if done:  # h * x is of the iteration before, the first of the start
            folds = zip(data, found, strict=True)
            errors = np.concatenate([one.errors(blurred) for one, (blurred, _) in folds])
            yield done, errors
            if errors.mean() < best:
                best, best_at = errors.mean(), done
        if done == most or done > best_at + max(LEAST_PATIENCE, PATIENCE * best_at):
            return


def _weights(method, name, data, psf, options, most) -> Iterator:
    """Downhill by factors, then between the best and its neighbours."""
    blur, tried = shared.Blur(psf, options.get("mode", "mirror")), {}
    (one,) = data

    def error(value):
        if value not in tried:
            settings = options | {name: value}
            if options.get("num_iter") == "auto":
                walk = _iterations(method, "num_iter", data, psf, settings, most)
                tried[value] = min((errors for _, errors in walk), key=np.mean)
            else:
                x = method(one.shown, psf, weights=one.weights, **settings)
                tried[value] = one.errors(blur(x.astype(np.float64)))
        return tried[value].mean()

    first = at = _first(method, one)
    highest = 0.1 if method is richardson_lucy_tv else first * SPAN
    step = FACTOR if error(first * FACTOR) <= error(first) else 1 / FACTOR
    while first / SPAN <= at * step <= highest and error(at * step) < error(at):
        at *= step
    for near in (at / FACTOR**0.5, at * FACTOR**0.5):
        error(near)
    yield from tried.items()


def _first(method, data):
    """A weight to start from: of TV about a fifth of the noise, as differences tell it."""
    if method is richardson_lucy_tv:
        return 0.002
    y = host(data.shown)
    noise = 1.4826 * float(np.median(np.abs(np.diff(y, axis=-1)))) / np.sqrt(2)
    spread = float(y.std())
    noise = noise or 0.01 * spread
    return (noise / spread) ** 2 if method is wiener else 0.2 * noise
