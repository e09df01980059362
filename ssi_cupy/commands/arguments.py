"""What the arguments of `deconvolve` and `denoise` mean: which files, and what of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.checks import FileError, InputError
from ..engine.types import Array
from ..files import formats
from ..files.atomic import check_writable, same_file

NAN = "nan"  # in the place of a mask's name
LEARNED = "gaussian"  # in the place of a PSF's, of `deconvolve`
OPTICS = {"NA": "--na", "wvl": "--wvl", "ni": "--ni"}
Lengths = dict[str, float]


# ---- files --------------------------------------------------------------------------------------


def images(given: Sequence[str]) -> tuple[list[Path], bool]:
    """The files that IN means, and whether it may be several: files, folders and patterns."""
    several, found = len(given) > 1, []
    for name in given:
        path = Path(name)
        if path.is_dir() and path.suffix.lower() != ".zarr":
            several, some = True, [p for p in sorted(path.iterdir()) if _is_image(p)]
        elif not path.exists() and glob.has_magic(name):
            several, some = True, [Path(p) for p in sorted(glob.glob(name))]
        else:
            some = [path]
        if not some:
            raise FileError(
                "IN", f"files that end in {', '.join(formats.READ)}", f"none in {name!r}"
            )
        found += some
    return found, several


def _is_image(path):
    return path.suffix.lower() in formats.READ and not path.name.startswith(".")


def target(path: Path, dtype: str, suffix: str = "") -> str:
    """The name of what is written for an image: its own, with an ending that can hold it."""
    name, ending = path.name, path.suffix.lower()
    stem = name[: -len(path.suffix)]
    if ending in (".npz", ".npy"):
        return f"{stem}{suffix}.npy"
    if ending == ".png" and dtype not in ("uint8", "uint16"):
        return f"{stem}{suffix}.tif"
    if stem.lower().endswith(".ome") and ending in (".tif", ".tiff"):
        return f"{stem[:-4]}{suffix}.ome{path.suffix}"
    return f"{stem}{suffix}{path.suffix}"


def folders(outputs: Mapping[str, Any], paths: Sequence[Path], dtype: str) -> list[dict[str, Any]]:
    """The outputs of each image, in the folders that are made for them.

    Raises
    ------
    FileError
        Where one is no folder, or would take two images of one name or the images themselves.
    """
    for option, folder in outputs.items():
        if folder is not None:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                got = f"{str(folder)!r} ({error.strerror})"
                raise FileError(option, "a folder, for several images", got) from None
    found = [
        {o: None if f is None else Path(f) / target(path, dtype) for o, f in outputs.items()}
        for path in paths
    ]
    taken: dict[str, Path] = {}
    for path, its in zip(paths, found, strict=True):
        for option, file in its.items():
            if file is not None and same_file(file, path):
                raise FileError(option, "another folder than that of the images", f"{str(path)!r}")
        other = taken.setdefault(target(path, dtype), path)
        if other is not path:
            raise FileError("IN", "images whose names differ", f"{str(other)!r} and {str(path)!r}")
    return found


def check_outputs(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """A `FileError` where an output cannot be written, or is one of the other files."""
    taken = []
    for name, paths in inputs.items():
        taken += [(path, name) for path in (paths if isinstance(paths, list) else [paths]) if path]
    for name, path in outputs.items():
        if path is None:
            continue
        if not (str(path).lower().endswith(".zarr") and os.path.isdir(path)):  # is said elsewhere
            check_writable(path, name)
        for used, other in taken:
            # Going on from a checkpoint and keeping it up to date in the same file is fine.
            if same_file(used, path) and (other, name) != ("--resume", "--checkpoint"):
                raise FileError(name, f"another file than {other}", repr(str(path)))
        taken.append((path, name))


# ---- their axes and pixels ----------------------------------------------------------------------


def axes_of(axes: str, image: Any, psf: Any) -> str:
    """The letters of the image's axes; what the file leaves open is asked for, not guessed."""
    unknown = sorted(set(axes) - set("TZCYXS"))
    if len(unknown) == 1 and "Z" not in axes and psf is not None and psf.data.ndim == 3:
        return axes.replace(unknown[0], "Z")  # a 3-D PSF fits nothing else
    if unknown or len(axes) != image.data.ndim or len(set(axes)) != len(axes):
        expected = f"one letter of T Z C Y X for each axis of shape {image.data.shape}"
        raise InputError("--axes", f"{expected}, as --axes ZYX", repr(axes))
    if "S" in axes:  # red, green and blue are channels like others
        if "C" in axes:
            raise InputError("--axes", "colour samples or channels, not both", repr(axes))
        axes = axes.replace("S", "C")
    return axes


def learned_psf(args: Any) -> dict[str, Any]:
    """What `restore.deconvolve` is told of a PSF that is to be learned; nothing where there is one.

    Raises
    ------
    InputError
        For optics beside a PSF, or without what they need; where there is neither.
    """
    given = {name: getattr(args, name, None) for name in OPTICS}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        if args.command == "deconvolve" and args.psf is None:
            expected = f"a TIFF, {LEARNED}, or optics as --na 0.8 --wvl 0.52"
            raise InputError("--psf", expected, "none")
        return {"psf": LEARNED} if args.command == "deconvolve" and args.psf == LEARNED else {}
    if args.psf not in (None, LEARNED):
        raise InputError("--psf", f"none, or {LEARNED}, beside optics", args.psf)
    for name in ("NA", "wvl"):
        if name not in given:
            raise InputError(OPTICS[name], "a number, as optics are given", "none")
    return {"psf": args.psf, "optics": given}


def stacked(images: Sequence[Any], axes: str) -> tuple[Array, str]:
    """The pixels of images that share a training, as time points, and the letters of their axes.

    Raises
    ------
    InputError
        Where they are not of one shape.
    """
    if len(images) == 1:
        return images[0].data, axes
    first = images[0].data.shape
    for image in images[1:]:
        if image.data.shape != first:
            raise InputError("share", "images of one shape", f"{first} and {image.data.shape}")
    if "T" in axes:
        return np.concatenate([image.data for image in images], axes.index("T")), axes
    return np.stack([image.data for image in images]), "T" + axes


def part(result: Array, number: int, count: int, axes: str) -> Array:
    """Of what was `stacked` from that many images with those axes, one image."""
    if count == 1:
        return result
    if "T" not in axes:
        return result[number]
    return np.split(result, count, axes.index("T"))[number]


def mask_of(given: str | None, axes: str) -> Array | str | None:
    """The mask, with an axis of one pixel for each that the image has and it has not."""
    if given in (None, NAN):
        return given
    mask = formats.read(given, "--mask")
    letters = mask.axes.replace("S", "C")
    if not len(set(letters)) == len(letters) or not set(letters) <= set(axes):
        return mask.data
    order = [letters.index(a) for a in axes if a in letters]
    missing = tuple(i for i, a in enumerate(axes) if a not in letters)
    return np.expand_dims(mask.data.transpose(order), missing)


def spacing_of(given: Sequence[float] | None, option: str, image: Any, axes: str) -> Lengths:
    """µm per axis name: what was given, or else what the file says."""
    if given is None:
        return image.spacing
    names = [a for a in axes if a in "ZYX"]
    sizes = given * len(names) if len(given) == 1 else given
    if len(sizes) != len(names) or min(sizes) <= 0:
        expected = f"{len(names)} numbers above zero for {' '.join(names)}, as 0.5,0.1,0.1"
        raise InputError(option, expected, ",".join(f"{size:g}" for size in given))
    return dict(zip(names, sizes, strict=True))


def grids(args: Any, spacing: Lengths, axes: str, psf: Any) -> dict[str, Any]:
    """The PSF's pixel size, where the image's is known too; else it is taken to be on its grid."""
    psf_axes = "ZYX"[-psf.data.ndim :]
    psf_spacing = spacing_of(args.psf_spacing, "--psf-spacing", psf, psf_axes)
    sizes, psf_sizes = in_order(spacing, axes), in_order(psf_spacing, psf_axes)
    if args.psf_spacing and not sizes:
        raise InputError("--spacing", "the image's pixel size, as --psf-spacing is given", "none")
    return {"psf_spacing": psf_sizes} if sizes and psf_sizes else {}


def in_order(spacing: Lengths, axes: str) -> tuple[float, ...] | None:
    """The sizes along the axes of space, or None where one is not known."""
    names = [a for a in axes if a in "ZYX"]
    return tuple(spacing[a] for a in names) if set(names) <= set(spacing) else None
