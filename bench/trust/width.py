"""What held-out pixels say of a PSF's width: right ones, and ones that are half as wide again or
two thirds as wide, at three noises.

Crops from the middle of the benchmark's images, noisy as in `bench verdict`; no network is trained.
The rule is that of the verdict (`inference/verdict.py`). Images of even places in the alphabet are
for tuning it, the others for judging. Every row is kept in `--out`, so that the same command goes
on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

from ssi_cupy.inference.verdict import about_width
from ssi_cupy.noise import noise_model

from ..papers import images
from .verdict import HALVES, NOISE, case, crops

KINDS = {  # of `bench verdict`, and what is right to say
    "healthy": "", "PSF 1.5 times as wide": "psf_wide", "PSF 1.5 times as narrow": "psf_narrow",
}  # fmt: skip
PLACE = 4  # of eight crops, from corner to corner


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench width", description=__doc__)
    parser.add_argument("--images", nargs="+", help=images.IMAGES)
    parser.add_argument("--half", choices=tuple(HALVES), default="judging")
    parser.add_argument("--size", type=int, default=96, metavar="PIXELS")
    parser.add_argument("--out", type=Path, default=Path("width.jsonl"))
    args = parser.parse_args(arguments)
    rows = []
    if args.out.exists():
        rows = [json.loads(line) for line in args.out.read_text().splitlines()]
    rows = [row for row in rows if (row["half"], row["size"]) == (args.half, args.size)]
    known = {(row["image"], row["sigma"], row["kind"]) for row in rows}
    paths = images.find(args.images)
    for name in sorted(paths)[HALVES[args.half] :: 2]:
        truth = dict(crops(paths[name], args.size, 8)).get(PLACE)
        for sigma in NOISE if truth is not None else ():
            for kind in KINDS:
                if (name, sigma, kind) not in known:
                    row = {"half": args.half, "size": args.size, "image": name, "sigma": sigma}
                    rows.append(row | {"kind": kind} | run(name, truth, sigma, kind))
                    with args.out.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print("\n".join(table(rows)))
    return 0


def run(name, truth, sigma, kind):
    """What is said of one image and PSF."""
    seed = zlib.crc32(f"{name} {kind}".encode()) % 1000
    image, psf, _ = case(truth, sigma, kind, seed)
    y, numbers = image.astype(float), {}
    noise = noise_model(y, psf).level
    said = [reason.name for reason in about_width(y, psf, "mirror", noise, None, numbers)]
    return {"said": said} | {name: float(f"{value:.4g}") for name, value in numbers.items()}


def table(rows):
    """Lines of Markdown: how often each was said, by noise."""
    yield f"| | {' | '.join(f'σ {sigma:g}' for sigma in NOISE)} |"
    yield f"| --- |{' ---: |' * len(NOISE)}"
    for kind, right in KINDS.items():
        cells = []
        for sigma in NOISE:
            some = [row["said"] for row in rows if (row["kind"], row["sigma"]) == (kind, sigma)]
            wrong = sum(bool({*said} - {right}) for said in some)
            told = sum(right in said for said in some) if right else wrong
            cells.append(f"{told} of {len(some)}")
        yield f"| {kind}, {'told' if right else 'called otherwise'} | {' | '.join(cells)} |"
