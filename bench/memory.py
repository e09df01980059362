"""Peak memory of a training step: ``python -m bench.memory WHO SIZE THREADS`` prints bytes.

In a process of its own, above what libraries and a tiny training take.
"""

import resource
import subprocess
import sys
from pathlib import Path

from ssi_cupy.engine.backend import Pool, set_num_threads

from .speed.workload import training

ROOT = Path(__file__).resolve().parents[1]


def peak_of(who, size, threads):
    """Peak bytes of a training; `who` is "ours" or a memory layout of PyTorch's."""
    command = [sys.executable, "-m", "bench.memory", who, str(size), str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout)


def measure(who, size, threads):
    set_num_threads(threads)
    if who != "ours":
        from .speed import rival

        rival.use_threads(threads)
    for side in (32, size):  # the first one loads what is loaded only once
        before, job = most_resident(), training((side, side))
        if who != "ours":
            job = rival.Rival(job, who, "direct" if side == 32 else None)
        with Pool():
            for _ in range(3):
                job.step()
    return most_resident() - before


def most_resident():
    """Peak bytes so far. Not `ru_maxrss` on Linux: a child's begins at what its parent had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return int(status["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    who, *numbers = sys.argv[1:]
    print(measure(who, *map(int, numbers)))
