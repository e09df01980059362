"""`train` and `apply`: a model of a folder of images, for other images."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from ssi_cupy import SelfSupervisedInverse, psf, recipes
from ssi_cupy.commands import cli
from ssi_cupy.files import tiff
from ssi_cupy.physics import Identity

RNG = np.random.default_rng(0)


def counts(*shape):
    return RNG.integers(50, 200, shape).astype(np.uint16)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder `in` of four images, and a recipe "patches" that takes no time."""
    recipe = dataclasses.replace(
        recipes.SSI, name="patches", crop=None, patch=16, batch=2, epoch=2, clamp=False,
        broaden=False, normalise="standardise",
    )  # fmt: skip
    monkeypatch.setitem(recipes._ALL, "patches", recipe)
    monkeypatch.chdir(tmp_path)
    os.mkdir("in")
    for i in range(4):
        tiff.write(f"in/{i}.tif", counts(40, 36 + i), "YX", {"Y": 0.2, "X": 0.1})
    return tmp_path


def train(*more, images="in", out="model.npz"):
    command = ["train", images, "--recipe", "patches", "-o", out, "--steps", "4", "--no-progress"]
    return cli.main([*command, *more])


def apply(image, out, *more):
    return cli.main(["apply", "model.npz", image, "-o", out, *more])


def test_train_then_apply_to_a_folder_and_to_a_file(here, capsys):
    assert train("--psf-sigma", "1") == 0
    assert "model.npz: 4 steps on 4 images" in capsys.readouterr().out
    assert apply("in", "out/new") == 0
    assert "out/new: 4 images denoised" in capsys.readouterr().out
    model = SelfSupervisedInverse.load("model.npz")
    for i in range(4):
        before, after = tiff.read(f"in/{i}.tif"), tiff.read(f"out/new/{i}.tif")
        assert after.data.dtype == np.float32 and after.axes == before.axes
        assert after.spacing == pytest.approx(before.spacing)
        assert np.array_equal(after.data, model.reblur(before.data))
    assert apply("in/2.tif", "one.tif", "--result", "restored") == 0
    assert np.array_equal(tiff.read("one.tif").data, model.predict(tiff.read("in/2.tif").data))


def test_the_psf_may_be_a_file_or_none(here):
    tiff.write("psf.tif", psf.gaussian(1.0))
    for option, out in ((["--psf", "psf.tif"], "a"), (["--psf-sigma", "1"], "b"), ([], "c")):
        assert train(*option, out=out) == 0
    a, b, c = map(SelfSupervisedInverse.load, "abc")
    assert np.allclose(a.physics.psf, b.physics.psf, atol=1e-7)
    assert isinstance(c.physics, Identity)
    assert train("--psf-sigma", "0", out="d") == 0
    assert np.array_equal(SelfSupervisedInverse.load("d").parameters, c.parameters)


def test_stacks_of_time_points_and_channels_keep_their_axes(here):
    assert train() == 0
    pixels = counts(3, 2, 30, 40)
    tiff.write("tc.tif", pixels, "TCYX")
    assert apply("tc.tif", "out.tif") == 0
    after, model = tiff.read("out.tif"), SelfSupervisedInverse.load("model.npz")
    assert after.axes == "TCYX" and after.data.shape == pixels.shape
    assert np.array_equal(after.data[1, 1], model.reblur(pixels[1, 1]))


def test_volumes_with_their_pixel_sizes(here):
    os.mkdir("volumes")
    for i in range(3):
        sizes = {"Z": 0.8, "Y": 0.2, "X": 0.2}
        tiff.write(f"volumes/{i}.tif", counts(9, 30, 31), "ZYX", sizes)
    assert train("--psf-sigma", "0.5", images="volumes") == 0
    model = SelfSupervisedInverse.load("model.npz")
    assert model.net.ndim == 3 and model.net.aspect == pytest.approx(4, rel=1e-3)
    assert apply("volumes", "out") == 0
    assert tiff.read("out/1.tif").spacing == pytest.approx(sizes)


def test_interrupted_and_resumed_is_unbroken(here):
    assert train("--checkpoint", "state.npz") == 0
    assert train("--resume", "state.npz", out="again.npz") == 0
    a, b = (SelfSupervisedInverse.load(name) for name in ("model.npz", "again.npz"))
    assert np.array_equal(a.parameters, b.parameters)


# ---- bad files, bad arguments ---------------------------------------------------------------


def test_bad_files_of_a_folder_are_reported_and_the_rest_goes_on(here, capsys):
    assert train() == 0
    Path("in/bad.tif").write_bytes(Path("in/0.tif").read_bytes()[:200])
    tifffile.imwrite("in/nan.tif", np.full((40, 40), np.nan, np.float32))
    capsys.readouterr()
    assert train(out="again.npz") == 1
    said = capsys.readouterr()
    assert "bad.tif" in said.err and "nan.tif" in said.err and "4 steps on 4 images" in said.out
    a, b = (SelfSupervisedInverse.load(name) for name in ("model.npz", "again.npz"))
    assert np.array_equal(a.parameters, b.parameters)
    tiff.write("in/zstack.tif", counts(3, 40, 40), "ZYX")
    assert apply("in", "out") == 1
    said = capsys.readouterr()
    assert said.err.count("left out: ") == 3 and "4 images denoised" in said.out
    assert sorted(os.listdir("out")) == [f"{i}.tif" for i in range(4)]
    assert apply("in/zst*.tif", "none") == 2  # not one of them could be used
    assert apply("in/zstack.tif", "z.tif") == 2
    assert "expected a 2-D image, as the model was trained on" in capsys.readouterr().err
    assert not Path("z.tif").exists()


@pytest.mark.parametrize("command, said", [
    (("train", "empty", "-o", "m"), "IN: expected at least one TIFF file, got none in the folder"),
    (("train", "in/*.png", "-o", "m"), "IN: expected at least one TIFF file, got none"),
    (("train", "in", "-o", "no/m"), "--output: expected a path that can be written"),
    (("train", "in", "-o", "m", "--psf-sigma", "1,1,1"), "--psf-sigma: expected a 2-D one"),
    (("train", "in", "-o", "m", "--psf-sigma", "-1"), "--psf-sigma: expected a finite number"),
    (("train", "in", "-o", "m", "--patch", "0"), "--patch: expected a whole number"),
    (("train", "in", "-o", "m", "--axes", "ZYX"), "IN: expected at least one image"),
    (("train", "in", "stack.tif", "-o", "m"), "images that are alike in rank, got 2-D"),
    (("train", "in", "-o", "in/0.tif"), "--output: expected another file than IN"),
    (("apply", "model.npz", "in/0.tif", "-o", "model.npz"), "-o: expected another file than MODEL"),
    (("apply", "none", "in", "-o", "out"), "MODEL: expected a model file"),
    (("apply", "stack.tif", "in", "-o", "out"), "MODEL: expected a model file"),
    (("apply", "model.npz", "missing", "-o", "out"), "IN: expected an existing TIFF file"),
    (("train", "in", "-o", "m", "--mode", "mirrors"), "--mode: expected one of 'mirror'"),
    (("train", "in", "-o", "m", "--recipe", "default"), "--patch: expected a number of pixels"),
    (("apply", "model.npz", "empty", "-o", "out"), "IN: expected at least one TIFF file"),
    (("apply", "model.npz", "in", "-o", "in"), "-o: expected another folder"),
    (("apply", "model.npz", "in/0.tif", "-o", "in/0.tif"), "-o: expected another file"),
    (("apply", "model.npz", "in", "-o", "stack.tif"), "-o: expected a folder"),
    (("apply", "model.npz", "in", "-o", "in/0.tif/out"), "-o: expected a folder"),
])  # fmt: skip
def test_bad_arguments(here, command, said, capsys):
    assert train() == 0
    os.mkdir("empty")
    tiff.write("stack.tif", counts(5, 40, 40), "ZYX")
    more = ("--recipe", "patches", "--steps", "4", "--no-progress")
    name, *rest = command
    assert cli.main([name, *(more if name == "train" else ()), *rest]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not Path("m").exists() and not Path("out").exists()


def test_images_whose_results_would_have_one_name(here, capsys):
    assert train() == 0
    tiff.write("in/0.tiff", counts(40, 40))
    assert apply("in", "out") == 2
    assert "0.tif and 0.tiff" in capsys.readouterr().err


def test_many_files_are_told_of_from_the_first_second(here, capsys):
    assert train() == 0
    for i in range(20):
        tiff.write(f"in/more{i}.tif", counts(40, 36))
    capsys.readouterr()
    command = ["train", "in", "--recipe", "patches", "-o", "m.npz", "--steps", "1"]
    assert cli.main(command) == 0
    assert "looking at:   0%" in capsys.readouterr().err
    assert apply("in", "out") == 0
    said = capsys.readouterr().err
    assert "restoring:   0%" in said and "/24" in said
