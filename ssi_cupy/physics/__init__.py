"""Forward models g: what the instrument makes of a sharp image.

A linear model has ``forward(x)`` and ``adjoint(y)``; any other has ``forward(x)`` and
``backward(gy, x)``, the gradient by x of <gy, forward(x)>. Both work on (N, C, Z, Y, X) arrays and
leave them alone. Nothing else is asked of a model, so a user's own needs no base class; `apply`
puts any of them on the tape.

>>> import numpy as np
>>> class EveryOther:  # a camera that sees each second column
...     def forward(self, x):
...         return x[..., ::2]
...     def adjoint(self, y):
...         x = np.zeros((*y.shape[:-1], 2 * y.shape[-1]), y.dtype)
...         x[..., ::2] = y
...         return x
>>> model = Composition(PSFConvolution(np.ones((3, 3))), EveryOther())
>>> apply(model, np.ones((1, 1, 1, 4, 6))).shape
(1, 1, 1, 4, 3)

`LearnedPSF` has parameters that a training learns along with the network (`learned.py`). `to_dict`
makes plain arrays and numbers of a model of this folder, `from_dict` a model of these.
"""

from .learned import LearnedPSF
from .models import (
    PLANS,
    Clamp,
    Composition,
    Identity,
    PSFConvolution,
    SensorResponse,
    apply,
    apply_backward,
    apply_forward,
    check,
    is_linear,
)
from .saved import from_dict, to_dict

__all__ = [
    "PLANS", "Clamp", "Composition", "Identity", "LearnedPSF", "PSFConvolution", "SensorResponse",
    "apply", "apply_backward", "apply_forward", "check", "from_dict", "is_linear", "to_dict",
]  # fmt: skip
