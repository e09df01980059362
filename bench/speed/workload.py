"""The same work for everyone: an image, a blur, and a training."""

import dataclasses

import numpy as np


def image(shape, seed=0):
    """Smooth blobs and noise between 0 and 1, (1, 1, Z, Y, X) float32."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    blobs = gaussian_filter(rng.random(shape), [min(3, n / 4) for n in shape])
    blobs = (blobs - blobs.min()) / np.ptp(blobs) + 0.05 * rng.normal(size=shape)
    return np.clip(blobs, 0, 1).astype(np.float32).reshape((1, 1, 1, *shape)[-5:])


def psf(ndim=2, width=17):
    """A Gaussian; as wide as the published one, which recipe SSI makes 2 pixels wider."""
    line = np.exp(-(np.linspace(-2.5, 2.5, width) ** 2))
    return line[:, None] * line if ndim == 2 else line[:, None, None] * line[:, None] * line


def training(shape, recipe="ssi", steps=3000, **changed):
    """A `Training` by a recipe, but for what is `changed`, before its first step. `shape` is
    (Y, X) or (Z, Y, X)."""
    from ssi_cupy import recipes
    from ssi_cupy.inversion import SelfSupervisedInverse
    from ssi_cupy.physics import PSFConvolution
    from ssi_cupy.training.step import Training

    ndim = len(shape)
    width = 17 if ndim == 2 else 9
    mode = "mirror" if ndim == 2 else "nearest"
    recipe = dataclasses.replace(recipes.get(recipe), **changed)
    model = SelfSupervisedInverse(PSFConvolution(psf(ndim, width), mode=mode), recipe)
    return Training(model, image(shape), steps)
