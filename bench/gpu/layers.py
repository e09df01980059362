"""The wide convolutions of the papers' networks on a GPU, one by one; see `parts.py`.

Ours in each precision, PyTorch's (cuDNN) with TF32 off and on, and a third way: a matrix product
for each tap, of the weights and the image shifted by it, by cuBLAS, which PyTorch calls for us. For
that the image is laid into one with a margin, which is counted; what it computes in the margin is
not taken out again, which would cost more.
"""

import numpy as np

from ssi_cupy.engine.backend import host, on_device
from ssi_cupy.engine.precision import PRODUCTS, Precision
from ssi_cupy.ops.conv import conv_backward_input, conv_backward_weights, conv_forward

from .. import timing
from .parity import off
from .speed import waiting

ROUNDS = 15
DEVICE = "cuda"  # as PyTorch calls it
LAYERS = {  # x, outputs, width of the kernel: at the size of the papers' batches
    "2-D, 96 to 96": ((32, 96, 1, 128, 128), 96, 3),
    "2-D, 192 to 192": ((32, 192, 1, 64, 64), 192, 3),
    "2-D, 384 to 384": ((32, 384, 1, 32, 32), 384, 3),
    "2-D, 192 to 96, 1×1": ((32, 192, 1, 128, 128), 96, 1),
    "3-D, 48 to 48": ((8, 48, 64, 64, 64), 48, 3),
    "3-D, 96 to 96": ((8, 96, 32, 32, 32), 96, 3),
    "3-D, 192 to 192": ((8, 192, 16, 16, 16), 192, 3),
}
WAYS = ("forward", "by the input", "by the weights")


def problem(name):
    """x, w and gy, in numpy."""
    shape, outputs, width = LAYERS[name]
    rng = np.random.default_rng(0)
    kernel = (1 if shape[2] == 1 else width, width, width)
    sizes = shape, (outputs, shape[1], *kernel), (shape[0], outputs, *shape[2:])
    return [rng.standard_normal(size, np.float32) for size in sizes]


def ours(x, w, gy):
    """way → a function that computes it, and returns the array."""
    return {
        "forward": lambda: conv_forward(x, w)[0],
        "by the input": lambda: conv_backward_input(gy, w),
        "by the weights": lambda: conv_backward_weights(gy, x, w.shape)[0],
    }


def by_cudnn(x, w, gy, channels_last=False):
    """The same of PyTorch's tensors, in either of its two layouts of memory."""
    import torch

    aten = torch.ops.aten
    plane = x.shape[2] == 1
    x, w, gy = (t[:, :, 0] if plane else t for t in (x, w, gy))
    if channels_last:
        layout = torch.channels_last if plane else torch.channels_last_3d
        x, w, gy = (t.contiguous(memory_format=layout) for t in (x, w, gy))
    pad = [n // 2 for n in w.shape[2:]]
    ones, zeros = [1] * len(pad), [0] * len(pad)
    settings = None, ones, pad, ones, False, zeros, 1

    def back(which):
        mask = [which == 0, which == 1, False]
        return aten.convolution_backward(gy, x, w, *settings, mask)[which]

    found = {
        "forward": lambda: aten.convolution(x, w, *settings),
        "by the input": lambda: back(0),
        "by the weights": lambda: back(1),
    }
    return {way: lambda f=f: f()[:, :, None] if plane else f() for way, f in found.items()}


def by_products(x, w, gy):
    """The same by a product for each tap, but by the input, which is the forward of another."""
    import torch
    from torch.nn import functional

    n, inputs, *size = x.shape
    outputs, taps = len(w), w.shape[2:]
    wide = [m + k - 1 for m, k in zip(size, taps, strict=True)]
    pixels = size[0] * wide[1] * wide[2]  # the last rows' ends read what is behind the image
    behind = (taps[1] - 1) * wide[2] + taps[2] - 1
    shifts = [(z * wide[1] + y) * wide[2] + x_ for z, y, x_ in np.ndindex(*taps)]
    matrices = [w.reshape(outputs, inputs, -1)[:, :, k].contiguous() for k in range(len(shifts))]
    laid_gy = functional.pad(gy, [0, wide[2] - size[2], 0, wide[1] - size[1]])
    laid_gy = laid_gy.reshape(n, outputs, pixels)

    flat = torch.zeros(n, inputs, int(np.prod(wide)) + behind, device=x.device)
    inside = flat[:, :, : int(np.prod(wide))].view(n, inputs, *wide)
    for axis, (m, k) in enumerate(zip(size, taps, strict=True), 2):
        inside = inside.narrow(axis, k // 2, m)

    def forward():
        inside.copy_(x)
        y = torch.empty(n, outputs, pixels, device=x.device)
        for k, (shift, matrix) in enumerate(zip(shifts, matrices, strict=True)):
            shifted = flat[:, :, shift : shift + pixels]
            torch.baddbmm(y, matrix.expand(n, -1, -1), shifted, beta=min(k, 1), out=y)
        return y.view(n, outputs, size[0], *wide[1:])[..., : size[1], : size[2]]

    def by_the_weights():
        inside.copy_(x)
        parts = [
            torch.bmm(laid_gy, flat[:, :, shift : shift + pixels].transpose(1, 2)).sum(0)
            for shift in shifts
        ]
        return torch.stack(parts, 2).view(w.shape)

    return {"forward": forward, "by the weights": by_the_weights}


def in_precision(name, call):
    def within():
        with Precision(name):
            return call()

    return within


def with_tf32(allowed, call):
    from .rival import allow_tf32

    def within():
        allow_tf32(allowed)
        return call()

    return within


def candidates(arrays):
    """way → name → function."""
    import torch

    mine = [on_device(a, "cuda") for a in arrays]
    theirs = [torch.from_numpy(a).to(DEVICE) for a in arrays]
    found = {way: {} for way in WAYS}
    for way, call in ours(*mine).items():
        found[way] |= {f"ours, {p}": in_precision(p, call) for p in PRODUCTS}
    rivals = {
        "cuDNN": by_cudnn(*theirs),
        "cuDNN, channels last": by_cudnn(*theirs, channels_last=True),
        "cuBLAS": by_products(*theirs),
    }
    for label, calls in rivals.items():
        for way, call in calls.items():
            for allowed in (False, True):
                name = f"{label}, {'TF32' if allowed else 'float32'}"
                found[way][name] = with_tf32(allowed, call)
    return found


def some(found, way):
    """A gradient by the weights, or the first two images: as a numpy array."""
    found = found if way == "by the weights" else found[:2]
    return found.detach().cpu().numpy() if hasattr(found, "detach") else host(found)


def names(options):
    return options.only or list(LAYERS)


def measure(name, options):
    """A layer's record: milliseconds, TFLOP/s, and how far each is from ours in float32."""
    arrays = problem(name)
    work = 2 * arrays[2].size * arrays[1][0].size
    record = {"layer": name, "flops": work, "ways": {}}
    for way, calls in candidates(arrays).items():
        expected = some(calls["ours, float32"](), way)
        apart = {who: off(some(call(), way), expected) for who, call in calls.items()}
        seconds = timing.alternating(ROUNDS, **{who: waiting(call) for who, call in calls.items()})
        medians = timing.medians(seconds)
        record["ways"][way] = {
            who: {"ms": 1e3 * t, "tflops": work / t / 1e12, "off": apart[who]}
            for who, t in medians.items()
        }
    return record


def told(found, options):
    records = list(found.values())
    ways = list(dict.fromkeys(w for r in records for way in r["ways"].values() for w in way))
    rows = [("ms (TFLOP/s)", *ways)]
    apart = [("largest difference from ours in float32", *ways)]
    for record in records:
        for way, found in record["ways"].items():
            title = f"{record['layer']}, {way}"
            cells = [found.get(who) for who in ways]
            rows.append(
                (title, *(f"{c['ms']:.2f} ({c['tflops']:.0f})" if c else "" for c in cells))
            )
            apart.append((title, *(f"{c['off']:.0e}" if c else "" for c in cells)))
    tables = [("time", rows), ("precision", apart)]
    good = all(
        c["off"] <= 5e-3 for r in records for way in r["ways"].values() for c in way.values()
    )
    return {"layers": records}, tables, good
