"""Masks hide the right share of the pixels, and no hidden value reaches a filled image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssi_cupy import masking
from ssi_cupy.engine import backend
from ssi_cupy.engine.checks import InputError
from ssi_cupy.masking import FILLS, NoiseLevel, RandomMask, StratifiedMask, fill

SHAPES = [(1, 1, 1, 33, 41), (2, 3, 1, 17, 16), (1, 2, 5, 9, 7)]


def images(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def threads_change_nothing(draw):
    threads = backend.num_threads()
    try:
        backend.set_num_threads(1)
        one = draw()
        backend.set_num_threads(3)
        np.testing.assert_array_equal(one, draw())
    finally:
        backend.set_num_threads(threads)


# ---- masks ----------------------------------------------------------------------------------


def test_density_decays_as_the_recipe_says():
    mask, density = RandomMask(0.5, 0.05, 0.995), 0.5
    for step in range(2000):
        assert mask.density(step, 3000) == pytest.approx(density, rel=1e-12)
        density = 0.995 * density + 0.005 * 0.05


def test_linear_density_goes_over_its_share_of_the_run_and_stays():
    mask = RandomMask(0.3, 0.1, over=0.5)
    assert [mask.density(step, 100) for step in (0, 25, 50, 99)] == pytest.approx(
        [0.3, 0.2, 0.1, 0.1]
    )


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_random_mask_hides_its_density(density):
    mask = RandomMask(density, density).draw((1, 1, 1, 300, 333), 1, 0, 1)
    assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 1}
    deviation = 4 * np.sqrt(density * (1 - density) / mask.size)
    assert abs(mask.mean() - density) <= deviation


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [RandomMask, StratifiedMask])
def test_a_hidden_pixel_hides_all_channels_unless_told_otherwise(kind, shape):
    n, c, *space = shape
    assert kind().draw(shape, 1, 2, 10).shape == (n, 1, *space)
    mask = kind(per_channel=True).draw(shape, 1, 2, 10)
    assert mask.shape == shape
    planes = mask.reshape(n * c, -1)
    assert len(np.unique(planes, axis=0)) == n * c


@pytest.mark.parametrize("kind", [RandomMask(0.3, 0.3), StratifiedMask(0.1)])
def test_masks_repeat_and_change_with_step_and_seed(kind):
    shape = (1, 1, 1, 64, 64)
    here = kind.draw(shape, 1, 2, 10)
    np.testing.assert_array_equal(here, kind.draw(shape, 1, 2, 10))
    for other in (kind.draw(shape, 2, 2, 10), kind.draw(shape, 1, 3, 10)):
        assert np.any(here != other)
    threads_change_nothing(lambda: kind.draw(shape, 1, 2, 10))


@pytest.mark.parametrize("shape, side", [((2, 1, 1, 30, 42), 6), ((1, 1, 9, 12, 15), 3)])
def test_stratified_mask_hides_one_pixel_in_each_box(shape, side):
    mask = StratifiedMask(1 / side ** (2 if shape[2] == 1 else 3)).draw(shape, 3, 0, 1)
    n, _, z, y, x = shape
    depth = side if z > 1 else 1
    boxes = mask.reshape(n, z // depth, depth, y // side, side, x // side, side)
    assert np.all(boxes.sum((2, 4, 6)) == 1)


def test_stratified_mask_reaches_every_pixel_equally_borders_included():
    mask, shape, steps = StratifiedMask(1 / 9), (1, 1, 1, 10, 11), 4000
    counts = sum(mask.draw(shape, 3, step, steps).astype(int) for step in range(steps))
    assert np.all(np.abs(counts - steps / 9) < 4.5 * np.sqrt(steps / 9))


def test_validation_pixels_are_a_fixed_share_of_each_image():
    shape = (3, 2, 1, 50, 60)
    for fraction, number in [(0.1, 300), (1e-9, 1), (0, 0)]:
        mask = masking.validation_pixels(shape, fraction, 4)
        assert mask.shape == (3, 1, 1, 50, 60) and mask.dtype == np.uint8
        np.testing.assert_array_equal(mask.sum((1, 2, 3, 4)), number)
    assert np.any(
        masking.validation_pixels(shape, 0.1, 4) != masking.validation_pixels(shape, 0.1, 5)
    )


def test_validation_pixels_are_always_hidden_and_never_counted():
    shape = (1, 1, 1, 40, 40)
    mask = RandomMask(0.3, 0.3).draw(shape, 1, 0, 1)
    validation = masking.validation_pixels(shape, 0.1, 1)
    hidden, counted = masking.keep_blind(mask, validation)
    assert np.all(hidden[validation == 1] == 1) and np.all(hidden[mask == 1] == 1)
    np.testing.assert_array_equal(counted, mask * (1 - validation))
    assert 0 < np.sum(mask * validation) < np.sum(validation)  # both cases were there


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: RandomMask(start=50), "start"),
        (lambda: RandomMask(decay=1.1), "decay"),
        (lambda: RandomMask(over=-1), "over"),
        (lambda: StratifiedMask(0), "fraction"),
        (lambda: masking.validation_pixels((1, 1, 1, 4, 4), 1, 0), "fraction"),
        (lambda: fill(images(SHAPES[0]), None, "magic", 0, 0), "how"),
        (lambda: fill(images(SHAPES[1]), images(SHAPES[0]), "zero", 0, 0), "hidden"),
    ],
)
def test_bad_input_is_named(make, name):
    with pytest.raises(InputError, match=name):
        make()


# ---- fills ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", FILLS)
@pytest.mark.parametrize("per_channel", [False, True])
@settings(max_examples=15, deadline=None)
@given(
    density=st.sampled_from([0.05, 0.5, 0.95]),
    shape=st.sampled_from(SHAPES),
    noise=st.sampled_from([0, 0.3]),
    step=st.integers(0, 10**6),
)
def test_no_hidden_value_reaches_the_filled_image(how, per_channel, density, shape, noise, step):
    image, mask = images(shape), RandomMask(density, density, per_channel=per_channel)
    hidden = mask.draw(shape, 1, step, 10**6)
    filled = fill(image, hidden, how, 2, step, noise=noise)
    everywhere = np.broadcast_to(hidden, shape) == 1
    for other in (images(shape, 1), np.float32(np.nan)):
        changed = np.where(everywhere, other, image)
        np.testing.assert_array_equal(filled, fill(changed, hidden, how, 2, step, noise=noise))


@pytest.mark.parametrize("how", FILLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_that_are_seen_stay_and_the_image_is_left_alone(how, dtype):
    image = images(SHAPES[1]).astype(dtype)
    before, hidden = image.copy(), RandomMask(0.4, 0.4).draw(image.shape, 1, 0, 1)
    filled = fill(image, hidden, how, 2, 0)
    seen = np.broadcast_to(hidden, image.shape) == 0
    assert filled.dtype == dtype
    np.testing.assert_array_equal(filled[seen], image[seen])
    np.testing.assert_array_equal(image, before)
    assert np.all(filled[~seen] != image[~seen])
    threads_change_nothing(lambda: fill(image, hidden, how, 2, 0, noise=0.1))


def neighbours(image, hidden, at, radius):
    n, c, *space = at
    window = tuple(slice(max(i - radius, 0), i + radius + 1) for i in space)
    seen = hidden[(n, min(c, hidden.shape[1] - 1), *window)] == 0
    return image[(n, c, *window)][seen]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.3, 0.93])
def test_neighbour_and_local_mean_are_of_the_pixels_seen_around(shape, density):
    image, hidden = images(shape), RandomMask(density, density).draw(shape, 1, 0, 1)
    picked = fill(image, hidden, "neighbour", 2, 0, mean=9, radius=1)
    averaged = fill(image, hidden, "local_mean", 2, 0, mean=9)
    lonely = 0
    for at in np.argwhere(np.broadcast_to(hidden, shape)):
        around = neighbours(image, hidden, at, 1)
        lonely += around.size == 0
        assert picked[tuple(at)] in (around if around.size else [9])
        mean = around.mean(dtype=np.float64) if around.size else 9
        assert averaged[tuple(at)] == pytest.approx(mean, abs=1e-6)
    assert (lonely > 0) == (density > 0.9)


@pytest.mark.parametrize("crowd", [0, 17])  # with most hidden, all three throws mostly fail
def test_every_neighbour_is_picked_equally_often(crowd):
    image = np.arange(25, dtype=np.float32).reshape(1, 1, 1, 5, 5)
    hidden = np.zeros((1, 1, 1, 5, 5), np.uint8)
    hidden.reshape(-1)[np.random.default_rng(0).permutation(25)[:crowd]] = 1
    hidden[..., 2, 2] = 1
    steps, seen = 6000, image[hidden == 0].astype(int)
    picks = [fill(image, hidden, "neighbour", 3, step)[0, 0, 0, 2, 2] for step in range(steps)]
    counts = np.bincount(np.array(picks, int), minlength=25)
    assert counts.sum() == counts[seen].sum() == steps
    assert np.all(np.abs(counts[seen] - steps / seen.size) < 4 * np.sqrt(steps / seen.size))


def test_gaussian_fill_has_its_mean_and_sigma_and_zero_is_zero():
    shape = (1, 2, 1, 200, 200)
    image, hidden = images(shape), RandomMask(0.5, 0.5).draw(shape, 1, 0, 1)
    everywhere = np.broadcast_to(hidden, shape) == 1
    values = fill(image, hidden, "gaussian", 2, 0, sigma=0.2, mean=3)[everywhere]
    assert values.mean() == pytest.approx(3, abs=0.005) and values.std() == pytest.approx(0.2, 0.02)
    np.testing.assert_array_equal(fill(image, hidden, "zero", 2, 0)[everywhere], 0)
    again = fill(image, hidden, "gaussian", 2, 1, sigma=0.2, mean=3)[everywhere]
    assert abs(np.corrcoef(values, again)[0, 1]) < 0.02


@pytest.mark.parametrize("how", FILLS)
def test_noise_is_added_before_pixels_are_hidden(how):
    shape = (1, 1, 1, 200, 200)
    image, hidden = images(shape), RandomMask(0.2, 0.2).draw(shape, 1, 0, 1)
    filled, noisy = fill(image, hidden, how, 2, 0, noise=0.3), masking.add_noise(image, 0.3, 2, 0)
    np.testing.assert_array_equal(filled[hidden == 0], noisy[hidden == 0])
    added = (noisy - image)[hidden == 0]
    assert added.std() == pytest.approx(0.3, rel=0.02) and abs(added.mean()) < 0.006
    if how == "zero":
        np.testing.assert_array_equal(filled[hidden == 1], 0)
    if how == "neighbour":
        assert np.all(np.isin(filled[hidden == 1], noisy[hidden == 0]))


def test_noise_level_is_that_of_the_recipe():
    level = NoiseLevel(0.1, 10_000)
    assert level.level(0, 3000) == 0.1
    assert level.level(300, 3000) == pytest.approx(0.1 / (1 + 10_000 * 300 / 3000))
