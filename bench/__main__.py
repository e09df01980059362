"""``python -m bench`` lists the benches, ``python -m bench NAME [options]`` runs one."""

import sys
from importlib import import_module

# folder → what can be run in it
BENCHES = {
    "papers": {
        "table1": "every method on the benchmark's images, beside the papers' figures",
        "table3": "losses with one pass and with two, on the benchmark's images",
        "table4": "the same in 3-D, on a volume of random filaments",
        "real": "pictures of real volumes, restored: light sheet, widefield",
        "blind": "a width that is learned from wrong guesses, beside the true and the wrong one",
        "denoising": "blind-spot denoising with a PSF: four variants, and what another PSF does",
        "figures": "the papers' figures 3 and 4, from what table1 --keep has left",
    },
    "speed": {
        "step": "one training step and one inference, side by side with PyTorch; peak memory",
        "networks": "the papers' wide networks, there and back, side by side with PyTorch",
        "start": "what an import costs; the first step, compiled and from the cache",
        "scaling": "a training step with more threads, and on larger images",
        "volume": "a volume larger than memory, predicted tile by tile: peak memory and time",
        "convolution": "a training step by FFT and by direct convolution with a large 3-D PSF",
        "roofline": "where a step spends its time, and how near each part is to the limits",
    },
    "gpu": {
        "kernels": "the CUDA kernels, compiled: registers, shared memory and spills of each",
        "gpu": "what only a GPU can tell: parity, sanitizers, steps, speed, tables",
    },
    "trust": {
        "calibrate": "settings of classical methods by held-out data, beside the best by the truth",
        "verdict": "what is said of healthy and of sabotaged runs; is the uncertainty right?",
        "width": "what held-out pixels say of a PSF's width, right or wrong: no network",
        "size": "whole restorations, from small images to large volumes: seconds and memory",
        "noise": "the default beside classical oracles, from little noise to few photons",
        "mutants": "small faults put into the code: which of them do the tests notice?",
    },
}
FOLDERS = {name: folder for folder, names in BENCHES.items() for name in names}
FILES = {"gpu": "parts"}  # where the file is not called like the bench


def main(arguments):
    name, *options = arguments or [""]
    if name not in FOLDERS:
        wanted = name in ("", "-h", "--help")
        print("usage: python -m bench NAME [options]\n", file=sys.stdout if wanted else sys.stderr)
        for bench, says in (pair for names in BENCHES.values() for pair in names.items()):
            print(f"  {bench:11} {says}", file=sys.stdout if wanted else sys.stderr)
        return 0 if wanted else 2
    return import_module(f"bench.{FOLDERS[name]}.{FILES.get(name, name)}").main(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
