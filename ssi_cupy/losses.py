"""What the training minimises: a named, weighted sum of terms.

The terms themselves, with their equations, are in `ops/terms.py` and `ops/variation.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from .checks import InputError, choice, number
from .ops import terms, variation


@dataclass(frozen=True)
class Losses:
    """The weights of the terms, and their settings. A term of weight 0 is not computed.

    With y the target, x = f(m(y)) the network's output and g(x) the prediction::

        blind_spot · mean(mask · ρ(g(x) − y))
        + bound · mean(relu(low − x) + relu(x − high))          (the mean squared on request)
        + positivity · mean|min(x, 0)| / scale
        + tv · mean √(|∇x|² + tv_eps²)

    Attributes
    ----------
    blind_spot, bound, positivity, tv : float
        Weights.
    kind : {"l2", "l1", "huber"}
        What ρ is.
    delta : float
        Where Huber's ρ goes over from a parabola to a line, in y's units.
    normalise : {"pixels", "masked"}
        Whether the masked sum is divided by the number of all pixels or by that of the masked.
    low, high : float
        The bounds of x.
    bound_squared : bool
    scale : float
        The unit of x for positivity: 1, or the standard deviation of the data.
    tv_eps : float
        Differences far below it are punished by their squares, far above it by their size.
    spacing : three of float
        The distance of two pixels along Z, Y and X, for the total variation.
    """

    blind_spot: float = 1.0
    kind: str = "l2"
    delta: float = 0.15
    normalise: str = "pixels"
    bound: float = 0.1
    bound_squared: bool = True
    low: float = 0.0
    high: float = 1.0
    positivity: float = 0.0
    scale: float = 1.0
    tv: float = 0.0
    tv_eps: float = 1e-3
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self):
        choice(self.kind, "kind", terms.KINDS)
        choice(self.normalise, "normalise", ("pixels", "masked"))
        for field in fields(self):
            if field.type == "float" and field.name not in ("low", "high"):
                number(getattr(self, field.name), field.name, low=0)
        if not (self.blind_spot or self.bound or self.positivity or self.tv):
            raise InputError("blind_spot", "at least one term with a weight above 0", "none")

    def __call__(self, x, prediction, target, mask):
        """The loss, and what it is made of.

        Parameters
        ----------
        x : Var or array, shape (N, C, Z, Y, X)
            The network's output.
        prediction : Var or array, shape (N, C, Z, Y, X)
            What the forward model makes of it.
        target : array, shape (N, C, Z, Y, X)
        mask : array of uint8, shape (N, 1, Z, Y, X) or (N, C, Z, Y, X)
            The pixels that the blind-spot term looks at.

        Returns
        -------
        total : Var or scalar array
        parts : dict of str to scalar array
            Each term before it is weighted. Left on its device: reading one of them is what waits
            for it.
        """
        named = {}
        if self.blind_spot:
            named["blind_spot"] = self._blind_spot(prediction, target, mask)
        if self.bound:
            limits = {"low": self.low, "high": self.high, "squared": self.bound_squared}
            named["bound"] = terms.bound(x, **limits)
        if self.positivity:
            named["positivity"] = terms.positivity(x, scale=self.scale)
        if self.tv:
            named["tv"] = variation.total_variation(x, eps=self.tv_eps, spacing=self.spacing)
        weights = tuple(getattr(self, name) for name in named)
        total = terms.weighted_sum(*named.values(), weights=weights)
        return total, {name: getattr(term, "value", term) for name, term in named.items()}

    def validation(self, prediction, target, pixels):
        """The blind-spot term on `pixels` alone, per pixel of them: a scalar array."""
        return self._blind_spot(prediction, target, pixels, normalise="masked")

    def _blind_spot(self, prediction, target, mask, normalise=None):
        settings = {"kind": self.kind, "delta": self.delta}
        settings["normalise"] = normalise or self.normalise
        return terms.masked_loss(prediction, target, mask, **settings)
