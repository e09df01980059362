"""Restore a blurred, noisy image from nothing but itself and its point-spread function."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        classical,
        degrade,
        inference,
        losses,
        masking,
        metrics,
        noise,
        ops,
        optim,
        physics,
        psf,
        recipes,
        symmetry,
        tape,
        unet,
    )
    from .engine.checks import DeviceError, FileError, InputError, OutOfMemory
    from .inversion import SelfSupervisedInverse
    from .restore import Restoration, deconvolve, denoise

__version__ = "0.2.0"

__all__ = [
    "DeviceError", "FileError", "InputError", "OutOfMemory", "Restoration", "SelfSupervisedInverse",
    "classical", "deconvolve", "degrade", "denoise", "inference", "losses", "masking", "metrics",
    "noise", "ops", "optim", "physics", "psf", "recipes", "symmetry", "tape", "unet",
]  # fmt: skip

_WHERE = {
    "deconvolve": "restore",
    "denoise": "restore",
    "Restoration": "restore",
    "SelfSupervisedInverse": "inversion",
    "DeviceError": "engine.checks",
    "FileError": "engine.checks",
    "InputError": "engine.checks",
    "OutOfMemory": "engine.checks",
}


def __getattr__(name: str) -> object:
    """Modules and the public functions are imported when they are first named."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
