"""The layout: who may import whom, what an import costs, and what is packaged."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ssi_cupy"

# Lowest first: a module imports from its own folder and from lower levels. Those on the levels of
# BY_THEMSELVES never import each other.
LEVELS = (
    "engine",
    "tape",
    "ops random",
    "masking unet physics losses optim symmetry",
    "noise",
    "psf classical degrade metrics",
    "recipes",
    "files",
    "training",
    "inference",
    "inversion axes",
    "restore",
    "commands",
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names.split()}
BY_THEMSELVES = {3, 5}
# The same for the files and folders of the engine. Capturing a graph needs the memory plan.
ENGINE = (
    "types interrupts",
    "checks",
    "cpu gpu",
    "precision devices",
    "memory arrays",
    "backend",
    "fourier gpu.graph",
)
ARRAY_LIBRARIES = {"numba": "engine/cpu", "cupy": "engine/gpu"}
MOST_ENTRIES, MOST_LINES = 26, 400
HEAVY = "numba cupy scipy.fft matplotlib skimage tifffile torch"


# ---- the layout -----------------------------------------------------------------------------


def modules():
    """Every module of the package with the top-level name it belongs to."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts not in (("__init__",), ("__main__",)):
            yield path, parts[0]


def imported(path):
    """Full dotted names of what `path` imports, wherever in the file it does."""
    package = ("ssi_cupy", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_within(path):
    """The same as tuples of names below the package, for what is of the package."""
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "ssi_cupy":
            yield tuple(rest.split("."))


def may_import(name, other):
    if name == other:
        return True
    if LEVEL[name] == LEVEL.get(other):
        return LEVEL[name] not in BY_THEMSELVES
    return LEVEL.get(other, len(LEVELS)) < LEVEL[name]


def test_every_module_has_a_known_place():
    assert {name for _, name in modules()} == set(LEVEL)


def test_imports_go_one_way():
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path, name in modules()
        for other, *_ in imported_within(path)
        if other not in ("kernels", "__version__") and not may_import(name, other)
    ]
    assert not wrong


def test_imports_within_the_engine_go_one_way():
    """`cpu/` and `gpu/` know nothing of arrays' owners, of memory, or of each other."""
    level = {name: number for number, names in enumerate(ENGINE) for name in names.split()}

    def place(parts):
        """The name on a level: of a file in a folder only where it is there by itself."""
        return ".".join(parts[:2]) if ".".join(parts[:2]) in level else parts[0]

    wrong = []
    for path, name in modules():
        if name != "engine" or path.stem == "__init__":
            continue
        mine = path.relative_to(PACKAGE / "engine").with_suffix("").parts
        for _, *other in imported_within(path):
            if other[0] != mine[0] and level[place(other)] >= level[place(mine)]:
                wrong.append(f"{path.relative_to(ROOT)} imports {'.'.join(other)}")
    assert not wrong


@pytest.mark.parametrize(
    "name, other, allowed",
    [
        ("unet", "ops", True),
        ("unet", "physics", False),
        ("inversion", "unet", True),
        ("unet", "inversion", False),
        ("psf", "engine", True),
        ("psf", "restore", False),
        ("training", "inference", False),
        ("files", "training", False),
        ("losses", "metrics", False),
    ],
)
def test_the_order_itself(name, other, allowed):
    assert may_import(name, other) is allowed


@pytest.mark.parametrize("library, folder", ARRAY_LIBRARIES.items())
def test_only_one_folder_imports_an_array_library(library, folder):
    found = {
        str(path.relative_to(PACKAGE).parent)
        for path, _ in modules()
        if library in {name.partition(".")[0] for name in imported(path)}
    }
    assert found == {folder}


def test_benches_import_one_way():
    """The papers' tables and the speed of a step know nothing of each other, nor of the GPU's."""
    seen = [f for folder in ("papers", "speed") for f in (ROOT / "bench" / folder).glob("*.py")]
    assert seen
    for path in seen:
        others = {"papers", "speed", "gpu"} - {path.parent.name}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                assert (node.module or "").split(".")[0] not in others, path


def test_a_newcomer_sees_few_names_and_short_files():
    shown = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(shown) <= MOST_ENTRIES
    long = [
        f"{path.relative_to(ROOT)}: {lines} lines"
        for path in PACKAGE.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > MOST_LINES
    ]
    assert not long


def test_every_kernel_file_has_its_python_file():
    assert not {path.stem for path in (ROOT / "kernels").glob("*.cu")} - {
        path.stem for path, _ in modules()
    }


# ---- what an import costs -------------------------------------------------------------------


def loaded_after(statements, names):
    code = f"import sys\n{statements}\nprint(*[n for n in {names.split()!r} if n in sys.modules])"
    return python("-c", code, cwd=ROOT).split()


def test_import_loads_nothing_heavy():
    assert loaded_after("import ssi_cupy", HEAVY) == []


def test_no_module_needs_an_extra_to_be_imported():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path, _ in modules()
    ]
    everything = "\n".join(f"import {name}" for name in names)
    assert loaded_after(everything, "matplotlib skimage torch cupy dask") == []


# ---- packaging ------------------------------------------------------------------------------

SEES_KERNELS = """
import importlib.resources, pathlib
folder = importlib.resources.files("ssi_cupy.kernels")
assert folder.joinpath("README.md").is_file()
import ssi_cupy
print(pathlib.Path(ssi_cupy.__file__).parent)
"""


def python(*arguments, **options):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments):
    # No index: what the build needs is here, and a test asks nobody else.
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    python("-m", "pip", *arguments, "--quiet", "--no-deps", env=environment)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy to build from: setuptools leaves its scraps beside what it builds."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name in ("ssi_cupy", "kernels"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", source, "--no-build-isolation", "--wheel-dir", folder)
    (file,) = folder.glob("*.whl")
    return file


def installed_package(target):
    """Where a fresh interpreter that knows `target` and the libraries finds the package."""
    # -S: an editable install of this very checkout must not answer in the place of `target`.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    paths = f"import site, sys\nsys.path += {sorted(libraries)!r}\nsite.addsitedir({str(target)!r})"
    return Path(python("-S", "-c", paths + SEES_KERNELS, cwd=target).strip())


def test_wheel_holds_the_whole_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules_here = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")}
    kernels_here = {
        f"ssi_cupy/kernels/{path.name}"
        for pattern in ("*.cu", "*.cuh", "README.md")
        for path in (ROOT / "kernels").glob(pattern)
    }
    assert not (modules_here | kernels_here | {"ssi_cupy/ops/README.md"}) - names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"ssi_cupy"}


def test_installed_wheel_finds_its_kernels(wheel, tmp_path):
    pip("install", wheel, "--target", tmp_path)
    assert installed_package(tmp_path) == tmp_path / "ssi_cupy"


def test_editable_install_finds_its_kernels(source, tmp_path):
    pip("install", "--editable", source, "--no-build-isolation", "--target", tmp_path)
    assert installed_package(tmp_path) == source / "ssi_cupy"


def test_the_tests_of_a_source_distribution_can_run(tmp_path):
    """It holds the benches and their results too, as tests and README need them."""
    copy = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__", ".git", "*.egg-info", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, copy, ignore=ignore)
    build = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
    archive = copy / "dist" / python("-c", build, cwd=copy).split()[-1]
    shutil.unpack_archive(archive, tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("ssi_cupy-*")
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    command = ("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider")
    collected = python(*command, cwd=unpacked, env=environment)
    here = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert {name for name in here if name in collected} == here
    assert (unpacked / "bench/results/demo_panel.png").is_file()


# ---- what the text gives away ---------------------------------------------------------------


def test_no_file_names_a_local_path_or_a_registry():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    # Spelt in such a way that this file does not find itself.
    hosts = r"pyp[i]\.org|pythonhoste[d]|anaconda\.or[g]|npm[j]s\.co[m]"
    local = r"(?<![\w.~-])/(?:work|root|home|Users)/"
    forbidden = re.compile(f"{hosts}|{local}".encode())
    found = []
    for path in (ROOT / name for name in names.split("\0") if name):
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content and (hit := forbidden.search(content)):
            found.append(f"{path.relative_to(ROOT)}: {hit.group().decode()}")
    assert not found
