"""The words that signatures are written in."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "Array", "ArrayLike", "Callback", "DTypeLike", "Device", "Float32Array", "Float64Array",
    "ForwardModel", "Grid", "History", "Method", "Mode", "PathLike", "PrecisionName", "Rng",
    "Shape", "Sizes", "Sliceable", "Spacing", "T",
]  # fmt: skip

T = TypeVar("T")

# On a GPU they are cupy's, which has no types: numpy's say what one can do with either.
Array: TypeAlias = NDArray[Any]
Float32Array: TypeAlias = NDArray[np.float32]
Float64Array: TypeAlias = NDArray[np.float64]
Shape: TypeAlias = tuple[int, ...]

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
PrecisionName: TypeAlias = Literal["float32", "tf32x3", "tf32"]
Method: TypeAlias = Literal["auto", "fft", "direct"]  # of a convolution
Mode: TypeAlias = Literal["mirror", "nearest", "wrap", "constant"]
Spacing: TypeAlias = float | Sequence[float]
Sizes: TypeAlias = int | Sequence[int]
Rng: TypeAlias = int | np.random.Generator | None
PathLike: TypeAlias = str | os.PathLike[str]

# What is told of a step, and who may be told: a training ends early when that returns True.
History: TypeAlias = list[dict[str, float]]
Callback: TypeAlias = Callable[[dict[str, Any]], bool | None]

# (blocks, threads of a block, bytes of shared memory)
Grid: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], int]


class Sliceable(Protocol):
    """What need not be in memory: a dataset of h5py or zarr, a memory map."""

    @property
    def shape(self) -> Shape: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def ndim(self) -> int: ...
    @property
    def size(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...


class _Linear(Protocol):
    def forward(self, x: Any, /) -> Any: ...
    def adjoint(self, y: Any, /) -> Any: ...


class _Differentiable(Protocol):
    def forward(self, x: Any, /) -> Any: ...
    def backward(self, gy: Any, x: Any, /) -> Any: ...


ForwardModel: TypeAlias = _Linear | _Differentiable
