"""What this machine offers: ``python -m ssi_cupy doctor``.

Looks at what is installed, then runs one kernel and one Fourier transform on the device that is
asked for, and says in words what is missing and how to get it.
"""

from __future__ import annotations

import platform
import sys
from importlib import metadata

import numpy as np

from .. import __version__
from ..engine import backend, fourier
from ..engine.checks import choice
from ..engine.gpu import driver
from ..engine.types import Device
from ..ops.pointwise import relu_forward

PACKAGES = (
    "numpy scipy numba llvmlite tifffile tqdm cupy-cuda12x cupy-cuda13x dask scikit-image "
    "matplotlib imagecodecs zarr xarray napari torch"
).split()


def examine(device: Device = "auto") -> tuple[list[str], bool]:
    """What there is, line by line, and whether `device` works.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
        "auto" is the GPU if that works, and the CPU if not.

    Returns
    -------
    lines : list of str
    works : bool
    """
    choice(device, "device", ("auto", "cpu", "cuda"))
    lines = [f"ssi_cupy {__version__}"]
    lines.append(f"python {platform.python_version()}, {platform.system()} {platform.machine()}")
    lines.append(", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    works = {"cpu": _tried("cpu", lines, f"{backend.num_threads()} threads")}
    missing = driver.missing()
    if missing:
        lines.append(f"cuda: cannot be used; it needs {missing}")
    else:
        try:
            described = driver.described()
        except Exception as error:
            described = [f"cuda: cannot be described: {type(error).__name__}: {error}"]
        lines += described
        works["cuda"] = _tried("cuda", lines, described[0])
    if device == "auto":
        device = "cuda" if works.get("cuda") else "cpu"
        lines.append(f"auto: {device}")
    return lines, works.get(device, False)


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _tried(device, lines, what):
    """Whether a kernel and a Fourier transform give what they must; a line that tells."""
    x = np.linspace(-1, 1, 1024, dtype=np.float32).reshape(1, 1, 1, 32, 32)
    try:
        there = backend.on_device(x, device)
        y = backend.host(relu_forward(there)[0])
        back = backend.host(fourier.irfftn(fourier.rfftn(there), x.shape[2:]))
        if not np.array_equal(y, np.maximum(x, 0)):
            raise ArithmeticError("a kernel gives wrong numbers")
        if np.abs(back - x).max() > 1e-5:
            raise ArithmeticError("a Fourier transform and its inverse are not the identity")
    except Exception as error:  # whatever it is, it is what keeps the device from working
        lines.append(f"{device}: does not work: {type(error).__name__}: {error}")
        return False
    lines.append(f"{device}: works, {what}")
    return True


def main(device: Device = "auto") -> int:
    """Print what `examine` finds. Returns the exit status, 0 if the device works."""
    lines, works = examine(device)
    print("\n".join(lines))
    if not works:
        print(f"the device {device!r} cannot be used", file=sys.stderr)
    return 0 if works else 1
