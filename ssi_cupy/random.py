"""Counter-based random numbers: pure functions of (seed, stream, step, index).

Philox 4×32-10 [1]_ scrambles a counter of four 32-bit words under a key of two. Nothing is kept
between calls, so a number depends on its place alone, not on the thread, the tile, or on what
was drawn before it. The layout, the same for every number of this project::

    key     = (seed low, seed high)                        64 bits of seed
    counter = (block low, block high, step, stream)        64 bits of block, 32 and 32

One block gives four words of 32 bits. An array of numbers takes one word for each element:
element ``i`` is word ``i % 4`` of block ``i // 4``. Who needs several words for one item (a box,
a hidden pixel) takes block ``i`` whole; such draws have a stream of their own. Seeds, streams
and steps are words of the input, never mixed, so two draws never share a block by accident.

References
----------
.. [1] J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as
   1, 2, 3", SC11 (2011). The known-answer vectors of its Random123 library are in the tests.
.. [2] G. E. P. Box, M. E. Muller, "A note on the generation of random normal deviates", Annals
   of Mathematical Statistics 29 (1958) 610-611.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Iterable
from typing import Any

import numpy as np

from .engine.backend import empty, in_memory, inline, kernel
from .engine.checks import InputError, positive_int
from .engine.gpu.launch import threads_per_item
from .engine.types import Array, ArrayLike, DTypeLike, Rng, Shape

MULTIPLY_A, MULTIPLY_C = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_LOW, WEYL_HIGH = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
WORD, WORD_BITS = np.uint64(0xFFFFFFFF), np.uint64(32)
ROUNDS = 10
CHUNK = 64  # blocks that a kernel draws at once


class Stream(enum.IntEnum):
    """What the numbers are for. Draws of different streams are independent."""

    MASK = 0  # which pixels are hidden
    FILL = 1  # what they are filled with, and the noise added to the others
    PICK = 2  # which neighbour they are filled with
    VALIDATION = 3  # which pixels are kept for validation
    WEIGHTS = 4  # the first weights of the network
    WEIGHT_NOISE = 5  # noise added to them by the optimiser
    SYMMETRY = 6  # rotations and flips of the training image
    CROP = 7  # which part of the training image


# ---- the generator --------------------------------------------------------------------------


def philox(counter: Iterable[ArrayLike], key: Iterable[ArrayLike]) -> tuple[Any, Any, Any, Any]:
    """Philox 4×32-10 on plain integers or uint64 arrays, as its paper writes it.

    Parameters
    ----------
    counter : four of int or array of uint64
    key : two of int or array of uint64

    Returns
    -------
    four of uint64, each below 2**32
    """
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    k, m = (np.asarray(word, np.uint64) for word in key)
    for _ in range(ROUNDS):
        p, q = MULTIPLY_A * a, MULTIPLY_C * c
        a, b, c, d = (q >> WORD_BITS) ^ b ^ k, q & WORD, (p >> WORD_BITS) ^ d ^ m, p & WORD
        k, m = (k + WEYL_LOW) & WORD, (m + WEYL_HIGH) & WORD
    return a, b, c, d


@inline
def words(block, step, stream, seed):
    """The four words of a block, for kernels. All arguments and results are uint64."""
    a, b, c, d = block & WORD, block >> WORD_BITS, step & WORD, stream & WORD
    k, m = seed & WORD, seed >> WORD_BITS
    for _ in range(ROUNDS):
        p, q = MULTIPLY_A * a, MULTIPLY_C * c
        a, b, c, d = (q >> WORD_BITS) ^ b ^ k, q & WORD, (p >> WORD_BITS) ^ d ^ m, p & WORD
        k, m = (k + WEYL_LOW) & WORD, (m + WEYL_HIGH) & WORD
    return a, b, c, d


@inline
def below(word, high):
    """A whole number in [0, high) of a word, by Lemire's multiplication. For kernels."""
    return np.int64((word * np.uint64(high)) >> WORD_BITS)


@inline
def fill_words(w, chunk, step, stream, seed):
    """w[lane, j] = word `lane` of block ``CHUNK * chunk + j``, for kernels that draw many.

    Loops over rounds of whole rows, which the compiler symmetries into vector code.
    """
    a, b, c, d = w[0], w[1], w[2], w[3]
    for j in range(CHUNK):
        block = np.uint64(chunk * CHUNK + j)
        a[j], b[j], c[j], d[j] = block & WORD, block >> WORD_BITS, step, stream
    k, m = seed & WORD, seed >> WORD_BITS
    for _ in range(ROUNDS):
        for j in range(CHUNK):
            # masked, for the vector unit to see that 32 bits times 32 bits are all it takes
            p, q = MULTIPLY_A * (a[j] & WORD), MULTIPLY_C * (c[j] & WORD)
            a[j], b[j] = (q >> WORD_BITS) ^ b[j] ^ k, q & WORD
            c[j], d[j] = (p >> WORD_BITS) ^ d[j] ^ m, p & WORD
        k, m = (k + WEYL_LOW) & WORD, (m + WEYL_HIGH) & WORD


@inline
def box_muller(u, v, x, y):
    """Two rows of standard normal float64 of two rows of words: √(−2 ln u) (cos θ, sin θ) [2]_.

    u is the middle of one of 2³² equal parts of (0, 1), so |x| ≤ 6.76. Logarithm, sine and cosine
    are polynomials with errors near 1e-15: those of the libraries differ between devices in their
    last bits, additions and multiplications do not, and they run in vector registers.
    """
    for j in range(u.size):
        # ln u = e ln 2 + ln m with m in [√½, √2), and ln m = 2 artanh f with f = (m−1)/(m+1)
        bits = np.float64((np.int64(u[j]) + 0.5) * 2.0**-32).view(np.int64)
        exponent = (bits - 0x3FE6A09E667F3BCD) >> 52
        m = np.int64(bits - (exponent << 52)).view(np.float64)
        f = np.divide(m - 1.0, m + 1.0)  # which unlike "/" does not look for zeros
        g = f * f
        s = 2 / 11 + g * (2 / 13 + g * (2 / 15 + g * (2 / 17)))
        s = 2.0 + g * (2 / 3 + g * (2 / 5 + g * (2 / 7 + g * (2 / 9 + g * s))))
        r = np.sqrt(-2.0 * (exponent * 0.6931471805599453 + f * s))
        # θ = quarter · π/2 + t with t in (−π/4, π/4)
        word = np.int64(v[j])
        quarter = word >> 30
        t = ((word & 0x3FFFFFFF) + (0.5 - 2.0**29)) * (np.pi * 2.0**-31)
        h = t * t
        sin = 1 / 362880 + h * (-1 / 39916800 + h * (1 / 6227020800 - h / 1307674368000))
        sin = t * (1.0 + h * (-1 / 6 + h * (1 / 120 + h * (-1 / 5040 + h * sin))))
        cos = -1 / 3628800 + h * (1 / 479001600 + h * (-1 / 87178291200 + h / 20922789888000))
        cos = 1.0 + h * (-1 / 2 + h * (1 / 24 + h * (-1 / 720 + h * (1 / 40320 + h * cos))))
        odd, r = quarter & 1, r * (1.0 - 2.0 * (quarter >> 1))
        x[j] = r * (-sin if odd else cos)
        y[j] = r * (cos if odd else sin)


@inline
def fill_normals(z, w, chunk, step, stream, seed):
    """z[lane, j] = the standard normal number of element ``4 (CHUNK chunk + j) + lane``."""
    fill_words(w, chunk, step, stream, seed)
    box_muller(w[0], w[1], z[0], z[1])
    box_muller(w[2], w[3], z[2], z[3])


# ---- arrays of random numbers ----------------------------------------------------------------


def place(
    seed: int, stream: int, step: int | Array, like: object = None
) -> tuple[Array, np.uint64, np.uint64]:
    """``(step, stream, seed)`` as kernels take them: a `backend.in_memory`, uint64 below 2**32 and
    uint64. `step` may be such an array already; otherwise it goes to the device of `like`."""
    step = int(step) & 0xFFFFFFFF if not getattr(step, "shape", ()) else step
    return in_memory(step, like), np.uint64(stream) & WORD, np.uint64(seed)


def chunks(size: int) -> int:
    """How many chunks `size` elements take."""
    return -(-size // (4 * CHUNK))


def bits(
    shape: Shape, seed: int, stream: int, step: int | Array = 0, like: Array | None = None
) -> Array:
    """Random 32-bit words.

    Parameters
    ----------
    shape : tuple of int
    seed : int
        In [0, 2**64).
    stream : Stream or int
    step : int or array of one float64
        In [0, 2**32); an array is read where the numbers are made.
    like : array, optional
        Its device is where the result is made.

    Returns
    -------
    array of uint32
    """
    y = empty(shape, np.uint32, like)
    random_bits_kernel(chunks(y.size), y.reshape(-1), *place(seed, stream, step, like))
    return y


@kernel(grain=16, launch=threads_per_item(CHUNK))
def random_bits_kernel(start, stop, y, step, stream, seed):
    w = np.empty((4, CHUNK), np.uint64)
    for chunk in range(start, stop):
        fill_words(w, chunk, np.uint64(step[0]), stream, seed)
        first = 4 * CHUNK * chunk
        for i in range(min(4 * CHUNK, y.size - first)):
            y[first + i] = w[i & 3, i >> 2]


def uniform(
    shape: Shape,
    seed: int,
    stream: int,
    step: int | Array = 0,
    dtype: DTypeLike = np.float32,
    like: Array | None = None,
) -> Array:
    """Uniform numbers in [0, 1): multiples of 2⁻²⁴ for float32, of 2⁻⁵³ for float64.

    Arguments as of `bits`. A float64 takes two words, so it is not the float32 of its place.
    """
    if np.dtype(dtype) == np.float32:
        top = (bits(shape, seed, stream, step, like) >> 8).astype(np.float32)
        return top * np.float32(2.0**-24)
    pairs = bits((*shape, 2), seed, stream, step, like)
    return ((pairs[..., 0] >> 5) * 2.0**26 + (pairs[..., 1] >> 6)) * 2.0**-53


def integers(
    shape: Shape,
    high: int,
    seed: int,
    stream: int,
    step: int | Array = 0,
    like: Array | None = None,
) -> Array:
    """Whole numbers in [0, `high`), int64; `high` up to 2**32. No value is favoured by more
    than `high` / 2**32. Other arguments as of `bits`."""
    high = np.uint64(positive_int(high, "high"))
    words = bits(shape, seed, stream, step, like).astype(np.uint64)
    return (words * high >> WORD_BITS).astype(np.int64)


def pick(high: int, seed: int, stream: int, step: int = 0) -> int:
    """One whole number in [0, `high`), the first of `integers`, as an int: no kernel is run."""
    word = philox((0, 0, step, stream), (seed & 0xFFFFFFFF, seed >> 32))[0]
    return int(word * np.uint64(high) >> WORD_BITS)


def normal(
    shape: Shape,
    seed: int,
    stream: int,
    step: int | Array = 0,
    dtype: DTypeLike = np.float32,
    like: Array | None = None,
) -> Array:
    """Standard normal numbers, computed in float64 and rounded once. Arguments as of `bits`."""
    y = empty(shape, dtype, like)
    random_normal_kernel(chunks(y.size), y.reshape(-1), *place(seed, stream, step, like))
    return y


@kernel(grain=16, launch=threads_per_item(CHUNK))
def random_normal_kernel(start, stop, y, step, stream, seed):
    w, z = np.empty((4, CHUNK), np.uint64), np.empty((4, CHUNK))
    for chunk in range(start, stop):
        fill_normals(z, w, chunk, np.uint64(step[0]), stream, seed)
        first = 4 * CHUNK * chunk
        for i in range(min(4 * CHUNK, y.size - first)):
            y[first + i] = z[i & 3, i >> 2]


def seed_from(rng: Rng) -> int:
    """The 64-bit seed that an `rng` argument stands for.

    Parameters
    ----------
    rng : None, int or numpy.random.Generator
        None takes entropy from the operating system; an int in [0, 2**64) is the seed itself; a
        generator is asked for one number, and so moves on.

    Returns
    -------
    int

    Raises
    ------
    InputError
        If `rng` is anything else.
    """
    if rng is None:
        return secrets.randbits(64)
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(0, 2**64, dtype=np.uint64))
    whole = isinstance(rng, (int, np.integer)) and not isinstance(rng, (bool, np.bool_))
    if not whole or not 0 <= rng < 2**64:
        expected = "None, a whole number in [0, 2**64) or a numpy.random.Generator"
        raise InputError("rng", expected, repr(rng))
    return int(rng)
