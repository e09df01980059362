"""What all networks share: the flat vectors of their parameters and statistics, and their views.

A network is a frozen dataclass that says which parameters and which batch norms there are
(`shapes`, `norms`); where they lie in the two vectors follows from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import random
from ..engine.backend import empty, moved, zeros
from ..engine.checks import Checked, InputError, maybe, several, whole
from ..engine.types import Array, DTypeLike, Shape

Window: TypeAlias = tuple[int, int, int]  # or a kernel's widths: along Z, Y and X

EPSILON = 1e-5  # of batch norms, in all three papers' code
LEVELS = 16  # the most: one that is pooled further has no pixel left
CHANNELS = whole(1, 2**20)
WINDOWS = maybe(several(several(whole(1, 2**10), 3, 3), 0, LEVELS - 1))


class Network(Checked):
    """A network: names and shapes, no numbers.

    A subclass has the fields ``ndim``, ``inputs``, ``outputs`` and these:

    Attributes
    ----------
    shapes : dict
        name → shape of each parameter, in their order.
    norms : dict
        name → channels of each batch norm, in their order; empty where there is none.
    last_kernel : str
        The name of the weights of the last convolution that looks at neighbours.
    momentum : float
        How much of a batch's means and variances goes into the running ones (see `momenta`).
    widths : tuple of int
        Channels on each level, full resolution first.
    windows : sequence of (int, int, int), optional
        `pooling`, if it is not 2 along every axis.
    aspect : float
        The height of a voxel over its width, at full resolution.
    path : list of (str, (int, int, int))
        The longest path through the network, in the order in which data takes it: "conv" with the
        widths of the kernel, "pool" and "upsample" with their factors. A convolution or transposed
        convolution that is as wide as its stride is one of these too.
    footprint : float
        How many numbers an inference takes per pixel of the image, at most, where nothing is
        kept for a backward.

    and these methods: ``start(name)``, the law of a parameter's first values (see
    `initial_parameters`); ``forward(x, parameters, statistics, batch_statistics, branches,
    input_gradient, keep)`` and ``backward(gy, saved)``, the two passes (see `unet_forward`), with
    `batch_statistics` a (branches, `statistics_size`) array or None.
    """

    ndim: int
    inputs: int
    outputs: int
    momentum: float
    aspect: float
    windows: Sequence[Window] | None

    if TYPE_CHECKING:  # fields of one network, properties of another

        @property
        def shapes(self) -> dict[str, Shape]: ...
        @property
        def norms(self) -> dict[str, int]: ...
        @property
        def last_kernel(self) -> str: ...
        @property
        def widths(self) -> tuple[int, ...]: ...
        @property
        def path(self) -> list[tuple[str, Window]]: ...
        @property
        def footprint(self) -> float: ...

        def start(self, name: str) -> tuple[str, float]: ...
        def forward(self, x: Array, parameters: Array, *settings: Any) -> tuple[Array, Any]: ...
        def backward(self, gy: Array, saved: Any) -> tuple[Array | None, Array]: ...

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.windows is not None and len(self.windows) != len(self.widths) - 1:
            raise InputError("windows", f"{len(self.widths) - 1} × (Z, Y, X)", repr(self.windows))

    def kernel(self, width: int, level: int = 0) -> Window:
        """A kernel `width` wide in Y and X, and about as far in Z, if 3-D: the higher the voxels
        of a level are, the fewer taps that takes."""
        if self.ndim == 2:
            return (1, width, width)
        pooled = np.prod(((1, 1, 1), *self.pooling[:level]), axis=0)
        aspect = self.aspect * min(1.0, float(pooled[0] / pooled[1]))
        depth = 2 * round((width / max(aspect, 1.0) - 1) / 2) + 1
        return (depth, width, width)

    @cached_property
    def pooling(self) -> Sequence[Window]:
        """The factors along Z, Y and X between the levels, full resolution first."""
        default = (2 if self.ndim == 3 else 1, 2, 2)
        return self.windows or (default,) * (len(self.widths) - 1)

    @cached_property
    def smallest(self) -> Shape:
        """The least (Z, Y, X) that makes a whole pixel on the lowest level."""
        return tuple(int(n) for n in np.prod(((1, 1, 1), *self.pooling), axis=0, dtype=int))

    @cached_property
    def reach(self) -> Shape:
        """How far along Z, Y and X an input pixel can change the output, pixels: what lies further
        away from an output pixel is nothing to it."""
        return tuple(
            _reach([(kind, sizes[axis]) for kind, sizes in self.path]) for axis in range(3)
        )

    @cached_property
    def layout(self) -> dict[str, tuple[slice, Shape]]:
        """name → (slice of the flat vector, shape) of each parameter."""
        layout, at = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            layout[name] = slice(at, at + size), shape
            at += size
        return layout

    @cached_property
    def size(self) -> int:
        """The number of parameters."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    @cached_property
    def statistics_layout(self) -> dict[str, slice]:
        """norm → slice of the flat vector of means and variances, the means first."""
        layout, at = {}, 0
        for name, channels in self.norms.items():
            layout[name] = slice(at, at + 2 * channels)
            at += 2 * channels
        return layout

    @cached_property
    def statistics_size(self) -> int:
        """The number of means and variances."""
        return 2 * sum(self.norms.values())

    def views(self, vector: Array) -> dict[str, Array]:
        """name → view of `vector` (`size`,) in the parameter's shape."""
        return {name: vector[s].reshape(shape) for name, (s, shape) in self.layout.items()}

    def initial_parameters(
        self, seed: int, dtype: DTypeLike = np.float32, like: Array | None = None
    ) -> Array:
        """The parameters before training, (`size`,), each by the law that `start` names.

        ``("uniform", n)``: between ±1/√n. ``("normal", σ)``: of mean 0 and standard deviation σ.
        ``("constant", c)``: c. They are made on the CPU, so the same bits on every device.
        """
        vector = zeros(self.size, dtype)
        drawn = {}
        for name, (place, _) in self.layout.items():
            law, value = self.start(name)
            if law == "constant":
                vector[place] = value
                continue
            if law not in drawn:
                draw = getattr(random, law)
                drawn[law] = draw((self.size,), seed=seed, stream=random.Stream.WEIGHTS)
            numbers = drawn[law][place]
            if law == "uniform":
                vector[place] = (2 * numbers - 1) / np.sqrt(value)
            else:
                vector[place] = numbers * value
        return moved(vector, like)

    def initial_statistics(self, dtype: DTypeLike = np.float32, like: Array | None = None) -> Array:
        """Means of 0 and variances of 1."""
        vector = zeros(self.statistics_size, dtype, like)
        for place in self.statistics_layout.values():
            vector[(place.start + place.stop) // 2 : place.stop] = 1
        return vector

    def momentum_of(self, norm: str) -> float:
        """The momentum of one batch norm."""
        return self.momentum

    def momenta(self, dtype: DTypeLike = np.float32, like: Array | None = None) -> Array:
        """The momentum of each mean and variance, m in: running += m · (batch − running)."""
        vector = empty(self.statistics_size, dtype, like)
        for norm, place in self.statistics_layout.items():
            vector[place] = self.momentum_of(norm)
        return vector


class Stepped(Network):
    """What the two networks share whose width doubles from level to level.

    Of the fields they have ``depth`` (levels), ``skip`` and ``windows``; ``base`` is the width at
    full resolution, and ``joining`` is "add" or "concat".
    """

    depth: int

    if TYPE_CHECKING:

        @property
        def base(self) -> int: ...
        @property
        def joining(self) -> str: ...

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Channels on each level."""
        return tuple(self.base * 2**level for level in range(self.depth))

    def step(self, kind: str, level: int) -> dict[str, Shape]:
        """The parameters of a convolution that steps to the level below `level`, or up from it."""
        high, low = self.widths[level : level + 2]
        name, outputs = f"{kind}{level}", low if kind == "shrink" else high
        # (outputs, inputs) of a convolution, and (inputs, outputs) of a transposed one
        weight = (low, high, *self.pooling[level])
        return {f"{name}.weight": weight, f"{name}.bias": (outputs,)}

    @cached_property
    def path(self) -> list[tuple[str, Window]]:
        first = "first.weight" in self.shapes  # a convolution before all units
        path = [("conv", self.kernel(3))] if first else []
        for level in range(self.depth):
            path += [("pool", self.pooling[level - 1])] if level else []
            path += [("conv", self.kernel(3, level))] * 2
        for level in reversed(range(self.depth - 1)):
            path.append(("upsample", self.pooling[level]))
            path += [("conv", self.kernel(3, level))] * 2
        return path


def _reach(path):
    """`Network.reach` along one axis."""
    period = int(np.prod([size for kind, size in path if kind == "pool"], dtype=int))
    furthest = 0
    for i in range(period):  # which inputs does output i look at? It matters where i lies.
        first = last = i
        for kind, size in reversed(path):
            if kind == "conv":
                first, last = first - size // 2, last + size // 2
            elif kind == "upsample":
                first, last = first // size, last // size
            else:
                first, last = first * size, last * size + size - 1
        furthest = max(furthest, i - first, last - i)
    return furthest


def stacked(parts: Sequence[Array]) -> Array:
    """Arrays (n, …) of one shape as one (len(parts) · n, …), the only one itself."""
    if len(parts) == 1:
        return parts[0]
    n, *rest = parts[0].shape
    whole = empty((len(parts) * n, *rest), parts[0].dtype, like=parts[0])
    for i, part in enumerate(parts):
        whole[i * n : i * n + n] = part
    return whole
