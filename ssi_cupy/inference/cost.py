"""What a run costs, told before its training; and how many steps fit into a time limit.

The seconds of a training step are those of some steps of the very training, the network's those of
applying it to a piece as large as that. What follows the training is counted in such passes over
the image, ::

    passes = symmetries · (calibration + inference + held-out pixels)

the first and the last of a part only, of an image that is not seen whole.

With a time limit, the steps that are measured are those of a training that is thrown away: the one
that counts knows from its first step on how many there will be, so that its schedule ends with it,
and a run that is given their number as ``num_iter`` has the same bits.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.backend import Pool, free_memory, is_cupy, zeros
from ..engine.checks import InputError, positive
from ..engine.memory import held_memory
from ..engine.types import Shape
from ..physics import PSFConvolution
from ..training.batches import MOST_MEASURED
from ..training.patches import CALIBRATION_PATCHES
from ..training.progress import in_words
from ..unet import unet_forward
from . import predict
from .refinement import AT_ONCE, BYTES
from .verdict import RIVAL_PAD, RIVALS_FROM, rivals_part

LEAST, MOST = 3, 50  # steps that are measured, after the first of each shape of batch
ENOUGH = 1.0  # seconds of measured steps, where there is no limit; with one,
SHARE = 0.04  # of it
PIECE = 256  # pixels a side of what the network is applied to, in a volume
PIECE_3D = 64
BESIDE = 1.2  # times the network's: the blur, transforms, what is read and written
RIVAL = 5e-5  # seconds for a pixel of what classical methods are tried on, with its margin
AIM = 0.95  # of the limit, as a short measurement is no more certain
LONGEST = 2  # times the recipe's steps: beyond that they gain nothing worth the time


@dataclass(frozen=True)
class Cost:
    """What a run is expected to cost.

    Attributes
    ----------
    pixels : int
        That a training is of.
    steps : int
        Of each training.
    trainings : int
    step, seconds : float
        The time of a training step, and of the whole run from its beginning on, seconds.
    memory : int
        The most that it takes, bytes: of the process, or on a GPU of its arrays.
    device : str
    """

    pixels: int
    steps: int
    trainings: int
    step: float
    seconds: float
    memory: int
    device: str

    def __str__(self) -> str:
        times = f"{self.trainings} × " if self.trainings > 1 else ""
        return (
            f"{times}{self.pixels:,} pixels, {self.steps} steps of {in_words(self.step)}: about "
            f"{in_words(self.seconds)} and {self.memory / 1e9:.2g} GB on {self.device}"
        )


class Plan:
    """Measures what a run of one or more trainings costs, tells it, and keeps to a limit.

    Parameters
    ----------
    time_limit : float, optional
        Seconds for all of it, from now on.
    only : bool
        Whether the cost is all that is wanted: nothing is trained, and `Told` is raised.
    trainings : int
        How many there are to be.
    restored : bool
        Whether images are restored and judged after a training.

    Attributes
    ----------
    begun : int
        How many trainings were begun, counted by whoever begins several.
    steps : int or None
        Of each training, once that is settled.
    cost : Cost or None
    """

    def __init__(
        self,
        time_limit: float | None = None,
        *,
        only: bool = False,
        trainings: int = 1,
        restored: bool = False,
    ) -> None:
        self.start, self.before = time.perf_counter(), held_memory()
        self.limit = None if time_limit is None else positive(time_limit, "time_limit")
        self.only, self.trainings, self.restored = only, trainings, restored
        self.begun, self.steps = 0, None
        self.cost: Any = None
        self.shapes: list[tuple[int, ...]] = []

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.start

    @property
    def pixels(self) -> int:
        """Of all images that a training is of."""
        return sum(map(math.prod, self.shapes))

    def settle(
        self, make: Callable[[int], Any], shapes: list[Shape], most: int | None, usual: int
    ) -> int:
        """How many steps the next training is to have.

        Parameters
        ----------
        make : callable
            Makes the `Training` of so many steps.
        shapes : list of (Z, Y, X)
            Of the images that it is of.
        most : int or None
            What the caller asked for.
        usual : int
            The recipe's.

        Raises
        ------
        InputError
            Where the limit allows no step.
        Told
            With `only`.
        """
        self.shapes = shapes
        if self.steps is None:
            self.steps = usual if most is None else most
            if self.limit is not None or self.only:
                self._try(make, most, usual)
        if self.only:
            raise Told
        return self.steps

    def _try(self, make, most, usual):
        """Measure some steps of a training that is thrown away, and choose their number."""
        measured = Measured(ENOUGH if self.limit is None else SHARE * self.limit)
        with contextlib.closing(make(max(self.steps, 2 * (LEAST + MOST)))) as training, Pool():
            while not measured.enough:
                measured.step(training)
            step, follows, memory = self._of(training, measured)
            if self.limit is not None:
                self.steps = self._fitting(step, follows)
                self.steps = min(self.steps, LONGEST * usual if most is None else most)
            self._told(training, step, self.steps, follows, memory)

    def measured(self) -> Measured | None:
        """What is to measure the first steps of a training; None where all is known."""
        return Measured() if self.cost is None else None

    def saw(self, training: Any, measured: Measured) -> Cost:
        """The cost, by the first steps of a training that goes on."""
        step, follows, memory = self._of(training, measured)
        return self._told(training, step, training.steps - training.done, follows, memory)

    def again(self, seconds: float) -> bool:
        """Whether there is time for a second attempt that takes as long as the first."""
        left = 1 + self.trainings - self.begun
        return self.limit is None or self.spent + left * seconds <= self.limit

    def _of(self, training, measured):
        """(seconds of a step, those that follow by the number of steps, bytes in all)."""
        model, recipe, count = training.model, training.recipe, len(self.shapes)
        pixels = self.pixels / count  # of one image
        large = any(map(recipe.sees_a_part, self.shapes))
        part = recipe.at_once if large else pixels
        batches = CALIBRATION_PATCHES if large else MOST_MEASURED
        passed = min(batches * part, len(training.symmetries) * self.pixels)
        passed *= bool(recipe.calibrate)
        if self.restored:
            judged = bool(recipe.validation) * part
            passed += count * len(model.symmetries) * (pixels + judged)
        beside = BESIDE * passed * _pass_seconds(training)
        rivals = RIVAL * count * _rival_pixels(model.physics, self.shapes[0]) * self.restored

        def follows(steps):
            return beside + rivals * (steps >= RIVALS_FROM)

        like = training.source.like
        memory = held_memory(like)
        if self.restored:
            maps = min(predict.memory(training.net, pixels), free_memory(like) / 2)
            memory = max(
                memory, self.before * (not is_cupy(like)) + maps + BYTES * min(pixels, AT_ONCE)
            )
        return measured.seconds, follows, int(memory)

    def _fitting(self, step, follows):
        """The most steps that the limit allows for each training, with what follows it."""
        share = (AIM * self.limit - self.spent) / self.trainings
        steps = int((share - follows(RIVALS_FROM)) / step)
        if steps < RIVALS_FROM:
            steps = min(int((share - follows(0)) / step), RIVALS_FROM - 1)
        if steps < 1:
            spent, least = self.spent, self.trainings * (step + follows(0))
            expected = f"at least {in_words((spent + least) / AIM)}, of which {in_words(spent)} "
            expected += "are gone before the first step"
            raise InputError("time_limit", expected, f"{self.limit:g} s")
        return steps

    def _told(self, training, step, left, follows, memory):
        follow, steps = follows(self.steps), self.steps
        seconds = self.spent + left * step + follow
        seconds += (self.trainings - 1) * (steps * step + follow)
        self.cost = Cost(self.pixels, steps, self.trainings, step, seconds, memory,
                         training.model.device)  # fmt: skip
        return self.cost


class Told(Exception):
    """Ends a run of which only the cost was wanted."""


class Measured:
    """The time of a training's first steps.

    The first one of each shape of batch is left out: loops are compiled in it, and memory is asked
    for.

    Parameters
    ----------
    wanted : float
        Seconds of steps that are enough.
    """

    def __init__(self, wanted: float = ENOUGH) -> None:
        self.wanted, self.times, self.first = wanted, [], 0.0
        self._known: set[tuple[int, ...]] = set()

    def step(self, training: Any) -> dict[str, Any]:
        """One step of a training: what that says of it."""
        shape = training.source.shape_of(training.done * training.recipe.accumulate)
        start = time.perf_counter()
        report = training.step()
        seconds = time.perf_counter() - start
        if shape in self._known:
            self.times.append(seconds)
        else:
            self._known.add(shape)
            self.first += seconds
        return report

    @property
    def enough(self) -> bool:
        count = len(self.times)
        return count >= MOST or count >= LEAST and sum(self.times) >= self.wanted

    @property
    def seconds(self) -> float:
        """Of one step."""
        return float(np.mean(self.times))


def _pass_seconds(training):
    """Seconds of applying the network, for a pixel."""
    net, like = training.net, training.source.like
    channels, *shape = training.source.shape[1:]
    side = PIECE if shape[0] == 1 else PIECE_3D
    shape = [max(min(n, side), least) for n, least in zip(shape, net.smallest, strict=True)]
    known = {"net": net, "statistics": training.statistics, "keep": False}
    with Pool():
        y = zeros((1, channels, *shape), np.float32, like=like)
        for _ in range(2):  # in the first, loops may be compiled
            start = time.perf_counter()
            float(unet_forward(training.inputs(y), training.parameters, **known)[0].max())
            seconds = time.perf_counter() - start
    return seconds / math.prod(shape)


def _rival_pixels(g, shape):
    """Pixels of the part that classical methods are calibrated on, with its margin."""
    if not isinstance(g, PSFConvolution) or g.psf.size == 1:
        return 0
    sides = rivals_part(shape, g.psf.shape)
    return 0 if sides is None else math.prod(n + 2 * RIVAL_PAD for n in sides if n > 1)
