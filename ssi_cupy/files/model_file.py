"""Files of models and of checkpoints: plain ``.npz``, read without unpickling anything.

An entry ``header`` holds JSON: what the file is, its version, and everything that is no array.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import physics as models
from .. import recipes
from ..engine.backend import host, on_device
from ..engine.checks import FileError, InputError
from ..engine.types import Array, ForwardModel, PathLike
from ..unet import NETWORKS
from .atomic import check_writable, replacing, unwritable

VERSION = 1


def write(
    path: PathLike,
    kind: str,
    header: dict[str, Any],
    arrays: Mapping[str, Array],
    argument: str = "path",
) -> None:
    """Write a file of `kind`, whole or not at all."""
    check_writable(path, argument)
    text = json.dumps({"kind": f"ssi_cupy {kind}", "version": VERSION, **header})
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, header=np.array(text), **{k: host(v) for k, v in arrays.items()})
    except OSError as error:
        raise unwritable(path, argument, error) from None


def read(
    path: PathLike, kind: str, argument: str = "path"
) -> tuple[dict[str, Any], dict[str, Array]]:
    """(header, arrays) of a file of `kind`.

    Raises
    ------
    FileError
        If it is missing, damaged, of another kind or version, or holds pickled objects.
    """
    expected = f"a {kind} file of ssi_cupy, version {VERSION}"
    try:
        with open(path, "rb") as file, np.load(io.BytesIO(file.read()), allow_pickle=False) as npz:
            arrays = {name: npz[name] for name in npz.files}
        header = json.loads(str(arrays.pop("header")))
        found = header.pop("kind", None), header.pop("version", None)
    except OSError as error:
        raise FileError(argument, expected, f"{str(path)!r} ({error.strerror or error})") from None
    except (ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile):
        # not the reader's words: numpy's advice is to unpickle the file
        raise FileError(argument, expected, f"{str(path)!r}, which is another or damaged") from None
    if found != (f"ssi_cupy {kind}", VERSION):
        raise FileError(argument, expected, f"{found[0]}, version {found[1]}")
    return _renamed(header), arrays


def save_model(path: PathLike, model: Any) -> None:
    """Write a trained `SelfSupervisedInverse`."""
    arrays = {"parameters": model.parameters, "statistics": model.statistics}
    header = {
        "recipe": json.loads(describe(model.recipe)),
        "net": json.loads(describe(model.net)),
        "units": model.units,
        "seed": model.seed,
        "symmetries": model.symmetries,
        "wiener_levels": model.wiener_levels,
        "history": model.history,
        "spacing": None if model.spacing is None else np.asarray(model.spacing, float).tolist(),
    }
    try:
        g = models.to_dict(model.physics)
    except InputError:
        g = {}
    arrays |= {f"physics.{name}": np.asarray(value) for name, value in g.items()}
    write(path, "model", header, arrays)


def load_model(path: PathLike, physics: ForwardModel | None, make: Callable[..., Any]) -> Any:
    """The model that `save_model` wrote; `make` is its class."""
    header, arrays = read(path, "model")
    try:
        saved = {k[len("physics.") :]: v for k, v in arrays.items() if k.startswith("physics.")}
        if physics is None:
            if not saved:
                raise InputError("physics", "the forward model: the file holds none", "None")
            physics = models.from_dict(saved)
        recipe = _parts(header["recipe"])
        model = make(physics, recipe, rng=header["seed"])
        model.net = _parts({"class": "UNet"} | header["net"])  # once there was no other
        for name in ("parameters", "statistics"):
            setattr(model, name, on_device(arrays[name], model.device))
        if model.parameters.shape != (model.net.size,):
            raise ValueError(f"{model.parameters.size} parameters, not {model.net.size}")
        model.units = tuple(header["units"])
        model.symmetries = [(bool(swap), tuple(flips)) for swap, flips in header["symmetries"]]
        model.wiener_levels = header.get("wiener_levels", [])  # once there were none
        model.history, model.spacing = header["history"], header.get("spacing")
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise FileError("path", "a whole model file", f"{str(path)!r} ({error})") from None
    return model


def _renamed(header):
    """The header of an older file in today's words."""
    if "turns" in header:
        header["symmetries"] = header.pop("turns")
    if "turns" in (recipe := header.get("recipe") or {}):
        recipe["augment"] = recipe.pop("turns")
    return header


def describe(recipe: Any) -> str:
    """A recipe or a network as JSON: its fields, and the class names of what it is made of."""

    def plain(value):
        if dataclasses.is_dataclass(value):
            fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return {"class": type(value).__name__, **fields}
        return list(map(plain, value)) if isinstance(value, tuple) else value

    return json.dumps(plain(recipe))


def _parts(values):
    """What `describe` wrote."""
    if isinstance(values, dict):
        fields = {name: _parts(value) for name, value in values.items() if name != "class"}
        name = values["class"]
        return (NETWORKS[name] if name in NETWORKS else getattr(recipes, name))(**fields)
    return _tuples(values)


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
