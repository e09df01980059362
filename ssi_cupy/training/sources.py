"""Where the batches of a training come from: what a model is given, its units and its noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.arrays import as_array, held
from ..engine.backend import host, on_device
from ..engine.checks import InputError, real_array, varying
from ..engine.types import Array
from ..recipes import Recipe
from ..symmetry import Symmetry
from .forward_model import margin_of, reach_of, wraps
from .image_noise import noise_and_mask, noise_of
from .image_sets import Images, Source, gather, is_many, of_one
from .large_image import LargeImage, reach_of_light
from .missing import filled, of_all_channels, seen, separated
from .patches import ImageSet, Patches
from .units import units_of


def gathered(image: Source, mask: Any, recipe: Recipe) -> tuple[Array | Images, Array | None]:
    """What a model is given to train on, for `of_image` or `of_images`.

    Returns
    -------
    (N, C, Z, Y, X) array of float64 on the CPU; or `Images` of several images, or of one that is
        not to be seen whole
    masked : array of bool like the former, or None
    """
    if not is_many(image):
        large = recipe.sees_a_part(getattr(image, "shape", ()))
        if large and not held(image):
            return of_one(image, mask), None
        image, mask = separated(image, mask)
        if large:
            return of_one(host(image), mask), None
        image = _as_5d(image)
        mask = None if mask is None else mask.reshape(image.shape)
        if len(image) == 1 or not recipe.patch:
            return image, mask
    images = gather(image, mask=mask)
    if len(images) == 1:
        whole = (0, 0, 0), images.shapes[0][1:]
        masked = images.masked(0, *whole)
        return _as_5d(images.box(0, *whole)[None]), None if masked is None else masked[None]
    if not recipe.patch and not recipe.sees_a_part(images.shapes[0][1:]):
        expected = "one with a patch, for many images, as dataclasses.replace(recipe, patch=128)"
        raise InputError("recipe", expected, f"{recipe.name!r}, for {len(images)} images")
    return images, None


def _as_5d(image):
    """`image` as (N, C, Z, Y, X), in float64 until its offset is taken off, on the CPU."""
    image = host(real_array(as_array(image, "image"), "image", ndim=(2, 3, 5)))
    shape = image.shape if image.ndim == 5 else (1,) * (5 - image.ndim) + image.shape
    return image.reshape(shape).astype(np.float64)


def of_image(
    model: Any,
    y: Array,
    masked: Array | None,
    symmetries: Sequence[Symmetry],
    source: Callable[..., Any],
) -> tuple[Any, Array, Array]:
    """The source of batches of one image, which is seen whole, or in patches of a published recipe.

    Parameters
    ----------
    model : SelfSupervisedInverse
        It gets the units and the noise model.
    y : (N, C, Z, Y, X) array, on the CPU
    masked : (N, C, Z, Y, X) array of bool, on the CPU, or None
    symmetries : list of symmetries
    source : callable
        Makes that of a whole image, see `Training`.

    Returns
    -------
    source
    y : array of float32
        The image in the unit of the training, filled where it is masked.
    shown : array of float32, on the CPU
        Its pixels that are not.
    """
    recipe, masked = model.recipe, of_all_channels(masked)
    if recipe.crop:
        side = min(*y.shape[3:], recipe.crop)
        y, masked = (a if a is None else a[..., :side, :side] for a in (y, masked))
    varying(seen(y, masked), "image")
    model.noise, masked = noise_and_mask(filled(y, masked), masked, model)
    shown = seen(y, masked)
    model.units = offset, scale = units_of(shown, recipe.normalise)
    y = np.ascontiguousarray((filled(y, masked) - offset) / scale, dtype=np.float32)
    shown, y = seen(y, masked), on_device(y, model.device)
    if recipe.patch:
        return Patches(y, recipe, masked=masked, **_options(model, symmetries)), y, shown
    settings = {"validation": recipe.validation, "symmetries": symmetries, "seed": model.seed}
    return source(y, masked=masked, **settings), y, shown


def of_images(
    model: Any, images: Images, symmetries: Sequence[Symmetry]
) -> tuple[Any, Array, Array]:
    """The source of batches of many images, or of one that is too large to be seen whole.

    Parameters and results are those of `of_image`, but that `y` and `shown` are but a part.
    """
    recipe, options = model.recipe, _options(model, symmetries)
    options["like"] = on_device(np.zeros(1, np.float32), model.device)
    if recipe.patch:
        source = ImageSet(images, recipe, **options)
    else:
        options["margin"] = margin_of(model.physics, recipe, images.shapes[0][1:])
        if hasattr(model.physics, "psf"):
            options["reach"] = reach_of_light(model.physics.psf)
        source = LargeImage(images, recipe, **options)
    offset, scale = model.units = source.units
    if isinstance(source, ImageSet):
        y, shown = source.sample()
        model.noise = noise_of(y.astype(np.float64) * scale + offset, model)
    else:
        y, masked = source.sample()
        measured = filled(y.astype(np.float64) * scale + offset, masked)
        model.noise, masked = noise_and_mask(measured, masked, model)
        shown = seen(y, masked)
        source.level = model.noise.in_units(offset, scale).level if model.noise else 0.0
        if model.noise and model.noise.outliers:
            source.find_outliers(model.physics.psf, model.noise)
    return source, on_device(y, model.device), shown


def _options(model, symmetries):
    g = model.physics
    reach = tuple(r + (model.recipe.broaden and r > 0) for r in reach_of(g))
    return {"reach": reach, "wrap": wraps(g), "symmetries": symmetries, "seed": model.seed}
