"""What is said of a restoration: of its PSF, its data, its training; and what is done about it."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import ssi_cupy
from small_runs import picture
from ssi_cupy import degrade, recipes
from ssi_cupy.inference import attempts, verdict
from ssi_cupy.inference.held_out import blind_prediction, held_out_pixels
from ssi_cupy.inference.residual import Residual
from ssi_cupy.inference.uncertainty import SCALE, passed, uncertainty
from ssi_cupy.psf import gaussian
from ssi_cupy.training.progress import diverged

PSF = gaussian(1.5, ndim=2)
QUICK = {"num_iter": 2, "progress": False, "full_output": True}


def scene(size=80, sigma=0.03, seed=1):
    spots = np.random.default_rng(seed).random((size, size)) > 0.98
    truth = degrade.normalise(gaussian_filter(spots * 1.0, 1.0))
    blurred = degrade.blur(truth, PSF, "mirror")
    return blurred / blurred.max() + sigma * np.random.default_rng(2).normal(size=truth.shape) + 1


def names(image, psf, **options):
    found = ssi_cupy.deconvolve(image, psf, **QUICK | options)
    return {reason.name for reason in found.verdict.reasons}


BY_DATA = {"psf_pedestal", "psf_centre", "psf_point", "psf_wide", "correlated", "rows", "columns",
           "saturated"}  # fmt: skip


@pytest.mark.parametrize(
    "expected, psf",
    [
        (set(), PSF),
        ({"psf_pedestal"}, 0.8 * PSF + 0.2 / PSF.size),
        ({"psf_centre"}, np.roll(np.pad(PSF, 3), 3, axis=1)),
        ({"psf_point"}, np.ones((1, 1))),
        (set(), np.ones((5, 5))),  # a box is no background
    ],
)
def test_a_psf_that_cannot_be(expected, psf):
    assert names(scene(), psf) & BY_DATA - {"psf_wide"} == expected


def test_data_that_no_model_describes():
    noise = np.random.default_rng(5).normal(size=(80, 80))
    clean = scene(sigma=0)
    correlated = gaussian_filter(noise, 0.8)
    assert "correlated" in names(clean + 0.03 * correlated / correlated.std(), PSF)
    assert "rows" in names(scene() + 0.03 * noise[:, :1], PSF)
    assert "columns" in names(scene() + 0.03 * noise[:1], PSF)
    image = scene()
    assert "saturated" in names(np.minimum(image, np.median(image)), PSF)


def test_a_residual_that_is_not_noise():
    def said(**parts):
        white = Residual(0.0, (0.5, 0.9, 1.0), 1.0, 0.0, 1.2, (0, 16))
        found = verdict._about_residual(dataclasses.replace(white, **parts), 6400, {})
        return {reason.name for reason in found}

    assert said() == set()
    assert said(mean=0.5) == {"bias"}
    assert said(beyond=5.0, correlation=0.3) == {"psf_wide"}
    assert said(correlation=0.3) == {"correlated"}
    assert said(bands=(50.0, 0.5, 0.5), correlation=0.8) == {"misfit"}


@pytest.mark.parametrize(
    "factor, expected", [(1.0, set()), (1.6, {"psf_wide"}), (1 / 1.6, {"psf_narrow"})]
)
def test_a_psf_of_another_width_than_the_blur(factor, expected):
    rng = np.random.default_rng(0)
    truth = np.kron(rng.random((14, 14)), np.ones((7, 7)))
    y = degrade.blur(truth, gaussian(2.0), "mirror") + 0.03 * rng.normal(size=truth.shape)
    numbers = {}
    reasons = verdict.about_width(y, gaussian(2 * factor), "mirror", 0.03, None, numbers)
    assert {reason.name for reason in reasons} == expected
    assert numbers["width"] * factor == pytest.approx(1, rel=0.15)
    assert numbers["width_low"] < numbers["width"] < numbers["width_high"]
    chi2 = {"chi2": 1.0, "chi2_error": 0.1}
    assert "times as wide explain the image as well" in verdict.Verdict((), numbers | chi2).summary


def test_a_learned_width_that_is_not_told_is_said():
    found = ssi_cupy.deconvolve(np.random.default_rng(0).normal(size=(32, 32)), "gaussian", **QUICK)
    assert not found.psf.told
    assert "psf_untold" in {reason.name for reason in found.verdict.reasons}


def test_held_out_pixels_are_those_of_the_training_and_not_shown():
    image = picture((48, 40)).astype(np.float64)
    found = ssi_cupy.deconvolve(image, PSF, **QUICK)
    pixels = held_out_pixels(found.model, image.shape)
    assert pixels.sum() == round(0.02 * image.size)
    blind = blind_prediction(found.model, image, pixels, True)
    other = np.where(pixels, 0.3, image)
    np.testing.assert_array_equal(blind, blind_prediction(found.model, other, pixels, True))
    assert found.verdict.numbers["chi2"] > 0
    recipe = dataclasses.replace(recipes.DEFAULT, validation=0.0)
    found = ssi_cupy.deconvolve(image, PSF, recipe=recipe, **QUICK)
    assert "chi2" not in found.verdict.numbers and "no pixels" in str(found.verdict)


def test_a_constant_result_a_checkerboard_lost_light_and_no_number():
    y, noise = scene(), 0.03
    signs = np.indices(y.shape).sum(axis=0) % 2 * 2.0 - 1

    def said(x):
        return {r.name: r.level for r in verdict._about_result(y, x, x, noise, {})}

    assert said(y) == {}
    assert said(np.full(y.shape, y.mean())) == {"constant": "failed"}
    assert said(y + signs) == {"checkerboard": "failed"}
    assert said(y - 0.5) == {"flux": "failed"}
    assert said(y * np.nan) == {"diverged": "failed"}


def test_a_failed_run_is_tried_once_more(monkeypatch):
    monkeypatch.setattr(attempts, "RETRY_FROM", 2)
    recipe = dataclasses.replace(recipes.DEFAULT, lr=1e3)
    lrs = []
    options = {"recipe": recipe, "callback": lambda report: lrs.append(report["lr"])}
    found = ssi_cupy.deconvolve(scene(48), PSF, rng=7, **QUICK | {"num_iter": 6} | options)
    assert found.verdict.level == "failed"
    assert len(lrs) == 12 and lrs[6] == lrs[0] / 2
    assert "another seed and half the learning rate" in found.verdict.note
    assert (found.model.seed, found.model.recipe.lr) in [(7, 1e3), (8, 500.0)]
    lrs.clear()
    ssi_cupy.deconvolve(scene(48), PSF, rng=7, **QUICK | options)  # as short as that proves nothing
    monkeypatch.setattr(attempts, "RETRY_FROM", 200)
    lrs.clear()
    ssi_cupy.deconvolve(scene(48), PSF, rng=7, **QUICK | options)
    assert len(lrs) == 2


def test_rivals_on_the_same_pixels(monkeypatch):
    monkeypatch.setattr(verdict, "RIVALS_FROM", 1)
    found = ssi_cupy.deconvolve(scene(), PSF, **QUICK).verdict
    n = found.numbers
    assert n["richardson_lucy"] < 1.6 and n["tv"] < 1.6 and n["network"] > n["tv"]
    assert "rivals" in {reason.name for reason in found.reasons}
    assert "Richardson–Lucy" in str(found) and "total variation" in str(found)
    again = ssi_cupy.deconvolve(scene(), PSF, **QUICK).verdict
    assert again == found


def test_several_images_have_the_worst_verdict():
    image = np.stack([scene(48), scene(48) + 0.2 * np.arange(48)[:, None] % 0.37])
    found = ssi_cupy.denoise(image, axes="CYX", **QUICK)
    assert all(reason.text.startswith("image[") for reason in found.verdict.reasons)
    assert found.uncertainty.shape == image.shape and found.uncertainty.dtype == np.float32
    assert np.isfinite(found.uncertainty).all()


def test_uncertainty_is_in_the_images_units_and_the_same_for_the_same_seed():
    image = scene(48)
    one = ssi_cupy.deconvolve(image, PSF, **QUICK)
    two = ssi_cupy.deconvolve(100 * image, PSF, **QUICK)
    np.testing.assert_allclose(two.uncertainty, 100 * one.uncertainty, rtol=0.02)
    again = ssi_cupy.deconvolve(image, PSF, **QUICK)
    np.testing.assert_array_equal(one.uncertainty, again.uncertainty)
    options = {"refined": True}
    plain = uncertainty(one.model, image, one.restored, one.denoised, **options)
    missed = {"chi2": 500.0, "chi2_error": 1.0}
    more = uncertainty(one.model, image, one.restored, one.denoised, numbers=missed, **options)
    assert SCALE > 1 and np.all(more > plain)


def test_what_the_psf_does_not_pass_is_no_part_of_it():
    g = ssi_cupy.physics.PSFConvolution(PSF)
    y = np.arange(64.0)
    low, high = (np.cos(2 * np.pi * waves * (y + 0.5) / 64) for waves in (2, 28))
    image = np.add.outer(np.zeros(64), low + high)
    np.testing.assert_allclose(passed(image, g), np.add.outer(np.zeros(64), low), atol=0.05)
    np.testing.assert_array_equal(passed(image, ssi_cupy.physics.Identity()), image)


def test_a_lower_learning_rate_is_advised_where_it_helps():
    y = np.zeros((1, 1, 1, 8, 8), np.float32)
    assert "lower recipe.lr" in str(diverged(5, y))
    assert "lower" not in str(diverged(0, y)) and "the losses" in str(diverged(0, y))
    y[..., 3, 3] = 1e30
    assert "a pixel is 1e+30 times the image's contrast" in str(diverged(0, y))
