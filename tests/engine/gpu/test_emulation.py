"""The CUDA kernels, executed on this machine's CPU: the same results as the Numba loops.

Every row of `cases.py`, the random numbers, the optimiser and a whole network run on the
emulator, with blocks of two sizes, first thread first and last thread first. Last, broken kernels
show that it finds what it is there to find.
"""

import dataclasses
import functools
import itertools
import re

import numpy as np
import pytest

from cases import CASES
from emulation import emulator
from emulation.emulator import EmulationError, Emulator, poisoned
from running import both_dtypes, both_runs, emulated, relative, run
from ssi_cupy import masking, optim, random, recipes
from ssi_cupy.engine.gpu import kernel_text
from ssi_cupy.engine.precision import Precision
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.ops import conv, conv_tiling, tensor_cores
from ssi_cupy.ops.direct_convolution import direct_convolution_forward
from ssi_cupy.ops.norm import batch_affine
from ssi_cupy.physics import LearnedPSF, PSFConvolution
from ssi_cupy.unet import PlainUNet, ResidualUNet, UNet, unet

pytestmark = pytest.mark.skipif(
    emulator.compiler() is None, reason="no C++ compiler (g++, or what CXX names) was found"
)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


# ---- the ops ----------------------------------------------------------------------------------


@every_case
@both_runs
@both_dtypes
def test_parity_with_the_loops(case, threads, backwards, dtype, tolerance):
    args = case.args(dtype)
    y, _, gradients = run(case, args)
    with emulated(threads, backwards):
        y2, _, gradients2 = run(case, args)
    assert y2.dtype == y.dtype and relative(y2, y) <= tolerance
    for ours, theirs in zip(gradients2, gradients, strict=True):
        assert ours.dtype == theirs.dtype and relative(ours, theirs) <= tolerance


@pytest.mark.parametrize(
    "case", [c for c in CASES if re.match("max-pool|upsample", c.name)], ids=lambda c: c.name
)
@both_dtypes
def test_arrays_may_begin_between_packs(case, dtype, tolerance, monkeypatch):
    """As a view of a larger array does; kernels that read 16 bytes at once have another way."""
    args = case.args(dtype)
    y, _, gradients = run(case, args)
    monkeypatch.setattr(emulator, "GUARD", emulator.GUARD + np.dtype(dtype).itemsize)
    with emulated():
        y2, _, gradients2 = run(case, args)
    for ours, theirs in zip((y2, *gradients2), (y, *gradients), strict=True):
        assert relative(ours, theirs) <= tolerance


@every_case
def test_forward_equals_reference(case):
    expected = case.reference(*case.args())
    with emulated():
        y = case.op(*case.args(), **case.settings)
    assert relative(y, expected) <= 1e-10


@pytest.mark.parametrize("case", [c for c in CASES if c.linear], ids=lambda c: c.name)
def test_adjoint_is_exact(case):
    args = case.args()
    for i in case.linear:
        others = [
            np.zeros_like(a) if j in case.linear and j != i else a for j, a in enumerate(args)
        ]
        nothing = [np.zeros_like(a) if j == i else a for j, a in enumerate(others)]
        with emulated():
            y, gy, gradients = run(case, others)
            y = y - case.op(*nothing, **case.settings)  # without the bias
        left, right = np.vdot(y, gy), np.vdot(others[i], gradients[case.wrt.index(i)])
        assert abs(left - right) <= 1e-12 * np.linalg.norm(y) * np.linalg.norm(gy)


@both_runs
@pytest.mark.parametrize(
    "net, shape, branches",
    [
        (UNet(2, 2, 2, widths=(8, 10, 12)), (2, 2, 1, 19, 22), 1),
        (UNet(3, 1, 2, widths=(8, 10, 12)), (1, 1, 5, 8, 9), 1),
        (ResidualUNet(2, 2, 2, width=4), (2, 2, 1, 11, 14), 1),
        (ResidualUNet(3, 1, 2, width=3, depth=2), (2, 1, 5, 6, 7), 2),
        (PlainUNet(2, 2, 2, width=4), (2, 2, 1, 11, 14), 1),
        (PlainUNet(3, 1, 2, width=3, depth=2, skip="concat"), (1, 1, 5, 6, 7), 1),
    ],
    ids=lambda of: f"{type(of).__name__}, {of.ndim}-D" if hasattr(of, "ndim") else "",
)
def test_a_network_has_the_same_values_and_gradients(net, shape, branches, threads, backwards):
    """Here maps are read through their affines, and gradients of skips are added."""
    x = np.random.default_rng(0).normal(size=shape)
    gy = np.random.default_rng(1).normal(size=(shape[0], 2, *shape[2:]))
    parameters = net.initial_parameters(3, np.float64)

    def once():
        statistics = np.zeros((branches, net.statistics_size))
        y, saved = unet.forward(
            x, parameters, net=net, batch_statistics=statistics, branches=branches
        )
        inferred, _ = unet.forward(x, parameters, net=net, statistics=statistics[0])
        return y, inferred, statistics, *unet.backward(gy, saved)

    expected = once()
    with emulated(threads, backwards):
        got = once()
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        assert not ours.size or relative(ours, theirs) <= 1e-9  # some twenty layers, each of 1e-10


@both_runs
@pytest.mark.parametrize("enough", [1, 10**9])  # large tiles; threads that share the planes
@pytest.mark.parametrize(
    "kernel", [(1, 7, 7), (1, 13, 3), (3, 1, 9), (1, 5, 5), (1, 3, 3), (1, 1, 1)]
)
def test_convolution_however_it_is_tiled(kernel, enough, threads, backwards, monkeypatch):
    """With the slices of a GPU in the weights' gradient: one, or as many as there are bands."""
    rng = np.random.default_rng(0)
    x, gy = rng.normal(size=(1, 11, 2, 21, 75)), rng.normal(size=(1, 9, 2, 21, 75))
    w, b, affine = rng.normal(size=(9, 11, *kernel)), rng.normal(size=9), rng.normal(size=(2, 11))

    def once():
        y, (saved, sums) = conv.conv_forward(x, w, b, affine=affine, moments=True)
        return y, sums.sum(axis=0), *conv.conv_backward(gy, saved)

    expected = once()
    monkeypatch.setattr(conv_tiling, "ENOUGH", enough)
    with emulated(threads, backwards):
        got = once()
    for ours, theirs in zip(got, expected, strict=True):
        assert relative(ours, theirs) <= 1e-10


@pytest.mark.parametrize("shape", [(66000, 1, 1, 2, 2), (1, 1, 66000, 2, 2)])
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_more_planes_than_a_grid_has_along_z(shape, precision):
    """A GPU refuses a grid of more than 65535 along Y or Z."""
    x = np.zeros(shape, np.float32)
    kz, outputs = (1 if shape[2] == 1 else 3), 33 if precision == "tf32" else 2
    y = np.broadcast_to(np.float32(0), (shape[0], outputs, *shape[2:]))
    w = np.zeros((-(-outputs // 8), kz * 9, 8), np.float32)
    if precision == "tf32":
        grid = tensor_cores.forward_cut(y.shape, 1, (kz, 3, 3), 256).grid
        emulator.check_launch("matrix", grid, (32, 1, 1), 0)
    else:
        args = x, None, w, None, None, y, None, kz, 3, 3, 0, 0, 0
        emulator.check_launch("conv", *conv_tiling.forward_launch(1, args, 256))
        image, psf = x, np.ones((1, 2, 2), np.float32)
        with emulated():
            direct_convolution_forward(image, psf)


THIN = dataclasses.replace(
    recipes.DECONOISING, network=PlainUNet(width=8, depth=2), patch=16, batch=2, accumulate=2,
    epoch=1, validation=0.3,
)  # fmt: skip


UNKNOWN = LearnedPSF(1.2)


@pytest.mark.parametrize(
    "recipe, threads, backwards, psf",
    [
        (recipes.SSI, 64, True, None),
        (recipes.DEFAULT, 256, False, None),
        (recipes.DEFAULT, 64, True, UNKNOWN),
        (THIN, 64, True, None),
        (THIN, 256, False, None),
    ],
)
def test_a_training_goes_the_same_way(monkeypatch, recipe, threads, backwards, psf):
    """The whole pipeline: masks, network, blur, losses, gradients, weights.

    With Adam's usual eps, a first step goes by the signs of gradients, and a sign of nearly nothing
    by its last bit.
    """
    monkeypatch.setattr("ssi_cupy.training.step.Adam", functools.partial(optim.Adam, eps=0.01))
    rng = np.random.default_rng(0)
    image = rng.random((16, 19), np.float32)
    large = np.tile(image, (2, 2))
    physics = psf or PSFConvolution(rng.uniform(size=(3, 4)))

    def train():
        model = SelfSupervisedInverse(physics, recipe, rng=3)
        model.fit([large, large.T, large[::-1]] if recipe.patch else image, steps=2, progress=False)
        seen = [(step["loss"], step["validation"]) for step in model.history]
        return seen, model.predict(image)

    losses, restored = train()
    with emulated(threads, backwards):
        losses2, restored2 = train()
    np.testing.assert_allclose(losses2, losses, rtol=1e-4)
    assert relative(restored2, restored) <= 1e-4


# ---- random numbers, masks, weights -------------------------------------------------------------


@both_runs
def test_random_numbers_have_the_same_bits(threads, backwards):
    place = {"seed": 0xFEDCBA9876543210, "stream": 3, "step": 4_000_000_000}
    draws = [
        lambda: [random.bits((3, n), **place) for n in (1, 2, 100, 1025)],
        lambda: [random.uniform((77,), **place, dtype=d) for d in (np.float32, np.float64)],
        lambda: [random.normal((777,), **place, dtype=d) for d in (np.float32, np.float64)],
        lambda: [random.integers((100,), 1000, **place)],
    ]
    for draw in draws:
        expected = draw()
        with emulated(threads, backwards):
            for ours, theirs in zip(draw(), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


@both_runs
@pytest.mark.parametrize("shape", [(2, 3, 1, 17, 16), (1, 2, 5, 9, 7)])
@pytest.mark.parametrize("per_channel", [False, True])
def test_masks_and_fills_have_the_same_bits(shape, per_channel, threads, backwards):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kinds = [
        masking.RandomMask(0.4, 0.4, per_channel=per_channel),
        masking.RandomMask(0.97, 0.97, per_channel=per_channel),
        masking.StratifiedMask(0.1, per_channel=per_channel),
    ]

    def draw():
        masks = [kind.draw(shape, 1, 2, 10) for kind in kinds]
        masks.append(masking.validation_pixels(shape, 0.1, 4))
        fills = [
            masking.fill(image, mask, how, 2, 3, mean=0.1, noise=noise)
            for mask in masks
            for how in masking.FILLS
            for noise in (0.0, 0.3)
        ]
        return masks + fills

    expected = draw()
    with emulated(threads, backwards):
        for ours, theirs in zip(draw(), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@both_runs
@both_dtypes
def test_the_optimiser_goes_the_same_way(threads, backwards, dtype, tolerance):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=1030), rng.normal(size=(3, 1030)).astype(dtype)

    def walk():
        weights = start.astype(dtype)
        adam = optim.Adam(1030, dtype, l1=0.01, l2=0.1, noise=0.3, seed=5)
        average = optim.MovingAverage(1030, dtype)
        for gradient in gradients:
            adam.step(weights, gradient)
            average.update(weights)
        return weights, average.value(), adam.first, adam.second, optim.total(weights)

    expected = walk()
    with emulated(threads, backwards):
        for ours, theirs in zip(walk(), expected, strict=True):
            assert relative(ours, theirs) <= tolerance


# ---- that it finds what is wrong ----------------------------------------------------------------

RIGHT = """
#include "common.cuh"

extern "C" __global__ void batch_moments_kernel(
    Array<const real, 5> x, Array<const real, 1> pivot, Array<float64, 3> moments, int64 block
) {
    DYNAMIC_SHARED(float64, sums);
    const int64 pixels = x.size();
    float64 total = pivot(0) + 0 * block;
    for (int64 i = threadIdx.x; i < pixels; i += blockDim.x) total += x.data[i];
    sums[threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.x < 2) {
        total = 0;
        for (int i = 0; i < int(blockDim.x); ++i) total += sums[i];
        moments.data[threadIdx.x] = total;
    }
}
"""
WRONG = {
    "missing barrier": ("    __syncthreads();\n", ""),
    "barrier for some": ("    __syncthreads();", "    if (threadIdx.x < 40) __syncthreads();"),
    "off by one in a read": ("i < pixels", "i <= pixels"),
    "off by one in a write": ("threadIdx.x < 2", "threadIdx.x < 3"),
    "off by one in an index": ("pivot(0)", "pivot(1)"),
    "off by one in shared memory": ("sums[threadIdx.x] =", "sums[threadIdx.x + 1] ="),
    "unwritten output": ("threadIdx.x < 2", "threadIdx.x < 1"),
    "const array written": ("__syncthreads();", "__syncthreads();\n((real*)x.data)[3] = 0;"),
}


def sum_by(text):
    """The sum that a kernel text finds, in both orders; both written to two places."""
    header = (kernel_text.folder() / "common.cuh").read_text().replace("#pragma once", "")
    text = "typedef double real;\n" + text.replace('#include "common.cuh"', header)
    x = np.random.default_rng(0).normal(size=(1, 1, 1, 10, 10))
    results = []
    for backwards in (False, True):
        moments = poisoned((1, 2, 1), np.float64)
        args = x, np.zeros(1), moments, 1
        emulate = Emulator(backwards=backwards)
        emulate.run("norm", "batch_moments_kernel", args, (1,), (64,), 64 * 8, text)
        results += list(moments.ravel())
    return x.sum(), results


def test_a_right_kernel_passes():
    total, results = sum_by(RIGHT)
    np.testing.assert_allclose(results, total, rtol=1e-12)


@pytest.mark.parametrize("fault", WRONG)
def test_a_broken_kernel_is_caught(fault):
    assert WRONG[fault][0] in RIGHT
    try:
        total, results = sum_by(RIGHT.replace(*WRONG[fault]))
    except EmulationError:
        return
    assert not np.allclose(results, total, rtol=1e-12)


def probe_conv():
    rng = np.random.default_rng(0)
    x, gy = rng.normal(size=(1, 11, 1, 21, 75)), rng.normal(size=(1, 9, 1, 21, 75))
    w, b = rng.normal(size=(9, 11, 1, 3, 3)), rng.normal(size=9)
    y, (saved, sums) = conv.conv_forward(x, w, b, moments=True)
    return y, sums.sum(axis=0), *conv.conv_backward(gy, saved)


def probe_direct_convolution():
    rng = np.random.default_rng(0)
    x, psf = rng.normal(size=(1, 1, 4, 20, 80)), rng.random((3, 4, 5))
    return direct_convolution_forward(x, psf)[:1]


def probe_norm():
    x = np.random.default_rng(0).normal(size=(2, 3, 1, 31, 33))
    return (batch_affine(x, np.ones(3), np.zeros(3)).found,)


def probe_tensor_cores():
    rng = np.random.default_rng(0)
    shapes = (1, 17, 3, 9, 40), (33, 17, 3, 3, 3), (33,), (1, 33, 3, 9, 40)
    x, w, b, gy = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    with Precision("tf32"):
        y, (saved, sums) = conv.conv_forward(x, w, b, moments=True)
        return y, sums.sum(axis=0), *conv.conv_backward(gy, saved)


BARRIERS = [
    (probe, number)
    for probe, file, count in (
        (probe_tensor_cores, "tensor_cores.cu", 5),
        (probe_conv, "conv.cu", 8),
        (probe_direct_convolution, "direct_convolution.cu", 2),
        (probe_norm, "common.cuh", 2),
    )
    for number in range(count)
]


def test_all_barriers_are_probed():
    files = "conv.cu", "direct_convolution.cu", "tensor_cores.cu", "common.cuh"
    found = sum((kernel_text.folder() / f).read_text().count("__syncthreads();") for f in files)
    everywhere = sum(
        f.read_text().count("__syncthreads();") for f in kernel_text.folder().glob("*.cu*")
    )
    assert found == everywhere == len(BARRIERS)


@pytest.mark.parametrize(
    "probe, number", BARRIERS, ids=[f"{probe.__name__}-{number}" for probe, number in BARRIERS]
)
def test_every_barrier_is_needed_and_its_lack_is_seen(probe, number, monkeypatch):
    stem = probe.__name__.removeprefix("probe_")
    whole = kernel_text.text(stem)
    before = 0 if stem == "norm" else 2  # those of common.cuh come first
    at = [match.start() for match in re.finditer(r"__syncthreads\(\);", whole)][before + number]
    without = whole[:at] + whole[at:].replace("__syncthreads();", "", 1)
    expected = probe()
    tolerance = 1e-5 if stem == "tensor_cores" else 1e-10  # of float32
    text = kernel_text.text
    monkeypatch.setattr(kernel_text, "text", lambda name: without if name == stem else text(name))
    for enough, backwards in itertools.product((1, 10**9), (False, True)):
        for module in (conv_tiling, tensor_cores):
            monkeypatch.setattr(module, "ENOUGH", enough)
        with emulated(64, backwards):
            got = probe()
        if not all(relative(a, b) <= tolerance for a, b in zip(got, expected, strict=True)):
            return
    pytest.fail("no run shows that this barrier is missing")
