"""The scores are what their formulas say, and refuse what they cannot compare."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.fft import dctn

from ssi_cupy import metrics
from ssi_cupy.degrade import degrade, normalise
from ssi_cupy.engine.checks import InputError

rng = np.random.default_rng(2)
TRUTH = rng.uniform(size=(40, 30)).astype(np.float32)
IMAGE = (TRUTH + 0.1 * rng.normal(size=TRUTH.shape)).astype(np.float32)


def test_psnr_of_a_known_error():
    truth, image = np.zeros((4, 5)), np.full((4, 5), 0.1)
    assert metrics.psnr(truth, image, data_range=1) == pytest.approx(20)
    assert metrics.psnr(truth, image, data_range=10) == pytest.approx(40)
    assert metrics.psnr(truth, truth, data_range=1) == float("inf")
    assert metrics.rmse(truth, image) == pytest.approx(0.1)


def test_unsigned_integers_do_not_wrap_around():
    truth, image = np.array([[0, 4]], np.uint8), np.array([[3, 0]], np.uint8)
    assert metrics.rmse(truth, image) == pytest.approx(np.sqrt((9 + 16) / 2))


def test_ssim_is_one_for_equal_images_and_depends_on_the_data_range():
    pytest.importorskip("skimage")
    assert metrics.ssim(TRUTH, TRUTH, data_range=1) == pytest.approx(1)
    narrow, wide = (metrics.ssim(TRUTH, IMAGE, data_range=r) for r in (1, 2))
    assert narrow < wide < 1


def test_ssim_without_scikit_image_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(ImportError, match=r"pip install ssi-cupy\[demo\]"):
        metrics.ssim(TRUTH, IMAGE, data_range=1)


def test_mutual_information_of_images_that_determine_each_other_is_one():
    levels = rng.integers(0, 256, (40, 40))
    assert metrics.mutual_information(levels, 3.0 * levels + 7) == pytest.approx(1)
    assert metrics.mutual_information(levels, 255 - levels) == pytest.approx(1)


def test_mutual_information_of_a_table_done_by_hand():
    # p = 1/4 for (0,0), 1/4 for (0,1), 1/2 for (1,1); in bits:
    h_joint, h_truth = 1.5, 1.0
    h_image = 0.25 * 2 + 0.75 * np.log2(4 / 3)
    value = metrics.mutual_information(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]]))
    assert value == pytest.approx((h_truth + h_image - h_joint) / h_joint)


def test_a_constant_restoration_tells_nothing():
    assert metrics.mutual_information(TRUTH, np.full_like(TRUTH, 0.5)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("shape", [(40, 30), (8, 9, 10)])
def test_smi_is_the_mutual_information_of_the_cosine_transforms(shape):
    truth = rng.uniform(size=shape)
    image = truth + 0.05 * rng.normal(size=shape)
    expected = metrics.mutual_information(dctn(truth), dctn(image))  # blind to scale
    assert metrics.spectral_mutual_information(truth, image) == pytest.approx(expected, abs=1e-3)
    assert metrics.spectral_mutual_information(truth, 9 * truth) == pytest.approx(1)


def test_an_offset_that_no_eye_sees_changes_the_smi_much():
    """Why it says little: an image of bars against itself, 0.01 or 0.02 of its range brighter."""
    y, x = np.mgrid[:200, :220]
    bars = (x // 7 % 2) * (y > 100) * (x > 60) + (y // 5 % 2) * (y < 80) * (x < 150.0)
    smi = [metrics.spectral_mutual_information(bars, bars + c) for c in (0, 0.01, 0.015, 0.02)]
    assert smi[0] == pytest.approx(1) and min(smi) < 0.3 and max(smi[1:]) > 2 * min(smi)


def test_scores_are_all_of_them():
    pytest.importorskip("skimage")
    assert metrics.scores(TRUTH, IMAGE, data_range=1.0) == {
        "psnr": metrics.psnr(TRUTH, IMAGE, data_range=1.0),
        "ssim": metrics.ssim(TRUTH, IMAGE, data_range=1.0),
        "mi": metrics.mutual_information(TRUTH, IMAGE),
        "smi": metrics.spectral_mutual_information(TRUTH, IMAGE),
        "rmse": metrics.rmse(TRUTH, IMAGE),
    }


@pytest.mark.parametrize(
    "argument, arguments",
    [
        ("image", {"image": TRUTH[:-1]}),
        ("image", {"image": TRUTH.T}),
        ("image", {"image": np.full_like(TRUTH, np.nan)}),
        ("image", {"image": np.zeros_like(TRUTH)}),
        ("truth", {"truth": np.ones_like(TRUTH)}),
        ("truth", {"truth": TRUTH[:6], "image": IMAGE[:6]}),
        ("truth", {"truth": TRUTH > 0.5}),
        ("data_range", {"data_range": 0}),
        ("data_range", {"data_range": None}),
    ],
)
def test_bad_input_is_named(argument, arguments):
    pytest.importorskip("skimage")
    with pytest.raises(InputError, match=f"^{argument}: expected .*, got "):
        metrics.scores(**{"truth": TRUTH, "image": IMAGE, **arguments})


DATA = Path(os.environ.get("SSI_CUPY_DATA") or Path(__file__).parents[2] / "shared/data")
REFERENCE = DATA.resolve().parent / "reference"


@pytest.mark.skipif(
    not (DATA / "ssi22").is_dir() or not REFERENCE.is_dir(),
    reason=f"the benchmark's images are not at {DATA}: set SSI_CUPY_DATA",
)
def test_the_published_input_is_reproduced_to_the_last_digit():
    """Degradation and scores together, on one of the paper's images."""
    io = pytest.importorskip("skimage.io")
    with open(REFERENCE / "table1_classical_per_image.csv", newline="") as file:
        table = {(row["image"], row["method"]): row for row in csv.DictReader(file)}
    name = "cytoplasm924x624.png"
    truth = normalise(io.imread(DATA / "ssi22" / name))
    image = degrade(truth, np.load(REFERENCE / "psf_2d_17x17.npy"))
    scores = metrics.scores(truth, image)
    scores["ssim_range1"] = scores.pop("ssim")
    scores["ssim_range2"] = metrics.ssim(truth, image, data_range=2)
    for key, value in scores.items():
        assert value == pytest.approx(float(table[name, "input"][key]), abs=1e-4), key
