"""Times taken alternately, the machine they were taken on, and a file to keep them in."""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import import_module, metadata
from pathlib import Path

from ssi_cupy.engine.backend import set_num_threads
from ssi_cupy.engine.cpu.llvm import registers

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def alternating(rounds, **calls):
    """Seconds of each call, a list of `rounds` by name: one of each, then the next round.

    What disturbs the machine then disturbs all of them. One call of each comes first, untimed.
    """
    seconds = {name: [] for name in calls}
    for timed in [False] + rounds * [True]:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if timed:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds):
    """The median of each list of `alternating`."""
    return {name: statistics.median(some) for name, some in seconds.items()}


def machine(threads=None):
    """What a figure must be read with."""
    packages = {}
    for name in ("numpy", "scipy", "numba", "torch"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": packages,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def cores():
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), None)


def described(machine):
    """`machine()` in a line."""
    packages = ", ".join(f"{name} {v}" for name, v in machine["packages"].items() if v)
    threads = f", {machine['threads']} threads" if machine["threads"] else ""
    return (
        f"{machine['cpu']}, {machine['cores']} cores{threads}, load {machine['load']}; "
        f"Python {machine['python']}, {packages}"
    )


ISA = {  # what tells both sides to use no more than that: us and BLAS, then PyTorch
    "avx2": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "",
        "OPENBLAS_CORETYPE": "Haswell",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "sse4": {
        "NUMBA_CPU_NAME": "nehalem",
        "NUMBA_CPU_FEATURES": "",
        "OPENBLAS_CORETYPE": "Nehalem",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
}


def add_isa(parser):
    says = "no more than these instructions, for both sides, on a machine that has more"
    parser.add_argument("--isa", choices=ISA, help=says)


def use_isa(name):
    """Have both sides use no more than these instructions, in this process and its children."""
    if name is None:
        return
    if {"numba", "torch"} & set(sys.modules):
        raise RuntimeError("--isa comes too late: numba or PyTorch is loaded already")
    os.environ.update(ISA[name])


def vectors():
    """The vector registers that our loops are compiled for, and what PyTorch says it uses."""
    import torch

    ours = registers()
    found = {"ours": f"{8 * ours.bytes} bits, {ours.number} registers"}
    found["torch"] = torch.backends.cpu.get_cpu_capability()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return found | ({"oneDNN": f"at most {limit}"} if limit else {})


def with_pytorch(threads):
    """`machine()`, told, with so many threads set for us; None, and said, without PyTorch."""
    try:
        import_module("torch")
    except ImportError:
        print("PyTorch is not installed: pip install torch", file=sys.stderr)
        return None
    set_num_threads(threads)
    made = machine(threads) | {"vectors": vectors()}
    print(described(made))
    print("vectors: " + "; ".join(f"{who} {what}" for who, what in made["vectors"].items()))
    return made


def git(*arguments):
    try:
        done = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def head(name, machine):
    """What a file of results begins with: the date, the commit and the machine."""
    return {
        "bench": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "machine": machine,
    }


def write(name, result, machine, out):
    """`result` as ``out/name.json``, with its `head`."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(head(name, machine) | result, indent=1) + "\n")
    print(f"written to {path}")


def table(rows):
    """Print rows of cells, the first row being the titles: text to the left, numbers right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells))
