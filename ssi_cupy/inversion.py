"""Self-supervised inversion: the corridor.

    image → masking → unet → physics → losses → tape.backward → optim → (again) → restored image

`Training.step` is that line. `SelfSupervisedInverse` is what is left of it when it is done: a
network f and the units of the image, so that f(y) is the restored image and g(f(y)) the denoised
one (Kobayashi et al. 2020, Eq. 3; Goncharova et al. 2020).
"""

from __future__ import annotations

import json
import time
import zlib

import numpy as np

from . import modelfile, symmetry
from .backend import Pool, resolve_device
from .checks import FileError, InputError, positive_int, real_array, varying
from .files import check_writable
from .masking import fill, keep_blind, validation_pixels
from .ops.terms import weighted_sum
from .ops.variation import kernel_continuity
from .optim import Adam, MovingAverage
from .physics import (
    Clamp,
    Composition,
    Identity,
    PSFConvolution,
    SensorResponse,
    apply,
    check,
    estimate_noise,
    is_linear,
)
from .progress import Progress
from .random import Stream, integers, seed_from
from .recipes import DEFAULT, get
from .tape import Tape
from .unet import UNet, parameter, unet, unet_forward

MOMENTUM = 0.1  # of the running means and variances
CHECKPOINT_EVERY = 100  # steps
BROADEN = np.array([[0.095, 0.14, 0.095], [0.14, 0.2, 0.14], [0.095, 0.14, 0.095]])


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

    Attributes
    ----------
    net : UNet
    parameters : (net.size,) array
    history : list of dict
        ``step``, ``loss``, ``validation`` and ``lr`` of each step.
    seconds : dict
        Of the last ``train`` and ``infer``.
    """

    def __init__(self, physics, recipe=DEFAULT, *, rng=0, device="auto"):
        self.physics = check(physics)
        self.recipe = get(recipe)
        self.seed = seed_from(rng)
        self.device = resolve_device(device)
        self.net = self.parameters = self.statistics = self.units = None
        self.turns = [symmetry.IDENTITY]
        self.history = []
        self.seconds = {"train": 0.0, "infer": 0.0}

    def fit(self, image, *, steps=None, callback=None, progress=True, checkpoint=None, resume=None):
        """Train on an image, from scratch or from a checkpoint.

        Parameters
        ----------
        image : (Y, X), (Z, Y, X) or (N, C, Z, Y, X) array of real numbers
        steps : int, optional
            The recipe's by default.
        callback : callable, optional
            Called after each step with a dict: ``step``, ``steps``, ``loss``, ``validation``,
            ``lr`` and the loss's ``parts``. The training ends early when it returns True.
        progress : bool
            Show a progress bar.
        checkpoint : path, optional
            Write the state of the training to this file every 100 steps, at the end, and when
            interrupted.
        resume : path, optional
            Go on from such a file, to the same bits as without the interruption.

        Returns
        -------
        self
        """
        steps = self.recipe.steps if steps is None else positive_int(steps, "steps")
        if checkpoint is not None:
            check_writable(checkpoint, "checkpoint")
        training = Training(self, _as_5d(image), steps)
        if resume is not None:
            training.load(resume)
        start = time.perf_counter()
        with Pool(), Progress(steps, training.done, progress, self.device) as shown:
            while training.done < steps:
                report = training.step()
                shown.update(report)
                stop = bool(callback(report)) if callback is not None else False
                last = stop or shown.interrupted or training.exhausted() or training.done == steps
                if checkpoint is not None and (last or training.done % CHECKPOINT_EVERY == 0):
                    training.save(checkpoint)
                if shown.interrupted:
                    raise KeyboardInterrupt
                if stop or training.exhausted():
                    break
            training.finish()
        self.history = training.history
        self.seconds["train"] = time.perf_counter() - start
        return self

    def predict(self, image):
        """f(y): the restored image, in the shape and units of `image`, float32."""
        return self.restore(image)[0]

    def reblur(self, image):
        """g(f(y)): the denoised image, in the shape and units of `image`, float32."""
        return self.restore(image)[1]

    def restore(self, image):
        """(f(y), g(f(y))): `predict` and `reblur` of one run of the network."""
        if self.parameters is None:
            raise InputError("model", "a trained one: call fit first", "an untrained one")
        start = time.perf_counter()
        y = _as_5d(image)
        offset, scale = self.units
        y_units = ((y - offset) / scale).astype(self.parameters.dtype)
        x = np.zeros((*y.shape[:1], self.net.outputs, *y.shape[2:]), self.parameters.dtype)
        with Pool():
            for turn in self.turns:
                seen = symmetry.turn(y_units, turn)
                out, _ = unet_forward(
                    seen, self.parameters, net=self.net, statistics=self.statistics
                )
                x += symmetry.turn_back(out, turn)
        x = (x / len(self.turns) * scale + offset).astype(np.float32)
        reblurred = apply(self.physics, x)
        self.seconds["infer"] = time.perf_counter() - start
        shape = np.shape(image)
        return x.reshape(shape), np.array(reblurred, np.float32).reshape(shape)

    def _network(self, y):
        return unet_forward(y, self.parameters, net=self.net, statistics=self.statistics)[0]

    def save(self, path):
        """Write the model to an ``.npz`` file, whole or not at all.

        A forward model that is not of `ssi_cupy.physics` is not written, for it is code: give it
        to `load` again.
        """
        if self.parameters is None:
            raise InputError("model", "a trained one: call fit first", "an untrained one")
        modelfile.save_model(path, self)

    @classmethod
    def load(cls, path, physics=None):
        """Read a model that `save` wrote; with the same bits it predicts the same bits.

        Parameters
        ----------
        path : path
        physics : object, optional
            The forward model, where the file holds none.

        Raises
        ------
        FileError
            If it is no model file, or one of another version.
        """
        return modelfile.load_model(path, physics, cls)


class Training:
    """One training: everything that changes from step to step, and the step.

    All intensities here are those of the normalised image, (y − offset) / scale.
    """

    def __init__(self, model, y, steps):
        recipe = self.recipe = model.recipe
        self.model, self.steps, self.seed = model, steps, model.seed
        varying(y, "image")
        if recipe.crop:
            side = min(*y.shape[3:], recipe.crop)
            y = y[..., :side, :side]
        model.units = offset, scale = _units(y, recipe.normalise)
        self.y = np.ascontiguousarray((y - offset) / scale, dtype=np.float32)
        self.g = forward_model(model.physics, recipe, self.y, offset, scale)
        model.turns = _turns(model.physics) if recipe.turns else [symmetry.IDENTITY]
        self.mean = float(self.y.mean())
        self.validation = validation_pixels(self.y.shape, recipe.validation, self.seed)

        model.net = self.net = network_for(self.y)
        self.parameters = self.net.initial_parameters(self.seed)
        self.statistics = self.net.initial_statistics()
        self.batch_statistics = self.net.initial_statistics()
        self.optimiser = Adam(
            self.net.size, np.float32, lr=recipe.lr, l1=recipe.l1, l2=recipe.l2,
            noise=recipe.weight_noise, seed=self.seed,
        )  # fmt: skip
        self.average = None
        if recipe.average:
            self.average = MovingAverage(self.net.size, np.float32, decay=recipe.average)
        self.schedule_state = recipe.schedule.start()
        self.best = {"validation": np.inf, "step": -1, "parameters": self.parameters.copy(),
                     "statistics": self.statistics.copy()}  # fmt: skip
        self.history = []

    @property
    def done(self):
        """The number of steps that are done."""
        return len(self.history)

    def step(self):
        """image → masking → unet → physics → losses → tape.backward → optim."""
        recipe, seed, step = self.recipe, self.seed, self.done
        y, hidden, counted, validation = self._masked(step)
        noise = recipe.input_noise.level(step, self.steps) if recipe.input_noise else 0.0
        seen = fill(y, hidden, recipe.fill, seed, step,
                    sigma=recipe.fill_sigma, mean=self.mean, noise=noise)  # fmt: skip
        tape = Tape()
        parameters = tape.var(self.parameters)
        x = unet(seen, parameters, net=self.net, batch_statistics=self.batch_statistics)
        prediction = apply(self.g, x)
        loss, parts = recipe.losses(x, prediction, y, counted)
        if recipe.continuity:
            kernel = parameter(parameters, net=self.net, name=self.net.last_kernel)
            weights = (1.0, recipe.continuity)
            loss = weighted_sum(loss, kernel_continuity(kernel), weights=weights)
        validation_loss = float(recipe.losses.validation(prediction.value, y, validation))
        tape.backward(loss)

        self._watch(validation_loss)
        lr = recipe.schedule.lr(recipe.lr, step, self.steps, self.schedule_state)
        self.optimiser.step(self.parameters, parameters.grad, lr)
        if self.average:
            self.average.update(self.parameters)
        self.history.append(
            {"step": step, "loss": float(loss.value), "validation": validation_loss, "lr": lr}
        )
        if not np.isfinite(self.history[-1]["loss"]):
            raise FloatingPointError(f"the loss became {loss.value} at step {step}: lower lr")
        return self.history[-1] | {"steps": self.steps, "parts": parts}

    def _masked(self, step):
        """The image of this step, turned; what is hidden in it; what the loss looks at."""
        turns = self.model.turns
        turn = turns[int(integers((1,), len(turns), self.seed, Stream.TURN, step)[0])]
        y, validation = (symmetry.turn(array, turn) for array in (self.y, self.validation))
        if self.recipe.mask is None:
            return y, validation, 1 - validation, validation
        mask = self.recipe.mask.draw(y.shape, self.seed, step, self.steps)
        hidden, counted = keep_blind(mask, validation)
        return y, hidden, counted, validation

    def _watch(self, validation_loss):
        """Running statistics; the best parameters so far; the schedule's view of it."""
        self.statistics += MOMENTUM * (self.batch_statistics - self.statistics)
        self.schedule_state = self.recipe.schedule.seen(self.schedule_state, validation_loss)
        if validation_loss < self.best["validation"]:
            self.best["validation"], self.best["step"] = validation_loss, self.done
            if self.recipe.keep_best:
                self.best["parameters"][...] = self.parameters
                self.best["statistics"][...] = self.statistics

    def exhausted(self):
        """Whether the validation loss has not got better for the recipe's patience."""
        patience = self.recipe.patience
        return bool(patience) and self.done - self.best["step"] > patience

    def finish(self):
        """Hand the parameters over to the model."""
        model = self.model
        if self.recipe.keep_best and self.done:
            model.parameters, model.statistics = self.best["parameters"], self.best["statistics"]
        elif self.average:
            model.parameters, model.statistics = self.average.value(), self.statistics
        else:
            model.parameters, model.statistics = self.parameters, self.statistics

    def save(self, path):
        """Write a checkpoint, whole or not at all."""
        arrays = {
            "parameters": self.parameters, "statistics": self.statistics,
            "best_parameters": self.best["parameters"], "best_statistics": self.best["statistics"],
            "best": np.array([self.best["validation"], self.best["step"]]),
            "schedule": self.schedule_state,
            "history": np.array([list(h.values()) for h in self.history]),
        }  # fmt: skip
        arrays |= {f"adam_{k}": v for k, v in self.optimiser.state().items()}
        if self.average:
            arrays |= {f"average_{k}": v for k, v in self.average.state().items()}
        modelfile.write(path, "checkpoint", self._identity(), arrays, "checkpoint")

    def load(self, path):
        """Go on from a checkpoint of the same image, recipe, seed and number of steps."""
        identity, arrays = modelfile.read(path, "checkpoint", "resume")
        for name, mine in self._identity().items():
            if identity.get(name) != mine:
                raise FileError(
                    "resume", f"a checkpoint of the same {name}: {mine}", identity.get(name)
                )
        try:
            self.optimiser.load({k[5:]: v for k, v in arrays.items() if k.startswith("adam_")})
            if self.average:
                self.average.load({k[8:]: v for k, v in arrays.items() if k.startswith("average_")})
            for name in ("parameters", "statistics"):
                getattr(self, name)[...] = arrays[name]
                self.best[name][...] = arrays[f"best_{name}"]
            self.best["validation"], self.best["step"] = (
                float(arrays["best"][0]),
                int(arrays["best"][1]),
            )
            self.schedule_state = arrays["schedule"]
            keys = ("step", "loss", "validation", "lr")
            self.history = [dict(zip(keys, row, strict=True)) for row in arrays["history"].tolist()]
        except (KeyError, ValueError) as error:
            raise FileError("resume", "a whole checkpoint", f"{path} ({error})") from None

    def _identity(self):
        """What must be the same for a checkpoint to be gone on from."""
        return {
            "recipe": json.loads(modelfile.describe(self.recipe)),
            "seed": self.seed,
            "steps": self.steps,
            "image": f"{self.y.shape}, crc {zlib.crc32(self.y):08x}",
        }


# ---- what is made ready before the first step ---------------------------------------------------


def forward_model(g, recipe, y, offset=0.0, scale=1.0):
    """The forward model that a recipe trains with, in units of the normalised image `y`."""
    from scipy.signal import convolve

    if recipe.broaden and isinstance(g, PSFConvolution):
        weights = BROADEN[None] / BROADEN.sum()
        g = PSFConvolution(**g.settings() | {"psf": convolve(g.psf, weights)})
    parts = [Clamp(0, 1)] if recipe.clamp else []
    parts.append(_in_units(g, offset, scale, y.shape))
    if recipe.sensor:
        parts += _sensor(g, y)
    return Composition(*parts) if len(parts) > 1 else parts[0]


class InUnits:
    """A forward model of intensities, for normalised ones: x ↦ (g(scale · x + offset) − offset) /
    scale."""

    def __init__(self, g, offset, scale):
        self.g, self.offset, self.scale = g, offset, scale

    def forward(self, x):
        return (apply(self.g, x * self.scale + self.offset) - self.offset) / self.scale

    def backward(self, gy, x):
        tape = Tape()
        x = tape.var(x * self.scale + self.offset)
        tape.backward(apply(self.g, x), gy)  # the scale of x and that of y cancel
        return x.grad


def _in_units(g, offset, scale, shape):
    """`g` itself where it is linear and leaves constants alone: then units are nothing to it."""
    ones = np.ones(shape, np.float32)
    image = apply(g, ones)
    if image.shape != ones.shape:
        raise InputError("physics", f"an output of the input's shape {shape}", f"{image.shape}")
    keeps = is_linear(g) and np.abs(image - 1).max() <= 1e-5
    return g if keeps or (offset, scale) == (0, 1) else InUnits(g, offset, scale)


def _sensor(g, y):
    """A `SensorResponse` where `y` is clipped, and nothing where it is not."""
    values, counts = np.unique(y, return_counts=True)
    if len(values) < 8:
        return []
    piled = [
        counts[end] > max(0.005 * y.size, 3 * counts[near]) for end, near in ((0, 1), (-1, -2))
    ]
    if not any(piled):
        return []
    low = float(values[0]) if piled[0] else -np.inf
    high = float(values[-1]) if piled[1] else np.inf
    noise = estimate_noise(y, getattr(g, "psf", None), low=low, high=high)
    return [SensorResponse(noise, low=low, high=high)]


def network_for(y):
    """The UNet for images of y's shape: pooled along each axis as often as its size allows."""
    channels, (depth, height, width) = y.shape[1], y.shape[2:]
    if min(height, width) < 16:
        raise InputError("image", "at least 16 pixels along Y and X", f"shape {y.shape[2:]}")
    deep = [2 if depth >= 2 ** (level + 1) else 1 for level in range(4)]
    return UNet(
        ndim=2 if depth == 1 else 3, inputs=channels, outputs=channels,
        windows=tuple((z, 2, 2) for z in deep),
    )  # fmt: skip


def _units(y, normalise):
    """(offset, scale) such that (y − offset) / scale runs from about 0 to about 1."""
    low, high = float(y.min()), float(y.max())
    if normalise == "percentile":
        some = np.percentile(y, (0.5, 99.5))
        if some[1] > some[0]:
            low, high = map(float, some)
    return low, high - low


def _turns(g):
    """The turns and flips that a forward model allows."""
    if isinstance(g, Identity):
        return symmetry.every(2)
    if isinstance(g, PSFConvolution):
        return symmetry.of_psf(g.psf[0] if len(g.psf) == 1 else g.psf)
    return [symmetry.IDENTITY]


def _as_5d(image):
    """`image` as (N, C, Z, Y, X), in float64 until its offset is taken off."""
    resolve_device("auto", image)
    image = real_array(image, "image", ndim=(2, 3, 5))
    shape = image.shape if image.ndim == 5 else (1,) * (5 - image.ndim) + image.shape
    return image.reshape(shape).astype(np.float64)
