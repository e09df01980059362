"""A training step and an inference of recipe SSI on a GPU, side by side with PyTorch (`parts.py`).

The same network, mask, PSF, losses and Adam, TF32 off on both. Beside the times the floors that no
step can be under: the bytes of all arrays that its kernels are given, once, at the bandwidth of a
copy, and its FLOPs at the rate of a large matrix product, both measured here.
"""

import dataclasses
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


def compare(side, options, floors):
    """A size's record: medians, memory, floors; what there was no time for is None."""
    work = dict.fromkeys(("bytes", "flops", "launches"), 0)
    eager, eager_memory = alone(side, False)
    with counted(work):
        eager.step()
    job, memory = alone(side, True)

    def infer():
        settings = {"net": job.net, "statistics": job.statistics}
        unet_forward(job.source.y, job.parameters, **settings)

    steps = {"ours": waiting(job.step), "ours eager": waiting(eager.step)}
    runs, memories = {"ours": waiting(infer)}, {"ours": memory, "ours eager": eager_memory}
    notes = []
    try:
        from . import rival
    except ImportError:
        notes.append("PyTorch is not installed: ours alone")
    else:
        for name, make in rival.variants(job).items():
            if time.monotonic() > options.until:
                notes.append(f"{name}: not measured, as the time was up")
                continue
            try:
                rival, memories[name] = make()
            except Exception as error:  # a compiler that fails is told, not hidden
                notes.append(f"{name}: not measured: {type(error).__name__}: {error}"[:300])
                continue
            steps[name], runs[name] = waiting(rival.step), waiting(rival.infer)
    found = {
        "side": side, "work": work, "notes": notes, "memory": memories,
        "step": timing.medians(timing.alternating(ROUNDS, **steps)),
        "infer": timing.medians(timing.alternating(ROUNDS, **runs)),
        "floor_bytes": work["bytes"] / floors["copy"],
        "floor_flops": work["flops"] / floors["rate"],
    }  # fmt: skip
    if side == 1024 and found["step"]["ours"] * FULL < 60:
        start = time.perf_counter()
        for _ in range(FULL - job.done):
            job.step()
        found["full"] = (time.perf_counter() - start) * FULL / max(FULL - 4 - ROUNDS - 1, 1)
    for training_ in (job, eager):
        training_.close()
    return found


def rows_of(record):
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
    for name, key in (("floor: bytes / copy", "floor_bytes"), ("floor: FLOPs", "floor_flops")):
        rows.append((name, f"{record[key] * 1e3:.2f}", *[""] * 5))
    title = f"{record['side']}²" + "".join(f"; {note}" for note in record["notes"])
    if "full" in record:
        title += f"; {FULL} steps in {record['full']:.1f} s"
    return title, rows


def speed(options):
    floors = {"copy": copy_bandwidth(), "rate": product_rate()}
    records = []
    for side in options.sizes:
        if time.monotonic() > options.until:
            break
        records.append(compare(side, options, floors))
    rates = [("copy, GB/s", "float32 product, TFLOP/s"),
             (f"{floors['copy'] / 1e9:.0f}", f"{floors['rate'] / 1e12:.1f}")]  # fmt: skip
    missing = [side for side in options.sizes if side not in [r["side"] for r in records]]
    tables = [rows_of(record) for record in records] + [("measured on this GPU", rates)]
    if missing:
        tables.append(
            (f"not measured, as the time was up: {missing}", [("run again with --sizes",)])
        )
    return {"floors": floors, "sizes": records}, tables, not missing
