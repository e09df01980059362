"""A restoration with its verdict; one that failed is tried once more."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.backend import host, log
from ..engine.types import Array, Float64Array
from .masked_image import masked_image
from .refinement import can_refine, refine
from .tiling import tiles as cut
from .uncertainty import uncertainty
from .verdict import Reason, Verdict, judge

RETRY_FROM = 200  # steps: a shorter training has failed because it is short
CANDIDATES = 100  # parts of a large image, one of which is judged
ASTRAY = ("diverged", "constant", "checkerboard", "flux", "misfit", "held_out", "rivals")


@dataclass
class Attempt:
    """A trained model, and what it made of the image."""

    model: Any
    restored: Array
    denoised: Array
    refined: bool
    verdict: Verdict
    tiles: dict[str, Any]

    def uncertainty(self, image: Array, mask: Array | None = None) -> Float64Array:
        """Standard deviation of each pixel of what was restored of an image."""
        image, _ = _without_outliers(self.model, image, mask)
        return uncertainty(
            self.model, image, self.restored, self.denoised, refined=self.refined,
            numbers=self.verdict.numbers, **self.tiles,
        )  # fmt: skip


def never(seconds: float) -> bool:
    """For `attempt`: there may be no second one."""
    return False


def attempt(
    train: Callable[[int], tuple[Any, tuple[Array, Array]]],
    image: Array,
    mask: Array | None = None,
    *,
    refined: bool,
    again: Callable[[float], bool],
    seconds: dict[str, float],
    **tiles: Any,
) -> Attempt:
    """Train, restore and judge; where that failed, once more in another way.

    Parameters
    ----------
    train : callable
        Of the number of the attempt, 0 or 1: (the trained model, (f(y), g(f(y)))).
    image : (Y, X) or (Z, Y, X) array
        Filled where it is masked.
    mask : array of bool, optional
    refined : bool
        Whether results are to be refined.
    again : callable
        Of the seconds that the first attempt took: whether a second one may be made.
    seconds : dict
        Where times are added: ``train`` and ``infer``, the verdict being of the latter.
    **tiles
        ``tile_size`` and ``tile_overlap`` of the inference.
    """
    start = time.perf_counter()
    try:
        first = _one(train, 0, image, mask, refined, seconds, tiles)
        failed = first.verdict.level == "failed"
        wrong = {reason.name for reason in first.verdict.reasons if reason.level == "failed"}
        why = first.verdict.reasons[0].text if failed else ""
        astray = bool(wrong) and wrong <= {*ASTRAY} and len(first.model.history) >= RETRY_FROM
    except FloatingPointError as error:
        if getattr(error, "step", 0) == 0 or not again(time.perf_counter() - start):
            raise
        first, failed, astray, why = None, True, True, str(error)
    if failed and astray and again(time.perf_counter() - start):
        log.warning("the restoration failed (%s): once more with another seed and half the "
                    "learning rate", why)  # fmt: skip
        first = _better(first, _one(train, 1, image, mask, refined, seconds, tiles), why)
    return first


def _one(train, number, image, mask, refined, seconds, tiles):
    model, found = train(number)
    for name, value in model.seconds.items():
        seconds[name] += value
    start, own = time.perf_counter(), None
    image, mask = _without_outliers(model, image, mask)
    if refined and can_refine(model.physics):
        own, found = found, refine(image, *found, model.physics, mask)
    verdict = _judged(model, image, found, mask, own, tiles)
    seconds["infer"] += time.perf_counter() - start
    return Attempt(model, *found, own is not None, verdict, tiles)


def _judged(model, image, found, mask, own, tiles):
    """The verdict; of a large image, on the part of it that has most contrast."""
    shape = tuple(image.shape)
    if not model.recipe.sees_a_part(shape):
        return judge(model, image, *found, mask=mask, own=own, **tiles)
    start, box = _telling_part(image, found[0], model.recipe.at_once)
    own = None if own is None else [a[box] for a in own]
    mask = None if mask is None else mask[box]
    verdict = judge(model, image[box], *(a[box] for a in found), mask=mask, own=own, start=start)
    where = " × ".join(f"{axis} {s.start}–{s.stop}" for axis, s in zip("ZYX"[-len(box) :], box,
                                                                       strict=True))  # fmt: skip
    return dataclasses.replace(verdict, note=f"judged on {where}")


def _telling_part(image, restored, pixels):
    """(start, slices) of the part of so many pixels where most is to be seen, or the result is not
    finite."""
    side = round(pixels ** (1 / image.ndim))
    parts = cut(image.shape, [min(side, n) for n in image.shape])
    some = parts[:: -(-len(parts) // CANDIDATES)]

    def contrast(part):
        y, x = host(image[part.box]), host(restored[part.box])
        return float(np.std(y)) if np.isfinite(x).all() else np.inf

    best = max(some, key=contrast)
    return best.start, best.box


def _without_outliers(model, image, mask):
    """The image filled where outliers are, and the mask with them in it."""
    found = model.outliers(image)
    if found is None or not found.any():
        return image, mask
    mask = found if mask is None else mask | found
    return masked_image(image, mask), mask


def _better(first, second, why):
    """The one that missed held-out pixels by less; it says that there were two."""

    def key(one):
        order = ("ok", "doubtful", "failed").index(one.verdict.level)
        return order, (one.verdict.numbers or {}).get("chi2", 0.0)

    note = f"the second of two trainings, with another seed and half the learning rate: {why}"
    best = second
    if first is not None and key(first) <= key(second):
        best = first
        note = "a second training, with another seed and half the learning rate, was no better"
    notes = filter(None, (best.verdict.note, note))
    best.verdict = dataclasses.replace(best.verdict, note="; ".join(notes))
    return best


def worst(verdicts: dict[tuple[int, ...], Verdict]) -> Verdict:
    """Of several images the worst verdict, which names them where they are not trusted."""
    if len(verdicts) == 1:
        return next(iter(verdicts.values()))
    order = ("ok", "doubtful", "failed")
    found = max(verdicts.values(), key=lambda verdict: order.index(verdict.level))
    reasons = [
        Reason(reason.name, reason.level, f"image[{', '.join(map(str, place))}]: {reason.text}")
        for place, verdict in verdicts.items()
        for reason in verdict.reasons
    ]
    reasons.sort(key=lambda reason: -order.index(reason.level))
    return dataclasses.replace(found, reasons=tuple(reasons))
