"""`PlainUNet`, of Goncharova et al. (2020): its wiring, and the two passes by hand.

That of the PyTorch Noise2Void which the paper builds on: on each level two units, convolution →
ReLU, with no norm; max-pooling on the way down; on the way up a transposed convolution, to which
the encoder's map is added. The network's output is `gain` times that of its head, a 1×1
convolution, so that weights of usual size reach images of large contrast soon.

Only the convolutions write their outputs, z. Whoever reads a map reads relu(1 · z + 0): the affine
that elsewhere is a batch norm's (see `ops/README.md`) is neutral here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from ..engine.backend import empty, placed
from ..engine.checks import checked, one_of, real, whole
from ..engine.types import Array, Shape
from ..ops.conv import conv_backward_input, conv_backward_weights, conv_forward
from ..ops.pointwise import relu_backward
from ..ops.pool import max_pool_backward, max_pool_forward
from ..ops.strided import join_backward, join_forward
from .layout import CHANNELS, LEVELS, WINDOWS, Stepped, Window


@dataclass(frozen=True)
class PlainUNet(Stepped):
    """The architecture of Goncharova et al., with 1,677,377 parameters in 2-D.

    Attributes
    ----------
    ndim : int
        2 or 3: whether kernels extend along Z.
    inputs, outputs : int
        Channels of the image that goes in, and of the one that comes out.
    depth : int
        The number of levels.
    width : int
        Channels at full resolution, twice as many on each level below.
    skip : {"add", "concat"}
        How the encoder's map joins the decoder's.
    windows : tuple of (int, int, int), optional
        The max-pooling window (Z, Y, X) between the levels, one fewer than these; 2 along every
        axis by default.
    gain : float
        What the head's output is multiplied by.
    aspect : float
        The height of a voxel over its width, at full resolution. On levels where the voxels are
        still higher than wide, kernels have the fewer taps along Z.
    """

    ndim: int = checked(one_of(2, 3), 2)
    inputs: int = checked(CHANNELS, 1)
    outputs: int = checked(CHANNELS, 1)
    depth: int = checked(whole(1, LEVELS), 3)
    width: int = checked(CHANNELS, 64)
    skip: Literal["add", "concat"] = checked(one_of("add", "concat"), "add")
    windows: tuple[tuple[int, int, int], ...] | None = checked(WINDOWS, None)
    gain: float = checked(real(0, above=True), 10.0)
    aspect: float = checked(real(0, above=True), 1.0)

    momentum = 0.0  # there is no norm
    norms: ClassVar[dict[str, int]] = {}

    @property
    def base(self) -> int:
        return self.width

    @property
    def joining(self) -> str:
        return self.skip

    @cached_property
    def units(self) -> dict[str, tuple[int, int, Window]]:
        """name → (inputs, outputs, kernel) of each convolution but the head and the steps."""
        units, width = {}, self.inputs
        for level, out in enumerate(self.widths):
            units[f"down{level}.conv1"] = (width, out, self.kernel(3, level))
            units[f"down{level}.conv2"] = (out, out, self.kernel(3, level))
            width = out
        for level in reversed(range(self.depth - 1)):
            width = self.widths[level]
            together = width if self.joining == "add" else 2 * width
            units[f"up{level}.conv1"] = (together, width, self.kernel(3, level))
            units[f"up{level}.conv2"] = (width, width, self.kernel(3, level))
        return units | {"head": (self.base, self.outputs, (1, 1, 1))}

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """name → shape of each parameter."""
        shapes = {}
        for unit, (inputs, outputs, kernel) in self.units.items():
            if unit.startswith("up") and unit.endswith("conv1"):
                shapes |= self.step("grow", int(unit[2 : unit.index(".")]))
            shapes |= {f"{unit}.weight": (outputs, inputs, *kernel), f"{unit}.bias": (outputs,)}
        return shapes

    @property
    def last_kernel(self) -> str:
        """The name of the last convolution that looks at neighbours: the head does not."""
        return ("up0" if self.depth > 1 else "down0") + ".conv2.weight"

    @cached_property
    def footprint(self) -> float:
        """On each level what is pooled, and two maps: of a pair of convolutions, or the encoder's
        and what is to join it; with their sum a third one, and stacked they are two more."""
        total, share = 0.0, 1.0
        for level, width in enumerate(self.widths):
            if level:
                share /= float(np.prod(self.pooling[level - 1]))
                total += share * self.widths[level - 1]
            total += share * 2 * width
            if level < self.depth - 1:
                total += share * self.units[f"up{level}.conv1"][0]
        return total + self.outputs

    def start(self, name: str) -> tuple[str, float]:
        """Normal by Glorot and Bengio (2010), σ² = 2 / (fan-in + fan-out), for convolutions.

        Their biases are 0. The transposed convolutions, which the original code leaves alone,
        have PyTorch's start: uniform in ±1/√(outputs × kernel).
        """
        unit, kind = name.rsplit(".", 1)
        outputs, inputs, *kernel = self.shapes[f"{unit}.weight"]
        taps = int(np.prod(kernel))
        if unit.startswith("grow"):
            return "uniform", inputs * taps  # of (inputs, outputs, *kernel)
        if kind == "bias":
            return "constant", 0.0
        return "normal", float(np.sqrt(2 / ((inputs + outputs) * taps)))

    def forward(
        self,
        x: Array,
        parameters: Array,
        statistics: Array | None,
        batch_statistics: Array | None,
        branches: int,
        input_gradient: bool,
        keep: bool,
    ) -> tuple[Array, Any]:
        walk = _Forward(self, self.views(parameters), keep)
        z, affine, skips = x, None, []
        for level in range(self.depth):
            if level:
                skips.append(z)
                z, affine = walk.pool(z, self.pooling[level - 1]), None
            z = walk.block(f"down{level}", z, affine)
        for level in reversed(range(self.depth - 1)):
            z = walk.grow(f"grow{level}", skips.pop(), z)
            z = walk.block(f"up{level}", z, None)
        return walk.head(z), (parameters, walk.saved, input_gradient)

    def backward(self, gy: Array, saved: Any) -> tuple[Array | None, Array]:
        parameters, stack, input_gradient = saved
        gradient = empty(parameters.shape, parameters.dtype, like=parameters)
        back = _Backward(self, self.views(parameters), self.views(gradient), stack)
        g, skips = back.head(gy), []
        for level in range(self.depth - 1):
            g = back.block(f"up{level}", g)
            g_skip, g = back.grow(f"grow{level}", g)
            skips.append(g_skip)
        for level in reversed(range(self.depth)):
            g = back.block(f"down{level}", g, to_input=level > 0 or input_gradient)
            if level:
                g = max_pool_backward(g, stack.pop(), plus=skips.pop())
        return g, gradient


@functools.lru_cache(maxsize=64)
def _neutral(channels, dtype):
    """(1, 0) for each channel."""
    affine = np.zeros((2, channels), dtype)
    affine[0] = 1
    return affine


def _relu(z):
    """The affine by which a reader of z reads relu(z)."""
    return placed(_neutral(z.shape[1], np.dtype(z.dtype)), z)


class _Forward:
    """The parts in the forward pass; `saved` is the stack that the backward pass unwinds."""

    def __init__(self, net, parameters, keep):
        self.net, self.p, self.keep, self.saved = net, parameters, keep, []

    def save(self, what):
        if self.keep:
            self.saved.append(what)

    def block(self, name, x, affine):
        z = self.unit(f"{name}.conv1", x, affine)
        return self.unit(f"{name}.conv2", z, _relu(z))

    def unit(self, name, x, affine):
        z, _ = conv_forward(x, self.p[f"{name}.weight"], self.p[f"{name}.bias"], affine=affine)
        self.save((x, affine, z))
        return z

    def pool(self, z, window):
        y, saved = max_pool_forward(z, window=window, affine=_relu(z))
        self.save(saved)
        return y

    def grow(self, name, skip, z):
        w, b = self.p[f"{name}.weight"], self.p[f"{name}.bias"]
        y, saved = join_forward(
            skip, z, w, b, how=self.net.joining, skip_affine=_relu(skip), affine=_relu(z)
        )
        self.save(saved)
        return y

    def head(self, z):
        gain = z.dtype.type(self.net.gain)
        self.save(z)
        w, b = gain * self.p["head.weight"], gain * self.p["head.bias"]
        return conv_forward(z, w, b, affine=_relu(z))[0]


class _Backward:
    """The same parts backwards: each pops what its forward had pushed, which frees it."""

    def __init__(self, net, parameters, gradients, stack):
        self.net, self.p, self.g, self.stack = net, parameters, gradients, stack

    def head(self, gy):
        z, gain = self.stack.pop(), gy.dtype.type(self.net.gain)
        w = self.p["head.weight"]
        gw, gb = conv_backward_weights(gy, z, w.shape, _relu(z))
        self.g["head.weight"][...], self.g["head.bias"][...] = gain * gw, gain * gb
        return conv_backward_input(gy, gain * w)

    def block(self, name, g, to_input=True):
        g = self.unit(f"{name}.conv2", g)
        return self.unit(f"{name}.conv1", g, to_input)

    def unit(self, name, g, to_input=True):
        x, affine, z = self.stack.pop()
        g = relu_backward(g, z)
        w = self.p[f"{name}.weight"]
        into = self.g[f"{name}.weight"], self.g[f"{name}.bias"]
        conv_backward_weights(g, x, w.shape, affine, into)
        return conv_backward_input(g, w) if to_input else None

    def grow(self, name, g):
        g_skip, gx, gw, gb = join_backward(g, self.stack.pop())
        self.g[f"{name}.weight"][...], self.g[f"{name}.bias"][...] = gw, gb
        return g_skip, gx
