"""Every CUDA kernel, compiled for every architecture: its registers, shared memory and spills; and
what a training step would take on an H100, by what its kernels issue (see `estimate.py`).

Needs no GPU. The compiler is NVRTC, of the wheel nvidia-cuda-nvrtc (the extra `kernels`), or else
nvcc of the CUDA toolkit. A warning is an error.
"""

import argparse
import ctypes
import functools
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ssi_cupy.engine.gpu import kernel_text

from .. import timing

ARCHITECTURES = (75, 80, 90, 100, 120)
REALS = ("float32", "float64")
MISSING = "no compiler for CUDA was found: neither NVRTC (pip install nvidia-cuda-nvrtc) nor nvcc"


@functools.cache
def compiler():
    """``(name, compile)`` where ``compile(text, architecture)`` gives (success, log); or None."""
    for library in _nvrtc_files():
        try:
            return "NVRTC", functools.partial(_nvrtc, ctypes.CDLL(str(library)))
        except OSError:
            continue
    return ("nvcc", _nvcc) if shutil.which("nvcc") else None


def reals(stem):
    """What a file is compiled for: both types, where a kernel of it leaves that open."""
    parameters = [p for kernel in kernel_text.signatures(stem).values() for p in kernel]
    return REALS if any(p.type in kernel_text.OPEN for p in parameters) else REALS[:1]


def compiled(stem, real, architecture):
    """What the compiler made of a kernel file.

    Returns
    -------
    dict
        name → ``registers``, ``shared`` (bytes, static) and ``spills`` (bytes) of each kernel.

    Raises
    ------
    RuntimeError
        If it did not compile, or with a warning.
    """
    text = kernel_text.source(stem, (("real", real), ("weight", real)))
    done, log = compiler()[1](text, architecture)
    if not done or "warning" in log.lower():
        raise RuntimeError(f"{stem}.cu, {real}, sm_{architecture}:\n{log}")
    found, name = {}, None
    for line in log.splitlines():
        if match := re.search(r"entry function '(\w+)'", line):
            name = match[1]
            found[name] = {"registers": 0, "shared": 0, "spills": 0}
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            found[name]["spills"] = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            found[name]["registers"] = int(match[1])
            shared = re.search(r"(\d+) bytes smem", line)
            found[name]["shared"] = int(shared[1]) if shared else 0
    return found


# ---- the compilers ----------------------------------------------------------------------------


def nvidia_files(*patterns):
    """Files of NVIDIA's wheels."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        for pattern in patterns:
            yield from sorted(Path(folder).glob(pattern), reverse=True)


def _nvrtc_files():
    return nvidia_files("*/lib/libnvrtc.so.*", "*/bin/**/nvrtc64_*_0.dll")


def can_write_cubins():
    return compiler() is not None and compiler()[0] == "NVRTC"


def cubin(text, architecture):
    """The machine code of a text, by NVRTC."""
    done, found = _nvrtc(compiler()[1].args[0], text, architecture, code=True)
    if not done:
        raise RuntimeError("the text does not compile")
    return found


def _nvrtc(library, text, architecture, code=False):
    """(success, the compiler's log); or, with `code`, the machine code in place of the log."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = [f"--gpu-architecture=sm_{architecture}", *kernel_text.OPTIONS, "--ptxas-options=-v"]
    strings = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    made = library.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None
    )
    if made:
        raise RuntimeError(f"NVRTC does not start: error {made}")
    try:
        status = library.nvrtcCompileProgram(program, len(options), strings)
        if code and status == 0:
            library.nvrtcGetCUBINSize(program, ctypes.byref(size))
            found = ctypes.create_string_buffer(size.value)
            library.nvrtcGetCUBIN(program, found)
            return True, found.raw
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    return status == 0, log.value.decode()


def _nvcc(text, architecture):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernels.cu")
        file.write_text(text, encoding="utf-8")
        command = [
            "nvcc",
            "-cubin",
            f"-arch=sm_{architecture}",
            *kernel_text.OPTIONS,
            "-Xptxas",
            "-v",
        ]
        command += ["-o", file.with_suffix(".cubin"), file]
        done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode == 0, done.stderr


# ---- the table --------------------------------------------------------------------------------


def main(arguments):
    from . import estimate

    parser = argparse.ArgumentParser("python -m bench kernels", description=__doc__)
    parser.add_argument(
        "--stems", nargs="+", choices=kernel_text.stems(), default=kernel_text.stems()
    )
    parser.add_argument("--architectures", nargs="+", type=int, default=ARCHITECTURES)
    parser.add_argument("--out", default=timing.RESULTS)
    parser.add_argument("--side", type=int, default=1024, metavar="N", help="of the step's image")
    options = parser.parse_args(arguments)
    if compiler() is None:
        print(MISSING, file=sys.stderr)
        return 1
    print(f"compiled by {compiler()[0]}; registers of each architecture, shared memory, spills")
    rows = [("kernel", "real", *(f"sm_{a}" for a in options.architectures), "shared", "spills")]
    kernels = []
    for stem in options.stems:
        for real in reals(stem):
            made = {a: compiled(stem, real, a) for a in options.architectures}
            for name in kernel_text.signatures(stem):
                each = [made[a][name] for a in options.architectures]
                registers = [of["registers"] for of in each]
                shared, spills = (max(of[what] for of in each) for what in ("shared", "spills"))
                rows.append((name, real, *map(str, registers), f"{shared} B", f"{spills} B"))
                kernels.append({"kernel": name, "file": f"{stem}.cu", "real": real,
                                "registers": dict(zip(map(str, made), registers, strict=True)),
                                "shared": shared, "spills": spills})  # fmt: skip
    timing.table(rows)
    spilt = sum(kernel["spills"] > 0 for kernel in kernels)
    print(f"{len(kernels)} kernels, {spilt} of them spill")
    results = {"compiler": compiler()[0], "kernels": kernels}
    missing = estimate.needs()
    if missing:
        print(f"no estimate of a step: {missing}", file=sys.stderr)
    else:
        rows, said, results["step"] = estimate.table(options.side)
        timing.table(rows)
        print(said)
    timing.write("kernels", results, timing.machine(), options.out)
    return 0
