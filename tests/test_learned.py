"""A PSF that is learned: frozen it changes nothing, and it finds the width where edges tell it."""

import numpy as np
import pytest

from small_runs import picture
from ssi_cupy import SelfSupervisedInverse, deconvolve, psf, recipes
from ssi_cupy.axes import guessed
from ssi_cupy.engine.checks import InputError
from ssi_cupy.physics import Composition, LearnedPSF, PSFConvolution, SensorResponse, saved
from ssi_cupy.physics.learned import LivePSF, kernel_of
from ssi_cupy.psf.guess import width_of_image
from ssi_cupy.training.forward_model import InUnits

FEW = {"steps": 12, "progress": False}


def boxes(size=64, sigma=2.0, noise=0.05, seed=3):
    """Rectangles with sharp edges, blurred and noisy."""
    rng = np.random.default_rng(seed)
    image = np.zeros((size, size))
    for _ in range(size // 3):
        y, x, h, w = rng.integers(0, size, 2).tolist() + rng.integers(3, size // 4, 2).tolist()
        image[y : y + h, x : x + w] = rng.random()
    blurred = PSFConvolution(psf.gaussian(sigma)).forward(image[None, None, None])[0, 0, 0]
    return (blurred + noise * rng.normal(size=image.shape)).astype(np.float32)


def fitted(g, image=None, **options):
    model = SelfSupervisedInverse(g, rng=2)
    return model.fit(picture() if image is None else image, **FEW | options)


@pytest.mark.parametrize("sigma, shape", [(1.3, (1, 21, 18)), ((0.8, 1.3), (7, 19, 20))])
@pytest.mark.parametrize("mode", ["mirror", "nearest", "wrap", "constant"])
def test_a_frozen_one_is_the_convolution_with_the_gaussian_to_the_same_bits(sigma, shape, mode):
    x = np.random.default_rng(0).normal(size=(1, 2, *shape)).astype(np.float32)
    widths = sigma if np.ndim(sigma) == 0 else (sigma[0], sigma[1], sigma[1])
    plain = PSFConvolution(psf.gaussian(widths), mode=mode)
    frozen = LearnedPSF(sigma, mode=mode, learn=())
    np.testing.assert_array_equal(frozen.forward(x), plain.forward(x))
    np.testing.assert_array_equal(frozen.adjoint(x), plain.adjoint(x))


def test_a_training_with_a_frozen_one_has_the_same_bits():
    plain, frozen = fitted(PSFConvolution(psf.gaussian(1.2))), fitted(LearnedPSF(1.2, learn=()))
    np.testing.assert_array_equal(plain.parameters, frozen.parameters)
    np.testing.assert_array_equal(plain.predict(picture()), frozen.predict(picture()))
    assert frozen.physics.error is None and frozen.physics.told is None


@pytest.mark.parametrize(
    "settings, shape",
    [
        ({"sigma": 1.7}, (1, 33, 30)),
        ({"sigma": (1.6, 1.7)}, (9, 21, 20)),
        ({"sigma": 1.7, "anisotropy": 1.3, "angle": 0.5, "shift": (0, 0.4, -1.2)}, (1, 33, 30)),
    ],
)
@pytest.mark.parametrize("mode", ["mirror", "wrap", "constant"])
def test_while_it_is_learned_it_is_the_convolution_with_its_kernel(settings, shape, mode):
    x = np.random.default_rng(0).normal(size=(1, 1, *shape))
    g = LearnedPSF(**settings, mode=mode)
    living = LivePSF(g, x)
    expected = PSFConvolution(g.psf, mode=mode)
    assert abs(living.forward(x) - expected.forward(x)).max() < 1e-4
    assert abs(living.adjoint(x) - expected.adjoint(x)).max() < 1e-4
    assert not living.gradient.any()


@pytest.mark.parametrize("mode, units", [("mirror", None), ("constant", (0.3, -2.0))])
def test_its_gradient_is_that_of_the_blurred_image(mode, units):
    x, gy = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 24, 26))
    living = LivePSF(LearnedPSF(1.7, anisotropy=1.2, angle=0.4, mode=mode), x)
    g = living if units is None else InUnits(Composition(living), *units)
    g.backward(gy, x)
    for i in (1, 2, 3, 5, 6):
        step, sides = np.float32(2**-10), []
        for sign in (1, -1):
            living.parameters[i] += sign * step
            sides.append(np.vdot(gy, g.forward(x)))
            living.parameters[i] -= sign * step
        slope = (sides[0] - sides[1]) / (2 * step)
        assert living.gradient[i] == pytest.approx(slope, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("start", [0.6, 1.6])
def test_it_finds_the_width_that_edges_tell(start):
    model = SelfSupervisedInverse(LearnedPSF(2 * start), rng=0)
    model.fit(boxes(96), steps=300, progress=False)
    assert model.physics.sigma == pytest.approx(2, rel=0.1)
    assert model.physics.told and abs(np.log(model.physics.sigma / 2)) < 2 * model.physics.error


def test_it_finds_along_which_axis_edges_are_softer():
    from ssi_cupy import degrade

    sharp = boxes(sigma=0.01, noise=0)
    kernel = LearnedPSF(2.0, anisotropy=1.3).psf[0]
    image = degrade.blur(sharp, kernel, mode="mirror")
    image = image + 0.03 * np.random.default_rng(0).normal(size=image.shape)
    model = SelfSupervisedInverse(LearnedPSF(2.0, learn=("sigma", "anisotropy")), rng=0)
    found = model.fit(image, steps=300, progress=False).physics
    assert found.anisotropy == pytest.approx(1.3, rel=0.13)
    assert abs(found.angle) < 0.2
    assert found.sigma == pytest.approx(2, rel=0.2)


def test_a_training_gone_on_with_has_the_same_bits(tmp_path):
    whole = fitted(LearnedPSF(1.4), steps=20)
    state = tmp_path / "state.npz"
    with_break = SelfSupervisedInverse(LearnedPSF(1.4), rng=2)
    with pytest.raises(KeyboardInterrupt):
        with_break.fit(picture(), steps=20, progress=False, checkpoint=state, callback=stop_at(11))
    again = fitted(LearnedPSF(1.4), steps=20, resume=state)
    np.testing.assert_array_equal(again.parameters, whole.parameters)
    np.testing.assert_array_equal(again.physics.parameters, whole.physics.parameters)
    assert again.physics.error == whole.physics.error


def stop_at(step):
    import signal

    def callback(report):
        if report["step"] == step:
            signal.raise_signal(signal.SIGINT)

    return callback


def test_a_saved_model_predicts_the_same_bits(tmp_path):
    model = fitted(LearnedPSF(1.4))
    model.save(tmp_path / "model.npz")
    loaded = SelfSupervisedInverse.load(tmp_path / "model.npz")
    assert repr(loaded.physics) == repr(model.physics) and loaded.physics.error is not None
    for name in ("predict", "reblur"):
        expected = getattr(model, name)(picture())
        np.testing.assert_array_equal(getattr(loaded, name)(picture()), expected)


def test_within_a_composition_it_is_learned_too():
    g = Composition(LearnedPSF(1.4), SensorResponse(0.05))
    model = fitted(g)
    learned = model.physics.models[0]
    assert learned.error is not None and learned.sigma != 1.4
    assert g.models[0].sigma == pytest.approx(1.4)  # the caller's own is left alone
    with pytest.raises(InputError, match="^physics: expected one LearnedPSF at most"):
        fitted(Composition(LearnedPSF(1.4), LearnedPSF(1.0)))


def test_what_is_not_to_be_learned_stays():
    model = fitted(LearnedPSF(1.4, anisotropy=1.2, angle=0.3, learn="sigma"))
    found = model.physics
    assert (found.anisotropy, found.angle) == pytest.approx((1.2, 0.3)) and found.sigma != 1.4
    assert found.learn == ("sigma",)


@pytest.mark.parametrize("learn", [None, ("anisotropy", "shift"), ()])
def test_it_comes_back_from_plain_arrays(learn):
    g = LearnedPSF((2.0, 1.2), anisotropy=1.1, angle=0.2, shift=(0.1, 0, 0.2), learn=learn)
    again = saved.from_dict({k: np.asarray(v) for k, v in saved.to_dict(g).items()})
    np.testing.assert_array_equal(again.psf, g.psf)
    assert again.learn == g.learn and again.error is None
    found = g.found(g.parameters + 0.1, 0.07)
    again = saved.from_dict({k: np.asarray(v) for k, v in saved.to_dict(found).items()})
    assert again.error == 0.07 and again.sigma == found.sigma and again.told
    np.testing.assert_array_equal(again.guessed_psf, kernel_of(g.guess, 4.0))


def test_deconvolve_learns_a_gaussian_and_gives_its_width_an_error():
    image = boxes()
    options = {"num_iter": 10, "progress": False, "full_output": True}
    result = deconvolve(image, "gaussian", **options)
    assert result.psf is result.model.physics and 0 < result.psf.error
    assert np.isfinite(result.restored).all()
    optics = {"NA": 0.5, "wvl": 0.6}
    assert deconvolve(image, optics=optics, spacing=0.15, **options).psf.error > 0
    (guess,) = guessed(image, "YX", None, optics, 0.15, "mirror")
    assert guess.sigma == pytest.approx(0.225 * 0.6 / 0.5 / 0.15, rel=2e-3)
    plain = deconvolve(image, psf.gaussian(2.0), **options)
    assert plain.psf is None


@pytest.mark.parametrize("sigma", [1.2, 2.0, 3.0])
def test_the_spectrum_gives_a_guess_to_start_from(sigma):
    assert 0.6 < width_of_image(boxes(128, sigma)) / sigma < 1.6


@pytest.mark.parametrize(
    "argument, settings",
    [
        ("sigma", {"sigma": 0}),
        ("sigma", {"sigma": (1, 2, 3)}),
        ("sigma", {"sigma": ()}),
        ("ndim", {"ndim": 4}),
        ("learn", {"learn": "width"}),
        ("learn", {"learn": ("sigma_z",)}),
        ("anisotropy", {"anisotropy": 0}),
        ("angle", {"angle": np.nan}),
        ("shift", {"shift": (1, 0, 0)}),
        ("shift", {"shift": (0, 0)}),
        ("mode", {"mode": "reflect"}),
        ("parameters", {"parameters": [1, 2]}),
    ],
)
def test_bad_input_is_named(argument, settings):
    with pytest.raises(InputError, match=f"^{argument}: expected .*, got "):
        LearnedPSF(**{"sigma": 1.0} | settings)


@pytest.mark.parametrize(
    "argument, psf_given, more",
    [
        ("psf", None, {}),
        ("psf", "airy", {}),
        ("optics", None, {"optics": {"NA": 0.5}, "spacing": 0.1}),
        ("optics", None, {"optics": {"NA": 0.5, "wvl": 0.5, "pinhole": 1}, "spacing": 0.1}),
        ("optics", np.ones((3, 3)), {"optics": {"NA": 0.5, "wvl": 0.5}}),
        ("spacing", None, {"optics": {"NA": 0.5, "wvl": 0.5}}),
        ("NA", None, {"optics": {"NA": 1.5, "wvl": 0.5, "ni": 1.33}, "spacing": 0.1}),
    ],
)
def test_deconvolve_names_bad_input(argument, psf_given, more):
    with pytest.raises(InputError, match=f"^{argument}: expected .*, got "):
        deconvolve(picture(), psf_given, progress=False, num_iter=1, **more)


def test_a_recipe_that_broadens_the_psf_cannot_learn_it():
    model = SelfSupervisedInverse(LearnedPSF(1.0), recipes.SSI)
    with pytest.raises(InputError, match="^recipe: expected one that does not broaden"):
        model.fit(picture(), **FEW)
