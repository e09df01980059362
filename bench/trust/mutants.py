"""What the tests notice: small faults put into the code, one at a time, and the tests run.

Of all places where an operator applies, `--number` are drawn by `--seed`. Each mutant is written to
a copy of the repository, and the tests that touch its file are run there. What is found is kept
line by line in `--out`, so that the same command goes on where it was stopped. Survivors are told.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACES = (
    "ssi_cupy/ops/*.py ssi_cupy/losses.py ssi_cupy/physics.py ssi_cupy/masking.py "
    "ssi_cupy/optim.py ssi_cupy/inference/*.py ssi_cupy/training/patches.py kernels/*.cu"
).split()
OPERATORS = [  # what is found, and what is put in its place; spaces keep names and C++ types whole
    (r" < ", " <= "), (r" <= ", " < "), (r" > ", " >= "), (r" >= ", " > "), (r" == ", " != "),
    (r" \+ ", " - "), (r" - ", " + "), (r" \* ", " / "), (r" / ", " * "), (r" // ", " * "),
    (r"\bmin\(", "max("), (r"\bmax\(", "min("), (r" \+= ", " = "), (r" and ", " or "),
    (r" && ", " || "), (r"(?<![\w.\[])1(?![\w.\]])", "2"),
]  # fmt: skip
TESTS = {  # of a file, by its path; what is not here has tests/<the same>
    "ssi_cupy/ops/": "tests/ops", "kernels/": "tests/engine/gpu/test_emulation.py tests/ops",
    "ssi_cupy/losses.py": "tests/test_losses.py", "ssi_cupy/physics.py": "tests/test_physics.py",
    "ssi_cupy/masking.py": "tests/test_masking.py", "ssi_cupy/optim.py": "tests/test_optim.py",
    "ssi_cupy/inference/": "tests/inference tests/test_inversion.py",
    "ssi_cupy/training/patches.py": "tests/training/test_patches.py tests/training/test_sets.py",
}  # fmt: skip


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


def tests_of(name):
    return next(tests for start, tests in TESTS.items() if name.startswith(start)).split()


def put(text, mutant):
    """The text of a file with a fault in it."""
    _, number, start, old, new = mutant
    lines = text.split("\n")
    line = lines[number]
    lines[number] = line[:start] + new + line[start + len(old) :]
    return "\n".join(lines)


def killed(folder, mutant, seconds):
    """Whether the tests of a mutant's file fail with it, or do not end."""
    path = folder / mutant[0]
    whole = path.read_text()
    path.write_text(put(whole, mutant))
    try:
        return not pass_(folder, tests_of(mutant[0]), seconds)
    finally:
        path.write_text(whole)


def pass_(folder, tests, seconds=None):
    """Whether tests pass in a copy of the repository, in that time."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / ".cache"), "PYTHONPATH": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run([*command, *tests], cwd=folder, env=environment,
                              timeout=seconds, capture_output=True)  # fmt: skip
        return done.returncode == 0
    except subprocess.TimeoutExpired:
        return False


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench mutants", description=__doc__)
    parser.add_argument("--number", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600, help="after which a mutant is killed")
    parser.add_argument("--only", default="", metavar="TEXT", help="files with this in their path")
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    args = parser.parse_args(arguments)
    everything = [mutant for mutant in mutants() if args.only in mutant[0]]
    drawn = random.Random(args.seed).sample(everything, min(args.number, len(everything)))
    known = {}
    if args.out.exists():
        rows = map(json.loads, args.out.read_text().splitlines())
        known = {tuple(row["mutant"]): row["killed"] for row in rows}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("ssi_cupy", "kernels", "tests", "bench", "pyproject.toml", "README.md"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        sound = set()
        for mutant in drawn:
            if mutant not in known:
                tests = tests_of(mutant[0])
                if not sound >= {*tests} and not pass_(folder, tests):
                    parser.error(f"{' '.join(tests)} fail without any mutant")
                sound |= {*tests}
                known[mutant] = killed(folder, mutant, args.seconds)
                with args.out.open("a") as file:
                    file.write(json.dumps({"mutant": mutant, "killed": known[mutant]}) + "\n")
            if not known[mutant]:
                name, number, start, old, new = mutant
                print(f"survives: {name}:{number + 1}:{start}: {old.strip()} → {new.strip()}")
    dead = sum(known[mutant] for mutant in drawn)
    print(f"{dead} of {len(drawn)} mutants killed, {100 * dead / max(len(drawn), 1):.1f} %")
    return 0
