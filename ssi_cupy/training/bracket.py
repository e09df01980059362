"""How wide a blur is before anything is trained: what the image says, and what its user guessed.

Total variation tells of several widths which predict held-out pixels best, and which as well
(`classical/width.py`). With log σ ± s from that, and log guess ± `GUESS`, the mean of both by
their precision ::

    log start = (log σ / s² + log guess / GUESS²) / (1 / s² + 1 / GUESS²)

is where a training starts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..classical.width import TOLD, WidthProfile, width_profile
from ..engine.types import Array
from ..noise import noise_model
from ..physics import LearnedPSF
from ..physics.learned import FACTOR, kernel_of

GUESS = 1.0  # standard deviation of the logarithm of a guess
METHOD = 0.08  # the same of a width that is told: what images differ by (python -m bench blind)
LOST = 1.0  # and where no width to one side is worse: the guess stays
THIRDS = 2.0 ** (np.arange(-4, 5) / 3)
SIXTHS = 2.0 ** (np.arange(-3, 4) / 6)
WIDEST = 8  # an image is at least that many times as large as a blur that it tells of
PIXELS = 256**2  # of the part of an image that is looked at


def bracketed(g: LearnedPSF, y: Array, masked: Array | None, seed: int) -> tuple[LearnedPSF, float]:
    """(`g` with the start of a training for its guess, the standard error of log σ there).

    Parameters
    ----------
    g : LearnedPSF
        The guess.
    y : (N, C, Z, Y, X) array
        The first image's first channel is looked at.
    masked : array of bool like `y`, optional
    seed : int
    """
    if "sigma" not in g.learn:
        return g, 0.0
    y, masked = (None if a is None else a[0, 0] for a in (y, masked))
    part = part_of(y.shape)
    y, masked = (None if a is None else a[part] for a in (y, masked))
    if y.shape[0] == 1:
        y, masked = y[0], None if masked is None else masked[0]
    y = np.ascontiguousarray(y, np.float64)
    noise, guess = noise_model(y, g.psf.reshape(g.psf.shape[-y.ndim :])).level, g.guess.copy()
    if not noise > 0:
        return g, LOST

    def profile(ratios, moves, weight=None):
        def widened(ratio):
            psf = kernel_of(guess + np.log(ratio) * moves, 4.0)
            return psf.reshape(psf.shape[-y.ndim :])

        found = width_profile(y, widened, ratios, noise, masked=masked, mode=g.mode, weight=weight,
                              seed=seed)  # fmt: skip
        return found, guess + np.log(found.best) * moves

    depth, across = np.eye(len(guess))[:2]
    wide, guess = profile(THIRDS, depth + across)
    error = _error(wide)
    if error == LOST:
        return g, LOST
    for axis in (depth, across, depth) if "sigma_z" in g.learn else ():
        _, guess = profile(THIRDS, axis, wide.weight)
    _, guess = profile(SIXTHS, depth + across)
    share = GUESS**2 / (GUESS**2 + error**2)
    start, room = g.guess.copy(), np.log(FACTOR)
    change = share * (guess[:2] - np.where(np.isfinite(start[:2]), start[:2], 0.0))
    start[:2] += np.clip(np.nan_to_num(change, neginf=0.0), -room, room)
    start[1] = min(start[1], np.log(min(y.shape[-2:]) / WIDEST))
    return g.guessing(start), error


def _error(profile: WidthProfile) -> float:
    low, high = profile.interval()
    if not low > 0 or not np.isfinite(high):
        return LOST
    return float(np.hypot(METHOD, np.log(high / low) / (2 * TOLD)))


def part_of(shape: Any) -> tuple[slice, ...]:
    """The middle of an image, as much of it as is looked at."""
    axes = max(sum(n > 1 for n in shape), 1)
    share = min(1.0, (PIXELS / np.prod(shape)) ** (1 / axes))
    sides = [max(round(share * n), min(n, 16)) for n in shape]
    return tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(shape, sides, strict=True))
