"""The memory of a training on a folder of 200 TIFFs of 1024 × 1024 pixels: ``python -m
bench.denoising_memory FOLDER`` trains on one in a process of its own and prints what it took.
"""

import datetime
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssi_cupy import SelfSupervisedInverse, physics, psf, recipes
from ssi_cupy.files.atomic import replacing
from ssi_cupy.unet import PlainUNet

from .. import memory
from . import tabulate

COUNT, SIDE, STEPS = 200, 1024, 30
KINDS = {"plain": None, "compressed": "zlib"}


def run(out):
    """Measure folders of plain and of compressed files, and keep the figures in `out`."""
    results = {"images": COUNT, "side": SIDE, "dtype": "uint16", "steps": STEPS}
    results |= {"date": datetime.date.today().isoformat(), **tabulate.circumstances()}
    for kind, compression in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), compression)
            command = [sys.executable, "-m", "bench.papers.denoising_memory", folder]
            done = subprocess.run(command, cwd=memory.ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        results[kind] = json.loads(done.stdout)
        print(f"{kind}: {results[kind]['peak'] / 1e9:.2f} GB resident at most, "
              f"{results[kind]['seconds']:.0f} s", flush=True)  # fmt: skip
    with replacing(Path(out) / "denoising_memory.json") as part:
        part.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def fill(folder, compression):
    """Write the TIFFs: a smooth scene and noise, another in each."""
    import tifffile

    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    for i in range(COUNT):
        rng = np.random.default_rng(i)
        a, b = rng.uniform(5, 40, 2)
        scene = 500 + 200 * np.sin(a * x + b * y * y)
        pixels = rng.poisson(scene).astype(np.uint16)
        tifffile.imwrite(folder / f"{i:03}.tif", pixels, compression=compression)


def trained(folder):
    """Peak bytes and seconds of a whole process that trains on a folder, with a thin network."""
    recipe = replace(recipes.DECONOISING, network=PlainUNet(width=8, depth=2))
    g = physics.PSFConvolution(psf.gaussian(1.0))
    start = time.perf_counter()
    model = SelfSupervisedInverse(g, recipe, device="cpu")
    model.fit(folder, steps=STEPS, progress=False)
    seconds = time.perf_counter() - start
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak": memory.most_resident(), "ru_maxrss": own, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    print(json.dumps(trained(sys.argv[1])))
