"""A point-spread function that nobody has measured: a Gaussian whose widths the training finds.

What can be known of a blur from one image? Held-out pixels say how wide it is at most: where it is
too wide, g(x) cannot have the image's sharp edges, whatever x is. That it is too narrow a network
does not say, for it can blur by itself, and every width below the true one predicts as well. Total
variation does say it, as it pays for every blurred edge: of several widths, with the weight that is
best for each, the one that predicts held-out pixels best is where a training starts, and how much
worse its neighbours do is the error (`training/bracket.py`). From there parameters follow ::

    log(loss on hidden pixels) − PUSH · log σ + PRIOR · (log σ − log start)² / 2

What is found is the blur of the sharpest thing in the image, be it the microscope's or the
sample's own. Of an image that is soft throughout nobody can tell the two apart: its widths predict
alike, and `told` is False; or, where its softness is even, what is found is both together.

Of text, a test target and nuclei (σ 2, noise 0.05, crops of 96²) the learned width was 1.02 to 1.06
times the true one, from guesses of 0.6 and 1.6 times it (`python -m bench blind`); where a training
starts is a twentieth too narrow for the fine texture of streets, and up to a fifth too wide for
soft membranes.

Only a Gaussian is learned: no defocus, no aberrations. Widths along two axes of a plane, which
`anisotropy` makes different, are found by the gradient alone, to 15 % or so. A place (shift)
trades with that of x, so that it is learned only as far as borders tell.

References
----------
.. [1] A. Levin, Y. Weiss, F. Durand and W. T. Freeman, "Understanding and evaluating blind
   deconvolution algorithms", CVPR (2009): why the best fit alone would be the blurred image.
.. [2] H. Kobayashi, A. C. Solak, J. Batson, L. A. Royer (2020) and A. Goncharova et al. (2020), who
   name it as the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine import backend, checks
from ..engine.checks import InputError
from ..engine.types import Array, ArrayLike, Mode
from ..ops.gaussian_convolution import NUMBER, gaussian_convolution, sampled
from ..ops.pad import crop, pad
from .models import Composition, PSFConvolution

PUSH = np.array([0.065, 0.13, 0, 0, 0, 0, 0])  # of the loss, for each e-fold of σ_z and σ
PRIOR = 4.0  # of the loss, for an e-fold squared away from a bracketed width,
WEAK = 0.02  # and of what is not bracketed: all else, and widths with an anisotropy
NAMES = {"sigma_z": [0], "sigma": [1], "anisotropy": [2, 3], "shift": [4, 5, 6]}
REACH = 5.0  # times the guess: pixels of the kernel while it is learned, and beyond them it fades
FACTOR = 2.5  # the most that a width changes by
KNOWN = 0.15  # an error of log σ that is as good as not knowing


class LearnedPSF(PSFConvolution):
    """Convolution with a Gaussian of unknown width; see the module for what can be known of it.

    Used by itself it is the convolution with its kernel. A training learns the parameters that
    `learn` names and leaves a `LearnedPSF` of what was found in the model's ``physics``.

    Parameters
    ----------
    sigma : float or (float, float)
        The guess of the standard deviation, pixels; of a volume, those along Z and across.
    ndim : {2, 3}
        Rank of the PSF, if `sigma` is one number.
    anisotropy, angle : float
        The widths along and across `angle` (radians, from X towards Y) are ``sigma * anisotropy``
        and ``sigma / anisotropy``.
    shift : three of float
        Where its centre is along Z, Y and X, in pixels from the middle one.
    mode : {"mirror", "nearest", "wrap", "constant"}
        As of `PSFConvolution`.
    learn : sequence of {"sigma", "sigma_z", "anisotropy", "shift"}, optional
        The widths by default. Of none, nothing is learned, and this is the `PSFConvolution` with
        `ssi_cupy.psf.gaussian`, to the same bits.

    Attributes
    ----------
    sigma, sigma_z, anisotropy, angle : float
    error : float or None
        The standard error of ``log sigma``, once it was learned.
    told : bool or None
        Whether the image says what the width is, once it was learned.

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """

    def __init__(
        self,
        sigma: float | Sequence[float],
        *,
        ndim: int = 2,
        anisotropy: float = 1.0,
        angle: float = 0.0,
        shift: Sequence[float] = (0.0, 0.0, 0.0),
        mode: Mode = "mirror",
        learn: Sequence[str] | None = None,
        parameters: ArrayLike | None = None,
        error: float | None = None,
    ) -> None:
        sigmas = [sigma] if np.ndim(sigma) == 0 else list(sigma)
        sigmas = [checks.positive(s, "sigma") for s in sigmas]
        if len(sigmas) == 1:
            sigmas = sigmas * (checks.choice(ndim, "ndim", (2, 3)) - 1)
        if len(sigmas) > 2 or not sigmas:
            raise InputError("sigma", "a width, or those along Z and across", repr(sigma))
        names = [n for n in NAMES if len(sigmas) == 2 or n != "sigma_z"]
        if learn is None:
            learn = names[: len(sigmas)]
        learn = [learn] if isinstance(learn, str) else list(learn)
        self.learn = tuple(checks.choice(name, "learn", names) for name in learn)
        shift = checks.several(checks.real(), 3, 3)(tuple(shift), "shift")
        if len(sigmas) == 1 and shift[0]:
            raise InputError("shift", "0 along Z, which a 2-D PSF has not", f"{shift[0]:g}")
        ratio = checks.positive(anisotropy, "anisotropy")
        angle = checks.number(angle, "angle")
        depth = np.log(sigmas[0]) if len(sigmas) == 2 else -np.inf
        self.guess = np.array([depth, np.log(sigmas[-1]), np.log(ratio), angle, *shift])
        found = self.guess if parameters is None else np.asarray(parameters, np.float64)
        if found.shape != (NUMBER,) or np.isnan(found).any() or np.isposinf(found).any():
            raise InputError("parameters", f"{NUMBER} numbers", checks.told(parameters))
        self.parameters = found
        self.error = None if error is None else checks.number(error, "error", low=0)
        super().__init__(kernel_of(found, REACH if self.learn else 4.0), mode, "auto")

    @property
    def sigma(self) -> float:
        return float(np.exp(self.parameters[1]))

    @property
    def sigma_z(self) -> float:
        return float(np.exp(self.parameters[0]))

    @property
    def anisotropy(self) -> float:
        return float(np.exp(self.parameters[2]))

    @property
    def angle(self) -> float:
        return float(self.parameters[3])

    @property
    def told(self) -> bool | None:
        return None if self.error is None else self.error < KNOWN

    @property
    def guessed_psf(self) -> Array:
        """The kernel of the guess, which the network's inputs are filtered by."""
        return kernel_of(self.guess, 4.0)

    def guessing(self, guess: Array) -> LearnedPSF:
        """One that starts from other parameters."""
        depth, wide, ratio, angle, *shift = guess
        return LearnedPSF(
            np.exp([wide] if np.isneginf(depth) else [depth, wide]), anisotropy=np.exp(ratio),
            angle=angle, shift=shift, mode=self.mode, learn=self.learn,
        )  # fmt: skip

    def found(self, parameters: Array, error: float) -> LearnedPSF:
        """What a training has learned."""
        return LearnedPSF(**self.settings() | {"parameters": parameters, "error": error})

    def settings(self) -> dict[str, Any]:
        depth, wide, ratio, angle, *shift = self.guess
        flat = np.isneginf(depth)
        found = {
            "sigma": np.exp([wide] if flat else [depth, wide]), "anisotropy": float(np.exp(ratio)),
            "angle": float(angle), "shift": np.array(shift), "mode": self.mode,
            "learn": np.array(self.learn, dtype="U16"), "parameters": self.parameters,
        }  # fmt: skip
        return found | ({} if self.error is None else {"error": self.error})

    def __repr__(self) -> str:
        wide = f"{self.sigma:.3g}"
        if self.psf.shape[0] > 1:
            wide = f"({self.sigma_z:.3g}, {wide})"
        how = "" if self.error is None else f" ± {100 * self.error:.0f} %"
        return f"LearnedPSF({wide}{how}, mode={self.mode!r}, learn={self.learn})"


def kernel_of(parameters: Array, reach: float) -> Array:
    """A Gaussian at the centres of pixels, (Z, Y, X), to `reach` times its width; sum 1."""
    depth, wide, ratio, angle, *shift = parameters
    sigmas = np.exp([depth, wide, wide])
    size = [2 * int(np.ceil(reach * s)) + 1 for s in sigmas]
    if ratio == 0 and not any(shift):
        return sampled(sigmas, size)
    far = np.ceil(reach * sigmas * np.exp([0, abs(ratio), abs(ratio)]) + np.abs(shift))
    size = [2 * int(n) + 1 for n in far]
    z, y, x = np.meshgrid(*(np.arange(n) - n // 2 - t for n, t in zip(size, shift, strict=True)),
                          indexing="ij", sparse=True)  # fmt: skip
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    power = (u / np.exp(ratio)) ** 2 + (v * np.exp(ratio)) ** 2
    psf = np.exp(-power / (2 * sigmas[1] ** 2))
    psf = psf * np.exp(-((z / sigmas[0]) ** 2) / 2) if size[0] > 1 else psf
    return psf / psf.sum()


# ---- while it is learned ----------------------------------------------------------------------


class LivePSF(PSFConvolution):
    """A `LearnedPSF` in training: its parameters lie in memory, and their gradient beside them.

    Attributes
    ----------
    parameters, gradient : (7,) array of float32
        The gradient is added to by every `pull`; who uses it sets it to zero.
    unit : float
        What the values that it is given and gives are measured in, in those of the loss.
    """

    unit = 1.0

    def __init__(self, g: LearnedPSF, like: Array) -> None:
        self.psf, self.mode, self.method = g.psf, g.mode, "fft"
        self._plans: dict[Any, Any] = {}
        self.source = g
        self.parameters = backend.moved(g.parameters.astype(np.float32), like)
        self.gradient = backend.zeros(NUMBER, np.float32, like)

    def run(self, x: Array) -> tuple[Array, Any]:
        padding, grid, _, plans = self._plan(x)
        widths = [(before, after) for _, before, after, _, _ in padding]
        y, _ = pad.forward(x, widths=widths, mode=self.mode, shape=grid)
        centre = tuple(k // 2 for k in self.psf.shape)
        parameters = self.parameters.astype(x.dtype)
        y, saved = gaussian_convolution.forward(y, parameters, centre=centre, plans=plans)
        y = crop.forward(backend.contiguous(y), start=(0, 0, 0), shape=x.shape[2:])[0]
        return y, (padding, grid, saved)

    def pull(self, gy: Array, plan: Any) -> Array:
        padding, grid, saved = plan
        gy = crop.backward(gy, ((0, 0, 0), grid))
        gx, by_parameters = gaussian_convolution.backward(gy, saved)
        self.gradient += (by_parameters / self.unit).astype(np.float32)
        return pad.backward(backend.contiguous(gx), padding)

    def adjoint(self, y: Array) -> Array:
        kept = self.gradient.copy()
        found = self.pull(y, self.run(y)[1])
        self.gradient[...] = kept
        return found


def live(g: Any, like: Array) -> tuple[Any, LivePSF | None]:
    """A forward model with its `LearnedPSF`, if it has one that is to be learned, alive."""
    if isinstance(g, LearnedPSF) and g.learn:
        made = LivePSF(g, like)
        return made, made
    if isinstance(g, Composition):
        parts = [live(part, like) for part in g.models]
        found = [part for _, part in parts if part is not None]
        if len(found) > 1:
            raise InputError("physics", "one LearnedPSF at most", f"{len(found)}")
        return Composition(*(part for part, _ in parts)), found[0] if found else None
    return g, None


def to_learn(g: Any) -> LearnedPSF | None:
    """The `LearnedPSF` that a forward model has in it, if it is to be learned."""
    if isinstance(g, Composition):
        return next(filter(None, map(to_learn, g.models)), None)
    return g if isinstance(g, LearnedPSF) and g.learn else None


def living(g: Any) -> LivePSF | None:
    """The `LivePSF` that a forward model has in it."""
    if isinstance(g, Composition):
        return next(filter(None, map(living, g.models)), None)
    return g if isinstance(g, LivePSF) else None


def replaced(g: Any, old: LearnedPSF, new: LearnedPSF) -> Any:
    """A forward model with one of its parts exchanged."""
    if g is old:
        return new
    if isinstance(g, Composition):
        return Composition(*(replaced(part, old, new) for part in g.models))
    return g
