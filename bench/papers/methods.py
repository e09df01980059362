"""The methods that the tables compare: each from a `Sample` to a restored image."""

import dataclasses
import re
import time
from dataclasses import dataclass, field

import numpy as np

from ssi_cupy import classical, metrics, recipes
from ssi_cupy.engine.checks import InputError

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
    "noise2self": "(2) Noise2Self",
    "noise2self_bound": "(2) Noise2Self, bound",
    "noise2same": "(3) Noise2Same",
    "noise2same_bound": "(3) Noise2Same, bound",
    "noise2same_d": "(4) Noise2Same (d)",
    "noise2same_d_bound": "(4) Noise2Same (d), bound",
    "default": "default recipe",
}
NAMES = tuple(LABELS)
SIAMESE = tuple(name for name in NAMES if name.startswith("noise2"))
TABLE1 = tuple(name for name in NAMES if name not in SIAMESE)
TABLE3 = ("input", "richardson_lucy_2", "richardson_lucy_5", *SIAMESE, "default")
TABLE4 = ("input", "richardson_lucy_2", "richardson_lucy_5", "ssi", *SIAMESE, "default")
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


def get(
    name, *, steps=None, seed=0, device="cpu", precision="float32", progress=False, **siamese
):  # fmt: skip
    """The `Method` of that name. The keywords are for those that train, `siamese` (width, patch,
    batch) for those of Papkov et al."""
    options = {"rng": seed, "device": device, "precision": precision, "progress": progress}
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
        return _classical(classical.tv_chambolle_pock, num_iter=200, weight=2.5e-3, mode="constant")
    if name == "tv_conjugate_gradient":
        settings = {"num_iter": 100, "weight": 4.5e-3, "smoothing": 1e-10, "mode": "constant"}
        return _classical(classical.tv_conjugate_gradient, **settings)
    if name in SIAMESE:
        return _trained(lambda ndim: _siamese(name, ndim, steps, **siamese), None, options)
    if name in recipes.names():
        return _trained(lambda ndim: recipes.get(name), steps, options)
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
        return function(sample.image, sample.psf, **settings)

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
    return classical.wiener(sample.image, sample.psf, balance)


def _siamese(name, ndim, steps=None, width=None, patch=None, batch=None):
    """A recipe of Papkov et al., with or without the bound of its table, made smaller on request.

    With fewer steps, the learning rate falls as much sooner, and the running means and variances
    follow those of the batches as much faster.
    """
    loss = name.removesuffix("_bound")
    recipe = recipes.get(loss + ("_3d" if ndim == 3 else ""))
    at = "bound" if loss == "noise2same_d" else "bound_blurred"
    weight = 0.1 if name.endswith("_bound") else 0.0
    losses = dataclasses.replace(recipe.losses, **{"bound": 0.0, "bound_blurred": 0.0, at: weight})
    share = min(1, steps / recipe.steps) if steps else 1
    network = dataclasses.replace(
        recipe.network,
        width=width or recipe.network.width,
        momentum=min(recipe.network.momentum / share, 0.1),
    )
    return dataclasses.replace(
        recipe,
        losses=losses,
        steps=steps or recipe.steps,
        schedule=dataclasses.replace(
            recipe.schedule, every=max(round(recipe.schedule.every * share), 1)
        ),
        network=network,
        patch=patch or recipe.patch,
        batch=batch or recipe.batch,
    )


def _trained(recipe_for, steps, options):
    """`recipe_for(ndim)` is the recipe for images, or for volumes; `options` are `deconvolve`'s."""
    from ssi_cupy.restore import deconvolve

    compiled = []

    def run(sample):
        recipe = recipe_for(sample.image.ndim)
        if not compiled:  # the seconds are those of steps
            first = np.random.default_rng(0).random((48,) * sample.image.ndim)
            few = dataclasses.replace(recipe, batch=1, patch=recipe.patch and 32)
            deconvolve(first, sample.psf, recipe=few, num_iter=1, **options | {"progress": False})
            compiled.append(True)
        found = deconvolve(
            sample.image, sample.psf, recipe=recipe, num_iter=steps, full_output=True, **options
        )
        image, seconds = np.asarray(found.restored), found.seconds
        return Restored(image, seconds["train"], seconds["infer"], found.steps, found.device)

    recipes_of = [repr(recipe_for(ndim)) for ndim in (2, 3)]
    known = {"recipe": recipes_of, "steps": steps, "seed": options["rng"]}
    return Method(run, known | {what: options[what] for what in ("device", "precision")})
