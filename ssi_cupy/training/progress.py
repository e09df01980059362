"""The progress bar of a training; Ctrl-C that waits for the end of a step; why one diverged."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from ..engine.backend import compiling, host
from ..engine.types import Array

RECENT = 15  # steps, by which the time left is told
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps [{elapsed}{postfix}]"
OUTLIER = 1e4  # contrasts above the background, where a pixel is no part of the picture


def counted(files: Any, what: str, show: bool = True) -> Iterator:
    """`files`, with a bar that from the first second says what is done to how many of them."""
    if not show or len(files) < 2:
        yield from files
        return
    from tqdm.auto import tqdm

    with tqdm(files, desc=what, unit="file", dynamic_ncols=True, leave=False) as bar:
        yield from bar


def in_words(seconds: float) -> str:
    """A time as one says it: "8.1 ms", "2.4 s", "35 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 0.995:
        return f"{1e3 * seconds:.2g} ms" if seconds < 0.0995 else f"{seconds:.2f} s"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 3570:
        minutes, rest = divmod(round(seconds / 5) * 5, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


class Progress:
    """Shows where a training is; remembers in `interrupted` that the user wants it to end.

    A step that is cut in two leaves weights and moments that do not belong together, so the first
    Ctrl-C only sets the flag, and the loop ends after the step. A second one ends it at once.

    Parameters
    ----------
    steps : int
    show : bool
    device : str
        Where the training runs.
    """

    def __init__(self, steps: int, show: bool = True, device: str = "cpu") -> None:
        self.interrupted, self._device = False, device
        self._steps, self._done, self._show, self._bar = steps, 0, show, None
        self._lines = self._told = False
        self._clock, self._times = 0.0, []
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
                total=self._steps, dynamic_ncols=True, bar_format=BAR,
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

    def begin(self, steps: int, done: int) -> None:
        """So many steps there will be, once that is known, and so many were done before."""
        self._steps, self._done, self._clock = steps, done, time.perf_counter()
        if self._bar is not None:
            self._bar.total, self._bar.n = steps, done
            self._bar.refresh()

    def tell(self, text: object) -> None:
        """Show a line above the bar."""
        if self._bar is not None:
            self._bar.write(str(text), file=sys.stderr)
        elif self._show:
            print(text, file=sys.stderr, flush=True)

    def update(self, report: Mapping[str, Any]) -> None:
        """One more step is done."""
        self._done += 1
        told, left = f"loss {report['loss']:.3g}", self._left()
        if self._done < self._steps:
            told += f", {in_words(left)} left"
        if self._lines and self._done * 10 // self._steps > (self._done - 1) * 10 // self._steps:
            done = f"training on {self._device}: step {self._done} of {self._steps}"
            print(f"{done}, {told}", file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.set_description_str(f"training on {self._device}", refresh=False)
            self._bar.set_postfix_str(told, refresh=False)
            self._bar.update()

    def _left(self):
        """Seconds that the other steps will take, if they do as the last ones did."""
        now, before = time.perf_counter(), self._clock
        self._clock = now
        self._times = [*self._times[-RECENT + 1 :], now - before]
        # The first one is so long because loops are compiled in it.
        return float(np.median(self._times)) * (self._steps - self._done)

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
