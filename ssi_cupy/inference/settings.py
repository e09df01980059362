"""The keywords of `deconvolve` and `denoise`, for type checkers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from ..engine.types import (
    Callback,
    Device,
    Mode,
    PathLike,
    PrecisionName,
    Rng,
    Sizes,
    Spacing,
)
from ..recipes import Recipe
from ..training.missing import Mask


class Settings(TypedDict, total=False):
    """What `deconvolve` and `denoise` take by keyword. For type checkers alone."""

    recipe: Recipe | str
    num_iter: int | None
    rng: Rng
    axes: str | None
    channel_axis: int | None
    share: str | None
    mask: Mask
    spacing: Spacing | None
    psf_spacing: Spacing | None
    mode: Mode
    tile_size: Sizes | None
    tile_overlap: Sizes | None
    device: Device
    precision: PrecisionName
    gain: float | None
    read_noise: float | None
    offset: float | None
    refine: bool | None
    callback: Callback | None
    progress: bool
    checkpoint: PathLike | None
    resume: PathLike | None
    time_limit: float | None


class Blind(Settings, total=False):
    optics: Mapping[str, float] | None
