"""The progress bar of a training; Ctrl-C that waits for the end of a step; why one diverged."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Self

from ..engine.backend import compiling, host
from ..engine.types import Array

OUTLIER = 1e4  # contrasts above the background, where a pixel is no part of the picture


def counted(files: Any, what: str, show: bool = True) -> Iterator:
    """`files`, with a bar that from the first second says what is done to how many of them."""
    if not show or len(files) < 2:
        yield from files
        return
    from tqdm.auto import tqdm

    with tqdm(files, desc=what, unit="file", dynamic_ncols=True, leave=False) as bar:
        yield from bar


class Progress:
    """Shows where a training is; remembers in `interrupted` that the user wants it to end.

    A step that is cut in two leaves weights and moments that do not belong together, so the first
    Ctrl-C only sets the flag, and the loop ends after the step. A second one ends it at once.

    Parameters
    ----------
    steps : int
    done : int
        Steps done before.
    show : bool
    device : str
        Where the training runs.
    """

    def __init__(self, steps: int, done: int = 0, show: bool = True, device: str = "cpu") -> None:
        self.interrupted, self._device = False, device
        self._steps, self._done, self._show, self._bar = steps, done, show, None
        self._lines = self._told = False
        self._compiling = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            if self._before is not None:
                signal.signal(signal.SIGINT, self._interrupt)
        if self._show and not _watched():
            self._lines = True
        elif self._show:
            from tqdm.auto import tqdm

            self._bar = tqdm(
                total=self._steps, initial=self._done, unit="step", dynamic_ncols=True,
                desc="compiling (first run only)" if self._device != "cpu" else "starting",
            )  # fmt: skip
        if self._show and self._device == "cpu":
            self._compiling.enter_context(compiling(self._waits_for))
        return self

    def _waits_for(self, loop):
        """Say so: a loop of that name is being compiled."""
        if self._bar is not None:
            self._bar.set_description_str(f"compiling {loop} (first run only)")
        elif not self._told:
            print("compiling (first run only)", file=sys.stderr, flush=True)
        self._told = True

    def update(self, report: Mapping[str, Any]) -> None:
        """One more step is done."""
        self._done += 1
        if self._lines and self._done * 10 // self._steps > (self._done - 1) * 10 // self._steps:
            told = f"training on {self._device}: step {self._done} of {self._steps}"
            print(f"{told}, loss {report['loss']:.3g}", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.set_description_str(f"training on {self._device}", refresh=False)
            self._bar.set_postfix_str(f"loss {report['loss']:.3g}", refresh=False)
            self._bar.update()

    def __exit__(self, *_: object) -> None:
        self._compiling.close()
        if self._bar is not None:
            self._bar.close()
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, number, frame):
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True


def _watched():
    """Whether there is a terminal, or a notebook, that a bar can be drawn in."""
    terminal = getattr(sys.stderr, "isatty", lambda: False)()
    return terminal or "ipykernel" in sys.modules


def diverged(step: int, y: Array) -> FloatingPointError:
    """The error that says why a loss or a weight is no number any more."""
    largest = float(abs(host(y)).max())
    told = f"the training diverged at step {step}"
    if step:
        told += ": lower recipe.lr, if the data and the losses are as they should be"
    elif largest > OUTLIER:
        told += f", for a pixel is {largest:.2g} times the image's contrast: mask or clip it"
    else:
        told += ", before anything was learned: it is the losses, the forward model or the data"
    error = FloatingPointError(told)
    error.step = step  # type: ignore[attr-defined]
    return error
