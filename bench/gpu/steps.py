"""Whole training steps on the GPU beside the CPU's; see `parts.py`.

Adam goes by the sign of a gradient of nearly nothing, so that two right trainings part within some
ten steps, by their rounding alone. Hence two comparisons: of the first steps with an eps at which
Adam does not, closely; and of a longer training with as many on the CPU whose weights are moved by
a float32's last bit before every step: it may be as far from one of them as these are from each
other, and a little further.
"""

import contextlib
import dataclasses
import functools

import numpy as np

from ssi_cupy import optim, recipes
from ssi_cupy.engine.backend import Pool, host, on_device
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.physics import PSFConvolution
from ssi_cupy.training import step as training_step
from ssi_cupy.training.step import Training

from ..speed.workload import image, psf
from . import parts

FIRST, EPS = 4, 0.1  # steps that are compared closely, and Adam's eps in them
LIMIT = 1e-4  # how far the losses of these may be apart, relative
SIDE = 64
STEPS = 50
RUNS = 4  # on the CPU, moved by rounding
ROUNDING = 2.0**-24
SLACK = 2.0  # how much further from the CPU than these are from each other


def names(options=None):
    found = [name for name in recipes.names() if not name.endswith("_3d")]
    there = options and parts.expected(options)
    for name in found if there else ():
        count = options.steps or STEPS
        if f"first.{name}" not in there or there[f"curves.{name}"].shape[1] != count:
            raise parts.Missing(f"--expected with {count} steps of recipe {name!r}")
    return found


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


def train(name, device, steps, graph=True, moved=0):
    """(the losses of each step, the parameters) of a training at 64².

    With `moved`, every weight is multiplied by 1 ± 2⁻²⁴ before each step, drawn by that seed.
    """
    g = PSFConvolution(psf(2, 9))
    model = SelfSupervisedInverse(g, recipe(name), rng=3, device=device, graph=graph)
    training = Training(model, image((SIDE, SIDE)).astype(np.float64), max(steps, STEPS))
    rng, curve = np.random.default_rng(moved), []
    with Pool():
        for _ in range(steps):
            if moved:
                signs = rng.choice(np.array([1 - ROUNDING, 1 + ROUNDING]), training.parameters.size)
                changed = host(training.parameters) * signs  # in float64, then rounded
                training.parameters[...] = on_device(changed.astype(np.float32), device)
            curve.append(training.step()["loss"])
    parameters = host(training.parameters).copy()
    training.close()
    return np.array(curve), parameters


@contextlib.contextmanager
def _calm():
    adam = training_step.Adam
    training_step.Adam = functools.partial(optim.Adam, eps=EPS)
    try:
        yield
    finally:
        training_step.Adam = adam


def first_steps(name, device):
    """The losses of the first steps, with a large eps."""
    with _calm():
        return train(name, device, FIRST)[0]


def on_the_cpu(name, count):
    """(the first losses; those of `RUNS` + 1 trainings, the first of them not moved)."""
    runs = [train(name, "cpu", count, moved=run)[0] for run in range(RUNS + 1)]
    return first_steps(name, "cpu"), np.array(runs)


def expected(options):
    """What `--part expect` writes of this, by name."""
    found = {}
    for name in names():
        first, runs = on_the_cpu(name, options.steps or STEPS)
        found |= {f"first.{name}": first, f"curves.{name}": runs}
    return found


def apart(curve, other):
    """How far two curves of losses are from each other: the root mean square of their ratio's log,
    over the steps so far, for each step."""
    with np.errstate(all="ignore"):
        square = np.log(np.abs(curve / other)) ** 2
    return np.sqrt(np.cumsum(square) / np.arange(1, len(square) + 1))


def within(curve, runs):
    """Whether a curve is as near to the first of `runs` as these are to each other, (by how much it
    is further, at the worst step)."""
    pairs = [apart(a, b) for i, a in enumerate(runs) for b in runs[:i]]
    spread = np.maximum.accumulate(np.max(pairs, axis=0))
    further = apart(curve, runs[0]) / (spread + LIMIT)
    worst = float(np.max(further))  # NaN where a loss is
    return worst <= SLACK, worst


def measure(name, options):
    there, count = parts.expected(options), options.steps or STEPS
    if there is None:
        first, runs = on_the_cpu(name, count)
    else:
        first, runs = there[f"first.{name}"], there[f"curves.{name}"]
    off = float(np.max(np.abs(first_steps(name, "cuda") / first - 1)))
    (curve, once), (again, twice) = (train(name, "cuda", count) for _ in range(2))
    eager, single = train(name, "cuda", count, graph=False)
    as_near, further = within(curve, runs)
    same = np.array_equal(once, twice) and np.array_equal(curve, again)
    frozen = np.array_equal(once, single) and np.array_equal(curve, eager)
    return {
        "gpu": curve.tolist(), "cpu": runs.tolist(), "first_off": off, "further": further,
        "two_runs_same": bool(same), "graph_same_as_eager": bool(frozen),
        "good": bool(off <= LIMIT and as_near and same and frozen),
    }  # fmt: skip


def told(records, options):
    count = options.steps or STEPS
    rows = [("recipe", "loss, first", "last", "last, each on the CPU", f"first {FIRST} off by",
             f"of the CPU's spread, at most {SLACK:g}", "two runs", "graph = eager")]  # fmt: skip
    for name, c in records.items():
        last = " ".join(f"{run[-1]:.4g}" for run in c["cpu"])
        numbers = f"{c['gpu'][0]:.6g}", f"{c['gpu'][-1]:.6g}", last, f"{c['first_off']:.1e}"
        bits = c["two_runs_same"], c["graph_same_as_eager"]
        rows.append((name, *numbers, f"{c['further']:.2g}", *bits))
    beside = [("step", *(f"{name} {who}" for name in records for who in ("gpu", "cpu")))]
    for step in range(0, count, max(1, count // 10)):
        both = ((c["gpu"][step], c["cpu"][0][step]) for c in records.values())
        beside.append((step, *(f"{loss:.5g}" for pair in both for loss in pair)))
    result = {"limit": LIMIT, "slack": SLACK, "steps": count, "curves": records}
    tables = [(f"{count} steps at {SIDE}²", rows), ("losses", beside)]
    return result, tables, all(c["good"] for c in records.values())
