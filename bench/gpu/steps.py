"""Whole training steps on the GPU beside the CPU's; see `parts.py`."""

import dataclasses

import numpy as np

from ssi_cupy import recipes
from ssi_cupy.engine.backend import Pool, host
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.physics import PSFConvolution
from ssi_cupy.training.step import Training

from ..speed.workload import image, psf
from . import parts

LIMIT = 1e-3  # relative, of a float32 loss
SIDE = 64
STEPS = 50


def names():
    return [name for name in recipes.names() if not name.endswith("_3d")]


def recipe(name):
    """The recipe; of large networks on large batches a small one on small batches."""
    found = recipes.get(name)
    if found.patch:
        accumulate = min(found.accumulate, 2)
        found = dataclasses.replace(found, patch=32, batch=2, accumulate=accumulate)
    if hasattr(found.network, "width"):
        network = dataclasses.replace(found.network, width=8)
        found = dataclasses.replace(found, network=network)
    return found


def train(name, device, steps, graph=True):
    """(the losses of each step, the parameters) of a training at 64²."""
    g = PSFConvolution(psf(2, 9))
    model = SelfSupervisedInverse(g, recipe(name), rng=3, device=device, graph=graph)
    training = Training(model, image((SIDE, SIDE)).astype(np.float64), steps)
    with Pool():
        curve = [training.step()["loss"] for _ in range(steps)]
    parameters = host(training.parameters).copy()
    training.close()
    return np.array(curve), parameters


def steps(options):
    there, count = parts.expected(options), options.steps or STEPS
    rows = [("recipe", "loss, first", "last", "last on the CPU", "largest difference", "two runs",
             "graph = eager")]  # fmt: skip
    curves, good = {}, True
    for name in names():
        if there is None:
            wanted = train(name, "cpu", count)[0]
        elif (found := there.get(f"curve.{name}")) is None or len(found) != count:
            raise parts.Missing(f"--expected with {count} steps of recipe {name!r}")
        else:
            wanted = found
        (curve, once), (again, twice) = (train(name, "cuda", count) for _ in range(2))
        eager, single = train(name, "cuda", count, graph=False)
        off = float(np.max(np.abs(curve - wanted) / np.abs(wanted)))
        same = np.array_equal(once, twice) and np.array_equal(curve, again)
        frozen = np.array_equal(once, single) and np.array_equal(curve, eager)
        good &= bool(off <= LIMIT and same and frozen)
        told = {"off": off, "two_runs_same": bool(same), "graph_same_as_eager": bool(frozen)}
        curves[name] = {"gpu": curve.tolist(), "cpu": wanted.tolist(), **told}
        numbers = (f"{v:.6g}" for v in (curve[0], curve[-1], wanted[-1]))
        rows.append((name, *numbers, f"{off:.1e}", bool(same), bool(frozen)))
    beside = [("step", *(f"{name} {who}" for name in curves for who in ("gpu", "cpu")))]
    for step in range(0, count, max(1, count // 10)):
        losses = (f"{c[who][step]:.5g}" for c in curves.values() for who in ("gpu", "cpu"))
        beside.append((step, *losses))
    result = {"limit": LIMIT, "steps": count, "curves": curves}
    return result, [(f"{count} steps at {SIDE}²", rows), ("losses", beside)], good
