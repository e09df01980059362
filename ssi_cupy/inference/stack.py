"""The images of a stack, time points and channels, restored one after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine.arrays import named_as
from ..engine.backend import contiguous, empty, moved
from ..engine.types import Array, Float32Array, Float64Array
from .attempts import attempt
from .masked_image import masked_image
from .verdict import Verdict

Place = tuple[int, ...]  # of an image in a stack


@dataclass
class Results:
    """What came of a stack: arrays of its shape, and of each image what it was.

    Attributes
    ----------
    restored, denoised : (…, [Z,] Y, X) array of float32
    model : SelfSupervisedInverse
        The last one.
    verdicts : dict of Verdict
    seconds : dict of float
        ``train`` and ``infer``, of all.
    """

    restored: Float32Array
    denoised: Float32Array
    model: Any = None
    verdicts: dict[Place, Verdict] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "infer": 0.0})
    unsure: dict[Place, Callable[[], Float64Array]] = field(default_factory=dict)

    def uncertainty(self, arranged: Callable[[Array], Any]) -> Any:
        """Standard deviations of `restored`, `arranged`; NaN in images that were not."""
        found = np.full(self.restored.shape, np.nan, np.float32)
        for place, of in self.unsure.items():
            found[place] = of()
        return arranged(moved(found, self.restored))


def restore_each(
    stack: Array,
    masks: Array | None,
    places: Sequence[Place],
    closed: set[Place],
    train: Callable[[int, Place, Array, Array | None], Any],
    *,
    refined: bool,
    again: Callable[[float], bool],
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
    refined, again, **tiles
        As of `attempt`.
    like : array
        On whose device the results are to be.
    """
    results = Results(*(empty(stack.shape, np.float32, like=like) for _ in range(2)))
    for place in places:
        y, mask = stack[place], None if masks is None else masks[place]
        if place in closed:
            lost = mask is not None and mask.all()
            results.restored[place] = np.nan if lost else masked_image(y, mask)
            results.denoised[place] = results.restored[place]
            continue
        y = masked_image(y, mask)

        def trained(number, place=place, y=y, mask=mask):
            model = train(number, place, y, mask)
            return model, model.restore(y, **tiles)

        done = attempt(trained, y, mask, refined=refined, again=again,
                       seconds=results.seconds, **tiles)  # fmt: skip
        results.model, results.verdicts[place] = done.model, done.verdict
        for mine, found in ((results.restored, "restored"), (results.denoised, "denoised")):
            mine[place] = getattr(done, found)
            setattr(done, found, mine[place])  # which has no memory of its own
        results.unsure[place] = functools.partial(done.uncertainty, y, mask)
    return results


def in_order(array: Array, order: list[int], like: Any) -> Any:
    """The axes of a stack in another order, as a DataArray if `like` is one."""
    return named_as(contiguous(array.transpose(order)), like)
