"""Types: every public function has them, and they let a type checker pass what a user writes."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ssi_cupy"

# Numba compiles what these decorators are given, and looks at its arguments, not at annotations.
COMPILED = {"kernel", "inline", "Loop", "Intrinsic"}
# What makes machine code, which only the engine calls: but for the number of threads.
MACHINERY = {PACKAGE / "engine/cpu", PACKAGE / "engine/gpu"}
CALLED = {PACKAGE / "engine/cpu/threads.py"}


def public_functions(body, prefix=""):
    """(dotted name, node) of the functions and methods that a user can reach."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            special = node.name.startswith("__") and node.name.endswith("__")
            if (special or not node.name.startswith("_")) and not is_compiled(node):
                yield prefix + node.name, node


def is_compiled(function):
    named = (n for d in function.decorator_list for n in ast.walk(d) if isinstance(n, ast.Name))
    return any(name.id in COMPILED for name in named)


def open_parts(function):
    """Names of the parameters without a type, and "return" where the result has none."""
    a = function.args
    parameters = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    for parameter in parameters:
        if parameter.annotation is None and parameter.arg not in ("self", "cls"):
            yield parameter.arg
    if function.returns is None:
        yield "return"


def without_types(text):
    found = ((name, [*open_parts(f)]) for name, f in public_functions(ast.parse(text).body))
    return [f"{name}: {', '.join(parts)}" for name, parts in found if parts]


def test_public_functions_have_types():
    seen, found = 0, []
    for path in PACKAGE.rglob("*.py"):
        if path in CALLED or not MACHINERY & set(path.parents):
            seen += 1
            found += [
                f"{path.relative_to(ROOT)}: {line}" for line in without_types(path.read_text())
            ]
    assert seen > 50
    assert not found


@pytest.mark.parametrize(
    "text, found",
    [
        ("def f(a: int) -> int: ...", []),
        ("def f(a, *b: int, c: int = 0, **d) -> int: ...", ["f: a, d"]),
        ("def f(): ...", ["f: return"]),
        ("def _f(a): ...", []),
        ("class A:\n    def __init__(self, a) -> None: ...", ["A.__init__: a"]),
        ("class A:\n    @property\n    def b(self): ...", ["A.b: return"]),
        ("class _A:\n    def f(self): ...", []),
        ("@kernel(grain=2)\ndef loop(start, stop, x): ...", []),
        ("@functools.partial(Loop, grain=32)\ndef loop(start, stop, x): ...", []),
        ("@functools.cache\ndef f(a): ...", ["f: a, return"]),
    ],
)
def test_what_has_no_types_is_found(text, found):
    assert without_types(text) == found


def test_a_type_checker_passes_what_a_user_writes(tmp_path):
    """And finds what is wrong: `--strict` complains of an ``ignore`` where there is no error."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: pip install 'ssi_cupy[test]'")
    options = ("--strict", "--follow-imports=silent", "--cache-dir", tmp_path, "--config-file=")
    command = [sys.executable, "-m", "mypy", *map(str, options), "tests/typed_user.py"]
    paths = os.environ | {"MYPYPATH": str(ROOT)}  # not an installed package of the same name
    done = subprocess.run(command, cwd=ROOT, env=paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
