"""The corridor: one training, and its step.

    image → masking → unet → physics → losses → tape.backward → optim → (again)

`Training.step` is that line, the loss that of Kobayashi et al. (2020), Eq. 3: the prediction of
hidden pixels through the forward model.
"""

from __future__ import annotations

import json
import zlib

import numpy as np

from . import modelfile, symmetry
from .backend import empty, host, moved, namespace, on_device
from .checks import FileError, InputError, varying
from .masking import fill, keep_blind, validation_pixels
from .ops.pad import crop, pad
from .ops.terms import weighted_sum
from .ops.variation import kernel_continuity
from .optim import Adam, MovingAverage
from .physics import apply, to_dict
from .prepare import allowed_turns, forward_model, losses_for, margin_of, network_for, units_of
from .random import Stream, pick
from .tape import Tape
from .unet import parameter, unet

MOMENTUM = 0.1  # of the running means and variances


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
        model.units = offset, scale = units_of(y, recipe.normalise)
        y = np.ascontiguousarray((y - offset) / scale, dtype=np.float32)
        self.mean = float(y.mean())  # on the CPU, whose sum it is on every device
        self.y = on_device(y, model.device)
        self.g = forward_model(model.physics, recipe, self.y, offset, scale)
        if recipe.turns:
            model.turns = allowed_turns(model.physics)
        self.losses = losses_for(model.physics, recipe, self.y)
        self.margin = margin_of(model.physics, recipe, self.y.shape[2:])
        self.validation = validation_pixels(self.y.shape, recipe.validation, self.seed, like=self.y)

        model.net = self.net = network_for(self.y)
        self.parameters = self.net.initial_parameters(self.seed, like=self.y)
        self.statistics = self.net.initial_statistics(like=self.y)
        self.batch_statistics = self.net.initial_statistics(like=self.y)
        self.optimiser = Adam(
            self.net.size, np.float32, lr=recipe.lr, l1=recipe.l1, l2=recipe.l2,
            noise=recipe.weight_noise, seed=self.seed, like=self.y,
        )  # fmt: skip
        self.average = None
        if recipe.average:
            self.average = MovingAverage(
                self.net.size, np.float32, decay=recipe.average, like=self.y
            )
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
        recipe, step = self.recipe, self.done
        y, seen, counted, validation = self._masked(step)
        tape = Tape()
        parameters = tape.var(self.parameters)
        x = unet(with_margin(seen, self.margin), parameters, net=self.net,
                 batch_statistics=self.batch_statistics, input_gradient=False)  # fmt: skip
        prediction = without_margin(apply(self.g, x), self.margin, y.shape[2:])
        loss, parts = self.losses(x, prediction, y, counted)
        if recipe.continuity:
            kernel = parameter(parameters, net=self.net, name=self.net.last_kernel)
            weights = (1.0, recipe.continuity)
            loss = weighted_sum(loss, kernel_continuity(kernel), weights=weights)
        validation_loss = float(self.losses.validation(prediction.value, y, validation))
        tape.backward(loss)

        self._watch(validation_loss)
        lr = recipe.schedule.lr(recipe.lr, step, self.steps, self.schedule_state)
        self.optimiser.step(self.parameters, parameters.grad, lr)
        if self.average:
            self.average.update(self.parameters)
        self.history.append(
            {"step": step, "loss": float(loss.value), "validation": validation_loss, "lr": lr}
        )
        # A ReLU hides a NaN from the loss, so the weights are looked at too.
        if not np.isfinite(self.history[-1]["loss"] + float(self.parameters.sum())):
            raise FloatingPointError(f"the training diverged at step {step}: lower recipe.lr")
        return self.history[-1] | {"steps": self.steps, "parts": parts}

    def _masked(self, step):
        """The image of this step, turned; what the network sees of it; what the loss looks at.

        Validation pixels are hidden in every step. Where their stand-in is of another kind than
        that of the others, they get theirs first.
        """
        recipe, seed, turns = self.recipe, self.seed, self.model.turns
        turn = turns[pick(len(turns), seed, Stream.TURN, step)]
        y, validation = (symmetry.turn(array, turn) for array in (self.y, self.validation))
        noise = recipe.input_noise.level(step, self.steps) if recipe.input_noise else 0.0
        options = {"sigma": recipe.fill_sigma, "mean": self.mean, "noise": noise}
        alone = recipe.validation_fill or recipe.fill
        if recipe.mask is None:
            return y, fill(y, validation, alone, seed, step, **options), 1 - validation, validation
        mask = recipe.mask.draw(y.shape, seed, step, self.steps, like=y)
        hidden, counted = keep_blind(mask, validation)
        if alone == recipe.fill:
            return y, fill(y, hidden, alone, seed, step, **options), counted, validation
        seen = fill(y, hidden, alone, seed, step, mean=self.mean)
        return y, fill(seen, counted, recipe.fill, seed, step, **options), counted, validation

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
        if self.recipe.calibrate:
            model.statistics = self._calibrated(model.parameters)

    def _calibrated(self, parameters):
        """Means and variances over the image with nothing hidden, in all its turns."""
        y, found = with_margin(self.y, self.margin), []
        for turn in self.model.turns:
            batch = empty(self.statistics.shape, self.statistics.dtype, like=y)
            unet(symmetry.turn(y, turn), parameters, net=self.net, batch_statistics=batch)
            found.append(batch)
        found = namespace(y).stack(found)
        mean, spread = found.mean(axis=0), found.var(axis=0)
        for place in self.net.statistics_layout.values():
            middle = (place.start + place.stop) // 2
            # variances of the whole: within the turns, and between them
            mean[middle : place.stop] += spread[place.start : middle]
        return mean

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
                getattr(self, name)[...] = moved(arrays[name], self.y)
                self.best[name][...] = moved(arrays[f"best_{name}"], self.y)
            validation, step = arrays["best"].tolist()
            self.best |= {"validation": validation, "step": int(step)}
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
            "physics": fingerprint(self.model.physics),
            "image": f"{self.y.shape}, crc {zlib.crc32(host(self.y)):08x}",
        }


def fingerprint(g):
    """A forward model's name and a checksum of all its settings; of a user's own, the name."""
    try:
        values = to_dict(g)
    except InputError:
        return type(g).__name__
    crc = 0
    for name, value in sorted(values.items()):
        crc = zlib.crc32(np.asarray(value).tobytes(), zlib.crc32(name.encode(), crc))
    return f"{type(g).__name__}, crc {crc:08x}"


def with_margin(y, margin):
    """`y` (N, C, Z, Y, X) with a mirrored margin of that many pixels around it."""
    return pad(y, widths=[(m, m) for m in margin], mode="mirror") if any(margin) else y


def without_margin(x, margin, shape):
    """The inverse of `with_margin`; `shape` is that of the (Z, Y, X) inside."""
    return crop(x, start=margin, shape=shape) if any(margin) else x
