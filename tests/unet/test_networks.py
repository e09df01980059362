"""The residual and the plain network: by hand against taped operations and PyTorch, gradients."""

import dataclasses
import json

import numpy as np
import pytest

from ssi_cupy.engine import backend
from ssi_cupy.engine.checks import InputError
from ssi_cupy.files import model_file
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.ops.add import add
from ssi_cupy.ops.conv import conv
from ssi_cupy.ops.norm import batch_norm
from ssi_cupy.ops.pointwise import relu
from ssi_cupy.ops.pool import max_pool
from ssi_cupy.ops.strided import strided_conv, transposed_conv
from ssi_cupy.ops.upsample import concat
from ssi_cupy.physics import Identity
from ssi_cupy.tape import Tape, Var
from ssi_cupy.unet import PlainUNet, ResidualUNet, UNet, unet, unet_backward, unet_forward

NETWORKS = {
    "residual, 2-D": (ResidualUNet(width=6), (2, 1, 1, 12, 16)),
    "residual, 2-D, odd, two channels": (ResidualUNet(2, 2, 3, width=4), (1, 2, 1, 11, 13)),
    "residual, 2-D, add": (ResidualUNet(width=5, skip="add"), (2, 1, 1, 9, 8)),
    "residual, 3-D, odd": (ResidualUNet(3, width=4, depth=2), (2, 1, 5, 6, 7)),
    "residual, 3-D, concat, coarse z": (
        ResidualUNet(3, width=3, skip="concat", windows=((1, 2, 2), (2, 2, 2)), aspect=2.0),
        (1, 1, 3, 8, 9),
    ),
    "residual, one level": (ResidualUNet(width=3, depth=1), (1, 1, 1, 6, 7)),
    "plain, 2-D": (PlainUNet(width=6), (2, 1, 1, 12, 16)),
    "plain, 2-D, odd, concat, two channels": (
        PlainUNet(2, 2, 3, width=4, skip="concat", gain=2.0),
        (1, 2, 1, 11, 13),
    ),
    "plain, 3-D, coarse z": (
        PlainUNet(3, width=3, windows=((1, 2, 2), (2, 2, 2)), aspect=2.0),
        (1, 1, 3, 8, 9),
    ),
}
every_network = pytest.mark.parametrize("net, shape", NETWORKS.values(), ids=NETWORKS)


def inputs(net, shape, dtype=np.float64):
    rng = np.random.default_rng(1)
    parameters = net.initial_parameters(seed=5, dtype=dtype)
    parameters += 0.1 * rng.normal(size=net.size).astype(dtype)  # no γ at 1, no β or bias at 0
    return rng.normal(size=shape).astype(dtype), parameters


def gradient_of(net, shape, seed=2):
    return np.random.default_rng(seed).normal(size=(shape[0], net.outputs, *shape[2:]))


def size_of(x):
    return (x.value if isinstance(x, Var) else x).shape[2:]


# ---- the same networks, of operations that each write their output ------------------------------


def residual_of_operations(x, p, net, branches=1):
    def norm(name, x):
        gamma, beta = p[f"{name}.gamma"], p[f"{name}.beta"]
        return batch_norm(x, gamma, beta, relu=True, branches=branches)

    def unit(name, x):
        a = norm(f"{name}.norm1", x)
        shortcut = p.get(f"{name}.shortcut.weight")
        x = x if shortcut is None else conv(a, shortcut)
        a = norm(f"{name}.norm2", conv(a, p[f"{name}.conv1.weight"]))
        return add(conv(a, p[f"{name}.conv2.weight"]), x)

    x = unit("down0", conv(x, p["first.weight"]))
    skips = []
    for level in range(1, net.depth):
        skips.append(x)
        x = strided_conv(x, p[f"shrink{level - 1}.weight"], p[f"shrink{level - 1}.bias"])
        x = unit(f"down{level}", x)
    for level in reversed(range(net.depth - 1)):
        x = unit(f"up{level}", joined(skips.pop(), x, p, level, net))
    return conv(norm("head.norm", x), p["head.weight"])


def plain_of_operations(x, p, net, branches=1):
    def block(name, x):
        for unit in ("conv1", "conv2"):
            x = relu(conv(x, p[f"{name}.{unit}.weight"], p[f"{name}.{unit}.bias"]))
        return x

    skips = []
    for level in range(net.depth):
        if level:
            skips.append(x)
            x = max_pool(x, window=net.pooling[level - 1])
        x = block(f"down{level}", x)
    for level in reversed(range(net.depth - 1)):
        x = block(f"up{level}", joined(skips.pop(), x, p, level, net))
    return times(conv(x, p["head.weight"], p["head.bias"]), net.gain)


def joined(skip, x, p, level, net):
    w, b = p[f"grow{level}.weight"], p[f"grow{level}.bias"]
    up = transposed_conv(x, w, b, size=size_of(skip))
    return add(skip, up) if net.joining == "add" else concat(skip, up)


def times(x, number):
    """number · x, of additions: ten times x is what the gain of a network comes to here."""
    assert number == int(number)
    total = x
    for _ in range(int(number) - 1):
        total = add(total, x)
    return total


@every_network
@pytest.mark.parametrize("branches", [1, 2])
def test_equals_the_network_of_taped_operations(net, shape, branches):
    shape = (branches * shape[0], *shape[1:])
    x, parameters = inputs(net, shape)
    gy = gradient_of(net, shape)
    written = residual_of_operations if isinstance(net, ResidualUNet) else plain_of_operations

    tape = Tape()
    taped_x = tape.var(x)
    taped = {name: tape.var(view) for name, view in net.views(parameters).items()}
    y = written(taped_x, taped, net, branches)
    tape.backward(y, gy)

    y_hand, saved = unet_forward(x, parameters, net=net, branches=branches)
    gx, gradient = unet_backward(gy, saved)
    np.testing.assert_allclose(y_hand, y.value, rtol=0, atol=1e-11 * np.abs(y.value).max())
    np.testing.assert_allclose(gx, taped_x.grad, rtol=0, atol=1e-10 * np.abs(gx).max())
    for name, view in net.views(gradient).items():
        atol = 1e-10 * np.abs(gradient).max()
        np.testing.assert_allclose(view, taped[name].grad, rtol=0, atol=atol, err_msg=name)


@every_network
@pytest.mark.parametrize("branches", [1, 2])
def test_gradient_equals_directional_derivative(net, shape, branches):
    shape = (branches * shape[0], *shape[1:])
    x, parameters = inputs(net, shape)
    rng = np.random.default_rng(3)
    gy = gradient_of(net, shape)
    tape = Tape()
    taped_x, taped = tape.var(x), tape.var(parameters)
    tape.backward(unet(taped_x, taped, net=net, branches=branches), gy)
    for value, var in ((x, taped_x), (parameters, taped)):
        v = rng.normal(size=value.shape)
        told, found = np.vdot(var.grad, v), []
        for step in (1e-6, 3e-7, 1e-7, 3e-8):  # some step is short enough to cross no kink

            def along(t, value=value, v=v):
                args = (x + t * v, parameters) if value is x else (x, parameters + t * v)
                return np.vdot(gy, unet_forward(*args, net=net, branches=branches)[0])

            found.append(abs((along(step) - along(-step)) / (2 * step) - told))
        assert min(found) <= 1e-6 * np.linalg.norm(var.grad) * np.linalg.norm(v) / np.sqrt(v.size)


@every_network
def test_branches_are_runs_of_their_own(net, shape):
    n = shape[0]
    x, parameters = inputs(net, (2 * n, *shape[1:]))
    gy = gradient_of(net, x.shape)
    batch = np.zeros((2, net.statistics_size))
    y, saved = unet_forward(x, parameters, net=net, batch_statistics=batch, branches=2)
    gx, gradient = unet_backward(gy, saved)
    total = 0
    for branch, some in enumerate((slice(0, n), slice(n, 2 * n))):
        alone = net.initial_statistics(np.float64)
        y1, saved = unet_forward(x[some], parameters, net=net, batch_statistics=alone)
        gx1, gradient1 = unet_backward(gy[some], saved)
        total = total + gradient1
        for ours, theirs in ((y[some], y1), (gx[some], gx1), (batch[branch], alone)):
            scale = np.abs(theirs).max(initial=0)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11 * scale)
    np.testing.assert_allclose(gradient, total, rtol=0, atol=1e-11 * np.abs(total).max())


@every_network
def test_nothing_kept_is_the_same_inference(net, shape):
    """And the given statistics are used: with those of the batch, inference is training."""
    x, parameters = inputs(net, shape)
    batch = net.initial_statistics(np.float64)
    y, _ = unet_forward(x, parameters, net=net, batch_statistics=batch)
    full, saved = unet_forward(x, parameters, net=net, statistics=batch)
    lean, nothing = unet_forward(x, parameters, net=net, statistics=batch, keep=False)
    np.testing.assert_array_equal(lean, full)
    # All that differs from training: the running variances are the unbiased ones.
    lowest = np.prod(shape[2:]) / np.prod(np.prod(((1, 1, 1), *net.pooling), axis=0))
    assert np.abs(full - y).max() <= 4 / lowest * np.abs(y).max()
    if batch.size:
        other = net.initial_statistics(np.float64)
        other, _ = unet_forward(x, parameters, net=net, statistics=other)
        assert np.abs(other - y).max() > 1e-2 * np.abs(y).max()


def test_inference_has_gradients_too():
    net, shape = NETWORKS["residual, 2-D"]
    x, parameters = inputs(net, shape)
    statistics = net.initial_statistics(np.float64) + 0.1
    gy, v = gradient_of(net, shape), np.random.default_rng(3).normal(size=shape)
    _, saved = unet_forward(x, parameters, net=net, statistics=statistics)
    gx, _ = unet_backward(gy, saved)

    def along(t):
        return np.vdot(gy, unet_forward(x + t * v, parameters, net=net, statistics=statistics)[0])

    assert abs((along(1e-7) - along(-1e-7)) / 2e-7 - np.vdot(gx, v)) <= 1e-6 * np.linalg.norm(gx)


def test_a_backward_frees_what_its_forward_kept():
    for net, shape in (
        NETWORKS["residual, 2-D"],
        NETWORKS["plain, 2-D"],
        (UNet(), (1, 1, 1, 16, 16)),
    ):
        x, parameters = inputs(net, shape)
        y, saved = unet_forward(x, parameters, net=net)
        _, (_, stack, _) = saved
        stack = stack[0][0] if isinstance(net, UNet) else stack
        assert len(stack) > 5
        unet_backward(np.ones_like(y), saved)
        assert not stack


@every_network
def test_float32_follows_float64(net, shape):
    exact = unet_forward(*inputs(net, shape), net=net)[0]
    single = unet_forward(*inputs(net, shape, np.float32), net=net)[0]
    assert single.dtype == np.float32
    assert np.abs(single - exact).max() <= 1e-3 * np.abs(exact).max()


@every_network
def test_threads_change_no_bit(net, shape):
    def once():
        x, parameters = inputs(net, shape, np.float32)
        y, saved = unet_forward(x, parameters, net=net)
        return y, *unet_backward(np.ones_like(y), saved)

    threads = backend.num_threads()
    try:
        backend.set_num_threads(1)
        one = once()
        backend.set_num_threads(3)
        three = once()
    finally:
        backend.set_num_threads(threads)
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- the papers' -------------------------------------------------------------------------------


def test_the_residual_network_has_the_papers_number_of_parameters():
    """5.75 million, with the shortcuts that its code makes and never runs."""
    net = ResidualUNet()
    never_read = sum(i * o for i, o, _ in net.units.values() if i == o)
    assert net.size == 5_563_680 and net.size + never_read == 5_757_216
    assert net.views(net.initial_parameters(0))["up1.conv1.weight"].shape == (192, 384, 1, 3, 3)
    assert net.momentum == 0.003 and UNet().momentum == 0.1
    momenta = net.momenta()
    assert set(momenta[net.statistics_layout["down0.norm1"]]) == {np.float32(0.003)}
    assert set(momenta[net.statistics_layout["down0.norm2"]]) == {np.float32(0.1)}
    assert set(UNet().momenta()) == {np.float32(0.1)} and PlainUNet().momenta().size == 0
    volume = ResidualUNet(ndim=3)
    assert (volume.base, volume.joining, volume.size) == (48, "add", 3_607_248)


def test_the_plain_network_starts_like_the_papers():
    net = PlainUNet()
    assert net.size == 1_677_377 and net.gain == 10 and net.statistics_size == 0
    views = net.views(net.initial_parameters(0, np.float64))
    w = views["down2.conv2.weight"]
    assert w.shape == (256, 256, 1, 3, 3) and abs(w.mean()) < 1e-4
    assert w.std() == pytest.approx(np.sqrt(2 / (2 * 256 * 9)), rel=0.01)
    assert not views["down2.conv2.bias"].any() and views["grow1.bias"].any()
    bound = 1 / np.sqrt(128 * 4)
    assert 0.99 * bound < np.abs(views["grow1.weight"]).max() <= bound


@every_network
def test_equals_pytorch(net, shape):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    if any(n % m for n, m in zip(shape[2:], net.smallest, strict=True)):
        shape = (*shape[:2], *(n - n % m for n, m in zip(shape[2:], net.smallest, strict=True)))
    x, parameters = inputs(net, shape)
    flat = torch.from_numpy(parameters.copy()).requires_grad_()
    p = {name: flat[s].reshape(shape) for name, (s, shape) in net.layout.items()}

    def convolved(x, name, step=False):
        w = p[f"{name}.weight"]
        how = {"stride": w.shape[2:]} if step else {"padding": [n // 2 for n in w.shape[2:]]}
        return functional.conv3d(x, w, p.get(f"{name}.bias"), **how)

    def normed(x, name):
        gamma, beta = p[f"{name}.gamma"], p[f"{name}.beta"]
        return functional.relu(functional.batch_norm(x, None, None, gamma, beta, True, 0.1, 1e-5))

    def unit(x, name):
        if isinstance(net, PlainUNet):
            x = functional.relu(convolved(x, f"{name}.conv1"))
            return functional.relu(convolved(x, f"{name}.conv2"))
        a = normed(x, f"{name}.norm1")
        shortcut = convolved(a, f"{name}.shortcut") if f"{name}.shortcut.weight" in p else x
        a = normed(convolved(a, f"{name}.conv1"), f"{name}.norm2")
        return convolved(a, f"{name}.conv2") + shortcut

    h, skips = torch.from_numpy(x), []
    h = convolved(h, "first") if "first.weight" in p else h
    for level in range(net.depth):
        if level and isinstance(net, PlainUNet):
            h = functional.max_pool3d(h, net.pooling[level - 1])
        elif level:
            h = convolved(h, f"shrink{level - 1}", step=True)
        h = unit(h, f"down{level}")
        skips.append(h)
    skips.pop()
    for level in reversed(range(net.depth - 1)):
        w, b = p[f"grow{level}.weight"], p[f"grow{level}.bias"]
        h = functional.conv_transpose3d(h, w, b, stride=w.shape[2:])
        skip = skips.pop()
        h = unit(h + skip if net.joining == "add" else torch.cat([skip, h], 1), f"up{level}")
    h = h if isinstance(net, PlainUNet) else normed(h, "head.norm")
    expected = getattr(net, "gain", 1) * convolved(h, "head")
    gy = gradient_of(net, shape)
    expected.backward(torch.from_numpy(gy))

    y, saved = unet_forward(x, parameters, net=net)
    _, gradient = unet_backward(gy, saved)
    np.testing.assert_allclose(y, expected.detach(), rtol=0, atol=1e-10 * np.abs(y).max())
    atol = 1e-9 * np.abs(gradient).max()
    np.testing.assert_allclose(gradient, flat.grad, rtol=0, atol=atol)


# ---- coarse voxels, bad input, files -----------------------------------------------------------


def test_kernels_are_flat_where_voxels_are_high():
    net = ResidualUNet(3, windows=((1, 2, 2), (1, 2, 2)), aspect=4.0)
    kernels = [kernel for _, _, kernel in net.units.values()]
    assert kernels == [(1, 3, 3), (1, 3, 3), (3, 3, 3), (1, 3, 3), (1, 3, 3)]
    assert net.shapes["shrink0.weight"] == (96, 48, 1, 2, 2)


@pytest.mark.parametrize("network", [ResidualUNet, PlainUNet])
@pytest.mark.parametrize(
    "name, value",
    [("ndim", 4), ("skip", "cat"), ("depth", 0), ("width", -1), ("windows", ((2, 2, 2),)),
     ("windows", ((2, 2), (2, 2)))],
)  # fmt: skip
def test_networks_that_cannot_be_are_refused(network, name, value):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        network(**{name: value})


@pytest.mark.parametrize("net", [ResidualUNet(width=3), PlainUNet(width=3)])
@pytest.mark.parametrize("shape", [(1, 1, 1, 3, 8), (1, 2, 1, 8, 8), (8, 8)])
def test_images_they_cannot_take_are_refused(net, shape):
    with pytest.raises(InputError, match="^x: expected"):
        unet_forward(np.zeros(shape), net.initial_parameters(0, np.float64), net=net)


@every_network
def test_reach_and_footprint_are_what_they_say(net, shape):
    shape = (1, 256, 240) if net.ndim == 2 else (4 * net.smallest[0], 32, 32)
    x = np.random.default_rng(0).normal(size=(1, net.inputs, *shape))
    parameters = net.initial_parameters(0, np.float64)
    statistics = net.initial_statistics(np.float64)
    with backend.Pool() as pool:
        y, _ = unet_forward(x, parameters, net=net, statistics=statistics, keep=False)
    numbers, pixels = pool.nbytes / 8, np.prod(shape)
    weights = 4 * net.size  # the copies that `inference.predict.memory` adds
    assert 0.8 * net.footprint * pixels <= numbers <= 1.1 * net.footprint * pixels + weights
    x[..., 0] += 1.0
    moved, _ = unet_forward(x, parameters, net=net, statistics=statistics)
    change = np.abs(moved - y).max(axis=(0, 1, 2, 3))
    changed = np.nonzero(change > 1e-13 * np.abs(y).max())[0]  # but for rounding, within a block
    assert changed.max() <= net.reach[2]


@pytest.mark.parametrize("net", [net for net, _ in NETWORKS.values()] + [UNet(widths=(4, 6))])
def test_a_model_file_keeps_its_network(net, tmp_path):
    model = SelfSupervisedInverse(Identity())
    model.net, model.units = net, (0.0, 1.0)
    model.parameters, model.statistics = net.initial_parameters(0), net.initial_statistics()
    model.save(tmp_path / "model.npz")
    again = SelfSupervisedInverse.load(tmp_path / "model.npz")
    assert again.net == net
    np.testing.assert_array_equal(again.parameters, model.parameters)
    np.testing.assert_array_equal(again.statistics, model.statistics)


def test_a_model_file_of_before_there_were_others_is_a_unets(tmp_path):
    net = UNet(widths=(4, 6))
    model = SelfSupervisedInverse(Identity())
    model.net, model.units = net, (0.0, 1.0)
    model.parameters, model.statistics = net.initial_parameters(0), net.initial_statistics()
    path = tmp_path / "model.npz"
    model.save(path)
    header, arrays = model_file.read(path, "model")
    fields = [field.name for field in dataclasses.fields(net)][:5]
    header["net"] = json.loads(json.dumps({name: getattr(net, name) for name in fields}))
    model_file.write(path, "model", header, arrays)
    assert SelfSupervisedInverse.load(path).net == net
