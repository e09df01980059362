"""What the tests notice: small faults put into the code, one at a time, and the tests run.

Of all places where an operator applies, `--number` are drawn by `--seed`. Each mutant is written to
a copy of the repository, and the tests that touch its file are run there. What is found is kept
line by line in `--out`, so that the same command goes on where it was stopped. Survivors are told.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = (
    "ssi_cupy/ops/*.py ssi_cupy/losses.py ssi_cupy/physics/*.py ssi_cupy/masking.py "
    "ssi_cupy/optim.py ssi_cupy/inference/*.py ssi_cupy/training/patches.py kernels/*.cu"
).split()
OPERATORS = [  # what is found, and what is put in its place; spaces keep names and C++ types whole
    (r" < ", " <= "), (r" <= ", " < "), (r" > ", " >= "), (r" >= ", " > "), (r" == ", " != "),
    (r" \+ ", " - "), (r" - ", " + "), (r" \* ", " / "), (r" / ", " * "), (r" // ", " * "),
    (r"\bmin\(", "max("), (r"\bmax\(", "min("), (r" \+= ", " = "), (r" and ", " or "),
    (r" && ", " || "), (r"(?<![\w.\[])1(?![\w.\]])", "2"),
]  # fmt: skip
EMULATED = "tests/engine/gpu/test_emulation.py"
TESTS = {  # of a file, by its path
    "ssi_cupy/ops/": f"tests/ops {EMULATED} tests/unet", "kernels/": f"{EMULATED} tests/ops",
    "ssi_cupy/losses.py": "tests/test_losses.py",
    "ssi_cupy/physics/": "tests/test_physics.py tests/test_learned.py",
    "ssi_cupy/masking.py": "tests/test_masking.py", "ssi_cupy/optim.py": "tests/test_optim.py",
    "ssi_cupy/inference/": "tests/inference tests/test_inversion.py",
    "ssi_cupy/training/patches.py": "tests/training/test_patches.py tests/training/test_sets.py",
}  # fmt: skip
NAMED = {  # what the names of tests say that are about an op or a kernel: these go first
    "add": "add", "conv": "conv", "conv_tiling": "conv", "packed_weights": "conv", "norm": "norm",
    "direct_convolution": "direct", "fft_convolution": "fft", "gradcheck": "check",
    "loss_terms": "masked or invariance or bound or positivity or weighted or counted",
    "masking": "masks_and_fills", "optim": "optimiser", "pad": "pad or crop or branch",
    "pointwise": "clamp or relu or sensor", "pool": "pool or window",
    "strided": "strided or transposed or join", "total_variation": "variation or continuity",
    "upsample": "upsample or concat",
}  # fmt: skip

MEMORY = 8 << 30  # bytes that the tests may have
MOST = 12  # tests that go first
NONE_CHOSEN = 5  # what pytest returns then


def code_lines(path):
    """(number, text) of the lines of a file that are no comment and no docstring."""
    quoted = False
    for number, line in enumerate(path.read_text().splitlines()):
        quotes = line.count('"""')
        if not quoted and not quotes and not line.strip().startswith(("#", "//", "raise ")):
            yield number, line.split("  # ")[0].split(" // ")[0] if path.suffix == ".cu" else line
        quoted ^= quotes % 2 == 1


def mutants(root=ROOT):
    """Every (file, line, start, what is there, what is put there), in a fixed order."""
    found = []
    for pattern in PLACES:
        for path in sorted(root.glob(pattern)):
            for number, line in code_lines(path):
                for old, new in OPERATORS:
                    for hit in re.finditer(old, line):
                        name = str(path.relative_to(root))
                        found.append((name, number, hit.start(), hit.group(), new))
    return found


def stages(name):
    """The arguments of pytest for the tests that touch a file, one after the other: those that are
    called like it, and then all."""
    tests = next(tests for start, tests in TESTS.items() if name.startswith(start)).split()
    stem, first = Path(name).stem, []
    own = f"tests/ops/test_{stem}.py"
    if (ROOT / own).exists():
        first.append([own])
    elif stem in NAMED and "tests/ops" in tests:
        first.append([*tests[:2], "-k", NAMED[stem]])
    return [*first, *([test] for test in tests)]


def put(text, mutant):
    """The text of a file with a fault in it."""
    _, number, start, old, new = mutant
    lines = text.split("\n")
    line = lines[number]
    lines[number] = line[:start] + new + line[start + len(old) :]
    return "\n".join(lines)


def killer(folder, mutant, seconds, likely=()):
    """The test that fails with a mutant in a copy of the repository, or "" if none does.

    Those that killed others of its file, the `likely` ones, go first. The file has its old time
    afterwards, so that what was compiled of it is still good.
    """
    path = folder / mutant[0]
    whole, times = path.read_text(), path.stat()
    path.write_text(put(whole, mutant))
    try:
        every = [[*likely], *stages(mutant[0])]
        return next(filter(None, (failing(folder, tests, seconds) for tests in every if tests)), "")
    finally:
        path.write_text(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def failing(folder, tests, seconds=None):
    """The first test that fails in a copy of the repository, or "" where all pass.

    What was compiled before is used, and what is compiled now is forgotten. A test that eats the
    time or the memory fails.
    """
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        if (folder / ".compiled").exists():
            shutil.copytree(folder / ".compiled", cache, copy_function=os.link, dirs_exist_ok=True)
        return _failing(folder, tests, seconds, cache)


def _failing(folder, tests, seconds, cache):
    (folder / ".tmp").mkdir(exist_ok=True)  # the emulated kernels' libraries are there
    environment = os.environ | {
        "NUMBA_CACHE_DIR": cache, "TMPDIR": str(folder / ".tmp"), "PYTHONPATH": "",
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider"]
    options = {"cwd": folder, "env": environment, "preexec_fn": partial(_bound, seconds)}
    try:
        done = subprocess.run([*command, *tests], timeout=seconds and 20 * seconds,
                              capture_output=True, text=True, **options)  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{' '.join(tests)} (no end)"
    if done.returncode in (-signal.SIGTERM, -signal.SIGINT):
        raise KeyboardInterrupt
    found = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode not in (0, NONE_CHOSEN) and not found:
        return f"{' '.join(tests)} (exit {done.returncode})"
    return found[1] if found else ""


def _bound(seconds):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if seconds:  # of its own work, however busy the machine is
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))


def copied(folder):
    """Copy the repository, with the times of its files, and compile what its tests need."""
    for name in ("ssi_cupy", "kernels", "tests", "bench", "pyproject.toml", "README.md"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
        else:
            shutil.copy2(ROOT / name, folder / name)
    emulator = folder / "tests/emulation/emulator.py"  # compiling costs more than running
    emulator.write_text(emulator.read_text().replace("-O3", "-O1"))


def warm(folder, tests):
    """Whether tests pass without a mutant; what they compile is kept for those with one."""
    whole = hashlib.sha256()
    for path in sorted(folder.glob("[!.]*/**/*")):
        if path.suffix in (".py", ".cu", ".cuh", ".h") and "bench" not in path.parts:
            whole.update(path.read_bytes())
    known, state = folder / ".sound", whole.hexdigest()
    sound = json.loads(known.read_text()) if known.exists() else []
    if [state, tests] not in sound:
        fails = _failing(folder, tests, None, str(folder / ".compiled"))
        if fails:
            return fails
        known.write_text(json.dumps([*sound, [state, tests]]))
    return ""


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench mutants", description=__doc__)
    parser.add_argument("--number", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds",
        type=float,
        default=600,
        help="of work of one stage, after which a mutant is killed",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="files with this in their path")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument("--folder", type=Path, help="keeps what was compiled for the next run")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which it stops")
    args = parser.parse_args(arguments)
    everything = [mutant for mutant in mutants() if args.only in mutant[0]]
    drawn = random.Random(args.seed).sample(everything, min(args.number, len(everything)))
    known = {}
    if args.out.exists():
        rows = map(json.loads, args.out.read_text().splitlines())
        known = {tuple(row["mutant"]): row["by"] for row in rows}
    end = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        copied(folder)
        for mutant in drawn:
            if mutant in known:
                continue
            for tests in stages(mutant[0]):
                if time.monotonic() < end and (fails := warm(folder, tests)):
                    parser.error(f"without any mutant fails {fails}")
            if time.monotonic() >= end:
                break
            began = time.monotonic()
            known[mutant] = killer(folder, mutant, args.seconds, likely(mutant[0], known))
            row = {"mutant": mutant, "by": known[mutant], "s": round(time.monotonic() - began, 1)}
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    done = [mutant for mutant in drawn if mutant in known]
    for name, number, start, old, new in (mutant for mutant in done if not known[mutant]):
        print(f"survives: {name}:{number + 1}:{start}: {old.strip()} → {new.strip()}")
    dead = sum(bool(known[mutant]) for mutant in done)
    print(f"{dead} of {len(done)} mutants killed, {100 * dead / max(len(done), 1):.1f} %")
    if len(done) < len(drawn):
        print(f"{len(drawn) - len(done)} more to come: the same command again")
    return 0


def likely(name, known):
    """The tests that killed mutants of a file, those of most first."""
    stem = Path(name).stem
    found = [by for mutant, by in known.items() if Path(mutant[0]).stem == stem and " (" not in by]
    return [test for test, _ in collections.Counter(filter(None, found)).most_common(MOST)]
