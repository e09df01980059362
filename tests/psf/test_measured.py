"""`psf.prepare`: measured PSFs are cleaned, centred and cropped, computed ones left alone."""

from __future__ import annotations

import numpy as np
import pytest

from ssi_cupy import classical, degrade, metrics, psf
from ssi_cupy.axes import on_grid
from ssi_cupy.engine.checks import InputError

OIL = {"NA": 1.4, "wvl": 0.52, "ni": 1.515}
MISMATCHED = {"NA": 1.2, "wvl": 0.52, "ni": 1.515, "ns": 1.33, "pz": 5}


def bead(centre, sigma=(2.5, 1.5, 1.2), shape=(21, 25, 31), noise=5.0, background=100.0):
    """A noisy picture of a Gaussian bead with its centre between pixels."""
    grid = np.meshgrid(*map(np.arange, shape), indexing="ij")
    squares = sum(((g - c) / s) ** 2 for g, c, s in zip(grid, centre, sigma, strict=True))
    noise = noise * np.random.default_rng(0).normal(size=shape)
    return 1000 * np.exp(-squares / 2) + background + noise


def test_prepare_removes_background_centres_crops_and_normalises():
    kernel, report = psf.prepare(bead((10.3, 9.2, 18.6)))
    np.testing.assert_allclose(report.centre, (10.3, 9.2, 18.6), atol=0.05)
    assert report.background == pytest.approx(100, abs=0.5)
    assert report.noise == pytest.approx(5, rel=0.1)
    assert report.shape == kernel.shape and all(n % 2 for n in kernel.shape)
    assert kernel.sum() == pytest.approx(1) and kernel.min() >= 0
    expected = psf.gaussian((2.5, 1.5, 1.2), size=kernel.shape)
    assert abs(kernel - expected).max() < 0.03 * expected.max()


def test_prepare_resamples_to_the_images_spacing():
    fine = bead((25, 25, 25), (6, 6, 6), (51, 51, 51), noise=0, background=0)
    kernel, report = psf.prepare(fine, psf_spacing=0.1, spacing=(0.3, 0.2, 0.1), background=0)
    assert report.spacing == (0.3, 0.2, 0.1)
    for axis, sigma in enumerate((2, 3, 6)):
        line = kernel.sum(tuple({0, 1, 2} - {axis}))
        r = np.arange(len(line)) - len(line) // 2
        pixel = 1 / 12 * (1 - (sigma / 6) ** 2)  # a coarse pixel collects light over its width
        assert line @ r == pytest.approx(0, abs=1e-3)
        assert line @ r**2 == pytest.approx(sigma**2 + pixel, rel=5e-3)


def test_prepare_is_not_fooled_by_a_hot_pixel():
    image = bead((10, 12, 15))
    image[3, 4, 5] = 5000
    _, report = psf.prepare(image)
    np.testing.assert_allclose(report.centre, (10, 12, 15), atol=0.05)


COMPUTED = {
    "gaussian": psf.gaussian((2, 1.5)),
    "microscope": psf.microscope((41, 81, 81), dxy=0.05, dz=0.1, NA=1.2, wvl=0.52, ni=1.33),
    "aberrated": psf.microscope((41, 31, 31), dxy=0.1, dz=0.1, **MISMATCHED),
    "even": psf.microscope((8, 30, 32), dxy=0.1, dz=0.3, **OIL),
    "out of focus": psf.microscope((17, 17), dxy=0.1, z=1.5, **OIL),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_prepare_leaves_a_computed_psf_alone(name):
    computed = COMPUTED[name]
    kernel, report = psf.prepare(computed)
    assert not report.measured and not report.background and not report.remarks
    assert report.kept == pytest.approx(1, abs=1e-9)
    places = [n // 2 for n in computed.shape]
    assert report.centre == tuple(places)
    inside = tuple(slice(k // 2 - n // 2, k // 2 - n // 2 + n)
                   for n, k in zip(computed.shape, kernel.shape, strict=True))  # fmt: skip
    np.testing.assert_allclose(kernel[inside], computed / computed.sum(), atol=1e-12)


@pytest.mark.parametrize("pixel, alike", [(0.0501, 2e-3), (0.048, 6e-3), (0.06, 0.03)])
def test_a_computed_psf_resampled_is_what_is_computed_there_and_comes_back(pixel, alike):
    fine, other = (0.1, 0.05, 0.05), (0.1, pixel, pixel)
    kernel, report = psf.prepare(COMPUTED["microscope"], psf_spacing=fine, spacing=other)
    assert report.kept == pytest.approx(1, abs=1e-3)
    optics = {"dxy": pixel, "dz": 0.1, "NA": 1.2, "wvl": 0.52, "ni": 1.33}
    expected = psf.microscope(kernel.shape, **optics)  # sampled, of another field of view
    assert abs(kernel - expected).max() < alike * expected.max()
    back, report = psf.prepare(kernel, psf_spacing=other, spacing=fine)
    assert report.kept == pytest.approx(1, abs=1e-3)
    rim = (back.shape[1] - 81) // 2
    back = back[:, rim : rim + 81, rim : rim + 81]
    assert abs(back - COMPUTED["microscope"]).sum() < 0.01


@pytest.mark.parametrize(
    "method, options", [("richardson_lucy", {}), ("tv_admm", {}), ("wiener", {"balance": 0.01})]
)
@pytest.mark.parametrize("optics", [{"NA": 0.8, "wvl": 0.52, "ni": 1.33}, {**OIL, "NA": 1.3}])
def test_a_restoration_is_as_good_with_a_psf_of_nearly_the_same_pixels(method, options, optics):
    pixel, shape = 0.52 / optics["NA"] / 8, (31, 31)
    near = 1.002 * pixel
    own, other = (psf.microscope(shape, dxy=dxy, **optics) for dxy in (pixel, near))
    rng = np.random.default_rng(0)
    truth = np.kron(rng.random((12, 12)) > 0.6, np.ones((8, 8)))
    blurred = degrade.blur(truth, own, mode="mirror")
    image = np.clip(blurred + 0.05 * rng.normal(size=truth.shape), 0, None)
    score = [
        metrics.psnr(truth, getattr(classical, method)(image, kernel, **options), data_range=1)
        for kernel in (own, on_grid(other, pixel, near), psf.gaussian(0.5))
    ]
    assert abs(score[0] - score[1]) < 0.05
    assert score[0] - score[2] > 0.5  # so that a PSF matters here


def test_prepare_says_what_a_small_size_loses():
    computed = psf.gaussian((2, 1.5))
    _, report = psf.prepare(computed, size=3)
    assert report.kept == pytest.approx(computed[7:10, 5:8].sum(), rel=1e-9)
    _, report = psf.prepare(bead((10, 12, 15)) + bead((10, 12, 27), background=0), size=21)
    assert 0.45 < report.kept < 0.6  # the other half is another bead


def test_each_step_has_its_own_switch():
    image = bead((10.3, 9.2, 18.6))
    raw, report = psf.prepare(image, measured=False)
    assert raw.shape == image.shape and report.background == 0 and report.kept == 1
    kernel, report = psf.prepare(image, centre=False)
    assert report.centre == (10, 12, 15) and report.background == pytest.approx(100, abs=0.5)
    assert kernel[tuple(n // 2 for n in kernel.shape)] < 0.5 * kernel.max()
    kernel, report = psf.prepare(image, crop=False)
    assert report.kept == pytest.approx(1, abs=0.05) and kernel.shape[1] >= 25
    kernel, report = psf.prepare(image, background=0, centre=False, crop=False)
    assert report.kept == pytest.approx(1) and report.measured
    computed, report = psf.prepare(COMPUTED["gaussian"], measured=True)
    assert report.measured and computed.shape < COMPUTED["gaussian"].shape  # its rim is faint


def test_what_is_wrong_with_a_measured_psf_is_told():
    _, report = psf.prepare(bead((10, 12, 15)))
    assert len(report.remarks) == 1 and "pedestal of 9" in report.remarks[0]
    two = bead((10.3, 9.2, 8), background=0) + bead((10, 12, 23))
    told = " ".join(psf.prepare(two)[1].remarks)
    assert "pedestal" in told and "from the middle" in told and "2 points" in told
    assert psf.prepare(bead((10, 12, 15), background=0))[1].remarks == ()


@pytest.mark.parametrize(
    "argument, arguments",
    [
        ("psf", {"psf": np.ones((9, 9))}),
        ("psf", {"psf": np.full((9, 9), np.nan)}),
        ("psf", {"psf": np.arange(9.0)}),
        ("psf", {"psf": np.random.default_rng(0).normal(size=(40, 40)), "background": 30}),
        ("psf_spacing", {"spacing": 0.1}),
        ("spacing", {"psf_spacing": 0.1}),
        ("spacing", {"psf_spacing": 0.1, "spacing": (1, 2)}),
        ("background", {"background": "dark"}),
        ("size", {"size": (3, 4, 5)}),
        ("measured", {"measured": "yes"}),
        ("centre", {"centre": 1}),
        ("crop", {"crop": "no"}),
        ("psf", {"background": 2000, "measured": False}),
    ],
)
def test_prepare_names_bad_input(argument, arguments):
    with pytest.raises(InputError, match=f"^{argument}: expected .*, got "):
        psf.prepare(**{"psf": bead((10, 12, 15)), **arguments})
