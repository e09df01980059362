"""Training on patches: of one image, of many; what is held out, what is kept, what is refused."""

import dataclasses

import numpy as np
import pytest
import tifffile

from ssi_cupy import SelfSupervisedInverse, physics, psf, recipes
from ssi_cupy.engine.checks import InputError
from ssi_cupy.masking import StratifiedMask
from ssi_cupy.optim import Plateau
from ssi_cupy.training.image_sets import gather
from ssi_cupy.training.step import Training

RNG = np.random.default_rng(0)
G = physics.PSFConvolution(psf.gaussian(0.7))
RECIPE = dataclasses.replace(
    recipes.SSI, name="patches", steps=6, normalise="standardise", crop=None, patch=16, batch=2,
    epoch=3, mask=StratifiedMask(), fill="neighbour", validation_fill=None, input_noise=None,
    augment=True, clamp=False, broaden=False, patience=0, validation=0.25,
    schedule=Plateau(factor=0.5, patience=1), weight_noise=0.0,
)  # fmt: skip


def picture(*shape):
    return RNG.normal(100, 10, shape).astype(np.float32)


def model(recipe=RECIPE, g=G, **more):
    return SelfSupervisedInverse(g, dataclasses.replace(recipe, **more), rng=3)


def fitted(image, steps=None, options=(), **more):
    return model(**more).fit(image, steps=steps, progress=False, **dict(options))


IMAGES = [picture(40, 44), picture(32, 50), picture(44, 36), picture(36, 36)]


# ---- what can be trained on -----------------------------------------------------------------


def test_a_blank_image_of_a_set_is_one_like_others():
    made = model()
    training = Training(made, gather([np.full((36, 36), 100.0), *IMAGES]), 2)
    low, high = training.losses.low, training.losses.high
    offset, scale = made.units
    shown = np.concatenate([training.source.images.whole(i).ravel()
                            for i in training.source.parts[0]])  # fmt: skip
    assert (low * scale + offset, high * scale + offset) == pytest.approx(
        (shown.min(), shown.max())
    )
    assert 0 in training.source.parts[0]
    adaptive = model(recipes.DEFAULT, patch=16, batch=2)  # which estimates the noise
    adaptive.fit([np.full((36, 36), 100.0), *IMAGES], steps=1, progress=False)


@pytest.mark.parametrize("image", [
    picture(40, 33), picture(10, 24, 26), IMAGES, picture(4, 2, 1, 30, 32),
    [picture(9, 24, 26), picture(9, 28, 26)],
])  # fmt: skip
def test_one_image_or_many(image):
    made = fitted(image)
    assert [h["step"] for h in made.history] == list(range(6))
    assert all(np.isfinite(h["loss"]) for h in made.history)
    unseen = np.asarray(image)[0] if getattr(image, "ndim", 0) == 5 else image[0]
    unseen = image if isinstance(image, np.ndarray) and image.ndim < 5 else unseen
    unseen = unseen[None] if unseen.ndim == 4 else unseen
    larger = np.concatenate([unseen, unseen], axis=-2)
    for y in (unseen, larger):
        for result in (made.predict(y), made.reblur(y)):
            assert result.shape == y.shape and np.isfinite(result).all()


def test_files_and_arrays_train_to_the_same_bits(tmp_path):
    counts = [np.round(y).astype(np.uint16) for y in IMAGES]
    for i, y in enumerate(counts):
        tifffile.imwrite(tmp_path / f"{i}.tif", y, compression="zlib" if i % 2 else None)
    a, b = fitted(counts), fitted(tmp_path)
    c = fitted([str(path) for path in sorted(tmp_path.iterdir())])
    assert np.array_equal(a.parameters, b.parameters) and np.array_equal(a.parameters, c.parameters)
    one = tmp_path / "0.tif"
    assert np.array_equal(fitted(one).parameters, fitted(counts[0]).parameters)


def test_the_same_seed_the_same_bits_and_resumed_as_unbroken(tmp_path):
    whole = fitted(IMAGES, steps=8)
    assert np.array_equal(whole.parameters, fitted(IMAGES, steps=8).parameters)
    path = tmp_path / "state.npz"
    cut = {"checkpoint": path, "callback": lambda report: report["step"] == 3}
    fitted(IMAGES, steps=8, options=cut)
    resumed = fitted(IMAGES, steps=8, options={"resume": path})
    assert np.array_equal(whole.parameters, resumed.parameters)
    with pytest.raises(InputError, match="the same image"):
        fitted(IMAGES[:3], steps=8, options={"resume": path})


def test_a_set_learns_to_denoise():
    """On an unseen image, after few steps, the noise is less."""

    def scene():
        y, x = np.mgrid[:48, :48] / 48
        a, b, c = RNG.uniform(2, 9, 3)
        return 100 + 30 * np.sin(a * x + b * y) + 30 * np.cos(c * x)

    truths = [scene() for _ in range(9)]
    noisy = [truth + RNG.normal(0, 20, truth.shape) for truth in truths]
    losses = dataclasses.replace(RECIPE.losses, bound=0.0, normalise="masked")
    made = fitted(noisy[:8], steps=60, losses=losses, batch=8, epoch=10)
    left = made.reblur(noisy[8]) - truths[8]
    assert left.std() < 0.6 * (noisy[8] - truths[8]).std()


# ---- validation -----------------------------------------------------------------------------


def test_validation_is_once_an_epoch_and_the_schedule_counts_it(monkeypatch):
    made = fitted(IMAGES, steps=8)
    seen = [h["validation"] for h in made.history]
    assert np.isnan(seen[:2]).all() and np.isfinite(seen[2:]).all()
    assert seen[2] == seen[3] == seen[4] and seen[5] == seen[6] != seen[4]
    assert seen[7] != seen[6]  # at the end, once more
    monkeypatch.setattr(Training, "_check", lambda self: self._watch(1.0, self.parameters) or 1.0)
    assert [h["lr"] for h in fitted(IMAGES, steps=9).history][::3] == [0.01, 0.01, 0.005]


def shifted(source, other):
    """Its `_normalised`, with something added to the image that is held out."""
    (out,), plain = source.parts[1], source._normalised
    return lambda i, *box: plain(i, *box) + (i == out) * other


def test_what_is_held_out_is_not_trained_on(monkeypatch):
    """Other held-out images, or validation pixels, change the validation loss and no parameter."""
    runs = []
    for other in (0.0, 3.0):
        training = Training(model(), gather(IMAGES), 6)
        monkeypatch.setattr(training.source, "_normalised", shifted(training.source, other))
        runs.append((training.parameters, [training.step()["validation"] for _ in range(3)][-1]))
    assert np.array_equal(runs[0][0], runs[1][0]) and runs[0][1] != runs[1][1]
    runs = []
    for other in (0.0, 3.0):
        training = Training(model(), IMAGES[0].astype(float)[None, None, None], 6)
        training.source.image[training.source.pixels == 1] += other
        runs.append((training.parameters, [training.step()["validation"] for _ in range(3)][-1]))
    assert np.array_equal(runs[0][0], runs[1][0]) and runs[0][1] != runs[1][1]


def test_the_best_model_is_kept(monkeypatch):
    kept, losses = [], iter([2.0, 1.0, 3.0])

    def check(self):
        kept.append(self.parameters.copy())
        loss = next(losses)
        self._watch(loss, self.parameters)
        return loss

    monkeypatch.setattr(Training, "_check", check)
    made = fitted(IMAGES, steps=9)
    assert np.array_equal(made.parameters, kept[1])


def test_no_validation_at_all():
    made = fitted(IMAGES, validation=0.0, keep_best=False)
    assert len(made.history) == 6


def test_batch_norms_are_calibrated_on_patches_of_the_set():
    assert np.isfinite(fitted(IMAGES, calibrate=True, keep_best=False).statistics).all()


@pytest.mark.parametrize("recipe", [recipes.DEFAULT, recipes.SSI])
@pytest.mark.parametrize("image", [IMAGES, IMAGES[0]])
def test_any_recipe_can_be_given_a_patch(recipe, image):
    made = model(recipe, patch=16, batch=2).fit(image, steps=3, progress=False)
    assert np.isfinite(made.predict(IMAGES[1])).all()


# ---- what is refused ------------------------------------------------------------------------


def test_many_images_need_a_patch():
    with pytest.raises(InputError, match="recipe: expected one with a patch"):
        fitted(IMAGES, patch=None)


def test_a_physics_that_is_not_everywhere_the_same_is_refused():
    class Shading:
        def forward(self, x):
            return x

        adjoint = forward

    with pytest.raises(InputError, match="attribute reach"):
        model(g=Shading()).fit(IMAGES, progress=False)
    Shading.reach = (0, 0, 0)
    model(g=Shading()).fit(IMAGES, progress=False)


def test_turns_can_be_named():
    flip = ((False, (4,)),)
    training = Training(model(augment=flip), gather(IMAGES), 6)
    assert training.source.symmetries == list(flip)
    with pytest.raises(InputError, match="augment: expected True, False or some"):
        dataclasses.replace(RECIPE, augment=((True, (1,)),))


@pytest.mark.parametrize("trained, other", [((40, 44), (5, 40, 44)), ((10, 24, 26), (40, 44))])
def test_a_model_is_of_one_rank(trained, other):
    with pytest.raises(InputError, match=f"a {len(trained)}-D image, as the model was trained on"):
        fitted(picture(*trained), steps=1).predict(picture(*other))
