"""Where a training's images come from: what the network is shown in each step.

A source is asked for one batch after another, and fills arrays that stay where they are, so that a
whole step can be captured once and replayed. It has ::

    shape                               (N, C, Z, Y, X) of a batch
    like                                an array on the device where batches are made
    shape_of(step)                      the batch's shape in that step: `shape`, or a turned one
    draw(step, y, validation, inside)   fill the three, a pure function of the seed and the step
    every()                             all there is to see, batch by batch, for calibration
    mean                                of the image, which may stand in for hidden pixels
    fingerprint()                       what a checkpoint knows it by
    checks                              how many batches a validation has, if it is apart
    check(number, y, validation, inside)    fill the three with one of them, always the same

Where `checks` is 0, every step has its validation: of the pixels that it has hidden for that.

`y`, float32, is target and network input; `validation`, uint8 of one channel, the pixels that are
always hidden and never in the loss; `inside`, alike, those that the loss may look at.
"""

from __future__ import annotations

import zlib

from . import symmetry
from .backend import host
from .masking import validation_pixels
from .random import Stream, pick


class WholeImage:
    """The whole image in every step, turned by one of its turns.

    Parameters
    ----------
    y : (N, C, Z, Y, X) array of float32
        In units of the training.
    validation : float
        The fraction of pixels that is kept for validation.
    turns : list of symmetry
        Of which one is picked in each step.
    seed : int
    """

    def __init__(self, y, *, validation, turns=(symmetry.IDENTITY,), seed=0):
        self.y = self.like = y
        self.shape, self.turns, self.seed = y.shape, list(turns), seed
        self.mean = float(host(y).mean())  # on the CPU, whose sum it is on every device
        self.validation = validation_pixels(y.shape, validation, seed, like=y)
        self._drawn, self._into, self.checks = None, None, 0

    def shape_of(self, step):
        """The batch's shape in a step: that of the image, or with Y and X exchanged."""
        *first, y, x = self.shape
        return (*first, x, y) if self._turn(step)[0] else self.shape

    def draw(self, step, y, validation, inside):
        """Fill `y`, `validation` and `inside`; all of it is inside."""
        turn = self._turn(step)
        if self._drawn == turn and self._into is y:  # which holds it still
            return
        symmetry.turn(self.y, turn, out=y)
        symmetry.turn(self.validation, turn, out=validation)
        inside[...] = 1
        self._drawn, self._into = turn, y

    def every(self):
        """The image in all its turns."""
        for turn in self.turns:
            yield symmetry.turn(self.y, turn)

    def fingerprint(self):
        """Shape and checksum."""
        return f"{self.shape}, crc {zlib.crc32(host(self.y)):08x}"

    def _turn(self, step):
        return self.turns[pick(len(self.turns), self.seed, Stream.TURN, step)]
