"""The models that have no parameters to learn, and what puts any model on the tape."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ..engine import backend, checks, fourier
from ..engine.arrays import as_array
from ..engine.checks import InputError
from ..engine.devices import called
from ..engine.types import Array, ArrayLike, ForwardModel, Method, Mode, T
from ..ops.direct_convolution import direct_convolution
from ..ops.fft_convolution import direct_is_faster, fast_shape, fft_convolution, transfer_function
from ..ops.pad import MODES, axis_maps, crop, pad
from ..ops.pointwise import clamp, sensor_response
from ..tape import op

PLANS = 4  # transfer functions that a PSFConvolution keeps, one per image shape and dtype


# ---- on the tape ------------------------------------------------------------------------------


def apply_forward(model: ForwardModel, x: Array) -> tuple[Array, Any]:
    """g(x) for any model.

    Parameters
    ----------
    model : object
        With ``forward`` and ``adjoint``, or ``forward`` and ``backward``.
    x : (N, C, Z, Y, X) array

    Returns
    -------
    y : (N, C, Z', Y', X') array of the dtype of `x`
    saved : what the backward needs

    Raises
    ------
    InputError
        If the model lacks a method, or what it returns is no real 5-D array; names `physics`.
    """
    check(model)
    if isinstance(model, Composition):
        y, steps = x, []
        for part in model.models:
            y, saved = apply_forward(part, y)
            steps.append(saved)
        return y, (model, x.shape, steps)
    if isinstance(model, _Own):
        y, saved = model.run(x)
        return y, (model, x.shape, saved)
    y = _usable(called(model, "forward", x), f"{_name(model)}.forward", x.dtype)
    return y, (model, x.shape, None if is_linear(model) else x)


def apply_backward(gy: Array, saved: Any) -> tuple[None, Array]:
    model, shape, saved = saved
    if isinstance(model, Composition):
        for step in reversed(saved):
            _, gy = apply_backward(gy, step)
        return None, gy
    if isinstance(model, _Own):
        return None, model.pull(gy, saved)
    how = "adjoint" if saved is None else "backward"
    gx = called(model, how, gy) if saved is None else called(model, how, gy, saved)
    return None, _usable(gx, f"{_name(model)}.{how}", gy.dtype, shape)


apply = op(apply_forward, apply_backward)


def check(model: T, argument: str = "physics") -> T:
    """`model` if it has the methods of a forward model, else an `InputError`."""
    names = ("forward", "adjoint", "backward")
    has = [name for name in names if callable(getattr(model, name, None))]
    if isinstance(model, type) or "forward" not in has or len(has) < 2:
        expected = "an object with the methods forward and adjoint, or forward and backward"
        got = f"the class {_name(model)} itself" if isinstance(model, type) else _name(model)
        raise InputError(argument, expected, f"{got} with {', '.join(has) or 'none of them'}")
    return model


def is_linear(model: object) -> bool:
    """Whether a model has an adjoint."""
    return callable(getattr(model, "adjoint", None)) and getattr(model, "linear", True)


def _name(model):
    return model.__name__ if isinstance(model, type) else type(model).__name__


def _usable(y, who, dtype, shape=None):
    """What a model returned, contiguous and in the dtype of what it was given."""
    expected = f"a real 5-D array from {who}" if shape is None else f"shape {shape} from {who}"
    if not hasattr(y, "dtype") or not hasattr(y, "shape"):
        raise InputError("physics", expected, type(y).__name__)
    if y.dtype.kind not in "fiu" or y.ndim != 5 or y.size == 0 or shape not in (None, y.shape):
        raise InputError("physics", expected, f"{y.dtype} of shape {y.shape}")
    return backend.contiguous(y, dtype)


# ---- models -----------------------------------------------------------------------------------


class _Own:
    """A model made of ops: ``run(x) -> (y, saved)`` and ``pull(gy, saved) -> gx``."""

    linear = False

    def forward(self, x: Array) -> Array:
        """g(x) for a (N, C, Z, Y, X) array."""
        return self.run(x)[0]

    def backward(self, gy: Array, x: Array) -> Array:
        """The gradient by `x` of <gy, g(x)>."""
        return self.pull(gy, self.run(x)[1])

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"{type(self).__name__}({settings})"


class Identity(_Own):
    """The instrument that changes nothing: g(x) = x. What is restored is then only denoised."""

    linear = True

    def run(self, x: Array) -> tuple[Array, Any]:
        return x, None

    def pull(self, gy: Array, saved: Any) -> Array:
        return gy

    def adjoint(self, y: Array) -> Array:
        return y

    def settings(self) -> dict[str, Any]:
        return {}


class PSFConvolution(_Own):
    """True convolution with a point-spread function: y[i] = Σ_m psf[m] x[i + centre - m].

    The centre is the pixel ``size // 2``, in odd and in even sizes, as in
    `scipy.ndimage.convolve`, which this equals in every mode. (`scipy.signal.convolve` with
    ``mode="same"`` takes ``(size - 1) // 2``: for even sizes its result lies one pixel further
    on. The ``"full"`` one, cut at ``size // 2``, is this one with ``mode="constant"``.)

    Computed as pad → convolve → crop; the adjoint is the same backwards, each step transposed.

    Parameters
    ----------
    psf : (Y, X) or (Z, Y, X) array
        A 2-D one blurs each plane of a stack by itself.
    mode : {"mirror", "nearest", "wrap", "constant"}
        What lies outside the image, in `scipy.ndimage`'s names.
    method : {"auto", "fft", "direct"}
        "auto" takes the one that is faster for the sizes at hand.
    normalise : bool
        Divide the PSF by its sum, so that flux is kept.

    Raises
    ------
    InputError
        If the PSF is not usable: NaN, negative, all zero, neither 2-D nor 3-D, or, when an image
        comes, more than twice as large as that along an axis.
    """

    linear = True

    def __init__(
        self, psf: ArrayLike, mode: Mode = "mirror", method: Method = "auto", normalise: bool = True
    ) -> None:
        psf = checks.point_spread_function(backend.host(as_array(psf, "psf")), ndim=(2, 3))
        psf = psf.astype(np.float64)
        self.mode = checks.choice(mode, "mode", MODES)
        self.method = checks.choice(method, "method", ("auto", "fft", "direct"))
        psf = psf / psf.sum() if checks.flag(normalise, "normalise") else psf
        self.psf = np.ascontiguousarray(psf if psf.ndim == 3 else psf[None])
        self._plans = {}

    def run(self, x: Array) -> tuple[Array, Any]:
        plan = padding, grid, transfer, plans = self._plan(x)
        widths = [(before, after) for _, before, after, _, _ in padding]
        y, _ = pad.forward(x, widths=widths, mode=self.mode, shape=grid)
        if transfer is None:
            return direct_convolution.forward(y, self.psf)[0], plan
        y, _ = fft_convolution.forward(y, transfer, plans=plans)
        return crop.forward(y, start=(0, 0, 0), shape=x.shape[2:])[0], plan

    def pull(self, gy: Array, plan: Any) -> Array:
        padding, grid, transfer, plans = plan
        if transfer is None:
            gy, _ = direct_convolution.backward(gy, self.psf)
        else:
            gy = crop.backward(gy, ((0, 0, 0), grid))
            gy, _ = fft_convolution.backward(gy, (transfer, plans))
        return pad.backward(gy, padding)

    def adjoint(self, y: Array) -> Array:
        """Aᵀy: every pixel of y is given back to where its light came from."""
        return self.pull(y, self._plan(y))

    def _plan(self, x):
        """Border, grid, and if by FFT the transfer function and (for one batch size) FFT plans."""
        key = x.shape[2:], x.dtype.char
        if backend.is_cupy(x):
            key += x.device.id, x.shape[:2], threading.get_ident()
        plan = self._plans.get(key)
        if plan is None:
            padding, grid, transfer = self._make_plan(*key[:2], on_gpu=backend.is_cupy(x))
            plans = None
            if transfer is not None:
                transfer = backend.moved(transfer, x)
                plans = fourier.plans_for(backend.empty((*x.shape[:2], *grid), x.dtype, x))
            plan = padding, grid, transfer, plans
            kept = list(self._plans.items())[1 - PLANS :]
            self._plans = dict(kept + [(key, plan)])  # replaced whole: other threads may be reading
        return backend.kept(plan)

    def _make_plan(self, shape, dtype, on_gpu=False):
        self._check_size(shape)
        psf, method = self.psf, self.method
        padded = tuple(n + k - 1 for n, k in zip(shape, psf.shape, strict=True))
        grid = fast_shape(padded)
        if method == "auto":
            method = "direct" if direct_is_faster(shape, psf.shape, grid, on_gpu) else "fft"
        grid = padded if method == "direct" else grid
        borders = [(k - 1 - k // 2, k // 2) for k in psf.shape]
        padding = axis_maps(shape, borders, self.mode, grid)
        transfer = None if method == "direct" else transfer_function(psf, grid, np.dtype(dtype))
        return padding, grid, transfer

    def _check_size(self, shape):
        if any(k > 2 * n for k, n in zip(self.psf.shape, shape, strict=True)):
            most = f"at most twice the image's {_sizes(shape)} (Z, Y, X) pixels along each axis"
            raise InputError("psf", most, _sizes(self.psf.shape))

    def settings(self) -> dict[str, Any]:
        # `psf` is normalised already; once more would change its last bits.
        return {"psf": self.psf, "mode": self.mode, "method": self.method, "normalise": False}

    def __repr__(self) -> str:
        size, (mode, method) = _sizes(self.psf.shape), (self.mode, self.method)
        return f"PSFConvolution(<{size}>, {mode=}, {method=})"


class Clamp(_Own):
    """What lies outside [low, high] is moved to its edge, and has no gradient."""

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        self.low, self.high = checks.bounds(low, high)

    def run(self, x: Array) -> tuple[Array, Any]:
        return clamp.forward(x, low=self.low, high=self.high)

    def pull(self, gy: Array, saved: Any) -> Array:
        return clamp.backward(gy, saved)

    def settings(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}


class SensorResponse(_Own):
    """What a clipping sensor reads on average: E[clip(gain x + offset + noise N(0, 1), low, high)].

    Where the data was clipped at black, its mean is above the light's. A model that does not know
    returns images that are too bright there; this one does (see `ops.pointwise`). Noise-free
    light far outside [low, high] leaves no trace in the reading, so it gets no gradient either.

    Parameters
    ----------
    noise : float
        Standard deviation of the noise, in units of the reading; `noise.estimate_noise` reads it
        off an image.
    gain, offset : float
        The reading of light x is ``gain * x + offset``.
    low, high : float
        What the sensor clips at; may be infinite.
    """

    def __init__(self, noise: float, gain: float = 1.0, offset: float = 0.0, low: float = 0.0,
                 high: float = 1.0) -> None:  # fmt: skip
        self.noise = checks.number(noise, "noise", low=0)
        self.gain, self.offset = checks.number(gain, "gain"), checks.number(offset, "offset")
        self.low, self.high = checks.bounds(low, high)

    def run(self, x: Array) -> tuple[Array, Any]:
        return sensor_response.forward(x, **self.settings())

    def pull(self, gy: Array, saved: Any) -> Array:
        return sensor_response.backward(gy, saved)

    def settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("noise", "gain", "offset", "low", "high")}


class Composition:
    """One model after another: ``Composition(a, b)`` is x ↦ b(a(x)).

    It has an adjoint if all of them have one.
    """

    def __init__(self, *models: ForwardModel) -> None:
        if not models:
            raise InputError("models", "at least one forward model", "none")
        self.models = tuple(check(model, "models") for model in models)

    @property
    def linear(self) -> bool:
        return all(map(is_linear, self.models))

    def forward(self, x: Array) -> Array:
        return apply_forward(self, x)[0]

    def backward(self, gy: Array, x: Array) -> Array:
        return apply_backward(gy, apply_forward(self, x)[1])[1]

    def adjoint(self, y: Array) -> Array:
        for model in reversed(self.models):
            if not is_linear(model):
                raise InputError("physics", "linear models only, for an adjoint", _name(model))
            ours = isinstance(model, (_Own, Composition))
            y = model.adjoint(y) if ours else called(model, "adjoint", y)
        return y

    def __repr__(self) -> str:
        return f"Composition({', '.join(map(repr, self.models))})"


def _sizes(shape):
    return "×".join(map(str, shape))
