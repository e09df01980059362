"""The command line: ``python -m ssi_cupy``, and the console script ``ssi-cupy``.

Exit status: 0 done, 1 the device that `doctor` was asked about does not work, or some files of a
folder could not be used and the others were, 2 bad input (one line on stderr says which), 130
interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..engine.checks import FileError, InputError, OutOfMemory, choice
from .parser import PROGRAM, parser

# What the Python interface calls it, and what the user typed.
TYPED = {"image": "IN", "output": "-o", "num_iter": "--steps", "rng": "--seed", "path": "MODEL"}
OPTIONS = (
    "psf recipe steps seed device precision axes spacing psf_spacing mask mode tile_size "
    "tile_overlap checkpoint resume sigma ndim size out patch"
)
NAN = "nan"  # in the place of a mask's name
TYPED |= {name: f"--{name.replace('_', '-')}" for name in OPTIONS.split()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : list of str, optional
        Default, those of the process.

    Returns
    -------
    int
        The exit status.
    """
    if hasattr(sys.stdout, "reconfigure") and "utf" not in (sys.stdout.encoding or "").lower():
        sys.stdout.reconfigure(errors="replace")  # µ, where the terminal knows ASCII alone
    args = parser(COMMANDS).parse_args(argv)
    try:
        with _logged(args.log):
            return args.run(args) or 0
    except InputError as error:
        name = TYPED.get(error.argument, error.argument)
        return _say(f"error: {name}: expected {error.expected}, got {error.got}", 2)
    except MemoryError as error:
        told = (
            str(error) if isinstance(error, OutOfMemory) else f"memory: too little of it ({error})"
        )
        way = "; so does --tile-size 256" if _tiles(args) else ""
        return _say(f"error: {told}{way}", 2)
    except KeyboardInterrupt:
        checkpoint = getattr(args, "checkpoint", None)
        if checkpoint and os.path.exists(checkpoint):
            return _say(f"interrupted; to go on, add --resume {checkpoint}", 130)
        written = getattr(args, "written", ())
        if written:
            last = f"{len(written)} written, {written[-1]} the last"
            return _say(f"interrupted; {last}", 130)
        return _say("interrupted; nothing was written", 130)


def _tiles(args):
    return hasattr(args, "tile_size") and args.tile_size is None


@contextmanager
def _logged(path):
    """Within, what the package logs goes to a file too, with the time and the level."""
    if path is None:
        yield
        return
    log = logging.getLogger("ssi_cupy")
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        got = f"{path!r} ({error.strerror or error})"
        raise FileError("--log", "a path that can be written", got) from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.info("%s", " ".join(sys.argv))
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()


def _say(message, status):
    tqdm.write(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)
    return status


# ---- commands -------------------------------------------------------------------------------


def _deconvolve(args):
    from ..restore import deconvolve

    outputs = {"--output": args.output, "--denoised": args.denoised}
    _restore(args, deconvolve, outputs)


def _denoise(args):
    from ..restore import denoise

    if args.output is None:
        args.output = Path(args.image).with_name(f"{Path(args.image).stem}_denoised.tif")
    _restore(args, denoise, {"--output": args.output})


def _restore(args, function, outputs):
    """Read, check all that will be written, train, write."""
    from .. import recipes
    from ..files import formats

    inputs = {"IN": args.image, "--psf": args.psf, "--resume": args.resume}
    inputs["--mask"] = args.mask if args.mask != NAN else None
    kept = {"--checkpoint": args.checkpoint, "--save-model": args.save_model}
    for option, path in outputs.items():
        if path is not None:
            formats.check_written(path, option)
    _check_outputs(inputs, outputs | kept)
    image = formats.read(args.image, "IN")
    psf = formats.read(args.psf, "--psf") if args.psf else None
    axes = _axes(args.axes or image.axes, image, psf)
    spacing = _spacing(args.spacing, "--spacing", image, axes)
    options = {
        "axes": axes,
        "mask": _mask(args.mask, axes),
        "rng": args.seed,
        "device": args.device,
        "precision": args.precision,
        "refine": args.refine,
        "mode": args.mode,
        "progress": args.progress,
        "checkpoint": args.checkpoint,
        "resume": args.resume,
        "num_iter": args.steps,
        "full_output": True,
    }
    if _in_order(spacing, axes):
        options["spacing"] = _in_order(spacing, axes)
    for name in ("tile_size", "tile_overlap"):
        given = getattr(args, name)
        options[name] = given[0] if given is not None and len(given) == 1 else given
    if args.recipe is not None:
        options["recipe"] = recipes.get(args.recipe)
    if psf is not None:
        options |= _grids(args, spacing, axes, psf)
    result = function(image.data, psf.data if psf is not None else None, **options)

    results = {"--output": result.restored, "--denoised": result.denoised}
    if "--denoised" not in outputs:
        results = {"--output": result.denoised}
    for option, path in outputs.items():
        if path is not None:
            formats.write(path, results[option], axes, spacing, like=image, argument=option)
    if args.save_model is not None:
        result.model.save(args.save_model)
    seconds = f"{sum(result.seconds.values()):.0f} s"
    print(f"{args.output}: {result.steps} steps in {seconds} on {result.device}")


def _train(args):
    """Train one model on all images of a folder."""
    import dataclasses

    from .. import recipes
    from ..inversion import SelfSupervisedInverse
    from ..ops.pad import MODES
    from ..training import image_sets

    recipe = recipes.get(args.recipe)
    choice(args.mode, "mode", MODES)
    if args.patch is not None:
        recipe = dataclasses.replace(recipe, patch=args.patch)
    where = [path for given in args.images for path in image_sets.find(given, "IN")]
    kept = {"--output": args.output, "--checkpoint": args.checkpoint}
    _check_outputs({"IN": where, "--psf": args.psf, "--resume": args.resume}, kept)
    bad = []

    def report(error):
        bad.append(error)
        _complain(error)

    options = {"bad": report if len(where) > 1 else None, "progress": args.progress}
    found = image_sets.gather(where, args.axes, "IN", **options)
    if len(found) > 1 and not recipe.patch:
        raise InputError("patch", f"a number of pixels, as {recipe.name} has none", "none")
    physics = _physics(args, 3 if found.shapes[0][1] > 1 else 2)
    options = {"rng": args.seed, "device": args.device, "precision": args.precision}
    options["spacing"] = args.spacing or found.spacing
    model = SelfSupervisedInverse(physics, recipe, **options)
    model.fit(found, steps=args.steps, progress=args.progress, checkpoint=args.checkpoint,
              resume=args.resume)  # fmt: skip
    model.save(args.output)
    what = f"{len(found)} images" if len(found) > 1 else "one image (validated on some pixels)"
    done = f"{len(model.history)} steps on {what} in {model.seconds['train']:.0f} s"
    print(f"{args.output}: {done} on {model.device}")
    return 1 if bad else 0


def _physics(args, ndim):
    """The forward model that the options of `train` say, for images of that rank."""
    from ..files import tiff
    from ..physics import Identity, PSFConvolution
    from ..psf import gaussian

    if args.psf is not None:
        kernel = tiff.read(args.psf, "--psf").data
    elif args.psf_sigma is None or not any(args.psf_sigma):
        return Identity()
    else:
        sigma = args.psf_sigma[0] if len(args.psf_sigma) == 1 else args.psf_sigma
        try:
            kernel = gaussian(sigma, ndim=ndim)
        except InputError as error:
            raise InputError("--psf-sigma", error.expected, error.got) from None
    if kernel.ndim != ndim:
        name = "--psf" if args.psf is not None else "--psf-sigma"
        raise InputError(name, f"a {ndim}-D one for {ndim}-D images", f"{kernel.ndim}-D")
    return PSFConvolution(kernel, mode=args.mode)


def _apply(args):
    from ..inversion import SelfSupervisedInverse
    from . import apply_folder

    model = SelfSupervisedInverse.load(args.model, device=args.device, precision=args.precision)
    if Path(args.output).resolve() == Path(args.model).resolve():
        raise FileError("output", "another file than MODEL", repr(args.output))
    bad, single = [], os.path.isfile(args.image)

    def report(path, error):
        bad.append(path)
        _complain(error, path)

    options = {
        "result": args.result,
        "axes": args.axes,
        "bad": None if single else report,
        "progress": True,
    }
    args.written = []  # for whoever interrupts
    written = apply_folder.apply(model, args.image, args.output, written=args.written, **options)
    what = "image" if len(written) == 1 else "images"
    print(f"{args.output}: {len(written)} {what} {args.result} on {model.device}")
    return (1 if written else 2) if bad else 0


def _complain(error, path=None):
    """Say what is wrong with one file, and go on."""
    said = getattr(error, "expected", None) and f"expected {error.expected}, got {error.got}"
    _say(f"left out: {path or TYPED.get(error.argument, error.argument)}: {said or error}", 1)


def _psf(args):
    from ..files import tiff
    from . import psf

    _check_outputs({}, {"--output": args.output})
    kernel, spacing = psf.made(args)
    tiff.write(args.output, kernel, "ZYX"[-kernel.ndim :], spacing, argument="--output")


def _demo(args):
    from . import demo

    options = {"device": args.device, "precision": args.precision, "num_iter": args.steps}
    demo.run(args.out, rng=args.seed, progress=args.progress, **options)


def _doctor(args):
    from . import doctor

    return doctor.main(args.device)


# ---- what the arguments mean ----------------------------------------------------------------


def _check_outputs(inputs, outputs):
    from ..files.atomic import check_writable, same_file

    taken = []
    for name, paths in inputs.items():
        taken += [(path, name) for path in (paths if isinstance(paths, list) else [paths]) if path]
    for name, path in outputs.items():
        if path is None:
            continue
        check_writable(path, name)
        for used, other in taken:
            # Going on from a checkpoint and keeping it up to date in the same file is fine.
            if same_file(used, path) and (other, name) != ("--resume", "--checkpoint"):
                raise FileError(name, f"another file than {other}", repr(str(path)))
        taken.append((path, name))


def _axes(axes, image, psf):
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


def _mask(given, axes):
    """The mask, with an axis of one pixel for each that the image has and it has not."""
    from ..files import formats

    if given in (None, NAN):
        return given
    mask = formats.read(given, "--mask")
    letters = mask.axes.replace("S", "C")
    if not len(set(letters)) == len(letters) or not set(letters) <= set(axes):
        return mask.data
    order = [letters.index(a) for a in axes if a in letters]
    missing = tuple(i for i, a in enumerate(axes) if a not in letters)
    return np.expand_dims(mask.data.transpose(order), missing)


def _spacing(given, option, image, axes):
    """µm per axis name: what was given, or else what the file says."""
    if given is None:
        return image.spacing
    names = [a for a in axes if a in "ZYX"]
    sizes = given * len(names) if len(given) == 1 else given
    if len(sizes) != len(names) or min(sizes) <= 0:
        expected = f"{len(names)} numbers above zero for {' '.join(names)}, as 0.5,0.1,0.1"
        raise InputError(option, expected, ",".join(f"{size:g}" for size in given))
    return dict(zip(names, sizes, strict=True))


def _grids(args, spacing, axes, psf):
    """The PSF's pixel size, where the image's is known too; else it is taken to be on its grid."""
    psf_axes = "ZYX"[-psf.data.ndim :]
    psf_spacing = _spacing(args.psf_spacing, "--psf-spacing", psf, psf_axes)
    sizes, psf_sizes = _in_order(spacing, axes), _in_order(psf_spacing, psf_axes)
    if args.psf_spacing and not sizes:
        raise InputError("--spacing", "the image's pixel size, as --psf-spacing is given", "none")
    return {"psf_spacing": psf_sizes} if sizes and psf_sizes else {}


def _in_order(spacing, axes):
    names = [a for a in axes if a in "ZYX"]
    return tuple(spacing[a] for a in names) if set(names) <= set(spacing) else None


COMMANDS = {
    "deconvolve": _deconvolve, "denoise": _denoise, "train": _train, "apply": _apply,
    "psf": _psf, "demo": _demo, "doctor": _doctor,
}  # fmt: skip
