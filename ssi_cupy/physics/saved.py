"""Models as plain arrays and numbers, for files."""

from __future__ import annotations

from typing import Any

from ..engine import checks
from ..engine.checks import InputError
from .learned import LearnedPSF
from .models import Clamp, Composition, Identity, PSFConvolution, SensorResponse

_KINDS = {
    kind.__name__: kind for kind in (Identity, PSFConvolution, LearnedPSF, Clamp, SensorResponse)
}


def to_dict(model: object) -> dict[str, Any]:
    """A model as a flat dict of str, numbers, bools and arrays, for `from_dict`.

    Raises
    ------
    InputError
        If `model` is not one of this folder.
    """
    if isinstance(model, Composition):
        parts = [(f"{i}.", to_dict(part)) for i, part in enumerate(model.models)]
        flat = {number + name: part[name] for number, part in parts for name in part}
        return {"class": "Composition", "length": len(parts), **flat}
    if _KINDS.get(type(model).__name__) is not type(model):
        expected = "a model of ssi_cupy.physics (a file cannot hold code)"
        raise InputError("physics", expected, type(model).__name__)
    return {"class": type(model).__name__, **model.settings()}


def from_dict(values: dict[str, Any]) -> Any:
    """The model that `to_dict` wrote. Values may have become 0-d arrays, as in an npz file."""
    checks.made_of(dict)(values, "physics")
    values = {k: v.item() if getattr(v, "ndim", None) == 0 else v for k, v in values.items()}
    kind = values.pop("class", None)
    if kind == "Composition":
        length = checks.positive_int(values.pop("length", 0), "physics", most=len(values))
        parts = [{} for _ in range(length)]
        for name, value in values.items():
            i, _, rest = name.partition(".")
            if i.isdecimal() and int(i) < length:
                parts[int(i)][rest] = value
        return Composition(*map(from_dict, parts))
    try:
        model = _KINDS[kind](**values)
        if missing := set(model.settings()) - set(values):
            raise TypeError(f"no {', '.join(sorted(missing))}")
        return model
    except (KeyError, TypeError) as error:
        raise InputError("physics", "a model that to_dict wrote", f"{kind!r} ({error})") from None
