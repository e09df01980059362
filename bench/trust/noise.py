"""From hardly any noise to hardly any light: the default beside classical methods.

Each case is restored by the default recipe and by Richardson–Lucy, RL with total variation, Wiener
and TV, these at the setting that is best for this very image (which nobody has who does not know
the truth: the oracle) and at one that a user would take. Every case leaves a small file, so the
same command goes on where it stopped.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np

import ssi_cupy
from ssi_cupy import classical
from ssi_cupy.engine import backend
from ssi_cupy.engine.checks import InputError
from ssi_cupy.files.atomic import replacing
from ssi_cupy.noise import estimate_noise

from .. import timing
from ..plots import canvas, save
from . import specimens

ITERATIONS = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 130)
RATIOS = tuple(10.0 ** np.arange(-5, 0.6, 0.5))
WEIGHTS = tuple(10.0 ** np.arange(-4, -0.4, 0.5))
USUAL = {"richardson_lucy": 12, "wiener": "σ² / variance", "tv": 0.02}


def main(arguments):
    options = parser().parse_args(arguments)
    try:
        return run(options)
    except InputError as error:
        print(f"noise: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("noise: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def parser():
    made = argparse.ArgumentParser("python -m bench noise", description=__doc__.split("\n")[0])
    add = made.add_argument
    add("--out", required=True, metavar="DIR")
    add("--half", default="judging", choices=list(specimens.HALVES))
    add("--volumes", action="store_true", help="three kinds of volumes in place of images")
    add("--cases", nargs="+", metavar="WORD", help="only those with one of these in their name")
    add("--size", type=int, default=160, metavar="N", help="pixels a side (default: 160)")
    add("--steps", type=int, metavar="N", help="training steps (default: the recipe's)")
    add("--seeds", type=int, default=1, metavar="N", help="trainings of each, of seeds 0 … N − 1")
    add("--panels", action="store_true", help="draw each case, also those that are done")
    return made


def run(options):
    if options.size < 32:
        raise InputError("--size", "at least 32", options.size)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    chosen = specimens.cases(options.half, options.volumes)
    if options.cases:
        chosen = [c for c in chosen if any(word in c.name for word in options.cases)]
    for case in chosen:
        path = out / f"{case.name}.json"
        record = json.loads(path.read_text()) if path.exists() else {}
        settings = {"size": options.size, "steps": options.steps}
        if record.get("settings") != settings:
            record = {"settings": settings, **dataclasses.asdict(case), "kind": case.kind}
        record = restore(case, record, options, path)
        print(line(record), flush=True)
    found = [json.loads((out / f"{c.name}.json").read_text()) for c in chosen]
    name = f"noise_{options.half}{'_volumes' if options.volumes else ''}"
    with replacing(out / f"{name}.md") as part:
        part.write_text(table(found, options))
    plot(found, out / f"{name}.png")
    print(summary(found))
    return 0


def restore(case, record, options, path):
    """The record of a case, with all that was missing in it; it is written after each part."""
    seeds = [str(s) for s in range(options.seeds) if str(s) not in record.get("default", {})]
    if "classical" in record and not seeds and not options.panels:
        return record
    truth, image, psf = specimens.make(case, options.size)
    pictures = {}
    if "classical" not in record or options.panels:
        record["input"] = psnr(truth, image)
        record["classical"], record["usual"], pictures = rivals(truth, image, psf)
    spacing = (case.aspect, 1, 1) if case.aspect > 1 else None
    for seed in seeds or ["0"] * options.panels:
        start = time.perf_counter()
        result = ssi_cupy.deconvolve(
            image, psf, rng=int(seed), num_iter=options.steps, spacing=spacing, progress=False,
            full_output=True,
        )  # fmt: skip
        pictures["default"] = result.restored
        record.setdefault("default", {})[seed] = psnr(truth, result.restored)
        record.setdefault("peak", {})[seed] = float(peak(result.restored) / peak(truth))
        record["seconds"] = time.perf_counter() - start
    record["commit"] = timing.git("rev-parse", "--short", "HEAD")
    with replacing(path) as part:
        part.write_text(json.dumps(record, indent=1) + "\n")
    if options.panels:
        panel(truth, image, pictures, record, path.with_suffix(".png"))
    return record


def rivals(truth, image, psf):
    """({method: [best PSNR, its setting]}, {method: PSNR as usual}, {method: picture})."""
    # Photons are not negative, and Richardson–Lucy needs that of any image.
    unit = float(truth.max())
    light = np.maximum(image, 0)
    best, usual, pictures = {}, {}, {}

    def tried(method, setting, found, by_habit):
        score = psnr(truth, found)
        if method not in best or score > best[method][0]:
            best[method], pictures[method] = [score, setting], found
        if by_habit:
            usual[method] = score

    for method, more in (("richardson_lucy", {}), ("richardson_lucy_tv", {"weight": 0.005})):
        found, done = None, 0
        for count in ITERATIONS:
            run = getattr(classical, method)
            start = None if found is None else np.maximum(found, 1e-6 * unit)
            found = run(light, psf, num_iter=count - done, initial=start, **more)
            done = count
            tried(method, count, found, count == USUAL["richardson_lucy"])
    noise = estimate_noise(image, psf)
    ratio = noise**2 / max(image.var() - noise**2, 1e-3 * image.var())
    for balance in (*RATIOS, ratio):
        found = classical.wiener(image, psf, balance)
        tried("wiener", balance, found, balance == ratio)
    for weight in (*WEIGHTS, USUAL["tv"]):
        found = classical.tv_admm(image / unit, psf, weight=weight) * unit
        tried("tv", weight, found, weight == USUAL["tv"])
    return best, usual, pictures


def psnr(truth, image):
    """Of the truth's range, in dB."""
    error = np.mean((np.asarray(image, np.float64) - truth) ** 2)
    return float(10 * np.log10((truth.max() - truth.min()) ** 2 / error))


def peak(image):
    """The height of the brightest 0.1 % of the pixels."""
    return np.quantile(image, 0.999)


def gain(record):
    """The default over the best classical oracle, dB, mean over the seeds."""
    return np.mean(list(record["default"].values())) - oracle(record)[1][0]


def oracle(record):
    """(method, [PSNR, setting]) of the best classical one."""
    return max(record["classical"].items(), key=lambda item: item[1][0])


def line(record):
    method, (score, setting) = oracle(record)
    runs = list(record["default"].values())
    name = f"{record['image'].removeprefix('ssi22:')} ({record['kind']})"
    form = f" {record['aspect']}:1" if record["aspect"] else ""
    return (
        f"| {name} | {record['psf']}{form} "
        f"| {record['noise']} | {record['input']:.2f} | {np.mean(runs):.2f} "
        f"| {max(runs) - min(runs):.2f} | {score:.2f} ({method} {setting:.3g}) "
        f"| {max(record['usual'].values()):.2f} | {gain(record):+.2f} "
        f"| {np.mean(list(record['peak'].values())):.2f} |"
    )


def summary(found):
    gains = np.array([gain(record) for record in found])
    below = [r for r in found if gain(r) < -0.1]
    lost = [r for r in found if np.mean(list(r["default"].values())) < r["input"]]
    return (
        f"{len(found)} cases: mean gain {gains.mean():+.2f} dB, least {gains.min():+.2f}; "
        f"{len(below)} more than 0.1 dB below the best classical oracle, "
        f"{len(lost)} below the input."
    )


def table(found, options):
    rows = sorted(found, key=gain)
    machine = timing.machine(backend.num_threads())
    commits = ", ".join(sorted({r["commit"] for r in found}))
    head = (
        "| image | PSF | noise | input | default | spread | best classical oracle "
        "| as a user would | gain | peak |\n"
        "| --- | --- | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |"
    )
    return "\n".join([
        f"# Restoration against noise, the {options.half} half", "", summary(found), "",
        "PSNR in dB of the truth's range; `s` is Gaussian noise of that part of the range, `p` "
        "the photons of the brightest pixel. Spread: over the seeds. Peak: the brightest 0.1 % "
        "over the truth's.", "", head, *map(line, rows), "",
        f"- Size {options.size}, steps: {options.steps or 'the recipe’s'}; seeds: {options.seeds}",
        f"- Machine: {machine['cpu']}, threads: {machine['threads']}; commit {commits}", "",
    ])  # fmt: skip


def plot(found, path):
    """Gain against noise, a line for each PSF."""
    figure = canvas(8, 4.5)
    axes = figure.subplots()
    noises = [n for n in specimens.NOISES if any(r["noise"] == n for r in found)]
    for psf in dict.fromkeys(r["psf"] for r in found):
        places = [(noises.index(r["noise"]), gain(r)) for r in found if r["psf"] == psf]
        places = sorted(places)
        axes.plot(*zip(*places, strict=True), "o-" if len(places) < 10 else "o", ms=4, label=psf)
    axes.axhline(0, color="black", lw=1)
    axes.axhline(-0.1, color="black", lw=0.5, ls=":")
    axes.set_xticks(range(len(noises)), noises)
    axes.set_xlabel("noise: σ as a part of the range, or photons of the brightest pixel")
    axes.set_ylabel("gain over the best classical oracle, dB")
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(figure, path)


def panel(truth, image, pictures, record, path):
    """Truth, image, the default and the best classical method, in the truth's grey scale."""
    method, (score, _) = oracle(record)
    runs = np.mean(list(record["default"].values()))
    shown = {
        "truth": truth, f"image, {record['input']:.2f} dB": image,
        f"default, {runs:.2f} dB": pictures["default"],
        f"{method}, {score:.2f} dB (oracle)": pictures[method],
    }  # fmt: skip
    figure = canvas(14, 4)
    low, high = np.quantile(truth, (0.001, 0.999))
    for axes, (title, a) in zip(figure.subplots(1, 4), shown.items(), strict=True):
        axes.imshow(a.max(0) if a.ndim == 3 else a, cmap="gray", vmin=low, vmax=high)
        axes.set_title(title, fontsize=10)
        axes.axis("off")
    figure.tight_layout()
    save(figure, path)
