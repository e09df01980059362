"""The methods that the tables compare: each from a `Sample` to a restored image."""

import re
import time
from dataclasses import dataclass, field

import numpy as np

from ssi_cupy import classical, metrics, recipes
from ssi_cupy.checks import InputError

from .images import kernel

# In the order of the tables.
LABELS = {
    "blurry": "blurry",
    "input": "blurry and noisy (input)",
    "tv_conjugate_gradient": "TV, conjugate gradients",
    "tv_chambolle_pock": "TV, Chambolle–Pock",
    "tv_admm": "TV, ADMM",
    "wiener": "Wiener, told the spectrum",
    "richardson_lucy_2": "Richardson–Lucy 2",
    "richardson_lucy_5": "Richardson–Lucy 5",
    "richardson_lucy_10": "Richardson–Lucy 10",
    "richardson_lucy_20": "Richardson–Lucy 20",
    "ssi_no_masking": "SSI without masking",
    "ssi": "SSI",
    "default": "default recipe",
}
NAMES = tuple(LABELS)
COLUMNS = ("psnr", "ssim_range2", "ssim_range1", "mi", "smi", "rmse")


@dataclass(frozen=True)
class Restored:
    image: np.ndarray
    train: float | None = None  # seconds
    infer: float | None = None
    steps: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Method:
    """`run` makes a `Restored` of a `Sample`; `settings` is all that its result depends on."""

    run: object
    settings: dict = field(default_factory=dict)


def get(name, *, steps=None, seed=0, device="cpu", progress=False):
    """The `Method` of that name. The keywords are for those that train."""
    if name == "blurry":
        return Method(lambda sample: Restored(sample.blurry))
    if name == "input":
        return Method(lambda sample: Restored(sample.image))
    if count := iterations(name):
        return _classical(classical.richardson_lucy, num_iter=count)
    if name == "wiener":
        return Method(_timed(_wiener), {"variance": "of the noise", "spectrum": "of the truth"})
    if name == "tv_admm":
        return _classical(classical.tv_admm, num_iter=60, weight=0.02, rho=0.2, pad=32)
    if name == "tv_chambolle_pock":
        return _classical(classical.tv_chambolle_pock, num_iter=200, weight=2.5e-3)
    if name == "tv_conjugate_gradient":
        settings = {"num_iter": 100, "weight": 4.5e-3, "smoothing": 1e-10}
        return _classical(classical.tv_conjugate_gradient, **settings)
    if name in recipes.names():
        return _trained(recipes.get(name), steps, seed, device, progress)
    expected = "one of " + ", ".join(NAMES) + " (or another count of Richardson–Lucy)"
    raise InputError("--methods", expected, repr(name))


def label(name):
    return LABELS.get(name) or f"Richardson–Lucy {iterations(name)}"


def iterations(name):
    """How many of Richardson–Lucy a name asks for; None for another method."""
    found = re.fullmatch(r"richardson_lucy_([1-9]\d*)", name)
    return int(found[1]) if found else None


def order(name):
    """A key to sort names by."""
    if count := iterations(name):
        return NAMES.index("richardson_lucy_2"), count
    return NAMES.index(name), 0


def scores(truth, image):
    """The scores of the tables, by the names in `COLUMNS`."""
    found = metrics.scores(truth, image, data_range=1)
    found |= {"ssim_range1": found["ssim"]}
    found |= {"ssim_range2": metrics.ssim(truth, image, data_range=2)}
    return {column: found[column] for column in COLUMNS}


def _classical(function, **settings):
    def run(sample):
        return function(sample.image, kernel(), **settings)

    return Method(_timed(run), settings)


def _timed(run):
    def timed(sample):
        start = time.perf_counter()
        image = run(sample)
        return Restored(image, 0.0, time.perf_counter() - start)

    return timed


def _wiener(sample):
    variance = np.mean((sample.image - sample.blurry) ** 2, dtype=np.float64)
    balance = variance / classical.radial_power_spectrum(sample.truth)
    return classical.wiener(sample.image, kernel(), balance)


def _trained(recipe, steps, seed, device, progress):
    from ssi_cupy.restore import deconvolve

    options = {"recipe": recipe, "rng": seed, "device": device}
    compiled = []

    def run(sample):
        if not compiled:  # the seconds are those of steps
            first = np.random.default_rng(0).random((48, 48))
            deconvolve(first, kernel(), num_iter=1, progress=False, **options)
            compiled.append(True)
        found = deconvolve(
            sample.image, kernel(), num_iter=steps, progress=progress, full_output=True, **options
        )
        image, seconds = np.asarray(found.restored), found.seconds
        return Restored(image, seconds["train"], seconds["infer"], found.steps, found.device)

    steps = recipe.steps if steps is None else steps
    return Method(run, {"recipe": repr(recipe), "steps": steps, "seed": seed, "device": device})
