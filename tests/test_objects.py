"""What users keep and send to other processes: it says what it is in a line, and pickles."""

import pickle

import numpy as np
import pytest

from small_runs import PSF, picture, trained
from ssi_cupy import deconvolve, physics, recipes
from ssi_cupy.files import tiff
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.training.image_sets import gather

BLUR = physics.PSFConvolution(PSF)


def again(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("g", [
    physics.Identity(), BLUR, physics.Clamp(0, 1), physics.SensorResponse(0.1, low=0, high=2),
    physics.Composition(physics.Clamp(0, 1), BLUR),
], ids=lambda g: type(g).__name__)  # fmt: skip
def test_forward_models(g):
    x = np.random.default_rng(0).random((1, 1, 1, 12, 10)).astype(np.float32)
    np.testing.assert_array_equal(physics.apply(again(g), x), physics.apply(g, x))
    assert type(g).__name__ in repr(g) and len(repr(g)) < 120 and "0x" not in repr(g)


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_say_what_is_not_by_default(name):
    recipe = recipes.get(name)
    assert again(recipe) == recipe and "\n" not in repr(recipe)
    named = {n: getattr(recipes, n) for n in dir(recipes)}
    assert eval(repr(recipe), named) == recipe  # nothing is left out that matters
    assert "end=0.05" not in repr(recipes.DEFAULT)


def test_models():
    model = trained()
    np.testing.assert_array_equal(again(model).predict(picture()), model.predict(picture()))
    assert repr(model) == (
        "<SelfSupervisedInverse(PSFConvolution(<1×3×4>, mode='mirror', method='auto'), "
        "recipe='default', rng=4) on cpu, trained for 3 steps>"
    )
    assert repr(SelfSupervisedInverse(BLUR)).endswith("on cpu, untrained>")


def test_results():
    found = deconvolve(picture(), PSF, num_iter=2, progress=False, full_output=True)
    assert repr(found).startswith("<Restoration of (24, 20): 2 steps, ")
    np.testing.assert_array_equal(again(found).restored, found.restored)


def test_sets_of_images(tmp_path):
    arrays = [picture(seed=s) for s in range(2)]
    for name, image in zip("ab", arrays, strict=True):
        tiff.write(tmp_path / f"{name}.tif", image)
    for images in (gather(arrays), gather(tmp_path)):
        other = again(images)
        assert repr(other) == repr(images) and repr(images).startswith("Images(2: ")
        for i, image in enumerate(arrays):
            np.testing.assert_array_equal(other.whole(i)[0, 0], image)
