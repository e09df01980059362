"""Images of a stack that share one training."""

import dataclasses

import numpy as np
import pytest

import ssi_cupy
from small_runs import PSF, picture
from ssi_cupy.commands.cli import main
from ssi_cupy.engine.checks import InputError
from ssi_cupy.files import tiff
from ssi_cupy.training.batches import ImagesInTurn, WholeImage

QUICK = {"num_iter": 4, "progress": False}
FULL = QUICK | {"full_output": True}


def film(count=3, shape=(24, 20)):
    return np.stack([picture(shape, seed) for seed in range(1, count + 1)])


def test_time_points_share_a_training_and_each_is_restored_by_it():
    stack, options = film(shape=(40, 44)), {"axes": "TYX", "share": "T", "refine": False}
    found = ssi_cupy.deconvolve(stack, PSF, **options, **FULL)
    assert [*found.each] == [(0,), (1,), (2,)]
    first = found.each[0,].model
    for place, one in found.each.items():
        np.testing.assert_array_equal(one.model.parameters, first.parameters)
        assert len(one.history) == 4 and one.history == first.history
        assert one.verdict.numbers["chi2"] > 0 and one.seconds["infer"] > 0
        np.testing.assert_array_equal(found.restored[place], one.model.predict(stack[place]))
    assert sum(one.seconds["train"] for one in found.each.values()) == found.seconds["train"]
    again = ssi_cupy.deconvolve(stack, PSF, **options, **QUICK)
    np.testing.assert_array_equal(again, found.restored)


def test_without_share_each_has_its_own():
    found = ssi_cupy.deconvolve(film(2), PSF, axes="TYX", **FULL)
    one, other = found.each.values()
    assert one.model is not other.model and one.history != other.history
    assert found.history is other.history


def test_a_blank_frame_takes_no_part(caplog):
    stack = film()
    stack[1] = 7
    found = ssi_cupy.deconvolve(stack, PSF, axes="TYX", share="T", **FULL)
    assert [*found.each] == [(0,), (2,)]
    np.testing.assert_array_equal(found.restored[1], stack[1])
    assert "image[1] is left as it is" in caplog.text
    two = ssi_cupy.deconvolve(stack[[0, 2]], PSF, axes="TYX", share="T", **QUICK)
    np.testing.assert_array_equal(found.restored[[0, 2]], two)


def test_a_frame_that_is_blank_in_one_channel_is_restored_in_the_other():
    stack = np.stack([film(2), film(2)[::-1]])
    stack[0, 1] = 0
    found = ssi_cupy.deconvolve(stack, PSF, axes="CTYX", share="TC", **FULL)
    assert [*found.each] == [(0, 0), (1, 0), (1, 1)]
    np.testing.assert_array_equal(found.restored[0, 1], 0)
    with pytest.raises(InputError, match="one value"):  # a channel with nothing in it is a mistake
        ssi_cupy.deconvolve(np.stack([film(2), np.zeros((2, 24, 20))]), PSF, axes="CTYX", **QUICK)


def test_channels_share_in_units_of_their_own():
    bright = film(2) * np.array([1.0, 1000.0])[:, None, None] + 50
    dim = film(2) * np.array([1.0, 10.0])[:, None, None]
    for share, axes in (("C", "CYX"), ("CT", "CYX")):
        if share == "CT":
            bright, dim, axes = bright[:, None], dim[:, None], "CTYX"
        one = ssi_cupy.deconvolve(bright, PSF, axes=axes, share=share, **QUICK) - 50
        other = ssi_cupy.deconvolve(dim, PSF, axes=axes, share=share, **QUICK)
        np.testing.assert_allclose(one[0], other[0], atol=0.02)
        np.testing.assert_allclose(one[1] / 1000, other[1] / 10, atol=0.02)


def test_only_the_axes_that_are_named_share():
    stack = film(4).reshape(2, 2, 24, 20)
    found = ssi_cupy.deconvolve(stack, PSF, axes="CTYX", share="T", **FULL)
    models = [one.model.parameters for one in found.each.values()]
    assert (models[0] == models[1]).all() and (models[2] == models[3]).all()
    assert not (models[1] == models[2]).all()


@pytest.mark.parametrize(
    "share, axes, kernel",
    [("Z", "TYX", PSF), ("C", "TYX", PSF), (1, "TYX", PSF), ("C", "CYX", [PSF] * 3)],
)
def test_what_cannot_be_shared(share, axes, kernel):
    with pytest.raises(InputError, match="^share: expected"):
        ssi_cupy.deconvolve(film(), kernel, axes=axes, share=share, **QUICK)


def test_channels_share_with_no_camera_of_one_unit():
    with pytest.raises(InputError, match="^share: expected"):
        ssi_cupy.deconvolve(film(), PSF, axes="CYX", share="C", gain=2.0, **QUICK)


def test_masked_pixels_change_no_bit():
    stack, mask = film(), np.zeros((3, 24, 20), bool)
    mask[0, 3:5, 4:8] = mask[2, 9, 9] = True
    options = {"axes": "TYX", "share": "T", "mask": mask, **QUICK}
    found = ssi_cupy.deconvolve(np.where(mask, np.nan, stack), PSF, **options)
    np.testing.assert_array_equal(found, ssi_cupy.deconvolve(stack, PSF, **options))
    assert np.isfinite(found).all()


def test_of_a_dask_array_too():
    da = pytest.importorskip("dask.array")
    options = {"axes": "TYX", "share": "T", **QUICK}
    lazy = ssi_cupy.deconvolve(da.from_array(film()), PSF, **options)
    assert isinstance(lazy, da.Array)
    np.testing.assert_array_equal(lazy, ssi_cupy.deconvolve(film(), PSF, **options))


def test_large_images_share_by_parts():
    quick = {"augment": False, "wiener": (), "calibrate": False}
    recipe = dataclasses.replace(ssi_cupy.recipes.DEFAULT, at_once=2**14, **quick)
    stack, options = film(2, (128, 130)), {"axes": "TYX", "share": "T", "recipe": recipe}
    full = ssi_cupy.deconvolve(stack, PSF, **options, **FULL)
    first, other = (one.model.parameters for one in full.each.values())
    np.testing.assert_array_equal(first, other)
    da = pytest.importorskip("dask.array")
    lazy = ssi_cupy.deconvolve(da.from_array(stack, chunks=70), PSF, **options, **QUICK)
    expected = [one.model.predict(stack[place]) for place, one in full.each.items()]
    np.testing.assert_array_equal(lazy.compute(), expected)


# ---- batches ------------------------------------------------------------------------------------


def test_batches_are_the_images_in_turn_each_as_by_itself():
    y = film()[:, None, None]
    settings = {"validation": 0.1, "seed": 3, "symmetries": [(False, ()), (False, (4,))]}
    source = ImagesInTurn(y, **settings)
    alone = [WholeImage(y[i : i + 1], **settings) for i in range(3)]
    own = [np.empty(source.shape, t) for t in (np.float32, np.uint8, np.uint8)]
    for step in (0, 1, 2, 3, 3, 5, 2):
        source.draw(step, *own)
        expected = [np.empty(source.shape, t) for t in (np.float32, np.uint8, np.uint8)]
        alone[step % 3].forget()
        alone[step % 3].draw(step, *expected)
        for a, b in zip(own, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("count", [3, 100])
def test_statistics_are_of_images_and_symmetries_evenly(count):
    y = np.arange(count, dtype=np.float32)[:, None, None, None, None] + np.zeros((1, 1, 1, 4, 4))
    y[..., 0, 0] += 0.5  # to see the symmetry
    ways = [(False, ()), (False, (3,)), (False, (4,)), (False, (3, 4))]
    source = ImagesInTurn(y.astype(np.float32), validation=0.0, symmetries=ways)
    seen = [y.tobytes() for y in source.every()]
    assert len(seen) == len({*seen}) == min(4 * count, 64)
    firsts = [np.frombuffer(one, np.float32).min() for one in seen]
    assert min(firsts) == 0 and max(firsts) >= count * 0.97 - 1


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for i, image in enumerate(film()):
        tiff.write(tmp_path / "in" / f"{i}.tif", image, "YX", {"Y": 0.1, "X": 0.1})
    tiff.write(tmp_path / "psf.tif", PSF.astype(np.float32), "YX", {})
    return tmp_path


STORED = PSF.astype(np.float32)  # as a TIFF has it


def run(folder, *more):
    command = ["deconvolve", str(folder / "in"), "--psf", str(folder / "psf.tif"), "--no-progress"]
    return main([*command, "-o", str(folder / "out"), "--steps", "4", *more])


def test_one_training_for_a_folder(folder, capsys):
    assert run(folder, "--share", "T") == 0
    expected = ssi_cupy.deconvolve(film(), STORED, axes="TYX", share="T", **QUICK)
    for i, restored in enumerate(expected):
        found = tiff.read(folder / "out" / f"{i}.tif")
        np.testing.assert_array_equal(found.data, restored)
        assert found.spacing == {"Y": 0.1, "X": 0.1}
    assert "3 of 3 images restored" in capsys.readouterr().out


def test_a_stack_shares_on_the_command_line(folder):
    tiff.write(folder / "film.tif", film(), "TYX", {})
    command = ["deconvolve", str(folder / "film.tif"), "--psf", str(folder / "psf.tif")]
    command += ["-o", str(folder / "out.tif"), "--steps", "4", "--no-progress", "--share", "T"]
    assert main(command) == 0
    expected = ssi_cupy.deconvolve(film(), STORED, axes="TYX", share="T", **QUICK)
    np.testing.assert_array_equal(tiff.read(folder / "out.tif").data, expected)


def test_images_of_two_sizes_share_nothing(folder, capsys):
    tiff.write(folder / "in" / "other.tif", picture((30, 30)), "YX", {})
    assert run(folder, "--share", "T") == 2
    assert "--share: expected images of one shape" in capsys.readouterr().err
