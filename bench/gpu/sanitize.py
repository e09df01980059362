"""The rows of parity under compute-sanitizer's tools, in processes whose arrays all have their own
memory; see `parts.py`."""

import shutil
import subprocess
import sys
import tempfile

from . import parity, parts

TOOLS = ("memcheck", "racecheck", "synccheck")
SECONDS = 75  # for one tool on one of them


def names(options):
    if shutil.which("compute-sanitizer") is None:
        raise parts.Missing("compute-sanitizer, which comes with the CUDA toolkit")
    parts.expected(options)
    groups = [options.rows] if options.rows else groups_of(parity.cases())
    return [f"{tool}: {group}" for group in groups for tool in TOOLS]


def groups_of(cases):
    """The first words of the rows' names: each group of rows is those that have it in them."""
    return sorted({case.name.split()[0].rstrip(",") for case in cases})


def measure(name, options):
    tool, group = name.split(": ", 1)
    with tempfile.TemporaryDirectory() as out:
        command = [shutil.which("compute-sanitizer"), "--tool", tool, "--error-exitcode", "9"]
        command += ["--print-limit", "20", sys.executable, "-m", "bench", "gpu", "--part", "parity"]
        command += ["--no-pool", "--rows", group, "--out", out]
        command += ["--expected", options.expected] if options.expected else []
        try:
            done = subprocess.run(
                command, cwd=parts.ROOT, capture_output=True, text=True, timeout=SECONDS
            )
            status, said = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            status, said = "time", (error.stdout or b"").decode(errors="replace")
    found = [line for line in said.splitlines() if line.startswith("=========")]
    return {"status": status, "said": found[-40:], "tail": said.splitlines()[-10:]}


def told(records, options):
    rows = [("tool: rows", "exit status", "last line")]
    rows += [(n, r["status"], (r["said"] or r["tail"] or [""])[-1]) for n, r in records.items()]
    good = all(r["status"] == 0 for r in records.values())
    return {"runs": records}, [("compute-sanitizer", rows)], good
