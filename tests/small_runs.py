"""A small picture, a small PSF, a short training: what tests of whole trainings share."""

import dataclasses

import numpy as np

from ssi_cupy import physics, recipes
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.training.step import Training

PSF = np.random.default_rng(0).random((3, 4))  # asymmetric, odd and even
SMALL = {"steps": 3, "progress": False}


def picture(shape=(24, 20), seed=1):
    """Blobs on a dark ground, noisy."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    image = gaussian_filter(rng.random(shape), 1.5)
    image = (image - image.min()) / np.ptp(image)
    return (image + 0.05 * rng.normal(size=shape)).astype(np.float32)


def small(recipe):
    """The recipe with a thin network and few, small patches."""
    recipe = recipes.get(recipe)
    if not recipe.patch:
        return recipe
    network = dataclasses.replace(recipe.network, width=4)
    return dataclasses.replace(
        recipe, network=network, patch=16, batch=2, accumulate=min(recipe.accumulate, 2)
    )


def trained(image=None, recipe=recipes.DEFAULT, g=None, **options):
    model = SelfSupervisedInverse(g or physics.PSFConvolution(PSF), recipe, rng=4)
    return model.fit(picture() if image is None else image, **SMALL | options)


class Shading:
    """A linear model that is neither a blur nor the identity, and keeps no constant."""

    def __init__(self, shape):
        self.field = np.linspace(0.5, 1.5, shape[-1], dtype=np.float32)

    def forward(self, x):
        return x * self.field

    def adjoint(self, y):
        return y * self.field


# ---- on a GPU, or what stands in for it ---------------------------------------------------------

SYMMETRIC = physics.PSFConvolution(np.ones((3, 3)), method="fft")


def model_of(recipe=recipes.DEFAULT, g=SYMMETRIC, **options):
    return SelfSupervisedInverse(g, recipe, rng=4, device="cuda", **options)


def training_of(recipe=recipes.DEFAULT, steps=20, image=None, **options):
    model = model_of(recipe, **options)
    image = picture((18, 21)) if image is None else image
    return Training(model, image[None, None, None].astype(np.float64), steps)


def walked(training, steps=8):
    """All that a training leaves, after some steps."""
    for _ in range(steps):
        training.step()
    arrays = training.parameters, training.statistics, training.best["parameters"]
    return [a.get() for a in arrays], training.history
