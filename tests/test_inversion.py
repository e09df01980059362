"""A training end to end: gradients, blindness, determinism, units, files, interruptions."""

import dataclasses
import threading

import numpy as np
import pytest

from small_runs import PSF, SMALL, Shading, picture, small, trained
from ssi_cupy import physics, recipes
from ssi_cupy.engine import backend
from ssi_cupy.engine.checks import InputError
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.losses import Losses
from ssi_cupy.masking import StratifiedMask, keep_blind, validation_pixels
from ssi_cupy.ops.total_variation import kernel_continuity
from ssi_cupy.tape import Tape
from ssi_cupy.training.batches import WholeImage
from ssi_cupy.training.forward_model import forward_model
from ssi_cupy.training.step import Training
from ssi_cupy.unet import UNet, parameter, unet, unet_forward

# ---- gradients --------------------------------------------------------------------------------

ALL_LOSSES = Losses(bound=0.1, positivity=0.3, tv=0.05, tv_eps=0.01, low=0.0, high=0.5)


@pytest.mark.parametrize("kind", ["l2", "l1", "huber"])
@pytest.mark.parametrize("clips", [False, True])
def test_gradient_of_network_and_physics_and_every_loss(kind, clips):
    rng = np.random.default_rng(2)
    net = UNet(widths=(8, 16))
    y = rng.random((1, 1, 1, 18, 17))
    mask = (rng.random(y.shape) < 0.4).astype(np.uint8)
    g = physics.PSFConvolution(PSF, mode="nearest")
    if clips:
        g = physics.Composition(physics.Clamp(-1, 2), g, physics.SensorResponse(0.1))
    losses = dataclasses.replace(ALL_LOSSES, kind=kind)
    parameters = net.initial_parameters(3, np.float64)

    def loss_of(parameters):
        x = unet(y, parameters, net=net)
        return losses(x, physics.apply(g, x), y, mask)[0]

    tape = Tape()
    var = tape.var(parameters)
    tape.backward(loss_of(var))
    v = rng.normal(size=net.size)
    told = np.vdot(var.grad, v)
    found = []
    for step in (1e-6, 3e-7, 1e-7, 3e-8, 1e-8):  # some step is short enough to cross no kink
        along = [loss_of(parameters + t * v) for t in (-step, step)]
        found.append(abs((along[1] - along[0]) / (2 * step) - told))
    assert min(found) <= 1e-6 * abs(told)


# ---- blindness --------------------------------------------------------------------------------


def two_outputs(recipe, monkeypatch):
    """What the network makes of an image in a first step, and with other values at all the hidden
    pixels."""
    image, seen = picture(), []

    def spy(x, *args, **settings):
        y = unet(x, *args, **settings)
        seen.append(y.value)
        return y

    monkeypatch.setattr("ssi_cupy.training.step.unet", spy)
    for other in (False, True):
        model = SelfSupervisedInverse(physics.PSFConvolution(PSF), recipe, rng=4)
        training = Training(model, image[None, None, None], 10)
        drawn = recipe.mask.draw(training.source.shape, training.seed, 0, 10)
        hidden, counted = keep_blind(drawn, training.source.validation)
        assert counted.any() and not (counted & training.source.validation).any()
        assert not (counted & ~hidden & 1).any()
        if other:
            others = np.random.default_rng(5).normal(size=int(hidden.sum()))
            training.source.y[hidden == 1] += others
        training.step()
    return seen


@pytest.mark.parametrize("fill", ["zero", "gaussian", "neighbour", "local_mean"])
@pytest.mark.parametrize("mask", [recipes.SSI.mask, StratifiedMask(1 / 16)])
def test_hidden_pixels_change_no_prediction_that_is_scored_on_them(fill, mask, monkeypatch):
    """J-invariance: other values at all the hidden pixels, the same prediction everywhere."""
    recipe = dataclasses.replace(recipes.SSI, fill=fill, mask=mask)
    np.testing.assert_array_equal(*two_outputs(recipe, monkeypatch))


def test_of_two_passes_only_the_masked_one_is_blind(monkeypatch):
    """What makes Noise2Same another method than Noise2Self: f(y) sees what it is compared with."""
    losses = Losses(blind_spot=0, reconstruction=1, invariance=2)
    before, after = two_outputs(dataclasses.replace(recipes.SSI, losses=losses), monkeypatch)
    assert len(before) == 2  # the whole pass, the masked pass
    np.testing.assert_array_equal(before[1], after[1])
    assert np.abs(before[0] - after[0]).max() > 1e-3


def test_validation_pixels_are_never_in_the_loss():
    """Another value at a validation pixel changes the validation loss and no parameter."""
    runs = []
    for other in (0.0, 3.0):
        model = SelfSupervisedInverse(physics.PSFConvolution(PSF), recipes.SSI, rng=4)
        training = Training(model, picture()[None, None, None], 10)
        training.source.y[training.source.validation == 1] += other
        reports = [training.step() for _ in range(3)]
        runs.append((training.parameters, [r["validation"] for r in reports]))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert all(a != b for a, b in zip(runs[0][1], runs[1][1], strict=True))


class Window(WholeImage):
    """A source of which the loss may look at one quarter only."""

    def draw(self, step, y, validation, inside):
        super().draw(step, y, validation, inside)
        inside[..., 12:, :] = inside[..., 10:] = 0


@pytest.mark.parametrize("recipe", [recipes.SSI, recipes.SSI_NO_MASKING])
def test_the_loss_looks_at_what_is_inside_alone(recipe, monkeypatch):
    """Another target outside changes no loss, no validation loss and no parameter."""
    recipe, runs = dataclasses.replace(recipe, validation_fill="zero"), []
    monkeypatch.setattr("ssi_cupy.training.step.fill", lambda y, *args, **options: 0 * y)
    for other in (0.0, 3.0):
        model = SelfSupervisedInverse(physics.PSFConvolution(PSF), recipe, rng=4)
        training = Training(model, picture((24, 20))[None, None, None], 10, source=Window)
        training.source.y[..., 12:, :] += other
        training.source.y[..., 10:] += other
        reports = [training.step() for _ in range(2)]
        runs.append([training.parameters, *((r["loss"], r["validation"]) for r in reports)])
    for ours, theirs in zip(*runs, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_validation_pixels_are_a_fixed_share():
    pixels = validation_pixels((1, 1, 1, 50, 40), 0.1, seed=7)
    assert pixels.sum() == 200
    np.testing.assert_array_equal(pixels, validation_pixels((1, 1, 1, 50, 40), 0.1, seed=7))


# ---- determinism ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipes.names())
def test_same_seed_same_bits_with_one_thread_and_with_two(name):
    threads, images = backend.num_threads(), []
    try:
        for number in (1, 2, 2):
            backend.set_num_threads(number)
            model = trained(picture((33, 40)), small(name))
            images.append(model.predict(picture((33, 40))))
    finally:
        backend.set_num_threads(threads)
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[1], images[2])
    other = SelfSupervisedInverse(physics.PSFConvolution(PSF), small(name), rng=5)
    other.fit(picture((33, 40)), **SMALL)
    assert (other.predict(picture((33, 40))) != images[0]).any()


def test_what_memory_held_before_changes_no_bit(monkeypatch):
    """Nothing is read before it was written, and no sum depends on where its numbers lie."""
    take, found = backend.Pool.take, []
    for rubbish in (0, 255, 77, 255, 0, 200) * 2:  # 255 makes NaN of floats

        def soiled(pool, shape, dtype, rubbish=rubbish):
            array = take(pool, shape, dtype)
            array.reshape(-1).view(np.uint8)[...] = rubbish
            return array

        monkeypatch.setattr(backend.Pool, "take", soiled)
        model = SelfSupervisedInverse(physics.PSFConvolution(PSF), recipes.SSI, rng=4)
        training = Training(model, picture((33, 40))[None, None, None], 10)
        with backend.Pool():
            for _ in range(3):
                training.step()
        found.append(training.parameters)
    for parameters in found[1:]:
        np.testing.assert_array_equal(parameters, found[0])


def test_two_threads_may_fit_at_once():
    image, alone, together = picture((40, 40)), trained(picture((40, 40))).parameters, {}

    def fit(name):
        together[name] = trained(image, steps=3).parameters

    threads = [threading.Thread(target=fit, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        np.testing.assert_array_equal(together[i], alone)


def test_a_step_allocates_nothing_after_the_second():
    model = SelfSupervisedInverse(physics.PSFConvolution(PSF), recipes.SSI, rng=4)
    training = Training(model, picture((64, 48))[None, None, None], 10)
    with backend.Pool() as pool:
        training.step()
        training.step()
        before = pool.misses
        for _ in range(3):
            training.step()
        assert before > 0 and pool.misses == before


# ---- units ------------------------------------------------------------------------------------


def test_sixteen_bit_data_with_an_offset_comes_back_in_its_units():
    image = (100 + 400 * picture((48, 48))).astype(np.uint16)
    model = trained(image, g=physics.PSFConvolution(np.ones((3, 3))), steps=120)
    restored, reblurred = model.restore(image)
    assert restored.dtype == np.float32 and restored.shape == image.shape
    inside = (slice(4, -4),) * 2
    light = (image - 100.0)[inside].sum()
    assert abs((restored - 100.0)[inside].sum() / light - 1) <= 0.02
    assert abs((reblurred - 100.0)[inside].sum() / light - 1) <= 0.02


def test_units_do_not_matter():
    """a · y + b is restored to a · x + b. In float64, where a · y + b loses nothing of y."""
    image = picture().astype(np.float64)
    plain = trained(image).predict(image)
    scaled = trained(512 * image + 64).predict(512 * image + 64)
    np.testing.assert_allclose(scaled, 512 * plain + 64, rtol=0, atol=1e-5 * 512)


class Saturation:
    """A model that is not linear: it has a backward in place of an adjoint."""

    def forward(self, x):
        return np.tanh(x)

    def backward(self, gy, x):
        return gy * (1 - np.tanh(x) ** 2)


@pytest.mark.parametrize("g", [Shading((24, 20)), Saturation()])
def test_a_models_own_units_are_kept(g):
    """Inside, the model sees (y − offset) / scale; what it computes is g in the user's units."""
    x = picture()[None, None, None]
    inside = forward_model(g, recipes.Recipe("plain"), x, offset=3.0, scale=2.0)
    np.testing.assert_allclose(inside.forward(x), (g.forward(2 * x + 3) - 3) / 2, atol=1e-6)
    gy, v = (np.random.default_rng(s).normal(size=x.shape) for s in (1, 2))
    x = x.astype(np.float64)
    slope = (inside.forward(x + 1e-6 * v) - inside.forward(x - 1e-6 * v)) / 2e-6
    assert np.vdot(gy, slope) == pytest.approx(np.vdot(inside.backward(gy, x), v), rel=1e-6)
    model = trained(g=g, recipe=recipes.SSI)
    assert np.isfinite(model.predict(picture())).all()


def test_a_model_that_changes_the_shape_is_refused():
    class EveryOther(Shading):
        def forward(self, x):
            return x[..., ::2]

    with pytest.raises(InputError, match="^physics: "):
        trained(g=EveryOther((24, 20)))


# ---- the recipes do what they say ---------------------------------------------------------------


def test_ssi_broadens_clamps_and_reflects():
    from scipy.ndimage import convolve

    psf = np.random.default_rng(0).random((5, 5))
    psf /= psf.sum()
    x = 1.5 * np.random.default_rng(1).normal(size=(20, 21))
    g = forward_model(physics.PSFConvolution(psf), recipes.SSI, x[None, None, None])
    weights = np.array([[0.095, 0.14, 0.095], [0.14, 0.2, 0.14], [0.095, 0.14, 0.095]])
    wide = np.zeros((7, 7))
    for i, j in np.ndindex(3, 3):
        wide[i : i + 5, j : j + 5] += weights[i, j] / weights.sum() * psf
    expected = convolve(np.clip(x, 0, 1), wide, mode="mirror")
    np.testing.assert_allclose(physics.apply(g, x[None, None, None])[0, 0, 0], expected, atol=1e-12)


def test_continuity_smooths_the_last_kernel_and_leaves_the_others():
    """Its part of the gradient is that of the term alone, at the place of that kernel."""
    net = UNet(widths=(8, 16))
    parameters, roughness = net.initial_parameters(3, np.float64), []
    tape = Tape()
    var = tape.var(parameters)
    tape.backward(kernel_continuity(parameter(var, net=net, name=net.last_kernel)))
    place, shape = net.layout[net.last_kernel]
    alone = kernel_continuity.backward(
        np.float64(1), kernel_continuity.forward(parameters[place].reshape(shape))[1]
    )
    np.testing.assert_array_equal(var.grad[place], alone.ravel())
    assert np.count_nonzero(var.grad) == np.count_nonzero(alone) > 0
    for weight in (0.0, 100.0):
        model = trained(recipe=dataclasses.replace(recipes.SSI, continuity=weight), steps=40)
        kernel = model.net.views(model.parameters)[model.net.last_kernel]
        roughness.append(float(kernel_continuity(kernel) / kernel.var()))
    assert roughness[1] < 0.5 * roughness[0]


def test_calibrated_statistics_are_those_of_the_unmasked_image():
    recipe = dataclasses.replace(recipes.SSI, calibrate=True, keep_best=False)
    model = trained(picture((20, 20)), recipe)
    offset, scale = model.units
    y = ((picture((20, 20)).astype(float) - offset) / scale).astype(np.float32)[None, None, None]
    expected = model.net.initial_statistics()
    unet_forward(y, model.parameters, net=model.net, batch_statistics=expected)
    np.testing.assert_allclose(model.statistics, expected, rtol=1e-6)


def test_loss_falls():
    history = trained(picture((32, 32)), steps=40).history
    assert np.mean([h["loss"] for h in history[-5:]]) < 0.6 * history[0]["loss"]


@pytest.mark.parametrize("name", ["down0.wide.weight", "head.weight"])
def test_a_training_that_diverges_says_so(name):
    model = SelfSupervisedInverse(physics.PSFConvolution(PSF), recipes.SSI, rng=4)
    training = Training(model, picture()[None, None, None], 10)
    training.net.views(training.parameters)[name].flat[0] = np.nan
    with pytest.raises(FloatingPointError, match="diverged at step 0"):
        training.step()


def test_gradients_of_several_batches_are_averaged():
    """Two symmetries of one image, in one step: the mean of their gradients, of losses alike."""
    recipe = dataclasses.replace(recipes.SSI, accumulate=2)
    model = SelfSupervisedInverse(physics.PSFConvolution(PSF), recipe, rng=4)
    together = Training(model, picture()[None, None, None], 10)
    gradients, losses, update = [], [], together._update

    def spy():
        gradients.append(together.gradient.copy())
        update()

    together._update = spy
    losses.append(together.step()["loss"])
    model = SelfSupervisedInverse(physics.PSFConvolution(PSF), recipes.SSI, rng=4)
    alone = Training(model, picture()[None, None, None], 10)
    alone.numbers.write(**alone._levels(0))
    for draw in range(2):
        alone.source.draw(draw, *alone.batch)
        alone.numbers.write(draw=draw)
        alone._gradient(*alone.batch)
    np.testing.assert_allclose(gradients[0], alone.gradient / 2, atol=1e-7)
    assert losses[0] == pytest.approx(alone.sums[1] / 2, rel=1e-6)


def test_the_best_parameters_are_those_that_the_validation_loss_is_of():
    model = SelfSupervisedInverse(physics.PSFConvolution(PSF), recipes.SSI, rng=4)
    training = Training(model, picture()[None, None, None], 10)
    before = training.parameters.copy()
    training.step()
    assert training.best["step"] == 0 and (training.parameters != before).any()
    np.testing.assert_array_equal(training.best["parameters"], before)


def test_a_callback_sees_each_step_and_may_end_the_training():
    reports = []
    model = trained(steps=10, callback=lambda r: reports.append(r) or r["step"] == 3)
    assert [r["step"] for r in reports] == [0, 1, 2, 3] and len(model.history) == 4
    assert {"steps", "loss", "validation", "lr", "parts"} <= set(reports[0])


def test_three_dimensions():
    volume = picture((6, 18, 17))
    model = trained(volume, g=physics.PSFConvolution(np.random.default_rng(1).random((3, 4, 3))))
    assert model.net.ndim == 3
    assert model.predict(volume).shape == volume.shape


def test_inference_is_the_network_with_running_statistics():
    model = trained(recipe=recipes.SSI)
    offset, scale = model.units
    y = ((picture() - offset) / scale)[None, None, None]
    x, _ = unet_forward(y, model.parameters, net=model.net, statistics=model.statistics)
    np.testing.assert_allclose(model.predict(picture()), x[0, 0, 0] * scale + offset, atol=1e-6)
