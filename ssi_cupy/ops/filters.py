"""The weights of a convolution in the order in which its loops read and write them.

`conv.py` reads weights in blocks of OUTS output channels, [block][tap][output in block], where a
tap is one of inputs × kz × ky × kx; and its loops leave the gradient by the weights as partial
sums, [slice][block][triple of taps][output in block][tap in triple].
"""

from __future__ import annotations

from ..backend import contiguous, empty, kernel
from ..cuda import threads_per_item
from ..simd import OUTS


def packed(w, *, mirrored=False):
    """The weights (O, I, KZ, KY, KX) as the loops read them, zeros for outputs that there are not.

    With `mirrored` those of the convolution that carries gradients back to its input: mirrored in
    space, inputs and outputs exchanged.
    """
    outputs, inputs = w.shape[1::-1] if mirrored else w.shape[:2]
    filters = contiguous(w).reshape(*w.shape[:2], -1)
    blocks, taps = -(-outputs // OUTS), inputs * filters.shape[2]
    into = empty((blocks, taps, OUTS), w.dtype, like=w)
    pack_weights_kernel(blocks * taps, filters, into, mirrored)
    return into


@kernel(grain=512, launch=threads_per_item(OUTS))
def pack_weights_kernel(start, stop, w, into, mirrored):
    taps, outputs = w.shape[2], w.shape[1] if mirrored else w.shape[0]
    for item in range(start, stop):
        block, i, tap = item // into.shape[1], item % into.shape[1] // taps, item % taps
        for j in range(OUTS):
            o = block * OUTS + j
            value = w.dtype.type(0)
            if o < outputs:
                value = w[i, o, taps - 1 - tap] if mirrored else w[o, i, tap]
            into[block, item % into.shape[1], j] = value


def combined(partial, shape):
    """The gradient of `shape` (O, I, KZ, KY, KX): the slices' sums, added in their order."""
    gw = empty(shape, partial.dtype, like=partial)
    combine_weights_kernel(gw.size, partial, gw.reshape(shape[0], -1))
    return gw


@kernel(grain=4096)
def combine_weights_kernel(start, stop, partial, gw):
    triple = partial.shape[4]
    for item in range(start, stop):
        o, tap = item // gw.shape[1], item % gw.shape[1]
        total = partial[0, o // OUTS, tap // triple, o % OUTS, tap % triple]
        for s in range(1, partial.shape[0]):
            total += partial[s, o // OUTS, tap // triple, o % OUTS, tap % triple]
        gw[o, tap] = total
