"""The command line: ``python -m ssi_cupy``, and the console script ``ssi-cupy``.

Exit status: 0 done, 1 the device that `doctor` was asked about does not work, or some files of a
folder could not be used and the others were, 2 bad input (one line on stderr says which), 130
interrupted.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ..engine.checks import FileError, InputError, OutOfMemory, choice
from .parser import PROGRAM, parser

# What the Python interface calls it, and what the user typed.
TYPED = {"image": "IN", "output": "-o", "num_iter": "--steps", "rng": "--seed", "path": "MODEL"}
OPTIONS = (
    "psf recipe steps seed device precision gain read_noise offset axes spacing psf_spacing mask "
    "mode tile_size tile_overlap dtype compression series checkpoint resume sigma ndim size out "
    "patch time_limit share"
)
# What may be wrong with one image of several, and right with the others.
OF_AN_IMAGE = "IN image axes --axes series psf mask spacing --spacing tile_size --output".split()
TYPED |= {"NA": "--na", "wvl": "--wvl", "ni": "--ni", "optics": "--ni"}
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
    args.argv = sys.argv[1:] if argv is None else list(argv)
    args.began = time.perf_counter()
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
    return _restore(args, deconvolve, outputs | {"--uncertainty": args.uncertainty})


def _denoise(args):
    from ..restore import denoise

    return _restore(args, denoise, {"--output": args.output, "--uncertainty": args.uncertainty})


def _restore(args, function, outputs):
    """One image; or of several each by itself, with a training of its own, or all by one."""
    from . import arguments

    paths, several = arguments.images(args.image)
    shared = args.share is not None
    if args.dry_run:
        files = [(path, {}) for path in paths]
        for some in [files] if shared else [[file] for file in files]:
            _restore_files(args, some, function)
        return 0
    each = arguments.folders(outputs, paths, args.dtype) if several else [outputs]
    if outputs["--output"] is None:  # of denoise: beside IN
        beside = [p.with_name(arguments.target(p, args.dtype, "_denoised")) for p in paths]
        each = [its | {"--output": p} for its, p in zip(each, beside, strict=True)]
    files = list(zip(paths, each, strict=True))
    if not several:
        return _restore_files(args, files, function)
    for name in ["checkpoint", "resume", "report"] + ["save_model"] * (not shared):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')}", "a single image", f"{len(paths)}")
    if shared:
        _restore_files(args, files, function)
        print(f"{len(paths)} of {len(paths)} images restored")
        return 0
    bad, args.written = [], []  # for whoever interrupts
    for i, (path, its) in enumerate(files):
        try:
            _restore_files(args, [(path, its)], function, of=len(paths) - i)
            args.written.append(its["--output"])
        except (InputError, OutOfMemory) as error:
            if getattr(error, "argument", "IN") not in OF_AN_IMAGE:
                raise  # what is wrong with one of the other arguments is so for all
            bad.append(path)
            _complain(error, path)
    print(f"{len(args.written)} of {len(paths)} images restored")
    return (1 if args.written else 2) if bad else 0


def _time_left(args, of=1):
    """Seconds for the next of that many images, of `--time-limit`; None where there is none."""
    if args.time_limit is None or not args.time_limit > 0:  # is said elsewhere
        return args.time_limit
    return max(args.time_limit - (time.perf_counter() - args.began), 1e-3) / of


def _restore_files(args, files, function, of=1):
    """Read, check all that will be written, train, write. Of several files, all share a training.

    `files` are pairs of a path and its outputs.
    """
    from .. import recipes
    from ..files import formats, ome_zarr, report
    from . import arguments, chunks

    path, learned = files[0][0], arguments.learned_psf(args)
    known = None if learned else args.psf
    inputs = {"IN": [path for path, _ in files], "--psf": known, "--resume": args.resume}
    inputs["--mask"] = args.mask if args.mask != arguments.NAN else None
    kept = {"--checkpoint": args.checkpoint, "--save-model": args.save_model,
            "--report": args.report}  # fmt: skip
    files = [(p, {o: t for o, t in its.items() if t is not None}) for p, its in files]
    outputs = files[0][1]
    how = {option: {"dtype": args.dtype, "compression": args.compression} for option in outputs}
    if "--uncertainty" in how:
        how["--uncertainty"] = {"compression": args.compression}  # float32, whatever the others are
    for _, its in files:
        for option, target in its.items():
            formats.check_written(target, option, **how[option])
        arguments.check_outputs(inputs, its | kept)
    if args.report is not None:
        report.check(args.report, "--report")
    by_chunks = bool(outputs) and chunks.apply_to(args, path, outputs)
    read = ome_zarr.read_lazily if by_chunks else formats.read
    images = [read(path, "IN", args.series) for path, _ in files]
    image = images[0]
    psf = formats.read(known, "--psf") if known else None
    axes = arguments.axes_of(args.axes or image.axes, image, psf)
    spacing = arguments.spacing_of(args.spacing, "--spacing", image, axes)
    for option, target in outputs.items():
        formats.check_written(target, option, **how[option], axes=axes, shape=image.data.shape)
    data, letters = arguments.stacked(images, axes)
    options = {
        "axes": letters,
        "share": args.share if len(images) == 1 else "".join({*args.share} | {"T"}),
        "mask": arguments.mask_of(args.mask, letters),
        "rng": args.seed,
        "device": args.device,
        "precision": args.precision,
        "refine": args.refine,
        "gain": args.gain,
        "read_noise": args.read_noise,
        "offset": args.offset,
        "mode": args.mode,
        "progress": args.progress,
        "checkpoint": args.checkpoint,
        "resume": args.resume,
        "num_iter": args.steps,
        "time_limit": _time_left(args, of),
        "dry_run": args.dry_run,
        "full_output": True,
    }
    if arguments.in_order(spacing, axes):
        options["spacing"] = arguments.in_order(spacing, axes)
    for name in ("tile_size", "tile_overlap"):
        given = getattr(args, name)
        options[name] = given[0] if given is not None and len(given) == 1 else given
    if args.recipe is not None:
        options["recipe"] = recipes.get(args.recipe)
    if psf is not None:
        options |= arguments.grids(args, spacing, axes, psf)
    options |= learned or {"psf": None if psf is None else psf.data}
    if by_chunks:
        chunks.restore(function, data, options, outputs["--output"], axes, spacing)
        return
    result = function(data, **options)
    if args.dry_run:
        print(f"{path if len(files) == 1 else f'{len(files)} images'}: {result}")
        return

    results = {"--output": result.restored, "--denoised": result.denoised}
    if args.run is _denoise:
        results = {"--output": result.denoised}
    if "--uncertainty" in outputs:
        results["--uncertainty"] = result.uncertainty
    for number, (_, its) in enumerate(files):
        for option, target in its.items():
            part = arguments.part(results[option], number, len(files), axes)
            formats.write(target, part, axes, spacing, like=images[number], argument=option,
                          **how[option])  # fmt: skip
    if args.save_model is not None:
        result.model.save(args.save_model)
    if args.report is not None:
        report.write(args.report, result, shlex.join([PROGRAM, *args.argv]), "--report")
    seconds = f"{sum(result.seconds.values()):.0f} s"
    where = outputs["--output"] if len(files) == 1 else os.path.dirname(outputs["--output"])
    print(f"{where}: {result.steps} steps in {seconds} on {result.device}")
    if result.psf is not None:
        print(f"learned: {result.psf}")
    print(result.verdict)


def _train(args):
    """Train one model on all images of a folder."""
    import dataclasses

    from .. import recipes
    from ..inversion import SelfSupervisedInverse
    from ..ops.pad import MODES
    from ..training import image_sets
    from . import arguments

    recipe = recipes.get(args.recipe)
    choice(args.mode, "mode", MODES)
    if args.patch is not None:
        recipe = dataclasses.replace(recipe, patch=args.patch)
    where = [path for given in args.images for path in image_sets.find(given, "IN")]
    kept = {"--output": args.output, "--checkpoint": args.checkpoint}
    arguments.check_outputs({"IN": where, "--psf": args.psf, "--resume": args.resume}, kept)
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
    if args.dry_run:
        print(model.cost(found, steps=args.steps, time_limit=args.time_limit))
        return 1 if bad else 0
    model.fit(found, steps=args.steps, progress=args.progress, checkpoint=args.checkpoint,
              resume=args.resume, time_limit=_time_left(args))  # fmt: skip
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
    from . import arguments, psf

    arguments.check_outputs({}, {"--output": args.output})
    kernel, spacing = psf.made(args)
    tiff.write(args.output, kernel, "ZYX"[-kernel.ndim :], spacing, argument="--output")


def _demo(args):
    from . import demo

    options = {"device": args.device, "precision": args.precision, "num_iter": args.steps}
    demo.run(args.out, rng=args.seed, progress=args.progress, **options)


def _doctor(args):
    from . import doctor

    return doctor.main(args.device)


COMMANDS = {
    "deconvolve": _deconvolve, "denoise": _denoise, "train": _train, "apply": _apply,
    "psf": _psf, "demo": _demo, "doctor": _doctor,
}  # fmt: skip
