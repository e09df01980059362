"""Products of a Winograd convolution: what `winograd_transforms.py` has made of image and weights.

Vector code, for the reason that `register_tiles.py` gives. The plain loops that say the same are in
the docstrings, and in `ops/winograd.py`; tests hold them against each other.
"""

from __future__ import annotations

from .llvm import VectorCode
from .register_tiles import OUTS, VECS, sums_over_pixels, weighted_sums


def _matrix_tile(code, lines, w, w0, x, x0, pitch, count, y, y0, stride):
    """A matrix product, OUTS × lines of it::

    for o in range(OUTS):
        for i in range(lines * lanes):
            y[y0 + o * stride + i] = sum(
                w[w0 + k * OUTS + o] * x[x0 + k * pitch + i] for k in range(count))
    """

    def pixels(k):
        return code.at(x, x0, (k, pitch))

    weighted_sums(code, lines, pixels, count, w, w0, y, y0, stride)


@VectorCode
def matrix_tile_1(code, w, w0, x, x0, pitch, count, y, y0, stride):
    """A matrix product, one line of pixels wide."""
    _matrix_tile(code, 1, w, w0, x, x0, pitch, count, y, y0, stride)


@VectorCode
def matrix_tile_2(code, w, w0, x, x0, pitch, count, y, y0, stride):
    """Two lines wide."""
    _matrix_tile(code, 2, w, w0, x, x0, pitch, count, y, y0, stride)


@VectorCode
def matrix_tile_3(code, w, w0, x, x0, pitch, count, y, y0, stride):
    """Three lines wide, as wide as registers allow."""
    _matrix_tile(code, VECS, w, w0, x, x0, pitch, count, y, y0, stride)


@VectorCode
def contract_tile(code, g, g0, stride, x, x0, x1, x2, n, y, y0):
    """Sums over n lines of pixels::

        for v, xv in enumerate((x0, x1, x2)):
            for o in range(OUTS):
                y[y0 + v * OUTS + o] += sum(
                    g[g0 + o * stride + i] * x[xv + i] for i in range(n * lanes))

    As `product_tile`, with outputs next to each other: the lanes of some sums are added up
    together, by halves, into one vector or several.
    """
    sources = [code.at(x, start) for start in (x0, x1, x2)]
    count = code.index((n, code.vectors))
    with sums_over_pixels(code, g, g0, stride, sources, count) as (first, sums):
        for v in range(VECS):
            for i, found in enumerate(code.totals([row[v] for row in sums])):
                code.add_to(code.at(y, y0, v * OUTS, first, i * found.type.count), found)
