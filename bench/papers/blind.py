"""The blur that nobody measured: its width learned from wrong guesses, beside the true and the
wrong one.

Sharp images are blurred with a Gaussian of true σ and given noise. Each is restored with that
Gaussian, with the guesses as they are (Figure 4 of Goncharova et al.), and with a PSF that is
learned from each guess. Every training is a record of its own, so that a run can be cut.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import numpy as np

from ssi_cupy import degrade, metrics, psf, recipes
from ssi_cupy.engine.checks import InputError
from ssi_cupy.files.atomic import replacing
from ssi_cupy.inference.refinement import refine
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.physics import LearnedPSF, PSFConvolution

from .. import timing
from ..plots import canvas, save
from . import filaments, images, records, tabulate
from .figures import busiest

NAMES = ("characters", "usaf", "newyork", "nuclei924", "membrane", "fibsem")
SIGMAS, NOISES = (1.0, 1.5, 2.0, 3.0), (0.01, 0.05, 0.1)
STARTS = (0.6, 0.8, 1.25, 1.6)  # times the true σ
VOLUME = (24, 64, 64)
COLOURS = {0.01: "#1b9e77", 0.05: "#7570b3", 0.1: "#d95f02"}
HOW = """\
Crops of {size}² where there is most detail, {steps} steps of the default recipe, seed 0. "Within
10 %" counts the starts 0.6, 0.8, 1.25 and 1.6 times the true σ; PSNR is the mean, learned less true
and guess less true, of the refined image clipped to [0, 1]."""


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench blind", description=__doc__)
    add = parser.add_argument
    add("--out", required=True, metavar="DIR")
    add("--images", nargs="+", default=list(NAMES), metavar="NAME", help="beginnings of names")
    add("--sigmas", nargs="+", type=float, default=list(SIGMAS), metavar="PIXELS")
    add("--noises", nargs="+", type=float, default=list(NOISES), metavar="LEVEL")
    add("--starts", nargs="+", type=float, default=list(STARTS), metavar="RATIO")
    add("--size", type=int, default=128, metavar="PIXELS")
    add("--steps", type=int, default=400, metavar="N")
    add("--volume", action="store_true", help="a volume of filaments too")
    add("--device", default="auto", help="auto (default), cpu or cuda")
    options = parser.parse_args(arguments)
    out = Path(options.out)
    try:
        truths = {name: truth_of(name, options.size) for name in options.images}
    except InputError as error:
        print(f"blind: {error}", file=sys.stderr)
        return 2
    if options.volume:
        truths["filaments"] = filaments.volume(VOLUME).astype(np.float64)
    out.mkdir(parents=True, exist_ok=True)
    for name, sigma, noise, how, start in jobs(list(truths), options):
        settings = {"image": name, "sigma": sigma, "noise": noise, "how": how, "start": start,
                    "size": options.size, "steps": options.steps}  # fmt: skip
        method = f"{sigma:g}_{noise:g}_{how}_{start:g}"
        there = records.load(records.path_of(out, name, method))
        if there is None or there["settings"] != settings:
            record = {"image": name, "method": method, "settings": settings}
            record |= run(truths[name], sigma, noise, how, start, options)
            record |= {"machine": timing.machine(), "date": tabulate.now()}
            records.store(out, record)
            said = f", learned {record['found']:.3f} of it" if how == "learned" else ""
            print(f"{name} σ {sigma:g}, noise {noise:g}, {how} {start:g}{said}: "
                  f"{record['psnr']:.2f} dB", flush=True)  # fmt: skip
    found = records.load_all(out)
    with replacing(out / "blind.md") as part:
        part.write_text(markdown(found, options), encoding="utf-8")
    save(figure_4(found), out / "blind_figure_4.png")
    save(widths(found), out / "blind_widths.png")
    print((out / "blind.md").read_text(encoding="utf-8"))
    return 0


def truth_of(name, size):
    """The crop with most detail of the benchmark's image whose name begins so."""
    (path,) = list(images.find([str(images.folder() / f"{name}*.png")]).values())[:1]
    image = degrade.normalise(images.read(path)[0])
    return np.ascontiguousarray(image[busiest(image, size)], np.float64)


def jobs(names, options):
    """(image, σ, noise, how, start) of all trainings, those that tell most first."""
    for noise in sorted(options.noises, key=lambda n: abs(n - 0.05)):
        for sigma in sorted(options.sigmas, key=lambda s: abs(s - 2)):
            for name in names:
                yield name, sigma, noise, "true", 1.0
                for start in sorted(options.starts, key=lambda s: -abs(np.log(s))):
                    yield name, sigma, noise, "learned", start
                    yield name, sigma, noise, "wrong", start


def run(truth, sigma, noise, how, start, options):
    """One restoration, scored."""
    blurred = degrade.blur(truth, psf.gaussian(sigma, ndim=truth.ndim), mode="mirror")
    image = blurred + noise * np.random.default_rng(0).normal(size=truth.shape)
    begin = time.perf_counter()
    guess = sigma * start
    if how == "learned":
        g = LearnedPSF((guess,) * (truth.ndim - 1))
    else:
        g = PSFConvolution(psf.gaussian(guess, ndim=truth.ndim))
    recipe = dataclasses.replace(recipes.DEFAULT, steps=options.steps)
    model = SelfSupervisedInverse(g, recipe, device=options.device)
    model.fit(image, progress=False)
    restored, _ = refine(image, *model.restore(image), model.physics)
    score = metrics.psnr(truth, np.clip(restored, 0, 1), data_range=1)
    record = {"psnr": float(score), "seconds": time.perf_counter() - begin}
    if how == "learned":
        found = model.physics
        record |= {"found": found.sigma / sigma, "error": found.error, "told": found.told}
    return record


# ---- what was found ---------------------------------------------------------------------------


def cells(found, how):
    """(image, σ, noise, start) → record."""
    rows = [r for r in found if r["settings"]["how"] == how]
    keys = ("image", "sigma", "noise", "start")
    return {tuple(r["settings"][k] for k in keys): r for r in rows}


def markdown(found, options):
    learned, wrong, true = (cells(found, how) for how in ("learned", "wrong", "true"))
    head = ("image", "true σ", "noise", "learned / true, by start", "±", "PSNR, true PSF",
            "learned", "guess")  # fmt: skip
    lines = ["# The blur that nobody measured", "", f"| {' | '.join(head)} |",
             "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for key in sorted({k[:3] for k in learned}):
        mine = {k[3]: r for k, r in sorted(learned.items()) if k[:3] == key}
        best = true.get((*key, 1.0))
        ratios = ", ".join(f"{start:g} → {r['found']:.2f}{'' if r['told'] else ' (?)'}"
                           for start, r in mine.items())  # fmt: skip
        error = np.mean([r["error"] for r in mine.values()])
        means = [np.mean([rows[(*key, s)]["psnr"] for s in mine if (*key, s) in rows] or [np.nan])
                 for rows in (learned, wrong)]  # fmt: skip
        scores = " | ".join("–" if v is None or np.isnan(v) else f"{v:.2f}"
                            for v in (best and best["psnr"], *means))  # fmt: skip
        lines.append(f"| {key[0]} | {key[1]:g} | {key[2]:g} | {ratios} | {error:.0%} | {scores} |")
    lines += ["", *summary(learned, wrong, true), "", HOW.format(**vars(options))]
    return "\n".join(lines) + "\n"


def summary(learned, wrong, true):
    """How often the width is right, and what it is worth, by noise."""
    for noise in sorted({k[2] for k in learned}):
        mine = {k: r for k, r in learned.items() if k[2] == noise}
        right = np.mean([abs(r["found"] - 1) <= 0.1 for r in mine.values()])
        told = np.mean([r["told"] for r in mine.values()])
        inside = np.mean([abs(np.log(r["found"])) <= 2 * r["error"] for r in mine.values()])
        loss = [np.mean([rows[k]["psnr"] - true[(*k[:3], 1.0)]["psnr"] for k in mine
                         if k in rows and (*k[:3], 1.0) in true] or [np.nan])
                for rows in (learned, wrong)]  # fmt: skip
        yield (f"- Noise {noise:g}, {len(mine)} trainings: within 10 % {right:.0%}, within two "
               f"standard errors {inside:.0%}, said to be known {told:.0%}; PSNR {loss[0]:+.2f} dB "
               f"learned, {loss[1]:+.2f} dB with the guess.")  # fmt: skip


def figure_4(found):
    """PSNR against the σ that was trained with; what was learned drawn in."""
    true, wrong, learned = (cells(found, how) for how in ("true", "wrong", "learned"))
    names = sorted({k[0] for k in learned if k[1:3] == (2.0, 0.05)}) or sorted(
        {k[0] for k in learned})  # fmt: skip
    figure = canvas(3.2 * max(len(names), 1), 3.0)
    for ax, name in zip(np.atleast_1d(figure.subplots(1, max(len(names), 1))), names, strict=False):
        key = next(iter(sorted((k[:3] for k in learned if k[0] == name),
                               key=lambda k: (k[1:3] != (2.0, 0.05), k))))  # fmt: skip
        curve = {k[3]: r["psnr"] for rows in (true, wrong) for k, r in rows.items() if k[:3] == key}
        ax.plot(*zip(*sorted(curve.items()), strict=True), "o-", color="#888888", ms=4,
                label="fixed at")  # fmt: skip
        for k, r in sorted(learned.items()):
            if k[:3] == key:
                ax.errorbar(r["found"], r["psnr"], xerr=r["found"] * r["error"], fmt="*", ms=9,
                            lw=0.8, label=f"learned from {k[3]:g}")  # fmt: skip
        ax.axvline(1, color="black", lw=0.6, ls=":")
        ax.set_title(f"{name}, σ = {key[1]:g}, noise {key[2]:g}", fontsize=9)
        ax.set_xlabel("σ / true σ", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=7, frameon=False)
    figure.axes[0].set_ylabel("PSNR (dB)", fontsize=8)
    figure.tight_layout()
    return figure


def widths(found):
    """The learned width against the start, all images, by noise."""
    learned = cells(found, "learned")
    figure = canvas(6.0, 3.6)
    ax = figure.subplots()
    ax.axhspan(0.9, 1.1, color="#eeeeee", label="within 10 %")
    for noise in sorted({k[2] for k in learned}):
        points = [(k[3], r["found"]) for k, r in learned.items() if k[2] == noise]
        x, y = np.transpose(points)
        x = x * np.exp(0.03 * (sorted(COLOURS).index(noise) - 1) if noise in COLOURS else 0)
        ax.plot(x, y, "o", ms=4, alpha=0.6, color=COLOURS.get(noise), label=f"noise {noise:g}")
    ax.plot([0.55, 1.7], [0.55, 1.7], color="#888888", lw=0.7, ls="--", label="nothing learned")
    ax.set(xscale="log", yscale="log", xlabel="start / true σ", ylabel="learned / true σ")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([0.6, 0.8, 1, 1.25, 1.6], ["0.6", "0.8", "1", "1.25", "1.6"])
        axis.set_ticks([], minor=True)
    ax.legend(fontsize=7, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure
