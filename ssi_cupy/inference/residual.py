"""What a residual y − g(x) should be, noise and nothing else; and what its spectrum says it is.

White noise of variance σ² has the same power at all frequencies, exponentially distributed. What
the PSF does not pass holds no light, so that there the image itself is noise: if its power there
falls or rises with frequency, noise is correlated, or the PSF is wider than the one that the image
was taken with; if it is high along one axis of the frequency plane, rows or columns have an offset
of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..engine.types import Array, Float64Array

BLOCKED = 0.01  # |H| below which no light is passed,
DIM = 0.1  # the same, where light is too little to be taken for rows or columns,
FEWEST = 150  # frequencies of that kind, without which nothing is said of them
BANDS = (0.5, 0.1, BLOCKED)  # lower ends of |H|, for the residual's power
LOWEST = 100
RING = 0.02  # cycles per pixel, that frequencies as far out are apart at most
TILE = 16  # pixels, at least, of a side of the parts that are compared


@dataclass(frozen=True)
class Spectrum:
    """The power of an image at the frequencies that a PSF does not pass, over that of white noise.

    Attributes
    ----------
    levels : three of float
        Power in the lowest, the middle and the highest third of those frequencies, over the
        median of all; 1 each for white noise. NaN where there are too few of them.
    error : float
        Standard error of a level.
    rows, columns : float
        Power of what is constant along a row (a column) and changes from row to row, likewise.
    tails : float
        Kurtosis of the image in the lowest third: 3 for noise; structure has heavier tails.
    """

    levels: tuple[float, float, float]
    error: float
    rows: float
    columns: float
    tails: float


def hann(shape: tuple[int, ...]) -> Float64Array:
    """A window that fades to 0 at the border; 1 along axes of one pixel."""
    window = np.ones(shape)
    for axis, n in enumerate(shape):
        profile = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
        window *= np.expand_dims(profile, [a for a in range(len(shape)) if a != axis])
    return window


def transfer(psf: Array, shape: tuple[int, ...]) -> Float64Array:
    """|H| of a PSF at the frequencies of an `rfftn` of `shape`; one wider than that is wound up."""
    from scipy import fft

    grid = np.zeros(shape)
    folded = (np.arange(k) % n for k, n in zip(psf.shape, shape, strict=True))
    np.add.at(grid, np.ix_(*folded), psf / psf.sum())
    return np.abs(fft.rfftn(grid))


def power(image: Array) -> Float64Array:
    """|F|² under a Hann window: of white noise of variance σ², σ² on average."""
    from scipy import fft

    window = hann(image.shape)
    return np.abs(fft.rfftn((image - image.mean()) * window)) ** 2 / np.sum(window**2)


def frequencies(shape: tuple[int, ...]) -> Float64Array:
    """Distance from frequency 0 in an `rfftn`, cycles per pixel."""
    lines = [np.fft.fftfreq(n) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1])]
    return np.sqrt(sum(a**2 for a in np.meshgrid(*lines, indexing="ij", sparse=True)))


def blocked_spectrum(y: Array, psf: Array) -> Spectrum:
    """The `Spectrum` of an image (Y, X) or (Z, Y, X) and a PSF of the same rank."""
    from scipy import fft

    passed, radius = transfer(psf, y.shape), frequencies(y.shape)
    places = np.flatnonzero(passed < BLOCKED)
    nothing = Spectrum((np.nan,) * 3, np.nan, np.nan, np.nan, np.nan)
    if len(places) < FEWEST:
        return nothing
    found = power(y)
    flat = found.reshape(-1)
    middle = np.median(flat[places]) / np.log(2)
    if not middle > 0:
        return nothing
    thirds = np.array_split(places[np.argsort(radius.reshape(-1)[places], kind="stable")], 3)
    levels = tuple(float(np.median(flat[third]) / np.log(2) / middle) for third in thirds)
    error = 1.44 / np.sqrt(len(thirds[0]))  # of the median of an exponential distribution

    window = hann(y.shape)
    kept = np.zeros(passed.size, bool)
    kept[thirds[0]] = True
    band = fft.rfftn((y - y.mean()) * window) * kept.reshape(passed.shape)
    band = fft.irfftn(band, y.shape)
    inner = window > 0.5
    band = band[inner] / window[inner]
    tails = float((band**4).mean() / (band**2).mean() ** 2)

    # the distance from an axis, in steps of the discrete frequencies
    index = np.indices(found.shape, sparse=True)
    steps = [np.minimum(i, n - i) for i, n in zip(index, y.shape, strict=True)]
    dim, off = passed < DIM, (steps[-1] > 2) & (steps[-2] > 2)
    ring = (radius / RING).astype(int)

    def along(axis):
        """Power of what changes along `axis` only, over that of other directions as far out."""
        others = [step < 1 for a, step in enumerate(steps) if a != axis]
        line = np.logical_and.reduce(np.broadcast_arrays(dim, steps[axis] > 2, *others))
        over = []
        for one in np.unique(ring[line]):
            usual = found[dim & off & (ring == one)]
            if usual.size >= 8:
                over += (found[line & (ring == one)] / max(np.median(usual), 1e-300)).tolist()
        return float(np.median(over)) if len(over) >= 12 else np.nan

    return Spectrum(levels, float(error), along(y.ndim - 2), along(y.ndim - 1), tails)


@dataclass(frozen=True)
class Residual:
    """What is left of an image.

    Attributes
    ----------
    mean : float
        Over the noise.
    bands : three of float
        Power over the noise's, where the PSF passes at least a half, a tenth, a hundredth.
    beyond : float
        The same at the `LOWEST` lowest frequencies of which the PSF passes less than a tenth.
    correlation : float
        Of neighbouring pixels, the mean of all axes.
    worst : float
        Mean square in the part where it is largest, over the noise's,
    where : tuple of int
        and the first pixel of that part.
    """

    mean: float
    bands: tuple[float, ...]
    beyond: float
    correlation: float
    worst: float
    where: tuple[int, ...]


def describe_residual(residual: Array, psf: Array | None, noise: float) -> Residual:
    """The `Residual` of y − g(x), (Y, X) or (Z, Y, X), for noise of that standard deviation."""
    scaled = residual / noise
    centred = scaled - scaled.mean()
    both = [
        (centred.take(range(1, n), axis) * centred.take(range(n - 1), axis)).mean()
        for axis, n in enumerate(residual.shape)
        if n > 1
    ]
    spread = float((centred**2).mean())
    bands, beyond = [], np.nan
    if psf is not None:
        passed, found = transfer(psf, residual.shape), power(scaled)
        ends = (np.inf, *BANDS)
        for high, low in zip(ends, BANDS, strict=False):
            inside = (passed < high) & (passed >= low)
            bands.append(float(found[inside].mean()) if inside.sum() >= 16 else np.nan)
        dim = np.flatnonzero(passed < DIM)
        if len(dim) >= LOWEST:
            radius = frequencies(residual.shape).reshape(-1)[dim]
            dim = dim[np.argsort(radius, kind="stable")[:LOWEST]]
            beyond = float(found.reshape(-1)[dim].mean())
    parts = [max(n // TILE, 1) if n > 1 else 1 for n in residual.shape]
    parts = [min(p, 6) for p in parts]
    worst, where = -np.inf, (0,) * residual.ndim
    for at in np.ndindex(*parts):
        starts = [i * n // p for i, n, p in zip(at, residual.shape, parts, strict=True)]
        ends = [(i + 1) * n // p for i, n, p in zip(at, residual.shape, parts, strict=True)]
        part = scaled[tuple(map(slice, starts, ends))]
        square = float(np.minimum(part**2, 25).mean())
        if square > worst:
            worst, where = square, tuple(starts)
    return Residual(float(scaled.mean()), tuple(bands), beyond,
                    float(np.mean(both)) / max(spread, 1e-12), worst, where)  # fmt: skip
