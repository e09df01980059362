"""Self-supervised inversion: a network that undoes a forward model, trained on the very image.

`training/step.py` has the training; `SelfSupervisedInverse` runs it, and is what is left when that
is done: a network f and the units of the image, so that f(y) is the restored image and g(f(y)) the
denoised one (Kobayashi et al. 2020; Goncharova et al. 2020).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from typing import Any, Self

from . import symmetry
from .engine.arrays import named_as
from .engine.backend import Pool, enough_memory, resolve_device
from .engine.checks import InputError, flag, positive_int
from .engine.precision import Precision
from .engine.types import (
    Array,
    ArrayLike,
    Callback,
    Device,
    ForwardModel,
    History,
    PathLike,
    PrecisionName,
    Rng,
    Sizes,
    Sliceable,
    Spacing,
)
from .files import model_file
from .files.atomic import check_writable
from .inference.cost import Cost, Plan, Told
from .inference.dask_arrays import infer_lazily, is_lazy
from .inference.masked_image import masked_image
from .inference.predict import infer
from .noise import NoiseModel, known_camera
from .physics import check
from .random import seed_from
from .recipes import DEFAULT, Recipe, get
from .training import checkpoints, loop
from .training.batches import whole
from .training.image_noise import spoilt
from .training.image_sets import Images, Source
from .training.inputs import NetworkInputs
from .training.missing import Mask
from .training.progress import Progress
from .training.sources import gathered
from .training.step import Training
from .unet import Network

OF_A_FIT = (
    "physics device net parameters statistics units noise symmetries wiener_levels _inputs "
    "history seconds"
).split()


class SelfSupervisedInverse:
    """A network that inverts a forward model, trained on the very image that it is to restore.

    Parameters
    ----------
    physics : object
        The forward model g: one of `ssi_cupy.physics`, or any object with ``forward(x)`` and
        ``adjoint(y)`` (linear) or ``backward(gy, x)``, which maps (N, C, Z, Y, X) arrays to
        arrays of the same shape.
    recipe : Recipe or str
    rng : int, numpy.random.Generator or None
    device : {"auto", "cpu", "cuda"}
    spacing : float or sequence of float, optional
        Pixel sizes of the images along ([Z,] Y, X): of those that are coarser along Z, the network
        and the losses take account.
    precision : {"float32", "tf32x3", "tf32"}
        What wide convolutions may round, see `precision.py`: to use a GPU's tensor cores. A CPU
        rounds to "tf32" likewise, and takes "tf32x3" for "float32".
    graph : bool
        On a GPU, capture the training step as a CUDA graph and replay it: the same bits, sooner.
        False for a debugger. A forward model of your own is run kernel by kernel in any case.
    gain, read_noise, offset : float, optional
        What is known of the camera, see `noise.noise_model`; the rest is estimated.

    Attributes
    ----------
    net : Network
        See `ssi_cupy.unet`.
    parameters : (net.size,) array
    noise : NoiseModel or None
        Of the image that was trained on, where the recipe asks for it. Outliers by it are masked,
        in the training and whenever the model is applied.
    history : list of dict
        ``step``, ``loss``, ``validation`` and ``lr`` of each step.
    seconds : dict
        Of the last ``train`` and ``infer``.
    """

    net: Network | None
    parameters: Array | None
    statistics: Array | None
    units: tuple[float, float] | None
    noise: NoiseModel | None
    device: str
    history: History
    seconds: dict[str, float]

    def __init__(
        self,
        physics: ForwardModel,
        recipe: Recipe | str = DEFAULT,
        *,
        rng: Rng = 0,
        device: Device = "auto",
        spacing: Spacing | None = None,
        precision: PrecisionName = "float32",
        graph: bool = True,
        gain: float | None = None,
        read_noise: float | None = None,
        offset: float | None = None,
    ) -> None:
        self.physics = check(physics)
        self.recipe = get(recipe)
        self.precision = Precision(precision).name
        self.graph = flag(graph, "graph")
        self.seed = seed_from(rng)
        self._device, self.device = device, resolve_device(device)
        self.net = self.parameters = self.statistics = self.units = self.noise = None
        self.camera = known_camera(gain, read_noise, offset)
        self.spacing = spacing
        self.symmetries = [symmetry.IDENTITY]
        self.wiener_levels, self._inputs = [], None
        self.history = []
        self.seconds = {"train": 0.0, "infer": 0.0}

    def __repr__(self) -> str:
        state = f"trained for {len(self.history)} steps" if self.history else "untrained"
        if self.parameters is not None and not self.history:
            state = "trained"  # and read from a file
        told = f"{self.physics!r}, recipe={self.recipe.name!r}, rng={self.seed}"
        return f"<SelfSupervisedInverse({told}) on {self.device}, {state}>"

    @property
    def inputs(self) -> NetworkInputs:
        """Makes what the network is shown of an image."""
        if self._inputs is None or self._inputs.of != (self.physics, self.wiener_levels):
            self._inputs = NetworkInputs(self.physics, self.wiener_levels)
        return self._inputs

    def fit(
        self,
        image: Source,
        *,
        steps: int | None = None,
        mask: Any = None,
        callback: Callback | None = None,
        progress: bool = True,
        checkpoint: PathLike | None = None,
        resume: PathLike | None = None,
        time_limit: float | Plan | None = None,
    ) -> Self:
        """Train on an image, or on a set of images, from scratch or from a checkpoint.

        Parameters
        ----------
        image : (Y, X), (Z, Y, X) or (N, C, Z, Y, X) array of real numbers, or a set of images
            A set is a list of arrays and of paths of TIFF files, a path, a folder, a pattern as
            ``"data/*.tif"``, or what `images.gather` made of them. Files are read when they are
            needed. With a recipe that has ``patch``, which a set needs, N images are a set too:
            some are held out for validation. Of one image, pixels are.
        steps : int, optional
            The recipe's by default.
        mask : array of bool, "nan", or a list of such, one for each image of a set; optional
            The pixels that say nothing: True where the image is masked, of its shape or one that
            is broadcast to it; with "nan", where it is NaN. They are hidden in every step and
            never looked at, whatever they hold. What a masked array masks is masked.
        callback : callable, optional
            Called after each step with a dict: ``step``, ``steps``, ``loss``, ``validation``,
            ``lr`` and the loss's ``parts``. The training ends early when it returns True.
        progress : bool
            Show a progress bar.
        checkpoint : path, optional
            Write the training's state here every 100 steps, at the end, and when interrupted.
        resume : path, optional
            Go on from such a file, to the same bits as without the interruption.
        time_limit : float, optional
            Seconds that it may take: as many steps as fit, but at most `steps` or `cost.LONGEST`
            times the recipe's. With `resume`, as many as fitted when it began.

        Returns
        -------
        self

        Raises
        ------
        OutOfMemory
            A MemoryError that says how much was needed and how much there is. After this and any
            other error the model is what it was before.
        """
        plan = time_limit if isinstance(time_limit, Plan) else Plan(time_limit)
        steps = steps if steps is None else positive_int(steps, "steps")
        if resume is not None and steps is None and plan.limit is not None:
            plan.steps = checkpoints.steps_of(resume)
        if callback is not None and not callable(callback):
            raise InputError("callback", "a function, or None", repr(callback))
        if checkpoint is not None:
            check_writable(checkpoint, "checkpoint")
        new = copy.copy(self)  # trained in place of this one, which others may be applying
        new.device = resolve_device(self._device, image)
        with enough_memory(new.device):
            image, masked = gathered(image, mask, self.recipe)
            new._train(image, masked, steps, callback, progress, checkpoint, resume, plan)
        vars(self).update({name: getattr(new, name) for name in OF_A_FIT})  # whole, or not at all
        return self

    def _train(self, image, masked, steps, callback, progress, checkpoint, resume, plan):
        start, usual = time.perf_counter(), self.recipe.steps
        shapes = image.shapes if isinstance(image, Images) else [image.shape[1:]] * len(image)
        make = functools.partial(Training, self, image, masked=masked, source=whole(len(image)))
        with Precision(self.precision), Progress(steps or usual, progress, self.device) as shown:
            steps = plan.settle(make, [s[1:] for s in shapes], steps, usual)
            with contextlib.closing(make(steps)) as training, Pool():
                if resume is not None:
                    checkpoints.load(training, resume)
                shown.begin(steps, training.done)
                loop.run(training, shown, callback, checkpoint, plan if progress else None)
        self.history = training.history
        self.seconds = self.seconds | {"train": time.perf_counter() - start}

    def cost(
        self,
        image: Source,
        *,
        steps: int | None = None,
        mask: Any = None,
        time_limit: float | None = None,
    ) -> Cost:
        """What `fit` with these arguments would cost, by some steps that are thrown away."""
        plan = Plan(time_limit, only=True)
        with contextlib.suppress(Told):
            copy.copy(self).fit(image, steps=steps, mask=mask, progress=False, time_limit=plan)
        return plan.cost

    def predict(
        self,
        image: ArrayLike | Sliceable,
        *,
        mask: Mask = None,
        tile_size: Sizes | None = None,
        tile_overlap: Sizes | None = None,
        out: Array | None = None,
    ) -> Array:
        """f(y): the restored image, in the shape and units of `image`, float32.

        Parameters
        ----------
        image : (Y, X), (Z, Y, X) or (N, C, Z, Y, X) array of real numbers
            May be a memory-mapped file, or anything else that has a shape and a dtype and is read
            by slices, as of Zarr: of what does not fit into memory, a tile at a time is read. Of
            an xarray.DataArray, the result is one; of a Dask array, unless there is an `out`, it
            is a lazy one of the same bits, see `inference/dask_arrays.py`.
        mask : array of bool or "nan", optional
            The pixels that say nothing, as of `fit`. They are restored from those around them.
        tile_size : int or tuple of int, optional
            The largest tile, in pixels along all axes or along each of ([Z,] Y, X). By default the
            image is a single one where it fits into half of the free memory.
        tile_overlap : int or tuple of int, optional
            By how many pixels neighbouring tiles overlap. The default is twice what the network
            sees, and then the result is that of the whole image, up to rounding; if tiles are too
            small for that, it is a quarter of a tile, with a warning. Overlaps are blended.
        out : array of float32 or float64, optional
            Where to write the result; may be a memory-mapped file or a Zarr array, but not the
            image itself.

        Returns
        -------
        array of float32, or `out`
        """
        out = True if out is None else out
        return self._infer(image, mask, out, False, tile_size, tile_overlap)[0]

    def reblur(
        self,
        image: ArrayLike | Sliceable,
        *,
        mask: Mask = None,
        tile_size: Sizes | None = None,
        tile_overlap: Sizes | None = None,
        out: Array | None = None,
    ) -> Array:
        """g(f(y)): the denoised image, in the shape and units of `image`, float32.

        Parameters are those of `predict`. A forward model of your own, or one that wraps around,
        may look at any pixel of f(y): it is computed on the whole image, whatever the tiles.
        """
        out = True if out is None else out
        return self._infer(image, mask, False, out, tile_size, tile_overlap)[1]

    def restore(
        self,
        image: ArrayLike | Sliceable,
        *,
        mask: Mask = None,
        tile_size: Sizes | None = None,
        tile_overlap: Sizes | None = None,
        out: tuple[Array, Array] | list[Array] | None = None,
    ) -> tuple[Array, Array]:
        """(f(y), g(f(y))): `predict` and `reblur` of one run of the network.

        Parameters are those of `predict`, but that `out` is a pair of arrays.
        """
        if out is not None and (not isinstance(out, (tuple, list)) or len(out) != 2):
            raise InputError("out", "a pair of arrays", type(out).__name__)
        return self._infer(image, mask, *(out or (True, True)), tile_size, tile_overlap)

    def _infer(self, given, mask, *settings):
        if self.parameters is None:
            raise InputError("model", "a trained one: call fit first", "an untrained one")
        if is_lazy(given) and all(isinstance(out, bool) for out in settings[:2]):
            return infer_lazily(copy.copy(self), given, mask, *settings)
        start = time.perf_counter()
        image = masked_image(given, mask, self.outliers)
        found = infer(copy.copy(self), image, *settings)  # a `fit` beside it changes nothing here
        self.seconds["infer"] = time.perf_counter() - start
        new = (setting is True for setting in settings)  # not the caller's own
        return tuple(named_as(a, given) if n else a for a, n in zip(found, new, strict=False))

    def outliers(self, image: Array) -> Array | None:
        """The pixels of an image that are masked because neither light nor noise explains them, an
        array of bool on the CPU; None where the image that was trained on had none."""
        return spoilt(image, self.physics, self.noise)

    def save(self, path: PathLike) -> None:
        """Write the model to an ``.npz`` file, whole or not at all.

        A forward model of your own is not written, for it is code: give it to `load` again.
        """
        if self.parameters is None:
            raise InputError("model", "a trained one: call fit first", "an untrained one")
        model_file.save_model(path, self)

    @classmethod
    def load(
        cls,
        path: PathLike,
        physics: ForwardModel | None = None,
        *,
        device: Device = "auto",
        precision: PrecisionName = "float32",
    ) -> Self:
        """Read a model that `save` wrote; with the same bits it predicts the same bits.

        Parameters
        ----------
        path : path
        physics : object, optional
            The forward model, where the file holds none.
        device : {"auto", "cpu", "cuda"}
            Where it is to work.
        precision : {"float32", "tf32x3", "tf32"}
            How.

        Raises
        ------
        FileError
            If it is no model file, or one of another version.
        """
        return model_file.load_model(
            path, physics, functools.partial(cls, device=device, precision=precision)
        )
