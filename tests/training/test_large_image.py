"""An image of which a step sees a part: which parts, what of them is held out, who may read it."""

import dataclasses
import logging

import numpy as np
import pytest

import ssi_cupy
from ssi_cupy import recipes, symmetry
from ssi_cupy.inference.held_out import held_out_pixels
from ssi_cupy.physics import PSFConvolution
from ssi_cupy.psf import gaussian
from ssi_cupy.training.forward_model import with_margin
from ssi_cupy.training.image_sets import of_one
from ssi_cupy.training.large_image import LargeImage, block_at, geometry, reach_of_light
from ssi_cupy.training.step import Training

RNG = np.random.default_rng(0)
BLUR = PSFConvolution(gaussian(1.5))
RECIPE = dataclasses.replace(recipes.DEFAULT, at_once=2**14, steps=4)


class OnDisk:
    """Read by slices, as Zarr's and HDF5's are; it remembers the most that was read at once."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim
        self.most = 0

    def __getitem__(self, box):
        part = self.array[box]
        self.most = max(self.most, part.size)
        return part


def picture(*shape):
    """Spots of light on a dark ground, blurred and noisy, in counts."""
    sharp = (RNG.random(shape) > 0.98) * 300.0
    blur = PSFConvolution(gaussian(1.5, ndim=len(shape)))
    blurred = blur.forward(sharp.reshape((1,) * (5 - len(shape)) + shape)).reshape(shape)
    return (100 + blurred + RNG.normal(0, 2, shape)).astype(np.float32)


def source(image, reach=(0, 4, 4), margin=(0, 4, 4), mask=None, at_once=2**14, **more):
    recipe = dataclasses.replace(RECIPE, at_once=at_once)
    options = {"symmetries": [symmetry.IDENTITY], "seed": 1, "like": np.empty(0)} | more
    return LargeImage(of_one(image, mask), recipe, reach=reach, margin=margin, **options)


def drawn(of, step=0):
    n, _, *box = of.shape
    made = (np.full(of.shape, np.nan, np.float32),
            *(np.full((n, 1, *box), 7, np.uint8) for _ in range(2)))  # fmt: skip
    of.draw(step, *made)
    return made


# ---- which parts ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(200, 333), (40, 90, 70)])
def test_a_box_is_a_part_of_the_image_with_its_margin(shape):
    image = picture(*shape)
    margin = (0, 4, 4) if len(shape) == 2 else (3, 4, 4)
    of = source(image, reach=margin, margin=margin, symmetries=symmetry.every(len(shape)))
    frame = with_margin(image.reshape((1,) * (5 - len(shape)) + shape), margin)[0, 0]
    for step in range(20):
        y, validation, inside = drawn(of, step)
        _, at, transform = of._place(step, 0, False)
        start = of.geometry.start(at, of.images.shapes[0][1:])
        box = tuple(slice(s + m, s + m + n)
                    for s, m, n in zip(start, margin, of.shape[2:], strict=True))  # fmt: skip
        back = symmetry.undo(y, transform)[0, 0] * of.units[1] + of.units[0]
        np.testing.assert_allclose(back, frame[box], rtol=1e-5)
        counted = symmetry.undo(inside, transform)[0, 0]
        expected = np.zeros_like(counted)
        expected[of.geometry.inside(at, start)] = 1
        np.testing.assert_array_equal(counted, expected)
        held = block_at(of.held_out, start, of.shape[2:])[0]
        image_is = np.ones([n - 2 * m for n, m in zip(frame.shape, margin, strict=True)], np.uint8)
        outside = 1 - np.pad(image_is, [(m, m) for m in margin])[box]
        np.testing.assert_array_equal(symmetry.undo(validation, transform)[0, 0], held | outside)


def test_all_of_the_image_is_looked_at_and_evenly():
    image = picture(400, 300)
    of = source(image)
    seen = np.zeros((400, 300))
    for step in range(200):
        _, at, _ = of._place(step, 0, False)
        box = zip(at[1:], of.geometry.patch[1:], strict=True)
        seen[tuple(slice(a, a + p) for a, p in box)] += 1
    assert seen.min() >= 0.2 * seen.mean()
    middle = seen[120:280, 120:180]
    assert middle.std() < 0.1 * middle.mean()  # of places drawn at random it is 0.15


@pytest.mark.parametrize("shape, at_once", [
    ((1, 300, 4000), 2**14), ((1, 100, 4000), 2**14), ((8, 500, 500), 2**15),
    ((90, 90, 90), 2**18), ((2, 2000, 40), 2**15),
])  # fmt: skip
def test_a_box_has_about_so_many_pixels(shape, at_once):
    made = geometry(shape, at_once, (1, 4, 4), (1, 4, 4))
    assert all(b <= n + 8 for b, n in zip(made.box, shape, strict=True))
    assert 0.6 < np.prod(made.box) / at_once < 1.4
    free = [b for b, n in zip(made.box, shape, strict=True) if b < n]
    assert max(free) <= 1.5 * min(free) and min(made.patch) >= 1


def test_a_psf_reaches_as_far_as_its_light_does(caplog):
    psf = np.zeros((61, 65, 65))
    psf[28:33, 30:35, 29:36] = 1
    with caplog.at_level(logging.INFO, "ssi_cupy"):
        assert reach_of_light(psf / psf.sum()) == (2, 2, 3)
    assert "2 × 2 × 3 pixels" in caplog.text
    halo = 0.5 * 0.003 * np.ones((3, 9, 9)) / 240
    halo[1, 4, 4] = 1
    assert reach_of_light(halo / halo.sum()) == (0, 0, 0)
    assert reach_of_light(np.ones((1, 9, 9)) / 81) == (0, 4, 4)


# ---- what is held out -----------------------------------------------------------------------


def test_held_out_pixels_are_the_same_wherever_they_are_asked_for():
    of = source(picture(400, 300))
    model = ssi_cupy.SelfSupervisedInverse(BLUR, RECIPE, rng=1)
    whole = held_out_pixels(model, (700, 600), start=(0, 0))
    np.testing.assert_array_equal(held_out_pixels(model, (90, 80), start=(513, 60)),
                                  whole[513:603, 60:140])  # fmt: skip
    for step in range(5):
        _, validation, _ = drawn(of, step)
        start = of.geometry.start(of._place(step, 0, False)[1], (1, 400, 300))
        rows, columns = (slice(max(s, 0), s + n)
                         for s, n in zip(start[1:], of.shape[3:], strict=True))  # fmt: skip
        found = validation[0, 0, 0, rows.start - start[1] :, columns.start - start[2] :]
        found = found[: 400 - rows.start, : 300 - columns.start]  # and no margin
        np.testing.assert_array_equal(found, whole[rows, columns][: len(found), : found.shape[1]])
    assert 0.015 < whole.mean() < 0.025


def test_what_is_held_out_is_never_seen():
    """Whatever it holds, the training is the same, bit for bit; the validation loss is not."""
    image = picture(200, 190)
    held = held_out_pixels(ssi_cupy.SelfSupervisedInverse(BLUR, RECIPE), image.shape, start=(0, 0))
    least, most = image.min(), image.max()
    other = image.copy()
    other[held & (image > least) & (image < most)] = 0.5 * (least + most)
    recipe = dataclasses.replace(RECIPE, adaptive=False, wiener=(), sensor=False, fill="zero",
                                 losses=recipes.SSI.losses, normalise="range")  # fmt: skip
    one, two = (ssi_cupy.SelfSupervisedInverse(BLUR, recipe).fit(y, progress=False)
                for y in (image, other))  # fmt: skip
    assert one.units == two.units
    assert [h["loss"] for h in one.history] == [h["loss"] for h in two.history]
    assert [h["validation"] for h in one.history] != [h["validation"] for h in two.history]


# ---- who may read it ------------------------------------------------------------------------


def test_an_array_a_file_and_what_is_read_by_slices_give_the_same_bits(tmp_path):
    image = np.rint(picture(150, 210)).astype(np.uint16)
    np.save(tmp_path / "image.npy", image)
    slices = OnDisk(image)
    given = image, np.load(tmp_path / "image.npy", mmap_mode="r"), slices
    models = [ssi_cupy.SelfSupervisedInverse(BLUR, RECIPE).fit(y, progress=False) for y in given]
    for model in models[1:]:
        np.testing.assert_array_equal(model.parameters, models[0].parameters)
        assert model.units == models[0].units and model.noise == models[0].noise
    assert np.isfinite(models[0].predict(image)).all()


def test_a_volume_is_read_in_parts():
    volume = OnDisk(picture(40, 150, 150))
    recipe = dataclasses.replace(RECIPE, at_once=2**15)
    blur = PSFConvolution(gaussian(1.0, ndim=3))
    model = ssi_cupy.SelfSupervisedInverse(blur, recipe).fit(volume, steps=2, progress=False)
    assert model.net.ndim == 3 and volume.most < volume.array.size / 2


def test_dask_and_zarr(tmp_path):
    zarr, dask = pytest.importorskip("zarr"), pytest.importorskip("dask.array")
    image = picture(150, 210)
    stored = zarr.create_array(store=str(tmp_path / "y.zarr"), shape=image.shape, chunks=(64, 50),
                               dtype=image.dtype)  # fmt: skip
    stored[...] = image
    models = [
        ssi_cupy.SelfSupervisedInverse(BLUR, RECIPE).fit(y, steps=2, progress=False)
        for y in (image, stored, dask.from_array(image, chunks=(40, 64)))
    ]
    for model in models[1:]:
        np.testing.assert_array_equal(model.parameters, models[0].parameters)


@pytest.mark.parametrize("mask", ["array", "nan"])
def test_masked_pixels_say_nothing(mask):
    image, models = picture(150, 210), []
    hidden = RNG.random(image.shape) < 0.05
    hidden[40:60, 30:90] = True
    for value in (1e9, -5.0):
        y = np.where(hidden, np.nan if mask == "nan" else value, image)
        options = {"mask": hidden if mask == "array" else "nan", "progress": False}
        models.append(ssi_cupy.SelfSupervisedInverse(BLUR, RECIPE).fit(y, **options))
    np.testing.assert_array_equal(models[0].parameters, models[1].parameters)


def test_hot_pixels_are_masked_where_a_box_has_them():
    image = picture(150, 210)
    places = RNG.integers(0, 150, 40), RNG.integers(0, 210, 40)
    image[places] = 5000
    model = ssi_cupy.SelfSupervisedInverse(BLUR, RECIPE).fit(image, progress=False)
    assert 0.0005 < model.noise.outliers < 0.005
    assert max(h["loss"] for h in model.history) < 1
    found = ssi_cupy.deconvolve(image, BLUR.psf[0], recipe=RECIPE, progress=False)
    assert np.isfinite(found).all() and found.max() < 3000


# ---- all the way ----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_a_checkpoint_goes_on_to_them(tmp_path):
    image, options = picture(150, 210), {"progress": False, "recipe": RECIPE, "rng": 3}
    whole = ssi_cupy.deconvolve(image, BLUR.psf[0], **options)
    state = tmp_path / "state.npz"
    ssi_cupy.deconvolve(image, BLUR.psf[0], **options, checkpoint=state,
                        callback=lambda report: report["step"] == 1)  # fmt: skip
    again = ssi_cupy.deconvolve(image, BLUR.psf[0], **options, resume=state)
    np.testing.assert_array_equal(again, whole)


def test_the_verdict_is_on_the_part_with_most_contrast():
    image = np.full((300, 260), 100, np.float32) + RNG.normal(0, 2, (300, 260)).astype(np.float32)
    image[150:250, 120:240] = picture(100, 120)
    result = ssi_cupy.deconvolve(image, BLUR.psf[0], recipe=RECIPE, full_output=True,
                                 progress=False)  # fmt: skip
    assert "judged on Y " in str(result.verdict)
    assert result.verdict.numbers["chi2"] > 0
    assert np.isfinite(result.uncertainty).all()


def test_an_uneven_image_is_renormalised_by_what_was_seen_of_all_of_it(monkeypatch, tmp_path):
    """One with a bright corner on a dark field; a checkpoint goes on to the same bits there too."""
    uneven = RNG.poisson(10 + 200.0 * (RNG.random((320, 320)) > 0.99)).astype(np.float32)
    uneven[200:264, 40:104] = 30 * picture(64, 64)
    for image, expected in ((picture(320, 320), False), (uneven, True)):
        model = ssi_cupy.SelfSupervisedInverse(BLUR, RECIPE)
        assert Training(model, of_one(image), 4).uneven == expected
    batch_norm = ssi_cupy.SelfSupervisedInverse(BLUR, RECIPE).fit(uneven, progress=False)
    monkeypatch.setattr("ssi_cupy.training.step.RENORMALISE_FROM", 1)
    models = [ssi_cupy.SelfSupervisedInverse(BLUR, RECIPE) for _ in range(2)]
    models[0].fit(uneven, progress=False)
    assert np.abs(models[0].parameters - batch_norm.parameters).max() > 1e-4
    state = tmp_path / "state.npz"
    stop = {"checkpoint": state, "callback": lambda report: report["step"] == 1}
    models[1].fit(uneven, progress=False, **stop)
    models[1].fit(uneven, progress=False, resume=state)
    np.testing.assert_array_equal(models[1].parameters, models[0].parameters)
    np.testing.assert_array_equal(models[1].statistics, models[0].statistics)


def test_small_images_are_seen_whole():
    assert not recipes.DEFAULT.sees_a_part((512, 512)) and recipes.DEFAULT.sees_a_part((600, 600))
    assert not recipes.SSI.sees_a_part((9000, 9000))
    assert not recipes.NOISE2SAME.sees_a_part((9000, 9000))
    assert not recipes.DEFAULT.sees_a_part((3, 1, 1, 600, 600))
