"""One call, arrays in and out: `deconvolve` and `denoise`.

Around `inversion.py` this adds what a user's array brings along: names for
its axes, channels and time points (each is restored by itself), pixel sizes, the device.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from . import recipes
from .engine.arrays import as_array, dims_of, is_data_array, named_as, spacing_of
from .engine.backend import contiguous, empty, host, log, resolve_device
from .engine.checks import InputError, choice, point_spread_function, real_array, varying
from .inference.tiling import sizes
from .inversion import SelfSupervisedInverse
from .ops.pad import MODES
from .physics import Identity, PSFConvolution
from .psf import prepare
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

    restored: np.ndarray
    denoised: np.ndarray
    model: SelfSupervisedInverse
    history: list
    seconds: dict
    steps: int
    device: str


def deconvolve(
    image,
    psf,
    *,
    recipe=recipes.DEFAULT,
    num_iter=None,
    rng=0,
    axes=None,
    channel_axis=None,
    spacing=None,
    psf_spacing=None,
    mode="mirror",
    tile_size=None,
    tile_overlap=None,
    device="auto",
    precision="float32",
    callback=None,
    progress=True,
    checkpoint=None,
    resume=None,
    full_output=False,
):
    """Remove blur and noise from an image, given nothing but it and its point-spread function.

    A network is trained on this one image to predict pixels hidden from it through the blur
    (Kobayashi et al. 2020), then applied to it.

    Parameters
    ----------
    image : (…, [Z,] Y, X) array of real numbers
        At least 16 pixels along Y and X. Arrays of any library, see `engine/arrays.py`. Of an
        xarray.DataArray, dims that are called t, c, z, y, x are the axes, and coordinates in µm
        the spacing, where those are not given.
    psf : (Y, X) or (Z, Y, X) array, or one for each channel
        The point-spread function, centred at the pixel ``shape // 2``. It is divided by its sum.
        Several are a list, or an array with the image's axes but T.
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
        An axis whose images are restored one by one. So are time points; one that holds a single
        value comes back as it is, with a warning.
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
        On the image's device; a DataArray for a DataArray, else of numpy or cupy.
        Or a `Restoration`, with `full_output`.

    Raises
    ------
    InputError
        A `ValueError` that names the argument that cannot be used.
    """
    axes, spacing = _described(image, axes, channel_axis, spacing)
    pixels = real_array(as_array(image, "image"), "image")
    axes, psfs = _checked(pixels, axes, channel_axis, psf)
    grids = spacing, _psf_spacing(psf, psf_spacing, spacing, axes)
    physics = [PSFConvolution(_on_grid(p, *grids), mode=mode) for p in psfs]
    return _restore(
        image, pixels, axes, physics, "restored", recipe=recipe, num_iter=num_iter, rng=rng,
        spacing=spacing, tile_size=tile_size, tile_overlap=tile_overlap, device=device,
        precision=precision, callback=callback, progress=progress, checkpoint=checkpoint,
        resume=resume, full_output=full_output,
    )  # fmt: skip


def denoise(
    image,
    psf=None,
    *,
    recipe=recipes.DEFAULT,
    num_iter=None,
    rng=0,
    axes=None,
    channel_axis=None,
    spacing=None,
    psf_spacing=None,
    mode="mirror",
    tile_size=None,
    tile_overlap=None,
    device="auto",
    precision="float32",
    callback=None,
    progress=True,
    checkpoint=None,
    resume=None,
    full_output=False,
):
    """Remove noise from an image, and leave its blur.

    With a PSF, the result is g(f(y)), which holds nothing that the microscope cannot pass
    (Goncharova et al. 2020). Without one it is f(y) of a network trained to predict hidden pixels
    from their neighbours (Noise2Self, Batson and Royer 2019).

    Parameters are those of `deconvolve`; `psf` may be None.
    """
    axes, spacing = _described(image, axes, channel_axis, spacing)
    pixels = real_array(as_array(image, "image"), "image")
    axes, psfs = _checked(pixels, axes, channel_axis, psf)
    choice(mode, "mode", MODES)
    grids = spacing, _psf_spacing(psf, psf_spacing, spacing, axes)
    physics = [PSFConvolution(_on_grid(p, *grids), mode=mode) for p in psfs] or [Identity()]
    return _restore(
        image, pixels, axes, physics, "denoised", recipe=recipe, num_iter=num_iter, rng=rng,
        spacing=spacing, tile_size=tile_size, tile_overlap=tile_overlap, device=device,
        precision=precision, callback=callback, progress=progress, checkpoint=checkpoint,
        resume=resume, full_output=full_output,
    )  # fmt: skip


def _restore(given, image, axes, physics, wanted, *, recipe, num_iter, rng, spacing, tile_size,
             tile_overlap, device, precision, callback, progress, checkpoint, resume,
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
    blank = _blank(stack, places, others)  # all of them before the first is trained on
    seed = recipes.seed_from(rng)
    restored, denoised = (empty(stack.shape, np.float32, like=image) for _ in range(2))
    seconds = {"train": 0.0, "infer": 0.0}
    for place in places:
        if place in blank:
            restored[place] = denoised[place] = stack[place]
            continue
        g = physics[place[others.index("C")]] if len(physics) > 1 else physics[0]
        model = SelfSupervisedInverse(g, recipe, rng=seed, device=device, spacing=spacing,
                                      precision=precision)  # fmt: skip
        model.fit(stack[place], steps=num_iter, callback=callback, progress=progress,
                  checkpoint=checkpoint, resume=resume)  # fmt: skip
        restored[place], denoised[place] = model.restore(
            stack[place], tile_size=tile_size, tile_overlap=tile_overlap
        )
        for key, value in model.seconds.items():
            seconds[key] += value
    back = np.argsort(order)
    restored, denoised = (
        named_as(contiguous(a.transpose(back.tolist())), given) for a in (restored, denoised)
    )
    result = Restoration(restored, denoised, model, model.history, seconds,
                         len(model.history), model.device)  # fmt: skip
    return result if full_output else getattr(result, wanted)


def _described(image, axes, channel_axis, spacing):
    """Axes and spacing: what is given, or what a DataArray says."""
    if axes is None and channel_axis is None:
        axes = dims_of(image)
    if spacing is None and isinstance(axes, str) and len(axes) == np.ndim(image):
        spacing = spacing_of(image, axes)
    return axes, spacing


def _psf_spacing(psf, psf_spacing, spacing, axes):
    """That of the PSF: what is given, or what a DataArray says where the image's is known."""
    if psf_spacing is None and spacing is not None and is_data_array(psf):
        letters = "".join(a for a in "ZYX" if a in axes)
        return spacing_of(psf, letters) if np.ndim(psf) == len(letters) else None
    return psf_spacing


def _blank(stack, places, others):
    """The places of time points that hold a single value: a shutter that was closed."""
    blank = set()
    for place in places:
        name = f"image[{', '.join(map(str, place))}]" if place else "image"
        try:
            varying(stack[place], name)
        except InputError as error:
            frames = [p for p in places if _but_time(p, others) == _but_time(place, others)]
            if len(frames) == 1:
                raise
            blank.add(place)
            if blank.issuperset(frames):
                raise
            log.warning("%s is left as it is: expected %s, got %s", name, error.expected, error.got)
    return blank


def _but_time(place, others):
    return [i for i, a in zip(place, others, strict=True) if a != "T"]


def _checked(image, axes, channel_axis, psf):
    """The letters of the axes of `image`, and a list of its PSFs: of none, one, or each channel."""
    several = isinstance(psf, (list, tuple)) and all(np.ndim(p) >= 2 for p in psf if _is_array(p))
    several = several and any(map(_is_array, psf))
    named = axes is not None or channel_axis is not None
    if psf is None:
        return _axes(image, axes, channel_axis, None), []
    if not several:
        psf = host(as_array(psf, "psf"))
        if not named or np.ndim(psf) < 3:
            psf = point_spread_function(psf, ndim=(2, 3))
            return _axes(image, axes, channel_axis, psf), [psf]
    axes = _axes(image, axes, channel_axis, None)
    rank, names = 2 + ("Z" in axes), [a for a in axes if a != "T"]
    if several and "C" not in axes:
        psf, several = np.stack([host(as_array(p, "psf")) for p in psf]), False
    if not several and "C" in axes and psf.ndim == rank + 1:
        order = [names.index(a) for a in ("C", *(a for a in "ZYX" if a in names))]
        psf, several = list(psf.transpose(order)), True
    if not several:
        psf = point_spread_function(psf, ndim=(2, 3))
        return _axes(image, axes, None, psf), [psf]
    channels = image.shape[axes.index("C")]
    if len(psf) != channels:
        raise InputError("psf", f"one, or one for each of {channels} channels", f"{len(psf)}")
    return axes, [
        point_spread_function(host(as_array(p, f"psf[{i}]")), f"psf[{i}]", ndim=rank)
        for i, p in enumerate(psf)
    ]


def _is_array(item):
    return hasattr(item, "shape") and hasattr(item, "dtype")


def _colours(image, psf):
    """Whether this looks like a picture in colours, whose axis nobody has named."""
    flat = psf is None or psf.ndim == 2
    return flat and image.ndim == 3 and image.shape[-1] in (3, 4) and image.shape[0] > 4


def _axes(image, axes, channel_axis, psf):
    """The letter of each axis of `image`, checked against the PSF."""
    if axes is None and channel_axis is None and _colours(image, psf):
        expected = f"-1 for colours of shape {image.shape}, or the argument axes"
        raise InputError("channel_axis", expected, "None")
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
            expected = "2 or 3 axes, or the argument axes or channel_axis to name them"
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
