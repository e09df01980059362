"""Work that a GPU does again and again, as a CUDA graph: captured once, replayed from then on.

A training step is some hundred short kernels, and on small images to launch them takes longer than
to run them. A graph launches all of them at once. It replays the same kernels with the same scalar
arguments on the same memory, so what is captured must

- work on arrays that stay where they are, and read from memory what changes from run to run;
- read nothing back and wait for nothing: in a capture nothing runs, there is nothing to wait for;
- have run before, so that kernels are compiled, Fourier transforms planned, tables uploaded.

Memory that is taken during the capture belongs to the graph: it comes from a pool of its own, which
nobody else takes from, or what others write there would be overwritten by the next replay.

On the CPU, and where capturing is off, all is simply run. Where a capture fails the reason is
logged, and from then on all is run: the same kernels on the same numbers, to the same bits.
"""

from __future__ import annotations

import gc
import traceback

from ..backend import holding, log
from .driver import device_pool


class Capture:
    """Runs functions of arrays in place: once as they are, and then as graphs.

    Parameters
    ----------
    enabled : bool
        False to run them as they are, on the current stream: on a CPU, or for a debugger.

    ``with capture:`` makes a stream of its own the current one, before and behind which the outer
    stream waits. Within, ``capture(key, function, *args)`` runs the function; another key for
    other arguments.
    """

    def __init__(self, enabled):
        self.enabled = enabled
        self._graphs = {}  # by key
        self._held = []  # what they read that others might drop
        self._outer = []
        if enabled:
            import cupy

            # A non-blocking stream: the legacy one cannot be captured, nor what waits for it.
            self._stream = cupy.cuda.Stream(non_blocking=True)
            self._pool = cupy.cuda.MemoryPool()

    def __enter__(self):
        if self.enabled or self._graphs:
            import cupy

            outer = cupy.cuda.get_current_stream()
            self._stream.wait_event(outer.record())
            self._stream.__enter__()
            self._outer.append(outer)
        return self

    def __exit__(self, *error):
        if self._outer:
            outer = self._outer.pop()
            self._stream.__exit__(*error)
            outer.wait_event(self._stream.record())

    def __call__(self, key, function, *args):
        if not self.enabled:
            function(*args)
        elif key in self._graphs:
            self._graphs[key].launch(self._stream)
        else:  # captured at once: others might drive out plans that this run has made
            function(*args)
            self._capture(key, function, args)

    def _capture(self, key, function, args):
        """Make a graph of `function`, if it can be captured. Nothing of it runs here."""
        import cupy

        device_pool().free_all_blocks()  # what the first run left there is what the graph needs
        error, graph = None, None
        with cupy.cuda.using_allocator(self._pool.malloc), holding(self._held):
            self._stream.begin_capture()
            try:
                function(*args)
            except Exception as found:  # a forward model of the user's may do anything
                error = found
            try:  # ended in any case: until then the stream takes no other work
                graph = self._stream.end_capture()
            except Exception as found:
                error = error or found
        if error is None:
            self._graphs[key] = graph
            return
        log.warning(
            "training without a CUDA graph, kernel by kernel, because a step cannot be captured: "
            "%s: %s", type(error).__name__, error,
        )  # fmt: skip
        self.enabled = False
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        self._pool.free_all_blocks()

    def close(self):
        """Give back graphs and memory. What was captured may not be run again."""
        if self.enabled or self._graphs:
            self._stream.synchronize()
            self._graphs.clear()
            self._held.clear()
            self._pool.free_all_blocks()
            self.enabled = False
