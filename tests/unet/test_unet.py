"""The network by hand against the same network made of taped operations, and its gradients."""

import numpy as np
import pytest

from ssi_cupy.engine.checks import InputError
from ssi_cupy.ops.conv import conv
from ssi_cupy.ops.norm import batch_affine, batch_norm, batch_norm_backward, renormalised
from ssi_cupy.ops.pool import max_pool
from ssi_cupy.ops.upsample import concat, upsample
from ssi_cupy.tape import Tape, Var
from ssi_cupy.unet import UNet, unet, unet_backward, unet_forward

SHAPES = {
    "2-D": (UNet(), (1, 1, 1, 32, 48)),
    "2-D, odd, smallest": (UNet(), (1, 1, 1, 16, 27)),
    "2-D, batch of 2, two channels": (UNet(inputs=2, outputs=2, widths=(8, 16)), (2, 2, 1, 7, 9)),
    "3-D, odd": (UNet(ndim=3, widths=(4, 6, 8)), (1, 1, 5, 7, 9)),
    "3-D, flat windows": (UNet(3, widths=(4, 6), windows=((1, 2, 2),)), (1, 1, 3, 7, 9)),
    "3-D, three taps": (UNet(3, widths=(4, 6), taps=(3, 3)), (1, 1, 4, 7, 9)),
    "2-D, one tap and five": (UNet(widths=(4, 6), taps=(1, 5)), (1, 1, 1, 12, 9)),
    "3-D, coarse z": (UNet(3, widths=(4, 6), windows=((1, 2, 2),), aspect=2.0), (1, 1, 3, 7, 9)),
}
every_shape = pytest.mark.parametrize("net, shape", SHAPES.values(), ids=SHAPES)


def inputs(net, shape, dtype=np.float64):
    rng = np.random.default_rng(1)
    parameters = net.initial_parameters(seed=5, dtype=dtype)
    parameters += 0.1 * rng.normal(size=net.size).astype(dtype)  # no γ at 1, no β at 0
    return rng.normal(size=shape).astype(dtype), parameters


def of_taped_operations(x, parameters, net):
    """The same network, from operations that each write their output."""

    def unit(name, x):
        p = {key: parameters[f"{name}.{key}"] for key in ("weight", "bias", "gamma", "beta")}
        return batch_norm(conv(x, p["weight"], p["bias"]), p["gamma"], p["beta"], relu=True)

    skips = []
    for level in range(len(net.widths)):
        if level:
            x = max_pool(x, window=net.pooling[level - 1])
        x = unit(f"down{level}.narrow", unit(f"down{level}.wide", x))
        skips.append(x)
    skips.pop()
    for level in reversed(range(len(net.widths) - 1)):
        skip = skips.pop()
        size = (skip.value if isinstance(skip, Var) else skip).shape[2:]
        x = concat(skip, upsample(x, size=size, factor=net.pooling[level]))
        x = unit(f"up{level}.narrow", unit(f"up{level}.wide", x))
    return conv(x, parameters["head.weight"], parameters["head.bias"])


@every_shape
def test_equals_the_network_of_taped_operations(net, shape):
    x, parameters = inputs(net, shape)
    gy = np.random.default_rng(2).normal(size=(shape[0], net.outputs, *shape[2:]))

    tape = Tape()
    taped_x = tape.var(x)
    taped = {name: tape.var(view) for name, view in net.views(parameters).items()}
    y = of_taped_operations(taped_x, taped, net)
    tape.backward(y, gy)

    y_hand, saved = unet_forward(x, parameters, net=net)
    gx, gradient = unet_backward(gy, saved)
    np.testing.assert_allclose(y_hand, y.value, rtol=0, atol=1e-11 * np.abs(y.value).max())
    np.testing.assert_allclose(gx, taped_x.grad, rtol=0, atol=1e-10 * np.abs(gx).max())
    for name, view in net.views(gradient).items():
        # The bias of a convolution before a batch norm has gradient 0: compare on a fixed scale.
        atol = 1e-10 * np.abs(gradient).max()
        np.testing.assert_allclose(view, taped[name].grad, rtol=0, atol=atol, err_msg=name)


@every_shape
def test_gradient_equals_directional_derivative(net, shape):
    x, parameters = inputs(net, shape)
    rng = np.random.default_rng(3)
    gy = rng.normal(size=(shape[0], net.outputs, *shape[2:]))
    tape = Tape()
    taped_x, taped = tape.var(x), tape.var(parameters)
    tape.backward(unet(taped_x, taped, net=net), gy)
    for value, var in ((x, taped_x), (parameters, taped)):
        v = rng.normal(size=value.shape)
        told, found = np.vdot(var.grad, v), []
        for step in (1e-6, 3e-7, 1e-7, 3e-8):  # some step is short enough to cross no kink

            def along(t, value=value, v=v):
                args = (x + t * v, parameters) if value is x else (x, parameters + t * v)
                return np.vdot(gy, unet_forward(*args, net=net)[0])

            found.append(abs((along(step) - along(-step)) / (2 * step) - told))
        assert min(found) <= 1e-6 * np.linalg.norm(var.grad) * np.linalg.norm(v) / np.sqrt(v.size)


def test_inference_uses_the_given_statistics():
    """With the batch's own statistics given, inference is training: pixel for pixel the same."""
    net, shape = UNet(widths=(8, 16)), (1, 1, 1, 16, 20)
    x, parameters = inputs(net, shape)
    batch = net.initial_statistics(np.float64)
    y, _ = unet_forward(x, parameters, net=net, batch_statistics=batch)
    for unit, place in net.statistics_layout.items():  # undo "unbiased"
        level = int(unit[unit.index(".") - 1])
        count = 16 * 20 / 4**level
        batch[(place.start + place.stop) // 2 : place.stop] *= (count - 1) / count
    same, _ = unet_forward(x, parameters, net=net, statistics=batch)
    np.testing.assert_allclose(same, y, rtol=0, atol=1e-12 * np.abs(y).max())
    other, _ = unet_forward(x, parameters, net=net, statistics=net.initial_statistics(np.float64))
    assert np.abs(other - y).max() > 1e-3


def test_branches_are_runs_of_their_own():
    net, (_, *shape) = SHAPES["2-D, batch of 2, two channels"]
    x, parameters = inputs(net, (4, *shape))
    gy = np.random.default_rng(2).normal(size=(4, net.outputs, *shape[1:]))
    batch = np.zeros((2, net.statistics_size))
    y, saved = unet_forward(x, parameters, net=net, batch_statistics=batch, branches=2)
    gx, gradient = unet_backward(gy, saved)
    total = 0
    for branch, some in enumerate((slice(0, 2), slice(2, 4))):
        alone = net.initial_statistics(np.float64)
        y1, saved = unet_forward(x[some], parameters, net=net, batch_statistics=alone)
        gx1, gradient1 = unet_backward(gy[some], saved)
        total = total + gradient1
        for ours, theirs in ((y[some], y1), (gx[some], gx1), (batch[branch], alone)):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())
    np.testing.assert_allclose(gradient, total, rtol=0, atol=1e-12 * np.abs(total).max())


def test_has_the_papers_number_of_parameters():
    assert UNet().size == 554_057
    names = UNet().views(UNet().initial_parameters(seed=0))
    assert names["down4.wide.weight"].shape == (64, 64, 1, 5, 5)
    assert names["up3.wide.weight"].shape == (64, 128, 1, 5, 5)


def test_float32_follows_float64():
    net, shape = SHAPES["2-D"]
    exact = unet_forward(*inputs(net, shape), net=net)[0]
    single = unet_forward(*inputs(net, shape, np.float32), net=net)[0]
    assert single.dtype == np.float32
    assert np.abs(single - exact).max() <= 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("shape", [(1, 1, 1, 15, 40), (1, 2, 1, 32, 32), (32, 32)])
def test_images_it_cannot_take_are_refused(shape):
    with pytest.raises(InputError, match="^x: expected"):
        unet_forward(np.zeros(shape), UNet().initial_parameters(0, np.float64), net=UNet())


@pytest.mark.parametrize(
    "name, value",
    [
        ("branches", 2),
        ("branches", 0),
        ("parameters", np.zeros(7)),
        ("statistics", np.zeros(7)),
        ("batch_statistics", np.zeros((2, UNet().statistics_size))),
        ("batch_statistics", np.zeros(UNet().statistics_size, np.float16)),
    ],
)
def test_settings_that_do_not_fit_are_named(name, value):
    settings = {"parameters": UNet().initial_parameters(0, np.float64)} | {name: value}
    with pytest.raises(InputError, match=f"^{name}: expected"):
        unet_forward(np.zeros((1, 1, 1, 16, 16)), net=UNet(), **settings)


def test_kernels_grow_along_z_where_the_voxels_are_near_cubic():
    """Twice as high as wide: 3 taps in place of 5 on the first level, all of them on the others;
    three in any case."""
    net = UNet(ndim=3, widths=(2, 2, 2), windows=((1, 2, 2), (2, 2, 2)), aspect=2.0)
    depths = {name: kernel[0] for name, (_, _, kernel) in net.units.items()}
    assert depths["down0.wide"] == depths["up0.wide"] == 3
    assert depths["down0.narrow"] == depths["up0.narrow"] == 3
    assert depths["down1.wide"] == depths["down2.wide"] == 5
    assert depths["down1.narrow"] == depths["up1.narrow"] == 3
    flat = UNet(ndim=3, widths=(2, 2), windows=((1, 2, 2),), aspect=6.0)
    assert flat.units["down0.wide"][2] == (3, 5, 5) and flat.units["down1.wide"][2] == (3, 5, 5)
    assert flat.units["head"][2] == (1, 1, 1)
    assert UNet(ndim=3, windows=((1, 2, 2),) * 4).units == UNet(ndim=3).units


# ---- batch renormalisation --------------------------------------------------------------------


def test_renormalised_by_its_own_statistics_it_is_batch_norm():
    """To rounding, forward and backward; the batch's statistics are told as ever."""
    net = UNet(widths=(4, 6))
    x, parameters = inputs(net, (2, 1, 1, 12, 10))
    own = np.zeros((1, net.statistics_size))
    y, saved = unet_forward(x, parameters, net=net, batch_statistics=own)
    gradient = unet_backward(np.cos(y), saved)[1]
    biased = own[0].copy()  # variances over M, not M - 1
    counts = {"down0": 240, "up0": 240, "down1": 60}
    for name, place in net.statistics_layout.items():
        m = counts[name.split(".")[0]]
        biased[(place.start + place.stop) // 2 : place.stop] *= (m - 1) / m
    again = np.zeros_like(own)
    z, saved = unet_forward(x, parameters, net=net, statistics=biased, batch_statistics=again)
    np.testing.assert_allclose(z, y, atol=1e-10)
    np.testing.assert_allclose(again, own, atol=1e-12)
    np.testing.assert_allclose(unet_backward(np.cos(z), saved)[1], gradient, atol=1e-9)


def test_renormalised_by_others_it_is_inference_with_them():
    net = UNet(3, widths=(4, 6), taps=(3, 3))
    x, parameters = inputs(net, (1, 1, 4, 8, 8))
    rng, known = np.random.default_rng(2), np.zeros(net.statistics_size)
    for place in net.statistics_layout.values():
        middle = (place.start + place.stop) // 2
        known[place.start : middle] = rng.normal(size=middle - place.start)
        known[middle : place.stop] = rng.uniform(0.5, 2, place.stop - middle)
    batch = np.zeros((1, net.statistics_size))
    y, _ = unet_forward(x, parameters, net=net, statistics=known, batch_statistics=batch)
    np.testing.assert_allclose(
        y, unet_forward(x, parameters, net=net, statistics=known)[0], atol=1e-10
    )


def test_the_gradient_of_a_renormalised_map():
    """r and d are constants to it: that of y = γ (r x̂ + d) + β, with x̂ as of batch norm."""
    rng = np.random.default_rng(0)
    x, gamma, beta = rng.normal(2, 3, (2, 3, 1, 5, 4)), rng.normal(size=3), rng.normal(size=3)
    mean, variance = rng.normal(size=3), rng.uniform(0.5, 3, 3)
    normed = batch_affine(x, gamma, beta, relu=False)
    own, inverse = normed.found.copy()
    normed = renormalised(normed, gamma, beta, (mean, variance), 1e-5)
    gy = rng.normal(size=x.shape)
    found = batch_norm_backward(gy, normed)
    std = np.sqrt(variance + 1e-5)
    r, d = 1 / inverse / std, (own - mean) / std

    def y(x, gamma, beta):
        m, s = x.mean(axis=(0, 2, 3, 4)), x.std(axis=(0, 2, 3, 4))
        shaped = [a[:, None, None, None] for a in (m, np.sqrt(s**2 + 1e-5), r, d, gamma, beta)]
        m, s, r_, d_, g, b = shaped
        return g * (r_ * (x - m) / s + d_) + b

    given = [x, gamma, beta]
    for i, gradient in enumerate(found):
        way = rng.normal(size=given[i].shape)
        ends = [[*given[:i], given[i] + step * way, *given[i + 1 :]] for step in (1e-6, -1e-6)]
        slope = ((y(*ends[0]) - y(*ends[1])) * gy).sum() / 2e-6
        assert slope == pytest.approx(float((gradient * way).sum()), rel=1e-6)
