"""The UNet: its parameters, its wiring, and the two passes by hand.

Of Kobayashi et al. (Fig. 2): on each level a block of two units; on the way down max-pooling, on
the way up nearest-neighbour upsampling and the encoder's map beside it. A unit is ::

    convolution → batch norm → ReLU

but only the convolution writes its output. The batch norm, once its statistics are known, is a
scale and a shift, and whoever reads the map applies these and the ReLU as it reads (see
`ops/README.md`). So a feature map travels here as a pair ``(z, affine)``: what the convolution
wrote, and what makes an activation of it; None where z is one already.

The whole network is one operation on the tape, `unet`: ``unet(x, parameters, net=net)``. All
parameters are one flat vector, and so is their gradient; `UNet.views` gives the pieces by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import random
from .backend import empty, namespace, zeros
from .checks import InputError
from .ops.conv import conv_backward_input, conv_backward_weights, conv_forward
from .ops.norm import batch_affine, batch_norm_backward, moments_to_statistics
from .ops.pool import max_pool_backward, max_pool_forward
from .ops.upsample import upsample_concat_backward, upsample_concat_forward
from .tape import op

EPSILON = 1e-5


@dataclass(frozen=True)
class UNet:
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
    """

    ndim: int = 2
    inputs: int = 1
    outputs: int = 1
    widths: tuple[int, ...] = (8, 16, 32, 64, 64)
    windows: tuple[tuple[int, int, int], ...] | None = None

    def kernel(self, width):
        """A kernel `width` wide in Y and X, and in Z if 3-D."""
        return (width if self.ndim == 3 else 1, width, width)

    @cached_property
    def pooling(self):
        default = (2 if self.ndim == 3 else 1, 2, 2)
        return self.windows or (default,) * (len(self.widths) - 1)

    @cached_property
    def smallest(self):
        """The least (Z, Y, X) that leaves a pixel on the lowest level."""
        return tuple(int(n) for n in np.prod(self.pooling, axis=0, dtype=int))

    @cached_property
    def units(self):
        """name → (inputs, outputs, kernel) of each convolution, in the order in which they run."""
        units, width = {}, self.inputs
        last = len(self.widths) - 1
        for level, out in enumerate(self.widths):
            units[f"down{level}.wide"] = (width, out, self.kernel(5))
            units[f"down{level}.narrow"] = (out, out, self.kernel(3))
            width = out
        for level in reversed(range(last)):
            together = width + self.widths[level]
            width = self.widths[max(level - 1, 0)]
            units[f"up{level}.wide"] = (together, together // 2, self.kernel(5))
            units[f"up{level}.narrow"] = (together // 2, width, self.kernel(3))
        units["head"] = (width, self.outputs, self.kernel(1))
        return units

    @property
    def last_kernel(self):
        """The name of the last convolution that looks at neighbours: the head does not."""
        return "up0.narrow.weight" if len(self.widths) > 1 else "down0.narrow.weight"

    @cached_property
    def layout(self):
        """name → (slice of the flat vector, shape) of each parameter."""
        layout, at = {}, 0
        for unit, (inputs, outputs, kernel) in self.units.items():
            shapes = {"weight": (outputs, inputs, *kernel), "bias": (outputs,)}
            if unit != "head":
                shapes |= {"gamma": (outputs,), "beta": (outputs,)}
            for name, shape in shapes.items():
                size = int(np.prod(shape))
                layout[f"{unit}.{name}"] = slice(at, at + size), shape
                at += size
        return layout

    @cached_property
    def size(self):
        """The number of parameters."""
        return sum(int(np.prod(shape)) for _, shape in self.layout.values())

    @cached_property
    def statistics_layout(self):
        """unit → slice of the flat vector of means and variances, the means first."""
        layout, at = {}, 0
        for unit, (_, outputs, _) in self.units.items():
            if unit != "head":
                layout[unit] = slice(at, at + 2 * outputs)
                at += 2 * outputs
        return layout

    def views(self, vector):
        """name → view of `vector` (`size`,) in the parameter's shape."""
        return {name: vector[s].reshape(shape) for name, (s, shape) in self.layout.items()}

    def initial_parameters(self, seed, dtype=np.float32, like=None):
        """Uniform in ±1/√(fan-in) for weights and biases, 1 and 0 for γ and β."""
        vector = zeros(self.size, dtype, like)
        uniform = random.uniform((self.size,), seed=seed, stream=random.Stream.WEIGHTS, like=like)
        for name, (place, _) in self.layout.items():
            unit, kind = name.rsplit(".", 1)
            if kind == "gamma":
                vector[place] = 1
            elif kind != "beta":
                fan_in = self.units[unit][0] * int(np.prod(self.units[unit][2]))
                vector[place] = (2 * uniform[place] - 1) / np.sqrt(fan_in)
        return vector

    def initial_statistics(self, dtype=np.float32, like=None):
        """Means of 0 and variances of 1."""
        size = sum(s.stop - s.start for s in self.statistics_layout.values())
        vector = zeros(size, dtype, like)
        for place in self.statistics_layout.values():
            vector[(place.start + place.stop) // 2 : place.stop] = 1
        return vector


def unet_forward(
    x, parameters, *, net, statistics=None, batch_statistics=None, input_gradient=True
):
    """f(x).

    Parameters
    ----------
    x : (N, net.inputs, Z, Y, X) array
    parameters : (net.size,) array
    net : UNet
    statistics : array, optional
        Inference mode: the running means and variances, laid out by `net.statistics_layout`.
    batch_statistics : array, optional
        Training mode: where to write the batch's means and (unbiased) variances.
    input_gradient : bool
        Whether the backward is to compute the gradient by x, which a training does not need.

    Returns
    -------
    y : (N, net.outputs, Z, Y, X) array
    """
    if x.ndim != 5 or x.shape[1] != net.inputs:
        raise InputError("x", f"an (N, {net.inputs}, Z, Y, X) array", f"shape {x.shape}")
    if any(size < least for size, least in zip(x.shape[2:], net.smallest, strict=True)):
        raise InputError("x", f"at least (Z, Y, X) = {net.smallest} pixels", f"{x.shape[2:]}")
    walk = _Forward(net, net.views(parameters), statistics, batch_statistics)
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
    y, saved = conv_forward(z, walk.p["head.weight"], walk.p["head.bias"], affine=affine)
    return y, (net, parameters, walk.saved, saved, input_gradient)


def unet_backward(gy, saved):
    """(gx, gradient by the parameters); gx is None without `input_gradient`."""
    net, parameters, stack, (z, w, _, affine), input_gradient = saved
    gradient = empty(parameters.shape, parameters.dtype, like=parameters)
    back = _Backward(net.views(parameters), net.views(gradient), list(stack))
    back.g["head.weight"][...], back.g["head.bias"][...] = conv_backward_weights(
        gy, z, w.shape, affine
    )
    g = conv_backward_input(gy, w)
    skips = []
    for level in range(len(net.widths) - 1):
        g = back.block(f"up{level}", g)
        g_skip, g = back.join(g)
        skips.append(g_skip)
    for level in reversed(range(len(net.widths))):
        g = back.block(f"down{level}", g, to_input=level > 0 or input_gradient)
        if level:
            g = back.pool(g, plus=skips.pop())
    return g, gradient


unet = op(unet_forward, unet_backward)


def parameter_forward(parameters, *, net, name):
    """One parameter out of the flat vector, in its shape: `net.views(parameters)[name]`."""
    place, shape = net.layout[name]
    return parameters[place].reshape(shape), (parameters, place)


def parameter_backward(gw, saved):
    """The flat gradient: gw at its place, 0 elsewhere."""
    parameters, place = saved
    gradient = zeros(parameters.shape, parameters.dtype, like=parameters)
    gradient[place] = gw.ravel()
    return gradient


parameter = op(parameter_forward, parameter_backward)


class _Forward:
    """The parts on the way forward; `saved` is the stack that the way back unwinds."""

    def __init__(self, net, parameters, statistics, batch_statistics):
        self.net, self.p = net, parameters
        self.statistics, self.batch_statistics = statistics, batch_statistics
        self.saved = []

    def block(self, name, z, affine):
        z, affine = self.unit(f"{name}.wide", z, affine)
        return self.unit(f"{name}.narrow", z, affine)

    def unit(self, name, z, affine):
        """Convolution, and the affine that makes its output normalised; the ReLU is implied."""
        p, training = self.p, self.statistics is None
        w, bias = p[f"{name}.weight"], p[f"{name}.bias"]
        x, x_affine = z, affine
        z, saved = conv_forward(x, w, bias, affine=affine, moments=training)
        place = self.net.statistics_layout[name]
        if training:
            _, sums = saved
            count = z[:, 0].size
            mean, variance = moments_to_statistics(sums, bias, count)
            if self.batch_statistics is not None:
                unbiased = variance * (count / max(count - 1, 1))
                both = namespace(mean).concatenate([mean, unbiased])
                self.batch_statistics[place] = both
        else:
            mean, variance = self.statistics[place].reshape(2, -1)
        gamma, beta = p[f"{name}.gamma"], p[f"{name}.beta"]
        affine, normed = batch_affine(z, mean, variance, gamma, beta, EPSILON, training)
        self.saved.append((x, x_affine, normed))
        return z, affine

    def pool(self, z, affine, window):
        y, saved = max_pool_forward(z, window=window, affine=affine)
        self.saved.append(saved)
        return y

    def join(self, skip, skip_affine, low, low_affine, factor):
        y, saved = upsample_concat_forward(
            skip, low, factor=factor, skip_affine=skip_affine, low_affine=low_affine
        )
        self.saved.append(saved)
        return y


class _Backward:
    """The same parts on the way back: each pops what its forward had pushed."""

    def __init__(self, parameters, gradients, stack):
        self.p, self.g, self.stack = parameters, gradients, stack

    def block(self, name, g, to_input=True):
        g = self.unit(f"{name}.narrow", g)
        return self.unit(f"{name}.wide", g, to_input)

    def unit(self, name, g, to_input=True):
        x, x_affine, normed = self.stack.pop()
        g, self.g[f"{name}.gamma"][...], self.g[f"{name}.beta"][...] = batch_norm_backward(
            g, normed
        )
        w = self.p[f"{name}.weight"]
        self.g[f"{name}.weight"][...], self.g[f"{name}.bias"][...] = conv_backward_weights(
            g, x, w.shape, x_affine
        )
        return conv_backward_input(g, w) if to_input else None

    def pool(self, g, plus):
        return max_pool_backward(g, self.stack.pop(), plus=plus)

    def join(self, g):
        return upsample_concat_backward(g, self.stack.pop())
