"""`UNet`, of Kobayashi et al. (2020, Fig. 2): its wiring, and the two passes by hand.

On each level a block of two units; on the way down max-pooling, on the way up nearest-neighbour
upsampling and the encoder's map beside it. A unit is ::

    convolution → batch norm → ReLU

but only the convolution writes its output. The batch norm, once its statistics are known, is a
scale and a shift, and whoever reads the map applies these and the ReLU as it reads (see
`ops/README.md`). So a feature map travels here as a pair ``(z, affine)``: what the convolution
wrote, and what makes an activation of it; None where z is one already.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..engine.backend import empty
from ..engine.checks import checked, one_of, real, several
from ..engine.types import Array, Shape
from ..ops.conv import conv_backward_input, conv_backward_weights, conv_forward
from ..ops.norm import batch_affine, batch_norm_backward, renormalised
from ..ops.pool import max_pool_backward, max_pool_forward
from ..ops.upsample import upsample_concat_backward, upsample_concat_forward
from .layout import CHANNELS, EPSILON, LEVELS, WINDOWS, Network, Window, stacked


@dataclass(frozen=True)
class UNet(Network):
    """The architecture: what follows from it are names and shapes, no numbers.

    Attributes
    ----------
    ndim : int
        2 or 3: whether kernels extend along Z.
    inputs, outputs : int
        Channels of the image that goes in, and of the one that comes out.
    widths : tuple of int
        Channels on each level, full resolution first.
    windows : tuple of (int, int, int), optional
        The max-pooling window (Z, Y, X) between the levels, one fewer than the widths; 2 along
        every axis by default.
    momentum : float
        How much of a batch's means and variances goes into the running ones.
    aspect : float
        The height of a voxel over its width, at full resolution. On levels where the voxels are
        still higher than wide, kernels have the fewer taps along Z, down to three.
    taps : (int, int)
        How wide the kernels of the two convolutions of a block are, pixels: 1, 3 or 5.
    """

    ndim: int = checked(one_of(2, 3), 2)
    inputs: int = checked(CHANNELS, 1)
    outputs: int = checked(CHANNELS, 1)
    widths: tuple[int, ...] = checked(several(CHANNELS, 1, LEVELS), (8, 16, 32, 64, 64))
    windows: tuple[tuple[int, int, int], ...] | None = checked(WINDOWS, None)
    momentum: float = checked(real(0, 1), 0.1)
    aspect: float = checked(real(0, above=True), 1.0)
    taps: tuple[int, int] = checked(several(one_of(1, 3, 5), 2, 2), (5, 3))

    def kernel(self, width: int, level: int = 0) -> Window:
        """As of every network, but that wherever there are planes three of them are seen: a PSF
        reaches along Z at least as far as voxels are high."""
        depth, *across = super().kernel(width, level)
        return (max(depth, min(width, 3)) if self.ndim == 3 else 1, *across)

    @cached_property
    def units(self) -> dict[str, tuple[int, int, Window]]:
        """name → (inputs, outputs, kernel) of each convolution, in the order in which they run."""
        units, width = {}, self.inputs
        wide, narrow = self.taps
        last = len(self.widths) - 1
        for level, out in enumerate(self.widths):
            units[f"down{level}.wide"] = (width, out, self.kernel(wide, level))
            units[f"down{level}.narrow"] = (out, out, self.kernel(narrow, level))
            width = out
        for level in reversed(range(last)):
            together = width + self.widths[level]
            width = self.widths[max(level - 1, 0)]
            units[f"up{level}.wide"] = (together, together // 2, self.kernel(wide, level))
            units[f"up{level}.narrow"] = (together // 2, width, self.kernel(narrow, level))
        units["head"] = (width, self.outputs, self.kernel(1))
        return units

    @cached_property
    def path(self) -> list[tuple[str, Window]]:
        last = len(self.widths) - 1
        path = []
        for level in range(last + 1):
            path += [("pool", self.pooling[level - 1])] if level else []
            path += [("conv", self.units[f"down{level}.{unit}"][2]) for unit in ("wide", "narrow")]
        for level in reversed(range(last)):
            path.append(("upsample", self.pooling[level]))
            path += [("conv", self.units[f"up{level}.{unit}"][2]) for unit in ("wide", "narrow")]
        return path

    @cached_property
    def footprint(self) -> float:
        """On each level what is pooled into it, the two maps of a block, and what is concatenated.

        The decoder's block has the memory of the encoder's, where its maps are as wide.
        """
        total, share, last = 0.0, 1.0, len(self.widths) - 1
        for level, width in enumerate(self.widths):
            if level:
                share /= float(np.prod(self.pooling[level - 1]))
                total += share * self.widths[level - 1]  # pooled
            total += share * 2 * width
            if level < last:
                together, middle, _ = self.units[f"up{level}.wide"]
                others = {middle, self.units[f"up{level}.narrow"][1]} - {width}
                total += share * (together + sum(others))
        return total + self.outputs

    @property
    def last_kernel(self) -> str:
        """The name of the last convolution that looks at neighbours: the head does not."""
        return "up0.narrow.weight" if len(self.widths) > 1 else "down0.narrow.weight"

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """name → shape of each parameter."""
        shapes = {}
        for unit, (inputs, outputs, kernel) in self.units.items():
            shapes |= {f"{unit}.weight": (outputs, inputs, *kernel), f"{unit}.bias": (outputs,)}
            if unit != "head":
                shapes |= {f"{unit}.gamma": (outputs,), f"{unit}.beta": (outputs,)}
        return shapes

    @cached_property
    def norms(self) -> dict[str, int]:
        """unit → channels of its batch norm."""
        return {unit: outputs for unit, (_, outputs, _) in self.units.items() if unit != "head"}

    def start(self, name: str) -> tuple[str, float]:
        """Uniform in ±1/√(fan-in) for weights and biases, 1 and 0 for γ and β."""
        unit, kind = name.rsplit(".", 1)
        if kind in ("gamma", "beta"):
            return "constant", float(kind == "gamma")
        inputs, _, kernel = self.units[unit]
        return "uniform", inputs * int(np.prod(kernel))

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
        """Branch after branch: see `_forward`.

        Nothing but the weights is shared between branches, so this is the batch at once, and on
        maps as narrow as here a convolution has enough to do with one branch.
        """
        n, found = len(x) // branches, []
        for branch in range(branches):
            batch = None if batch_statistics is None else batch_statistics[branch : branch + 1]
            some = x[branch * n : branch * n + n]
            found.append(_forward(self, some, parameters, statistics, batch, keep))
        ys, stacks = zip(*found, strict=True)
        return stacked(ys), (parameters, stacks, input_gradient)

    def backward(self, gy: Array, saved: Any) -> tuple[Array | None, Array]:
        """(gx, gradient by the parameters), the branches' gradients by the parameters added."""
        parameters, stacks, input_gradient = saved
        n = len(gy) // len(stacks)
        found = [
            _backward(self, gy[i * n : i * n + n], parameters, stack, input_gradient)
            for i, stack in enumerate(stacks)
        ]
        gxs, gradients = zip(*found, strict=True)
        gradient = gradients[0]
        for more in gradients[1:]:
            gradient += more
        return stacked(gxs) if input_gradient else None, gradient


def _forward(net, x, parameters, statistics, batch_statistics, keep):
    """f(x) of one branch, and what its backward pass needs."""
    walk = _Forward(net, net.views(parameters), statistics, batch_statistics, keep)
    z, affine = x, None
    skips = []
    for level in range(len(net.widths)):
        if level:
            z, affine = walk.pool(z, affine, net.pooling[level - 1]), None
        z, affine = walk.block(f"down{level}", z, affine)
        skips.append((z, affine))
    skips.pop()  # the lowest level has none
    for level in reversed(range(len(net.widths) - 1)):
        z, affine = walk.join(*skips.pop(), z, affine, net.pooling[level]), None
        z, affine = walk.block(f"up{level}", z, affine)
    y, _ = conv_forward(z, walk.p["head.weight"], walk.p["head.bias"], affine=affine)
    walk.save([z, affine])
    return y, (walk.saved, walk.p)


def _backward(net, gy, parameters, saved, input_gradient):
    """(gx, gradient by the parameters) of one branch; gx is None without `input_gradient`."""
    stack, views = saved
    gradient = empty(parameters.shape, parameters.dtype, like=parameters)
    back = _Backward(views, net.views(gradient), stack, gy)
    back.convolution("head")
    skips = []
    for level in range(len(net.widths) - 1):
        back.block(f"up{level}")
        skips.append(back.join())
    for level in reversed(range(len(net.widths))):
        back.block(f"down{level}", to_input=level > 0 or input_gradient)
        if level:
            back.pool(plus=skips.pop())
    return back.gy, gradient


class _Forward:
    """The parts in the forward pass; `saved` is the stack that the backward pass unwinds."""

    def __init__(self, net, parameters, statistics, batch_statistics, keep):
        self.net, self.p, self.keep = net, parameters, keep
        self.statistics, self.batch_statistics = statistics, batch_statistics
        self.saved = []

    def save(self, what):
        if self.keep:
            self.saved.append(what)

    def block(self, name, z, affine):
        z, affine = self.unit(f"{name}.wide", z, affine)
        return self.unit(f"{name}.narrow", z, affine)

    def unit(self, name, z, affine):
        """Convolution, and the affine that makes its output normalised; the ReLU is implied."""
        p, training = self.p, self.statistics is None or self.batch_statistics is not None
        w, bias = p[f"{name}.weight"], p[f"{name}.bias"]
        x, x_affine = z, affine
        z, saved = conv_forward(x, w, bias, affine=affine, moments=training)
        place = self.net.statistics_layout[name]
        if training:
            known = {"moments": saved[1], "pivot": bias}
        else:
            known = {"statistics": self.statistics[place].reshape(2, -1)}
        normed = batch_affine(
            z, p[f"{name}.gamma"], p[f"{name}.beta"], eps=EPSILON,
            into=self.batch_statistics, at=place.start, **known,
        )  # fmt: skip
        if training and self.statistics is not None:
            whole = self.statistics[place].reshape(2, -1)
            normed = renormalised(normed, p[f"{name}.gamma"], p[f"{name}.beta"], whole, EPSILON)
        self.save([x, x_affine, normed])
        return z, normed.affine

    def pool(self, z, affine, window):
        y, saved = max_pool_forward(z, window=window, affine=affine)
        self.save(saved)
        return y

    def join(self, skip, skip_affine, low, low_affine, factor):
        y, saved = upsample_concat_forward(
            skip, low, factor=factor, skip_affine=skip_affine, low_affine=low_affine
        )
        self.save(saved)
        return y


class _Backward:
    """The same parts in the backward pass: each pops what its forward had pushed.

    `gy` is the gradient by the map where the walk is. No one else holds it, nor a map that has been
    popped, so that the next gradient goes where these were: at the top of the network, where maps
    are largest, a training's memory is most.
    """

    def __init__(self, parameters, gradients, stack, gy):
        self.p, self.g, self.stack, self.gy = parameters, gradients, stack, gy

    def block(self, name, to_input=True):
        self.unit(f"{name}.narrow")
        self.unit(f"{name}.wide", to_input)

    def unit(self, name, to_input=True):
        normed = self.stack[-1].pop()
        into = self.g[f"{name}.gamma"], self.g[f"{name}.beta"]
        self.gy, *_ = batch_norm_backward(self.gy, normed, into=into)
        del normed
        self.convolution(name, to_input)

    def convolution(self, name, to_input=True):
        x, affine = self.stack.pop()
        w = self.p[f"{name}.weight"]
        into = self.g[f"{name}.weight"], self.g[f"{name}.bias"]
        conv_backward_weights(self.gy, x, w.shape, affine, into)
        del x
        self.gy = conv_backward_input(self.gy, w) if to_input else None

    def pool(self, plus):
        self.gy = max_pool_backward(self.gy, self.stack.pop(), plus=plus)

    def join(self):
        """Returns the gradient by the encoder's map."""
        g_skip, self.gy = upsample_concat_backward(self.gy, self.stack.pop())
        return g_skip
