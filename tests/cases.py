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

from ssi_cupy.ops.add import add
from ssi_cupy.ops.conv import conv
from ssi_cupy.ops.direct_convolution import direct_convolution
from ssi_cupy.ops.fft_convolution import fft_convolution
from ssi_cupy.ops.gaussian_convolution import gaussian_convolution
from ssi_cupy.ops.loss_terms import bound, invariance, masked_loss, positivity, weighted_sum
from ssi_cupy.ops.norm import batch_norm
from ssi_cupy.ops.pad import branch, crop, pad
from ssi_cupy.ops.pointwise import clamp, relu, sensor_response
from ssi_cupy.ops.pool import max_pool
from ssi_cupy.ops.strided import join, strided_conv, transposed_conv
from ssi_cupy.ops.total_variation import kernel_continuity, total_variation
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
    ("conv 3×3, wide, 17 → 33", (1, 17, 1, 11, 19), (33, 17, 1, 3, 3)),
    ("conv 3×3×3, wide, 24 → 48", (1, 24, 3, 6, 9), (48, 24, 3, 3, 3)),
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


def by_branch(x, gamma, beta):
    return np.concatenate([normalised(some, gamma, beta, True) for some in np.split(x, 2)])


row("batch norm and relu, two branches", batch_norm, normal((4, 3, 2, 5, 6), (3,), (3,)),
    by_branch, wrt=(0, 1, 2), relu=True, branches=2)  # fmt: skip
row("add", add, normal((2, 3, 1, 91, 93), (2, 3, 1, 91, 93)), np.add,
    wrt=(0, 1), linear=(0, 1))  # fmt: skip


def windows_max(x, wz, wy, wx):
    n, c, *size = x.shape
    z, y, w = size[0] // wz, size[1] // wy, size[2] // wx
    x = x[:, :, : z * wz, : y * wy, : w * wx].reshape(n, c, z, wz, y, wy, w, wx)
    return x.max(axis=(3, 5, 7))


row("max-pool 2×2, odd", max_pool, lambda rng: (apart(rng, 2, 3, 1, 7, 8),),
    lambda x: windows_max(x, 1, 2, 2))  # fmt: skip
row("max-pool 2×2, lines of an odd length", max_pool, lambda rng: (apart(rng, 2, 3, 1, 8, 7),),
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


def stepped(x, w, b=None):
    """A kernel that steps by its own size, over x with zeros behind its far ends."""
    block = w.shape[2:]
    behind = [(0, -n % s) for n, s in zip(x.shape[2:], block, strict=True)]
    x = np.pad(x, [(0, 0)] * 2 + behind)
    y = sum(
        np.einsum("oi,nizyx->nozyx", w[:, :, a, b, c],
                  x[:, :, a :: block[0], b :: block[1], c :: block[2]])
        for a, b, c in np.ndindex(block)
    )  # fmt: skip
    return y if b is None else y + b[:, None, None, None]


def spread(x, w, b=None, size=None):
    """Every pixel of x times the kernel, side by side; cut to `size`, or zeros up to it."""
    blocks = np.einsum("nizyx,ioabc->nozaybxc", x, w)
    n, o, *rest = blocks.shape
    y = blocks.reshape(n, o, rest[0] * rest[1], rest[2] * rest[3], rest[4] * rest[5])
    if b is not None:
        y = y + b[:, None, None, None]
    size = size or y.shape[2:]
    y = y[:, :, : size[0], : size[1], : size[2]]
    return np.pad(y, [(0, 0)] * 2 + [(0, s - m) for s, m in zip(size, y.shape[2:], strict=True)])


def beside(skip, x, w, b, how="concat"):
    up = spread(x, w, b, skip.shape[2:])
    return np.concatenate([skip, up], 1) if how == "concat" else skip + up


for name, x, w in [
    ("strided conv 2×2, odd", (2, 3, 1, 7, 9), (5, 3, 1, 2, 2)),
    ("strided conv 2×2×2, odd along Z", (1, 9, 5, 6, 8), (10, 9, 2, 2, 2)),
    ("strided conv 1×2×2 on planes", (1, 2, 3, 6, 5), (3, 2, 1, 2, 2)),
    ("strided conv 2×3×3", (2, 2, 4, 7, 8), (3, 2, 2, 3, 3)),
]:
    row(name, strided_conv, normal(x, w, w[:1]), stepped, wrt=(0, 1, 2), linear=(0,))
row("strided conv without bias", strided_conv, normal((1, 2, 1, 8, 8), (3, 2, 1, 2, 2)), stepped,
    wrt=(0, 1), linear=(0,))  # fmt: skip
for name, x, w, size in [
    ("transposed conv 2×2", (2, 3, 1, 4, 5), (3, 5, 1, 2, 2), None),
    ("transposed conv 2×2, cut", (1, 9, 1, 4, 5), (9, 10, 1, 2, 2), (1, 7, 9)),
    ("transposed conv 2×2×2, cut and filled", (1, 2, 2, 3, 4), (2, 3, 2, 2, 2), (3, 7, 8)),
    ("transposed conv 1×2×3", (1, 2, 3, 3, 2), (2, 3, 1, 2, 3), (3, 6, 5)),
]:
    row(name, transposed_conv, normal(x, w, w[1:2]), partial(spread, size=size),
        wrt=(0, 1, 2), linear=(0,), size=size)  # fmt: skip
row("transposed conv without bias", transposed_conv, normal((1, 2, 1, 4, 4), (2, 3, 1, 2, 2)),
    spread, wrt=(0, 1), linear=(0,))  # fmt: skip
for how in ("concat", "add"):
    row(f"join by {how}", join, normal((2, 3, 1, 7, 9), (2, 4, 1, 4, 5), (4, 3, 1, 2, 2), (3,)),
        partial(beside, how=how), wrt=(0, 1, 2, 3), linear=(0, 1), how=how)  # fmt: skip
    row(f"join by {how}, 3-D, not full", join,
        normal((1, 2, 5, 5, 7), (1, 3, 2, 2, 3), (3, 2, 2, 2, 2), (2,)),
        partial(beside, how=how), wrt=(0, 1, 2, 3), linear=(0, 1), how=how)  # fmt: skip


# ---- terms ------------------------------------------------------------------------------------


def residuals(*shape, channels=None, kinks=(0,)):
    """x, y and a mask of 0 and 1, with x − y clear of the kinks."""

    def make(rng):
        y = rng.normal(size=shape)
        mask = rng.random((shape[0], channels or shape[1], *shape[2:])) < 0.6
        return y + away_from(kinks, rng.normal(size=shape)), y, mask.astype(np.uint8)

    return make


def weights_for_mask(rng):
    x, y, _ = residuals(2, 3, 1, 7, 9)(rng)
    return x, y, rng.random((2, 1, 1, 7, 9)) * (rng.random((2, 1, 1, 7, 9)) < 0.7)


def masked_mean(rho, masked=False):
    def reference(x, y, mask):
        m = np.broadcast_to(mask, x.shape).astype(np.float64)
        return np.sum(m * rho(x - y)) / (m.sum() if masked else x.size)

    return reference


def huber(r, delta=0.8):
    return np.where(np.abs(r) <= delta, r * r / 2, delta * (np.abs(r) - delta / 2))


row("masked L2", masked_loss, residuals(2, 3, 1, 70, 90, channels=1), masked_mean(np.square))
row("masked L1, mask per channel", masked_loss, residuals(1, 2, 3, 7, 9), masked_mean(np.abs),
    kind="l1")  # fmt: skip
row("masked Huber, over the masked", masked_loss,
    residuals(2, 2, 1, 11, 13, channels=1, kinks=(-0.8, 0.8)), masked_mean(huber, True),
    kind="huber", delta=0.8, normalise="masked")  # fmt: skip
row("weighted L2, over the weights", masked_loss, weights_for_mask, masked_mean(np.square, True),
    normalise="masked")  # fmt: skip
row("invariance", invariance, residuals(2, 2, 1, 41, 50, channels=1),
    lambda *args: np.sqrt(masked_mean(np.square, True)(*args)), wrt=(0, 1))  # fmt: skip


def away_from_limits(rng):
    return (away_from((0, 1), 1.5 * rng.normal(size=(2, 2, 1, 61, 53)) + 0.5),)


def excess(x):
    return np.mean(np.maximum(-x, 0) + np.maximum(x - 1, 0))


row("bound", bound, away_from_limits, excess)
row("bound, squared", bound, away_from_limits, lambda x: excess(x) ** 2, squared=True)
row("bound between others", bound, away_from_limits,
    lambda x: np.mean(np.maximum(0.02 - x, 0) + np.maximum(x - 0.97, 0)),
    low=0.02, high=0.97)  # fmt: skip
row("positivity", positivity, away_from_limits,
    lambda x: np.mean(np.abs(np.minimum(x, 0))) / 2.5, scale=2.5)  # fmt: skip
row("positivity above another zero", positivity, away_from_limits,
    lambda x: np.mean(np.maximum(0.97 - x, 0)), zero=0.97)  # fmt: skip


def gradient_length(x, eps, spacing=(1, 1, 1)):
    total = eps**2
    for axis, distance in zip((2, 3, 4), spacing, strict=True):
        last = np.take(x, [-1], axis)
        total = total + (np.diff(x, axis=axis, append=last) / distance) ** 2
    return np.mean(np.sqrt(total))


row("total variation", total_variation, normal((2, 1, 1, 9, 14)),
    lambda x: gradient_length(x, 0.1), eps=0.1)  # fmt: skip
row("total variation, 3-D, spaced", total_variation, normal((1, 2, 4, 5, 6)),
    lambda x: gradient_length(x, 0.01, (2, 1, 0.5)), eps=0.01, spacing=(2, 1, 0.5))  # fmt: skip


def tap_differences(w):
    return np.mean(np.concatenate([np.diff(w, axis=a).ravel() ** 2 for a in (2, 3, 4)]))


row("kernel continuity", kernel_continuity, normal((3, 2, 1, 5, 3)), tap_differences)
row("kernel continuity, 3-D", kernel_continuity, normal((2, 2, 3, 3, 4)), tap_differences)
row("weighted sum", weighted_sum, lambda rng: tuple(np.array(rng.normal()) for _ in range(3)),
    lambda a, b, c: 2 * a - 0.5 * b + c, wrt=(0, 1, 2), linear=(0, 1, 2),
    weights=(2, -0.5, 1))  # fmt: skip


# ---- padding, convolution with a PSF, sensors ---------------------------------------------------


def bordered(widths, mode, zeros=(0, 0, 0)):
    """numpy's names for the borders: its "reflect" is "mirror", its "edge" is "nearest"."""
    names = {"mirror": "reflect", "nearest": "edge", "wrap": "wrap", "constant": "constant"}

    def reference(x):
        x = np.pad(x, [(0, 0)] * 2 + list(widths), mode=names[mode])
        return np.pad(x, [(0, 0)] * 2 + [(0, n) for n in zeros])

    return reference


for mode in ("mirror", "nearest", "wrap", "constant"):
    widths = ((0, 0), (2, 3), (4, 1))
    row(f"pad, {mode}", pad, normal((2, 3, 1, 40, 25)), bordered(widths, mode),
        linear=(0,), widths=widths, mode=mode)  # fmt: skip
    widths = ((1, 2), (11, 9), (0, 13))
    row(f"pad, {mode}, 3-D, wider than the image", pad, normal((1, 2, 3, 4, 5)),
        bordered(widths, mode), linear=(0,), widths=widths, mode=mode)  # fmt: skip
row("pad, with zeros behind", pad, normal((2, 1, 2, 9, 8)),
    bordered(((1, 0), (3, 2), (2, 2)), "mirror", (0, 2, 4)), linear=(0,),
    widths=((1, 0), (3, 2), (2, 2)), shape=(3, 16, 16))  # fmt: skip
row("crop", crop, normal((2, 2, 3, 8, 9)), lambda x: x[..., 1:3, 0:5, 2:9],
    linear=(0,), start=(1, 0, 2), shape=(2, 5, 7))  # fmt: skip
row("branch", branch, normal((6, 2, 1, 8, 9)), lambda x: x[2:4], linear=(0,), index=1, of=3)


def periodic(x, transfer):
    psf = np.fft.irfftn(transfer, s=x.shape[2:], axes=(0, 1, 2))
    shifts = np.ndindex(psf.shape)
    return sum(psf[s] * np.roll(x, s, axis=(2, 3, 4)) for s in shifts)


def image_and_transfer(*shape):
    def make(rng):
        psf = rng.uniform(size=shape[2:])
        return rng.normal(size=shape), np.fft.rfftn(psf / psf.sum())

    return make


for shape in ((2, 2, 1, 12, 15), (1, 2, 3, 6, 8)):
    row(f"FFT convolution, {shape[2]} planes", fft_convolution, image_and_transfer(*shape),
        periodic, linear=(0,))  # fmt: skip


def blurred(x, parameters, centre):
    """By numpy: the whole spectrum of a Gaussian, turned and displaced."""
    sz, s, a, angle, *place = np.concatenate([np.exp(parameters[:2]), parameters[2:]])
    fz, fy, fx = np.meshgrid(*map(np.fft.fftfreq, x.shape[2:]), indexing="ij")
    u, v = np.cos(angle) * fx + np.sin(angle) * fy, np.cos(angle) * fy - np.sin(angle) * fx
    power = (sz * fz) ** 2 + (s * np.exp(a) * u) ** 2 + (s * np.exp(-a) * v) ** 2
    turn = sum(f * (t - c) for f, t, c in zip((fz, fy, fx), place, centre, strict=True))
    transfer = np.exp(-2 * np.pi**2 * power - 2j * np.pi * turn)
    return np.fft.ifftn(np.fft.fftn(x, axes=(2, 3, 4)) * transfer, axes=(2, 3, 4)).real


def image_and_gaussian(shape, *parameters):
    return lambda rng: (rng.normal(size=shape), np.array(parameters))


for shape in ((2, 2, 1, 13, 15), (1, 2, 5, 9, 7)):
    row(f"Gaussian convolution, {shape[2]} planes", gaussian_convolution,
        image_and_gaussian(shape, -0.3, 0.2, 0.15, 0.6, 0.1, -0.3, 0.2),
        partial(blurred, centre=(0, -2, 3)), wrt=(0, 1), linear=(0,),
        centre=(0, -2, 3))  # fmt: skip
row("Gaussian convolution, even sizes", gaussian_convolution,
    image_and_gaussian((1, 1, 4, 12, 16), 0.9, 0.8, -0.1, 0.4, 0, 0, 0),
    partial(blurred, centre=(0, 0, 0)), linear=(0,))  # fmt: skip


def convolved_valid(x, psf):
    kz, ky, kx = psf.shape
    depth, height, width = (n - k + 1 for n, k in zip(x.shape[2:], psf.shape, strict=True))
    y = np.zeros((*x.shape[:2], depth, height, width))
    for a, b, c in np.ndindex(psf.shape):
        z, v, u = kz - 1 - a, ky - 1 - b, kx - 1 - c
        y += psf[a, b, c] * x[:, :, z : z + depth, v : v + height, u : u + width]
    return y


def image_and_psf(shape, size):
    return lambda rng: (rng.normal(size=shape), rng.uniform(size=size))


for shape, size in (
    ((2, 2, 1, 30, 110), (1, 5, 4)),
    ((1, 1, 1, 9, 60), (1, 2, 7)),
    ((2, 1, 1, 6, 11), (1, 4, 3)),
    ((1, 2, 5, 12, 56), (4, 3, 5)),
):
    row(f"direct convolution, {size} on {shape}", direct_convolution, image_and_psf(shape, size),
        convolved_valid, linear=(0,))  # fmt: skip


def away_from_0_and_1(rng):
    return (away_from((0, 1), rng.normal(size=(2, 3, 1, 31, 29))),)


def expected_reading(x, noise, gain=1.0, offset=0.0, low=0.0, high=1.0):
    """E[clip(m + noise N)], from the integral of the normal distribution function."""
    from scipy.special import ndtr

    def integral(u):
        return u * ndtr(u) + np.exp(-u * u / 2) / np.sqrt(2 * np.pi)

    m = gain * x + offset
    return low + noise * (integral((m - low) / noise) - integral((m - high) / noise))


row("relu", relu, away_from_0_and_1, lambda x: np.maximum(x, 0))
row("clamp", clamp, away_from_0_and_1, lambda x: np.clip(x, 0, 1), low=0, high=1)
row("sensor response", sensor_response, normal((2, 3, 1, 31, 29)),
    partial(expected_reading, noise=0.3), noise=0.3)  # fmt: skip
row("sensor response, gain and offset", sensor_response, normal((1, 1, 3, 60, 70)),
    partial(expected_reading, noise=0.5, gain=2.0, offset=-0.3, low=-1.0, high=1.5),
    noise=0.5, gain=2.0, offset=-0.3, low=-1.0, high=1.5)  # fmt: skip
