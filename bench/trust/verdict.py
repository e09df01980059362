"""What the verdict says of healthy runs and of sabotaged ones; how far the uncertainty is right.

Crops of the benchmark's images, blurred and noisy (σ 0.1 with 1 % salt and pepper, 0.03, 0.01), are
restored as they should be, and with something wrong. A healthy run has failed if it is more than
`LOSS` dB behind calibrated total variation; undetected is such a failure that is called ok. Images
of even places in the alphabet are for tuning thresholds, the others for judging them. What is found
is kept line by line in `--out`, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import zlib
from pathlib import Path

import numpy as np

from ssi_cupy import classical, deconvolve, degrade, metrics, recipes
from ssi_cupy.inference.uncertainty import passed

from ..papers import images

NOISE = {0.1: 0.01, 0.03: 0.0, 0.01: 0.0}  # σ: salt and pepper
HALVES = {"tuning": 0, "judging": 1}  # the first image of each, of every other one
LOSS = 1.0
TRAINING = ("diverged", "constant", "checkerboard", "flux", "misfit", "bias", "held_out", "rivals")
SABOTAGE = {  # what is wrong → the reasons that are right
    "learning rate 1000": TRAINING, "learning rate 1e-5": TRAINING,
    "PSF 1.5 times as wide": ("psf_wide",), "PSF 1.5 times as narrow": ("psf_narrow",),
    "pedestal of 20 %": ("psf_pedestal",), "PSF shifted by 3": ("psf_centre",),
    "correlated noise": ("correlated",), "row noise": ("rows",),
    "saturated half": ("saturated",), "PSF in half the pixel size": ("psf_wide",),
    "PSF in nm for µm": ("psf_point",),
}  # fmt: skip
BORDER = 8  # pixels: what lies beyond it is nobody's


def widened(psf, factor):
    from scipy import ndimage

    return np.maximum(ndimage.zoom(psf, factor, order=1), 0)


def case(truth, sigma, kind, seed):
    """(image, PSF, recipe) of a run."""
    psf, recipe = images.kernel(), recipes.DEFAULT
    rng = np.random.default_rng(seed)
    blurred = np.maximum(degrade.blur(truth, psf, "mirror"), 0)
    noise = np.sqrt(sigma**2 + 0.001 * blurred) * rng.normal(size=truth.shape)
    if kind == "correlated noise":
        from scipy import ndimage

        noise = ndimage.gaussian_filter(noise, 1.0)
        noise *= sigma / noise.std()
    if kind == "row noise":
        noise += 0.7 * sigma * rng.normal(size=(len(truth), 1))
    image = blurred + noise
    pepper = rng.random(truth.shape) < NOISE[sigma]
    image = np.where(pepper, rng.random(truth.shape), image)
    image = np.clip(np.round(1024 * image) / 1024, 0, 1).astype(np.float32)
    if kind == "saturated half":
        image = np.minimum(image, np.median(image))
    psf = {
        "PSF 1.5 times as wide": lambda: widened(psf, 1.5),
        "PSF 1.5 times as narrow": lambda: widened(psf, 1 / 1.5),
        "PSF in half the pixel size": lambda: widened(psf, 2),
        "PSF in nm for µm": lambda: np.ones((1, 1)),
        "pedestal of 20 %": lambda: 0.8 * psf / psf.sum() + 0.2 / psf.size,
        "PSF shifted by 3": lambda: np.roll(np.pad(psf, 3), 3, axis=1),
    }.get(kind, lambda: psf)()
    if kind.startswith("learning rate"):
        recipe = dataclasses.replace(recipe, lr=float(kind.split()[-1]))
    return image, psf, recipe


def run(truth, sigma, kind, seed, steps):
    """The row of one run."""
    image, psf, recipe = case(truth, sigma, kind, seed)
    found = deconvolve(image, psf, recipe=recipe, num_iter=steps, rng=seed, progress=False,
                       full_output=True)  # fmt: skip
    tv = classical.tv_admm(image, psf, weight="auto")
    inside = (slice(BORDER, -BORDER),) * 2
    error = np.abs(passed(found.restored - truth, found.model.physics))[inside]
    unsure = found.uncertainty[inside]
    return {
        "level": found.verdict.level, "reasons": [r.name for r in found.verdict.reasons],
        "note": found.verdict.note, "numbers": found.verdict.numbers,
        "psnr": metrics.psnr(truth, found.restored, data_range=1),
        "psnr_tv": metrics.psnr(truth, tv, data_range=1),
        "within": [float((error < n * unsure).mean()) for n in (1, 2)],
        "correlation": float(np.corrcoef(error.ravel(), unsure.ravel())[0, 1]),
        "ratio": np.percentile(error / unsure, np.arange(5, 100, 5)).tolist(),
        "seconds": found.seconds,
    }  # fmt: skip


def crops(path, size, count):
    """Squares of an image, from corner to corner."""
    image, _ = images.read(path)
    for i in range(count):
        share = (i + 0.5) / count
        y, x = (round(share * max(n - size, 0)) for n in image.shape)
        part = image[y : y + size, x : x + size]
        if part.std() > 0:
            yield i, degrade.normalise(part)


def jobs(paths, half, healthy):
    """(name, number of the crop, σ, kind), the healthy ones spread over images and noise."""
    names = sorted(paths)[HALVES[half] :: 2]
    kinds = list(SABOTAGE)
    levels = list(NOISE)
    for i in range(max(healthy, len(kinds) * len(levels))):
        name = names[i % len(names)]
        if i < healthy:
            yield name, i // len(names), levels[i % 3], "healthy"
        if i < len(kinds) * len(levels):
            yield names[(i + 3) % len(names)], 0, levels[i // len(kinds)], kinds[i % len(kinds)]


def table(rows):
    """Lines of the table: for each kind, what was said."""
    yield f"{'':28} {'runs':>5} {'ok':>5} {'doubtful':>9} {'failed':>7} {'right reason':>13}"
    for kind in ("healthy", *SABOTAGE):
        some = [row for row in rows if row["kind"] == kind]
        if some:
            levels = [row["level"] for row in some]
            right = sum(bool({*row["reasons"]} & {*SABOTAGE.get(kind, ())}) for row in some)
            counts = [levels.count(level) for level in ("ok", "doubtful", "failed")]
            said = right if kind in SABOTAGE else ""
            yield "{:28} {:5d} {:5d} {:9d} {:7d} {:>13}".format(kind, len(some), *counts, said)
    healthy = [row for row in rows if row["kind"] == "healthy"]
    if healthy:
        lost = [row for row in healthy if row["psnr"] < row["psnr_tv"] - LOSS]
        missed = sum(row["level"] == "ok" for row in lost)
        yield f"healthy runs {LOSS:g} dB behind TV: {len(lost)}, of them called ok: {missed}"
        one, two = np.mean([row["within"] for row in healthy], axis=0)
        yield f"uncertainty: 1 σ covers {100 * one:.0f} %, 2 σ {100 * two:.0f} % of the pixels"
        for some in (0, 1):
            ends = np.percentile([100 * row["within"][some] for row in healthy], (10, 90))
            yield f"  {some + 1} σ in eight of ten runs: {ends[0]:.0f} to {ends[1]:.0f} %"
        together = np.mean([row["correlation"] for row in healthy])
        yield f"  correlation with the error, mean: {together:.2f}"
        share = np.median([row["seconds"]["infer"] / row["seconds"]["train"] for row in healthy])
        yield f"inference, verdict and uncertainty take {100 * share:.0f} % of the training's time"


def plot(rows, path):
    """Which share of pixels lies within so many σ, beside a normal distribution's."""
    from scipy.stats import norm

    from ..plots import canvas, save

    figure = canvas(4.5, 4)
    axes = figure.subplots()
    shares = np.arange(5, 100, 5)
    for row in rows:
        if row["kind"] == "healthy":
            axes.plot(row["ratio"], shares, color="0.8", lw=0.6)
    healthy = [row["ratio"] for row in rows if row["kind"] == "healthy"]
    axes.plot(np.median(healthy, axis=0), shares, color="#c7442f", label="median of the runs")
    line = np.linspace(0, 3, 100)
    axes.plot(line, 100 * (2 * norm.cdf(line) - 1), "k--", lw=1, label="normal distribution")
    axes.set(xlim=(0, 3), ylim=(0, 100), xlabel="|error| / σ", ylabel="% of pixels below")
    axes.legend(frameon=False)
    figure.tight_layout()
    save(figure, path)


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench verdict", description=__doc__)
    parser.add_argument("--images", nargs="+", help=images.IMAGES)
    parser.add_argument("--half", choices=tuple(HALVES), default="judging")
    parser.add_argument("--healthy", type=int, default=50, metavar="N", help="healthy runs")
    parser.add_argument("--size", type=int, default=96, metavar="PIXELS")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("verdict.jsonl"))
    parser.add_argument("--plot", type=Path, metavar="PNG", help="calibration of the uncertainty")
    parser.add_argument("--show", action="store_true", help="what is in --out, no runs")
    args = parser.parse_args(arguments)
    rows = []
    if args.out.exists():
        rows = [json.loads(line) for line in args.out.read_text().splitlines()]
    same = {"size": args.size, "steps": args.steps}
    known = {(r["image"], r["crop"], r["sigma"], r["kind"]) for r in rows if r["settings"] == same}
    paths = {} if args.show else images.find(args.images)
    for name, number, sigma, kind in jobs(paths, args.half, args.healthy) if paths else ():
        if (name, number, sigma, kind) in known:
            continue
        truth = dict(crops(paths[name], args.size, 8)).get(number)
        if truth is None:  # nothing but one value
            continue
        seed = zlib.crc32(f"{name} {number} {kind}".encode()) % 1000
        row = {"image": name, "crop": number, "sigma": sigma, "kind": kind, "settings": same}
        rows.append(row | run(truth, sigma, kind, seed, args.steps))
        with args.out.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        told = rows[-1]["level"], ", ".join(rows[-1]["reasons"])
        print(f"{name} {sigma} {kind}: {': '.join(told)}", flush=True)
    print("\n".join(table([row for row in rows if row["settings"] == same])))
    if args.plot:
        plot(rows, args.plot)
    return 0
