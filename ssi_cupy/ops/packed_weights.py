"""The weights of a convolution in the order in which its loops read and write them.

`conv.py` reads weights in blocks of OUTS output channels, [block][tap][output in block], where a
tap is one of inputs × kz × ky × kx; and its loops leave the gradient by the weights as partial
sums, [slice][block][triple of taps][output in block][tap in triple].
"""

from __future__ import annotations

import numpy as np

from ..engine.backend import contiguous, empty, kernel
from ..engine.cpu.register_tiles import OUTS, VECS
from ..engine.gpu.launch import threads_per_item
from ..engine.types import Array, Shape


def packed(w: Array, *, mirrored: bool = False) -> Array:
    """The weights (O, I, KZ, KY, KX) as the loops read them, zeros for outputs that there are not.

    With `mirrored` those of the convolution that carries gradients back to its input: mirrored in
    space, inputs and outputs exchanged.
    """
    outputs, inputs = w.shape[1::-1] if mirrored else w.shape[:2]
    filters = contiguous(w).reshape(*w.shape[:2], -1)
    blocks, taps = -(-outputs // OUTS), filters.shape[2]
    into = empty((blocks, inputs * taps, OUTS), w.dtype, like=w)
    pack_weights_kernel(blocks * inputs, filters, into, mirrored)
    return into


def _a_thread_each(n, args, threads):
    return threads_per_item(1)(args[1].size, args, threads)


@kernel(grain=32, launch=_a_thread_each)
def pack_weights_kernel(start, stop, w, into, mirrored):
    """An item is a block of outputs of one input, read as 8 lines at once, written as it lies."""
    taps, outputs = w.shape[2], w.shape[1] if mirrored else w.shape[0]
    inputs = into.shape[1] // taps
    source, target = w.ravel(), into.ravel()
    for item in range(start, stop):
        block, i = item // inputs, item % inputs
        there = min(OUTS, outputs - block * OUTS)
        if mirrored:  # from the last tap to the first
            first, apart = (i * outputs + block * OUTS + 1) * taps - 1, taps
        else:
            first, apart = (block * OUTS * inputs + i) * taps, inputs * taps
        at = item * taps * OUTS
        for tap in range(taps):
            here = first - tap if mirrored else first + tap
            if there == OUTS:
                for j in range(OUTS):
                    target[at + j] = source[here + j * apart]
            else:
                target[at : at + OUTS] = 0
                for j in range(there):
                    target[at + j] = source[here + j * apart]
            at += OUTS


def combined(
    partial: Array, bias: Array, shape: Shape, into: tuple[Array | None, Array | None]
) -> tuple[Array, Array]:
    """(gw, gb): the sums of the slices, added in their order, gw of `shape` (O, I, KZ, KY, KX).

    They are written to the two arrays `into`, where these are given.
    """
    gw, gb = into
    gw = empty(shape, partial.dtype, like=partial) if gw is None else gw
    gb = empty(shape[:1], partial.dtype, like=partial) if gb is None else gb
    items = partial.shape[1] * partial.shape[2]
    combine_weights_kernel(items, partial, bias, gw.reshape(shape[0], -1), gb)
    return gw, gb


SHARES = 8  # threads of a weight, as in packed_weights.cu


@kernel(grain=256, launch=threads_per_item(SHARES * OUTS * VECS))
def combine_weights_kernel(start, stop, partial, bias, gw, gb):
    """An item is what lies together: a triple of taps of a block of outputs."""
    triples, together = partial.shape[2], OUTS * VECS
    flat = partial.reshape(partial.shape[0], -1)
    sums = np.empty(together, partial.dtype)
    for item in range(start, stop):
        first = flat[0, item * together : (item + 1) * together]
        for k in range(together):
            sums[k] = first[k]
        for s in range(1, partial.shape[0]):
            more = flat[s, item * together : (item + 1) * together]
            for k in range(together):
                sums[k] += more[k]
        block, tap = item // triples * OUTS, item % triples * VECS
        for o in range(block, min(block + OUTS, gw.shape[0])):
            for k in range(min(VECS, gw.shape[1] - tap)):
                gw[o, tap + k] = sums[(o - block) * VECS + k]
            if tap == 0:
                gb[o] = bias[0, o]
                for s in range(1, bias.shape[0]):
                    gb[o] += bias[s, o]
