"""The images of a stack, time points and channels, restored one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine.backend import empty, moved
from ..engine.types import Array, Float32Array
from .attempts import attempt
from .masked_image import masked_image
from .verdict import Verdict

Place = tuple[int, ...]  # of an image in a stack


@dataclass
class Results:
    """What came of a stack: arrays of its shape, and of each image what it was.

    Attributes
    ----------
    restored, denoised, uncertainty : (…, [Z,] Y, X) array of float32
    model : SelfSupervisedInverse
        The last one.
    verdicts : dict of Verdict
    seconds : dict of float
        ``train`` and ``infer``, of all.
    """

    restored: Float32Array
    denoised: Float32Array
    uncertainty: Float32Array
    model: Any = None
    verdicts: dict[Place, Verdict] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "infer": 0.0})


def restore_each(
    stack: Array,
    masks: Array | None,
    places: Sequence[Place],
    closed: set[Place],
    train: Callable[[int, Place, Array, Array | None], Any],
    *,
    refined: bool,
    again: Callable[[float], bool],
    uncertain: bool,
    like: Array,
    **tiles: Any,
) -> Results:
    """Each image of a stack, by a training of its own.

    Parameters
    ----------
    stack : (…, [Z,] Y, X) array
    masks : array of bool like it, optional
    places : list of tuple of int
        Where its images are.
    closed : set of tuple of int
        Those that hold a single value, or are masked altogether: they stay as they are.
    train : callable
        Of the number of the attempt, a place, the image and its mask: the trained model.
    refined, again, uncertain, **tiles
        As of `attempt`.
    like : array
        On whose device the results are to be.
    """
    results = Results(*(empty(stack.shape, np.float32, like=like) for _ in range(3)))
    for place in places:
        y, mask = stack[place], None if masks is None else masks[place]
        if place in closed:
            lost = mask is not None and mask.all()
            results.restored[place] = np.nan if lost else masked_image(y, mask)
            results.denoised[place] = results.restored[place]
            results.uncertainty[place] = np.nan
            continue
        y = masked_image(y, mask)

        def trained(number, place=place, y=y, mask=mask):
            model = train(number, place, y, mask)
            return model, model.restore(y, **tiles)

        done = attempt(trained, y, mask, refined=refined, again=again, uncertain=uncertain,
                       seconds=results.seconds, **tiles)  # fmt: skip
        results.model, results.verdicts[place] = done.model, done.verdict
        results.restored[place], results.denoised[place] = done.restored, done.denoised
        if uncertain:
            unsure = done.uncertainty.astype(np.float32)
            results.uncertainty[place] = moved(unsure, results.uncertainty)
    return results
