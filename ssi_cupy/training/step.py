"""The training step, and the training that repeats it.

    image → masking → unet → physics → losses → tape.backward → optim → (again)

`Training.step` is that line, the loss that of Kobayashi et al. (2020), Eq. 3: the prediction of
hidden pixels through the forward model. Where the losses ask for it (Papkov et al. 2023, Eq. 1) the
network sees the batch twice, as it is and with pixels hidden: two branches of one larger batch,
each normalised by its own statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import symmetry
from ..engine.backend import Numbers, empty, host, is_cupy, moved, zeros
from ..engine.gpu.graph import Capture
from ..engine.types import Array
from ..masking import fill, keep_blind, outside, within
from ..ops.loss_terms import weighted_sum
from ..ops.pad import branch
from ..ops.scalars import add_to
from ..ops.total_variation import kernel_continuity
from ..optim import Adam, MovingAverage, follow, total
from ..physics import apply
from ..tape import Tape
from ..unet import parameter, unet, unet_forward
from ..unet.layout import stacked
from .batches import WholeImage
from .forward_model import (
    allowed_symmetries,
    forward_model,
    is_ours,
    margin_of,
    with_margin,
    without_margin,
)
from .image_noise import mask_for
from .image_sets import Images
from .inputs import levels_for
from .large_image import LargeImage
from .learning import OWN, PSFLearning, bracket
from .loss_settings import losses_for
from .network import network_for
from .patches import VALIDATION_STEP
from .sources import of_image, of_images
from .units import voxel

NUMBERS = ("draw", "limit", "noise", "rate", "root", "sigma", "step")  # new in every step
UNEVEN = 1.0  # the variation of variances from which on a large image is renormalised
RENORMALISE_FROM = 30  # steps: before, the running statistics say nothing
REPORT = 32  # sum of the parameters, loss, validation loss, and the loss's parts; what is learned


class Training:
    """One training: everything that changes from step to step, and the step.

    All intensities here are those of the normalised image, (y − offset) / scale. A step works on
    arrays that stay where they are: what its source draws, its numbers (see `backend.Numbers`),
    the vectors of weights, and the report, which is all that is read of it.

    Parameters
    ----------
    model : SelfSupervisedInverse
        Whose physics, recipe, seed and device are used; it gets the units, symmetries and network.
    image : (N, C, Z, Y, X) array, on the CPU, or Images
        One image, or a set of them.
    steps : int
    masked : (N, C, Z, Y, X) array of bool, on the CPU, optional
        The pixels of the one image that are masked.
    source : callable
        Makes the source of batches (see `batches.py`) of one whole image, of ``(y, validation=,
        symmetries=, seed=, masked=)``. Where the recipe has a patch, `patches.py` has the sources.
    """

    def __init__(
        self,
        model: Any,
        image: Array | Images,
        steps: int,
        masked: Array | None = None,
        source: Callable[..., Any] = WholeImage,
    ) -> None:
        recipe = self.recipe = model.recipe
        self.model, self.steps, self.seed = model, steps, model.seed
        error = bracket(model, image, masked)
        self.symmetries = [symmetry.IDENTITY]
        if recipe.augment:
            self.symmetries = allowed_symmetries(model.physics, recipe)
        model.symmetries = self.symmetries if recipe.ensemble else [symmetry.IDENTITY]
        if isinstance(image, Images):
            self.source, y, shown = of_images(model, image, self.symmetries)
        else:
            self.source, y, shown = of_image(model, image, masked, self.symmetries, source)
        noise = model.noise.in_units(*model.units) if model.noise else None
        self.learning = PSFLearning(model, recipe, steps, self.source.like, error)
        self.g = forward_model(self.learning.g, recipe, y, *model.units, noise)
        spacing = voxel(model.spacing, 2 if y.shape[2] == 1 and np.size(model.spacing) < 3 else 3)
        ends = self.source.ends() if isinstance(image, Images) else None
        about = spacing, ends, shown, noise
        self.losses = losses_for(model.physics, recipe, y, *model.units, *about)
        shape, like = self.source.shape, self.source.like
        self.margin = margin_of(model.physics, recipe, shape[2:])
        if isinstance(self.source, LargeImage):  # whose boxes have it in them
            self.margin = (0, 0, 0)
        one_channel = (shape[0], 1, *shape[2:])
        self.batch = (  # target, validation pixels, pixels that the loss may look at
            empty(shape, np.float32, like),
            *(empty(one_channel, np.uint8, like) for _ in range(2)),
        )
        self.transformed = {}  # these three by their shape, of the same memory
        self.capture = Capture(is_cupy(like) and model.graph and is_ours(model.physics))
        self.numbers = Numbers(NUMBERS + OWN * bool(self.learning), like)
        self.sums, self.report = zeros(REPORT, np.float64, like), zeros(REPORT, np.float64, like)
        self.share = moved(np.full(1, 1 / recipe.accumulate, np.float32), like)[0]
        self.check = zeros(1, np.float64, like)  # the validation loss of one batch
        self.parts = ()  # names of the loss's terms

        self.mask = mask_for(recipe, noise, shown)
        model.wiener_levels = []
        if recipe.wiener:
            variance = float(shown.var())
            model.wiener_levels = levels_for(model.physics, recipe.wiener, noise.level, variance)
        self.inputs = model.inputs
        inputs = self.inputs.channels(shape[1])
        template = recipe.network_3d if y.shape[2] > 1 and recipe.network_3d else recipe.network
        model.net = self.net = network_for(self.batch[0], template, spacing, inputs)
        self.parameters = self.net.initial_parameters(self.seed, like=like)
        self.gradient = zeros(self.net.size, np.float32, like)
        self.statistics = self.net.initial_statistics(like=like)
        self.momenta = self.net.momenta(np.float32, like)
        self.branches = 2 if self.losses.siamese else 1
        # Of an uneven image no part is like the whole, and each step sees one: see `ops/norm.py`.
        apart = isinstance(self.source, LargeImage) and self.branches == 1
        self.uneven = apart and self.source.unevenness() > UNEVEN
        self.renormalise = False
        if self.uneven:
            self.momenta *= 0.2  # of many parts
        shape = (self.branches, self.net.statistics_size)
        self.batch_statistics = zeros(shape, np.float32, like)
        self.optimiser = Adam(
            self.net.size, np.float32, lr=recipe.lr, l1=recipe.l1, l2=recipe.l2,
            noise=recipe.weight_noise, seed=self.seed, like=like,
        )  # fmt: skip
        self.average = None
        if recipe.average:
            self.average = MovingAverage(self.net.size, np.float32, decay=recipe.average, like=like)
        self.schedule_state = recipe.schedule.start()
        self.previous = self.parameters.copy()  # those that the validation loss is of
        self.best = {"validation": np.inf, "step": -1, "parameters": self.parameters.copy(),
                     "statistics": self.statistics.copy()}  # fmt: skip
        self.history = []

    @property
    def done(self) -> int:
        """The number of steps that are done."""
        return len(self.history)

    def step(self) -> dict[str, Any]:
        """(image → masking → unet → physics → losses → tape.backward) × accumulate → optim."""
        recipe, step = self.recipe, self.done
        lr = recipe.schedule.lr(recipe.lr, step, self.steps, self.schedule_state)
        update = self.optimiser.count(lr) | self.learning.count(step)
        self.renormalise = self.uneven and step >= RENORMALISE_FROM
        with self.capture as run:
            for part in range(recipe.accumulate):
                draw = step * recipe.accumulate + part
                batch = self._batch(self.source.shape_of(draw))
                self.source.draw(draw, *batch)
                self.numbers.write(draw=draw, **self._levels(step), **update)
                run((batch[0].shape, self.renormalise), self._gradient, *batch)
            run("update", self._update)
            report = host(self.report)  # the one look at the device, which waits for all this
            check, loss, validation, *parts = report.tolist()
            self.learning.saw(report)
            if self.average:
                self.average.steps += 1
            validation = self._validated(step, validation)
        self.history.append({"step": step, "loss": loss, "validation": validation, "lr": lr})
        if not np.isfinite(loss + check):
            raise FloatingPointError(f"the training diverged at step {step}: lower recipe.lr")
        parts = dict(zip(self.parts, parts, strict=False))
        return self.history[-1] | {"steps": self.steps, "parts": parts}

    # What follows, up to `_update`, is work for the device alone: it reads what changes from step
    # to step from memory, and nothing of it comes back, so that it can be captured and replayed.

    def _gradient(self, y, validation, inside):
        """image → masking → unet → physics → losses → tape.backward: a gradient, added up."""
        recipe = self.recipe
        seen, counted, scored = self._masked(y, validation, inside)
        settings = {"branches": self.branches, "batch_statistics": self.batch_statistics}
        if self.renormalise:
            settings["statistics"] = self.statistics
        others = None
        if self.losses.siamese:
            whole, others = self._whole(y, validation, inside)
            seen = stacked([whole, seen])
        tape = Tape()
        parameters = tape.var(self.parameters)
        x = unet(self._shown(seen), parameters, net=self.net, input_gradient=False, **settings)
        prediction = without_margin(apply(self.g, x), self.margin, y.shape[2:])
        whole = None
        if self.losses.siamese:
            whole = [branch(z, index=0, of=2) for z in (x, prediction)]
            x, prediction = (branch(z, index=1, of=2) for z in (x, prediction))
        loss, parts = self.losses(x, prediction, y, counted, whole=whole, inside=others)
        if recipe.continuity:
            kernel = parameter(parameters, net=self.net, name=self.net.last_kernel)
            weights = (1.0, recipe.continuity)
            loss = weighted_sum(loss, kernel_continuity(kernel), weights=weights)
        missed = self.losses.validation(prediction.value, y, scored)
        tape.backward(loss, self.share)

        self.gradient += parameters.grad
        for batch in self.batch_statistics:  # the whole pass first
            follow(self.statistics, batch, self.momenta)
        self.parts = tuple(parts)
        for i, value in enumerate((loss.value, missed, *parts.values()), 1):
            add_to(self.sums[i : i + 1], value, 1 / recipe.accumulate)

    def _update(self):
        """optim: the weights follow the gradient; the report is written."""
        self.previous[...] = self.parameters
        numbers = {name: self.numbers[name] for name in ("rate", "root", "sigma", "step")}
        self.optimiser.move(self.parameters, self.gradient, **numbers)
        if self.average:
            self.average.fold(self.parameters)
        self.learning.update(self.sums, self.numbers)
        # A ReLU hides a NaN from the loss, so the weights are looked at too.
        self.sums[:1] = total(self.parameters)
        self.report[...] = self.sums
        self.sums[...] = 0
        self.gradient[...] = 0

    def _masked(self, y, validation, inside):
        """What the network sees of a batch; what the loss looks at, and the validation loss.

        Validation pixels are always hidden; where theirs is another fill, they get it first.
        """
        recipe, seed, draw = self.recipe, self.seed, self.numbers["draw"]
        alone, options = self._stand_ins()
        scored = within(validation, inside)
        if self.mask is None:
            return *self._whole(y, validation, inside), scored
        mask = self.mask.mark(y.shape, seed, draw, self.numbers["limit"], like=y)
        hidden, counted = keep_blind(mask, validation)
        if alone == recipe.fill:
            seen = fill(y, hidden, alone, seed, draw, **options)
        else:
            seen = fill(y, hidden, alone, seed, draw, mean=self.source.mean)
            seen = fill(seen, counted, recipe.fill, seed, draw, **options)
        return self._with_missing(seen), within(counted, inside), scored

    def _with_missing(self, seen):
        """What can be seen, shown also where pixels are masked."""
        return seen if self.source.missing is None else self.source.missing.fill(seen)

    def _shown(self, seen):
        """The network's input: what can be seen, its margin, and filtered copies of both."""
        return self.inputs(with_margin(seen, self.margin))

    def _whole(self, y, validation, inside):
        """A batch with its validation pixels hidden and no others; the pixels that are not."""
        alone, options = self._stand_ins()
        shown = fill(y, validation, alone, self.seed, self.numbers["draw"], **options)
        return self._with_missing(shown), outside(inside, validation)

    def _stand_ins(self):
        """What validation pixels are filled with, and the options of `fill` for all."""
        recipe = self.recipe
        noise = self.numbers["noise"] if recipe.input_noise else 0.0
        options = {"sigma": recipe.fill_sigma, "mean": self.source.mean, "noise": noise}
        return recipe.validation_fill or recipe.fill, options

    def _levels(self, step):
        """How many pixels are hidden in a step, and how much noise is added."""
        mask, noise = self.mask, self.recipe.input_noise
        return {
            "limit": mask.limit(step, self.steps) if mask else 0.0,
            "noise": noise.level(step, self.steps) if noise else 0.0,
        }

    def _batch(self, shape):
        """The batch's arrays in the shape of a draw, which may be a transformed one."""
        if shape not in self.transformed:
            one_channel = (shape[0], 1, *shape[2:])
            shapes = shape, one_channel, one_channel
            self.transformed[shape] = [
                a.reshape(s) for a, s in zip(self.batch, shapes, strict=True)
            ]
        return self.transformed[shape]

    def _validated(self, step, validation):
        """The validation loss of a step: its own, or where that is apart the latest."""
        if not self.source.checks:
            self._watch(validation, self.previous)
            return validation
        if (step + 1) % self.recipe.epoch == 0:
            return self._check()
        return self.history[-1]["validation"] if self.history else np.nan

    def _check(self):
        """The validation loss on the source's fixed batches, as the network would be used now."""
        total = 0.0
        for number in range(self.source.checks):
            self.source.check(number, *self.batch)
            self.numbers.write(draw=VALIDATION_STEP + number)
            self.capture("check", self._checked, *self.batch)
            total += float(host(self.check)[0])
        total /= self.source.checks
        self._watch(total, self.parameters)
        return total

    def _checked(self, y, validation, inside):
        """One batch's, as work for the device alone."""
        recipe, draw = self.recipe, self.numbers["draw"]
        alone = recipe.validation_fill or recipe.fill
        options = {"sigma": recipe.fill_sigma, "mean": self.source.mean}
        seen = self._with_missing(fill(y, validation, alone, self.seed, draw, **options))
        known = {"net": self.net, "statistics": self.statistics}
        x = unet_forward(self.inputs(seen), self.parameters, **known)[0]
        self.check[...] = self.losses.validation(apply(self.g, x), y, within(validation, inside))

    def _watch(self, validation_loss, parameters):
        """The best parameters so far; the schedule's view of it."""
        self.schedule_state = self.recipe.schedule.seen(self.schedule_state, validation_loss)
        if validation_loss < self.best["validation"]:
            self.best["validation"], self.best["step"] = validation_loss, self.done
            if self.recipe.keep_best:
                self.best["parameters"][...] = parameters
                self.best["statistics"][...] = self.statistics

    def exhausted(self) -> bool:
        """Whether the validation loss has not got better for the recipe's patience."""
        patience = self.recipe.patience * (self.recipe.epoch if self.source.checks else 1)
        return bool(patience) and self.done - self.best["step"] > patience

    def finish(self) -> None:
        """Hand the parameters over to the model."""
        model = self.model
        if self.source.checks and self.done % self.recipe.epoch:
            with self.capture:
                self.history[-1]["validation"] = self._check()
        if self.recipe.keep_best and self.done:
            model.parameters, model.statistics = self.best["parameters"], self.best["statistics"]
        elif self.average:
            model.parameters, model.statistics = self.average.value(), self.statistics
        else:
            model.parameters, model.statistics = self.parameters, self.statistics
        if self.recipe.calibrate:
            model.statistics = self._calibrated(model.parameters)
        self.learning.finish()

    def _calibrated(self, parameters):
        """Means and variances over the image with nothing hidden, in all its symmetries."""
        found, known = [], self.statistics if self.renormalise else None
        for y in self.source.every():
            batch = empty(self.statistics.shape, self.statistics.dtype, like=y)
            unet(self._shown(y), parameters, net=self.net, statistics=known,
                 batch_statistics=batch)  # fmt: skip
            found.append(host(batch))  # a few numbers
        found = np.stack(found)
        mean, spread = found.mean(axis=0), found.var(axis=0)
        for place in self.net.statistics_layout.values():
            middle = (place.start + place.stop) // 2
            # variances of the whole: within the symmetries, and between them
            mean[middle : place.stop] += spread[place.start : middle]
        return moved(mean, parameters)

    def close(self) -> None:
        """Give back what the GPU holds for the next step. There can be none after it."""
        self.capture.close()
