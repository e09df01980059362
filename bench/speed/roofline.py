"""Where a training step spends its time, and how near each part is to what the machine can do.

A part is all calls of one kernel, and of a convolution those of one shape; the FFT is one too.
FLOPs are those of the equation (two per multiply-add), not what the loop does on top of it. Bytes
are those of every array that a kernel is given, once: less cannot be moved, more may be. Of all
timed steps the one of median length is shown.
"""

import argparse
import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ssi_cupy import recipes
from ssi_cupy.engine import backend
from ssi_cupy.ops import fft_convolution

from .. import timing
from .workload import training


@dataclass
class Part:
    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other):
        return Part(*(getattr(self, f) + getattr(other, f) for f in vars(self)))


def work(name, shapes):
    """(name with shapes, FLOPs) of one call of a kernel, of whose arguments arrays are shapes."""
    if name == "conv_forward_kernel":  # also the gradient by the input: the same loop
        x, y, kernel = shapes[0], shapes[5], shapes[7:10]
    elif name == "conv_weights_kernel":
        x, y, kernel = shapes[0], shapes[2], shapes[6:9]
    elif name == "direct_convolution_kernel":
        x, y = shapes[0], shapes[3]
        kernel = [n - m + 1 for n, m in zip(x[1:], y[1:], strict=True)]
        x, y = (x[0], 1, *x[1:]), (y[0], 1, *y[1:])
    else:
        return name.removesuffix("_kernel"), 0
    flops = 2 * math.prod(y) * x[1] * math.prod(kernel)
    width, size = ("×".join(str(n) for n in some if n > 1) or "1" for some in (kernel, y[2:]))
    return f"{name.removesuffix('_kernel')} {x[1]}→{y[1]}, {width}, at {size}", flops


@contextmanager
def observed(calls):
    """While this lasts, every kernel and FFT enters itself in the list `calls`.

    With little more than the time: looking closer meanwhile would be seen in the step.
    """
    call, filtered = backend.Kernel.__call__, fft_convolution._filtered

    def kernel(self, n, *args, **options):
        start = time.perf_counter()
        call(self, n, *args, **options)
        taken = time.perf_counter() - start
        shapes = [getattr(a, "shape", a) for a in args]
        calls.append((self.__name__, taken, shapes, sum(getattr(a, "nbytes", 0) for a in args)))

    def fft(x, transfer, *plans, **options):
        start = time.perf_counter()
        found = filtered(x, transfer, *plans, **options)
        calls.append(("fft", time.perf_counter() - start, (), 2 * x.nbytes + transfer.nbytes))
        return found

    backend.Kernel.__call__, fft_convolution._filtered = kernel, fft
    try:
        yield
    finally:
        backend.Kernel.__call__, fft_convolution._filtered = call, filtered


def summed(calls):
    """The `Part`s of observed calls, by name."""
    parts = {}
    for kernel, taken, shapes, moved in calls:
        name, flops = work(kernel, shapes)
        parts[name] = parts.get(name, Part()) + Part(1, taken, flops, moved)
    return parts


def profile(job, rounds):
    """The `Part`s of the step of median length by name, and its seconds."""
    steps = []
    with backend.Pool():
        for i in range(2 + rounds):
            calls, start = [], time.perf_counter()
            with observed(calls):
                job.step()
            if i >= 2:  # the first ones load kernels and take memory
                steps.append((time.perf_counter() - start, calls))
    seconds, calls = sorted(steps, key=lambda step: step[0])[len(steps) // 2]
    return summed(calls), seconds


def gemm_rate(n=1536):
    """FLOP/s of a float32 matrix product through BLAS, the best of five."""
    a, b = (np.random.default_rng(i).random((n, n), np.float32) for i in range(2))
    return 2 * n**3 / min(timing.alternating(5, gemm=lambda: a @ b)["gemm"])


def copy_bandwidth(threads, n=1 << 25):
    """Bytes per second read and written by a copy, shared by `threads`, the best of five."""
    source, target = (np.ones((threads, n // threads), np.float32) for _ in range(2))
    with ThreadPoolExecutor(threads) as pool:
        times = timing.alternating(5, copy=lambda: list(pool.map(np.copyto, target, source)))
    return 2 * source.nbytes / min(times["copy"])


def row(name, p, step, gemm, copy):
    rate, moved = (amount / p.seconds if p.seconds else 0 for amount in (p.flops, p.bytes))
    compute = (f"{rate / 1e9:.0f}", f"{rate / gemm:.0%}") if p.flops else ("", "")
    times = (str(p.calls), f"{p.seconds * 1e3:.2f}", f"{p.seconds / step:.1%}")
    return (name, *times, *compute, f"{moved / 1e9:.1f}", f"{moved / copy:.0%}")


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench roofline", description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="of a square image")
    parser.add_argument("--shape", type=int, nargs="+", help="Y X or Z Y X, in place of --size")
    parser.add_argument("--recipe", choices=recipes.names(), help="default: ssi; of a volume, "
                        "default")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default=timing.RESULTS)
    options = parser.parse_args(arguments)
    backend.set_num_threads(options.threads)
    machine = timing.machine(options.threads)
    print(timing.described(machine))
    gemm, copy = gemm_rate(), copy_bandwidth(options.threads)
    shape = options.shape or [options.size] * 2
    recipe = options.recipe or ("ssi" if len(shape) == 2 else "default")
    parts, seconds = profile(training(shape, recipe), options.rounds)
    explained = sum(part.seconds for part in parts.values()) / seconds

    rows = [("part", "calls", "ms", "share", "GFLOP/s", "of GEMM", "GB/s", "of copy")]
    small = Part()
    for name, p in sorted(parts.items(), key=lambda item: -item[1].seconds):
        if p.seconds < 0.005 * seconds:
            small = small + p
        else:
            rows.append(row(name, p, seconds, gemm, copy))
    rows.append(row("all smaller ones", small, seconds, gemm, copy))
    between = seconds * (1 - explained)
    rows.append(
        ("Python between them", "", f"{between * 1e3:.2f}", f"{1 - explained:.1%}", *4 * [""])
    )
    timing.table(rows)
    print(f"GEMM {gemm / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s (read + written)")
    size = "×".join(map(str, shape))
    print(f"a step of recipe {recipe} at {size}: {seconds * 1e3:.1f} ms, {explained:.1%} of it in "
          f"these parts")  # fmt: skip
    result = {"shape": shape, "recipe": recipe, "seconds": seconds, "explained": explained}
    result |= {"gemm": gemm, "copy": copy, "parts": {name: vars(p) for name, p in parts.items()}}
    name = "roofline" if len(shape) == 2 else "roofline_3d"
    timing.write(name, result, machine, options.out)
    return 0
