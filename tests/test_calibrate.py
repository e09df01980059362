"""Classical methods with weighted pixels, and their settings by what they were not shown."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ssi_cupy import InputError, classical, degrade, metrics
from ssi_cupy.psf import gaussian

PSF = gaussian((1.5, 1.0), size=(9, 7))
METHODS = {
    "richardson_lucy": {}, "richardson_lucy_tv": {}, "tv_admm": {"weight": 0.01, "pad": 8},
    "tv_chambolle_pock": {"weight": 0.01}, "tv_conjugate_gradient": {"smoothing": 0.1},
    "wiener": {"balance": 0.01},
}  # fmt: skip
both = pytest.mark.parametrize("name", METHODS)


def scene(size=96, seed=0):
    """Cells: bright bodies of even grey on a dark ground."""
    rng = np.random.default_rng(seed)
    bodies = gaussian_filter(rng.random((size, size)), 3)
    return 0.2 + 0.8 * gaussian_filter((bodies > np.percentile(bodies, 70)) * 1.0, 0.5)


def noisy(truth, sigma=0.05, seed=1):
    image = degrade.blur(truth, PSF, "mirror")
    return np.abs(image + sigma * np.random.default_rng(seed).normal(size=image.shape))


def run(name, image, **options):
    return getattr(classical, name)(image, PSF, **METHODS[name] | options)


@both
def test_weights_of_one_change_nothing(name):
    image = noisy(scene())
    weighted = run(name, image, weights=np.ones(image.shape))
    np.testing.assert_allclose(weighted, run(name, image), atol=2e-6)


@both
def test_a_pixel_of_weight_zero_is_not_looked_at(name):
    image = noisy(scene())
    hidden = np.random.default_rng(2).random(image.shape) < 0.1
    other = np.where(hidden, np.random.default_rng(3).random(image.shape), image)
    first, second = (run(name, a, weights=~hidden) for a in (image, other))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
    assert np.abs(first - run(name, image)).max() > 1e-3


def test_both_total_variations_minimise_the_weighted_squares():
    image = np.pad(noisy(scene(32)) - 0.2, 12)  # what is beyond the border is nothing to it
    weights = np.random.default_rng(2).random(image.shape)
    blur = classical.shared.Blur(PSF, "mirror")

    def energy(x, weights):
        slopes = classical.shared.gradient(x.astype(float))
        squares = (weights * (blur(x.astype(float)) - image) ** 2).sum() / 2
        return squares + 0.01 * np.sqrt(sum(g * g for g in slopes)).sum()

    one = classical.tv_admm(image, PSF, 600, weight=0.01, weights=weights)
    two = classical.tv_chambolle_pock(image, PSF, 1500, weight=0.01, weights=weights)
    plain = classical.tv_chambolle_pock(image, PSF, 1500, weight=0.01)
    least = energy(two, weights)
    assert energy(one, weights) < 1.001 * least
    assert energy(plain, weights) > 1.02 * least


@pytest.mark.parametrize("hold_out", ["pixels", "counts"])
def test_richardson_lucy_stops_near_the_best(hold_out):
    truth = scene()
    blurred = degrade.blur(truth, PSF, "mirror")
    image = np.random.default_rng(4).poisson(60 * blurred)
    found = classical.calibrate(classical.richardson_lucy, image, PSF, hold_out=hold_out)
    score = [
        metrics.psnr(truth, classical.richardson_lucy(image, PSF, n) / 60, data_range=1)
        for n in range(1, 41)
    ]
    assert max(score) - score[found.setting - 1] < 0.2
    assert max(score) - score[-1] > 3 and found.hold_out == hold_out
    assert found.setting == int(found.setting)
    assert list(found.curve[:, 0]) == list(range(1, len(found.curve) + 1))


@pytest.mark.parametrize("seed", [0, 1])
def test_few_points_of_light_are_not_stopped_at_once(seed):
    rng = np.random.default_rng(seed)
    truth = np.zeros((96, 96))
    truth[tuple(rng.integers(0, 96, (2, 60)))] = rng.random(60)
    truth = gaussian_filter(truth, 0.7)
    truth = 0.02 + 0.98 * truth / truth.max()
    image = np.random.default_rng(4 + seed).poisson(30 * degrade.blur(truth, PSF, "mirror"))
    found = classical.calibrate(classical.richardson_lucy, image, PSF)
    score = [
        metrics.psnr(truth, classical.richardson_lucy(image, PSF, n) / 30, data_range=1)
        for n in range(1, 13)
    ]
    assert found.hold_out == "counts" and found.setting > 1
    assert max(score) - score[found.setting - 1] < 1


@pytest.mark.parametrize("name", ["tv_admm", "tv_chambolle_pock", "wiener"])
def test_a_weight_near_the_best(name):
    truth, setting = scene(), "balance" if name == "wiener" else "weight"
    image = noisy(truth)
    found = classical.calibrate(getattr(classical, name), image, PSF)
    near = found.setting * 2.0 ** np.arange(-6, 6.5)
    score = [
        metrics.psnr(truth, run(name, image, **{setting: value}), data_range=1) for value in near
    ]
    assert found.name == setting
    assert max(score) - score[6] < 0.2
    assert max(score) - min(score) > 1


def test_the_error_is_the_noise_and_little_more():
    image = noisy(scene(128))
    found = classical.calibrate(classical.tv_admm, image, PSF)
    assert found.error == pytest.approx(0.05**2, rel=0.15)
    assert 0 < found.standard_error < 0.1 * found.error
    assert found.hold_out == "pixels"


def test_counts_are_told_and_outliers_hardly_seen():
    truth = scene()
    counts = np.random.default_rng(4).poisson(20 * degrade.blur(truth, PSF, "mirror"))
    assert classical.calibrate(classical.richardson_lucy, counts, PSF).hold_out == "counts"
    image = noisy(truth)
    held_out = np.random.default_rng(5).random(image.shape) < 0.1
    spoilt = np.where(held_out & (np.random.default_rng(6).random(image.shape) < 0.01), 50.0, image)
    clean, found = (
        classical.calibrate(classical.tv_admm, a, PSF, held_out=held_out) for a in (image, spoilt)
    )
    assert clean.error < found.error < 2 * clean.error


def test_auto_is_what_calibrate_chooses():
    image = noisy(scene())
    iterations = classical.calibrate(classical.richardson_lucy, image, PSF, mode="nearest").setting
    np.testing.assert_array_equal(
        classical.richardson_lucy(image, PSF, "auto", mode="nearest"),
        classical.richardson_lucy(image, PSF, iterations, mode="nearest"),
    )
    weight = classical.calibrate(classical.tv_admm, image, PSF, num_iter=20).setting
    np.testing.assert_array_equal(
        classical.tv_admm(image, PSF, 20, weight="auto"),
        classical.tv_admm(image, PSF, 20, weight=weight),
    )
    assert run("wiener", image, balance="auto").shape == image.shape
    assert run("richardson_lucy_tv", image, num_iter="auto", weight="auto").shape == image.shape


def test_the_same_seed_the_same_curve_and_a_volume():
    image = noisy(scene())
    one, two, other = (
        classical.calibrate(classical.richardson_lucy, image, PSF, rng=rng).curve
        for rng in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one[:5], other[:5])
    volume = np.stack([image, image[::-1], image]).astype(np.float32)
    found = classical.calibrate(classical.richardson_lucy, volume, PSF[None])
    assert 1 <= found.setting < 100


def test_what_cannot_be_calibrated():
    image = noisy(scene(32))
    lucy = classical.richardson_lucy
    for arguments, options, name in [
        ((np.mean, image, PSF), {}, "method"),
        ((lucy, image, PSF), {"setting": "weight"}, "setting"),
        ((lucy, image, PSF), {"num_iter": 3}, "num_iter"),
        ((lucy, image, PSF), {"fraction": 0}, "fraction"),
        ((lucy, image, PSF), {"hold_out": "rows"}, "hold_out"),
        ((lucy, image, PSF), {"hold_out": "counts"}, "image"),
        ((lucy, image, PSF), {"held_out": np.ones(image.shape)}, "held_out"),
        ((lucy, image, PSF), {"held_out": np.ones((3, 3))}, "held_out"),
        ((lucy, image - 1, PSF), {}, "image"),
    ]:
        with pytest.raises(InputError, match=f"^{name}: expected"):
            classical.calibrate(*arguments, **options)
    for weights in (np.zeros(image.shape), 2 * np.ones(image.shape), np.ones((2, 2))):
        with pytest.raises(InputError, match="^weights: expected"):
            lucy(image, PSF, weights=weights)
    with pytest.raises(InputError, match="^num_iter: expected"):
        lucy(image, PSF, "best")
