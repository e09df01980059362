"""Ctrl-C that is not lost."""

from __future__ import annotations

import signal
import threading
from typing import Self


class Interrupts:
    """Ctrl-C as ever; and where what it raised was lost in a callback or a finaliser of some
    library, which report it and go on, the next `check` raises it again.

    >>> with Interrupts() as interrupts:
    ...     for tile in range(3):
    ...         interrupts.check()
    """

    def __enter__(self) -> Self:
        self.seen, self._before, self._outer = False, None, None
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            outer = getattr(before, "__self__", None)
            if before is signal.default_int_handler:  # else it is somebody's own, who knows
                self._before = signal.signal(signal.SIGINT, self._interrupt)
            elif isinstance(outer, Interrupts):
                self._outer = outer
        return self

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was one."""
        if self.seen:
            raise KeyboardInterrupt
        if self._outer is not None:
            self._outer.check()

    def __exit__(self, kind: object, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if kind is None:
            self.check()

    def _interrupt(self, number, frame):
        self.seen = True
        raise KeyboardInterrupt
