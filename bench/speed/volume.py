"""A volume larger than memory, predicted from a file to a file: peak memory, and the time.

The network is a thin one with random weights, for it is the tiles that are asked about. A block of
the result is compared with what the network makes of a part of the volume that holds all it sees.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from ssi_cupy import physics, recipes
from ssi_cupy.engine.backend import num_threads, set_num_threads
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.unet import UNet, unet_forward

from .. import timing
from ..memory import most_resident


def model_of(widths, seed=0):
    """As after a training: random weights, and the statistics that suit them."""
    model = SelfSupervisedInverse(physics.Identity(), recipes.SSI)
    net = model.net = UNet(ndim=3, widths=tuple(widths))
    model.units = 0.0, 1.0
    model.parameters, model.statistics = net.initial_parameters(seed), net.initial_statistics()
    some = np.random.default_rng(seed).random((1, 1, 32, 32, 32), np.float32)
    unet_forward(some, model.parameters, net=net, batch_statistics=model.statistics)
    return model


def generate(path, shape, seed=0):
    """A ``.npy`` file of noise, plane by plane: each a shifted copy of one."""
    plane = np.random.default_rng(seed).random(shape[1:], np.float32)
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for z in range(shape[0]):
            np.roll(plane, (7 * z, 13 * z), (0, 1)).tofile(file)


def difference(model, source, result):
    """The greatest, in parts of the range, between a block in the middle and the same from a part
    of the volume that ends where the network sees no further."""
    net, core, part = model.net, [], []
    for n, reach, step in zip(source.shape, net.reach, net.smallest, strict=True):
        first = max(0, n // 2 - 24 - reach) // step * step
        last = min(n, n // 2 + 24 + reach)
        part.append(slice(first, last))
        core.append(slice(first + reach if first else 0, last - reach if last < n else n))
    alone = model.predict(np.array(source[tuple(part)]), tile_size=source.shape)
    inside = (slice(c.start - p.start, c.stop - p.start) for c, p in zip(core, part, strict=True))
    alone, found = alone[tuple(inside)], np.array(result[tuple(core)])
    return float(np.abs(alone - found).max() / np.ptp(alone))


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench volume", description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 2048, 2048])
    parser.add_argument("--widths", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--tile-size", type=int, help="default: chosen from the free memory")
    parser.add_argument("--threads", type=int, default=num_threads())
    parser.add_argument("--files", help="where to keep both files for the time; default: a "
                        "temporary folder")  # fmt: skip
    parser.add_argument("--out", default=timing.RESULTS)
    options = parser.parse_args(arguments)
    set_num_threads(options.threads)
    machine = timing.machine(options.threads)
    print(timing.described(machine))

    shape, model = tuple(options.shape), model_of(options.widths)
    with tempfile.TemporaryDirectory(dir=options.files) as folder:
        paths = [Path(folder) / name for name in ("volume.npy", "result.npy")]
        generate(paths[0], shape)
        source = np.load(paths[0], mmap_mode="r")
        result = np.lib.format.open_memmap(paths[1], "w+", np.float32, shape)
        before, start = most_resident(), time.perf_counter()
        model.predict(source, tile_size=options.tile_size, out=result)
        seconds, peak = time.perf_counter() - start, most_resident()
        off = difference(model, source, result)
    voxels = float(np.prod(shape))
    found = {
        "shape": shape, "widths": options.widths, "tile_size": options.tile_size,
        "bytes": 4 * voxels, "peak_resident": peak, "resident_before": before,
        "seconds": seconds, "voxels_per_second": voxels / seconds, "difference": off,
    }  # fmt: skip
    size = "×".join(map(str, shape))
    print(f"{size}, {4e-9 * voxels:.2f} GB: {seconds:.0f} s, {1e-6 * voxels / seconds:.2f} million "
          f"voxels a second")  # fmt: skip
    print(f"peak resident memory: {1e-9 * peak:.2f} GB ({1e-9 * before:.2f} GB before)")
    print(f"a block predicted by itself differs by {off:.1e} of its range")
    timing.write("volume", found, machine, options.out)
    return 0
