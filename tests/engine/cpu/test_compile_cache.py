"""The compile cache: damaged, shared by two, read-only, of other code: the results are the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CODE = """
import logging, sys
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
import loops
print(loops.total(loops.np.arange(7.0)))
"""
LOOPS = """
import numpy as np
from ssi_cupy.engine.cpu.jit import cfunc, njit
def added(values):
    found = 0.0
    for v in values:
        found += {factor} * v
    return found
def one_more(a):
    return a + {factor}
def total(values):
    more = cfunc(one_more, 1)
    import ctypes
    call = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(more.address)
    return njit(added)(values), call(1)
"""


@pytest.fixture
def here(tmp_path):
    """A folder with two loops in a file, and an empty cache."""
    (tmp_path / "loops.py").write_text(LOOPS.format(factor=1))
    (tmp_path / "cache").mkdir()
    return tmp_path


def start(here):
    paths = os.pathsep.join(map(str, (here, ROOT)))
    environment = os.environ | {"NUMBA_CACHE_DIR": str(here / "cache"), "PYTHONPATH": paths}
    return subprocess.Popen([sys.executable, "-c", CODE], cwd=here, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def finish(process):
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return out.strip(), said


def run(here):
    return finish(start(here))


def kept(here):
    return sorted((here / "cache").rglob("*.nb[ci]"))


def flip(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:-40], lambda data: b"x" * len(data), flip,
])  # fmt: skip
def test_what_is_damaged_is_compiled_anew_and_that_is_said_once(here, ending, damage):
    assert run(here) == ("(21.0, 2)", "")
    before = kept(here)
    assert len(before) == 4  # an index and the code, of each loop
    for path in before:
        if path.suffix == ending:
            path.write_bytes(damage(path.read_bytes()))
    out, said = run(here)
    assert out == "(21.0, 2)" and said.count("are damaged") == 1 and "Traceback" not in said
    assert run(here) == ("(21.0, 2)", "")  # it is whole again


def test_two_first_runs_at_once(here):
    for process in [start(here) for _ in range(2)]:
        assert finish(process) == ("(21.0, 2)", "")
    assert run(here) == ("(21.0, 2)", "")


def test_other_code_is_compiled_and_not_read_from_the_cache(here):
    assert run(here)[0] == "(21.0, 2)"
    (here / "loops.py").write_text(LOOPS.format(factor=10))
    assert run(here) == ("(210.0, 11)", "")


def test_a_cache_that_cannot_be_written_any_more(here, monkeypatch, caplog):
    """Of another user, on a full disk: what was compiled is used, and what it costs said once."""
    import numba

    from ssi_cupy.engine.cpu import compile_cache, jit

    monkeypatch.setattr(compile_cache, "_said", {})
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(here / "cache"))

    def full(self, path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compile_cache._file_class(), "_write", full)
    for loop in (lambda a: a + 1, lambda a: a + 2):
        assert jit.njit(loop)(3) in (4, 5)
    assert caplog.text.count("compiled loops cannot be kept") == 1
    assert not kept(here)


def test_who_waits_is_told_what_for(monkeypatch, tmp_path, capsys):
    import numba

    from ssi_cupy.engine.cpu import jit
    from ssi_cupy.training.progress import Progress

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    loop = lambda a: a + 1  # noqa: E731
    for expected in ("compiling (first run only)\n", ""):  # the second one reads the cache
        with Progress(10, show=True):
            assert jit.njit(loop)(3) == 4
        assert capsys.readouterr().err == expected
