"""The house: what is packaged, what an import costs, and which room may enter which."""

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

LEVELS = (
    "checks threads cuda capture jit crew devices memory backend fourier llvm simd points files "
    "precision progress",
    "tape",
    "ops random",
    "masking unet physics losses optim symmetry",
    "recipes modelfile prepare images batches patches training checkpoints inference inversion",
    "restore folders",
    "cli demo doctor",
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms.split()}
SIDE = set("psf classical degrade metrics noise tiles tiff".split())
NEVER_EACH_OTHER = {3}
ARRAY_LIBRARIES = {
    "numba": {"jit.py", "crew.py", "simd.py", "points.py"},
    "cupy": {"cuda.py", "capture.py"},
}
HEAVY = "numba cupy scipy.fft matplotlib skimage tifffile torch"


# ---- the rooms ------------------------------------------------------------------------------


def modules():
    """Every module of the package with the room it stands in; the two doors belong to none."""
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


def rooms_entered(path):
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "ssi_cupy":
            yield rest.split(".")[0] if rest else "the package itself"


def may_enter(room, other):
    if room == other:
        return True
    if room in SIDE:
        return LEVEL.get(other, 9) <= 3
    if other in SIDE:
        return LEVEL[room] >= 4
    if LEVEL[room] == LEVEL.get(other):
        return LEVEL[room] not in NEVER_EACH_OTHER
    return LEVEL.get(other, 9) < LEVEL[room]


def test_every_module_stands_in_a_known_room():
    assert not {room for _, room in modules()} - set(LEVEL) - SIDE


def test_rooms_are_entered_from_higher_levels_only():
    wrong = [
        f"{path.relative_to(ROOT)} enters {other}"
        for path, room in modules()
        for other in rooms_entered(path)
        if other != "kernels" and not may_enter(room, other)
    ]
    assert not wrong


@pytest.mark.parametrize(
    "room, other, allowed",
    [
        ("unet", "ops", True),
        ("unet", "physics", False),
        ("inversion", "unet", True),
        ("unet", "inversion", False),
        ("psf", "checks", True),
        ("psf", "restore", False),
        ("restore", "tiles", True),
        ("losses", "metrics", False),
    ],
)
def test_the_order_itself(room, other, allowed):
    assert may_enter(room, other) is allowed


@pytest.mark.parametrize("library, rooms", ARRAY_LIBRARIES.items())
def test_only_two_rooms_import_an_array_library(library, rooms):
    found = {
        str(path.relative_to(PACKAGE))
        for path, _ in modules()
        if library in {name.partition(".")[0] for name in imported(path)}
    }
    assert found == rooms


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


def test_no_room_needs_an_extra_to_be_imported():
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
