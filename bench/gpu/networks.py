"""A training step of the papers' wide networks beside PyTorch on a GPU; see `parts.py`.

The network there and back, and Adam, on the papers' batches: ours in each precision and kernel by
kernel, PyTorch eager with TF32 off and on, in the faster of two layouts of memory. Beside them
our whole step, with patches, masks, blur and losses, as one CUDA graph.
"""

import dataclasses

import numpy as np

from ssi_cupy import recipes
from ssi_cupy.engine.backend import host, on_device
from ssi_cupy.engine.precision import PRODUCTS, Precision
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.optim import Adam
from ssi_cupy.physics import PSFConvolution
from ssi_cupy.training.step import Training

from .. import timing
from ..speed import networks as cpu
from ..speed.workload import image, psf
from . import layers
from .layers import in_precision, with_tf32
from .speed import waiting

ROUNDS = 11
RECIPES = {  # what a whole step is of
    "residual2d": recipes.NOISE2SAME, "residual3d": recipes.NOISE2SAME_3D,
    "plain2d": recipes.DECONOISING,
}  # fmt: skip
AGAINST = {"float32": "float32", "tf32x3": "float32", "tf32": "TF32"}  # precision → PyTorch's


def ours(problem):
    """A step of the network and Adam, as a function; the gradient is where it is returned."""
    net, branches, *arrays = problem
    x, gy, parameters = (on_device(a, "cuda") for a in arrays)
    adam = Adam(net.size, np.float32, lr=1e-4, like=x)

    def step():
        y, gradient = cpu.there_and_back(net, branches, x, gy, parameters)
        adam.step(parameters, gradient)
        return y, gradient

    return step


def theirs(problem, layout):
    import torch

    rival = cpu.Rival(*problem, layout, device=layers.DEVICE)
    adam = torch.optim.Adam(rival.p.values(), lr=1e-4, fused=True)

    def step():
        rival.there_and_back()
        adam.step()

    return step


def whole(name, precision):
    """Our whole training step on an image a little larger than a patch."""
    _, _, shape, batch = cpu.NETWORKS[name]
    side = shape[2]
    shape = tuple(side + side // 4 for n in shape if n > 1)
    recipe = dataclasses.replace(RECIPES[name], patch=side, batch=batch, accumulate=1)
    physics = PSFConvolution(psf(len(shape), 9))
    model = SelfSupervisedInverse(physics, recipe, device="cuda", precision=precision)
    training = Training(model, image(shape).astype(np.float64), 1000)

    def step():
        with Precision(precision):
            training.step()

    return step, training


WHOLE = ", the whole step, "


def names(options):
    chosen = options.only or list(cpu.NETWORKS)
    return [name + end for name in chosen for end in ("", *(WHOLE + p for p in PRODUCTS))]


def measure(name, options):
    """Seconds of our whole step in a precision, or a network's record."""
    name, _, precision = name.partition(WHOLE)
    return _whole(name, precision) if precision else _side_by_side(name)


def _whole(name, precision):
    step, training = whole(name, precision)
    seconds = timing.medians(timing.alternating(ROUNDS, step=waiting(step)))["step"]
    training.close()
    return seconds


def _side_by_side(name):
    from ..speed.rival import LAYOUTS

    problem, small = cpu.problem(name, None, None), cpu.problem(name, 1, 16)
    apart = {}
    for precision in PRODUCTS:  # of a small problem, against PyTorch in float32
        found = in_precision(precision, ours(small))()
        rival = with_tf32(False, cpu.Rival(*small, "contiguous", device=layers.DEVICE))()
        apart[precision] = [
            float(np.linalg.norm(host(a) - b) / np.linalg.norm(b))
            for a, b in zip(found, rival, strict=True)
        ]
    calls = {f"ours, {p}": waiting(in_precision(p, ours(problem))) for p in PRODUCTS}
    for layout in LAYOUTS:
        step = theirs(problem, layout)
        for label, allowed in (("float32", False), ("TF32", True)):
            calls[f"PyTorch {label}, {layout}"] = waiting(with_tf32(allowed, step))
    seconds = timing.medians(timing.alternating(ROUNDS, **calls))
    ratios = {}
    for precision, label in AGAINST.items():
        best = min(t for who, t in seconds.items() if who.startswith(f"PyTorch {label},"))
        ratios[precision] = seconds[f"ours, {precision}"] / best
    return {"network": name, "shape": problem[2].shape, "seconds": seconds, "ratios": ratios,
            "apart": apart}  # fmt: skip


def told(found, options):
    records, tables = [], []
    for name in options.only or cpu.NETWORKS:
        if name not in found:
            continue
        record = found[name] | {"whole": {}}
        rows = [("", "step, ms", "ours / the faster PyTorch", "output off by", "gradient off by")]
        for who, t in record["seconds"].items():
            precision = who.removeprefix("ours, ")
            ratio = record["ratios"].get(precision)
            apart = [f"{e:.0e}" for e in record["apart"].get(precision, ())] or ["", ""]
            rows.append((who, f"{1e3 * t:.1f}", f"{ratio:.2f}" if ratio else "", *apart))
        for precision in PRODUCTS:
            if (t := found.get(name + WHOLE + precision)) is not None:
                record["whole"][precision] = t
                rows.append((f"ours, {precision}, the whole step", f"{1e3 * t:.1f}", "", "", ""))
        records.append(record)
        tables.append((f"{name}, {'×'.join(map(str, record['shape']))}", rows))
    good = all(r["apart"]["float32"][0] <= 1e-3 for r in records)
    return {"networks": records}, tables, good
