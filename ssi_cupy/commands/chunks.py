"""Zarr in, Zarr out: an image that is restored chunk by chunk, and by several runs if need be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import recipes
from ..engine.checks import InputError
from ..engine.types import PathLike
from ..files import ome_zarr
from ..files.zarr_chunks import Unfinished

STATE = "training.npz"


def apply_to(args: Any, path: PathLike, outputs: Mapping[str, Any]) -> bool:
    """Whether an image is restored by chunks: from a Zarr to a Zarr, where --tile-size asks for it
    or it is so large that a training sees but parts of it.

    Raises
    ------
    InputError
        Where another output is asked for, that is made of the whole image.
    """
    if not all(str(p).lower().endswith(".zarr") for p in (path, outputs["--output"])):
        return False
    if args.tile_size is None:
        image = ome_zarr.read_lazily(path, "IN", args.series)
        axes = (args.axes or image.axes).replace("S", "C")
        shape = [n for a, n in zip(axes, image.data.shape, strict=False) if a != "C" and a != "T"]
        if not recipes.get(args.recipe or "default").sees_a_part(shape):
            return False
    whole = [option for option in outputs if option != "--output"]
    whole += ["--report"] * (args.report is not None)
    whole += ["--save-model"] * (args.save_model is not None)
    if whole:
        raise InputError(whole[0], "none, for a Zarr that is restored by chunks", "one")
    if args.dtype != "float32":
        raise InputError("dtype", "float32, for a Zarr that is restored by chunks", args.dtype)
    return True


def restore(
    function: Callable,
    image: Any,
    options: dict[str, Any],
    output: PathLike,
    axes: str,
    spacing: Mapping[str, float],
) -> None:
    """Train, and write chunk after chunk. The same command goes on where this one ended.

    Parameters
    ----------
    function : callable
        `deconvolve` or `denoise`.
    image : array of Dask
    options : dict
        The other arguments of `function`.
    """
    unfinished = Unfinished(output, "--output")
    state, kept = unfinished.beside(STATE), options["checkpoint"] or options["resume"]
    single = all(n == 1 for a, n in zip(axes, image.shape, strict=True) if a in "TC")
    if single and not kept:
        options = options | {"checkpoint": state, "resume": state if state.exists() else None}
    try:
        result = function(image, **options | {"full_output": False})
        unfinished.write(result, axes, spacing)
    finally:
        unfinished.leave()
    print(f"{Path(output)}: {math.prod(result.numblocks)} chunks")
