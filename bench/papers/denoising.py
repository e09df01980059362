"""Blind-spot denoising with a PSF, after Goncharova et al. (2020): four variants, and its Figures
3 and 4.

Trained on real confocal frames, each by itself, and on many images of rendered text. Without
options networks and trainings have the paper's sizes, which want a GPU. The folder gets a small
file for each training; the same command again goes on where it stopped.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ssi_cupy import SelfSupervisedInverse, metrics, psf, recipes
from ssi_cupy.engine import backend
from ssi_cupy.engine.checks import FileError, InputError
from ssi_cupy.physics import Identity, PSFConvolution
from ssi_cupy.unet import PlainUNet

from . import denoising_figures, denoising_memory, records, tabulate, text

ROOT = Path(__file__).resolve().parents[2]
SETS = ("mice", "BPAE_B", "text")
VARIANTS = {
    "ours_plus": recipes.DECONOISING,
    "ours_minus": recipes.DECONOISING_MINUS,
    "n2v": recipes.NOISE2VOID,
}
SIGMAS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
SIGMA = 1.0  # pixels: of the paper's PSF for all its data, and of the text's blur
IMAGES = 40_800  # of text; the test images are 64 others
TESTED, TEST_SEED = 64, 1
PIXELS_HELD_OUT = 0.02  # of a single image


@dataclass(frozen=True)
class Data:
    """Images to train on, and others, or the same, to score."""

    train: object
    truth: np.ndarray  # (N, Y, X)
    image: np.ndarray


def main(arguments):
    options = parser().parse_args(arguments)
    try:
        return run(options)
    except InputError as error:
        print(f"denoising: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("denoising: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def parser():
    made = argparse.ArgumentParser("python -m bench denoising", description=__doc__)
    add = made.add_argument
    add("--out", required=True, metavar="DIR")
    add("--sets", nargs="+", choices=SETS, default=SETS, metavar="NAME", help=" ".join(SETS))
    add("--sigmas", nargs="*", type=float, default=SIGMAS, metavar="PIXELS",
        help="of the PSF that is trained with on text (default: 0 to 2)")  # fmt: skip
    add("--width", type=int, default=64, metavar="N", help="channels of the network (64)")
    add("--depth", type=int, default=3, metavar="N", help="levels of the network (3)")
    add("--patch", type=int, default=100, metavar="N", help="side of a patch (100)")
    add("--patches", type=int, default=20, metavar="N", help="patches of a step (20)")
    add("--steps", type=int, default=2000, metavar="N", help="(2000)")
    add("--images", type=int, default=IMAGES, metavar="N", help=f"of text ({IMAGES})")
    add("--seed", type=int, default=0, metavar="N")
    add("--device", default="auto", help="auto (default), cpu or cuda")
    add("--threads", type=int, metavar="N", help="of the CPU")
    add("--memory", action="store_true",
        help="only the memory of a training on 200 TIFFs of 1024 × 1024 pixels")  # fmt: skip
    return made


def run(options):
    if options.threads:
        backend.set_num_threads(options.threads)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if options.memory:
        return denoising_memory.run(out)
    context = tabulate.circumstances()
    for name in options.sets:
        data = None
        for variant, sigma in jobs(name, options):
            settings = settings_of(name, variant, sigma, options)
            stem = f"{variant}_{sigma:g}"
            if done(records.path_of(out, name, stem), settings):
                continue
            data = data or load(name, options)
            record, arrays = measured(data, variant, sigma, options)
            record |= {"image": name, "method": stem, "settings": settings, **context}
            records.store(out, record | {"date": tabulate.now()}, arrays)
            print(f"{name} {stem}: {record['psnr']:.2f} dB, {record['train']:.0f} s", flush=True)
    found = {(r["image"], r["method"]): r for r in records.load_all(out)}
    print(denoising_figures.write(out, found))
    return 0


def done(path, settings):
    """Whether a result is there; an `InputError` if it is one of other settings."""
    there = records.load(path)
    if there is None or there["settings"] == settings:
        return there is not None
    other = ", ".join(key for key in settings if settings[key] != there["settings"].get(key))
    raise FileError("--out", "a folder for these settings alone", f"another {other} in {path.name}")


def jobs(name, options):
    """(variant, σ of the PSF) of all trainings on a set."""
    found = [("ours_plus", SIGMA), ("ours_minus", SIGMA), ("n2v", 0.0)]
    if name == "text":
        found += [("ours_plus", sigma) for sigma in options.sigmas if sigma != SIGMA]
    return found


def settings_of(name, variant, sigma, options):
    """All that a score depends on, but for the code."""
    chosen = ("width", "depth", "patch", "patches", "steps", "seed")
    settings = {"set": name, "variant": variant, "sigma": sigma}
    settings |= {key: getattr(options, key) for key in chosen}
    return settings | ({"images": options.images} if name == "text" else {})


def load(name, options):
    """The `Data` of a set."""
    if name == "text":
        truth, image = text.images(TESTED, TEST_SEED + options.seed)
        train = text.images(options.images, TEST_SEED + options.seed + 1000)[1]
        return Data(train[:, None, None], truth, image)
    import tifffile

    base = os.environ.get("SSI_CUPY_DATA") or ROOT.parent / "shared" / "data"
    folder = Path(base) / "real" / "confocal2d"
    try:
        truth, image = (tifffile.imread(folder / f"{kind}_{name}.tif") for kind in ("gt", "noisy"))
    except FileNotFoundError as error:
        expected = "the confocal frames (SSI_CUPY_DATA names the folder that real/ is in)"
        raise FileError("--sets", expected, str(error.filename)) from None
    return Data(image, truth[None].astype(np.float32), image[None].astype(np.float32))


def measured(data, variant, sigma, options):
    """(what is known of a training, arrays for the pictures)."""
    recipe = replace(
        VARIANTS[variant], network=PlainUNet(width=options.width, depth=options.depth),
        patch=options.patch, **batches(options),
    )  # fmt: skip
    if data.train.ndim == 2:
        recipe = replace(recipe, validation=PIXELS_HELD_OUT)
    physics = PSFConvolution(psf.gaussian(sigma)) if sigma else Identity()
    model = SelfSupervisedInverse(physics, recipe, rng=options.seed, device=options.device)
    start = time.perf_counter()
    model.fit(data.train, steps=options.steps, progress=sys.stderr.isatty())
    seconds = time.perf_counter() - start
    restored, denoised = (a[:, 0, 0] for a in model.restore(data.image[:, None, None]))
    blurred = PSFConvolution(psf.gaussian(SIGMA)).forward(denoised[:, None, None])[:, 0, 0]
    record = {
        "psnr": psnr(data.truth, denoised),
        "psnr_input": psnr(data.truth, data.image),
        "psnr_convolved": psnr(data.truth, blurred),
        "negative": float(np.maximum(-restored, 0).mean(dtype=float)),
        "negative_share": float((restored < 0).mean()),
        "range": [float(restored.min()), float(restored.max())],
        "train": seconds, "device": model.device, "parameters": model.net.size,
    }  # fmt: skip
    shown = (data.truth, data.image, denoised, restored, blurred)
    return record, np.stack([array[0] for array in shown])


def batches(options):
    """Patches of a step: in batches of five, as many as are added up to them."""
    batch = next(n for n in (5, 4, 3, 2, 1) if options.patches % n == 0)
    return {"batch": batch, "accumulate": options.patches // batch}


def psnr(truth, images):
    """Mean over the images; the range is that of each image's truth, greatest less least."""
    return float(np.mean([
        metrics.psnr(t, i, data_range=float(t.max() - t.min()))
        for t, i in zip(truth, images, strict=True)
    ]))  # fmt: skip
