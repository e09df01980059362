"""Whose array this is, and which device is meant."""

from __future__ import annotations

import functools
import logging
import sys
import time
import weakref
from typing import Any, Literal

import numpy as np

from .checks import DeviceError, choice
from .gpu import driver
from .types import Array, Device

log = logging.getLogger("ssi_cupy")


def is_cupy(array: object) -> bool:
    """Whether `array` is a cupy array. Does not import cupy: who has one has imported it."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def namespace(*arrays: Any) -> Any:
    """numpy or cupy, whichever all `arrays` belong to. `DeviceError` where they are mixed."""
    cupy = sys.modules.get("cupy")
    kinds = set(map(type, arrays)) if cupy is not None else ()  # few: this is asked at each launch
    if not any(issubclass(kind, cupy.ndarray) for kind in kinds):
        return np
    if any(issubclass(kind, np.ndarray) for kind in kinds):
        raise DeviceError("arrays", "all on one device", "numpy and cupy arrays mixed")
    return cupy


def resolve_device(device: Device, array: object = None) -> Literal["cpu", "cuda"]:
    """The device that "auto" means: a GPU if one works, and says which to the log, once.

    Raises
    ------
    DeviceError
        If "cuda" is asked for and cannot be used, or "cpu" for an array that is on a GPU.
    """
    choice(device, "device", ("auto", "cpu", "cuda"))
    if device == "cpu":
        if is_cupy(array):
            raise DeviceError("device", "'auto' or 'cuda' for a cupy array", "'cpu'")
        return "cpu"
    missing = driver.missing() or driver.failing()
    if missing and (device == "cuda" or is_cupy(array)):
        got = f"'cuda', which needs {missing}; python -m ssi_cupy doctor --device cuda tells more"
        raise DeviceError("device", "'cpu' on this machine", got)
    if device == "auto":
        _announce(missing)
    return "cpu" if missing else "cuda"


@functools.cache
def _announce(missing):
    taken = f"'cpu', as 'cuda' needs {missing}" if missing else f"'cuda': {driver.described()[0]}"
    log.info("device 'auto' is %s", taken)


def on_device(array: Array, device: str) -> Array:
    """`array` on "cpu" or "cuda"; itself if it is there already."""
    if device == "cpu":
        return host(array)
    return array if is_cupy(array) else driver.upload(array)


def moved(array: Array, like: object) -> Array:
    """`array` on the device of `like`; itself if it is there already."""
    return on_device(array, "cuda" if is_cupy(like) else "cpu")


def host(array: Any) -> Any:
    """`array` as a numpy array; from a GPU, a copy that waits for what computes it."""
    return array.get() if is_cupy(array) else array


# ---- code that is not ours ----------------------------------------------------------------------


def called(model: object, method: str, *arrays: Any) -> Any:
    """``model.method(*arrays)`` of a user's own code, which may be for numpy's arrays alone.

    If it fails on arrays of a GPU, but not on copies of them on the CPU, it gets copies from then
    on. That is told once for each model, with what it costs.

    Parameters
    ----------
    model : object
    method : str
    *arrays : array
        All on one device.

    Returns
    -------
    object
        What it returned: if that is an array, on the device of `arrays`.
    """
    run = getattr(model, method)
    if not any(map(is_cupy, arrays)):
        return run(*arrays)
    if _for_numpy.get(id(model)) is model:
        return _uploaded(run(*map(host, arrays)))
    try:
        return _uploaded(run(*arrays))
    except MemoryError:
        raise
    except Exception as error:
        failed = error
    copies = [host(array) for array in arrays]  # waits for what computes them
    try:
        start = time.perf_counter()
        found = run(*copies)
        ran = time.perf_counter()
    except Exception:
        raise failed from None
    for array in arrays:
        host(array)
    found = _uploaded(found)
    times = ran - start, time.perf_counter() - ran
    try:
        _for_numpy[id(model)] = model
    except TypeError:  # cannot be watched, as with __slots__: it is asked anew at each call
        pass
    _tell(type(model).__name__, method, f"{type(failed).__name__}: {failed}", *times)
    return found


_for_numpy: weakref.WeakValueDictionary[int, object] = weakref.WeakValueDictionary()


def _uploaded(found):
    return driver.upload(found) if isinstance(found, np.ndarray) else found


def _tell(name, method, why, ran, copied):
    log.warning(
        "physics: %s.%s does not take arrays of a GPU (%s), so it gets copies on the CPU: %.1f ms "
        "a call, and %.1f ms to copy; README.md has one that is for both",
        name, method, " ".join(why.split()), 1e3 * ran, 1e3 * copied,
    )  # fmt: skip
