"""The classical rivals find what they should, keep scale and shape, and name bad input."""

from __future__ import annotations

import csv
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ssi_cupy import classical
from ssi_cupy.classical import (
    radial_power_spectrum,
    richardson_lucy,
    richardson_lucy_tv,
    tv_admm,
    tv_chambolle_pock,
    tv_conjugate_gradient,
    wiener,
)
from ssi_cupy.degrade import blur, degrade, normalise
from ssi_cupy.engine.checks import InputError
from ssi_cupy.psf import gaussian

SHAPES = {"2-D odd": (24, 21), "2-D even": (20, 18), "3-D": (9, 12, 11)}
PSFS = {"2-D odd": (5, 3), "2-D even": (4, 6), "3-D": (3, 4, 5)}


def case(name):
    """A few points on a floor, and a PSF without any symmetry."""
    rng = np.random.default_rng(3)
    truth = np.full(SHAPES[name], 0.1)
    for _ in range(6):
        truth[tuple(rng.integers(4, n - 4) for n in truth.shape)] = 1
    psf = rng.uniform(size=PSFS[name]) ** 3
    return truth, psf / psf.sum()


@pytest.mark.parametrize("name", SHAPES)
def test_richardson_lucy_undoes_an_asymmetric_blur(name):
    truth, psf = case(name)
    image = blur(truth, psf, "mirror")
    restored = richardson_lucy(image, psf, 150)
    assert restored.dtype == np.float32 and restored.shape == truth.shape
    assert np.abs(restored - truth).max() < 0.3 * np.abs(image - truth).max()


@pytest.mark.parametrize("mode", ["mirror", "nearest", "wrap", "constant"])
@pytest.mark.parametrize("name", SHAPES)
def test_richardson_lucy_rests_at_the_truth(name, mode):
    """Where y = h * x, the ratio is 1. Any shift or flip between the convolutions shows."""
    truth, psf = case(name)
    restored = richardson_lucy(blur(truth, psf, mode), psf, 3, mode=mode, initial=truth)
    np.testing.assert_allclose(restored, truth, rtol=1e-6)


@pytest.mark.parametrize("mode", ["mirror", "nearest", "wrap", "constant"])
def test_richardson_lucy_may_start_from_any_constant(mode):
    truth, psf = case("2-D even")
    image = blur(truth, psf, mode)
    half = richardson_lucy(image, psf, 4, mode=mode, initial=np.full(truth.shape, 0.5))
    np.testing.assert_allclose(richardson_lucy(image, psf, 4, mode=mode), half, rtol=1e-6)


def test_richardson_lucy_is_its_formula_once():
    truth, psf = case("2-D even")
    image, start = np.random.default_rng(4).uniform(0.5, 1.5, (2, *truth.shape))
    wide = np.pad(psf, [(0, 1), (0, 1)])  # the centre k // 2 becomes the middle
    expected = start * blur(image / blur(start, wide, "mirror"), wide[::-1, ::-1], "mirror")
    restored = richardson_lucy(image, psf, 1, initial=start)
    np.testing.assert_allclose(restored, expected, rtol=1e-6)


def test_richardson_lucy_keeps_the_scale_and_clips_only_when_asked():
    truth, psf = case("2-D odd")
    image = blur(truth, psf, "mirror")
    restored = richardson_lucy(image, psf, 20)
    np.testing.assert_allclose(richardson_lucy(700 * image, 3 * psf, 20), 700 * restored, rtol=1e-5)
    bright = richardson_lucy(3 * image, psf, 20)
    assert bright.max() > 1
    clipped = richardson_lucy(3 * image, psf, 20, clip=True)
    np.testing.assert_array_equal(clipped, np.clip(bright, 0, 1))


def test_richardson_lucy_takes_dark_images_and_integers():
    image = np.zeros((16, 16), np.uint8)
    image[8, 8] = 200
    restored = richardson_lucy(image, np.ones((3, 3)), 30)
    assert np.isfinite(restored).all() and restored.min() >= 0


# ---- all methods ---------------------------------------------------------------------------------


METHODS = {
    "richardson_lucy_tv": partial(richardson_lucy_tv, num_iter=200, weight=1e-4),
    "wiener": partial(wiener, balance=1e-4, pad=8),
    "tv_admm": partial(tv_admm, weight=1e-4, rho=1e-2, pad=8),
    "tv_chambolle_pock": partial(tv_chambolle_pock, num_iter=300, weight=1e-5),
    "tv_conjugate_gradient": partial(tv_conjugate_gradient, weight=1e-5),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_undoes_an_asymmetric_blur(method, name):
    truth, psf = case(name)
    image = blur(truth, psf, "mirror")
    restored = METHODS[method](image, psf)
    assert restored.dtype == np.float32 and restored.shape == truth.shape
    inside = tuple(slice(k, -k) for k in psf.shape)  # where no method has to guess
    assert rms((restored - truth)[inside]) < 0.6 * rms((image - truth)[inside])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_clips_only_when_asked(method):
    truth, psf = case("2-D odd")
    image = 20 * blur(truth, psf, "mirror")
    restored = METHODS[method](image, psf)
    assert restored.max() > 1
    np.testing.assert_array_equal(METHODS[method](image, psf, clip=True), restored.clip(0, 1))


def rms(x):
    return np.sqrt(np.mean(x**2))


def noisy_steps():
    truth = np.zeros((48, 40))
    truth[10:30, 8:32] = 0.8
    psf = np.array([[1.0, 2, 0], [3, 4, 2], [0, 1, 1]]) / 14
    return truth, psf, degrade(truth, psf, alpha=0, salt_pepper=0, mode="mirror", bits=None)


def objective(x, image, psf, weight):
    """½ ‖h * x - y‖² + weight Σ |∇x|, as numpy would write it."""
    gradient = [np.diff(x, axis=a, append=x.take([-1], a)) for a in range(x.ndim)]
    misfit = blur(x, psf, "mirror") - image
    return (misfit**2).sum() / 2 + weight * np.sqrt(sum(g**2 for g in gradient)).sum()


def test_the_tv_methods_find_one_minimum():
    _, psf, image = noisy_steps()
    weight = 0.05
    primal_dual = tv_chambolle_pock(image, psf, 1000, weight=weight)
    lowest = objective(primal_dual, image, psf, weight)
    admm = tv_admm(image, psf, 300, weight=weight)
    assert objective(admm, image, psf, weight) == pytest.approx(lowest, rel=2e-3)
    assert np.abs(admm - primal_dual)[8:-8, 8:-8].max() < 0.02
    for size in (1e-1, 1e-2, 1e-3):  # no way leads down from there
        moved = primal_dual + size * np.random.default_rng(0).normal(size=image.shape)
        assert objective(moved, image, psf, weight) > lowest


@pytest.mark.parametrize("mode", ["mirror", "nearest", "wrap", "constant"])
@pytest.mark.parametrize("seed", range(5))
def test_the_steps_of_the_primal_dual_method_are_not_too_long(seed, mode):
    """‖h * x‖² + ‖∇x‖² never exceeds what they follow from, and comes near to it."""
    rng = np.random.default_rng(seed)
    shape, psf = rng.integers(6, 10, 2), rng.random(1 + 2 * rng.integers(0, 3, 2)) ** 4
    psf /= psf.sum()
    model = classical.shared.Blur(psf, mode)
    images = np.eye(shape.prod()).reshape(-1, *shape)
    parts = [[model(x), *classical.shared.gradient(x)] for x in images]
    gain = np.linalg.norm([np.ravel(p) for p in parts], 2) ** 2
    bound = classical.shared.largest_gain(np, images[0], psf, model)
    assert 0.8 * bound < gain <= bound


def test_conjugate_gradients_follow_the_slope_of_the_objective():
    """Two steps by hand, with a smoothing that makes the objective smooth."""
    _, psf, image = noisy_steps()
    weight, smoothing, step = 0.05, 0.1, 1e-6

    def misfit(x):
        return ((blur(x, psf, "mirror") - image) ** 2).sum() / 2

    def value(x):
        gradient = [np.diff(x, axis=a, append=x.take([-1], a)) for a in range(2)]
        return misfit(x) + weight * np.sqrt(sum(g**2 for g in gradient) + smoothing**2).sum()

    def along(f, x, d):
        return (f(x + step * d) - f(x - step * d)) / (2 * step)

    def estimate(n):
        settings = {"weight": weight, "smoothing": smoothing}
        return tv_conjugate_gradient(image, psf, n, **settings).astype(np.float64)

    x = estimate(3)
    move = estimate(4) - x
    assert along(value, x, move) < 0  # downhill
    best = -along(value, x, move) / ((blur(move, psf, "mirror")) ** 2).sum()
    assert best == pytest.approx(1, rel=1e-2)  # and as far as the misfit alone would have it


def test_conjugate_gradients_are_the_published_ones():
    """Polak–Ribière with matrices, and never from the start again, though steps lead backwards."""
    rng = np.random.default_rng(2)
    psf, image, weight = rng.random((3, 4)), rng.random((9, 8)), 0.05
    pixels = np.eye(72).reshape(72, 9, 8)
    h = np.array([blur(one, psf / psf.sum(), "constant").ravel() for one in pixels]).T
    ends = [np.take(pixels, [-1], axis) for axis in (1, 2)]
    along = [np.diff(pixels, axis=a, append=e) for a, e in zip((1, 2), ends, strict=True)]
    down, right = (d.reshape(72, 72).T for d in along)

    def gradient(x):
        parts = down @ x, right @ x
        length = np.sqrt(parts[0] ** 2 + parts[1] ** 2 + 1e-20)
        tv = down.T @ (parts[0] / length) + right.T @ (parts[1] / length)
        return h.T @ (h @ x - image.ravel()) + weight * tv

    x = np.zeros(72)
    g = gradient(x)
    d, backwards = -g, 0
    for _ in range(10):
        length = -(g @ d) / ((h @ d) @ (h @ d))
        backwards += length < 0
        x, before = x + length * d, g
        g = gradient(x)
        d = max(g @ (g - before) / (before @ before), 0) * d - g
    ours = tv_conjugate_gradient(image, psf, 10, weight=weight, mode="constant")
    assert backwards > 1
    np.testing.assert_allclose(ours.ravel(), x, atol=2e-6)


def test_tv_leaves_less_noise_than_richardson_lucy():
    truth, psf, image = noisy_steps()
    plain = rms(richardson_lucy(image, psf, 20) - truth)
    assert rms(richardson_lucy_tv(image, psf, 20, weight=0.05) - truth) < 0.8 * plain
    assert rms(tv_admm(image, psf, weight=0.05) - truth) < 0.7 * plain


def test_richardson_lucy_tv_without_weight_is_richardson_lucy():
    _, psf, image = noisy_steps()
    np.testing.assert_array_equal(
        richardson_lucy_tv(image, psf, weight=0), richardson_lucy(image, psf)
    )


def test_richardson_lucy_tv_is_deys_formula_once():
    """The divergence written out, where forward differences do not meet the border."""
    _, psf, image = noisy_steps()
    start = np.random.default_rng(4).uniform(0.5, 1.5, image.shape)
    x = start
    gy, gx = np.roll(x, -1, 0) - x, np.roll(x, -1, 1) - x
    gy, gx = gy / np.hypot(gy, gx), gx / np.hypot(gy, gx)
    divergence = gy - np.roll(gy, 1, 0) + gx - np.roll(gx, 1, 1)
    expected = richardson_lucy(image, psf, 1, initial=start) / (1 - 0.01 * divergence)
    restored = richardson_lucy_tv(image, psf, 1, weight=0.01, initial=start)
    np.testing.assert_allclose(restored[2:-2, 2:-2], expected[2:-2, 2:-2], rtol=1e-5)


def test_wiener_told_the_spectrum_beats_any_one_balance():
    rng = np.random.default_rng(5)
    _, psf, _ = noisy_steps()
    truth = blur(rng.normal(size=(96, 80)), gaussian(2), "wrap") + 3
    image = blur(truth, psf, "mirror") + 0.1 * rng.normal(size=truth.shape)
    told = wiener(image, psf, 0.1**2 / radial_power_spectrum(truth))
    best = min(rms(wiener(image, psf, b) - truth) for b in np.geomspace(1e-3, 10, 13))
    assert rms(told - truth) < best
    assert told.mean() == pytest.approx(image.mean(), abs=0.01)


@pytest.mark.parametrize("shape", [(33, 20), (9, 10, 11)])
def test_radial_power_spectrum_of_white_noise_is_its_variance(shape):
    image = np.random.default_rng(0).normal(scale=3, size=shape)
    spectrum = radial_power_spectrum(image, 6)
    assert spectrum.shape == (6,)
    np.testing.assert_allclose(spectrum[1:5], 9, rtol=0.35)


IMAGE = np.arange(81.0).reshape(9, 9)
BAD_FOR_ALL = [
    ("image", {"image": np.zeros((9, 9))}),
    ("image", {"image": np.arange(9.0)}),
    ("image", {"image": np.full((9, 9), np.inf)}),
    ("psf", {"psf": np.zeros((3, 3))}),
    ("psf", {"psf": -np.eye(3)}),
    ("psf", {"psf": np.ones(3)}),
    ("psf", {"psf": np.ones((3, 99))}),
]
BAD_NUMBER = [("num_iter", {"num_iter": 0}), ("num_iter", {"num_iter": 2.5})]
BAD_MODE = [("mode", {"mode": "reflect"})]
BAD_WEIGHT = [("weight", {"weight": -1}), ("weight", {"weight": np.nan})]
BAD_LUCY = [
    ("image", {"image": IMAGE - 1}),
    ("initial", {"initial": np.ones((3, 3))}),
    ("initial", {"initial": np.zeros((9, 9))}),
]
BAD_PAD = [("pad", {"pad": -1})]
BAD_BALANCE = [("balance", {"balance": b}) for b in (-1, "much", [1.0, -1.0], [[1.0]])]
BAD = {
    richardson_lucy: BAD_NUMBER + BAD_MODE + BAD_LUCY,
    richardson_lucy_tv: BAD_NUMBER + BAD_MODE + BAD_LUCY + BAD_WEIGHT,
    wiener: BAD_PAD + BAD_BALANCE,
    tv_admm: BAD_NUMBER + BAD_WEIGHT + BAD_PAD + [("rho", {"rho": 0})],
    tv_chambolle_pock: BAD_NUMBER + BAD_MODE + BAD_WEIGHT,
    tv_conjugate_gradient: BAD_NUMBER + BAD_MODE + BAD_WEIGHT + [("smoothing", {"smoothing": 0})],
}


@pytest.mark.parametrize(
    "method, argument, arguments",
    [(m, *row) for m, rows in BAD.items() for row in BAD_FOR_ALL + rows],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_input_is_named(method, argument, arguments):
    arguments = {"image": IMAGE, "psf": np.eye(3), **arguments}
    if method is wiener:
        arguments.setdefault("balance", 0.1)
    with pytest.raises(InputError, match=f"^{argument}: expected .*, got "):
        method(**arguments)


# ---- the published figures ----------------------------------------------------------------------

DATA = Path(os.environ.get("SSI_CUPY_DATA") or Path(__file__).parents[2] / "shared/data")
REFERENCE = DATA.resolve().parent / "reference"
needs_data = pytest.mark.skipif(
    not (DATA / "ssi22").is_dir() or not REFERENCE.is_dir(),
    reason=f"the benchmark's images are not at {DATA}: set SSI_CUPY_DATA",
)


def benchmark(name):
    io = pytest.importorskip("skimage.io")
    psf = np.load(REFERENCE / "psf_2d_17x17.npy")
    truth = normalise(io.imread(DATA / "ssi22" / name))
    return truth, degrade(truth, psf), psf


@needs_data
@pytest.mark.parametrize("num_iter", [5, 10])
def test_richardson_lucy_reaches_the_published_psnr(num_iter):
    name = "cytoplasm924x624.png"
    truth, image, psf = benchmark(name)
    restored = richardson_lucy(image, psf, num_iter, clip=True)
    with open(REFERENCE / "table1_classical_per_image.csv", newline="") as file:
        table = {(row["image"], row["method"]): row for row in csv.DictReader(file)}
    row = table[name, f"richardson_lucy_{num_iter}"]
    assert -20 * np.log10(rms(truth - restored)) == pytest.approx(float(row["psnr"]), abs=1e-3)


# ---- scikit-image's -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, arguments, options",
    [("richardson_lucy", {"num_iter": 4}, {}), ("wiener", {"balance": 0.1}, {"pad": 0})],
)
def test_agrees_with_scikit_image_away_from_the_border(method, arguments, options):
    """It fills with zeros outside, we reflect: inside, where no border reaches, the same."""
    from scipy.ndimage import gaussian_filter

    restoration = pytest.importorskip("skimage.restoration")
    rng = np.random.default_rng(0)
    image = gaussian_filter(rng.random((128, 120)), 2) + 0.1
    kernel = rng.random((5, 3))
    kernel /= kernel.sum()
    theirs = getattr(restoration, method)(image, kernel, clip=False, **arguments)
    ours = getattr(classical, method)(image, kernel, **arguments, **options)
    inside = (slice(30, -30),) * 2
    np.testing.assert_allclose(ours[inside], theirs[inside], rtol=0, atol=1e-6)
