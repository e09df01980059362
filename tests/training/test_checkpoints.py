"""Files of models and checkpoints, Ctrl-C, and input that cannot be used."""

import dataclasses
import json
import os
import pickle
import signal

import numpy as np
import pytest

from small_runs import PSF, Shading, picture, small, trained
from ssi_cupy import physics, recipes
from ssi_cupy.engine.checks import FileError, InputError
from ssi_cupy.inversion import SelfSupervisedInverse

# ---- files ------------------------------------------------------------------------------------


def test_save_load_predict_gives_the_same_bits(tmp_path):
    model = trained()
    model.save(tmp_path / "m.npz")
    again = SelfSupervisedInverse.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(again.predict(picture()), model.predict(picture()))
    np.testing.assert_array_equal(again.reblur(picture()), model.reblur(picture()))
    assert again.recipe == model.recipe and again.net == model.net


def test_a_users_own_physics_is_given_again(tmp_path):
    g = Shading((24, 20))
    model = trained(g=g)
    model.save(tmp_path / "m.npz")
    with pytest.raises(InputError, match="^physics: "):
        SelfSupervisedInverse.load(tmp_path / "m.npz")
    again = SelfSupervisedInverse.load(tmp_path / "m.npz", physics=g)
    np.testing.assert_array_equal(again.predict(picture()), model.predict(picture()))


def damaged(path, kind):
    """A model file that is broken in one way."""
    trained().save(path)
    with np.load(path) as npz:
        arrays = dict(npz)
    header = json.loads(str(arrays["header"]))
    if kind == "another version":
        arrays["header"] = np.array(json.dumps(header | {"version": 99}))
    elif kind == "another kind":
        arrays["header"] = np.array(json.dumps(header | {"kind": "ssi_cupy checkpoint"}))
    elif kind == "without parameters":
        del arrays["parameters"]
    elif kind == "with a pickle":
        arrays["parameters"] = np.array([print], dtype=object)
    elif kind == "short":
        arrays["parameters"] = arrays["parameters"][:-1]
    np.savez(path, **arrays)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "a pickle":
        path.write_bytes(pickle.dumps({"parameters": 1}))
    elif kind == "missing":
        path.unlink()


@pytest.mark.parametrize(
    "kind",
    ["another version", "another kind", "without parameters", "with a pickle", "short",
     "truncated", "a pickle", "missing"],
)  # fmt: skip
def test_a_damaged_model_file_is_refused(tmp_path, kind):
    damaged(tmp_path / "m.npz", kind)
    with pytest.raises(FileError, match="^path: expected"):
        SelfSupervisedInverse.load(tmp_path / "m.npz")


# ---- checkpoints and Ctrl-C ---------------------------------------------------------------------


@pytest.mark.parametrize("name", recipes.names())
def test_resuming_gives_the_same_bits(tmp_path, name):
    recipe = dataclasses.replace(small(name), average=0.9)
    unbroken = trained(recipe=recipe, steps=6)
    file = tmp_path / "c.npz"
    trained(recipe=recipe, steps=6, checkpoint=file, callback=lambda r: r["step"] == 2)
    resumed = trained(recipe=recipe, steps=6, resume=file)
    np.testing.assert_array_equal(resumed.parameters, unbroken.parameters)
    np.testing.assert_array_equal(resumed.statistics, unbroken.statistics)
    columns = [[list(h.values()) for h in model.history] for model in (resumed, unbroken)]
    np.testing.assert_array_equal(*columns)  # NaN, where nothing was validated yet, equals itself


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT to itself")
def test_ctrl_c_ends_after_the_step_and_keeps_a_checkpoint(tmp_path):
    unbroken, file = trained(steps=6), tmp_path / "c.npz"

    def interrupt(report):
        if report["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trained(steps=6, checkpoint=file, callback=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = trained(steps=6, resume=file)
    np.testing.assert_array_equal(resumed.parameters, unbroken.parameters)


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"image": picture(seed=9)}, "same image"),
        ({"steps": 7}, "same steps"),
        ({"recipe": recipes.SSI}, "same recipe"),
        (
            {"recipe": dataclasses.replace(recipes.DEFAULT, lr=1.0)},
            "same recipe: {'lr': 1.0}, got {'lr': 0.01}",
        ),
        ({"g": physics.PSFConvolution(PSF[::-1])}, "same physics"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, change, complaint):
    trained(checkpoint=tmp_path / "c.npz")
    with pytest.raises(FileError, match=f"^resume: .*{complaint}"):
        trained(**{"resume": tmp_path / "c.npz"} | change)


def test_pixel_sizes_are_kept_and_those_of_a_checkpoint_are_asked_for(tmp_path):
    def fitted(spacing, **options):
        model = SelfSupervisedInverse(physics.Identity(), spacing=spacing)
        return model.fit(picture((8, 16, 16)), steps=2, progress=False, **options)

    fitted((4, 1, 1), checkpoint=tmp_path / "c.npz").save(tmp_path / "m.npz")
    assert SelfSupervisedInverse.load(tmp_path / "m.npz").spacing == [4, 1, 1]
    with pytest.raises(FileError, match="^resume: .*same network"):
        fitted(None, resume=tmp_path / "c.npz")


# ---- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "named, options",
    [
        ("steps", {"steps": 0}),
        ("steps", {"steps": -5}),
        ("steps", {"steps": 2.5}),
        ("image", {"image": np.zeros((24, 24), bool)}),
        ("image", {"image": np.full((24, 24), 3.0)}),
        ("image", {"image": np.ones((2, 2, 24, 24))}),
        ("image", {"image": picture((24, 15))}),
        ("checkpoint", {"checkpoint": "no/such/folder/c.npz"}),
        ("callback", {"callback": 3}),
        ("resume", {"resume": "no-such-file.npz"}),
        ("recipe", {"recipe": "best"}),
        ("physics", {"g": object()}),
    ],
)
def test_bad_input_is_named(named, options):
    with pytest.raises(InputError, match=f"^{named}: expected .*, got "):
        trained(**options)


@pytest.mark.parametrize(
    "named, fields",
    [
        ("steps", {"steps": 0}),
        ("fill", {"fill": "white"}),
        ("validation", {"validation": 1.5}),
        ("validation", {"validation": 0.0, "keep_best": True}),
        ("lr", {"lr": -1.0}),
        ("l2", {"l2": -1e-6}),
        ("crop", {"crop": 0}),
        ("network", {"network": "unet"}),
        ("mask", {"mask": 0.5}),
        ("losses", {"losses": "l2"}),
        ("schedule", {"schedule": None}),
    ],
)
def test_a_bad_recipe_is_named(named, fields):
    with pytest.raises(InputError, match=f"^{named}: "):
        dataclasses.replace(recipes.DEFAULT, **fields)


@pytest.mark.parametrize("rng", [-1, 2.5, "seed", True])
def test_bad_seed_is_named(rng):
    with pytest.raises(InputError, match="^rng: "):
        SelfSupervisedInverse(physics.Identity(), rng=rng)


def test_an_untrained_model_says_so(tmp_path):
    model = SelfSupervisedInverse(physics.Identity())
    for use in (lambda: model.predict(picture()), lambda: model.save(tmp_path / "m.npz")):
        with pytest.raises(InputError, match="^model: .*fit"):
            use()
