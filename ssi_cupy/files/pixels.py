"""What the numbers in a file mean, and what numbers are written.

Read are intensities: an index into a palette is the colour that it stands for, 0 is dark also where
the file has it white, and what makes a picture transparent (alpha) is no channel of it. ImageJ's
palettes and inverted scales are another matter: they say how to show an image, not what it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.backend import log
from ..engine.checks import InputError, choice
from ..engine.types import Array

MINISWHITE, RGB, PALETTE = 0, 2, 3  # TIFF 6.0, PhotometricInterpretation
ALPHA = (1, 2)  # of ExtraSamples: associated and unassociated
WRITTEN = ("float32", "float64", "float16", "uint8", "uint16", "uint32", "int16", "int32")


# ---- read -------------------------------------------------------------------------------------


def of_page(data: Array, axes: str, page: Any, shown_only: bool) -> tuple[Array, str]:
    """(intensities, their axes) of the pixels of a TIFF.

    Parameters
    ----------
    data : array
        As they are stored.
    axes : str
    page : tifffile.TiffPage
        The first one of the image.
    shown_only : bool
        Whether palettes and scales say nothing but how the image is shown, as in ImageJ's files.
    """
    if axes.startswith("S") and "C" not in axes:  # planes, whatever their tag says: a tifffile of
        axes = "Q" + axes[1:]  # three or four planes is tagged as colours by default
    elif axes.endswith("S") and data.shape[-1] == 4 and alpha(page):
        data, axes = without_alpha(data), axes
    if not shown_only and page.photometric == PALETTE and page.colormap is not None:
        return coloured(data, axes, page.colormap)
    if not shown_only and page.photometric == MINISWHITE and data.dtype.kind == "u":
        data = data.dtype.type(2 ** int(page.bitspersample) - 1) - data
    return data, axes


def alpha(page: Any) -> bool:
    """Whether the last of its four samples is how transparent a pixel is."""
    return page.photometric == RGB and tuple(map(int, page.extrasamples or ()))[-1:] in {
        (kind,) for kind in ALPHA
    }


def changes(page: Any, axes: str, shown_only: bool) -> bool:
    """Whether `of_page` returns others than are stored."""
    stored = page.photometric in (MINISWHITE, PALETTE) and not shown_only
    return stored or axes.startswith("S") or alpha(page)


def without_alpha(data: Array) -> Array:
    """(…, 3) of (…, 4) samples, (…, 1) of (…, 2); it is said where some are transparent."""
    if data[..., -1].min() != data[..., -1].max():
        log.warning("the last sample of each pixel, alpha, is left out: how transparent a "
                    "pixel is, is no light")  # fmt: skip
    return data[..., :-1]


def coloured(data: Array, axes: str, palette: Array) -> tuple[Array, str]:
    """What indices into a (3, n) palette stand for: grey values where it has no colours."""
    palette = np.asarray(palette)
    if (palette == palette[:1]).all():
        return palette[0][data], axes
    return np.moveaxis(palette[:, data], 0, -1), axes + "S"


# ---- written ----------------------------------------------------------------------------------


def as_dtype(data: Array, dtype: str, argument: str = "dtype") -> Array:
    """`data` as another dtype, on the same scale: rounded where that has whole numbers alone.

    What lies beyond the ends of the dtype gets their value, and it is said of how many pixels.

    Parameters
    ----------
    data : array of floating-point numbers
    dtype : one of `WRITTEN`
    argument : str
        What complaints call it.
    """
    kind = np.dtype(choice(dtype, argument, WRITTEN))
    if kind.kind == "f":
        return np.asarray(data).astype(kind)
    bad = int(np.isnan(data).sum())
    if bad:
        raise InputError(argument, "one of floating-point numbers, for an image with NaN",
                         f"{dtype}, for {bad} of {data.size} pixels")  # fmt: skip
    ends, rounded = np.iinfo(kind), np.rint(np.asarray(data, np.float64))
    below, above = int((rounded < ends.min).sum()), int((rounded > ends.max).sum())
    if below or above:
        log.warning("%s ends at %d and %d: %d pixels were below and %d above, of %d", dtype,
                    ends.min, ends.max, below, above, rounded.size)  # fmt: skip
    return np.clip(rounded, ends.min, ends.max).astype(kind)
