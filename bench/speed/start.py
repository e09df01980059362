"""What an import costs, and the first step of a training: compiled, and from the cache."""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from os import environ
from pathlib import Path

from .. import timing

ROOT = Path(__file__).resolve().parents[2]
HEAVY = "numpy numba cupy scipy scipy.fft skimage matplotlib tifffile tqdm torch".split()
SHAPES = {"2-D": (256, 256), "3-D": (16, 64, 64)}

STEPS = """
import time
start = time.perf_counter()
from bench.speed.workload import training
from ssi_cupy.engine.backend import Pool, set_num_threads
set_num_threads({threads})
job = training({shape})
with Pool():
    job.step()
    first = time.perf_counter()
    job.step()
print(first - start, time.perf_counter() - first)
"""


def python(code, **variables):
    """What a fresh interpreter prints, and the seconds it took."""
    start = time.perf_counter()
    command, environment = [sys.executable, "-c", code], environ | variables
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.split(), time.perf_counter() - start


def import_cost(rounds):
    """Median seconds of an import beyond the bare interpreter, of numpy alone, and what loaded."""
    calls = {"bare": "pass", "numpy": "import numpy", "ssi_cupy": "import ssi_cupy"}
    runs = {name: lambda code=code: python(code) for name, code in calls.items()}
    seconds = timing.medians(timing.alternating(rounds, **runs))
    loaded, _ = python(
        f"import sys, ssi_cupy\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    )
    return {
        "import": seconds["ssi_cupy"] - seconds["bare"],
        "import_numpy": seconds["numpy"] - seconds["bare"],
        "heavy_modules": loaded,
    }


def first_steps(shape, threads, rounds):
    """Seconds from the interpreter's start of work to the end of the first step."""
    code = STEPS.format(shape=shape, threads=threads)
    with tempfile.TemporaryDirectory() as cache:
        runs = [python(code, NUMBA_CACHE_DIR=cache)[0] for _ in range(1 + rounds)]
    (empty, *_), *warm = [[float(n) for n in run] for run in runs]
    first, second = (statistics.median(some) for some in zip(*warm, strict=True))
    return {"empty_cache": empty, "warm_cache": first, "second_step": second}


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default=timing.RESULTS)
    options = parser.parse_args(arguments)
    machine = timing.machine(options.threads)
    print(timing.described(machine))

    cost = import_cost(options.rounds)
    loaded = ", ".join(cost["heavy_modules"]) or "none"
    print(f"import ssi_cupy: {cost['import']:.3f} s (import numpy: {cost['import_numpy']:.3f} s)")
    print(f"heavy modules loaded by it: {loaded}")
    rows, steps = [("first step", "empty cache", "warm cache", "second step")], {}
    for name, shape in SHAPES.items():
        steps[name] = first_steps(shape, options.threads, options.rounds)
        cells = (f"{seconds:.2f} s" for seconds in steps[name].values())
        rows.append((f"{name}, {'×'.join(map(str, shape))}", *cells))
    timing.table(rows)
    timing.write("start", cost | {"shapes": SHAPES, "first_step": steps}, machine, options.out)
    return 0
