"""What `classical.calibrate` chooses, beside what the truth would: the loss in PSNR.

The middle `--crop` pixels of every `--every`-th image of the benchmark, with its noise (σ 0.1, 1 %
salt and pepper), with little noise (0.02), and with shot noise (0.01 per unit of brightness).
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

from ssi_cupy import classical, degrade, metrics
from ssi_cupy.classical.richardson_lucy import iterates

from ..papers import images

NOISE = {
    "benchmark": {"sigma": 0.1, "alpha": 0.001, "salt_pepper": 0.01},
    "low": {"sigma": 0.02, "alpha": 0.001, "salt_pepper": 0.0},
    "shot": {"sigma": 0.005, "alpha": 0.01, "salt_pepper": 0.0},
}
NEAR = 2.0 ** np.arange(-4, 4.5, 0.5)  # times the chosen weight: among these the oracle looks


def lucy(truth, image, psf):
    """(the chosen number, the oracle's, the loss in dB)."""
    chosen = classical.calibrate(classical.richardson_lucy, image, psf).setting
    first = itertools.islice(iterates(image, psf), max(60, 3 * chosen))
    score = [metrics.psnr(truth, x.astype(np.float32), data_range=1) for _, x in first]
    return chosen, int(np.argmax(score)) + 1, max(score) - score[chosen - 1]


def tv(truth, image, psf):
    """The same of the weight of `tv_admm`."""
    chosen = classical.calibrate(classical.tv_admm, image, psf).setting
    score = [
        metrics.psnr(truth, classical.tv_admm(image, psf, weight=chosen * f), data_range=1)
        for f in NEAR
    ]
    here = score[list(NEAR).index(1.0)]
    return chosen, chosen * NEAR[int(np.argmax(score))], max(score) - here


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench calibrate", description=__doc__)
    parser.add_argument("--images", nargs="+", help=images.IMAGES)
    parser.add_argument("--crop", type=int, default=192)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--first", type=int, default=1, help="index of the first image")
    parser.add_argument("--out", type=Path, metavar="JSON", help="also write all figures here")
    args = parser.parse_args(arguments)
    paths, psf, losses, rows = images.find(args.images), images.kernel(), [], []
    for name in sorted(paths)[args.first :: args.every]:
        truth = degrade.normalise(images.centre(images.read(paths[name])[0], args.crop))
        for kind, noise in NOISE.items():
            image = degrade.degrade(truth, psf, mode="mirror", bits=None, **noise)
            one, two = lucy(truth, image, psf), tv(truth, image, psf)
            losses.append((one[2], two[2]))
            rows.append({"image": name, "noise": kind, "richardson_lucy": one, "tv": two})
            told = f"Richardson–Lucy {one[0]:3d} ({one[1]}) {one[2]:.2f} dB"
            told += f", TV {two[0]:.2g} ({two[1]:.2g}) {two[2]:.2f} dB"
            print(f"{name:24} {kind:10} {told}", flush=True)
    means, most = np.mean(losses, axis=0), np.max(losses, axis=0)
    print(f"loss, mean of {len(losses)}: Richardson–Lucy {means[0]:.3f} dB, TV {means[1]:.3f} dB")
    print(f"loss, largest: Richardson–Lucy {most[0]:.2f} dB, TV {most[1]:.2f} dB")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0
