"""What convolutions may round on the way to a product.

float32    nothing: the default.
tf32       numbers are rounded to what the tensor cores of NVIDIA's GPUs multiply: float32's range,
           and 11 significant bits in place of 24.
tf32x3     numbers are split in two of these, and three of the four products of the halves are
           summed: as near as float32's own loops. Emulated, a sum of 3200 products is off by 9e-7
           of the largest at most, tf32's by 3e-4.

Tensor cores cut sums towards zero. Over a long sum of tf32 that adds up, to 4e-5 for 3200 products
of one sign; tf32x3 adds eight products at a time to a sum that is float32's. `ops/tensor_cores.py`
says which convolutions this is about, and how large either error can become.
"""

from __future__ import annotations

import threading
from typing import Self

from .checks import choice
from .types import PrecisionName

PRODUCTS = {"float32": 0, "tf32x3": 3, "tf32": 1}  # of tensor cores; 0: none are used
_local = threading.local()


class Precision:
    """Within ``with Precision(name):`` this thread's convolutions may use that precision.

    Parameters
    ----------
    name : {"float32", "tf32x3", "tf32"}

    Raises
    ------
    InputError
        If there is no such precision.
    """

    def __init__(self, name: PrecisionName) -> None:
        self.name = choice(name, "precision", tuple(PRODUCTS))
        self._outer = []

    def __enter__(self) -> Self:
        self._outer.append(current())
        _local.name = self.name
        return self

    def __exit__(self, *_: object) -> None:
        _local.name = self._outer.pop()


def current() -> PrecisionName:
    """The name of this thread's precision."""
    return getattr(_local, "name", "float32")
