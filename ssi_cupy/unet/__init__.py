"""The networks: parameters, wiring, and the two passes of each by hand.

`UNet` is that of Kobayashi et al. (`kobayashi.py`), `ResidualUNet` that of Papkov et al.
(`residual.py`), `PlainUNet` that of Goncharova et al. (`plain.py`).

All parameters of a network are one flat vector, and so is their gradient; `views` gives the pieces
by name (`layout.py`). A network is one operation on the tape, whichever it is:
``unet(x, parameters, net=net)``.
"""

from __future__ import annotations

from typing import Any

from ..engine.backend import zeros
from ..engine.checks import InputError, positive_int
from ..engine.types import Array
from ..tape import op
from .kobayashi import UNet
from .layout import Network
from .plain import PlainUNet
from .residual import ResidualUNet

NETWORKS = {network.__name__: network for network in (UNet, ResidualUNet, PlainUNet)}

__all__ = ["NETWORKS", "Network", "PlainUNet", "ResidualUNet", "UNet", "parameter", "unet"]


def unet_forward(
    x: Array,
    parameters: Array,
    *,
    net: Network,
    statistics: Array | None = None,
    batch_statistics: Array | None = None,
    branches: int = 1,
    input_gradient: bool = True,
    keep: bool = True,
) -> tuple[Array, Any]:
    """f(x).

    Parameters
    ----------
    x : (N, net.inputs, Z, Y, X) array
    parameters : (net.size,) array
    net : Network
    statistics : (net.statistics_size,) array, optional
        Inference mode: the running means and variances, laid out by `net.statistics_layout`.
    batch_statistics : (branches, net.statistics_size) array, optional
        Training mode: where to write the batch's means and (unbiased) variances, contiguous and of
        x's dtype. With one branch it may have one axis only. With `statistics` as well, a `UNet`
        is renormalised by these (see `ops/norm.py`).
    branches : int
        `x` holds that many groups of equal size along N, say images with hidden pixels and
        without, each of which is normalised by its own statistics.
    input_gradient : bool
        Whether the backward is to compute the gradient by x, which a training does not need.
    keep : bool
        Whether there will be a backward. Without, feature maps are freed as soon as they are read.

    Returns
    -------
    y : (N, net.outputs, Z, Y, X) array
    """
    if x.ndim != 5 or x.shape[1] != net.inputs:
        raise InputError("x", f"an (N, {net.inputs}, Z, Y, X) array", f"shape {x.shape}")
    if any(size < least for size, least in zip(x.shape[2:], net.smallest, strict=True)):
        raise InputError("x", f"at least (Z, Y, X) = {net.smallest} pixels", f"{x.shape[2:]}")
    if len(x) % positive_int(branches, "branches"):
        raise InputError("branches", f"a divisor of N = {len(x)}", branches)
    if parameters.shape != (net.size,):
        raise InputError("parameters", f"shape ({net.size},)", f"{parameters.shape}")
    if statistics is not None and statistics.shape != (net.statistics_size,):
        raise InputError("statistics", f"shape ({net.statistics_size},)", f"{statistics.shape}")
    if batch_statistics is not None:
        shape = (branches, net.statistics_size)
        if batch_statistics.shape not in (shape, shape[1:] if branches == 1 else shape):
            raise InputError("batch_statistics", f"shape {shape}", f"{batch_statistics.shape}")
        if batch_statistics.dtype != x.dtype or not batch_statistics.flags.c_contiguous:
            raise InputError("batch_statistics", f"contiguous {x.dtype}", batch_statistics.dtype)
        batch_statistics = batch_statistics.reshape(shape)
    settings = statistics, batch_statistics, branches, input_gradient, keep
    y, saved = net.forward(x, parameters, *settings)
    return y, (net, saved)


def unet_backward(gy: Array, saved: Any) -> tuple[Array | None, Array]:
    """(gx, gradient by the parameters); gx is None without `input_gradient`.

    It frees what the forward saved as it goes, so there is one for each forward.
    """
    net, saved = saved
    return net.backward(gy, saved)


unet = op(unet_forward, unet_backward)


def parameter_forward(parameters: Array, *, net: Network, name: str) -> tuple[Array, Any]:
    """One parameter out of the flat vector, in its shape: `net.views(parameters)[name]`."""
    place, shape = net.layout[name]
    return parameters[place].reshape(shape), (parameters, place)


def parameter_backward(gw: Array, saved: Any) -> Array:
    """The flat gradient: gw at its place, 0 elsewhere."""
    parameters, place = saved
    gradient = zeros(parameters.shape, parameters.dtype, like=parameters)
    gradient[place] = gw.ravel()
    return gradient


parameter = op(parameter_forward, parameter_backward)
