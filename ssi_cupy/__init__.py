"""Restore a blurred, noisy image from nothing but itself and its point-spread function."""

from __future__ import annotations

import importlib

_WHERE = {
    "deconvolve": "restore",
    "denoise": "restore",
    "Restoration": "restore",
    "SelfSupervisedInverse": "inversion",
}
_ROOMS = (
    "classical", "degrade", "losses", "masking", "metrics", "ops", "optim", "physics", "psf",
    "recipes", "tape", "tiles", "unet",
)  # fmt: skip

__all__ = [*_WHERE, *_ROOMS]


def __getattr__(name):
    """Rooms and the public functions are imported when they are first named."""
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
