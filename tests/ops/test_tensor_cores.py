"""Convolutions of rounded numbers: what is rounded, how much that costs, and the tensor cores'
kernels against the loops that say the same."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from emulation import emulator, fake_cupy
from running import both_runs, emulated, relative
from small_runs import PSF, picture
from ssi_cupy import recipes
from ssi_cupy.engine import precision
from ssi_cupy.engine.checks import DeviceError, FileError, InputError
from ssi_cupy.engine.gpu import driver
from ssi_cupy.engine.precision import Precision
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.ops import tensor_cores
from ssi_cupy.ops.conv import conv_backward, conv_forward
from ssi_cupy.ops.strided import join_forward, strided_conv_backward, strided_conv_forward
from ssi_cupy.physics import PSFConvolution
from ssi_cupy.training.step import Training
from ssi_cupy.unet import PlainUNet, ResidualUNet

SHAPES = [  # of x and w
    ((1, 8, 1, 9, 11), (16, 8, 1, 3, 3)),
    ((2, 11, 1, 21, 37), (50, 11, 1, 3, 3)),
    ((1, 24, 1, 4, 5), (48, 24, 1, 1, 1)),
    ((2, 17, 3, 7, 9), (33, 17, 3, 3, 3)),
    ((1, 16, 1, 19, 70), (100, 16, 1, 5, 5)),
    ((1, 19, 2, 1, 33), (16, 19, 1, 7, 3)),
    ((1, 41, 1, 9, 8), (144, 41, 3, 1, 1)),
]
every_shape = pytest.mark.parametrize(
    "shape, kernel", SHAPES, ids=lambda of: "×".join(map(str, of))
)
both_precisions = pytest.mark.parametrize("name", ["tf32", "tf32x3"])
needs_compiler = pytest.mark.skipif(
    emulator.compiler() is None, reason="no C++ compiler (g++, or what CXX names) was found"
)


def rounded(numbers):
    """To 11 significant bits, half away from zero, in float64."""
    mantissa, exponent = np.frexp(np.asarray(numbers, np.float64))
    scaled = mantissa * 2.0**11
    return np.ldexp(np.sign(scaled) * np.floor(np.abs(scaled) + 0.5), exponent - 11)


def problem(shape, kernel, dtype=np.float32):
    """x, w, b, an affine and gy."""
    rng = np.random.default_rng(0)
    sizes = shape, kernel, kernel[:1], (2, shape[1]), (shape[0], kernel[0], *shape[2:])
    return [rng.normal(size=size).astype(dtype) for size in sizes]


def there_and_back(x, w, b, affine, gy):
    """y, its sums, and the gradients by relu(affine), w and b."""
    y, (saved, sums) = conv_forward(x, w, b, affine=affine, moments=True)
    return y, sums.sum(axis=0), *conv_backward(gy, saved)


# ---- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number, expected",
    [
        (1 + 2**-11, 1 + 2**-10),  # half way: away from zero
        (-1 - 2**-11, -1 - 2**-10),
        (1 + 2**-11 - 2**-23, 1),
        (1 + 2**-10, 1 + 2**-10),
        (2 - 2**-20, 2),
        (np.inf, np.inf),
        (np.finfo(np.float32).max, np.inf),
        (0.0, 0.0),
    ],
)
def test_a_number_is_rounded_to_eleven_bits(number, expected):
    assert tensor_cores.rounded(np.full((1, 1, 1, 1, 3), number, np.float32)).tolist() == [
        [[[[expected] * 3]]]
    ]


@needs_compiler
@both_runs
def test_numbers_are_rounded_as_numpy_says_on_either_device(threads, backwards):
    x, _, _, affine, _ = problem((3, 5, 2, 71, 90), (1, 1, 1, 1, 1))
    wide = (slice(None), None, None, None)
    seen = np.maximum(x * affine[0][wide] + affine[1][wide], 0)
    here, read = tensor_cores.rounded(x), tensor_cores.rounded(x, affine)
    np.testing.assert_array_equal(here, rounded(x))
    np.testing.assert_allclose(read, rounded(seen), rtol=2**-10)  # some by a fused multiply-add
    with emulated(threads, backwards):
        np.testing.assert_array_equal(tensor_cores.rounded(x), here)
        np.testing.assert_allclose(tensor_cores.rounded(x, affine), read, rtol=2**-10)


def packed(w, halves):
    """Weights as a kernel reads them: [half][tap][lane][4]."""
    into = np.empty((halves, w.shape[2], 128), np.float32)
    with emulated():
        tensor_cores.pack_matrix_kernel(1, w, into, False)
    return into


@needs_compiler
def test_nan_stays_nan_rounded_or_split():
    for bits in (0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF):  # the last two, rounded, would be zeros
        nan = np.full((16, 8, 1), np.array(bits, np.uint32).view(np.float32))
        assert np.isnan(tensor_cores.rounded(nan[None, None])).all()
        assert np.isnan(packed(nan, 1)).all() and np.isnan(packed(nan, 2)).any(axis=0).all()


@needs_compiler
def test_weights_are_rounded_or_split_into_two_of_eleven_bits():
    w = np.random.default_rng(1).normal(size=(16, 8, 1)).astype(np.float32) * 1e3
    one, (high, low) = packed(w, 1)[0], packed(w, 2)
    expected = np.sort(rounded(w), axis=None)
    np.testing.assert_array_equal(np.sort(one, axis=None), expected)
    np.testing.assert_array_equal(high, one)
    both = np.sort(high + rounded(low), axis=None)
    np.testing.assert_allclose(both, np.sort(w, axis=None), rtol=2**-22, atol=0)


@needs_compiler
def test_weights_lie_as_the_lanes_of_a_warp_hold_them():
    """PTX, mma.m16n8k8: lane (group, member) has A at (group, member), 8 rows below, 4 columns on,
    and both."""
    w = np.arange(16 * 8 * 3, dtype=np.float32).reshape(16, 8, 3)
    (into,) = packed(w, 1)
    for tap, group, member in itertools.product(range(3), range(8), range(4)):
        lane = into[tap, (group * 4 + member) * 4 :][:4]
        rows, columns = [group, group + 8] * 2, [member, member, member + 4, member + 4]
        np.testing.assert_array_equal(lane, w[rows, columns, tap])


# ---- convolutions -------------------------------------------------------------------------------


@every_shape
def test_tf32_is_the_convolution_of_rounded_numbers(shape, kernel):
    x, w, b, affine, gy = problem(shape, kernel)
    with Precision("tf32"):
        y, sums, gx, gw, gb = there_and_back(x, w, b, affine, gy)
    wide = (slice(None), None, None, None)
    seen = np.maximum(x * affine[0][wide] + affine[1][wide], 0)  # float32, as it is computed
    at_once = [rounded(a) for a in (seen, w, gy)]
    exact, (saved, _) = conv_forward(at_once[0], at_once[1], b.astype(np.float64), moments=True)
    gx2, gw2, gb2 = conv_backward(at_once[2], saved)
    assert relative(y, exact) <= 1e-5 and relative(gw, gw2) <= 1e-5
    assert relative(gb, gb2) <= 1e-5
    if shape[1] >= tensor_cores.FEWEST_OUTPUTS:  # its inputs are the outputs of the backward pass
        assert relative(gx, gx2) <= 1e-5
    without = exact - b[:, None, None, None]
    np.testing.assert_allclose(
        sums, [(without**k).sum(axis=(0, 2, 3, 4)) for k in (1, 2)], rtol=1e-4, atol=1e-3
    )


@needs_compiler
@every_shape
def test_three_products_are_nearly_exact_and_one_is_not(shape, kernel):
    exact = there_and_back(*problem(shape, kernel, np.float64))
    off = {}
    for name in ("tf32x3", "tf32"):
        with Precision(name), emulated():
            found = there_and_back(*problem(shape, kernel))
        off[name] = [relative(a, b) for a, b in zip(found, exact, strict=True)]
    assert max(off["tf32x3"]) <= 3e-6
    assert off["tf32"][0] >= 5e-5 and off["tf32"][3] >= 5e-5 and max(off["tf32"]) <= 2e-3


@needs_compiler
def test_tensor_cores_cut_a_sum_and_three_products_round_it():
    """1 + 1.5 · 2⁻²⁴ is 1 where it is cut, and a step more where it is rounded to the nearest."""
    x, w = np.zeros((1, 16, 1, 1, 1), np.float32), np.zeros((16, 16, 1, 1, 1), np.float32)
    x[0, [0, 8], 0, 0, 0], w[:, [0, 8], 0, 0, 0] = (1, 1.5 * 2**-12), (1, 2**-12)
    for name, expected in (("tf32", 1), ("tf32x3", 1 + 2**-23)):
        with Precision(name), emulated():
            assert np.all(conv_forward(x, w)[0] == np.float32(expected))


@needs_compiler
def test_a_long_sum_of_one_sign_loses_no_more_than_is_said():
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(size=(1, 96, 1, 7, 8))).astype(np.float32)
    w = np.abs(rng.normal(size=(16, 96, 1, 5, 5))).astype(np.float32)
    cut, once, number = 3.5 * 2.0**-23, 2.0**-23, 96 * 25  # of a step, of a sum; products
    seen, lost = (rounded(x), rounded(w)), {}
    for name, exact in (("tf32", seen), ("tf32x3", (x, w))):
        expected = conv_forward(*(np.asarray(a, np.float64) for a in exact))[0]
        with Precision(name), emulated(64):
            lost[name] = expected - conv_forward(x, w)[0]
        lost[name] /= expected
    assert lost["tf32"].min() >= -once  # nothing is gained by cutting
    assert 1e-5 < lost["tf32"].max() <= cut * number / 4
    assert np.abs(lost["tf32x3"]).max() <= 2 * cut + once + 2.0**-22 <= 1.3e-6


@needs_compiler
@both_precisions
def test_the_way_back_is_the_adjoint(name):
    x, w, _, _, gy = problem((1, 17, 3, 9, 12), (19, 17, 3, 3, 3))
    with Precision(name), emulated():
        y, saved = conv_forward(x, w)
        gx, gw = conv_backward(gy, saved)
    scale = np.linalg.norm(y) * np.linalg.norm(gy)
    limit = {"tf32": 2e-5, "tf32x3": 1e-7}[name]  # y's and gx's numbers are not rounded alike
    assert abs(np.vdot(y, gy) - np.vdot(x, gx)) <= limit * scale
    assert abs(np.vdot(y, gy) - np.vdot(w, gw)) <= limit * scale


@needs_compiler
@every_shape
@both_precisions
@both_runs
@pytest.mark.parametrize("enough", [1, 10**9])
def test_the_kernels_do_what_the_loops_do(shape, kernel, name, threads, backwards, enough,
                                          monkeypatch):  # fmt: skip
    arrays = problem(shape, kernel)
    with Precision(name):
        expected = there_and_back(*arrays)
        monkeypatch.setattr(tensor_cores, "ENOUGH", enough)
        with emulated(threads, backwards) as ran:
            found = there_and_back(*arrays)
    assert {"matrix_forward_kernel", "matrix_weights_kernel"} <= ran.launched
    for ours, theirs in zip(found, expected, strict=True):
        assert relative(ours, theirs) <= 1e-5


@needs_compiler
@both_precisions
def test_strided_and_transposed_convolutions_go_there_too(name):
    rng = np.random.default_rng(0)
    shapes = (1, 9, 2, 8, 10), (20, 9, 2, 2, 2), (1, 20, 1, 4, 5), (1, 0, 2, 8, 10)
    x, w, g, nothing = (rng.normal(size=shape).astype(np.float32) for shape in shapes)

    def once():
        y, saved = strided_conv_forward(x, w)
        return y, *strided_conv_backward(g, saved), join_forward(nothing, g, w)[0]

    exact = once()
    with Precision(name):
        expected = once()
        with emulated() as ran:
            found = once()
    assert {"matrix_forward_kernel", "matrix_weights_kernel"} <= ran.launched
    for ours, theirs, whole in zip(found, expected, exact, strict=True):
        assert relative(ours, theirs) <= 1e-5 and relative(theirs, whole) <= 2e-3


# ---- who goes there -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs, outputs, kernel, dtype, expected",
    [
        (8, 16, (1, 3, 3), np.float32, 1),
        (7, 16, (1, 3, 3), np.float32, 0),
        (8, 15, (1, 3, 3), np.float32, 0),
        (8, 16, (9, 7, 7), np.float32, 1),
        (8, 16, (1, 1, 9), np.float32, 0),
        (8, 16, (1, 3, 3), np.float64, 0),
    ],
)
def test_wide_convolutions_of_float32_go_there_if_they_are_told(
    inputs, outputs, kernel, dtype, expected
):
    x = np.zeros(1, dtype)
    assert tensor_cores.products(x, outputs, inputs, kernel) == 0
    with Precision("tf32"):
        assert tensor_cores.products(x, outputs, inputs, kernel) == expected


def test_a_precision_holds_within_its_block_and_may_be_nested():
    assert precision.current() == "float32"
    with pytest.raises(ZeroDivisionError), Precision("tf32"):
        with Precision("tf32x3"):
            assert precision.current() == "tf32x3"
        assert precision.current() == "tf32"
        raise ZeroDivisionError
    assert precision.current() == "float32"


def test_a_gpu_without_tensor_cores_says_so(monkeypatch):
    monkeypatch.setattr(tensor_cores, "is_cupy", lambda array: True)
    monkeypatch.setattr(driver, "has_tensor_cores", lambda: False)
    with Precision("tf32"), pytest.raises(DeviceError, match="^precision: .*8.0, got 'tf32'"):
        tensor_cores.products(np.zeros(1, np.float32), 16, 8, (1, 3, 3))


WIDE = {  # (x, w) of all that may come: of the papers' networks, and others
    ((shape[0], weights[1], *(max(1, n >> level) for n in shape[2:])), weights)
    for net, shape in [
        (ResidualUNet(), (32, 1, 1, 128, 128)), (ResidualUNet(ndim=3), (8, 1, 64, 64, 64)),
        (PlainUNet(), (1, 1, 1, 100, 100)), (ResidualUNet(), (1, 1, 1, 7, 9)),
    ]
    for level, weights in itertools.product(range(net.depth), net.shapes.values())
    if len(weights) == 5 and min(weights[0] // 2, weights[1]) >= 8
} | {
    ((1, inputs, 1, 33, 65), (outputs, inputs, 1, ky, kx))
    for inputs in (8, 20, 200)
    for outputs in (16, 33, 48, 100, 144, 250, 1000)
    for ky, kx in [(1, 1), (3, 3), (1, 7), (7, 7)]
}  # fmt: skip


@pytest.mark.parametrize("threads", [64, 256])
def test_tiles_cover_the_image_and_fit_every_gpu(threads):
    for x, weights in WIDE:
        outputs, inputs, kz, ky, kx = weights
        cut = tensor_cores.forward_cut((x[0], outputs, *x[2:]), inputs, weights[2:], threads)
        lines = cut.block[2] * (64 if cut.tall == 2 else 32) // cut.columns
        assert math.prod(cut.block) <= min(192, threads) and cut.shared <= 98304
        assert cut.grid[0] * lines * cut.columns >= x[3] * x[4]
        assert cut.blocks * 16 >= outputs and 1 <= cut.staged <= cut.octets
        cut = tensor_cores.weights_cut(x, weights, threads)
        columns = cut.block[2] * (9 if cut.tall == 2 else 6)
        assert math.prod(cut.block) <= min(192, threads) and cut.shared <= 98304
        assert cut.blocks * 16 >= outputs
        assert cut.grid[2] // kz * columns >= cut.octets * ky * kx
        assert cut.slices == 1 or cut.slices * math.prod(weights) * 4 <= 64 << 20


# ---- trainings ----------------------------------------------------------------------------------

RECIPE = dataclasses.replace(
    recipes.get("noise2self"), network=ResidualUNet(width=16, depth=2), patch=16, batch=2
)


def trained(name, steps=4, **options):
    model = SelfSupervisedInverse(PSFConvolution(PSF), RECIPE, precision=name, device="cpu")
    model.fit(picture((24, 24)), steps=steps, progress=False, **options)
    return model


def test_a_training_takes_the_precision_that_it_is_told(tmp_path):
    models = {name: trained(name) for name in precision.PRODUCTS}
    losses = {name: [h["loss"] for h in model.history] for name, model in models.items()}
    assert losses["tf32x3"] == losses["float32"] != losses["tf32"]  # on a CPU
    np.testing.assert_allclose(losses["tf32"], losses["float32"], rtol=2e-2)
    models["tf32"].save(tmp_path / "model.npz")
    image, again = picture((24, 24)), SelfSupervisedInverse.load
    sharp = models["tf32"].predict(image)
    same = again(tmp_path / "model.npz", device="cpu", precision="tf32").predict(image)
    np.testing.assert_array_equal(sharp, same)
    other = again(tmp_path / "model.npz", device="cpu").predict(image)
    assert not np.array_equal(other, sharp) and relative(other, sharp) < 0.05


def test_a_checkpoint_of_another_precision_is_refused(tmp_path):
    path = tmp_path / "state.npz"
    trained("tf32", checkpoint=path)
    with pytest.raises(FileError, match="^resume: .*same precision: float32.*tf32"):
        trained("float32", resume=path)


def test_a_precision_that_there_is_not_is_an_error():
    with pytest.raises(InputError, match="^precision: .*'float32', 'tf32x3', 'tf32'.* got 'bf16'"):
        trained("bf16")


@needs_compiler
def test_a_graph_has_the_bits_of_a_training_run_kernel_by_kernel(monkeypatch):
    found = []
    for graph in (True, False):
        with fake_cupy.installed(monkeypatch):
            physics = PSFConvolution(np.ones((3, 3)), method="fft")
            options = {"device": "cuda", "precision": "tf32", "graph": graph}
            model = SelfSupervisedInverse(physics, RECIPE, **options)
            training = Training(model, picture((24, 24))[None, None, None].astype(np.float64), 6)
            with Precision(model.precision):
                for _ in range(6):
                    training.step()
            found.append(training.parameters.get())
            training.close()
    np.testing.assert_array_equal(*found)
