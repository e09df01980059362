"""How the weights follow their gradient. All of them are ONE flat vector.

`Adam` and `MovingAverage` change vectors in one pass each; the learning rate of each step comes
from a schedule. What they remember is a dictionary of plain arrays: a run that loads it goes on
to the same bits.

References
----------
.. [1] D. P. Kingma, J. Ba, "Adam: A method for stochastic optimization", ICLR (2015).
.. [2] H. Kobayashi, A. C. Solak, J. Batson, L. A. Royer, "Image deconvolution via noise-tolerant
   self-supervised inversion" (2020): the weight noise that decays.
.. [3] L. N. Smith, N. Topin, "Super-convergence: Very fast training of neural networks using
   large learning rates" (2019): the one-cycle schedule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .engine.backend import empty, in_memory, kernel, moved, zeros
from .engine.checks import (
    Checked,
    InputError,
    checked,
    number,
    positive_int,
    real,
    several,
    told,
    whole,
)
from .engine.gpu.launch import threads_per_item
from .engine.types import Array, DTypeLike
from .ops.scalars import reduced
from .random import CHUNK, Stream, chunks, fill_normals, place

BLOCK = 4096  # weights whose sum is one item's work

# ---- Adam -----------------------------------------------------------------------------------


class Adam:
    """Adam [1]_, with L2 and L1 regularisation and weight noise that decays [2]_.

    With t = 1, 2, … the number of the step and w, g, m, v of each weight::

        g ← g + l2 · w + l1 · sign w
        m ← β₁ m + (1 − β₁) g                    v ← β₂ v + (1 − β₂) g²
        w ← w − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps)
        w ← w + lr · noise / t · N(0, 1)

    Parameters
    ----------
    size : int
        The number of weights.
    dtype : dtype
        float32 or float64.
    lr : float
        The learning rate of a step that is given none.
    betas : two of float
    eps, l2, l1, noise : float
        In units of the weights, but `l2` has none (the gradient per weight).
    seed : int
        Of the noise, which depends on (seed, step, weight) alone.
    like : array, optional
        Its device is where the moments are kept.
    """

    def __init__(
        self, size: int, dtype: DTypeLike, *, lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, l2: float = 0.0,
        l1: float = 0.0, noise: float = 0.0, seed: int = 0, like: Array | None = None,
    ) -> None:  # fmt: skip
        size, dtype = positive_int(size, "size"), _float(dtype)
        self.lr, self.steps = number(lr, "lr", low=0), 0
        self.seed = positive_int(seed, "seed", minimum=0, most=2**64 - 1)
        self.betas = several(real(0, 1 - 1e-12), 2, 2)(betas, "betas")
        self.eps = number(eps, "eps", low=1e-30)  # above 0 in float32 too: it is a divisor
        named = {"l2": l2, "l1": l1, "noise": noise}
        self.l2, self.l1, self.noise = (number(value, n, low=0) for n, value in named.items())
        self.first, self.second = zeros(size, dtype, like), zeros(size, dtype, like)

    def step(self, params: Array, gradient: Array, lr: float | None = None) -> None:
        """Change `params` in place.

        Parameters
        ----------
        params, gradient : array, shape (size,)
        lr : float, optional
        """
        _fits(params, self.first, "params")
        _fits(gradient, self.first, "gradient")
        numbers = self.count(lr)
        self.move(params, gradient, **{k: in_memory(v, params) for k, v in numbers.items()})

    def count(self, lr: float | None = None) -> dict[str, float]:
        """Count a step. Returns what is new in it, by name, for `move`."""
        lr = self.lr if lr is None else lr
        self.steps += 1
        b1, b2 = self.betas
        return {
            "rate": lr / (1 - b1**self.steps),
            "root": 1 / math.sqrt(1 - b2**self.steps),
            "sigma": lr * self.noise / self.steps,
            "step": self.steps - 1,
        }

    def move(
        self, params: Array, gradient: Array, *, rate: Array, root: Array, sigma: Array, step: Array
    ) -> None:
        """`step` without the counting: work for the device alone, on numbers in its memory."""
        b1, b2 = self.betas
        levels = b1, 1 - b1, b2, 1 - b2, self.eps, self.l2, self.l1
        levels = (params.dtype.type(level) for level in levels)
        at = place(self.seed, Stream.WEIGHT_NOISE, step)
        vectors = params, gradient, self.first, self.second
        adam_kernel(chunks(params.size), *vectors, *levels, rate, root, sigma, *at)

    def state(self) -> dict[str, Array]:
        """What it remembers: copies of the moments, and the number of steps done."""
        return {
            "first": self.first.copy(),
            "second": self.second.copy(),
            "steps": np.array(self.steps, np.int64),
        }

    def load(self, state: Mapping[str, Array]) -> None:
        """Go on from a `state`. `InputError` if it is of another size or dtype."""
        for name in ("first", "second"):
            _fits(state[name], self.first, name)
        for name in ("first", "second"):
            getattr(self, name)[...] = moved(state[name], self.first)
        self.steps = int(state["steps"])


@kernel(grain=16, launch=threads_per_item(CHUNK))
def adam_kernel(
    start, stop, w, g, first, second, b1, a1, b2, a2, eps, l2, l1, rate, root, sigma,
    step, stream, seed,
):  # fmt: skip
    zero, one, many = w.dtype.type(0), w.dtype.type(1), 4 * CHUNK
    pace, inverse, spread = w.dtype.type(rate[0]), w.dtype.type(root[0]), w.dtype.type(sigma[0])
    first_one, last = many * start, min(many * stop, w.size)
    ws, gs, ms, vs = (
        w[first_one:last], g[first_one:last], first[first_one:last], second[first_one:last]
    )  # fmt: skip
    for i in range(len(ws)):  # an index that cannot be negative: vectors
        sign = (one if ws[i] > zero else zero) - (one if ws[i] < zero else zero)
        slope = gs[i] + l2 * ws[i] + l1 * sign
        m = b1 * ms[i] + a1 * slope
        v = b2 * vs[i] + a2 * slope * slope
        ms[i], vs[i] = m, v
        ws[i] -= np.divide(pace * m, np.sqrt(v) * inverse + eps)
    if spread > zero:
        words, z = np.empty((4, CHUNK), np.uint64), np.empty((4, CHUNK))
        for chunk in range(start, stop):
            fill_normals(z, words, chunk, np.uint64(step[0]), stream, seed)
            ws = w[many * chunk : min(many * (chunk + 1), w.size)]
            for i in range(len(ws)):
                ws[i] += spread * w.dtype.type(z[i & 3, i >> 2])


class MovingAverage:
    """The exponential moving average of the weights, without the pull towards its first zeros.

    Parameters
    ----------
    size : int
    dtype : dtype
    decay : float
        What is left of the average after each step, in [0, 1).
    like : array, optional
        Its device is where the average is kept.
    """

    def __init__(
        self, size: int, dtype: DTypeLike, *, decay: float = 0.99, like: Array | None = None
    ) -> None:
        size, dtype = positive_int(size, "size"), _float(dtype)
        self.decay, self.steps = number(decay, "decay", low=0, high=1 - 1e-12), 0
        self.average = zeros(size, dtype, like)

    def update(self, params: Array) -> None:
        """Take `params`, shape (size,), into the average."""
        _fits(params, self.average, "params")
        self.steps += 1
        self.fold(params)

    def fold(self, params: Array) -> None:
        """`update` without the counting: work for the device alone."""
        kept, fresh = (params.dtype.type(part) for part in (self.decay, 1 - self.decay))
        moving_average_kernel(params.size, params, self.average, kept, fresh)

    def value(self) -> Array:
        """The average, as a new vector."""
        if not self.steps:
            raise ValueError("the moving average is empty: update() was never called")
        average = empty(self.average.shape, self.average.dtype, like=self.average)
        average[...] = self.average
        average *= average.dtype.type(1 / (1 - self.decay**self.steps))
        return average

    def state(self) -> dict[str, Array]:
        """What it remembers, as plain arrays."""
        return {"average": self.average.copy(), "steps": np.array(self.steps, np.int64)}

    def load(self, state: Mapping[str, Array]) -> None:
        """Go on from a `state`. `InputError` if it is of another size or dtype."""
        _fits(state["average"], self.average, "average")
        self.average[...] = moved(state["average"], self.average)
        self.steps = int(state["steps"])


@kernel(grain=4096)
def moving_average_kernel(start, stop, params, average, kept, fresh):
    for i in range(start, stop):
        average[i] = kept * average[i] + fresh * params[i]


def follow(statistics: Array, batch: Array, momenta: Array) -> None:
    """statistics += momenta · (batch − statistics), in place: of three vectors."""
    running_kernel(batch.size, statistics, batch, momenta)


@kernel(grain=4096)
def running_kernel(start, stop, statistics, batch, momenta):
    for i in range(start, stop):
        statistics[i] += momenta[i] * (batch[i] - statistics[i])


def total(vector: Array) -> Any:
    """The sum of all weights, float64: NaN or infinite where one of them is."""
    partial = empty(-(-vector.size // BLOCK), np.float64, like=vector)
    total_kernel(partial.size, vector, partial)
    return reduced(partial, vector, 1.0)[1][0]


@kernel(fastmath=True)
def total_kernel(start, stop, vector, partial):
    for block in range(start, stop):
        found = 0.0
        for i in range(block * BLOCK, min((block + 1) * BLOCK, vector.size)):
            found += np.float64(vector[i])
        partial[block] = found


def _float(dtype):
    """`dtype` if it is one that weights may have."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if dtype is None or found not in (np.float32, np.float64):
        raise InputError("dtype", "float32 or float64", told(dtype))
    return found


def _fits(vector, like, name):
    if vector.shape != like.shape or vector.dtype != like.dtype:
        expected = f"shape {like.shape} and dtype {like.dtype}"
        raise InputError(name, expected, f"{vector.shape} and {vector.dtype}")


# ---- schedules ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant(Checked):
    """The base rate, always. The other schedules are this with another `lr`.

    A schedule is asked ``lr(base, step, steps, state)`` for the rate of `step` (from 0) of
    `steps`. Its state, a small float64 array, begins as `start()` and is renewed by
    ``state = seen(state, loss)`` after each validation; only `Plateau` uses it.
    """

    def start(self) -> Array:
        """The state before the first step."""
        return np.zeros(0)

    def seen(self, state: Array, loss: float) -> Array:
        """The state after a validation loss."""
        return state

    def lr(self, base: float, step: int, steps: int, state: Array | None = None) -> float:
        """The learning rate of a step."""
        return base


@dataclass(frozen=True)
class Plateau(Constant):
    """The rate falls when the validation loss does not.

    Attributes
    ----------
    factor : float
        The rate is multiplied by it,
    patience : int
        after so many validations in a row without a loss below the best one, and then again
        after as many more.

    Its state is (best loss, validations since the best, since the best or the last fall, falls).
    The second of them is what early stopping waits for.
    """

    factor: float = checked(real(0, 1), 0.9)
    patience: int = checked(whole(), 150)

    def start(self) -> Array:
        return np.array([np.inf, 0, 0, 0])

    def seen(self, state: Array, loss: float) -> Array:
        best, since_best, waited, falls = state
        if loss < best:
            return np.array([loss, 0, 0, falls])
        fall = waited + 1 >= self.patience
        return np.array([best, since_best + 1, 0 if fall else waited + 1, falls + fall])

    def lr(self, base: float, step: int, steps: int, state: Array | None = None) -> float:
        return base * self.factor ** (0 if state is None else int(state[3]))


@dataclass(frozen=True)
class StepDecay(Constant):
    """The rate is multiplied by `factor` after every `every` steps."""

    every: int = checked(whole(), 500)
    factor: float = checked(real(0), 0.5)

    def lr(self, base: float, step: int, steps: int, state: Array | None = None) -> float:
        return base * self.factor ** (step // self.every)


@dataclass(frozen=True)
class OneCycle(Constant):
    """Up to the base rate and down again, both along half a cosine [3]_.

    Attributes
    ----------
    warmup : float
        The share of the steps that go up.
    first, final : float
        The rate of the first and of the last step, as a share of the base rate.
    """

    warmup: float = checked(real(0, 1), 0.3)
    first: float = checked(real(0, 1), 1 / 25)
    final: float = checked(real(0, 1), 1e-4)

    def lr(self, base: float, step: int, steps: int, state: Array | None = None) -> float:
        top, last = self.warmup * (steps - 1), steps - 1
        if step < top:
            return base * _cosine(self.first, 1, step / top)
        return base * _cosine(1, self.final, (step - top) / max(last - top, 1e-9))


def _cosine(a, b, share):
    """From `a` at share 0 to `b` at share 1, level at both ends."""
    return b + (a - b) * (1 + math.cos(math.pi * min(share, 1))) / 2
