"""What the network has missed: signal that the residual still holds, put back by a Wiener filter.

With x = f(y), the residual r = y − g(x) is noise of power σ² at frequencies where nothing was
missed, and has more power P(k) where something was. So ::

    x ← x + F⁻¹[ s(P / σ²) (1 − σ² / P) · conj(H) / max(|H|², LEAST²) · F(w r) ]

is the Wiener filter of the missing signal, whose power is P − σ². H is the transfer function, w a
window that fades at the border. P is |F(w r)|² averaged over some n neighbouring frequencies; σ² is
read off those that the PSF does not pass, where the residual is noise and nothing else. Of noise
alone such an average is 1 ± 1/√n, and to divide its chance peaks by a small H would be worse than
to leave them: so s rises from 0 at `CHANCE` of these deviations to 1 at twice as many. Where noise
is high nothing sticks out, and nothing is changed. There is no setting. Where the sensor
clipped, r is taken from what it reads on average of g(x) (`SensorResponse`), as in the training.
"""

from __future__ import annotations

import numpy as np

from ..engine import fourier
from ..engine.backend import contiguous, empty, host, moved
from ..engine.types import Array
from ..noise import clipping, estimate_noise
from ..physics import PSFConvolution, SensorResponse, apply
from ..training.forward_model import wraps
from . import tiling

CHANCE = 4.0  # standard deviations of P over σ² that may be chance
LEAST = 0.05  # of |H|: what the PSF passes less of is not amplified more than 1 / LEAST times
BLOCKED = 0.05  # |H| below which the residual is taken for noise,
FEWEST = 0.02  # and the fewest frequencies to measure noise at, those of least |H|
BYTES = 160  # of memory for each pixel of a part
AT_ONCE = 2**21  # pixels: of larger images,
PART = {1: 2**18, 2: 512, 3: 96}  # pixels a side that one part has, by the number of axes
SMOOTH = 1 / 32  # of all frequencies along an axis: the width (σ) of the average,
LEAST_SMOOTH = {1: 8.0, 2: 4.0, 3: 1.5}  # and at least so many, by the number of axes


def can_refine(g: object) -> bool:
    """Whether `missed_signal` inverts a forward model."""
    return isinstance(g, PSFConvolution) and g.psf.size > 1


def refine(
    image: Array,
    restored: Array,
    reblurred: Array,
    g: PSFConvolution,
    masked: Array | None = None,
) -> tuple[Array, Array]:
    """f(y) and g(f(y)) with what was missed put back, as (restored, reblurred), float32.

    Of an image of more than `AT_ONCE` pixels it is found part by part, each with the spectrum and
    the noise of its own, and blended as the tiles of a prediction are.

    Parameters
    ----------
    image, restored, reblurred : (Y, X) or (Z, Y, X) array
        y, f(y) and g(f(y)), on one device.
    g : PSFConvolution
    masked : array of bool, on the CPU, optional
        Where the image is none: there is no residual.
    """
    y, sharp, blurred = (a.reshape((1,) * (5 - a.ndim) + a.shape) for a in (image, restored,
                                                                            reblurred))  # fmt: skip
    masked = None if masked is None else masked.reshape(y.shape)
    shape, sizes = y.shape[2:], g.psf.shape
    parts = _parts(shape, [2 * _fade(n, sizes, k) for n, k in zip(shape, sizes, strict=True)])
    missed = empty(y.shape, np.float64 if len(parts) == 1 else np.float32, like=sharp)
    for part in parts:
        box = (..., *part.box)
        hidden = None if masked is None else moved(masked[box], y)
        found = missed_signal(*(contiguous(a[box].astype(np.float64)) for a in (y, blurred)), g,
                              hidden)  # fmt: skip
        part.add(missed, found)
    found = empty(y.shape, np.float32, like=sharp), empty(y.shape, np.float32, like=sharp)
    again = _parts(shape, [2 * (k // 2) for k in sizes])
    for part in tiling.tiles(shape, shape) if wraps(g) else again:
        box = (..., *part.box)
        more = contiguous(missed[box].astype(np.float64))
        part.add(found[0], (sharp[box] + more).astype(np.float32))
        part.add(found[1], (blurred[box] + apply(g, more)).astype(np.float32))
    return tuple(a.reshape(image.shape) for a in found)


def _parts(shape, overlap):
    """A single part, or several that overlap by so many pixels, half of which do not count."""
    side = PART[max(sum(n > 1 for n in shape), 1)]
    if np.prod(shape) <= AT_ONCE:
        return tiling.tiles(shape, shape)
    side = [max(side, 4 * o) for o in overlap]
    return tiling.tiles(shape, side, [o + 2 for o in overlap], blind=[o // 2 for o in overlap])


def missed_signal(
    y: Array, blurred: Array, g: PSFConvolution, masked: Array | None = None
) -> Array:
    """What to add to f(y).

    Parameters
    ----------
    y, blurred : (N, C, Z, Y, X) array
        The image, and g(f(y)).
    g : PSFConvolution
    masked : array of bool like `y`, optional

    Returns
    -------
    array like `y`, in its units
    """
    shape = y.shape[2:]
    low, high = clipping(y)
    if np.isfinite(low) or np.isfinite(high):  # what the sensor reads on average of g(x)
        noise = estimate_noise(host(y), g.psf, low=low, high=high)
        blurred = SensorResponse(noise, low=low, high=high).forward(blurred)
    window = moved(_window(shape, g.psf.shape).astype(y.dtype), y)
    residual = (y - blurred) * window
    if masked is not None:
        residual *= 1 - masked.astype(y.dtype)
    transfer = _transfer(g.psf, shape)
    passed = np.abs(transfer)
    blocked = np.argsort(passed, axis=None, kind="stable")
    blocked = blocked[: max(int((passed < BLOCKED).sum()), int(FEWEST * passed.size), 1)]

    spectrum = fourier.rfftn(contiguous(residual))
    power = np.absolute(spectrum) ** 2
    flat = host(power).reshape(*power.shape[:2], -1)
    noise = np.median(flat[..., blocked], axis=-1) / np.log(2)  # of an exponential distribution
    noise = moved(noise[..., None, None, None].astype(power.dtype), y)
    # An average over frequencies is a window on the autocorrelation.
    lags, count = _lags(shape)
    lags = moved(lags.astype(power.dtype), y)
    correlation = fourier.irfftn(power + 0j, shape)
    average = np.absolute(fourier.rfftn(contiguous(correlation * lags)))
    excess = average / np.maximum(noise, np.finfo(power.dtype).tiny) - 1
    chance = CHANCE / np.sqrt(count)
    share = np.clip(excess / chance - 1, 0, 1) * (excess / np.maximum(1 + excess, chance))
    inverse = np.conj(transfer) / np.maximum(passed**2, LEAST**2) * (passed > LEAST / 3)
    found = spectrum * share * moved(inverse.astype(spectrum.dtype), y)
    return fourier.irfftn(found, shape).astype(y.dtype)


def _transfer(psf, shape):
    """The transfer function of a PSF on a periodic grid; one wider than the grid is wound up."""
    from scipy import fft

    grid = np.zeros(shape)
    places = [(np.arange(k) - k // 2) % n for k, n in zip(psf.shape, shape, strict=True)]
    np.add.at(grid, np.ix_(*places), psf)
    return fft.rfftn(grid)


def _window(shape, sizes):
    """One inside, fading over the reach of the PSF and two pixels more; Z is treated likewise."""
    window = np.ones(shape)
    for axis, (n, k) in enumerate(zip(shape, sizes, strict=True)):
        width = _fade(n, sizes, k)
        fade = np.sin(np.pi / 4 * (2 * np.arange(width) + 1) / max(width, 1)) ** 2
        profile = np.ones(n)
        profile[:width], profile[n - width :] = fade, fade[::-1]
        window *= np.expand_dims(profile, [a for a in range(3) if a != axis])
    return window


def _fade(n, sizes, k):
    """How many pixels fade at each end of an axis with n, where the PSF of these sizes has k."""
    return min(max(sizes) // 2 + 2, n // 4) if n > 1 and k > 1 else 0


def _lags(shape):
    """The transform of a Gaussian over frequencies, `SMOOTH` of each axis wide, and how many
    frequencies an average under that Gaussian is worth, Π 2 √π width."""
    least = LEAST_SMOOTH[max(sum(n > 1 for n in shape), 1)]
    window, count = np.ones(shape), 1.0
    for axis, n in enumerate(shape):
        if n == 1:
            continue
        lag = np.minimum(np.arange(n), n - np.arange(n))
        width = min(max(SMOOTH * n, least), n / 4)
        profile = np.exp(-2 * (np.pi * width * lag / n) ** 2)
        window = window * np.expand_dims(profile, [a for a in range(3) if a != axis])
        count *= 2 * np.sqrt(np.pi) * width
    return window, count
