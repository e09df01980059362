"""One row per op: what to call it with, what it must equal, where it is linear.

Every row is run by `test_ops.py` (forward against its reference, gradients by directional
derivatives in float64, the dot test, threads) on each back end. A new op needs a row here, and
nothing else, to be tested like all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ssi_cupy.ops.conv import conv
from ssi_cupy.ops.norm import batch_norm
from ssi_cupy.ops.pool import max_pool
from ssi_cupy.ops.upsample import concat, upsample, upsample_concat


@dataclass(frozen=True)
class Case:
    """An op with inputs that stay clear of its kinks.

    `make(rng)` returns the positional arguments in float64; `reference` is an independent
    computation of the same on numpy arrays; the gradient is wanted for the arguments `wrt`;
    the op is linear in each of the arguments `linear` while the others are held.
    """

    name: str
    op: Callable
    make: Callable
    reference: Callable
    settings: dict = field(default_factory=dict)
    wrt: tuple[int, ...] = (0,)
    linear: tuple[int, ...] = ()

    def args(self, dtype=np.float64, seed=0):
        made = self.make(np.random.default_rng(seed))
        return tuple(
            a.astype(dtype) if getattr(a, "dtype", None) == np.float64 else a for a in made
        )


CASES: list[Case] = []


def row(name, op, make, reference, *, wrt=(0,), linear=(), **settings):
    CASES.append(Case(name, op, make, reference, settings, wrt, linear))


def away_from(kinks, x, distance=0.05):
    """`x` with its values moved to at least `distance` from each of `kinks`, sign kept."""
    for kink in np.atleast_1d(kinks):
        near = np.abs(x - kink) < distance
        x = np.where(near, kink + np.where(x < kink, -distance, distance), x)
    return x


# ---- network ----------------------------------------------------------------------------------


def normal(*shapes):
    return lambda rng: tuple(rng.normal(size=s) for s in shapes)


def correlated(x, w, b):
    """Convolution as networks define it, by scipy."""
    from scipy.ndimage import correlate

    sums = [[sum(correlate(u, k, mode="constant") for u, k in zip(image, kernels, strict=True))
             for kernels in w] for image in x]  # fmt: skip
    return np.array(sums) + b[:, None, None, None]


for name, x, w in [
    ("conv 5×5, 1 → 8", (1, 1, 1, 19, 23), (8, 1, 1, 5, 5)),
    ("conv 3×3, 9 → 10, batch of 2", (2, 9, 1, 17, 16), (10, 9, 1, 3, 3)),
    ("conv 1×1, 8 → 1", (1, 8, 1, 16, 17), (1, 8, 1, 1, 1)),
    ("conv 3×3×3, 2 → 3", (2, 2, 5, 6, 7), (3, 2, 3, 3, 3)),
    ("conv 5×5×5, 3 → 2, narrower than the kernel", (1, 3, 3, 4, 9), (2, 3, 5, 5, 5)),
    ("conv 1×3×5", (1, 2, 3, 6, 8), (2, 2, 1, 3, 5)),
]:
    row(name, conv, normal(x, w, w[:1]), correlated, wrt=(0, 1, 2), linear=(0,))


def normalised(x, gamma, beta, relu=False, mean=None, variance=None):
    axes = (0, 2, 3, 4)
    wide = (slice(None), None, None, None)
    mean = x.mean(axes) if mean is None else mean
    variance = x.var(axes) if variance is None else variance
    y = gamma[wide] * (x - mean[wide]) / np.sqrt(variance[wide] + 1e-5) + beta[wide]
    return np.maximum(y, 0) if relu else y


def apart(rng, *shape):
    """Values at least 0.02 from each other, so that a maximum stays one."""
    return 0.02 * rng.permutation(np.prod(shape)).reshape(shape) - 1.0


some_statistics = (np.array([0.3, -0.2, 1.0]), np.array([1.5, 0.7, 2.0]))
norm_inputs = normal((2, 3, 2, 5, 6), (3,), (3,))
row("batch norm", batch_norm, norm_inputs, normalised, wrt=(0, 1, 2))
row("batch norm and relu", batch_norm, norm_inputs, partial(normalised, relu=True),
    wrt=(0, 1, 2), relu=True)  # fmt: skip
row("batch norm, inference", batch_norm, norm_inputs,
    lambda x, g, b: normalised(x, g, b, False, *some_statistics),
    wrt=(0, 1, 2), statistics=some_statistics)  # fmt: skip


def windows_max(x, wz, wy, wx):
    n, c, *size = x.shape
    z, y, w = size[0] // wz, size[1] // wy, size[2] // wx
    x = x[:, :, : z * wz, : y * wy, : w * wx].reshape(n, c, z, wz, y, wy, w, wx)
    return x.max(axis=(3, 5, 7))


row("max-pool 2×2, odd", max_pool, lambda rng: (apart(rng, 2, 3, 1, 7, 8),),
    lambda x: windows_max(x, 1, 2, 2))  # fmt: skip
row("max-pool 2×2×2", max_pool, lambda rng: (apart(rng, 1, 2, 4, 7, 6),),
    lambda x: windows_max(x, 2, 2, 2), window=(2, 2, 2))  # fmt: skip


def repeated(x, size, factor):
    for axis, f in enumerate(factor):
        x = np.repeat(x, f, axis + 2)
    return np.pad(x, [(0, 0)] * 2 + [(0, s - n) for s, n in zip(size, x.shape[2:], strict=True)])


row("upsample 2×2 to an odd size", upsample, normal((2, 3, 1, 4, 5)),
    lambda x: repeated(x, (1, 9, 11), (1, 2, 2)), linear=(0,), size=(1, 9, 11))  # fmt: skip
row("upsample 2×2×2", upsample, normal((1, 2, 2, 3, 4)),
    lambda x: repeated(x, (5, 6, 8), (2, 2, 2)), linear=(0,),
    size=(5, 6, 8), factor=(2, 2, 2))  # fmt: skip
row("concat", concat, normal((2, 3, 1, 4, 5), (2, 2, 1, 4, 5)),
    lambda a, b: np.concatenate([a, b], 1), wrt=(0, 1), linear=(0, 1))  # fmt: skip
row("upsample and concat", upsample_concat, normal((2, 3, 1, 9, 8), (2, 2, 1, 4, 4)),
    lambda a, b: np.concatenate([a, repeated(b, (1, 9, 8), (1, 2, 2))], 1),
    wrt=(0, 1), linear=(0, 1))  # fmt: skip
