"""One pass there and back of a network, side by side with PyTorch; and what each keeps.

No masks, no blur, no optimiser: the network alone, whose output is multiplied by a fixed image and
summed. PyTorch has the fastest of two memory layouts, and of one thread or all: on a busy machine
its threads wait for each other. Several branches are so many runs of its network, as its users
write it.
"""

import argparse
from functools import partial

import numpy as np

from ssi_cupy.engine.backend import Pool
from ssi_cupy.unet import PlainUNet, ResidualUNet, UNet, unet_backward, unet_forward

from .. import timing

NETWORKS = {  # with what the papers train on: network, branches, patch, patches in a batch
    "residual2d": (ResidualUNet(), 2, (1, 128, 128), 16),
    "residual3d": (ResidualUNet(ndim=3), 2, (64, 64, 64), 4),
    "plain2d": (PlainUNet(), 1, (1, 100, 100), 1),
}
OURS = {  # of the default recipe, which shows it an image and three filtered copies
    "unet2d": (UNet(inputs=4), 1, (1, 144, 144), 4),
    "unet3d": (UNet(ndim=3, inputs=4), 1, (32, 64, 64), 1),
}


def problem(name, batch, size):
    """(network, branches, batch of all branches, fixed image, parameters)."""
    net, branches, shape, usual = (NETWORKS | OURS)[name]
    shape = tuple(1 if n == 1 else size or n for n in shape)
    rng = np.random.default_rng(0)
    number = branches * (batch or usual)
    x, gy = (
        rng.normal(size=(number, channels, *shape)).astype(np.float32)
        for channels in (net.inputs, net.outputs)
    )
    return net, branches, x, gy, net.initial_parameters(0)


def there_and_back(net, branches, x, gy, parameters):
    """(y, gradient by the parameters)."""
    y, saved = unet_forward(x, parameters, net=net, branches=branches, input_gradient=False)
    return y, unet_backward(gy, saved)[1]


class Rival:
    """The same network, of PyTorch's functions; called, it returns (y, gradient)."""

    def __init__(self, net, branches, x, gy, parameters, layout, device="cpu"):
        import torch

        self.torch, self.functional, self.device = torch, torch.nn.functional, device
        self.net, self.branches, self.plane = net, branches, net.ndim == 2
        last = torch.channels_last if self.plane else torch.channels_last_3d
        self.format = last if layout == "channels_last" else torch.contiguous_format
        self.x, self.gy = (self.laid(a) for a in (x, gy))
        self.p = {name: self.laid(v).requires_grad_() for name, v in net.views(parameters).items()}

    def laid(self, array):
        if array.ndim == 1:
            return self.torch.from_numpy(array.copy()).to(self.device)
        flat = self.torch.from_numpy((array[:, :, 0] if self.plane else array).copy())
        return flat.to(self.device).contiguous(memory_format=self.format)

    def there_and_back(self):
        """The outputs of the branches; the gradients are the parameters'."""
        for p in self.p.values():
            p.grad = None
        ys = [self.run(x) for x in self.x.chunk(self.branches)]
        self.torch.autograd.backward(ys, list(self.gy.chunk(self.branches)))
        return ys

    def __call__(self):
        ys = self.there_and_back()
        gradients = [self.p[name].grad.contiguous().view(-1) for name in self.net.layout]
        y = self.torch.cat(ys).detach().cpu().numpy()
        return y[:, :, None] if self.plane else y, self.torch.cat(gradients).cpu().numpy()

    def conv(self, x, name, step=False):
        w = self.p[f"{name}.weight"]
        how = {"stride": w.shape[2:]} if step else {"padding": [n // 2 for n in w.shape[2:]]}
        conv = self.functional.conv2d if self.plane else self.functional.conv3d
        return conv(x, w, self.p.get(f"{name}.bias"), **how)

    def up(self, x, name):
        w, b = self.p[f"{name}.weight"], self.p[f"{name}.bias"]
        functional = self.functional
        conv = functional.conv_transpose2d if self.plane else functional.conv_transpose3d
        return conv(x, w, b, stride=w.shape[2:])

    def norm(self, x, name):
        gamma, beta = self.p[f"{name}.gamma"], self.p[f"{name}.beta"]
        x = self.functional.batch_norm(x, None, None, gamma, beta, True, 0.1, 1e-5)
        return self.functional.relu(x, inplace=True)

    def unit(self, x, name):
        if isinstance(self.net, PlainUNet):
            x = self.functional.relu(self.conv(x, f"{name}.conv1"), inplace=True)
            return self.functional.relu(self.conv(x, f"{name}.conv2"), inplace=True)
        a = self.norm(x, f"{name}.norm1")
        x = self.conv(a, f"{name}.shortcut") if f"{name}.shortcut.weight" in self.p else x
        a = self.norm(self.conv(a, f"{name}.conv1"), f"{name}.norm2")
        return self.conv(a, f"{name}.conv2") + x

    def run(self, x):
        net, plain, skips = self.net, isinstance(self.net, PlainUNet), []
        if isinstance(net, UNet):
            return self.run_unet(x)
        pool = self.functional.max_pool2d if self.plane else self.functional.max_pool3d
        x = x if plain else self.conv(x, "first")
        for level in range(net.depth):
            if level and plain:
                x = pool(x, net.pooling[level - 1][self.plane :])
            elif level:
                x = self.conv(x, f"shrink{level - 1}", step=True)
            x = self.unit(x, f"down{level}")
            skips.append(x)
        skips.pop()
        for level in reversed(range(net.depth - 1)):
            x = self.up(x, f"grow{level}")
            skip = skips.pop()
            x = x + skip if net.joining == "add" else self.torch.cat([skip, x], 1)
            x = self.unit(x, f"up{level}")
        return (
            net.gain * self.conv(x, "head")
            if plain
            else self.conv(self.norm(x, "head.norm"), "head")
        )

    def run_unet(self, x):
        pool = self.functional.max_pool2d if self.plane else self.functional.max_pool3d
        skips, windows = [], [window[self.plane :] for window in self.net.pooling]
        for level in range(len(self.net.widths)):
            x = pool(x, windows[level - 1]) if level else x
            x = self.block(x, f"down{level}")
            skips.append(x)
        skips.pop()
        for level in reversed(range(len(skips))):
            x = self.functional.interpolate(x, scale_factor=windows[level])
            x = self.block(self.torch.cat([skips.pop(), x], 1), f"up{level}")
        return self.conv(x, "head")

    def block(self, x, name):
        for unit in (f"{name}.wide", f"{name}.narrow"):
            x = self.norm(self.conv(x, unit), unit)
        return x


def check(ours, theirs, name):
    """To 1e-3, and the gradient to 0.03: where a ReLU's input is nearly 0, it goes either way."""
    tolerances = {"output": 1e-3, "gradient": 0.03}
    for (what, tolerance), a, b in zip(tolerances.items(), ours, theirs, strict=True):
        off = np.linalg.norm(a - b) / np.linalg.norm(a)
        if not off <= tolerance:
            raise AssertionError(f"the {what} of {name} differs from PyTorch's by {off:.1e}")


def compare(name, batch, size, rounds, threads):
    """Medians of both, their ratio, and what ours takes from its pool."""
    from .rival import LAYOUTS, use_threads

    use_threads(threads)
    made = problem(name, batch, size)
    small = problem(name, 1, 16 if name == "residual3d" else 32)
    with Pool():
        for layout in LAYOUTS:
            check(there_and_back(*small), Rival(*small, layout)(), f"{name}, {layout}")

    def run(rival, number):
        use_threads(number)
        rival.there_and_back()

    rivals = {
        f"{layout}, {number} threads": partial(run, Rival(*made, layout), number)
        for layout in LAYOUTS
        for number in sorted({1, threads})
    }
    with Pool() as pool:
        seconds = timing.alternating(rounds, ours=partial(there_and_back, *made), **rivals)
        kept = pool.nbytes
    medians = timing.medians(seconds)
    chosen = min(rivals, key=medians.get)
    return {
        "network": name, "shape": made[2].shape, "branches": made[1], "parameters": made[0].size,
        "ours": medians["ours"], "torch": medians[chosen], "chosen": chosen,
        "ratio": medians["ours"] / medians[chosen], "memory": kept, "seconds": seconds,
    }  # fmt: skip


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench networks", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS | OURS,
                        default=list(NETWORKS | OURS))  # fmt: skip
    parser.add_argument("--batch", type=int, help="patches; the papers' by default")
    parser.add_argument("--size", type=int, help="width of a patch; the papers' by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    timing.add_isa(parser)
    parser.add_argument("--out", default=timing.RESULTS)
    options = parser.parse_args(arguments)
    timing.use_isa(options.isa)
    machine = timing.with_pytorch(options.threads)
    if machine is None:
        return 1
    settings = options.batch, options.size, options.rounds, options.threads
    results = [compare(name, *settings) for name in options.networks]
    rows = [("there and back", "ours", "PyTorch", "ratio", "our memory")]
    for r in results:
        title = f"{r['network']}, {r['branches']} branches, {'×'.join(map(str, r['shape']))}"
        both = (f"{r[who] * 1e3:.1f} ms" for who in ("ours", "torch"))
        rows.append((title, *both, f"{r['ratio']:.2f}", f"{r['memory'] / 1e6:.0f} MB"))
    timing.table(rows)
    for r in results:
        print(f"PyTorch's {r['network']}: {r['chosen']}")
    name = f"networks_{options.isa}" if options.isa else "networks"
    timing.write(name, {"rounds": options.rounds, "results": results}, machine, options.out)
    return 0
