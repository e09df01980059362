"""The state of a training in a file, and a training that goes on from it to the same bits."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np

from ..engine.backend import moved
from ..engine.checks import FileError, InputError
from ..engine.types import PathLike
from ..files import model_file
from ..physics import to_dict


def save(training: Any, path: PathLike) -> None:
    """Write a checkpoint of a `Training`, whole or not at all."""
    best = training.best
    arrays = {
        "parameters": training.parameters, "statistics": training.statistics,
        "best_parameters": best["parameters"], "best_statistics": best["statistics"],
        "best": np.array([best["validation"], best["step"]]),
        "schedule": training.schedule_state,
        "history": np.array([list(h.values()) for h in training.history]),
    }  # fmt: skip
    arrays |= {f"adam_{k}": v for k, v in training.optimiser.state().items()}
    if training.average:
        arrays |= {f"average_{k}": v for k, v in training.average.state().items()}
    arrays |= training.learning.state()
    model_file.write(path, "checkpoint", _identity(training), arrays, "checkpoint")


def load(training: Any, path: PathLike) -> None:
    """Go on from a checkpoint of the same image, recipe, seed and number of steps."""
    identity, arrays = model_file.read(path, "checkpoint", "resume")
    identity = {"precision": "float32", "camera": {}} | identity  # once there was no other
    for name, mine in _identity(training).items():
        if identity.get(name) != mine:
            mine, other = _differing(mine, identity.get(name))
            raise FileError("resume", f"a checkpoint of the same {name}: {mine}", other)
    try:
        _check(training, arrays)
        training.optimiser.load({k[5:]: v for k, v in arrays.items() if k.startswith("adam_")})
        if training.average:
            training.average.load({k[8:]: v for k, v in arrays.items() if k.startswith("average_")})
        training.learning.load(arrays)
        for name in ("parameters", "statistics"):
            getattr(training, name)[...] = moved(arrays[name], training.parameters)
            training.best[name][...] = moved(arrays[f"best_{name}"], training.parameters)
        validation, step = arrays["best"].tolist()
        training.best |= {"validation": validation, "step": int(step)}
        training.schedule_state = arrays["schedule"]
        keys = ("step", "loss", "validation", "lr")
        rows = arrays["history"].tolist()
        training.history = [dict(zip(keys, row, strict=True)) for row in rows]
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise FileError("resume", "a whole checkpoint", f"{str(path)!r} ({error})") from None


def steps_of(path: PathLike) -> int:
    """How many steps the training of a checkpoint has in all."""
    steps = model_file.read(path, "checkpoint", "resume")[0].get("steps")
    if not isinstance(steps, int) or steps < 1:
        raise FileError("resume", "a whole checkpoint", f"{str(path)!r} (of {steps} steps)")
    return steps


def _check(training, arrays):
    """A ValueError where something is missing, of another size, or no number."""
    size, steps = training.net.size, len(arrays["history"])
    for name in ("parameters", "best_parameters", "adam_first"):
        model_file.vector(arrays[name], size, name)
    model_file.vector(arrays["adam_second"], size, "adam_second", 0)
    for name in ("statistics", "best_statistics"):
        model_file.check_statistics(training.net, arrays[name], name)
    counts = ["adam_steps"]
    if training.average:
        model_file.vector(arrays["average_average"], size, "average")
        counts.append("average_steps")
    for name in counts:
        if arrays[name].shape or arrays[name].dtype.kind != "i" or arrays[name] != steps:
            raise ValueError(f"{name}: not the {steps} steps of its history")
    if arrays["history"].dtype.kind != "f" or arrays["history"].shape != (steps, 4):
        raise ValueError(f"history: {arrays['history'].dtype} of {arrays['history'].shape}")
    if not 1 <= steps <= training.steps or list(arrays["history"][:, 0]) != list(range(steps)):
        raise ValueError(f"history: not step by step up to one of {training.steps}")
    state = training.schedule_state
    if arrays["schedule"].shape != state.shape or arrays["schedule"].dtype != state.dtype:
        raise ValueError(f"schedule: shape {arrays['schedule'].shape}, not {state.shape}")
    if arrays["best"].shape != (2,) or np.isnan([*arrays["best"], *arrays["schedule"]]).any():
        raise ValueError("best or schedule: NaN, or of another shape")
    if not -1 <= arrays["best"][1] <= steps:
        raise ValueError(f"best: step {arrays['best'][1]:g} of {steps}")


def _identity(training):
    """What must be the same for a checkpoint to be gone on from."""
    return {
        "recipe": json.loads(model_file.describe(training.recipe)),
        "seed": training.seed,
        "steps": training.steps,
        "precision": training.model.precision,
        "camera": training.model.camera,
        "physics": fingerprint(training.model.physics),
        "image": training.source.fingerprint(),
        "network": json.loads(model_file.describe(training.net)),  # the voxels' shape is in it
    }


def fingerprint(g: Any) -> str:
    """A forward model's name and a checksum of all its settings; of a user's own, the name."""
    try:
        values = to_dict(g)
    except InputError:
        return type(g).__name__
    crc = 0
    for name, value in sorted(values.items()):
        crc = zlib.crc32(np.asarray(value).tobytes(), zlib.crc32(name.encode(), crc))
    return f"{type(g).__name__}, crc {crc:08x}"


def _differing(a, b):
    """`a` and `b`; if both are dicts, what is not alike in them."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return a, b
    unlike = {key: _differing(a.get(key), b.get(key)) for key in a | b if a.get(key) != b.get(key)}
    return tuple({key: pair[side] for key, pair in unlike.items()} for side in (0, 1))
