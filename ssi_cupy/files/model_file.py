"""Files of models and of checkpoints: plain ``.npz``, read without unpickling anything.

An entry ``header`` holds JSON: what the file is, its version, and everything that is no array.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import physics as models
from .. import recipes, symmetry
from ..engine.backend import host, on_device
from ..engine.checks import FileError, InputError, number, path_like, positive_int
from ..engine.types import Array, ForwardModel, PathLike
from ..noise import NoiseModel, known_camera
from ..unet import NETWORKS
from .atomic import check_writable, replacing, unwritable

VERSION = 1
PACKED = 100  # times: nothing of ours is compressed, and by others not further than that


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
        with replacing(path, argument) as temporary, open(temporary, "wb") as file:
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
    path_like(path, argument)
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # to open a FIFO is to wait
            raise ValueError("no regular file")
        with open(path, "rb") as file:
            content = file.read()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = dict(map(_member(archive), archive.infolist()))
        header = json.loads(str(arrays.pop("header")))
        found = header.pop("kind", None), header.pop("version", None)
    except OSError as error:
        raise FileError(argument, expected, f"{str(path)!r} ({error.strerror})") from None
    except (ValueError, KeyError, EOFError, AttributeError, TypeError, RuntimeError, MemoryError,
            zipfile.BadZipFile, zlib.error, NotImplementedError):  # fmt: skip
        # not the reader's words: numpy's advice is to unpickle the file
        raise FileError(argument, expected, f"{str(path)!r}, which is another or damaged") from None
    if found != (f"ssi_cupy {kind}", VERSION):
        raise FileError(argument, expected, f"{found[0]}, version {found[1]}")
    return _renamed(header), arrays


def _member(archive):
    """(name, array) of one member: as large as it says before memory is asked for."""

    def read(info):
        name, ending = os.path.splitext(info.filename)
        if ending != ".npy" or not all(part.isidentifier() or part.isdecimal()
                                       for part in name.split(".")):  # fmt: skip
            raise ValueError(f"a name that is none of ours: {info.filename!r}")
        if info.file_size > max(PACKED * info.compress_size, 2**16):
            raise ValueError(f"{info.file_size} bytes in {info.compress_size}")
        content = io.BytesIO(archive.read(info))
        version = np.lib.format.read_magic(content)
        headers = {(1, 0): np.lib.format.read_array_header_1_0,
                   (2, 0): np.lib.format.read_array_header_2_0}  # fmt: skip
        shape, _, dtype = headers[version](content)
        left = len(content.getbuffer()) - content.tell()
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != left:
            raise ValueError(f"{shape} of {dtype} in {left} bytes")
        content.seek(0)
        return name, np.lib.format.read_array(content, allow_pickle=False)

    return read


def vector(array: Array, size: int, what: str, least: float = -np.inf) -> Array:
    """`array` if it is one of `size` finite floating-point numbers, else a ValueError."""
    if array.dtype.kind != "f" or array.shape != (size,):
        raise ValueError(f"{what}: {array.dtype} of shape {array.shape}, not ({size},)")
    if not np.isfinite(array).all() or (size and array.min() < least):
        raise ValueError(f"{what}: NaN, infinite or out of range")
    return array


def check_statistics(net: Any, statistics: Array, what: str = "statistics") -> Array:
    """Means and variances of `net` if they are some, else a ValueError."""
    vector(statistics, net.statistics_size, what)
    for place in net.statistics_layout.values():
        variances = statistics[(place.start + place.stop) // 2 : place.stop]
        vector(variances, len(variances), f"variances in {what}", 0)
    return statistics


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
        "noise": None if model.noise is None else dataclasses.asdict(model.noise),
        "camera": model.camera,
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
        model = make(physics, recipe, rng=positive_int(header["seed"], "seed", minimum=0))
        net = model.net = _parts({"class": "UNet"} | _whole_net(header["net"]))
        vector(arrays["parameters"], net.size, "parameters")
        check_statistics(net, arrays["statistics"])
        for name in ("parameters", "statistics"):
            setattr(model, name, on_device(arrays[name], model.device))
        offset, scale = header["units"]
        model.units = number(offset, "units"), number(scale, "units")
        if not model.units[1]:
            raise ValueError(f"units: a scale of {scale}")
        model.symmetries = [(bool(swap), tuple(flips)) for swap, flips in header["symmetries"]]
        model.wiener_levels = header.get("wiener_levels", [])  # once there were none
        noise = header.get("noise")
        model.noise = None if noise is None else NoiseModel(**noise)
        model.camera = known_camera(
            **{"gain": None, "read_noise": None, "offset": None} | header.get("camera", {})
        )
        known = symmetry.every(net.ndim)
        if not model.symmetries or any(s not in known for s in model.symmetries):
            raise ValueError(f"symmetries: {header['symmetries']}")
        model.history, model.spacing = header["history"], header.get("spacing")
        if not isinstance(model.history, list) or not all(
            isinstance(step, dict) for step in model.history
        ):
            raise ValueError("history: no list of steps")
        voxel_sizes(model.spacing)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError,
            RecursionError, MemoryError) as error:  # fmt: skip
        if isinstance(error, InputError) and error.argument in ("physics", "device", "precision"):
            raise
        raise FileError("path", "a whole model file", f"{str(path)!r} ({error})") from None
    return model


def voxel_sizes(spacing: Any) -> Any:
    """A ValueError where a model's pixel sizes are no numbers above zero."""
    for size in [] if spacing is None else np.atleast_1d(spacing).tolist():
        if not number(size, "spacing", low=0) > 0:
            raise ValueError(f"spacing: {spacing}")


def _whole_net(values):
    """The fields of a network as `describe` wrote them, none left out but what once was not."""
    kind = NETWORKS[values.get("class", "UNet")]
    missing = (
        {f.name for f in dataclasses.fields(kind)} - set(values) - {"aspect", "momentum", "taps"}
    )
    if missing:
        raise ValueError(f"net: no {', '.join(sorted(missing))}")
    return values


def _renamed(header):
    """The header of an older file in today's words."""
    if "turns" in header:
        header["symmetries"] = header.pop("turns")
    if isinstance(recipe := header.get("recipe"), dict):
        if "turns" in recipe:
            recipe["augment"] = recipe.pop("turns")
        header["recipe"] = {"wiener": [], "refine": False} | recipe  # once there were neither
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
