"""A trained model on files: each TIFF of a folder by itself, with its axes and pixel sizes kept."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..engine.checks import FileError, InputError, OutOfMemory, choice, path_like
from ..engine.interrupts import Interrupts
from ..engine.types import Float32Array, PathLike
from ..files import ome_zarr, tiff
from ..files.atomic import check_writable, same_file
from ..files.zarr_chunks import Unfinished
from ..training.image_sets import find, letters_of
from ..training.progress import counted

RESULTS = ("denoised", "restored")


def apply(
    model: Any,
    where: PathLike,
    output: PathLike,
    *,
    result: Literal["denoised", "restored"] = "denoised",
    axes: str | None = None,
    bad: Callable[[Path, InputError], object] | None = None,
    written: list[Path] | None = None,
    progress: bool = False,
) -> list[Path]:
    """Restore files by a trained model.

    Parameters
    ----------
    model : SelfSupervisedInverse
    where : path
        A TIFF file, a folder, or a pattern as ``data/*.tif``; or a Zarr.
    output : path
        A file for a file, else a folder, which is made where there is none. In it the results have
        the names of their images, ending in ``.tif``. Of a Zarr, a Zarr.
    result : {"denoised", "restored"}
        g(f(y)), what the instrument would see without noise, or f(y), what lies before it.
    axes : str, optional
        A letter of T, C, Z, Y, X for each axis, where the files do not say it themselves.
    bad : callable, optional
        Called with (path, `InputError`) for each file that cannot be restored; the others are. By
        default the error is raised.
    written : list, optional
        To it each path is added once its file is there: what is left of a run that is interrupted.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        If nothing can be read or written at all.
    """
    choice(result, "result", RESULTS)
    path_like(output, "output")
    if all(str(path).lower().endswith(".zarr") for path in (where, output)):
        return [_zarr(model, where, output, result, axes)]
    written = [] if written is None else written
    targets = _targets(where, Path(output))
    with Interrupts() as interrupts:
        for path, target in counted(targets, "restoring", progress):
            interrupts.check()
            try:
                image = tiff.read(path, "image")
                # of float32, whole or not at all; nothing is left of a file that fails
                restored = restore(model, image, result, axes)
                tiff.write(target, restored, _letters(image, axes), like=image, argument="output")
            except (InputError, OutOfMemory) as error:
                if bad is None:
                    raise
                bad(path, error)
            else:
                written.append(target)
    return written


def _zarr(model, where, output, result, axes):
    """A Zarr of one image, chunk by chunk: what is written of an interrupted run stays."""
    unfinished = Unfinished(output, "output")
    try:
        image = ome_zarr.read_lazily(where, "image")
        letters = _letters(image, axes)
        if set(letters) - set("ZYX"):
            raise InputError("image", "one of axes Z, Y, X", letters)
        order = [letters.index(a) for a in "ZYX" if a in letters]
        function = model.reblur if result == "denoised" else model.predict
        unfinished.write(function(image.data.transpose(order)), "ZYX"[-len(order) :], image.spacing)
    finally:
        unfinished.leave()
    return Path(output)


def restore(
    model: Any,
    image: tiff.Image,
    result: Literal["denoised", "restored"] = "denoised",
    axes: str | None = None,
) -> Float32Array:
    """The result for a `tiff.Image`, in its axis order.

    Time points are restored one by one; channels too, unless the model was trained on as many.
    """
    letters, net = _letters(image, axes), model.net
    sizes = dict(zip(letters, image.data.shape, strict=True))
    rank, channels = 3 if sizes.get("Z", 1) > 1 else 2, sizes.get("C", 1)
    if rank != net.ndim:
        got = f"a {rank}-D one with axes {letters} of shape {image.data.shape}"
        raise InputError("image", f"a {net.ndim}-D image, as the model was trained on", got)
    if net.outputs not in (1, channels):
        expected = f"{net.outputs} channels, as the model was trained on"
        raise InputError("image", expected, f"{channels} of axes {letters}")
    order = [letters.index(a) for a in "TCZYX" if a in letters]
    stack = image.data.transpose(order)
    full = stack.reshape([sizes.get(a, 1) for a in "TCZYX"])
    found = np.empty(full.shape, np.float32)
    function = model.reblur if result == "denoised" else model.predict
    for t, c in itertools.product(range(full.shape[0]), range(0, channels, net.outputs)):
        part = np.s_[t : t + 1, c : c + net.outputs]
        found[part] = function(full[part])
    return found.reshape(stack.shape).transpose(np.argsort(order))


def _letters(image, axes):
    shape = image.data.shape
    return letters_of(tiff.Layout(None, shape, image.axes, image.data.dtype, None), axes)


def _targets(where, output):
    """(image, where its result goes) of all images; an `InputError` where that cannot be."""
    single = os.path.isfile(path_like(where, "image"))
    paths = find(where, "image")
    if single and not output.is_dir():
        if same_file(output, where):
            raise FileError("output", "another file than the image", repr(str(output)))
        check_writable(output, "output")
        return [(Path(where), output)]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        expected = "a folder, for a folder of images"
        raise FileError("output", expected, f"{str(output)!r} ({error.strerror})") from None
    check_writable(output / "probe.tif", "output")
    targets = {}
    for path in paths:
        target = output / f"{path.stem}.tif"
        if same_file(target, path):
            raise FileError("output", "another folder than that of the images", repr(str(output)))
        if target in targets:
            got = f"{targets[target].name} and {path.name}"
            raise FileError("image", "names that differ by more than their ending", got)
        targets[target] = path
    return [(path, target) for target, path in targets.items()]
