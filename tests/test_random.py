"""Random numbers are those of Philox 4×32-10, at their places, with the right distribution."""

import math

import numpy as np
import pytest
from scipy import stats

from ssi_cupy import random
from ssi_cupy.engine import backend
from ssi_cupy.engine.checks import InputError
from ssi_cupy.engine.cpu.jit import jit
from ssi_cupy.random import Stream

# Random123's kat_vectors, philox4x32 10: counter, key, answer
ZEROS, ONES = "00000000 00000000", "ffffffff ffffffff"
PI = "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0"
KNOWN = [
    (f"{ZEROS} {ZEROS}", ZEROS, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (f"{ONES} {ONES}", ONES, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (*PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def hexadecimal(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize("counter, key, answer", KNOWN)
def test_known_answers(counter, key, answer):
    counter, key = hexadecimal(counter), hexadecimal(key)
    assert [int(word) for word in random.philox(counter, key)] == hexadecimal(answer)
    block, seed = (np.uint64(low | high << 32) for low, high in (counter[:2], key))
    step, stream = np.uint64(counter[2]), np.uint64(counter[3])
    compiled = jit(random.words.function)(block, step, stream, seed)
    assert [int(word) for word in compiled] == hexadecimal(answer)


def test_words_lie_where_the_layout_says():
    seed, stream, step = 0x0123456789ABCDEF, 3, 77
    drawn = random.bits((3, 7), seed, stream, step)
    blocks = np.arange(6, dtype=np.uint64)
    expected = random.philox((blocks, 0, step, stream), (seed & 0xFFFFFFFF, seed >> 32))
    assert drawn.dtype == np.uint32
    np.testing.assert_array_equal(drawn.ravel(), np.stack(expected, -1).ravel()[:21])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 4099])
@pytest.mark.parametrize("draw", [random.bits, random.uniform, random.normal])
def test_a_number_depends_on_its_index_alone(draw, size):
    """The array's size, its shape and the number of threads change none."""
    everything = draw((8192,), 5, Stream.MASK, 2)
    threads = backend.num_threads()
    try:
        for number in (1, 3):
            backend.set_num_threads(number)
            np.testing.assert_array_equal(draw((1, size), 5, Stream.MASK, 2)[0], everything[:size])
    finally:
        backend.set_num_threads(threads)


@pytest.mark.parametrize("change", [{"seed": 6}, {"seed": 5 + 2**32}, {"stream": 1}, {"step": 3}])
def test_other_places_hold_other_numbers(change):
    here = {"seed": 5, "stream": 0, "step": 2}
    a, b = random.normal((10_000,), **here), random.normal((10_000,), **{**here, **change})
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.04


@pytest.mark.parametrize("dtype, digits", [(np.float32, 24), (np.float64, 53)])
def test_uniform_is_uniform_and_exact(dtype, digits):
    u = random.uniform((100_000,), 1, 0, 0, dtype)
    assert u.dtype == dtype and u.min() >= 0 and u.max() < 1
    grid = u.astype(np.float64) * 2.0**digits
    assert np.all(grid == np.floor(grid)) and np.any(grid % 2 == 1)
    assert stats.kstest(u.astype(np.float64), "uniform").pvalue > 0.01


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_is_normal(dtype):
    n = random.normal((100_000,), 2, 0, 0, dtype).astype(np.float64)
    assert stats.kstest(n, "norm").pvalue > 0.01
    assert abs(stats.kurtosis(n)) < 0.1 and np.abs(n).max() < 6.76
    for shift in (1, 2, 3):  # the lanes of a block are independent, and so are their squares
        for power in (1, 2):
            assert abs(np.corrcoef(n[shift:] ** power, n[:-shift] ** power)[0, 1]) < 0.015


def test_normal_is_the_formula_of_box_and_muller():
    words = random.bits((4000, 2), 3, 1, 4).astype(np.int64)
    drawn = random.normal((4000, 2), 3, 1, 4, np.float64)
    extreme = [(0, 0), (2**32 - 1, 2**32 - 1), (0, 2**30 - 1), (2**31, 2**30), (1, 3 * 2**30)]
    pairs = np.empty((2, len(extreme)))
    jit(random.box_muller.function)(*np.array(extreme, np.uint64).T.copy(), *pairs)
    for (a, b), got in zip([*words, *extreme], [*drawn, *pairs.T], strict=True):
        r = math.sqrt(-2 * math.log((int(a) + 0.5) / 2**32))
        angle = ((int(b) % 2**30 + 0.5) / 2**30 - 0.5 + int(b) // 2**30) * math.pi / 2
        np.testing.assert_allclose(got, [r * math.cos(angle), r * math.sin(angle)], atol=1e-14)


def test_float32_normal_is_the_rounded_float64():
    exact = random.normal((1000,), 3, 1, 4, np.float64)
    np.testing.assert_array_equal(random.normal((1000,), 3, 1, 4), exact.astype(np.float32))


def test_integers_fill_their_range_evenly():
    drawn = random.integers((60_000,), 6, 1, 0)
    assert stats.chisquare(np.bincount(drawn, minlength=6)).pvalue > 0.01
    assert drawn.min() == 0 and drawn.max() == 5
    with pytest.raises(InputError, match="high"):
        random.integers((3,), 0, 1, 0)


def test_seeds():
    assert random.seed_from(7) == 7 and random.seed_from(np.int64(7)) == 7
    assert random.seed_from(2**64 - 1) == 2**64 - 1
    assert random.seed_from(None) != random.seed_from(None)
    a, b = (random.seed_from(np.random.default_rng(1)) for _ in range(2))
    assert a == b and 0 <= a < 2**64
    for bad in (-1, 2**64, 1.5, "7", True, np.random):
        with pytest.raises(InputError, match="rng"):
            random.seed_from(bad)
