"""What only a GPU can tell: ``python -m bench gpu --part PART --out DIR``.

parity    every row of tests/cases.py, masks and random numbers, against the CPU's results
sanitize  compute-sanitizer's memcheck and racecheck over the same rows
steps     50 training steps of each recipe beside the CPU's; graph and eager, twice the same bits
speed     a training step and an inference beside PyTorch: eager, compiled, under CUDA graphs
networks  a training step of the papers' wide networks beside PyTorch, in each precision
layers    their convolutions one by one: each precision, PyTorch's, and shifted products by cuBLAS
tables    the benchmark's images restored by the recipes
expect    on a machine with numba and no GPU: write what the CPU computes to DIR/expected.npz

Needs cupy and a GPU, and for speed, networks and layers PyTorch; neither numba nor tifffile nor
pytest. Where numba is missing too, the CPU's results come from --expected. Each part takes less
than 8 minutes, and writes gpu_PART.json and gpu_PART.md to DIR.
"""

import argparse
import shutil
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ssi_cupy.engine.gpu import driver
from ssi_cupy.engine.precision import PRODUCTS

from .. import timing

ROOT = Path(__file__).resolve().parents[2]
PARTS = {
    "parity": "parity", "steps": "steps", "speed": "speed", "tables": "tables",
    "networks": "networks", "layers": "layers",
    "sanitize": "parts", "expect": "parity",
}  # fmt: skip
BUDGET = 420  # seconds after which nothing new is begun


class Missing(Exception):
    """What a part cannot do without, in words."""


def parser():
    as_it_is = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(
        "python -m bench gpu", description=__doc__, formatter_class=as_it_is
    )
    add = made.add_argument
    add("--part", required=True, choices=list(PARTS))
    add("--out", required=True, metavar="DIR")
    add("--expected", metavar="FILE", help="what --part expect has written")
    add("--rows", metavar="TEXT", help="parity: only rows whose name has this in it")
    add("--steps", type=int, metavar="N", help="default: 50, and for tables the recipes' own")
    add("--sizes", type=int, nargs="+", default=[512, 1024, 2048], metavar="N", help="of speed")
    add("--only", nargs="+", metavar="NAME", help="networks, layers: these alone")
    add("--images", nargs="+", metavar="FILE", help="tables: pictures, or an .npz of arrays")
    add("--methods", nargs="+", metavar="NAME", help="tables: ssi, noise2same_d_bound, default …")
    add("--precision", default="float32", choices=list(PRODUCTS), help="of tables")
    add("--no-pool", action="store_true", help="every array has memory of its own")
    return made


def main(arguments):
    options = parser().parse_args(arguments)
    options.until = time.monotonic() + BUDGET
    try:
        if options.part != "expect":
            require_gpu(options)
        module = sys.modules[__name__]
        if PARTS[options.part] != "gpu":
            module = import_module(f"bench.gpu.{PARTS[options.part]}")
        result, tables, good = getattr(module, options.part)(options)
    except Missing as error:
        print(f"gpu: --part {options.part} needs {error}", file=sys.stderr)
        return 2
    write(f"gpu_{options.part}", result, tables, good, options.out)
    return 0 if good else 1


def require_gpu(options):
    missing = driver.missing() or driver.failing()
    if missing:
        raise Missing(f"{missing}; python -m ssi_cupy doctor --device cuda tells more")
    if options.no_pool:
        import cupy

        cupy.cuda.set_allocator(None)


def has_numba():
    return find_spec("numba") is not None


def expected(options):
    """The arrays of --expected by name; None where numba can compute them here."""
    if options.expected:
        import numpy as np

        try:
            with np.load(options.expected, allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError) as error:
            raise Missing(f"a file that --part expect has written ({error})") from None
    if not has_numba():
        raise Missing("numba, or --expected FILE from a machine that has it (--part expect)")
    return None


def machine():
    found = timing.machine()
    found["gpu"] = None if driver.missing() else driver.described()
    return found


def write(name, result, tables, good, out):
    """A JSON file and a Markdown file: `tables` is a list of (title, rows), titles first."""
    told = machine()
    timing.write(name, {"good": good, **result}, told, out)
    lines = [f"# {name}", "", "good" if good else "**not good**", "", timing.described(told)]
    lines += [f"- {line}" for line in told["gpu"] or ["no GPU"]]
    for title, rows in tables:
        lines += ["", f"## {title}", "", markdown(rows)]
        print(f"\n{title}")
        timing.table([tuple(map(str, row)) for row in rows])
    (Path(out) / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def markdown(rows):
    head, *body = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# ---- compute-sanitizer --------------------------------------------------------------------------


def sanitize(options):
    """Runs the parity rows under each tool, in a process whose arrays all have their own memory."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        raise Missing("compute-sanitizer, which comes with the CUDA toolkit")
    expected(options)
    command = ["-m", "bench", "gpu", "--part", "parity", "--no-pool"]
    command += ["--expected", options.expected] if options.expected else []
    command += ["--rows", options.rows] if options.rows else []
    runs = {}
    for name in ("memcheck", "racecheck"):
        out = Path(options.out) / name
        left = max(30, options.until + 40 - time.monotonic()) / (2 if name == "memcheck" else 1)
        run = [tool, "--tool", name, "--error-exitcode", "9", "--print-limit", "20",
               sys.executable, *command, "--out", out]  # fmt: skip
        try:
            done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=left)
            status, said = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            status, said = "time", (error.stdout or b"").decode(errors="replace")
        found = [line for line in said.splitlines() if line.startswith("=========")]
        runs[name] = {"status": status, "said": found[-40:], "tail": said.splitlines()[-10:]}
    rows = [("tool", "exit status", "last line")]
    rows += [(n, r["status"], (r["said"] or r["tail"] or [""])[-1]) for n, r in runs.items()]
    return (
        {"runs": runs},
        [("compute-sanitizer", rows)],
        all(r["status"] == 0 for r in runs.values()),
    )
