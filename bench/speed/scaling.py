"""A training step of recipe SSI with more threads, and on larger images: times, and plots of them.

Efficiency is the time with one thread over that with n, over n. Cores share memory, and on many
machines more than that, so beside it stands what n threads could reach at most: the same, had they
nothing to do with each other. That is how long a step with one thread takes while n - 1 other
processes do such steps too. What a pixel costs should not depend on how many there are.
"""

import argparse
import contextlib
import multiprocessing
import os
import signal
from pathlib import Path

from ssi_cupy.engine.backend import Pool, set_num_threads

from .. import timing
from ..plots import canvas, save
from .workload import training

FLAT = 256  # pixels a side from which the time of a pixel is compared


def step_of(side, threads):
    """A step as a call, with so many threads."""
    ours = training((side, side), crop=None)

    def step():
        set_num_threads(threads)
        ours.step()

    return step


def _neighbour(side, ready):
    with Pool():
        step = step_of(side, 1)
        step()
        ready.set()
        while True:
            step()


@contextlib.contextmanager
def neighbours(number, side):
    """So many processes. What this yields makes a call one beside which the first n do steps."""
    spawn = multiprocessing.get_context("spawn")
    ready = [spawn.Event() for _ in range(number)]
    processes = [spawn.Process(target=_neighbour, args=(side, e), daemon=True) for e in ready]

    def beside(call, n):
        def busy():
            for process in processes[:n]:
                os.kill(process.pid, signal.SIGCONT)
            try:
                call()
            finally:
                for process in processes[:n]:
                    os.kill(process.pid, signal.SIGSTOP)

        return busy

    try:
        for process, event in zip(processes, ready, strict=True):
            process.start()
            while not event.wait(1):
                if not process.is_alive():
                    raise RuntimeError("a process that was to do steps beside this one has died")
            os.kill(process.pid, signal.SIGSTOP)
        yield beside
    finally:
        for process in processes:
            process.kill()


def by_threads(side, threads, rounds):
    """Seconds of a step by number of threads; with one, by number of processes that do steps."""
    calls = {str(n): step_of(side, n) for n in range(1, threads + 1)}
    with neighbours(threads - 1, side) as beside:
        for n in range(2, threads + 1):
            calls[f"one of {n}"] = beside(calls["1"], n - 1)
        found = timing.medians(timing.alternating(rounds, **calls))
    alone = {1: found["1"]} | {n: found[f"one of {n}"] for n in range(2, threads + 1)}
    return {n: found[str(n)] for n in alone}, alone


def by_size(sides, threads, rounds):
    """Seconds of a step by side of the image; few rounds where a step takes long."""
    found = {}
    for side in sides:
        few = max(3, min(rounds, round(rounds * (512 / side) ** 2)))
        found[side] = timing.medians(timing.alternating(few, step=step_of(side, threads)))["step"]
    return found


def plot(seconds, alone, side, sizes, threads):
    """Left: the step's speed by threads. Right: what a pixel costs, by size."""
    figure = canvas(8.5, 3.4)
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.16, top=0.88, wspace=0.25)
    numbers = list(seconds)
    left.plot(numbers, [seconds[1] / s for s in seconds.values()], "o-", label="threads")
    left.plot(numbers, [n * seconds[1] / s for n, s in alone.items()], "s:", label="processes")
    left.plot(numbers, numbers, "--", color="#888888", label="ideal")
    left.set(xticks=numbers, xlabel="how many", ylabel="times as fast", ylim=(0, None))
    left.set_title(f"A training step at {side}²", fontsize=9)
    left.legend(frameon=False, fontsize=8)
    right.plot(list(sizes), [1e9 * s / n**2 for n, s in sizes.items()], "o-")
    right.set_xscale("log", base=2)
    right.set(xlabel="side of the image, pixels", ylabel="ns per pixel", ylim=(0, None))
    right.set_xticks(list(sizes), [str(n) for n in sizes])
    right.set_title(f"A step per pixel, {threads} threads", fontsize=9)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench scaling", description=__doc__)
    add = parser.add_argument
    add("--side", type=int, default=512, help="of the image for the threads (512)")
    add("--sides", type=int, nargs="+", default=[128, 256, 512, 1024, 2048])
    add("--threads", type=int, default=timing.cores())
    add("--rounds", type=int, default=9)
    add("--out", default=timing.RESULTS)
    options = parser.parse_args(arguments)
    machine = timing.machine(options.threads)
    print(timing.described(machine))
    with Pool():
        seconds, alone = by_threads(options.side, options.threads, options.rounds)
    with Pool():
        sizes = by_size(options.sides, options.threads, options.rounds)
    efficiency = {n: seconds[1] / s / n for n, s in seconds.items()}
    most = {n: seconds[1] / s for n, s in alone.items()}
    flat = [s / n**2 for n, s in sizes.items() if n >= FLAT]
    spread = max(flat) / min(flat) - 1 if flat else None
    timing.table([("threads", "ms", "efficiency", "at most"),
                  *((str(n), f"{1e3 * s:.1f}", f"{efficiency[n]:.2f}", f"{most[n]:.2f}")
                    for n, s in seconds.items())])  # fmt: skip
    timing.table([("side", "ms", "ns per pixel"),
                  *((str(n), f"{1e3 * s:.1f}", f"{1e9 * s / n**2:.0f}")
                    for n, s in sizes.items())])  # fmt: skip
    if flat:
        print(f"from {FLAT}² on the dearest pixel costs {spread:.0%} more than the cheapest")
    found = {
        "side": options.side,
        "seconds_by_threads": seconds,
        "efficiency": efficiency,
        "at_most": most,
    }
    found |= {"seconds_by_side": sizes, "spread": spread, "rounds": options.rounds}
    timing.write("scaling", found, machine, options.out)
    save(
        plot(seconds, alone, options.side, sizes, options.threads),
        Path(options.out) / "scaling.png",
    )
    return 0
