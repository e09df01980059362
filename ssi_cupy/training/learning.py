"""How a training learns the parameters of its forward model along with the network.

Before the training, the width is bracketed: total variation says of several which predict held-out
pixels best (`classical/width.py`), and how well it can tell; see `bracket.py`. From there the
parameters follow the gradient of ``log(loss) − PUSH · log σ + PRIOR · (log σ − log start)² / 2``
(why, is in `physics/learned.py`), by an Adam and a rate of their own, once the network has learned
enough for the loss to mean something. What comes out is their mean over the last steps; its
standard error is that of the bracket.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..engine.backend import log, moved, namespace
from ..engine.checks import InputError
from ..engine.types import Array
from ..ops.gaussian_convolution import NUMBER
from ..optim import Adam
from ..physics import LearnedPSF
from ..physics.learned import FACTOR, NAMES, PRIOR, PUSH, WEAK, live, replaced, to_learn
from ..recipes import Recipe
from .bracket import LOST, bracketed, part_of
from .image_sets import Images

RATE, BETAS = 0.05, (0.9, 0.99)
START = 0.15  # of the training, before which nothing is learned
SETTLED = 0.25  # of the training, at its end: what is averaged
OWN = ("own_rate", "own_root")  # numbers of a step


def bracket(model: Any, image: Array | Images, masked: Array | None) -> float:
    """Let the physics of a model, if it is to be learned, start from what an image (of a set, the
    first) says of its width. Gives the standard error of log σ."""
    g = to_learn(model.physics)
    if g is None:
        return LOST
    if isinstance(image, Images):
        part = part_of(image.shapes[0][1:])
        box = [s.start for s in part], [s.stop - s.start for s in part]
        masked = image.masked(0, *box)
        image, masked = image.box(0, *box)[None], None if masked is None else masked[None]
    start, error = bracketed(g, image, masked, model.seed)
    model.physics = replaced(model.physics, g, start)
    return error


class PSFLearning:
    """The parameters of a live PSF, and what moves them.

    Attributes
    ----------
    g : object
        The forward model to train with.
    trace : list of list of float
        Of each step: the parameters, and the gradient by them in units of the loss.
    """

    def __init__(
        self, model: Any, recipe: Recipe, steps: int, like: Array, error: float = LOST
    ) -> None:
        self.model, self.steps, self.trace, self.error = model, steps, [], error
        self.g, self.live = live(model.physics, like)
        if self.live is None:
            return
        if recipe.broaden:
            raise InputError("recipe", "one that does not broaden the PSF, where it is learned",
                             repr(recipe.name))  # fmt: skip
        source: LearnedPSF = self.live.source
        self.mask = np.isin(range(NUMBER), [i for name in source.learn for i in NAMES[name]])
        guess = np.where(np.isneginf(source.guess), -50.0, source.guess)  # no width along Z
        start = np.where(np.isneginf(source.parameters), -50.0, source.parameters)
        room = np.log(FACTOR) * np.array([1, 1, 1, 0, 0, 0, 0]) + [0, 0, 0, np.pi, 3, 3, 3]
        prior = np.full(NUMBER, WEAK)
        prior[:2] = WEAK if "anisotropy" in source.learn else PRIOR
        arrays = self.mask, guess, start, PUSH, prior, guess - room, guess + room
        arrays = [moved(np.asarray(a, np.float32), like) for a in arrays]
        self.learned, self.guess, start, self.push, self.prior, self.low, self.high = arrays
        self.live.parameters[...] = start
        self.optimiser = Adam(len(PUSH), np.float32, lr=RATE, betas=BETAS, like=like)

    def __bool__(self) -> bool:
        return self.live is not None

    def count(self, step: int) -> dict[str, float]:
        """The numbers of a step for `update`; a rate of 0 until the network has learned."""
        begin = START * self.steps
        if not self:
            return {}
        if step < begin:
            return dict.fromkeys(OWN, 0.0)
        left = (self.steps - step) / max(self.steps - begin, 1)
        numbers = self.optimiser.count(RATE * max(left, 0.1))
        return {"own_rate": numbers["rate"], "own_root": numbers["root"]}

    def saw(self, report: Array) -> None:
        """Keep what `update` wrote down."""
        if self:
            self.trace.append(report[-2 * NUMBER :].tolist())

    def update(self, sums: Array, numbers: Any) -> None:
        """Move the parameters: work for the device alone. What they are, and the slopes of the
        loss's first part by them, goes to the end of `sums`, which holds that part."""
        if not self:
            return
        p, loss = self.live.parameters, sums[3:4].astype(np.float32)
        slope = self.live.gradient / np.maximum(loss, np.float32(1e-12))
        pull = slope - self.push + self.prior * (p - self.guess)
        nothing = numbers["draw"] * 0
        self.optimiser.move(p, pull * self.learned, rate=numbers["own_rate"],
                            root=numbers["own_root"], sigma=nothing, step=nothing)  # fmt: skip
        p[...] = np.minimum(np.maximum(p, self.low), self.high)
        self.live.gradient[...] = 0
        sums[-2 * NUMBER :] = namespace(p).concatenate([p, slope])

    def state(self) -> dict[str, Array]:
        """What it remembers, for a checkpoint."""
        if not self:
            return {}
        moments = {f"learned_{name}": value for name, value in self.optimiser.state().items()}
        parameters = self.live.parameters.copy()
        return moments | {"learned": parameters, "learned_trace": np.array(self.trace)}

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Go on from a `state`; a KeyError or ValueError where it is none."""
        if not self:
            return
        trace = arrays["learned_trace"]
        if trace.shape != (len(arrays["history"]), 2 * NUMBER) or np.isnan(trace).any():
            raise ValueError(f"learned_trace: shape {trace.shape}")
        moments = ("first", "second", "steps")
        self.optimiser.load({name: arrays[f"learned_{name}"] for name in moments})
        self.live.parameters[...] = moved(arrays["learned"].astype(np.float32), self.guess)
        self.trace = trace.tolist()

    def finish(self) -> None:
        """Leave what was learned in the model, whose network is done."""
        begin = int(START * self.steps)
        settled = max(int(SETTLED * self.steps), 1)
        last = np.array(self.trace[max(begin, len(self.trace) - settled) :])
        if not len(last):
            return
        source, model = self.live.source, self.model
        found = np.where(self.mask, last[:, :NUMBER].mean(axis=0), source.parameters)
        learned = source.found(found, self.error)
        if not learned.told:
            log.warning("the image does not tell how wide its blur is: %s", learned)
        model.physics = replaced(model.physics, source, learned)
