"""Patches: where they lie, what they see of the physics, how often each pixel has a say."""

import dataclasses

import numpy as np
import pytest

from ssi_cupy import recipes, symmetry
from ssi_cupy.engine.checks import InputError
from ssi_cupy.masking import validation_pixels
from ssi_cupy.physics import PSFConvolution
from ssi_cupy.training import patches
from ssi_cupy.training.forward_model import reach_of
from ssi_cupy.training.image_sets import gather
from ssi_cupy.training.patches import ImageSet, Patches, geometry, held_out
from ssi_cupy.training.units import units_of

RNG = np.random.default_rng(0)


def recipe(patch, batch=3, **more):
    return dataclasses.replace(recipes.SSI, crop=None, patch=patch, batch=batch, **more)


def source(image, patch, psf=None, mode="mirror", symmetries=(symmetry.IDENTITY,), seed=1, **more):
    reach = (0, 0, 0) if psf is None else reach_of(PSFConvolution(psf, mode=mode))
    options = {"reach": reach, "wrap": mode == "wrap", "symmetries": list(symmetries), "seed": seed}
    return Patches(image, recipe(patch, **more), **options)


def buffers(of):
    n, _, *box = of.shape
    masks = (np.full((n, 1, *box), 7, np.uint8) for _ in range(2))
    return np.full(of.shape, np.nan, np.float32), *masks


def drawn(of, step=0):
    made = buffers(of)
    of.draw(step, *made)
    return made


# ---- the same physics -----------------------------------------------------------------------


def corners_and_middle(shape, patch):
    """Places of a patch: every corner, edge and face of the image, and within."""
    axes = [sorted({0, 1, (n - p) // 2, n - p}) for n, p in zip(shape, patch, strict=True)]
    return [tuple(place) for place in np.array(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).T]


@pytest.mark.parametrize("mode", ["mirror", "nearest", "constant", "wrap"])
@pytest.mark.parametrize("shape, patch, size", [
    ((1, 40, 47), 12, (1, 7, 7)), ((1, 40, 33), 17, (1, 4, 9)), ((1, 20, 21), 16, (1, 9, 7)),
    ((9, 21, 20), 5, (3, 5, 4)), ((4, 18, 19), 8, (5, 5, 5)),
])  # fmt: skip
def test_the_blur_of_a_box_is_that_of_the_image_at_every_pixel_inside(shape, patch, size, mode):
    g = PSFConvolution(RNG.uniform(size=size), mode=mode)
    x = RNG.normal(size=(1, 1, *shape))
    made, _ = geometry([shape], patch, reach_of(g), mode == "wrap")
    blurred = g.forward(x)
    for at in corners_and_middle(shape, made.patch):
        start = made.start(at, shape)
        box = patches._box(x[0], start, made.box)[None]
        there = made.inside(at, start)
        here = tuple(slice(a, a + p) for a, p in zip(at, made.patch, strict=True))
        assert np.allclose(g.forward(box)[0, 0][there], blurred[0, 0][here], rtol=0, atol=1e-12)


def test_without_a_halo_it_is_not():
    g = PSFConvolution(RNG.uniform(size=(5, 5)))
    x = RNG.normal(size=(1, 1, 1, 30, 30))
    part = np.s_[..., 8:16, 8:16]
    assert np.abs(g.forward(x[part]) - g.forward(x)[part]).max() > 0.1


@pytest.mark.parametrize("shape", [(1, 1, 1, 40, 50), (1, 2, 7, 24, 31)])
def test_a_batch_is_made_of_boxes_of_the_image(shape):
    image = RNG.normal(size=shape).astype(np.float32)
    of = source(image, 16, np.ones((3, 5)), symmetries=symmetry.every(2 if shape[2] == 1 else 3))
    y, validation, inside = drawn(of, 3)
    pixels = validation_pixels(shape, 0.1, 1)
    for i in range(len(y)):
        _, at, transform = of._place(3, i, False)
        start = of.geometry.start(at, shape[2:])
        cut = tuple(slice(a, a + n) for a, n in zip(start, of.shape[2:], strict=True))
        back = symmetry.undo
        assert np.array_equal(back(y[i : i + 1], transform)[0], image[(0, slice(None), *cut)])
        assert np.array_equal(back(validation[i : i + 1], transform)[0, 0], pixels[(0, 0, *cut)])
        assert inside[i].sum() == np.prod(of.geometry.patch)
        there = back(inside[i : i + 1], transform)[0, 0]
        assert there[of.geometry.inside(at, start)].all()


@pytest.mark.parametrize("mode", ["mirror", "wrap"])
def test_a_pixel_is_inside_as_often_as_with_plain_random_crops(mode):
    size, patch = 20, 16
    marked = np.arange(size * size, dtype=np.float32).reshape(1, 1, 1, size, size)
    of = source(marked, patch, np.ones((3, 3)), mode, batch=8, symmetries=symmetry.every(2))
    seen, batches = np.zeros(size * size), 400
    made = buffers(of)
    for step in range(batches):
        of.draw(step, *made)
        seen += np.bincount(made[0][made[2] > 0].astype(int), minlength=size * size)
    along = np.convolve(np.ones(size - patch + 1), np.ones(patch))
    expected = np.outer(along, along) / (size - patch + 1) ** 2
    share = seen.reshape(size, size) / (8 * batches)
    spread = np.sqrt(expected * (1 - expected) / (8 * batches))
    assert np.all(np.abs(share - expected) <= 5 * spread + 1e-12)


def test_a_batch_depends_on_seed_and_step_alone():
    image = RNG.normal(size=(1, 1, 1, 64, 64)).astype(np.float32)
    a, b = (source(image, 16, symmetries=symmetry.every(2)) for _ in range(2))
    drawn(b, 0)
    first = drawn(a, 5)[0]
    assert np.array_equal(first, drawn(b, 5)[0])
    assert not np.array_equal(first, drawn(a, 6)[0])
    assert not np.array_equal(first, drawn(source(image, 16, seed=2), 5)[0])


def test_validation_patches_stay_the_same_and_are_not_turned():
    image = RNG.normal(size=(1, 1, 1, 64, 64)).astype(np.float32)
    of = source(image, 16, np.ones((3, 3)), batch=8, symmetries=symmetry.every(2))
    assert of.checks == 3
    first, again, other = (buffers(of) for _ in range(3))
    of.check(0, *first), of.check(0, *again), of.check(1, *other)
    assert all(map(np.array_equal, first, again)) and not np.array_equal(first[0], other[0])
    assert (first[1] & first[2]).any()


# ---- sizes ----------------------------------------------------------------------------------


def test_a_patch_larger_than_the_image_becomes_smaller_with_a_warning(caplog):
    made, _ = geometry([(1, 30, 100)], 64, (0, 3, 3))
    assert made.patch == (1, 30, 64) and made.box == (1, 30, 70)
    assert "do not fit" in caplog.text
    caplog.clear()
    geometry([(1, 100, 100)], 64, (0, 3, 3))
    assert not caplog.text


def test_a_turn_that_exchanges_axes_needs_a_square_box():
    image = RNG.normal(size=(1, 1, 1, 30, 100)).astype(np.float32)
    of = source(image, 64, symmetries=symmetry.every(2))
    assert len(of.symmetries) == 4 and not any(exchange for exchange, _ in of.symmetries)


def test_a_box_is_rounded_up_where_there_is_room():
    assert geometry([(1, 99, 99)], 64, (0, 3, 3), multiple=(1, 16, 16))[0].box == (1, 80, 80)
    assert geometry([(1, 75, 99)], 64, (0, 3, 3), multiple=(1, 16, 16))[0].box == (1, 70, 80)


def test_images_that_are_too_small_for_a_box_are_left_out(caplog):
    made, chosen = geometry([(1, 80, 80), (1, 66, 90), (1, 70, 71)], 64, (0, 3, 3))
    assert made.box == (1, 70, 70) and chosen == [0, 2] and "1 of 3" in caplog.text
    made, chosen = geometry([(1, 40, 50), (1, 50, 40)], 64, (0, 3, 3))  # all of them
    assert made.patch == (1, 34, 34) and made.box == (1, 40, 40) and chosen == [0, 1]
    with pytest.raises(InputError, match="twice the reach"):
        geometry([(1, 40, 50), (1, 50, 40)], 64, (0, 20, 20))


# ---- many images ----------------------------------------------------------------------------


def image_set(arrays, patch=16, batch=4, validation=0.2, seed=0, **more):
    made = recipe(patch, batch, validation=validation, normalise="standardise", **more)
    options = {"reach": (0, 2, 2), "symmetries": [symmetry.IDENTITY], "seed": seed}
    return ImageSet(gather(arrays), made, like=np.empty(0), **options)


def numbered(count, sizes=(40, 44, 52)):
    """Images that have their number in the hundreds."""
    return [
        (100 * i + RNG.uniform(0, 50, (sizes[i % len(sizes)], sizes[(i + 1) % len(sizes)])))
        for i in range(count)
    ]


def test_one_unit_for_the_set_and_held_out_images_are_not_trained_on():
    arrays = numbered(10)
    of = image_set(arrays)
    training, validating = of.parts
    assert len(validating) == 2 and sorted(training + validating) == list(range(10))
    together = np.concatenate([arrays[i].ravel() for i in training])
    assert of.units == pytest.approx((together.mean(), together.std()), rel=1e-12)
    offset, scale = of.units
    made, seen = buffers(of), set()
    for step in range(30):
        of.draw(step, *made)
        assert not made[1].any()
        seen |= set((made[0] * scale + offset).mean(axis=(1, 2, 3, 4)).astype(int) // 100)
    assert seen == set(training)
    seen = set()
    for number in range(of.checks):
        of.check(number, *made)
        assert 0 < made[1].mean() < 0.3
        seen |= set((made[0] * scale + offset).mean(axis=(1, 2, 3, 4)).astype(int) // 100)
    assert seen == set(validating)


def test_a_validation_looks_at_one_held_out_image_after_the_other():
    of = image_set(numbered(10), validation=0.3, batch=2)
    assert len(of.parts[1]) == 3
    places = [of._place(patches.VALIDATION_STEP + n, i, True)[0] for n in range(3) for i in (0, 1)]
    assert places == [0, 1, 2, 0, 1, 2]


def test_a_set_of_volumes_with_channels():
    arrays = [RNG.normal(size=(2, 9, 30, 30 + i)) for i in range(3)]
    y, _, inside = drawn(image_set(arrays, patch=8))
    assert y.shape == (4, 2, 8, 12, 12) and np.isfinite(y).all()
    assert inside.sum() == 4 * 8**3


@pytest.mark.parametrize("normalise", ["range", "percentile", "standardise"])
def test_units_of_a_set(normalise):
    arrays = numbered(4)
    low, scale = units_of(gather(arrays), normalise)
    y = np.concatenate([a.ravel() for a in arrays])
    if normalise == "standardise":
        assert (low, scale) == pytest.approx((y.mean(), y.std()))
    else:
        ends = np.percentile(y, (0.5, 99.5)) if normalise == "percentile" else (y.min(), y.max())
        assert (low, low + scale) == pytest.approx(tuple(ends))
    with pytest.raises(InputError, match="constant"):
        units_of(gather([np.ones((20, 20))] * 2), normalise)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999, 1.0])
def test_of_all_images_at_least_one_is_held_out_and_one_is_not(count, share):
    found = held_out(count, share, seed=3)
    assert found <= set(range(count)) and 1 <= len(found) <= count - 1
    assert len(found) == min(max(round(share * count), 1), count - 1)
    assert held_out(count, 0.0, seed=3) == set()
