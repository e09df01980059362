"""`ResidualUNet`, of Papkov et al. (2023): its wiring, and the two passes by hand.

A convolution, then on each level one residual unit, with the activations before the convolutions
(He et al. 2016, "Identity mappings in deep residual networks")::

    a = relu(norm1(r))        r' = conv2(relu(norm2(conv1(a)))) + shortcut

The shortcut is r itself, and where the unit changes the width, a 1×1 convolution of a. Between the
levels a convolution that steps by its own size doubles the width, and its transpose halves it
again (see `ops/strided.py`); what it brings is stacked on the encoder's map, or added to it. The
head is a batch norm, a ReLU and a 1×1 convolution. There are biases where the stride is, only.

The paper's 5.75 million parameters in 2-D are counted in code that gives every unit a shortcut
convolution and runs it only where the width changes: of its 5,757,216 numbers 193,536 are never
read. They are left out here, which makes 5,563,680.

A map travels as it was written, before its norm. A convolution reads it through its affine (see
`ops/README.md`). Several branches have an affine each; then what a convolution reads is written
first, so that it sees the whole batch at once, and written again in the backward pass, so that it
need not be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ..engine.backend import empty
from ..engine.checks import checked, maybe, one_of, real, whole
from ..engine.types import Array, Shape
from ..ops.add import add_forward
from ..ops.conv import conv_backward_input, conv_backward_weights, conv_forward
from ..ops.norm import batch_affine, batch_norm_backward, normalised
from ..ops.strided import join_backward, join_forward, strided_conv_backward, strided_conv_forward
from .layout import CHANNELS, EPSILON, LEVELS, WINDOWS, Stepped, Window


@dataclass(frozen=True)
class ResidualUNet(Stepped):
    """The architecture of Papkov et al.

    Attributes
    ----------
    ndim : int
        2 or 3: whether kernels extend along Z.
    inputs, outputs : int
        Channels of the image that goes in, and of the one that comes out.
    depth : int
        The number of levels.
    width : int, optional
        Channels at full resolution, twice as many on each level below: 96 in 2-D, 48 in 3-D.
    skip : {"concat", "add"}, optional
        How the encoder's map joins the decoder's: "concat" in 2-D, "add" in 3-D.
    windows : tuple of (int, int, int), optional
        The steps (Z, Y, X) between the levels, one fewer than these; 2 along every axis by default.
    momentum : float
        How much of a batch's means and variances goes into the running ones, in the norms that
        units begin with. In the others it is 0.1, as in the paper's code.
    aspect : float
        The height of a voxel over its width, at full resolution. On levels where the voxels are
        still higher than wide, kernels have the fewer taps along Z.
    """

    ndim: int = checked(one_of(2, 3), 2)
    inputs: int = checked(CHANNELS, 1)
    outputs: int = checked(CHANNELS, 1)
    depth: int = checked(whole(1, LEVELS), 3)
    width: int | None = checked(maybe(CHANNELS), None)
    skip: Literal["add", "concat"] | None = checked(one_of(None, "add", "concat"), None)
    windows: tuple[tuple[int, int, int], ...] | None = checked(WINDOWS, None)
    momentum: float = checked(real(0, 1), 0.003)
    aspect: float = checked(real(0, above=True), 1.0)

    @property
    def base(self) -> int:
        return (96 if self.ndim == 2 else 48) if self.width is None else self.width

    @property
    def joining(self) -> str:
        return ("concat" if self.ndim == 2 else "add") if self.skip is None else self.skip

    @cached_property
    def units(self) -> dict[str, tuple[int, int, Window]]:
        """name → (inputs, outputs, kernel) of each residual unit."""
        units = {}
        for level, width in enumerate(self.widths):
            units[f"down{level}"] = (width, width, self.kernel(3, level))
        for level in reversed(range(self.depth - 1)):
            width = self.widths[level]
            together = width if self.joining == "add" else 2 * width
            units[f"up{level}"] = (together, width, self.kernel(3, level))
        return units

    @cached_property
    def norms(self) -> dict[str, int]:
        """norm → channels."""
        norms = {}
        for unit, (inputs, outputs, _) in self.units.items():
            norms |= {f"{unit}.norm1": inputs, f"{unit}.norm2": outputs}
        return norms | {"head.norm": self.base}

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """name → shape of each parameter."""
        shapes = {"first.weight": (self.base, self.inputs, *self.kernel(3))}
        for unit, (inputs, outputs, kernel) in self.units.items():
            level = int(unit.strip("downup"))
            if unit.startswith("up"):
                shapes |= self.step("grow", level)
            elif level:
                shapes |= self.step("shrink", level - 1)
            shapes |= _norm(f"{unit}.norm1", inputs)
            shapes[f"{unit}.conv1.weight"] = (outputs, inputs, *kernel)
            shapes |= _norm(f"{unit}.norm2", outputs)
            shapes[f"{unit}.conv2.weight"] = (outputs, outputs, *kernel)
            if inputs != outputs:
                shapes[f"{unit}.shortcut.weight"] = (outputs, inputs, 1, 1, 1)
        head = {"head.weight": (self.outputs, self.base, 1, 1, 1)}
        return shapes | _norm("head.norm", self.base) | head

    @property
    def last_kernel(self) -> str:
        """The name of the last convolution that looks at neighbours: the head does not."""
        return ("up0" if self.depth > 1 else "down0") + ".conv2.weight"

    @cached_property
    def footprint(self) -> float:
        """On each level three maps: of a unit, what comes to it and what its convolutions write.

        Where maps are stacked, these come on top: what comes to the unit is twice as wide then.
        """
        total, share = 0.0, 1.0
        for level, width in enumerate(self.widths):
            share /= float(np.prod(self.pooling[level - 1])) if level else 1.0
            stacked = 2 * width if level < self.depth - 1 and self.joining == "concat" else 0
            total += share * (3 * width + stacked)
        return total + self.outputs

    def momentum_of(self, norm: str) -> float:
        return self.momentum if norm.endswith("norm1") else 0.1

    def start(self, name: str) -> tuple[str, float]:
        """PyTorch's: uniform in ±1/√(fan-in), 1 and 0 for γ and β.

        What it takes for the fan-in of a transposed convolution is its outputs × its kernel.
        """
        unit, kind = name.rsplit(".", 1)
        if kind in ("gamma", "beta"):
            return "constant", float(kind == "gamma")
        return "uniform", int(np.prod(self.shapes[f"{unit}.weight"][1:]))

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
        walk = _Forward(self, self.views(parameters), statistics, batch_statistics, branches, keep)
        r, skips = walk.first(x), []
        for level in range(self.depth):
            if level:
                skips.append(r)
                r = walk.shrink(f"shrink{level - 1}", r)
            r = walk.unit(f"down{level}", r)
        for level in reversed(range(self.depth - 1)):
            r = walk.grow(f"grow{level}", skips.pop(), r)
            r = walk.unit(f"up{level}", r)
        return walk.head(r), (parameters, walk.saved, input_gradient)

    def backward(self, gy: Array, saved: Any) -> tuple[Array | None, Array]:
        parameters, stack, input_gradient = saved
        gradient = empty(parameters.shape, parameters.dtype, like=parameters)
        back = _Backward(self.views(parameters), self.views(gradient), stack)
        g, skips = back.head(gy), []
        for level in range(self.depth - 1):
            g = back.unit(f"up{level}", g)
            g_skip, g = back.grow(f"grow{level}", g)
            skips.append(g_skip)
        for level in reversed(range(self.depth)):
            g = back.unit(f"down{level}", g)
            if level:
                g = back.shrink(f"shrink{level - 1}", g, skips.pop())
        return back.first(g, input_gradient), gradient


def _norm(name, channels):
    return {f"{name}.gamma": (channels,), f"{name}.beta": (channels,)}


def _read(normed):
    """The map of a `Normed`, and its affine, as a convolution can read them."""
    if normed.affine.shape[1] == normed.x.shape[1]:
        return normed.x, normed.affine
    return normalised(normed.x, normed.affine), None  # several branches


class _Forward:
    """The parts in the forward pass; `saved` is the stack that the backward pass unwinds."""

    def __init__(self, net, parameters, statistics, batch_statistics, branches, keep):
        self.net, self.p, self.branches, self.keep = net, parameters, branches, keep
        self.statistics, self.batch_statistics = statistics, batch_statistics
        self.saved = []

    def save(self, what):
        if self.keep:
            self.saved.append(what)

    def first(self, x):
        self.save(x)
        return conv_forward(x, self.p["first.weight"])[0]

    def unit(self, name, r):
        p, moments = self.p, self.statistics is None and self.branches == 1
        normed1 = self.norm(f"{name}.norm1", r)
        a, affine = _read(normed1)
        z, saved = conv_forward(a, p[f"{name}.conv1.weight"], affine=affine, moments=moments)
        sums = saved[1] if moments else None
        shortcut = p.get(f"{name}.shortcut.weight")
        if shortcut is not None:
            r = conv_forward(a, shortcut, affine=affine)[0]
        normed2 = self.norm(f"{name}.norm2", z, sums)
        self.save((normed1, normed2))
        del saved, normed1, a, z  # an inference has no other use for these maps
        a, affine = _read(normed2)
        h = conv_forward(a, p[f"{name}.conv2.weight"], affine=affine)[0]
        del normed2, a
        return add_forward(h, r)[0]

    def norm(self, name, z, moments=None):
        """The `Normed` of z, by the statistics of the batch or the given.

        `moments` are those that the convolution which wrote z found on the way.
        """
        place, known = self.net.statistics_layout[name], None
        if self.statistics is not None:
            known = self.statistics[place].reshape(2, -1)
        return batch_affine(
            z, self.p[f"{name}.gamma"], self.p[f"{name}.beta"],
            moments=moments, statistics=known, eps=EPSILON, branches=self.branches,
            into=self.batch_statistics, at=place.start,
        )  # fmt: skip

    def shrink(self, name, r):
        y, saved = strided_conv_forward(r, self.p[f"{name}.weight"], self.p[f"{name}.bias"])
        self.save(saved)
        return y

    def grow(self, name, skip, r):
        w, b = self.p[f"{name}.weight"], self.p[f"{name}.bias"]
        y, saved = join_forward(skip, r, w, b, how=self.net.joining)
        self.save(saved)
        return y

    def head(self, r):
        normed = self.norm("head.norm", r)
        self.save(normed)
        a, affine = _read(normed)
        return conv_forward(a, self.p["head.weight"], affine=affine)[0]


class _Backward:
    """The same parts backwards: each pops what its forward had pushed, which frees it."""

    def __init__(self, parameters, gradients, stack):
        self.p, self.g, self.stack = parameters, gradients, stack

    def head(self, gy):
        normed = self.stack.pop()
        self.weights("head.weight", gy, *_read(normed))
        return self.norm("head.norm", conv_backward_input(gy, self.p["head.weight"]), normed)

    def unit(self, name, g):
        normed1, normed2 = self.stack.pop()
        self.weights(f"{name}.conv2.weight", g, *_read(normed2))
        ga = conv_backward_input(g, self.p[f"{name}.conv2.weight"])
        gz = self.norm(f"{name}.norm2", ga, normed2)
        del ga, normed2
        a, affine = _read(normed1)
        self.weights(f"{name}.conv1.weight", gz, a, affine)
        ga = conv_backward_input(gz, self.p[f"{name}.conv1.weight"])
        del gz
        shortcut = self.p.get(f"{name}.shortcut.weight")
        if shortcut is not None:
            self.weights(f"{name}.shortcut.weight", g, a, affine)
            ga, _ = add_forward(ga, conv_backward_input(g, shortcut))
            g = None
        del a
        return self.norm(f"{name}.norm1", ga, normed1, plus=g)

    def weights(self, name, g, x, affine=None):
        conv_backward_weights(g, x, self.p[name].shape, affine, (self.g[name], None))

    def norm(self, name, g, normed, plus=None):
        into = self.g[f"{name}.gamma"], self.g[f"{name}.beta"]
        return batch_norm_backward(g, normed, plus=plus, into=into)[0]

    def shrink(self, name, g, plus):
        gx, gw, gb = strided_conv_backward(g, self.stack.pop(), plus=plus)
        self.g[f"{name}.weight"][...], self.g[f"{name}.bias"][...] = gw, gb
        return gx

    def grow(self, name, g):
        g_skip, gx, gw, gb = join_backward(g, self.stack.pop())
        self.g[f"{name}.weight"][...], self.g[f"{name}.bias"][...] = gw, gb
        return g_skip, gx

    def first(self, g, to_input):
        self.weights("first.weight", g, self.stack.pop())
        return conv_backward_input(g, self.p["first.weight"]) if to_input else None
