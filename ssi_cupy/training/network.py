"""The network that fits an image: how deep it may pool along each axis."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..engine.checks import InputError
from ..engine.types import Array
from ..unet import Network, UNet
from .units import relative

LEAST_SIDE = 16  # pixels along Y and X
NEAR = 2**0.5  # how far from a cube a voxel may be that is treated as one


def network_for(
    y: Array,
    template: Network | None = None,
    spacing: tuple[float, float, float] | None = None,
    inputs: int | None = None,
) -> Any:
    """A network for images of y's shape: pooled along each axis as often as its size allows.

    The lowest level keeps 4 pixels along Y and X, and 2 along Z: statistics of fewer values say
    nothing about another image, or about a rotated one. Where the voxels are no cubes, only their
    shorter sides are pooled until they nearly are, to within √2, and kernels have the fewer taps
    along Z the higher the voxels of a level are.

    Parameters
    ----------
    y : (N, C, Z, Y, X) array
    template : Network, optional
        Of the same kind, as deep and as wide; a `UNet` by default.
    spacing : (float, float, float), optional
        Distances of pixels along Z, Y and X, in any unit.
    inputs : int, optional
        Channels that it is shown, if they are more than y's.
    """
    channels, (depth, height, width) = y.shape[1], y.shape[2:]
    if min(height, width) < LEAST_SIDE:
        expected = f"at least {LEAST_SIDE} pixels along Y and X, of a patch with its halo too"
        raise InputError("image", expected, f"shape {y.shape[2:]}")
    template = template or UNet()
    aspect = relative(spacing)[0] if spacing and depth > 1 else 1.0
    windows, z, across = [], 1, 1  # and how many pixels of the image one of the level is
    for _ in template.pooling:
        deep, wide = depth >= 4 * z, min(height, width) >= 8 * across
        high = aspect * min(1, z / across) > NEAR
        flat = aspect * max(1, z / across) < 1 / NEAR
        window = (2 if deep and not high else 1, *2 * [2 if wide and not (deep and flat) else 1])
        windows.append(window)
        z, across = z * window[0], across * window[1]
    return dataclasses.replace(
        template, ndim=2 if depth == 1 else 3, inputs=inputs or channels, outputs=channels,
        windows=tuple(windows), aspect=aspect,
    )  # fmt: skip
