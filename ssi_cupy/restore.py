"""One call, arrays in and out: `deconvolve` and `denoise`.

Around `inversion.py` this adds what a user's array brings along: names for
its axes, channels and time points (each is restored by itself), pixel sizes, the device.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack, overload

import numpy as np

from . import recipes
from .engine.backend import contiguous, empty, host, log, resolve_device
from .engine.checks import InputError, choice, point_spread_function, real_array, varying
from .engine.types import (
    ArrayLike,
    Callback,
    Device,
    Float32Array,
    History,
    Mode,
    PathLike,
    PrecisionName,
    Rng,
    Sizes,
    Spacing,
)
from .inference.refinement import can_refine
from .inference.refinement import refine as refined
from .inference.tiling import sizes
from .inversion import SelfSupervisedInverse
from .ops.pad import MODES
from .physics import Identity, PSFConvolution
from .psf import prepare
from .recipes import Recipe
from .training.network import LEAST_SIDE
from .training.units import voxel

AXES = "TCZYX"


@dataclass(frozen=True)
class Restoration:
    """All that came of a call with ``full_output=True``.

    Attributes
    ----------
    restored, denoised : array
        f(y) and g(f(y)), each in the shape, axis order and units of the image, float32.
    model : SelfSupervisedInverse
        The trained model; of the last image, where there were several channels or time points.
    history : list of dict
        Its ``step``, ``loss``, ``validation`` and ``lr``, one entry a step.
    seconds : dict
        Time taken, ``train`` and ``infer``, over all images.
    steps : int
        Training steps of the last image.
    device : str
    """

    restored: Float32Array
    denoised: Float32Array
    model: SelfSupervisedInverse
    history: History
    seconds: dict[str, float]
    steps: int
    device: str


class Settings(TypedDict, total=False):
    """What `deconvolve` and `denoise` take by keyword. For type checkers alone."""

    recipe: Recipe | str
    num_iter: int | None
    rng: Rng
    axes: str | None
    channel_axis: int | None
    spacing: Spacing | None
    psf_spacing: Spacing | None
    mode: Mode
    tile_size: Sizes | None
    tile_overlap: Sizes | None
    device: Device
    precision: PrecisionName
    refine: bool | None
    callback: Callback | None
    progress: bool
    checkpoint: PathLike | None
    resume: PathLike | None


@overload
def deconvolve(
    image: ArrayLike, psf: ArrayLike, *, full_output: Literal[True], **settings: Unpack[Settings]
) -> Restoration: ...
@overload
def deconvolve(
    image: ArrayLike,
    psf: ArrayLike,
    *,
    full_output: Literal[False] = False,
    **settings: Unpack[Settings],
) -> Float32Array: ...
@overload
def deconvolve(
    image: ArrayLike, psf: ArrayLike, *, full_output: bool, **settings: Unpack[Settings]
) -> Float32Array | Restoration: ...
def deconvolve(
    image: ArrayLike,
    psf: ArrayLike,
    *,
    recipe: Recipe | str = recipes.DEFAULT,
    num_iter: int | None = None,
    rng: Rng = 0,
    axes: str | None = None,
    channel_axis: int | None = None,
    spacing: Spacing | None = None,
    psf_spacing: Spacing | None = None,
    mode: Mode = "mirror",
    tile_size: Sizes | None = None,
    tile_overlap: Sizes | None = None,
    device: Device = "auto",
    precision: PrecisionName = "float32",
    refine: bool | None = None,
    callback: Callback | None = None,
    progress: bool = True,
    checkpoint: PathLike | None = None,
    resume: PathLike | None = None,
    full_output: bool = False,
) -> Float32Array | Restoration:
    """Remove blur and noise from an image, given nothing but it and its point-spread function.

    A network is trained on this one image to predict pixels hidden from it through the blur
    (Kobayashi et al. 2020), then applied to it.

    Parameters
    ----------
    image : (…, [Z,] Y, X) array of real numbers
        At least 16 pixels along Y and X.
    psf : (Y, X) or (Z, Y, X) array
        The point-spread function, centred at the pixel ``shape // 2``. It is divided by its sum.
    recipe : Recipe
        How to train, see `ssi_cupy.recipes`.
    num_iter : int, optional
        Training steps; the recipe's by default.
    rng : int, numpy.random.Generator or None
        The seed. The same seed gives the same bits.
    axes : str, optional
        A letter of T, C, Z, Y, X for each axis of the image, "TCZYX" in any order. By default the
        last ones are those of the PSF, and there are no others but `channel_axis`.
    channel_axis : int, optional
        An axis whose images are restored one by one.
    spacing, psf_spacing : float or sequence of float, optional
        Pixel sizes in µm of the image and of the PSF, along ([Z,] Y, X). A PSF of another pixel
        size is resampled by `psf.prepare`, which also takes off its background and centres it.
        Where voxels are higher than wide, the network pools and looks less far along Z.
    mode : {"mirror", "nearest", "wrap", "constant"}
        What lies beyond the border, in scipy.ndimage's words.
    tile_size, tile_overlap : int or sequence of int, optional
        The trained network is applied to tiles of at most that many pixels, which overlap by so
        many, see `SelfSupervisedInverse.predict`; by default only where memory asks for it.
    device : {"auto", "cpu", "cuda"}
    precision : {"float32", "tf32x3", "tf32"}
        What wide convolutions may round to use a GPU's tensor cores, see `engine/precision.py`. A
        CPU rounds to "tf32" likewise, and takes "tf32x3" for "float32".
    refine : bool, optional
        Put back what the network has missed and the residual still shows, see
        `inference/refinement.py`. By default as the recipe says; for a `PSFConvolution` only.
    callback : callable, optional
        Called with a dict after each step; the training ends early when it returns True.
    progress : bool
        Show a progress bar.
    checkpoint, resume : path, optional
        Keep the state of the training in this file; go on from such a file, to the same bits.
    full_output : bool
        Return a `Restoration`.

    Returns
    -------
    restored : array of float32, of the image's shape, axis order and units
        Or a `Restoration`, with `full_output`.

    Raises
    ------
    InputError
        A `ValueError` that names the argument that cannot be used.
    """
    image = real_array(image, "image")
    psf = point_spread_function(host(psf), ndim=(2, 3))
    axes = _axes(image, axes, channel_axis, psf)
    physics = PSFConvolution(_on_grid(psf, spacing, psf_spacing), mode=mode)
    return _restore(
        image, axes, physics, "restored", recipe=recipe, num_iter=num_iter, rng=rng,
        spacing=spacing, tile_size=tile_size, tile_overlap=tile_overlap, device=device,
        precision=precision, refine=refine, callback=callback, progress=progress,
        checkpoint=checkpoint, resume=resume, full_output=full_output,
    )  # fmt: skip


@overload
def denoise(
    image: ArrayLike,
    psf: ArrayLike | None = None,
    *,
    full_output: Literal[True],
    **settings: Unpack[Settings],
) -> Restoration: ...
@overload
def denoise(
    image: ArrayLike,
    psf: ArrayLike | None = None,
    *,
    full_output: Literal[False] = False,
    **settings: Unpack[Settings],
) -> Float32Array: ...
@overload
def denoise(
    image: ArrayLike,
    psf: ArrayLike | None = None,
    *,
    full_output: bool,
    **settings: Unpack[Settings],
) -> Float32Array | Restoration: ...
def denoise(
    image: ArrayLike,
    psf: ArrayLike | None = None,
    *,
    recipe: Recipe | str = recipes.DEFAULT,
    num_iter: int | None = None,
    rng: Rng = 0,
    axes: str | None = None,
    channel_axis: int | None = None,
    spacing: Spacing | None = None,
    psf_spacing: Spacing | None = None,
    mode: Mode = "mirror",
    tile_size: Sizes | None = None,
    tile_overlap: Sizes | None = None,
    device: Device = "auto",
    precision: PrecisionName = "float32",
    refine: bool | None = None,
    callback: Callback | None = None,
    progress: bool = True,
    checkpoint: PathLike | None = None,
    resume: PathLike | None = None,
    full_output: bool = False,
) -> Float32Array | Restoration:
    """Remove noise from an image, and leave its blur.

    With a PSF, the result is g(f(y)), which holds nothing that the microscope cannot pass
    (Goncharova et al. 2020). Without one it is f(y) of a network trained to predict hidden pixels
    from their neighbours (Noise2Self, Batson and Royer 2019).

    Parameters are those of `deconvolve`; `psf` may be None.
    """
    image = real_array(image, "image")
    if psf is not None:
        psf = _on_grid(point_spread_function(host(psf), ndim=(2, 3)), spacing, psf_spacing)
    axes = _axes(image, axes, channel_axis, psf)
    choice(mode, "mode", MODES)
    physics = Identity() if psf is None else PSFConvolution(psf, mode=mode)
    return _restore(
        image, axes, physics, "denoised", recipe=recipe, num_iter=num_iter, rng=rng,
        spacing=spacing, tile_size=tile_size, tile_overlap=tile_overlap, device=device,
        precision=precision, refine=refine, callback=callback, progress=progress,
        checkpoint=checkpoint, resume=resume, full_output=full_output,
    )  # fmt: skip


def _restore(image, axes, physics, wanted, *, recipe, num_iter, rng, spacing, tile_size,
             tile_overlap, device, precision, refine, callback, progress, checkpoint, resume,
             full_output):  # fmt: skip
    """Each image of `axes` by itself, in the caller's axis order."""
    resolve_device(device, image)
    spatial = [a for a in "ZYX" if a in axes]
    others = [a for a in axes if a not in spatial]
    order = [axes.index(a) for a in others + spatial]
    stack = image.transpose(order)
    sizes(tile_size, tile_overlap, stack.shape[len(others) :])  # now, not after the training
    voxel(spacing, len(spatial))
    places = list(itertools.product(*map(range, stack.shape[: len(others)])))
    if len(places) > 1 and (checkpoint or resume):
        name = "checkpoint" if checkpoint else "resume"
        raise InputError(name, "a single image", f"{len(places)} along {', '.join(others)}")
    for place in places:  # all of them before the first is trained on
        varying(stack[place], "image" if not place else f"image[{', '.join(map(str, place))}]")
    seed = recipes.seed_from(rng)
    refine = recipes.get(recipe).refine if refine is None else refine
    restored, denoised = (empty(stack.shape, np.float32, like=image) for _ in range(2))
    seconds = {"train": 0.0, "infer": 0.0}
    for place in places:
        model = SelfSupervisedInverse(physics, recipe, rng=seed, device=device, spacing=spacing,
                                      precision=precision)  # fmt: skip
        model.fit(stack[place], steps=num_iter, callback=callback, progress=progress,
                  checkpoint=checkpoint, resume=resume)  # fmt: skip
        found = model.restore(stack[place], tile_size=tile_size, tile_overlap=tile_overlap)
        if refine and can_refine(physics, stack[place].size):
            found = refined(stack[place], *found, physics)
        restored[place], denoised[place] = found
        for key, value in model.seconds.items():
            seconds[key] += value
    back = np.argsort(order)
    restored, denoised = (contiguous(a.transpose(back.tolist())) for a in (restored, denoised))
    result = Restoration(restored, denoised, model, model.history, seconds,
                         len(model.history), model.device)  # fmt: skip
    return result if full_output else getattr(result, wanted)


def _axes(image, axes, channel_axis, psf):
    """The letter of each axis of `image`, checked against the PSF."""
    if channel_axis is not None:
        if axes is not None:
            raise InputError("channel_axis", "None where axes is given", repr(channel_axis))
        if not isinstance(channel_axis, (int, np.integer)) or not (
            -image.ndim <= channel_axis < image.ndim
        ):
            raise InputError("channel_axis", f"an axis of a {image.ndim}-D image", channel_axis)
    if axes is None:
        rank = image.ndim - (channel_axis is not None)
        if rank not in (2, 3):
            expected = "2 or 3 axes, or the argument axes to name them"
            raise InputError("image", expected, f"{image.ndim}-D, shape {image.shape}")
        axes = "ZYX"[-rank:]
        if channel_axis is not None:
            at = channel_axis % image.ndim
            axes = axes[:at] + "C" + axes[at:]
    if not isinstance(axes, str) or len(axes) != image.ndim or len(set(axes)) != len(axes):
        raise InputError("axes", f"{image.ndim} different letters of {AXES}", repr(axes))
    if set(axes) - set(AXES) or not {"Y", "X"} <= set(axes):
        raise InputError("axes", f"Y, X and others of {AXES}", repr(axes))
    if psf is not None and psf.ndim != 2 + ("Z" in axes):
        expected = f"a {2 + ('Z' in axes)}-D array for an image with axes {axes}"
        raise InputError("psf", expected, f"{psf.ndim}-D, shape {psf.shape}")
    sizes = dict(zip(axes, image.shape, strict=True))
    if min(sizes["Y"], sizes["X"]) < LEAST_SIDE:
        expected = f"at least {LEAST_SIDE} pixels along Y and X"
        raise InputError("image", expected, f"shape {image.shape}")
    return axes


def _on_grid(psf, spacing, psf_spacing):
    """`psf` on the grid of the image: itself, or prepared if it was sampled on another."""
    if psf_spacing is None:
        return psf
    grid = voxel(spacing, psf.ndim)
    if grid is None:
        raise InputError("spacing", "the image's pixel size, as psf_spacing is given", "None")
    try:
        psf_grid = voxel(psf_spacing, psf.ndim)
    except InputError as error:
        raise InputError("psf_spacing", error.expected, error.got) from None
    grids = grid[-psf.ndim :], psf_grid[-psf.ndim :]
    if np.allclose(*grids, rtol=1e-3):
        return psf
    psf, report = prepare(psf, spacing=grids[0], psf_spacing=grids[1])
    log.info("the point-spread function was resampled: %s", report)
    return psf
