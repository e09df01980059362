"""A training step and an inference of recipe SSI on a GPU, side by side with PyTorch (`parts.py`).

The same network, mask, PSF, losses and Adam, TF32 off on both. Beside the times the floors that no
step can be under: the bytes of all arrays that its kernels are given, once, at the bandwidth of a
copy, and its FLOPs at the rate of a large matrix product, both measured here.
"""

import dataclasses
import signal
import time
from contextlib import contextmanager

import numpy as np

from ssi_cupy import recipes
from ssi_cupy.engine import backend
from ssi_cupy.engine.gpu import driver
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.physics import PSFConvolution
from ssi_cupy.training.step import Training
from ssi_cupy.unet import unet_forward

from .. import timing
from ..speed.workload import image, psf

ROUNDS = 30
FULL = 3000  # steps at 1024², for the paper's 249 s


def training(side, graph=True):
    g = PSFConvolution(psf(2, 17), mode="mirror")
    recipe = dataclasses.replace(recipes.SSI, crop=None)  # all of the image, however large
    model = SelfSupervisedInverse(g, recipe, device="cuda", graph=graph)
    return Training(model, image((side, side)), FULL)


def waiting(call):
    """`call`, and then a wait for all that it has begun."""
    import cupy

    def waited():
        call()
        cupy.cuda.Device().synchronize()

    return waited


# ---- floors -------------------------------------------------------------------------------------


@contextmanager
def counted(work):
    """While this lasts, every launch adds its bytes and FLOPs to the dict `work`."""
    call = backend.Kernel.__call__

    def counting(kernel, n, *args, **options):
        arrays = {a.data.ptr: a.nbytes for a in args if backend.is_cupy(a)}
        work["bytes"] += sum(arrays.values())
        work["flops"] += flops(kernel.__name__, args)
        work["launches"] += 1
        call(kernel, n, *args, **options)

    backend.Kernel.__call__ = counting
    try:
        yield
    finally:
        backend.Kernel.__call__ = call


def flops(name, args):
    """Of the convolutions, two for each multiply-add of the equation; the others have few."""
    if name == "conv_forward_kernel":  # x, affine, weights of a block of outputs, b, taps, y
        return 2 * args[5].size * args[2].shape[1]
    if name == "conv_weights_kernel":  # x, affine, gy, taps, partial, bias, kz, ky, kx
        return 2 * args[2].size * args[0].shape[1] * int(np.prod(args[6:9]))
    if name == "direct_convolution_kernel":
        return 2 * args[3].size * args[1].size
    return 0


def copy_bandwidth(n=1 << 28):
    """Bytes per second read and written by a copy of a GiB."""
    import cupy

    source = cupy.ones(n, np.float32)
    target = cupy.empty_like(source)
    times = timing.alternating(5, copy=waiting(lambda: cupy.copyto(target, source)))
    return 2 * source.nbytes / min(times["copy"])


def product_rate(n=8192):
    """FLOP/s of a float32 matrix product, without TF32."""
    import cupy

    a, b = (cupy.ones((n, n), np.float32) for _ in range(2))
    times = timing.alternating(5, product=waiting(lambda: a @ b))
    return 2 * n**3 / min(times["product"])


# ---- one size -----------------------------------------------------------------------------------


def held(job):
    """Bytes that cupy's pools hold, which is the most that they held."""
    graphs = job.capture._pool.total_bytes() if job.capture.enabled else 0
    return driver.device_pool().total_bytes() + graphs


def alone(side, graph):
    """(a training after its first steps, the bytes that it took)."""
    driver.device_pool().free_all_blocks()
    before = driver.device_pool().total_bytes()
    job = training(side, graph)
    for _ in range(4):
        job.step()
    return job, held(job) - before


FLOORS, COMPILED, ALL = "floors", ", compiled", ", all steps"
COMPILING = 150  # seconds that PyTorch's compiler has


def names(options):
    ends = ("", ALL, COMPILED)  # what may take long comes last
    return [FLOORS] + [f"{side}{end}" for end in ends for side in options.sizes
                       if end != ALL or side == 1024]  # fmt: skip


def measure(name, options):
    if name == FLOORS:
        return {"copy": copy_bandwidth(), "rate": product_rate()}
    side = int(name.removesuffix(COMPILED).removesuffix(ALL))
    if name.endswith(ALL):
        return all_steps(side)
    return compare(side, name.endswith(COMPILED))


def all_steps(side):
    """Seconds of a whole training."""
    job = training(side)
    start = time.perf_counter()
    for _ in range(FULL):
        job.step()
    seconds = time.perf_counter() - start
    job.close()
    return seconds


def compare(side, compiled):
    """A record, ours beside PyTorch's: eager and as a graph, or as its compiler makes it."""
    job, memory = alone(side, True)
    work = dict.fromkeys(("bytes", "flops", "launches"), 0)

    def infer():
        settings = {"net": job.net, "statistics": job.statistics}
        unet_forward(job.source.y, job.parameters, **settings)

    jobs, steps = [job], {"ours": waiting(job.step)}
    runs, memories = {"ours": waiting(infer)}, {"ours": memory}
    if not compiled:
        eager, memories["ours eager"] = alone(side, False)
        jobs.append(eager)
        with counted(work):
            eager.step()
        steps["ours eager"] = waiting(eager.step)
    notes = []
    try:
        from . import rival
    except ImportError:
        notes.append("PyTorch is not installed: ours alone")
    else:
        for name, make in rival.variants(job, compiled).items():
            try:
                with ended_after(COMPILING):
                    other, memories[name] = make()
            except Exception as error:  # a compiler that fails is told, not hidden
                notes.append(f"{name}: not measured: {type(error).__name__}: {error}"[:300])
                continue
            steps[name], runs[name] = waiting(other.step), waiting(other.infer)
    found = {
        "side": side, "work": work, "notes": notes, "memory": memories,
        "step": timing.medians(timing.alternating(ROUNDS, **steps)),
        "infer": timing.medians(timing.alternating(ROUNDS, **runs)),
    }  # fmt: skip
    for one in jobs:
        one.close()
    return found


@contextmanager
def ended_after(seconds):
    """`TimeoutError` in what takes longer; on Windows it may."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def end(*_):
        raise TimeoutError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def rows_of(record, floors, full):
    """(title, rows) of a size."""
    rows = [
        ("", "step, ms", "inference, ms", "memory, MB", "ours / it: step", "inference", "memory")
    ]
    best = {what: record[what]["ours"] for what in ("step", "infer", "memory")}
    for name in record["step"]:
        ratios = []
        for what in ("step", "infer", "memory"):
            value = record[what].get(name)
            ratios.append(f"{best[what] / value:.2f}" if value and name != "ours" else "")
        infer = record["infer"].get(name)
        times = f"{record['step'][name] * 1e3:.2f}", f"{infer * 1e3:.2f}" if infer else ""
        rows.append((name, *times, f"{record['memory'][name] / 1e6:.0f}", *ratios))
    if record["work"]["launches"] and floors:
        for what, unit in (("bytes", "copy"), ("flops", "rate")):
            floor = record["work"][what] / floors[unit]
            rows.append((f"floor: {what} / {unit}", f"{floor * 1e3:.2f}", *[""] * 5))
    title = f"{record['side']}²" + "".join(f"; {note}" for note in record["notes"])
    return title + (f"; {FULL} steps in {full:.1f} s" if full else ""), rows


def told(found, options):
    floors, tables = found.get(FLOORS), []
    sizes = {name: r for name, r in found.items() if isinstance(r, dict) and "side" in r}
    tables = [rows_of(r, floors, found.get(f"{name}{ALL}")) for name, r in sizes.items()]
    if floors:
        rates = f"{floors['copy'] / 1e9:.0f}", f"{floors['rate'] / 1e12:.1f}"
        tables.append(("measured on this GPU", [("copy, GB/s", "product, TFLOP/s"), rates]))
    full = {name.removesuffix(ALL): found[name] for name in found if name.endswith(ALL)}
    return {"floors": floors, "full": full, "sizes": list(sizes.values())}, tables, True
