"""How far a restoration is to be trusted: what can be told without the truth.

Some pixels the training never saw. What the network, not shown them, says there is compared with
what they are (Batson and Royer 2019): over the noise's variance that is χ², 1 for a prediction that
is off by nothing but noise. Richardson–Lucy and total variation, calibrated by the same pixels, say
what can be had without a network. Other faults show in the PSF itself, in the image at frequencies
that the PSF does not pass, and in the residual.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ..classical import calibrate, richardson_lucy, tv_admm, width_profile
from ..engine.backend import host
from ..engine.types import Array, Mode, Shape
from ..noise import noise_model
from ..physics import LearnedPSF, PSFConvolution
from ..psf.resampling import widened
from .held_out import HeldOut, Reading, blind_prediction, held_out_pixels
from .residual import blocked_spectrum, describe_residual

Level = Literal["ok", "doubtful", "failed"]
LEVELS: tuple[Level, ...] = ("ok", "doubtful", "failed")

FEWEST = 30  # held-out pixels, without which they prove nothing
RIVALS_FROM = 200  # steps: shorter trainings are not worth the time of a comparison
RIVAL_PIXELS = 160**2  # of the part on which rivals are calibrated
RIVAL_ITERATIONS, RIVAL_PAD = 30, 16
CERTAIN = 3.0  # standard errors
POOR, BAD = 1.35, 2.5  # χ², beyond chance
WORSE = 0.05  # of χ², that the network may be behind the better rival, beyond chance
FLAT = 0.15  # of the spread that the data have beyond noise: a result with less is constant
BIAS, FLUX = 0.25, 0.1  # mean residual over noise; light lost, of the contrast
PEDESTAL, BOX = 0.05, 0.9  # of a PSF's sum in a background; a box is all background
OFF_CENTRE = 1.0  # pixels
WIDTHS = tuple(2.0 ** (np.arange(-2, 3) / 2))  # times the PSF's: what is compared with it
OTHER = 1.2  # times as wide, or as narrow, is the best of another width: it is doubtful then,
WIDE, NARROW = 2.5, 3.7  # if the PSF is so many standard errors worse; samples may be soft
SLOPE = 0.25  # by which thirds of the spectrum may differ, beyond chance
BEYOND = 1.6  # power over the noise's, at low frequencies that the PSF passes little of
MISFIT = 4.0  # the same where it passes most
CORRELATION = 0.1  # of neighbours in the residual, beyond chance
STRIPES = 3.5  # power along an axis, over the noise's
OUTLIER = 1e4  # times the contrast, beyond which a pixel is no part of the picture
SATURATED = 0.05  # of all pixels, within areas that are at the upper end throughout
CHECKERS = 0.25  # of the result's power at the highest frequencies of both axes


class Reason(NamedTuple):
    """Why a restoration is not trusted: a short name, how bad it is, and words with numbers."""

    name: str
    level: Level
    text: str


@dataclass(frozen=True)
class Verdict:
    """Whether a restoration is to be trusted.

    Attributes
    ----------
    reasons : tuple of Reason
        Why not; the worst first.
    numbers : dict of str to float
        What it is based on: ``chi2`` of held-out pixels and its standard error ``chi2_error``;
        ``richardson_lucy``, ``richardson_lucy_iterations``, ``tv`` and ``tv_weight`` of the rivals
        on the same pixels, with ``network`` there; ``noise`` in the image's units; ``mean``,
        ``correlation`` and ``worst_part`` of the residual; and others, each where it was measured.
    note : str
        What was done about it.
    """

    reasons: tuple[Reason, ...] = ()
    numbers: dict[str, float] | None = None
    note: str = ""

    @property
    def level(self) -> Level:
        """ "ok", "doubtful" or "failed": that of the worst reason."""
        return LEVELS[max((LEVELS.index(reason.level) for reason in self.reasons), default=0)]

    @property
    def summary(self) -> str:
        """The held-out pixels in a sentence."""
        n = self.numbers or {}
        if "chi2" not in n:
            return "no pixels were held out"
        told = f"held-out pixels are missed by {n['chi2']:.2f} ± {n['chi2_error']:.2f}"
        told += " times the noise's variance"
        if "tv" in n:
            lucy = f"Richardson–Lucy ({n['richardson_lucy_iterations']:.0f})"
            told += f" (where compared: network {n['network']:.2f}, {lucy} "
            told += f"{n['richardson_lucy']:.2f}, total variation {n['tv']:.2f})"
        if "width" in n:
            low, high = n["width_low"], n["width_high"]
            told += f"; PSFs {max(low, WIDTHS[0]):.1f} to {min(high, WIDTHS[-1]):.1f} times as wide"
            told += " explain the image as well"
        return told

    def __str__(self) -> str:
        words = "; ".join(reason.text for reason in self.reasons)
        parts = [words, self.summary, self.note]
        return f"{self.level}: " + "; ".join(part for part in parts if part)


def judge(
    model: Any, image: Array, restored: Array, denoised: Array, *,
    mask: Array | None = None, own: tuple[Array, Array] | None = None,
    start: tuple[int, ...] | None = None, **tiles: Any,
) -> Verdict:  # fmt: skip
    """The `Verdict` on f(y) and g(f(y)) of a trained model.

    Parameters
    ----------
    model : SelfSupervisedInverse
    image, restored, denoised : (Y, X) or (Z, Y, X) array
        The image filled where it is masked.
    mask : array of bool, optional
        Which pixels say nothing.
    own : two such arrays, optional
        What the network itself said, where the two were refined.
    start : tuple of int, optional
        Where in a large image these begin, if they are a part of it.
    **tiles
        ``tile_size`` and ``tile_overlap`` of the inference.

    Returns
    -------
    Verdict
    """
    y, x, gx = (host(a).astype(np.float64) for a in (image, restored, denoised))
    g = model.physics
    psf = None
    if isinstance(g, PSFConvolution):
        psf = g.psf.reshape(g.psf.shape[-y.ndim :])
    known = model.noise or noise_model(y, getattr(g, "psf", None))
    noise, low, high = known.level, known.low, known.high
    numbers: dict[str, float] = {"noise": noise}
    steps = len(model.history)
    reading = Reading(noise, low, high)
    reasons = [*_about_psf(psf), *_about_data(y, psf, high, numbers)]
    own_result = (x, gx) if own is None else [host(a).astype(np.float64) for a in own]
    reasons += _about_result(y, *own_result, noise, numbers)
    if noise > 0:
        residual = y - reading.mean(gx)
        found = describe_residual(residual, psf, noise)
        numbers |= {"mean": found.mean, "beyond": found.beyond, "correlation": found.correlation,
                    "worst_part": found.worst}  # fmt: skip
        numbers |= {f"band_{i}": value for i, value in enumerate(found.bands)}
        reasons += _about_residual(found, y.size, numbers)
        pixels = held_out_pixels(model, y.shape, mask, start)
        if pixels is not None and pixels.sum() >= FEWEST:
            blind = blind_prediction(model, image, pixels, own is not None, mask, **tiles)
            seen = HeldOut(y, pixels, blind, reading)
            reasons += _about_held_out(seen, psf, g, steps, numbers)
        if psf is not None and psf.size > 1 and steps >= RIVALS_FROM:
            reasons += about_width(y, psf, g.mode, noise, mask, numbers)
    if isinstance(g, LearnedPSF) and g.told is False:
        told = f"the image does not tell how wide its blur is: {g.sigma:.2g} pixels"
        reasons.append(Reason("psf_untold", "doubtful", f"{told} ± {100 * g.error:.0f} %"))
    reasons.sort(key=lambda reason: -LEVELS.index(reason.level))
    return Verdict(tuple(reasons), numbers)


# ---- the forward model ----------------------------------------------------------------------


def _about_psf(psf):
    """A PSF that cannot be, by itself."""
    if psf is None:
        return
    if psf.size == 1:
        yield Reason("psf_point", "doubtful", "the PSF is a single pixel, so there is nothing to "
                     "deconvolve: are its pixel size and the image's in one unit?")  # fmt: skip
        return
    wide = [n for n in psf.shape if n > 1]
    flat = psf.reshape(wide)
    border = np.ones(flat.shape, bool)
    border[(slice(1, -1),) * flat.ndim] = False
    share = float(np.percentile(flat[border], 10)) * flat.size / float(flat.sum())
    if min(wide) >= 5 and PEDESTAL < share < BOX:
        yield Reason("psf_pedestal", "doubtful", f"{100 * share:.0f} % of the PSF are a background "
                     "that reaches its border: psf.prepare takes it off")  # fmt: skip
        flat = np.maximum(flat - np.percentile(flat[border], 10), 0)
    middle = [
        float((flat.sum(tuple(b for b in range(flat.ndim) if b != a)) * np.arange(n)).sum())
        / float(flat.sum()) - n // 2
        for a, n in enumerate(flat.shape)
    ]  # fmt: skip
    peak = np.array(np.unravel_index(np.argmax(flat), flat.shape)) - [n // 2 for n in wide]
    away = float(np.hypot.reduce(middle))
    if away > OFF_CENTRE and np.hypot.reduce(peak) > OFF_CENTRE:
        told = ", ".join(f"{m:+.1f}" for m in middle)
        yield Reason("psf_centre", "doubtful", f"the PSF is off centre by ({told}) pixels, and the "
                     "result is shifted by as much: psf.prepare centres it")  # fmt: skip


# ---- the data -------------------------------------------------------------------------------


def _about_data(y, psf, high, numbers):
    """Data that the forward model or the noise model cannot describe."""
    from scipy import ndimage

    dark, middle, bright = np.percentile(y, (0.5, 50, 99.5))
    farthest = float(np.abs(y - middle).max())
    if farthest > OUTLIER * (bright - dark) > 0:
        told = f"a pixel is {farthest / (bright - dark):.2g} times the image's contrast away"
        yield Reason("outlier", "failed", f"{told}: mask or clip it")
    if np.isfinite(high):
        full = ndimage.uniform_filter((y >= high).astype(np.float64), 3, mode="nearest") > 0.99
        share = numbers["saturated"] = float(full.mean())
        if share > SATURATED:
            told = f"{100 * share:.0f} % of the image are saturated"
            yield Reason("saturated", "doubtful", f"{told}: there the result is a lower bound")
    found = blocked_spectrum(y, np.ones((1,) * y.ndim) if psf is None else psf)
    low, middle, top = found.levels
    if not np.isfinite(low):
        return
    numbers |= {"level_low": low, "level_middle": middle, "level_top": top,
                "level_error": found.error, "tails": found.tails, "rows": found.rows,
                "columns": found.columns}  # fmt: skip
    for name, value in (("rows", found.rows), ("columns", found.columns)):
        if value > STRIPES:
            told = f"{name} have offsets of their own, which no model here describes"
            yield Reason(name, "doubtful", f"{told}: their power is {value:.0f} times the noise's")


# ---- the result -----------------------------------------------------------------------------


def _about_result(y, x, gx, noise, numbers):
    """A training that went astray, as its result shows."""
    if not (np.isfinite(x).all() and np.isfinite(gx).all()):
        yield Reason("diverged", "failed", "the result is not finite")
        return
    signal = np.sqrt(max(float(y.var()) - noise**2, 0.0))
    contrast = float(np.subtract(*np.percentile(y, (99.5, 0.5))))
    numbers["flatness"] = float(gx.std()) / signal if signal else 1.0
    if signal > 0.3 * noise and gx.std() < FLAT * signal:
        yield Reason("constant", "failed", f"the result is all but constant: it has "
                     f"{100 * gx.std() / signal:.0f} % of the image's contrast")  # fmt: skip
    lost = numbers["flux"] = float(gx.mean() - y.mean()) / max(contrast, 1e-300)
    if abs(lost) > FLUX and abs(gx.mean() - y.mean()) > BIAS * noise:
        yield Reason("flux", "failed", f"light is {'lost' if lost < 0 else 'gained'}: "
                     f"{100 * abs(lost):.0f} % of the contrast on average")  # fmt: skip
    corner = tuple(slice(None, None) for _ in x.shape[:-2])
    signs = np.add.outer(np.arange(x.shape[-2]), np.arange(x.shape[-1])) % 2 * 2.0 - 1
    checkers = float(np.abs((x * signs)[corner].mean())) / max(float(x.std()), 1e-300)
    numbers["checkers"] = checkers
    if checkers > CHECKERS:
        yield Reason("checkerboard", "failed", "the result is a checkerboard")


def _about_residual(found, size, numbers):
    """A residual that is not noise."""
    if abs(found.mean) > BIAS:
        told = f"the residual's mean is {found.mean:+.2f} times the noise, not 0"
        yield Reason("bias", "doubtful", told)
    slope = numbers.get("level_low", 1.0) / numbers.get("level_top", 1.0)
    falls = slope > 1 + SLOPE + CERTAIN * np.sqrt(2) * numbers.get("level_error", 0.0)
    misfit = bool(found.bands) and found.bands[0] > MISFIT
    beyond = found.beyond > BEYOND
    alike = found.correlation > CORRELATION + CERTAIN / np.sqrt(size)
    if misfit:
        told = "the result does not fit the data: at frequencies that the PSF passes well the"
        yield Reason("misfit", "failed", f"{told} residual has {found.bands[0]:.0f} times the "
                     f"noise's power, most of it from {_place(found.where)} on")  # fmt: skip
    elif beyond and not falls:
        told = (
            f"the image has power where this PSF passes none, {found.beyond:.1f} times the noise's"
        )
        yield Reason("psf_wide", "doubtful", f"{told}: it is wider than that of the image")
    if falls or (alike and not misfit and not beyond):
        told = (
            f"the noise is correlated, {found.correlation:.2f} between neighbours in the residual"
        )
        yield Reason("correlated", "doubtful", f"{told}: what it looks like is restored")


def _place(where):
    return ", ".join(f"{axis} {i}" for axis, i in zip("ZYX"[-len(where) :], where, strict=True))


# ---- pixels that nobody saw -----------------------------------------------------------------


def _about_held_out(seen, psf, g, steps, numbers):
    squares = seen.network()
    chi2, error = float(squares.mean()), float(squares.std() / np.sqrt(squares.size))
    numbers |= {"chi2": chi2, "chi2_error": error}
    if psf is not None and psf.size > 1 and steps >= RIVALS_FROM:
        yield from _against_rivals(seen, psf, g.mode, numbers)
    if chi2 - CERTAIN * error > POOR:
        level = "failed" if chi2 - CERTAIN * error > BAD else "doubtful"
        yield Reason("held_out", level, f"pixels that the training never saw are missed by "
                     f"{chi2:.2f} times the noise's variance")  # fmt: skip


def rivals_part(shape: Shape, psf_shape: Shape) -> list[int] | None:
    """How large a part of an image rivals are calibrated on; None where that would take long."""
    share = min(1.0, (RIVAL_PIXELS / np.prod(shape)) ** (1 / max(sum(n > 1 for n in shape), 1)))
    sides = [min(n, max(round(share * n), 2 * k)) for n, k in zip(shape, psf_shape, strict=True)]
    return sides if np.prod(sides) <= 8 * RIVAL_PIXELS else None


def _against_rivals(seen, psf, mode, numbers):
    """Calibrated Richardson–Lucy and total variation, on a part in the middle of the image."""
    y = seen.y
    part, inner = _part(y.shape, psf.shape)
    if part is None:
        return
    some = inner[seen.pixels]
    if some.sum() < FEWEST:
        return
    own = seen.network(some)
    offset = min(float(y.min()), 0.0)  # Richardson–Lucy knows no light below zero
    cut, held = y[part] - offset, seen.pixels[part]
    weights, found = 1.0 - held, {}
    lucy = calibrate(richardson_lucy, cut, psf, held_out=held, mode=mode, most=100)
    tv = calibrate(tv_admm, cut, psf, held_out=held, num_iter=RIVAL_ITERATIONS, pad=RIVAL_PAD)
    results = {
        "richardson_lucy": richardson_lucy(cut, psf, int(lucy.setting), mode=mode, weights=weights),
        "tv": tv_admm(
            cut, psf, RIVAL_ITERATIONS, weight=tv.setting, pad=RIVAL_PAD, weights=weights
        ),
    }
    g = PSFConvolution(psf, mode)
    for name, x in results.items():
        five = x.astype(np.float64).reshape((1,) * (5 - x.ndim) + x.shape)
        whole = np.zeros(y.shape)
        whole[part] = g.forward(five).reshape(x.shape) + offset
        found[name] = seen.squares(whole[seen.pixels][some], some)
    numbers |= {name: float(squares.mean()) for name, squares in found.items()}
    numbers |= {"network": float(own.mean()), "richardson_lucy_iterations": lucy.setting,
                "tv_weight": tv.setting}  # fmt: skip
    best = min(found, key=lambda name: numbers[name])
    behind = own - found[best]
    error = float(behind.std() / np.sqrt(behind.size))
    numbers |= {"behind": float(behind.mean()), "behind_error": error}
    if behind.mean() - CERTAIN * error > WORSE:
        label = "Richardson–Lucy" if best == "richardson_lucy" else "total variation"
        level = "failed" if behind.mean() - CERTAIN * error > 1 else "doubtful"
        yield Reason("rivals", level, f"on pixels that nobody saw, the network's error is "
                     f"{numbers['network']:.2f} times the noise's, {label}'s "
                     f"{numbers[best]:.2f}")  # fmt: skip


def about_width(
    y: Array, psf: Array, mode: Mode, noise: float, mask: Array | None, numbers: dict[str, float]
) -> Iterator[Reason]:
    """A PSF that is wider or narrower than the blur of the image, by pixels held out anew."""
    part, _ = _part(y.shape, psf.shape)
    if part is None:
        return
    cut, masked = y[part], None if mask is None else mask[part]
    found = width_profile(cut, lambda ratio: widened(psf, ratio), WIDTHS, noise, masked=masked,
                          mode=mode)  # fmt: skip
    if 1.0 not in found.ratios:
        return
    low, high = found.interval()
    numbers |= {"width": found.best, "width_low": low, "width_high": high}
    behind = numbers["width_behind"] = float(found.apart[list(found.ratios).index(1.0)])
    told = f"pixels that were held out say that the image's blur is {found.best:.1f} times"
    if found.best < 1 / OTHER and behind > WIDE:
        yield Reason("psf_wide", "doubtful", f"{told} as wide as the PSF: that is too wide")
    if found.best > OTHER and behind > NARROW:
        yield Reason("psf_narrow", "doubtful", f"{told} as wide as the PSF: that is too narrow, or "
                     "the sample is as soft as that")  # fmt: skip


def _part(shape, reach):
    """The middle of an image, to compare on: its slices, and a mask of what no border within the
    image is near; or None twice, where that would take long."""
    sides = rivals_part(shape, reach)
    if sides is None:
        return None, None
    part = tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(shape, sides, strict=True))
    inner = np.zeros(shape, bool)
    # Where the part ends within the image, its border is another one.
    inner[tuple(
        slice(p.start + (k // 2 if p.start else 0), p.stop - (k // 2 if p.stop < n else 0))
        for p, k, n in zip(part, reach, shape, strict=True)
    )] = True  # fmt: skip
    return part, inner
