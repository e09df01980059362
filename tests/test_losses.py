"""The losses are the sum that they say, look where they say, and hide no NaN."""

import numpy as np
import pytest

from ssi_cupy.engine.checks import InputError
from ssi_cupy.losses import Losses
from ssi_cupy.ops.loss_terms import bound, invariance, masked_loss, positivity
from ssi_cupy.ops.pad import branch
from ssi_cupy.ops.total_variation import kernel_continuity, total_variation
from ssi_cupy.tape import Tape

SHAPE = (1, 2, 1, 19, 23)
EVERYTHING = {"bound": 0.1, "positivity": 0.4, "tv": 0.2, "tv_eps": 0.1, "scale": 2.0}


def inputs(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    x, prediction, target = rng.normal(size=(3, *SHAPE)).astype(dtype)
    return x, prediction, target, (rng.random((1, 1, *SHAPE[2:])) < 0.4).astype(np.uint8)


def test_total_is_the_weighted_sum_of_the_parts():
    x, prediction, target, mask = inputs()
    losses = Losses(blind_spot=0.7, **EVERYTHING)
    total, parts = losses(x, prediction, target, mask)
    length = 0.1**2
    for axis in (2, 3, 4):
        length = length + np.diff(x, axis=axis, append=np.take(x, [-1], axis)) ** 2
    expected = {
        "blind_spot": np.mean(mask * (prediction - target) ** 2),
        "bound": np.mean(np.maximum(-x, 0) + np.maximum(x - 1, 0)) ** 2,
        "positivity": np.mean(np.maximum(-x, 0)) / 2,
        "tv": np.mean(np.sqrt(length)),
    }
    assert parts == pytest.approx(expected, rel=1e-12)
    weights = {"blind_spot": 0.7, "bound": 0.1, "positivity": 0.4, "tv": 0.2}
    assert total == pytest.approx(sum(weights[n] * v for n, v in expected.items()), rel=1e-12)


def test_gradient_of_the_total_equals_its_directional_derivative():
    *images, mask = inputs()
    losses = Losses(kind="huber", delta=3.0, bound_squared=False, **EVERYTHING)
    tape = Tape()
    x, prediction = tape.var(images[0]), tape.var(images[1])
    total, _ = losses(x, prediction, images[2], mask)
    tape.backward(total)
    v = np.random.default_rng(1).normal(size=(2, *SHAPE))

    def along(t):
        return losses(images[0] + t * v[0], images[1] + t * v[1], images[2], mask)[0]

    h = 1e-6
    slope = (along(-2 * h) - 8 * along(-h) + 8 * along(h) - along(2 * h)) / (12 * h)
    assert slope == pytest.approx(np.vdot(x.grad, v[0]) + np.vdot(prediction.grad, v[1]), rel=1e-6)


SIX = {  # Papkov et al., Eq. 1
    "blind_spot": 0.7, "reconstruction": 1.1, "invariance": 2.0, "invariance_blurred": 1.5,
    "bound": 0.1, "bound_blurred": 0.2,
}  # fmt: skip


def test_the_six_terms_of_two_passes():
    masked_x, masked_blurred, target, mask = inputs()
    x, blurred, _, inside = inputs(seed=1)
    losses = Losses(bound_squared=False, normalise="masked", low=-0.5, **SIX)
    total, parts = losses(masked_x, masked_blurred, target, mask, whole=(x, blurred), inside=inside)
    where = np.broadcast_to(mask, SHAPE) == 1
    excess = [np.mean(np.maximum(-0.5 - u, 0) + np.maximum(u - 1, 0)) for u in (x, blurred)]
    expected = {
        "blind_spot": np.mean((masked_blurred - target)[where] ** 2),
        "reconstruction": np.mean((blurred - target)[np.broadcast_to(inside, SHAPE) == 1] ** 2),
        "invariance": np.sqrt(np.mean((x - masked_x)[where] ** 2)),
        "invariance_blurred": np.sqrt(np.mean((blurred - masked_blurred)[where] ** 2)),
        "bound": excess[0],
        "bound_blurred": excess[1],
    }
    assert parts == pytest.approx(expected, rel=1e-12)
    assert total == pytest.approx(sum(SIX[n] * v for n, v in expected.items()), rel=1e-12)


def test_gradient_of_the_six_terms_equals_its_directional_derivative():
    *masked, target, mask = inputs()
    *whole, _, inside = inputs(seed=1)
    images, losses = np.array([*masked, *whole[:2]]), Losses(bound_squared=False, **SIX)

    def loss(a, b, c, d):
        return losses(a, b, target, mask, whole=(c, d), inside=inside)[0]

    tape = Tape()
    leaves = [tape.var(image) for image in images]
    tape.backward(loss(*leaves))
    v, h = np.random.default_rng(1).normal(size=images.shape), 1e-6
    at = [loss(*(images + t * h * v)) for t in (-2, -1, 1, 2)]
    slope = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
    assert slope == pytest.approx(sum(np.vdot(u.grad, w) for u, w in zip(leaves, v, strict=True)),
                                  rel=1e-6)  # fmt: skip


def test_two_passes_that_agree_are_invariant_and_pull_nowhere():
    x, _, _, mask = inputs()
    tape = Tape()
    var = tape.var(x)
    loss = invariance(var, x, mask)
    tape.backward(loss)
    assert loss.value == 0
    np.testing.assert_array_equal(var.grad, 0)


def test_terms_of_weight_zero_are_not_computed():
    total, parts = Losses(blind_spot=2, bound=0)(*inputs(dtype=np.float32))
    assert set(parts) == {"blind_spot"} and total.dtype == np.float32
    assert total == 2 * parts["blind_spot"]
    # not even where they could not be: no prediction, no target
    assert set(Losses(blind_spot=0, tv=1)(inputs()[0], None, None, None)[1]) == {"bound", "tv"}


@pytest.mark.parametrize("normalise", ["pixels", "masked"])
def test_only_the_masked_pixels_count(normalise):
    x, prediction, target, mask = inputs(dtype=np.float32)
    losses, unseen = Losses(bound=0, normalise=normalise), np.broadcast_to(mask, SHAPE) == 0
    before = losses(x, prediction, target, mask)[0]
    for value in (7, np.nan, np.inf):  # missing data may be marked by NaN
        target[unseen] = value
        tape = Tape()
        var = tape.var(prediction)
        total, _ = losses(x, var, target, mask)
        tape.backward(total)
        assert total.value == before
        np.testing.assert_array_equal(var.grad[unseen], 0)
        assert np.all(var.grad[~unseen] != 0)


def test_validation_is_the_mean_over_its_pixels():
    x, prediction, target, mask = inputs()
    everywhere = np.broadcast_to(mask, SHAPE) == 1
    for kind, rho in [("l2", np.square), ("l1", np.abs)]:
        expected = np.mean(rho(prediction - target)[everywhere])
        assert Losses(kind=kind).validation(prediction, target, mask) == pytest.approx(expected)


@pytest.mark.parametrize("normalise", ["pixels", "masked"])
def test_an_empty_mask_has_the_loss_zero_and_no_gradient(normalise):
    x, y, _, mask = inputs()
    loss, saved = masked_loss.forward(x, y, 0 * mask, normalise=normalise)
    assert loss == 0
    np.testing.assert_array_equal(masked_loss.backward(1.0, saved)[0], 0)


def test_a_flat_image_has_no_variation_and_no_gradient():
    loss, saved = total_variation.forward(np.full(SHAPE, 3.0), eps=0)
    assert loss == 0
    np.testing.assert_array_equal(total_variation.backward(1.0, saved), 0)
    assert total_variation(np.full(SHAPE, 3.0), eps=0.5) == pytest.approx(0.5)
    assert kernel_continuity(np.ones((1, 8, 1, 1, 1))) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "term",
    [
        *(lambda x, k=k: masked_loss(x, 0 * x, np.ones_like(x), kind=k) for k in ("l2", "l1")),
        lambda x: masked_loss(x, np.zeros_like(x), np.ones(x.shape, np.uint8), kind="huber"),
        bound,
        positivity,
        total_variation,
        kernel_continuity,
    ],
)
def test_a_nan_in_the_image_is_seen_in_the_loss(term, dtype):
    x = np.full(SHAPE, 0.5, dtype)
    assert np.isfinite(term(x))
    for place in (0, 200, -1):
        bad = x.copy()
        bad.reshape(-1)[place] = np.nan
        assert np.isnan(term(bad))


def test_float32_sums_do_not_drift_with_the_size():
    x = np.full((1, 1, 1, 1000, 1000), 0.1, np.float32)
    exact = float(np.float32(0.1))
    assert masked_loss(x, 0 * x, np.ones_like(x), kind="l1") == pytest.approx(exact, rel=1e-7)
    assert bound(x, low=1.0, high=2.0) == pytest.approx(1 - exact, rel=1e-7)


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: Losses(kind="l3"), "kind"),
        (lambda: Losses(tv=-1), "tv"),
        (lambda: Losses(invariance=-1), "invariance"),
        (lambda: Losses(invariance=1)(*inputs()), "whole"),
        (lambda: branch(np.ones((4, *SHAPE[1:])), index=0, of=3), "index"),
        (lambda: Losses(normalise="never"), "normalise"),
        (lambda: Losses(blind_spot=0, bound=0), "blind_spot"),
        (lambda: masked_loss(np.ones(SHAPE), np.ones((1, 1, 1, 19, 23)), np.ones(SHAPE)), "y"),
        (lambda: masked_loss(np.ones(SHAPE), np.ones(SHAPE), np.ones((1, 1, 1, 9, 9))), "mask"),
        (lambda: total_variation(np.ones(SHAPE), spacing=(1, 0, 1)), "spacing"),
        (lambda: positivity(np.ones(SHAPE), scale=0), "scale"),
    ],
)
def test_bad_input_is_named(make, name):
    with pytest.raises(InputError, match=name):
        make()
