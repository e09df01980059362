"""One training step of recipe SSI, and one inference, side by side with PyTorch; and peak memory.

Both do the whole step: hide pixels, add noise, network, blur, loss, validation loss, gradients,
Adam, weight noise. PyTorch has the fastest of two memory layouts, two ways to blur, and one thread
or all.
"""

import argparse

import numpy as np

from ssi_cupy.engine.backend import Pool
from ssi_cupy.physics import apply
from ssi_cupy.tape import Tape
from ssi_cupy.unet import unet, unet_forward

from .. import timing
from ..memory import peak_of
from .workload import training


def infer(ours):
    """f(y), as a trained model computes it."""
    return unet_forward(ours.source.y, ours.parameters, net=ours.net, statistics=ours.statistics)[0]


def evaluate(ours, seen):
    """(network's output, prediction, loss over the validation pixels, gradient)."""
    tape = Tape()
    parameters = tape.var(ours.parameters)
    x = unet(seen, parameters, net=ours.net)
    prediction = apply(ours.g, x)
    loss, _ = ours.recipe.losses(x, prediction, ours.source.y, ours.source.validation)
    tape.backward(loss)
    return x.value, prediction.value, loss.value, parameters.grad


def check(ours, rival, layout):
    """That both compute the same from the same weights: to 1e-4, and in the gradient to 0.03.

    Where the input of a ReLU is within a rounding of 0, float32 may go either way. And where
    channels lie last, PyTorch's batch norm sums pixel after pixel in float32: to 0.01 there.
    """
    exact = 1e-4 if layout == "contiguous" else 0.01
    tolerances = {"network": exact, "prediction": exact, "loss": exact, "gradient": 0.03}
    seen = ours.source.y * (1 - ours.source.validation)
    both = zip(evaluate(ours, seen), rival.evaluate(seen), strict=True)
    for (name, tolerance), (a, b) in zip(tolerances.items(), both, strict=True):
        off = np.linalg.norm(np.ravel(a) - np.ravel(b)) / np.linalg.norm(a)
        if not off <= tolerance:
            raise AssertionError(f"the {name} differs from PyTorch's by {off:.1e}")


def fastest(size, threads):
    """PyTorch's training as it is fastest here, checked against ours; and what it was chosen from.

    One thread is tried too: where other programs are running, PyTorch's threads spend their
    time waiting for each other, and a ratio would tell of nothing else.
    """
    from .rival import LAYOUTS, Rival, use_threads

    rivals, seconds = {}, {}
    for number in sorted({threads, 1}):
        use_threads(number)
        for layout in LAYOUTS:
            ours = training((size, size))
            rival = Rival(ours, layout)
            check(ours, rival, layout)
            name = f"{layout}, {rival.blur.method} blur, {number} threads"
            rivals[name] = rival, layout, number
            seconds |= timing.medians(timing.alternating(3, **{name: rival.step}))
    name = min(seconds, key=seconds.get)
    rival, layout, number = rivals[name]
    use_threads(number)
    return rival, (layout, size, number), {"chosen": name, "choice": seconds}


def compare(size, rounds, threads):
    """Medians of both at one size, and their ratios."""
    with Pool():
        ours, (rival, settings, choice) = training((size, size)), fastest(size, threads)
        steps = timing.alternating(rounds, ours=ours.step, torch=rival.step)
        runs = timing.alternating(rounds, ours=lambda: infer(ours), torch=rival.infer)
    memory = {"ours": peak_of("ours", size, threads), "torch": peak_of(*settings)}
    found = {"step": timing.medians(steps), "infer": timing.medians(runs), "memory": memory}
    ratios = {f"{what}_ratio": both["ours"] / both["torch"] for what, both in found.items()}
    return {"size": size, **choice, **found, **ratios, "steps": steps, "inferences": runs}


def rows_of(r):
    """A size's rows of the table, of one run."""
    for what, unit, scale in (("step", "ms", 1e3), ("infer", "ms", 1e3), ("memory", "MB", 1e-6)):
        both = (f"{r[what][who] * scale:.1f} {unit}" for who in ("ours", "torch"))
        yield (str(r["run"]), f"{r['size']}² {what}", *both, f"{r[f'{what}_ratio']:.2f}")


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench step", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runs", type=int, default=1, help="of everything, one after the other")
    parser.add_argument("--threads", type=int, default=2)
    timing.add_isa(parser)
    parser.add_argument("--out", default=timing.RESULTS)
    options = parser.parse_args(arguments)
    timing.use_isa(options.isa)
    machine = timing.with_pytorch(options.threads)
    if machine is None:
        return 1
    results = [
        {"run": run, **compare(size, options.rounds, options.threads)}
        for run in range(1, options.runs + 1)
        for size in options.sizes
    ]
    rows = (row for r in results for row in rows_of(r))
    timing.table([("run", "", "ours", "PyTorch", "ratio"), *rows])
    for r in results:
        print(f"PyTorch at {r['size']}², run {r['run']}: {r['chosen']}")
    name = f"step_{options.isa}" if options.isa else "step"
    timing.write(name, {"rounds": options.rounds, "results": results}, machine, options.out)
    return 0
