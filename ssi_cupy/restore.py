"""One call, arrays in and out: `deconvolve` and `denoise`.

Around `inversion.py` this adds what a user's array brings along: names for its axes, channels and
time points (each restored by itself or by a training in common), pixel sizes, the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal, Unpack, overload

from . import recipes
from .axes import blank, blurs, described, letters_and_psfs, on_grid, psf_spacing_of
from .engine.backend import log, resolve_device
from .engine.checks import choice, flag
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
from .files import report
from .inference.attempts import never
from .inference.cost import Cost, Plan, Told
from .inference.dask_arrays import in_memory, is_lazy, lazy_as, pixels_of, restore_lazily
from .inference.settings import Blind, Settings
from .inference.stack import Restored, Stack, in_order, restore_each
from .inference.tiling import sizes
from .inference.verdict import Verdict
from .inversion import SelfSupervisedInverse
from .noise import known_camera
from .ops.pad import MODES
from .physics import Identity, LearnedPSF, PSFConvolution
from .recipes import Recipe
from .training.missing import Mask
from .training.units import voxel


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
        Time taken, ``train`` and ``infer`` (the verdict too), over all images.
    steps : int
        Training steps of the last image.
    device : str
    verdict : Verdict
        How far to trust it, of several images the worst: see `inference/verdict.py`.
    uncertainty : array of float32
        Standard deviation of `restored` where the PSF passes, see `inference/uncertainty.py`;
        computed when it is first asked for, which takes as long as the inference.
    each : dict of Restored
        Of each image, by its place along T and C: its model, history, seconds and verdict.
    psf : LearnedPSF or None
        What was learned, of the last image: ``sigma``, its relative ``error``, and ``told``.
    """

    restored: Float32Array
    denoised: Float32Array
    model: SelfSupervisedInverse
    history: History
    seconds: dict[str, float]
    steps: int
    device: str
    verdict: Verdict
    image: Float32Array = field(repr=False)
    find_uncertainty: Callable[[], Float32Array] = field(repr=False)
    each: dict[tuple[int, ...], Restored] = field(default_factory=dict, repr=False)
    settings: dict[str, object] = field(default_factory=dict)

    @cached_property
    def uncertainty(self) -> Float32Array:
        return self.find_uncertainty()

    def report(self, path: PathLike, command: str = "") -> None:
        """Write all of it to one HTML file that any browser opens; `command` repeats the run."""
        report.write(path, self, command)

    @property
    def psf(self) -> LearnedPSF | None:
        return g if isinstance(g := self.model.physics, LearnedPSF) else None

    def __repr__(self) -> str:
        how = f"{self.steps} steps, {sum(self.seconds.values()):.1f} s, {self.device}"
        return f"<Restoration of {self.restored.shape}: {how}>"


@overload
def deconvolve(
    image: ArrayLike,
    psf: ArrayLike | Literal["gaussian"] | None = None,
    *,
    dry_run: Literal[True],
    **settings: Unpack[Blind],
) -> Cost: ...
@overload
def deconvolve(
    image: ArrayLike,
    psf: ArrayLike | Literal["gaussian"] | None,
    *,
    full_output: Literal[True],
    **settings: Unpack[Blind],
) -> Restoration: ...
@overload
def deconvolve(
    image: ArrayLike,
    psf: ArrayLike | Literal["gaussian"] | None,
    *,
    full_output: Literal[False] = False,
    **settings: Unpack[Blind],
) -> Float32Array: ...
@overload
def deconvolve(
    image: ArrayLike,
    psf: ArrayLike | Literal["gaussian"] | None,
    *,
    full_output: bool,
    **settings: Unpack[Blind],
) -> Float32Array | Restoration: ...
@overload
def deconvolve(
    image: ArrayLike,
    *,
    optics: Mapping[str, float],
    full_output: bool = False,
    **settings: Unpack[Settings],
) -> Float32Array | Restoration: ...
def deconvolve(
    image: ArrayLike,
    psf: ArrayLike | Literal["gaussian"] | None = None,
    *,
    optics: Mapping[str, float] | None = None,
    recipe: Recipe | str = recipes.DEFAULT,
    num_iter: int | None = None,
    rng: Rng = 0,
    axes: str | None = None,
    channel_axis: int | None = None,
    share: str | None = None,
    mask: Mask = None,
    spacing: Spacing | None = None,
    psf_spacing: Spacing | None = None,
    mode: Mode = "mirror",
    tile_size: Sizes | None = None,
    tile_overlap: Sizes | None = None,
    device: Device = "auto",
    precision: PrecisionName = "float32",
    gain: float | None = None,
    read_noise: float | None = None,
    offset: float | None = None,
    refine: bool | None = None,
    callback: Callback | None = None,
    progress: bool = True,
    checkpoint: PathLike | None = None,
    resume: PathLike | None = None,
    time_limit: float | None = None,
    dry_run: bool = False,
    full_output: bool = False,
) -> Float32Array | Restoration | Cost:
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
        Several are a list, or an array with the image's axes but T. "gaussian" for one whose width
        is learned, see `physics/learned.py`, from a guess by the image's spectrum or by `optics`.
    optics : dict, optional
        Where no PSF is known: ``NA``, ``wvl`` and, of a volume, ``ni``, µm; needs `spacing`.
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
    share : {"T", "C", "TC"}, optional
        Axes along which images share one training of so many steps, each in turn. By default each
        has its own. Channels must have one PSF, and are trained on in units of their own.
    mask : array of bool or "nan", optional
        The pixels that say nothing of the sample, as dead ones and the corners of a deskewed stack:
        True where one is masked, of the image's shape or one that is broadcast to it; with "nan",
        where the image is NaN. Whatever they hold changes no bit of the result: they are hidden in
        every step, count nowhere, and are restored from those around them.
    spacing, psf_spacing : float or sequence of float, optional
        Pixel sizes in µm of the image and of the PSF, along ([Z,] Y, X). A PSF of another pixel
        size is resampled by `psf.prepare`, which cleans and centres it only if it was measured.
        Where voxels are higher than wide, the network pools and looks less far along Z.
    mode : {"mirror", "nearest", "wrap", "constant"}
        What lies beyond the border, in scipy.ndimage's words.
    tile_size, tile_overlap : int or sequence of int, optional
        The trained network is applied to tiles of at most that many pixels, which overlap by so
        many, see `SelfSupervisedInverse.predict`; by default only where memory asks for it.
    device : {"auto", "cpu", "cuda"}
    precision : {"float32", "tf32x3", "tf32"}
        What wide convolutions may round to use a GPU's tensor cores, see `engine/precision.py`.
    gain, read_noise, offset : float, optional
        What is known of the camera, in units of the image: the variance of a pixel with light b is
        ``gain · (b − offset) + read_noise²``. The rest is estimated, see `noise.noise_model`.
    refine : bool, optional
        Put back what the network has missed and the residual still shows, see
        `inference/refinement.py`. By default as the recipe says; for a `PSFConvolution` only.
    callback : callable, optional
        Called with a dict after each step; the training ends early when it returns True.
    progress : bool
        Show a progress bar.
    checkpoint, resume : path, optional
        Keep the state of the training in this file; go on from such a file, to the same bits.
    time_limit : float, optional
        Seconds for all of it: as many steps as fit, at most `num_iter` or twice the recipe's. As
        `num_iter`, the result's ``steps`` give the same bits. With `resume`, those of that.
    dry_run : bool
        Return the `Cost` of it: measure some steps, and do no more.
    full_output : bool
        Return a `Restoration`.

    Returns
    -------
    restored : array of float32, of the image's shape, axis order and units
        On the image's device; a DataArray or Dask array for one, else of numpy or cupy. Of a Dask
        array of which a training sees but parts it is lazy, neither judged nor refined.
        Or a `Restoration`, with `full_output`; or a `Cost`, with `dry_run`.

    Raises
    ------
    InputError
        A `ValueError` that names the argument that cannot be used.
    """
    axes, spacing = described(image, axes, channel_axis, spacing)
    pixels, masked = pixels_of(image, mask)
    axes, physics = blurs(pixels, axes, channel_axis, psf, optics, spacing, psf_spacing, mode)
    return _restore(
        image, pixels, masked, axes, physics, "restored", recipe=recipe, num_iter=num_iter, rng=rng,
        spacing=spacing, tile_size=tile_size, tile_overlap=tile_overlap, device=device,
        precision=precision, camera=known_camera(gain, read_noise, offset), refine=refine,
        callback=callback, progress=progress, checkpoint=checkpoint, resume=resume,
        time_limit=time_limit, dry_run=dry_run, share=share, full_output=full_output,
    )  # fmt: skip


@overload
def denoise(
    image: ArrayLike,
    psf: ArrayLike | None = None,
    *,
    dry_run: Literal[True],
    **settings: Unpack[Settings],
) -> Cost: ...
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
    share: str | None = None,
    mask: Mask = None,
    spacing: Spacing | None = None,
    psf_spacing: Spacing | None = None,
    mode: Mode = "mirror",
    tile_size: Sizes | None = None,
    tile_overlap: Sizes | None = None,
    device: Device = "auto",
    precision: PrecisionName = "float32",
    gain: float | None = None,
    read_noise: float | None = None,
    offset: float | None = None,
    refine: bool | None = None,
    callback: Callback | None = None,
    progress: bool = True,
    checkpoint: PathLike | None = None,
    resume: PathLike | None = None,
    time_limit: float | None = None,
    dry_run: bool = False,
    full_output: bool = False,
) -> Float32Array | Restoration | Cost:
    """Remove noise from an image, and leave its blur.

    With a PSF, the result is g(f(y)), which holds nothing that the microscope cannot pass
    (Goncharova et al. 2020). Without one it is f(y) of a network trained to predict hidden pixels
    from their neighbours (Noise2Self, Batson and Royer 2019).

    Parameters are those of `deconvolve`; `psf` may be None.
    """
    axes, spacing = described(image, axes, channel_axis, spacing)
    pixels, masked = pixels_of(image, mask)
    axes, psfs = letters_and_psfs(pixels, axes, channel_axis, psf)
    choice(mode, "mode", MODES)
    grids = spacing, psf_spacing_of(psf, psf_spacing, spacing, axes)
    physics = [PSFConvolution(on_grid(p, *grids), mode=mode) for p in psfs] or [Identity()]
    return _restore(
        image, pixels, masked, axes, physics, "denoised", recipe=recipe, num_iter=num_iter, rng=rng,
        spacing=spacing, tile_size=tile_size, tile_overlap=tile_overlap, device=device,
        precision=precision, camera=known_camera(gain, read_noise, offset), refine=refine,
        callback=callback, progress=progress, checkpoint=checkpoint, resume=resume,
        time_limit=time_limit, dry_run=dry_run, share=share, full_output=full_output,
    )  # fmt: skip


def _restore(given, image, masked, axes, physics, wanted, *, recipe, num_iter, rng, spacing,
             tile_size, tile_overlap, device, precision, camera, refine, callback, progress,
             checkpoint, resume, time_limit, dry_run, share, full_output):  # fmt: skip
    """Each image of `axes` by itself, in the caller's axis order."""
    resolve_device(device, image)
    recipe = recipes.get(recipe)
    image, masked = in_memory(image, masked, axes, recipe, full_output)
    stack = Stack.of(image, masked, axes)
    sizes(tile_size, tile_overlap, stack.shape)  # now, not after the training
    voxel(spacing, len(stack.shape))
    stack.single(checkpoint=checkpoint, resume=resume)
    closed = blank(stack.images, stack.masks, stack.places, stack.others)  # before any training
    groups = stack.groups(share, closed, alike=len(physics) == 1 and not camera)
    seed = recipes.seed_from(rng)
    refine = recipe.refine if refine is None else refine
    plan = Plan(time_limit, only=flag(dry_run, "dry_run"), trainings=len(groups),
                restored=not is_lazy(image))  # fmt: skip

    def train(number, group):
        plan.begun += not number
        g = physics[stack.channel(group[0])] if len(physics) > 1 else physics[0]
        how = replace(recipe, lr=recipe.lr / 2) if number else recipe
        model = SelfSupervisedInverse(g, how, rng=seed + number, device=device, spacing=spacing,
                                      precision=precision, **camera)  # fmt: skip
        y, mask = stack.together(group, recipe)
        return model.fit(y, mask=mask, steps=num_iter, callback=callback, progress=progress,
                         checkpoint=checkpoint, resume=resume, time_limit=plan)  # fmt: skip

    again = never if checkpoint or resume else plan.again
    tiles = {"tile_size": tile_size, "tile_overlap": tile_overlap}
    back = partial(in_order, order=stack.back, like=given)
    try:
        if is_lazy(image):
            return back(restore_lazily(stack, groups, closed, train, wanted, **tiles))
        results = restore_each(stack, groups, closed, train, refined=refine, again=again, **tiles)
    except Told:
        return plan.cost
    model, verdict = results.model, results.verdict
    if verdict.level != "ok" and not full_output:  # else the caller has it
        log.warning("%s", verdict)
    settings = {"seed": seed, "recipe": model.recipe, "axes": axes, "spacing": spacing,
                "refine": refine, "precision": precision, "physics": physics}  # fmt: skip
    result = Restoration(back(results.restored), back(results.denoised), model, model.history,
                         results.seconds, len(model.history), model.device, verdict, image,
                         partial(results.uncertainty, back), results.each, settings)  # fmt: skip
    return result if full_output else lazy_as(given, getattr(result, wanted))
