"""A training from its first step to its last."""

from __future__ import annotations

from typing import Any

from ..engine.types import Callback, PathLike
from . import checkpoints
from .progress import Progress

CHECKPOINT_EVERY = 100  # steps


def run(
    training: Any,
    shown: Progress,
    callback: Callback | None = None,
    checkpoint: PathLike | None = None,
    plan: Any = None,
) -> None:
    """Step by step, until all are done, the callback says so, or patience is at an end.

    Parameters
    ----------
    training : Training
        One that may have steps behind it.
    shown : Progress
    callback : callable, optional
    checkpoint : path, optional
    plan : Plan, optional
        By the first steps it tells what the run will cost.
    """
    measured = plan.measured() if plan is not None else None
    while training.done < training.steps:
        report = training.step() if measured is None else measured.step(training)
        shown.update(report)
        stop = bool(callback(report)) if callback is not None else False
        last = stop or shown.interrupted or training.exhausted() or training.done == training.steps
        if checkpoint is not None and (last or training.done % CHECKPOINT_EVERY == 0):
            checkpoints.save(training, checkpoint)
        if shown.interrupted:
            raise KeyboardInterrupt
        if measured is not None and measured.enough:
            shown.tell(plan.saw(training, measured))
            measured = None
        if stop or training.exhausted():
            break
    training.finish()
