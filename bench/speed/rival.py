"""The same training step in PyTorch: network, mask, blur, loss and Adam of recipe SSI, in 2-D.

Nothing is made slow on purpose: both memory layouts are tried, and both ways to blur; Adam is the
fused one. That it is the same step is checked before it is timed, in `step.py`.
"""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import nn

from ssi_cupy.physics import PSFConvolution

from .. import timing

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def use_threads(number):
    torch.set_num_threads(number)


class TorchUNet(nn.Module):
    """`ssi_cupy.unet`, made of PyTorch's layers, with the weights of a flat vector."""

    def __init__(self, net, parameters):
        super().__init__()
        self.net, self.layers = net, nn.ModuleDict()
        for unit, (inputs, outputs, kernel) in net.units.items():
            conv = nn.Conv2d(inputs, outputs, kernel[1:], padding=kernel[1] // 2)
            norm = [] if unit == "head" else [nn.BatchNorm2d(outputs)]
            self.layers[unit.replace(".", "_")] = nn.Sequential(conv, *norm)
        with torch.no_grad():  # the order of `net.layout` is that of PyTorch
            for p, values in zip(self.parameters(), net.views(parameters).values(), strict=True):
                p.copy_(torch.from_numpy(values.reshape(p.shape)))

    def block(self, name, x):
        x = F.relu(self.layers[f"{name}_wide"](x), inplace=True)
        return F.relu(self.layers[f"{name}_narrow"](x), inplace=True)

    def forward(self, x):
        skips, windows = [], [window[1:] for window in self.net.pooling]
        for level in range(len(self.net.widths)):
            x = F.max_pool2d(x, windows[level - 1]) if level else x
            x = self.block(f"down{level}", x)
            skips.append(x)
        skips.pop()
        for level in reversed(range(len(skips))):
            x = F.interpolate(x, scale_factor=windows[level])
            below, right = (skips[level].shape[a] - x.shape[a] for a in (2, 3))
            x = F.pad(x, (0, right, 0, below)) if below or right else x
            x = self.block(f"up{level}", torch.cat([skips.pop(), x], 1))
        return self.layers["head"](x)


class TorchBlur:
    """True convolution with mirrored borders: ``direct`` or by ``fft``."""

    def __init__(self, psf, method):
        self.method = method
        self.kernel = torch.from_numpy(np.ascontiguousarray(psf[::-1, ::-1], np.float32))
        self.radius = psf.shape[0] // 2
        self.transfer = {}

    def __call__(self, x):
        r = self.radius
        x = F.pad(x, (r, r, r, r), mode="reflect")
        if self.method == "direct":
            return F.conv2d(x, self.kernel[None, None])
        fast = tuple(next_fast_len(n, real=True) for n in x.shape[2:])
        if fast not in self.transfer:
            self.transfer[fast] = torch.fft.rfft2(self.kernel, s=fast).conj()
        y = torch.fft.irfft2(torch.fft.rfft2(x, s=fast) * self.transfer[fast], s=fast)
        return y[..., : x.shape[2] - 2 * r, : x.shape[3] - 2 * r]


def faster_blur(psf, image):
    """The way to blur and to go back that takes less time on images of this size."""

    def there_and_back(blur):
        blur(image.clone().requires_grad_()).sum().backward()

    blurs = {method: TorchBlur(psf, method) for method in ("direct", "fft")}
    runs = {method: partial(there_and_back, blur) for method, blur in blurs.items()}
    seconds = timing.medians(timing.alternating(3, **runs))
    return blurs[min(seconds, key=seconds.get)]


class Rival:
    """One training in PyTorch: `step()` and `infer()`, on the image of a `Training` of ours."""

    def __init__(self, training, layout="contiguous", blur=None):
        self.recipe, self.steps, self.done = training.recipe, training.steps, 0
        self.format = LAYOUTS[layout]
        self.y = torch.from_numpy(training.source.y[:, :, 0]).contiguous(memory_format=self.format)
        self.validation = torch.from_numpy(training.source.validation[:, :, 0]).bool()
        self.net = TorchUNet(training.net, training.parameters).to(memory_format=self.format)
        g = next(m for m in training.g.models if isinstance(m, PSFConvolution))
        self.blur = TorchBlur(g.psf[0], blur) if blur else faster_blur(g.psf[0], self.y)
        self.optimiser = torch.optim.Adam(
            self.net.parameters(), lr=self.recipe.lr, weight_decay=self.recipe.l2, fused=True
        )

    def loss(self, seen, counted):
        x = self.net(seen)
        prediction = self.blur(x.clamp(0, 1))
        difference = (prediction - self.y) * counted
        bound = (F.relu(-x) + F.relu(x - 1)).mean() ** 2
        return x, prediction, difference.square().mean() + self.recipe.losses.bound * bound

    def step(self):
        recipe = self.recipe
        self.net.train()
        hidden = torch.rand(self.validation.shape) < recipe.mask.density(self.done, self.steps)
        counted = hidden & ~self.validation
        noise = recipe.input_noise.level(self.done, self.steps) * torch.randn_like(self.y)
        seen = (self.y + noise).masked_fill_(hidden | self.validation, 0)
        _, prediction, loss = self.loss(seen, counted)
        with torch.no_grad():
            missed = (prediction - self.y).square() * self.validation
            self.history = float(loss), float(missed.sum() / self.validation.sum())
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.done += 1
        sigma = recipe.lr * recipe.weight_noise / self.done
        with torch.no_grad():
            for p in self.net.parameters():
                p.add_(torch.randn_like(p), alpha=sigma)

    def evaluate(self, seen):
        """(network's output, prediction, loss over the validation pixels, gradient) as arrays."""
        self.net.train()
        found = self.loss(torch.from_numpy(seen[:, :, 0]), self.validation)
        found[-1].backward()
        gradient = torch.cat([p.grad.contiguous().view(-1) for p in self.net.parameters()])
        return (*(t.detach().numpy() for t in found), gradient.numpy())

    def infer(self):
        self.net.eval()
        with torch.no_grad():
            return self.net(self.y)
