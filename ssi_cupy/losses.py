"""What the training minimises: a named, weighted sum of terms.

The terms themselves, with their equations, are in `ops/loss_terms.py` and `ops/total_variation.py`.

References
----------
.. [1] M. Papkov, K. Palo, L. Parts, "Self-supervised single-image deconvolution with Siamese
   neural networks" (2023), Eq. 1: the first six terms.
.. [2] A. Goncharova, A. Honigmann, F. Jug, A. Krull, "Improving blind spot denoising for
   microscopy" (2020), Eq. 5: positivity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .engine.checks import (
    Checked,
    InputError,
    checked,
    flag,
    limit,
    one_of,
    real,
    several,
)
from .engine.types import Array
from .ops import loss_terms
from .ops.total_variation import total_variation

WEIGHTS = (
    "blind_spot", "reconstruction", "invariance", "invariance_blurred", "bound", "bound_blurred",
    "positivity", "tv",
)  # fmt: skip
WEIGHT = real(0)


@dataclass(frozen=True)
class Losses(Checked):
    """The weights of the terms, and their settings. A term of weight 0 is not computed.

    The network f is applied to the target y with some pixels hidden: x_m = f(m(y)), its masked
    pass; and, where a term asks for it, to y as it is: x = f(y), its whole pass (without, x is
    x_m). With g the forward model, and Papkov's names on the right [1]_ ::

        blind_spot · mean over masked ρ(g(x_m) − y)                                     bsp
        + reconstruction · mean (g(x) − y)²                                             rec
        + invariance · √(mean over masked (x − x_m)²)                                   inv(d)
        + invariance_blurred · √(mean over masked (g(x) − g(x_m))²)                     inv
        + bound · mean(relu(low − x) + relu(x − high))    (the mean squared on request) bound(d)
        + bound_blurred · the same of g(x)                                              bound
        + positivity · mean|min(x − zero, 0)| / scale
        + tv · mean √(|∇x|² + tv_eps²)

    Attributes
    ----------
    blind_spot, reconstruction, invariance, invariance_blurred : float
        Weights,
    bound, bound_blurred, positivity, tv : float
        and weights.
    kind : {"l2", "l1", "huber"}
        What ρ is.
    delta : float
        Where Huber's ρ goes over from a parabola to a line, in y's units.
    normalise : {"pixels", "masked"}
        Whether the sum of the blind-spot term is divided by the number of all pixels or by that
        of the masked.
    low, high : float
        The bounds of x.
    bound_squared : bool
    zero, scale : float
        What x is where there is no light; and its unit for positivity, which may be the standard
        deviation of the data.
    tv_eps : float
        Differences far below it are punished by their squares, far above it by their size.
    spacing : three of float
        The distance of two pixels along Z, Y and X, for the total variation.
    """

    blind_spot: float = checked(WEIGHT, 1.0)
    reconstruction: float = checked(WEIGHT, 0.0)
    invariance: float = checked(WEIGHT, 0.0)
    invariance_blurred: float = checked(WEIGHT, 0.0)
    kind: loss_terms.Kind = checked(one_of(*loss_terms.KINDS), "l2")
    delta: float = checked(WEIGHT, 0.15)
    normalise: Literal["pixels", "masked"] = checked(one_of("pixels", "masked"), "pixels")
    bound: float = checked(WEIGHT, 0.1)
    bound_blurred: float = checked(WEIGHT, 0.0)
    bound_squared: bool = checked(flag, True)
    low: float = checked(limit, 0.0)
    high: float = checked(limit, 1.0)
    positivity: float = checked(WEIGHT, 0.0)
    zero: float = checked(real(), 0.0)
    scale: float = checked(WEIGHT, 1.0)
    tv: float = checked(WEIGHT, 0.0)
    tv_eps: float = checked(WEIGHT, 1e-3)
    spacing: tuple[float, float, float] = checked(
        several(real(0, above=True), 3, 3), (1.0, 1.0, 1.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise InputError("high", f"at least low = {self.low:g}", f"{self.high:g}")
        if self.positivity and not self.scale:
            raise InputError("scale", "a number above 0, for positivity", "0")
        if not any(getattr(self, name) for name in WEIGHTS):
            raise InputError("blind_spot", "at least one term with a weight above 0", "none")

    @property
    def siamese(self) -> bool:
        """Whether a term asks for the whole pass beside the masked one."""
        return bool(self.reconstruction or self.invariance or self.invariance_blurred)

    def __call__(
        self,
        x: Any,
        prediction: Any,
        target: Array,
        mask: Array,
        *,
        whole: Sequence[Any] | None = None,
        inside: Array | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """The loss, and what it is made of.

        Parameters
        ----------
        x : Var or array, shape (N, C, Z, Y, X)
            The network's output from its masked pass.
        prediction : Var or array, shape (N, C, Z, Y, X)
            What the forward model makes of it.
        target : array, shape (N, C, Z, Y, X)
        mask : array of uint8, shape (N, 1, Z, Y, X) or (N, C, Z, Y, X)
            The hidden pixels that the loss looks at.
        whole : two of Var or array, optional
            Output and prediction from the whole pass; needed if `siamese`.
        inside : array like `mask`, optional
            The pixels that the reconstruction term looks at; needed if it has a weight.

        Returns
        -------
        total : Var or scalar array
        parts : dict of str to scalar array
            Each term before it is weighted. Left on its device: reading one of them is what waits
            for it.
        """
        if self.siamese and whole is None:
            raise InputError("whole", "the outputs of the whole pass", "None")
        sharp, blurred = (x, prediction) if whole is None else whole
        limits = {"low": self.low, "high": self.high, "squared": self.bound_squared}
        terms_of = {
            "blind_spot": lambda: self._blind_spot(prediction, target, mask),
            "reconstruction": lambda: loss_terms.masked_loss(blurred, target, inside,
                                                        normalise="masked"),
            "invariance": lambda: loss_terms.invariance(sharp, x, mask),
            "invariance_blurred": lambda: loss_terms.invariance(blurred, prediction, mask),
            "bound": lambda: loss_terms.bound(sharp, **limits),
            "bound_blurred": lambda: loss_terms.bound(blurred, **limits),
            "positivity": lambda: loss_terms.positivity(sharp, zero=self.zero, scale=self.scale),
            "tv": lambda: total_variation(sharp, eps=self.tv_eps, spacing=self.spacing),
        }  # fmt: skip
        named = {name: term() for name, term in terms_of.items() if getattr(self, name)}
        weights = tuple(getattr(self, name) for name in named)
        total = loss_terms.weighted_sum(*named.values(), weights=weights)
        return total, {name: getattr(term, "value", term) for name, term in named.items()}

    def validation(self, prediction: Array, target: Array, pixels: Array) -> Array:
        """The blind-spot term on `pixels` alone, per pixel of them: a scalar array."""
        return self._blind_spot(prediction, target, pixels, normalise="masked")

    def _blind_spot(self, prediction, target, mask, normalise=None):
        settings = {"kind": self.kind, "delta": self.delta}
        settings["normalise"] = normalise or self.normalise
        return loss_terms.masked_loss(prediction, target, mask, **settings)
