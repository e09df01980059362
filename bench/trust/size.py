"""What an image costs by its size: seconds and peak memory of whole restorations, and plots.

Each case is restored by `deconvolve` in a process of its own, from a file: images of 256² to 8192²
pixels, volumes of 1 to 64 million voxels, the largest image of the papers' benchmark, a measured
light-sheet stack. `--parts` compares what is trained part by part with the same seen whole, on
images of the benchmark. What is found is kept in `--out`, so that the same command goes on.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from .. import timing
from ..memory import ROOT, most_resident

SIDES = (256, 512, 1024, 2048, 4096, 8192)
VOLUMES = ((16, 256, 256), (32, 384, 384), (64, 512, 512), (64, 1024, 1024))
WHOLE = "images are seen whole"


def cases():
    names = [f"{side}x{side}" for side in SIDES]
    return names + ["x".join(map(str, shape)) for shape in VOLUMES] + ["map", "lightsheet"]


def specimen(name, seed=0):
    """(image, psf, pixel sizes, truth or None) of a case; generated ones are counts of photons."""
    from ..papers import images, real

    if name == "lightsheet":
        volume = real.lightsheet(images.folder().parent / "real")
        return volume.image, volume.psf, volume.spacing, None
    if not name[0].isdigit():
        sample = images.prepare(next(iter(images.find([f"{name}*.png"]).values())))
        return sample.image, sample.psf, None, sample.truth
    from ssi_cupy import psf
    from ssi_cupy.physics import PSFConvolution

    shape = tuple(map(int, name.split("x")))
    rng, tile = np.random.default_rng(seed), [min(n, 128) for n in shape]
    kernel = psf.gaussian(1.5 if len(shape) == 2 else (1.0, 1.5, 1.5))
    sharp = 10 + 2000.0 * (rng.random(tile) > 0.99)
    blurred = PSFConvolution(kernel, mode="wrap").forward(sharp[(None,) * (5 - sharp.ndim)])
    blurred = blurred.reshape(tile)
    image, truth = (np.empty(shape, kind) for kind in (np.uint16, np.float32))
    for start in np.ndindex(*(-(-n // t) for n, t in zip(shape, tile, strict=True))):
        box = tuple(slice(s * t, s * t + t) for s, t in zip(start, tile, strict=True))
        shift = tuple(rng.integers(0, t) for t in tile)
        part = truth[box]
        inside = tuple(map(slice, part.shape))
        axes = tuple(range(len(tile)))
        part[...] = np.roll(sharp, shift, axes)[inside]
        image[box] = rng.poisson(np.roll(blurred, shift, axes)[inside])
    return image, kernel, None, truth


def restore(name, whole, steps):
    """One case, in this process: what is written down of it."""
    from ssi_cupy import deconvolve, metrics, recipes

    image, psf, spacing, truth = specimen(name)
    recipe = dataclasses.replace(
        recipes.DEFAULT, at_once=None if whole else recipes.DEFAULT.at_once
    )
    before, start = most_resident(), time.perf_counter()
    found = deconvolve(image, psf, recipe=recipe, spacing=spacing, num_iter=steps, progress=False,
                       full_output=True)  # fmt: skip
    row = {"case": name, "pixels": image.size, "whole": whole, "steps": found.steps}
    row |= {"seconds": time.perf_counter() - start, **found.seconds}
    row |= {"peak": most_resident(), "before": before, "verdict": str(found.verdict)}
    if truth is not None:
        x = found.restored
        if not name[0].isdigit():
            x = np.clip(x, 0, 1)
        row["psnr"] = metrics.psnr(truth, x, data_range=float(truth.max()))
    return row


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench size", description=__doc__)
    parser.add_argument("--cases", nargs="+", default=cases(), metavar="NAME",
                        help=f"of {' '.join(cases())}, or of the benchmark")  # fmt: skip
    parser.add_argument("--parts", action="store_true", help="each case seen whole, too")
    parser.add_argument("--steps", type=int, help="of the training; default: the recipe's")
    parser.add_argument("--out", type=Path, default=timing.RESULTS / "size.jsonl")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        print(json.dumps(restore(args.one, args.parts, args.steps)))
        return 0
    print(timing.described(timing.machine()))
    rows = read(args.out)
    for name in args.cases:
        for whole in (False, True) if args.parts else (False,):
            if any((row["case"], row["whole"]) == (name, whole) for row in rows):
                continue
            row = alone(name, whole, args.steps)
            rows.append(row)
            with args.out.open("a") as file:
                file.write(json.dumps(row | {"machine": timing.machine()}) + "\n")
            print(told(row), flush=True)
    both = {row["case"]: row for row in rows if row["whole"]}
    differences = [
        row["psnr"] - both[row["case"]]["psnr"] for row in rows
        if not row["whole"] and row["case"] in both
    ]  # fmt: skip
    if differences:
        print(f"part by part: {np.mean(differences):+.2f} dB on average of {len(differences)}, "
              f"{min(differences):+.2f} at least, beside the same seen whole")  # fmt: skip
    if args.plot:
        draw(rows, args.plot)
    return 0


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def alone(name, whole, steps):
    """A case in a process of its own."""
    command = [sys.executable, "-m", "bench", "size", "--one", name]
    command += ["--parts"] * whole + (["--steps", str(steps)] if steps else [])
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True)
        if done.returncode:
            errors.seek(0)
            raise RuntimeError(errors.read())
    return json.loads(done.stdout.splitlines()[-1])


def told(row):
    score = f", {row['psnr']:.2f} dB" if "psnr" in row else ""
    how = f" ({WHOLE})" if row["whole"] else ""
    return (
        f"{row['case']:14}{how} {row['pixels'] / 1e6:6.2f} million: {row['seconds']:6.0f} s, of "
        f"which training {row['train']:.0f} and the rest {row['seconds'] - row['train']:.0f}; "
        f"{row['peak'] / 1e9:.2f} GB{score}; {row['verdict'].split(':')[0]}"
    )


def draw(rows, path):
    """Seconds against pixels, of training and of all that follows it."""
    from ..plots import canvas, save

    figure = canvas(8.5, 3.4)
    axes = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.16, top=0.88, wspace=0.25)
    for ax, ndim, title in zip(axes, (2, 3), ("Images", "Volumes"), strict=True):
        some = [r for r in rows if not r["whole"] and r["case"].count("x") == ndim - 1]
        some.sort(key=lambda row: row["pixels"])
        pixels = [row["pixels"] for row in some]
        ax.plot(pixels, [row["train"] for row in some], "o-", label="training")
        rest = [row["seconds"] - row["train"] for row in some]
        ax.plot(pixels, rest, "s-", label="inference, refinement, verdict")
        ax.set(xscale="log", yscale="log", xlabel="pixels", ylabel="seconds")
        ax.set_title(title, fontsize=9)
        ax.legend(frameon=False, fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    save(figure, path)
