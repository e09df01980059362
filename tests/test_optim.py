"""Adam and its relatives compute the published formulas, and go on from a file to the same bits."""

import io

import numpy as np
import pytest

from ssi_cupy import optim, random
from ssi_cupy.engine import backend
from ssi_cupy.engine.checks import InputError
from ssi_cupy.optim import Adam, Constant, MovingAverage, OneCycle, Plateau, StepDecay

SIZE = 5003  # not a multiple of the four numbers of a block
RATES = [0.01, 0.01, 0.005, 0.02, 0.001, 0.01]


def vectors(count, dtype=np.float64, seed=0):
    return list(np.random.default_rng(seed).normal(size=(count, SIZE)).astype(dtype))


def adam_as_published(w, gradients, rates, b1=0.9, b2=0.999, eps=1e-8, l2=0.0, l1=0.0, noise=()):
    """Algorithm 1 of Kingma and Ba, with L2 and L1 gradients and a last term of noise."""
    m, v = 0.0, 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        g = g + l2 * w + l1 * np.sign(w)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        w = w - rate * m_hat / (np.sqrt(v_hat) + eps)
        if len(noise):
            w = w + noise[t - 1]
    return w


def run(adam, w, gradients, rates=RATES):
    w = w.copy()
    for g, rate in zip(gradients, rates, strict=True):
        adam.step(w, g, rate)
    return w


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 2e-6)])
@pytest.mark.parametrize(
    "settings", [{}, {"l2": 0.03}, {"l1": 0.02}, {"l2": 0.1, "l1": 0.2, "betas": (0.5, 0.9)}]
)
def test_adam_is_the_published_algorithm(settings, dtype, tolerance):
    w, *gradients = vectors(7)
    w[::7] = 0  # whose L1 gradient is 0
    b1, b2 = settings.pop("betas", (0.9, 0.999))
    expected = adam_as_published(w, gradients, RATES, b1, b2, **settings)
    adam = Adam(SIZE, dtype, betas=(b1, b2), **settings)
    got = run(adam, w.astype(dtype), [g.astype(dtype) for g in gradients])
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_weight_noise_decays_as_the_recipe_says():
    """lr · noise / (1 + step) · N(0, 1), step from 0, after the step of Adam."""
    w, *gradients = vectors(7)
    noise = [
        rate * 0.1 / (1 + step) * random.normal((SIZE,), 9, random.Stream.WEIGHT_NOISE, step, float)
        for step, rate in enumerate(RATES)
    ]
    got = run(Adam(SIZE, np.float64, noise=0.1, seed=9), w, gradients)
    np.testing.assert_allclose(got, adam_as_published(w, gradients, RATES, noise=noise), atol=1e-12)
    assert np.any(got != run(Adam(SIZE, np.float64, noise=0.1, seed=8), w, gradients))


def test_adam_leaves_the_gradient_alone_and_threads_change_no_bit():
    w, *gradients = vectors(7, np.float32)
    before, threads = [g.copy() for g in gradients], backend.num_threads()
    results = []
    try:
        for number in (1, 2, 3):
            backend.set_num_threads(number)
            adam = Adam(SIZE, np.float32, l2=0.1, l1=0.1, noise=0.1)
            results.append(run(adam, w, gradients))
    finally:
        backend.set_num_threads(threads)
    np.testing.assert_array_equal(gradients, before)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def through_a_file(state):
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    return dict(np.load(file, allow_pickle=False))


def test_a_resumed_run_equals_an_unbroken_one():
    w, *gradients = vectors(7, np.float32)
    settings = {"l2": 0.1, "noise": 0.1, "seed": 4}
    whole = run(Adam(SIZE, np.float32, **settings), w, gradients)
    first, second = Adam(SIZE, np.float32, **settings), Adam(SIZE, np.float32, **settings)
    half = run(first, w, gradients[:3], RATES[:3])
    state = first.state()
    run(first, w, gradients[3:], RATES[3:])  # a state is a copy: what goes on does not change it
    second.load(through_a_file(state))
    np.testing.assert_array_equal(run(second, half, gradients[3:], RATES[3:]), whole)


@pytest.mark.parametrize(
    "make, name",
    [
        (lambda: Adam(3, np.float32, lr=-1), "lr"),
        (lambda: Adam(3, np.float32, betas=(0.9, 1)), "betas"),
        (lambda: Adam(3, np.float32, eps=0), "eps"),
        (lambda: Adam(3, np.float32).step(np.zeros(3), np.zeros(3)), "params"),
        (lambda: Adam(3, np.float64).step(np.zeros(3), np.zeros(4)), "gradient"),
        (lambda: Adam(3, np.float32).load(Adam(4, np.float32).state()), "first"),
        (lambda: MovingAverage(3, np.float32, decay=1), "decay"),
        (lambda: MovingAverage(3, np.float32).update(np.zeros(3)), "params"),
        (lambda: Plateau(patience=0), "patience"),
        (lambda: StepDecay(every=0), "every"),
        (lambda: OneCycle(warmup=2), "warmup"),
    ],
)
def test_bad_input_is_named(make, name):
    with pytest.raises(InputError, match=name):
        make()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None])
def test_the_total_tells_of_a_weight_that_is_not_finite(value):
    (w,) = vectors(1, np.float32)
    assert optim.total(w) == pytest.approx(w.sum(dtype=np.float64), rel=1e-12)
    if value is not None:
        w[-1] = value
        np.testing.assert_equal(optim.total(w), value)


# ---- moving average -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_moving_average_is_the_weighted_mean_of_what_it_saw(dtype, tolerance):
    seen, average = vectors(9, dtype), MovingAverage(SIZE, dtype, decay=0.8)
    with pytest.raises(ValueError, match="empty"):
        average.value()
    for w in seen:
        average.update(w)
    weights = 0.8 ** np.arange(len(seen))[::-1]
    expected = np.average(np.array(seen, np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(average.value(), expected, atol=tolerance)


def test_moving_average_resumes_to_the_same_bits():
    seen = vectors(9, np.float32)
    whole, first, second = (MovingAverage(SIZE, np.float32) for _ in range(3))
    for w in seen:
        whole.update(w)
    for w in seen[:4]:
        first.update(w)
    second.load(through_a_file(first.state()))
    for w in seen[4:]:
        second.update(w)
    np.testing.assert_array_equal(second.value(), whole.value())


# ---- schedules ------------------------------------------------------------------------------


def test_constant_and_step_decay():
    assert {Constant().lr(0.01, step, 100) for step in range(100)} == {0.01}
    rates = [StepDecay(500, 0.5).lr(4e-4, step, 3000) for step in (0, 499, 500, 2999)]
    assert rates == pytest.approx([4e-4, 4e-4, 2e-4, 4e-4 / 32])


def test_plateau_waits_for_its_patience_and_keeps_its_state():
    plateau = Plateau(factor=0.5, patience=3)
    losses = [5, 4, 4, 4.5, 4, 4, 4, 4, 3, 3, np.nan, 3, 3]
    falls = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    state, waited = plateau.start(), []
    for loss, fall in zip(losses, falls, strict=True):
        state = plateau.seen(through_a_file({"state": state})["state"], loss)
        assert plateau.lr(0.01, 0, 100, state) == 0.01 * 0.5**fall
        waited.append(state[1])
    assert waited == [0, 0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]
    assert plateau.lr(0.01, 0, 100) == 0.01


def test_one_cycle_rises_to_the_base_rate_and_falls():
    cycle, steps = OneCycle(warmup=0.25, first=0.1, final=0.01), 401
    rates = np.array([cycle.lr(2.0, step, steps) for step in range(steps)])
    assert rates[[0, 50, 100, 250, 400]] == pytest.approx([0.2, 1.1, 2.0, 1.01, 0.02])
    assert np.all(np.diff(rates[:101]) > 0) and np.all(np.diff(rates[100:]) < 0)
    for warmup in (0, 1):
        for steps in (1, 2, 3):
            rates = [OneCycle(warmup=warmup).lr(1.0, step, steps) for step in range(steps)]
            assert np.all(np.isfinite(rates)) and max(rates) <= 1
