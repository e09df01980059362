"""Register tiles: the two inner loops of every convolution, spelt out for the vector unit.

A convolution is bound by arithmetic only if its sums stay in registers while it runs over the
taps. No compiler finds that blocking by itself, so it is written here as LLVM code. A tile has
OUTS × VECS lines of sums; how many of them are in registers at once, `llvm.py` decides. Where all
are, as with AVX-512, that is 24 multiply-adds for 11 loads.

Images are "flat": rows laid end to end in one line, each with its padding, so that the
neighbour at (dy, dx) is the one at a fixed distance ``dy * pitch + dx``, and rows end where
nothing has to stop. What is computed in the padding is thrown away.

The plain loops that say the same are in the docstrings; tests hold them against each other.
"""

from __future__ import annotations

import contextlib

from .llvm import VectorCode

OUTS = 8  # output channels of a tile
VECS = 3  # lines of pixels of a tile, of `llvm.LINE` bytes each


@VectorCode
def correlate_tile(code, x, x0, taps, count, w, w0, y, y0, stride):
    """One tile of a correlation::

    for o in range(OUTS):
        for i in range(VECS * lanes):
            y[y0 + o * stride + i] = sum(
                w[w0 + t * OUTS + o] * x[x0 + taps[t] + i] for t in range(count))
    """

    def pixels(t):
        return code.at(x, x0, code.builder.load(code.at(taps, t)))

    weighted_sums(code, VECS, pixels, count, w, w0, y, y0, stride)


def weighted_sums(code, lines, pixels, count, w, w0, y, y0, stride):
    """Sums of lines, each times a weight, for OUTS outputs::

    for o in range(OUTS):
        for i in range(lines * lanes):
            y[y0 + o * stride + i] = sum(
                w[w0 + k * OUTS + o] * pixels(k)[i] for k in range(count))
    """
    vectors = lines * code.vectors
    outs, vecs = code.registers.tile(OUTS, vectors)
    with code.loop(OUTS // outs) as one, code.loop(vectors // vecs) as two:
        first = code.index((two, vecs * code.lanes))
        w = code.at(w, w0, (one, outs))
        y = code.at(y, y0, first, (code.index((one, outs)), stride))
        sums = code.zeros(outs, vecs)
        with code.loop(count) as k:
            here = code.at(pixels(k), first)
            lines_of_x = [code.load(here, v) for v in range(vecs)]
            weights = code.at(w, (k, OUTS))
            for o in range(outs):
                weight = code.splat(code.builder.load(code.at(weights, o)))
                for v in range(vecs):
                    code.add_product(sums[o][v], weight, lines_of_x[v])
        for o in range(outs):
            for v in range(vecs):
                code.store(code.builder.load(sums[o][v]), code.at(y, (stride, o)), v)


@VectorCode
def product_tile(code, g, g0, stride, x, x0, taps, t0, n, out, out0):
    """Sums over pixels::

        for o in range(OUTS):
            for v in range(VECS):
                out[out0 + o * VECS + v] += sum(
                    g[g0 + o * stride + i] * x[x0 + taps[t0 + v] + i] for i in range(n))

    `n` must be a multiple of the lanes. The sum runs lane by lane, then over the lanes.
    """
    builder = code.builder
    shifts = [builder.load(code.at(taps, t0, v)) for v in range(VECS)]
    sources = [code.at(x, x0, shift) for shift in shifts]
    count = builder.udiv(n, code.integer(code.lanes))
    with sums_over_pixels(code, g, g0, stride, sources, count) as (first, sums):
        for o, row in enumerate(sums):
            for v, vector in enumerate(row):
                place = code.at(out, out0, (first, VECS), o * VECS + v)
                builder.store(builder.fadd(builder.load(place), code.total(vector)), place)


@contextlib.contextmanager
def sums_over_pixels(code, g, g0, stride, sources, count):
    """What follows, for all OUTS outputs, some at a time: the first of these, and for each of
    them a vector of sums for each of the addresses `sources`, over `count` vectors of pixels::

    sums[o][v] = sum(g[g0 + (first + o) * stride + i] * sources[v][i] for i in …)
    """
    outs, _ = code.registers.tile(OUTS, len(sources))
    with code.loop(OUTS // outs) as part:
        first = code.index((part, outs))
        rows = [code.at(g, g0, (code.index(first, o), stride)) for o in range(outs)]
        sums = code.zeros(outs, len(sources))
        with code.loop(count) as i:
            at = code.index((i, code.lanes))
            pixels = [code.load(code.at(source, at)) for source in sources]
            for row, of_row in zip(rows, sums, strict=True):
                gradient = code.load(code.at(row, at))
                for variable, vector in zip(of_row, pixels, strict=True):
                    code.add_product(variable, gradient, vector)
        yield first, [[code.builder.load(variable) for variable in row] for row in sums]
