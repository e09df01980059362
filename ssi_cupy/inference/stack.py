"""The images of a stack, time points and channels: which share a training; each is restored."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine.arrays import named_as
from ..engine.backend import contiguous, empty, host, moved
from ..engine.checks import InputError, told
from ..engine.types import Array, Float32Array, Float64Array, History
from ..recipes import Recipe
from ..training.image_sets import of_several
from ..training.units import units_of
from .attempts import attempt, never, worst
from .masked_image import masked_image
from .verdict import Verdict

Place = tuple[int, ...]  # of an image in a stack


@dataclass
class Stack:
    """An array with the axes T and C first, and where its images are.

    Attributes
    ----------
    images : (…, [Z,] Y, X) array
    masks : array of bool like it, or None
    others : str
        The letters of its first axes.
    back : list of int
        The order of axes in which it is what the caller had.
    places : list of tuple of int
    """

    images: Array
    masks: Array | None
    others: str
    back: list[int]
    _units: dict[int, tuple[float, float]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, image: Array, masked: Array | None, axes: str) -> Stack:
        """That of an array with those axes."""
        others = "".join(a for a in axes if a not in "ZYX")
        order = [axes.index(a) for a in others + "".join(a for a in "ZYX" if a in axes)]
        masks = None if masked is None else masked.transpose(order)
        return cls(image.transpose(order), masks, others, np.argsort(order).tolist())

    @property
    def places(self) -> list[Place]:
        return list(itertools.product(*map(range, self.images.shape[: len(self.others)])))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return tuple(self.images.shape[len(self.others) :])

    def single(self, **given: Any) -> None:
        """An `InputError` where one of these arguments, for one image, is given for several."""
        name = next((name for name, value in given.items() if value), None)
        if name and len(self.places) > 1:
            got = f"{len(self.places)} along {', '.join(self.others)}"
            raise InputError(name, "a single image", got)

    def channel(self, place: Place) -> int:
        """Which channel an image is of."""
        return place[self.others.index("C")] if "C" in self.others else 0

    def groups(
        self, share: str | None, closed: set[Place], alike: bool = True
    ) -> list[list[Place]]:
        """The images that are to be restored, those together that share a training.

        Parameters
        ----------
        share : str, optional
            The letters of axes along which they do.
        closed : set of tuple of int
            Images that are not to be restored.
        alike : bool
            Whether all channels have one PSF, and one camera of which nothing is known.
        """
        share = "" if share is None else share
        if not isinstance(share, str) or set(share) - set("TC"):
            raise InputError("share", "letters of T and C, or None", told(share))
        if missing := [a for a in share if a not in self.others]:
            got = f"axes {self.others + 'ZYX'[-len(self.shape) :]}"
            raise InputError("share", f"axes that the image has, not {missing[0]}", got)
        if "C" in share and not alike:
            expected = "T, or channels with one PSF and no gain, read_noise or offset that is known"
            raise InputError("share", expected, repr(share))
        found: dict[Place, list[Place]] = {}
        for place in self.places:
            if place not in closed:
                key = tuple(i for i, a in zip(place, self.others, strict=True) if a not in share)
                found.setdefault(key, []).append(place)
        return list(found.values())

    def together(self, group: Sequence[Place], recipe: Recipe) -> tuple[Any, Array | None]:
        """What a training of a group is of, and where that is masked: an image; or all of them,
        those of each channel in a unit of its own where there are several, as (N, 1, Z, Y, X) or,
        where a training sees but parts of them, as `Images`."""
        if len(group) == 1:
            return self.at(group[0])
        found = [self.at(place) for place in group]
        units = [self._unit(group, self.channel(place)) for place in group]
        images = [InUnit(y, *unit) for (y, _), unit in zip(found, units, strict=True)]
        masks = [mask for _, mask in found]
        if recipe.sees_a_part(self.shape):
            return of_several(images, masks), None
        five = 1, 1, *(1,) * (3 - len(self.shape)), *self.shape
        masked = None
        if self.masks is not None:
            masked = np.concatenate([np.reshape(mask, five) for mask in masks])
        return np.concatenate([image[...].reshape(five) for image in images]), masked

    def own(self, model: Any, group: Sequence[Place], place: Place) -> Any:
        """A model that was trained on a group, for one of its images."""
        offset, scale = self._unit(group, self.channel(place))
        one = copy.copy(model)
        one.units = offset + scale * model.units[0], scale * model.units[1]
        if model.noise is not None:
            one.noise = model.noise.in_units(-offset / scale, 1 / scale)
        one.seconds = {"train": model.seconds["train"] / len(group), "infer": 0.0}
        return one

    def _unit(self, group, channel):
        """(offset, scale) of a channel, where others share its training."""
        if len({self.channel(place) for place in group}) == 1:
            return 0.0, 1.0
        if channel not in self._units:
            own = [self.at(place)[0] for place in group if self.channel(place) == channel]
            self._units[channel] = units_of(of_several(own, [None] * len(own)), "percentile")
        return self._units[channel]

    def at(self, place: Place) -> tuple[Array, Array | None]:
        """An image, filled where it is masked, and where that is."""
        mask = None if self.masks is None else self.masks[place]
        return masked_image(self.images[place], mask), mask


class InUnit:
    """(y − offset) / scale of what is read by slices, in float64."""

    def __init__(self, array: Any, offset: float, scale: float) -> None:
        self.array, self.offset, self.scale = array, offset, scale
        self.shape, self.ndim, self.dtype = tuple(array.shape), array.ndim, np.dtype(np.float64)

    def __getitem__(self, box: Any) -> Float64Array:
        return (np.asarray(host(self.array[box]), np.float64) - self.offset) / self.scale


@dataclass
class Restored:
    """What is kept of each image of a stack.

    Attributes
    ----------
    model : SelfSupervisedInverse
        In the units of this image.
    verdict : Verdict
    seconds : dict of float
        ``train``, its part where others share that, and ``infer``.
    uncertainty : callable
        Computes it.
    """

    model: Any
    verdict: Verdict
    seconds: dict[str, float]
    uncertainty: Callable[[], Float64Array] = field(repr=False)

    @property
    def history(self) -> History:
        """Of its training, which others may share."""
        return self.model.history


@dataclass
class Results:
    """What came of a stack: arrays of its shape, and of each image what it was.

    Attributes
    ----------
    restored, denoised : (…, [Z,] Y, X) array of float32
    each : dict of Restored
    """

    restored: Float32Array
    denoised: Float32Array
    each: dict[Place, Restored] = field(default_factory=dict)

    def uncertainty(self, arranged: Callable[[Array], Any]) -> Any:
        """Standard deviations of `restored`, `arranged`; NaN in images that were not."""
        found = np.full(self.restored.shape, np.nan, np.float32)
        for place, one in self.each.items():
            found[place] = one.uncertainty()
        return arranged(moved(found, self.restored))

    @property
    def model(self) -> Any:
        """The last one."""
        return [*self.each.values()][-1].model

    @property
    def seconds(self) -> dict[str, float]:
        """``train`` and ``infer``, of all."""
        found = [one.seconds for one in self.each.values()]
        return {name: sum(s[name] for s in found) for name in ("train", "infer")}

    @property
    def verdict(self) -> Verdict:
        """The worst one."""
        return worst({place: one.verdict for place, one in self.each.items()})


def restore_each(
    stack: Stack,
    groups: Sequence[Sequence[Place]],
    closed: set[Place],
    train: Callable[[int, Sequence[Place]], Any],
    *,
    refined: bool,
    again: Callable[[float], bool],
    **tiles: Any,
) -> Results:
    """Each image of a stack, by the training of its group.

    Parameters
    ----------
    stack : Stack
    groups : list of list of tuple of int
        As of `Stack.groups`.
    closed : set of tuple of int
        Images that hold a single value, or are masked altogether: they stay as they are.
    train : callable
        Of the number of the attempt and a group: the model trained on `Stack.together` of that.
    refined, again, **tiles
        As of `attempt`; a training that is shared is not tried again.
    """
    results = Results(*(empty(stack.images.shape, np.float32, like=stack.images) for _ in range(2)))
    for place in closed:
        mask = None if stack.masks is None else stack.masks[place]
        lost = mask is not None and mask.all()
        results.restored[place] = np.nan if lost else stack.at(place)[0]
        results.denoised[place] = results.restored[place]
    for group in groups:
        shared = [train(0, group)] if len(group) > 1 else []
        for place in group:
            y, mask = stack.at(place)

            def trained(number, place=place, group=group, y=y, shared=shared):
                model = stack.own(shared[0], group, place) if shared else train(number, group)
                return model, model.restore(y, **tiles)

            seconds = {"train": 0.0, "infer": 0.0}
            done = attempt(trained, y, mask, refined=refined, again=never if shared else again,
                           seconds=seconds, **tiles)  # fmt: skip
            for mine, found in ((results.restored, "restored"), (results.denoised, "denoised")):
                mine[place] = getattr(done, found)
                setattr(done, found, mine[place])  # which has no memory of its own
            unsure = functools.partial(done.uncertainty, y, mask)
            results.each[place] = Restored(done.model, done.verdict, seconds, unsure)
    return results


def in_order(array: Array, order: list[int], like: Any) -> Any:
    """The axes of a stack in another order, as a DataArray if `like` is one."""
    array = array.transpose(order)
    return named_as(contiguous(array) if hasattr(array, "flags") else array, like)
