"""A training step whose blur goes by FFT or is direct, alternating, with large 3-D PSFs.

Papkov et al. (2023, Table 4 and text): trained by FFT convolution, their 3-D network took 8160 s in
place of 18,900 s with a PSF of 17³ voxels (2.3 times faster), and 14 times less with one of 31³.
The blur's share of a step depends on the network, so the blur is also timed alone: g(x) and its
adjoint. What `method="auto"` takes is said too.
"""

import argparse
import dataclasses

import numpy as np

from ssi_cupy import recipes
from ssi_cupy.engine.backend import Pool, num_threads, set_num_threads
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.physics import PSFConvolution
from ssi_cupy.training.step import Training

from .. import timing
from .workload import image, psf

PUBLISHED = {17: 2.3, 31: 14.0}
METHODS = ("fft", "direct")


def training(shape, width, method):
    """A `Training` by recipe SSI, but that the PSF is not broadened: it is `width`³."""
    recipe = dataclasses.replace(recipes.SSI, broaden=False)
    g = PSFConvolution(psf(3, width), mode="nearest", method=method)
    return Training(SelfSupervisedInverse(g, recipe), image(shape), recipe.steps)


def blur(job):
    """g(x) and its adjoint."""
    g = job.model.physics
    g.adjoint(g.forward(job.batch[0]))


def compare(shape, width, rounds):
    """Medians of both methods, and how many times faster the FFT is."""
    jobs = {method: training(shape, width, method) for method in METHODS}
    chosen = PSFConvolution(psf(3, width), mode="nearest")._plan(image(shape))[2]
    with Pool():
        first = {method: job.step()["loss"] for method, job in jobs.items()}
        if not np.isclose(*first.values(), rtol=1e-3):
            raise AssertionError(f"the losses of the first step differ: {first}")
        blurs = timing.alternating(
            rounds, **{m: lambda job=job: blur(job) for m, job in jobs.items()}
        )
        steps = timing.alternating(rounds, **{m: job.step for m, job in jobs.items()})
    found = {"step": timing.medians(steps), "blur": timing.medians(blurs)}
    ratios = {f"{what}_ratio": both["direct"] / both["fft"] for what, both in found.items()}
    return {
        "psf": width, **found, **ratios, "published_ratio": PUBLISHED.get(width),
        "auto": METHODS[chosen is None], "steps": steps, "blurs": blurs,
    }  # fmt: skip


def rows_of(r):
    for what in ("step", "blur"):
        both = (f"{1e3 * r[what][method]:.0f} ms" for method in METHODS)
        paper = f"{r['published_ratio']:g}" if what == "step" and r["published_ratio"] else ""
        yield (f"{r['psf']}³ {what}", *both, f"{r[f'{what}_ratio']:.1f}", paper)


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench convolution", description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=[32, 64, 64])
    parser.add_argument("--psfs", type=int, nargs="+", default=[17, 31])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=num_threads())
    parser.add_argument("--out", default=timing.RESULTS)
    options = parser.parse_args(arguments)
    set_num_threads(options.threads)
    machine = timing.machine(options.threads)
    print(timing.described(machine))
    results = [compare(options.shape, width, options.rounds) for width in options.psfs]
    rows = [row for r in results for row in rows_of(r)]
    timing.table([("", "FFT", "direct", "direct / FFT", "published"), *rows])
    found = {"shape": options.shape, "rounds": options.rounds, "results": results}
    timing.write("convolution", found, machine, options.out)
    return 0
