"""What only a GPU can tell: ``python -m bench gpu --part PART --out DIR``.

parity    every row of tests/cases.py, masks and random numbers, against the CPU's results
steps     each recipe's first steps beside the CPU's, and 50 beside CPU runs that differ in their
          last bits; graph and eager, twice the same bits
sanitize  compute-sanitizer's memcheck, racecheck and synccheck over the rows of parity
speed     a training step and an inference beside PyTorch: eager, under CUDA graphs, compiled
networks  a training step of the papers' wide networks beside PyTorch, in each precision
layers    their convolutions one by one: each precision, PyTorch's, and shifted products by cuBLAS
tables    the benchmark's images restored by the recipes
all       all of these, each in a process of its own that ends within 8 minutes
expect    on a machine with numba and no GPU: write what the CPU computes to DIR/expected.npz

Needs cupy and a GPU, and for speed, networks and layers PyTorch; neither numba nor tifffile nor
pytest. Where numba is missing too, the CPU's results come from --expected. A part writes
gpu_PART.json and gpu_PART.md to DIR as it goes; where its time was up, or it was stopped, the same
command goes on from what is there, if the code and the options are the same.
"""

import argparse
import functools
import hashlib
import json
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ssi_cupy.engine.gpu import driver, kernel_text
from ssi_cupy.engine.precision import PRODUCTS
from ssi_cupy.files.atomic import replacing

from .. import timing

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("parity", "steps", "sanitize", "speed", "networks", "layers", "tables")
BUDGET = 390  # seconds after which a part begins nothing new,
LIMIT = 470  # and after which --part all ends it
TRIES = 2  # to measure a thing: what is stopped twice is left alone


class Missing(Exception):
    """What a part cannot do without, in words."""


def parser():
    as_it_is = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(
        "python -m bench gpu", description=__doc__, formatter_class=as_it_is
    )
    add = made.add_argument
    add("--part", required=True, choices=[*PARTS, "all", "expect"])
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
    if options.part == "all":
        return everything(options.out, arguments)
    options.until = time.monotonic() + BUDGET
    try:
        if options.part == "expect":
            return import_module("bench.gpu.parity").expect(options)
        require_gpu(options)
        return run(options)
    except Missing as error:
        print(f"gpu: --part {options.part} needs {error}", file=sys.stderr)
        return 2


def run(options):
    """A part: measure what is not in its file yet. Each module of one has

    - ``names(options)``: what is to be measured, in order,
    - ``measure(name, options)``: a record, of what JSON can hold,
    - ``told(records, options)``: ``(result, tables, good)`` of all records so far.
    """
    module = import_module(f"bench.gpu.{options.part}")
    names, kept, late = module.names(options), Records(options), []
    for name in names:
        if kept.finished(name):
            continue
        if time.monotonic() > options.until:
            late.append(name)
            continue
        kept.begin(name)
        kept.records[name] = module.measure(name, options)
        kept.write()
    records = {n: kept.records[n] for n in names if kept.measured(n)}
    stopped = [n for n in names if n not in records and n not in late]
    result, tables, good = module.told(records, options)
    for title, some in (("left for the same command again, as the time was up", late),
                        (f"stopped {TRIES} times, and left out", stopped)):  # fmt: skip
        if some:
            tables.append((title, [("what",), *((n,) for n in some)]))
    good = bool(good and not late and not stopped)
    kept.write({"good": good, "left": late, "stopped": stopped, **result})
    tell(kept.path, tables, good, "unfinished" if late else "")
    return 0 if good else 1


class Records:
    """What a part has measured, by name, in its JSON file, which is renewed with every record."""

    def __init__(self, options):
        self.path = Path(options.out) / f"gpu_{options.part}.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        about = {k: v for k, v in vars(options).items() if k not in ("out", "until")}
        self.about, self.told = about | {"code": code()}, machine()
        self.records, self.result = {}, {}
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if found["about"] == self.about:
                self.records = found["records"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none, or another's

    def measured(self, name):
        record = self.records.get(name, {"tries": 0})
        return not (isinstance(record, dict) and "tries" in record)  # some are a single number

    def finished(self, name):
        return self.measured(name) or self.records.get(name, {}).get("tries", 0) >= TRIES

    def begin(self, name):
        self.records[name] = {"tries": self.records.get(name, {}).get("tries", 0) + 1}
        self.write()

    def write(self, result=None):
        head = timing.head(self.path.stem, self.told)
        content = head | {"about": self.about, **(result or {}), "records": self.records}
        with replacing(self.path) as path:
            Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def code():
    """A digest of the package and of its kernels: results of others are not gone on from."""
    files = sorted((ROOT / "ssi_cupy").rglob("*.py")) + sorted(kernel_text.folder().glob("*.cu*"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def everything(out, arguments):
    """All parts, one after the other. The same command again goes on with what was left."""
    rows, worst = [("part", "status", "seconds")], 0
    for part in PARTS:
        options = [part if a == "all" else a for a in arguments]
        options = [f"--part={part}" if a == "--part=all" else a for a in options]
        start = time.monotonic()
        command = [sys.executable, "-m", "bench", "gpu", *options]
        try:
            status = subprocess.run(command, cwd=ROOT, timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            status = 1
            print(f"gpu: --part {part} was ended after {LIMIT} s: it keeps what it has, and the "
                  "same command goes on", file=sys.stderr)  # fmt: skip
        worst = max(worst, status)
        rows.append((part, STATUS.get(status, status), f"{time.monotonic() - start:.0f}"))
    timing.table([tuple(map(str, row)) for row in rows])
    print(f"in {out}: gpu_PART.md, gpu_PART.json")
    return worst


STATUS = {0: "good", 1: "not good, or not done yet", 2: "something is missing"}


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
        return _read(options.expected)
    if not has_numba():
        raise Missing("numba, or --expected FILE from a machine that has it (--part expect)")
    return None


@functools.lru_cache(maxsize=1)
def _read(file):
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError) as error:
        raise Missing(f"a file that --part expect has written ({error})") from None


def machine():
    found = timing.machine()
    found["gpu"] = None if driver.missing() else driver.described()
    return found


def tell(path, tables, good, remark=""):
    """A Markdown file beside a JSON file: `tables` is a list of (title, rows), titles first."""
    told = json.loads(path.read_text(encoding="utf-8"))["machine"]
    lines = [f"# {path.stem}", "", "good" if good else f"**not good** {remark}".rstrip(), ""]
    lines += [timing.described(told), *(f"- {line}" for line in told["gpu"] or ["no GPU"])]
    for title, rows in tables:
        lines += ["", f"## {title}", "", markdown(rows)]
        print(f"\n{title}")
        timing.table([tuple(map(str, row)) for row in rows])
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def markdown(rows):
    head, *body = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
