"""How long a training step would take on an H100, by what can be counted without one.

The launches of recipe SSI's step are those that the stand-in for cupy of `tests/emulation` records;
what their threads issue is counted in the disassembly (nvdisasm) of what NVRTC compiles for sm_90.
Loops are found by their backward branches, and run as often as the launch's shapes say. Then

    time = max(instructions / issue, wavefronts of shared memory, bytes / bandwidth,
               one block's instructions and what it waits for memory × rounds of blocks)

What is assumed is below: nothing of it was measured, and nothing here knows of bank conflicts,
cache misses, or instructions that wait for one another.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ssi_cupy.engine import backend
from ssi_cupy.engine.gpu import driver, kernel_text
from ssi_cupy.ops import conv_tiling

from . import kernels, parts

ARCHITECTURE = 90
PROCESSORS, CLOCK = 132, 1.98e9  # an H100 SXM's, which makes its 67 TFLOP/s
ISSUE = 4 * 0.9  # instructions of a warp in a cycle, of four at most
BANDWIDTH = 3.35e12 * 0.9  # bytes per second
LATENCY = 800  # cycles from a load to its number
TURNS = (1, 2, 2)  # of loops over a window
LAUNCH = 1.5e-6  # seconds from one kernel of a graph to the next
REGISTERS, SHARED, WARPS = 65536, 227 << 10, 64  # of a processor
PEAK = 2 * 128 * PROCESSORS * CLOCK  # FLOP/s


# ---- disassembly --------------------------------------------------------------------------------


def disassembler():
    """The path of nvdisasm (of the wheel nvidia-cuda-nvdisasm, or of the toolkit), or None."""
    found = kernels.nvidia_files("*/bin/nvdisasm", "*/bin/nvdisasm.exe")
    return str(next(iter(found), "")) or shutil.which("nvdisasm")


@dataclasses.dataclass
class Loop:
    """A run of instructions that ends in a branch back to its begin; `inner` are those in it."""

    start: int
    stop: int
    code: list
    inner: list
    jumps: dict = dataclasses.field(default_factory=dict)  # of the code: from where to where

    def lines(self):
        return self.code[self.start : self.stop]

    def count(self, *names):
        return sum(any(name in line for name in names) for line in self.lines())

    def stored(self):
        """Numbers of 4 bytes that one run stores."""
        names = re.findall(r"STG\S*", "\n".join(self.lines()))
        return sum(4 if ".128" in name else 2 if ".64" in name else 1 for name in names)

    def way(self):
        """Instructions of the shortest way from the kernel's begin to this loop."""
        seen, front, steps = {0}, [0], 0
        while self.start not in seen:
            front = [n for at in front for n in self._next(at) if n < len(self.code)]
            front = [n for n in dict.fromkeys(front) if n not in seen]
            seen.update(front)
            steps += 1
        return steps

    def _next(self, at):
        line = self.code[at]
        certain = not line.startswith("@") and not re.search(r"BRA \W?U?P\d", line)
        goes_on = [] if certain and re.match(r"(BRA|EXIT|RET)", line) else [at + 1]
        return [*goes_on, *([self.jumps[at]] if at in self.jumps else [])]

    def wide(self):
        """Whether it copies 16 bytes at once."""
        return any("LDGSTS" in line and ".128" in line for line in self.lines())

    def issued(self, trips):
        """Instructions of one run, where the loops in it take `trips` turns, by their depth."""
        own = self.stop - self.start - sum(loop.stop - loop.start for loop in self.inner)
        return own + sum(trips[0] * loop.issued(trips[1:] or (1,)) for loop in self.inner)


@functools.cache
def disassembled(stem, real="float32"):
    """name → the `Loop` that is all of a kernel."""
    text = kernel_text.source(stem, (("real", real), ("weight", real)))
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernels.cubin")
        cubin.write_bytes(kernels.cubin(text, ARCHITECTURE))
        command = [disassembler(), "-c", cubin]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {part.split(":")[0]: _loops(part) for part in re.split(r"\n\.text\.", said)[1:]}


def _loops(text):
    code, labels, jumps, found = [], {}, {}, []
    for line in text.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+\{?\s*(.*?);", line):
            code.append(instruction[1])
    for at, line in enumerate(code):
        target = re.search(r"BRA.*`\((\.L_x_\d+)\)", line)
        start = labels.get(target[1], at) if target else at
        if target and "BRA.DIV" not in line:
            jumps[at] = start
            if start < at:
                found.append(Loop(start, at + 1, code, [], jumps))
    # compilers put seldom run pieces behind the code, and branch back from there: these are none
    end = next((i for i, line in enumerate(code) if line.startswith("EXIT")), len(code))
    whole = Loop(0, len(code), code, [])
    for loop in sorted((f for f in found if f.stop <= max(end, 1) or _tight(f)),
                       key=lambda f: f.start - f.stop):  # fmt: skip
        place = whole
        while inside := [i for i in place.inner if i.start <= loop.start and loop.stop <= i.stop]:
            place = inside[0]
        place.inner.append(loop)
    return whole


def _tight(loop):
    return loop.stop - loop.start < 2000


def every(loop):
    for inner in loop.inner:
        yield inner
        yield from every(inner)


# ---- launches -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Launch:
    stem: str
    name: str
    args: list  # arrays' shapes and sizes, numbers
    grid: tuple
    block: tuple
    shared: int

    @property
    def blocks(self):
        return math.prod(self.grid)

    @property
    def warps(self):
        return -(-math.prod(self.block) // 32)

    def shape(self, i):
        return self.args[i].shape

    @property
    def bytes(self):
        return sum(a.nbytes for a in self.args if hasattr(a, "nbytes"))


@dataclasses.dataclass
class Memory:
    shape: tuple
    nbytes: int

    @property
    def size(self):
        return math.prod(self.shape)


def launches(side):
    """(those of a training step of recipe SSI, the bytes of each of cupy's own kernels)."""
    tests = str(parts.ROOT / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    import pytest

    from emulation import fake_cupy

    from .speed import training

    found, others, computed = [], [], fake_cupy._computed

    def record(kernel, n, *args, scratch=0):
        if n and any(isinstance(a, fake_cupy.ndarray) for a in args):
            told = [Memory(a.shape, a.nbytes) if hasattr(a, "nbytes") and a.ndim else a
                    for a in args]  # fmt: skip
            found.append(Launch(kernel.stem, kernel.__name__, told, *kernel.launch(n, args, 256)))

    def counted(function, *inputs, out=None, name="transform"):
        y = computed(function, *inputs, out=out, name=name)
        others.append(y.nbytes + sum(getattr(a, "nbytes", 0) for a in inputs))
        return y

    with pytest.MonkeyPatch.context() as patch, fake_cupy.installed(patch, emulated=True):
        patch.setattr(backend.Kernel, "__call__", record)
        patch.setattr(driver, "failing", lambda: None)
        job = training(side, graph=False)
        found.clear()
        patch.setattr(fake_cupy, "_computed", counted)
        with contextlib.suppress(FloatingPointError):  # nothing is computed, so all is NaN
            job.step()
    return found, others


# ---- what a launch issues -----------------------------------------------------------------------


@dataclasses.dataclass
class Work:
    """Of one block: instructions of its warps, wavefronts of shared memory, cycles that it waits
    for memory, bytes that are under way then; and multiply-adds of all blocks."""

    issued: float
    wavefronts: float
    waits: float
    flying: float
    fma: float


def of_forward(launch):
    """conv_forward_kernel: rounds of planes that are staged and then multiplied."""
    code = disassembled(launch.stem)[launch.name]
    x, (kz, ky, kx) = launch.shape(0), launch.args[7:10]
    columns, lines, slices = launch.block
    tall, length = lines + ky - 1, conv_tiling._row_length(4 * columns, kx)
    planes, filters = x[1] * kz, ky * kx * 8
    fit = 40960 // (4 * (tall * length + filters) * slices)
    staged = slices * max(1, min(fit, 4))
    copy, activate, outer = _staging(code, 0)
    rounds = -(-planes // staged)
    rows = planes * tall
    fma = 32 * kx * ky * planes * launch.warps / slices
    stage = rows * (copy.issued((1,)) + activate.issued((1,)))
    # a row of taps: 2 loads of the window, 2 of weights for each tap, and its loop
    math_ = fma * (1 + (2 + 2 * kx + 14) / (32 * kx))
    own = outer.issued((0,)) + 150 * len(outer.inner)
    whole = sum(1 for _ in code.code) / 9  # one of the ways to store, of those for each slices
    issued = stage + math_ + launch.warps * (rounds * own / 3 + whole)
    waves = fma / (32 * kx) * (2 * 4 + 2 * kx) + rows * length / 32 * 3
    flying = min(staged, planes) * tall * length * 4
    total = launch.blocks * 32 * fma
    return Work(issued, waves, rounds * LATENCY, flying, total)


def of_weights(launch):
    """conv_weights_kernel: a slice's tiles, staged and then multiplied."""
    code = disassembled(launch.stem)[launch.name]
    x, gy, (kz, ky, kx) = launch.shape(0), launch.shape(2), launch.args[6:9]
    slices = launch.args[10]
    rows_of_warp = conv_tiling.ROWS.get(kx, 1)
    lines, per_block, of = conv_tiling._parts(x[1] * kz, ky, kx, 4)
    tall, wide = conv_tiling.TILE_SIZE[4]
    tiles = x[0] * gy[2] * -(-gy[3] // tall) * -(-gy[4] // wide) / slices
    planes = x[1] * kz * -(-ky // lines) / of  # of a block, on average
    length = conv_tiling._row_length(wide, kx)
    taps = kx if kx in (1, 3, 5) else 4
    inner = next(loop for loop in every(code) if not loop.inner
                 and loop.count("FFMA") == 32 * rows_of_warp * taps)  # fmt: skip
    copy, activate, outer = _staging(code, inner.start)
    gradient = min((loop for loop in every(outer) if loop.wide()), key=lambda o: o.stop - o.start)
    warps = min(launch.warps, planes * lines / rows_of_warp)
    turns = tiles * warps * tall * wide / 128
    rows = tiles * planes * (tall + lines - 1)
    stage = rows * (copy.issued((1,)) + activate.issued((1,)))
    stage += tiles * 8 * tall * wide / 128 * gradient.issued((0,))
    own = outer.issued((0,)) + 150
    ends = rows_of_warp * 8 * taps * 14  # sums over the warp, and their places
    issued = turns * inner.issued(()) + stage + launch.warps * (tiles * own + ends)
    waves = turns * 4 * inner.count("LDS.128")
    waves += rows * length / 32 * 3 + tiles * 8 * tall * wide / 32
    flying = (planes * (tall + lines - 1) * length + 8 * tall * wide) * 4
    useful = math.prod(gy) * x[1] * kz * ky * kx
    return Work(issued, waves, tiles * LATENCY, flying, useful)


def _staging(code, before):
    """(the loop over rows that copies, that activates, the loop of rounds around both)."""
    loops = list(every(code))
    rounds = [o for o in loops if o.count("LDGSTS")
              and o.count("FFMA") and o.stop > before
              and (o.start < before or not before)]  # fmt: skip
    outer = min(rounds, key=lambda o: o.stop - o.start)
    inside = [loop for loop in every(outer) if not loop.inner]
    copy = next(loop for loop in inside if loop.count("LDGSTS") == 3)
    activate = next(loop for loop in inside if loop.count("FMNMX") == 3)
    return copy, activate, outer


def of_each(launch):
    """A kernel that goes over numbers: the loop that stores (or else loads) with the fewest
    instructions for each, windows being 2 × 2, and the way to it; all of it where there is none."""
    code = disassembled(launch.stem)[launch.name]
    declared = kernel_text.signatures(launch.stem)[launch.name]
    arrays = [(a.size, p.const) for a, p in zip(launch.args, declared, strict=True) if p.ndim]
    written = max((size for size, const in arrays if not const), default=1)
    largest = max(size for size, _ in arrays)
    threads = launch.blocks * launch.warps * 32
    outer = [loop for loop in code.inner if loop.count("STG", "LDG")]
    alone = code.issued((0,))
    if not outer:
        return Work(alone * launch.warps, 0, LATENCY, 128 * launch.warps, 0)
    storing = [loop for loop in outer if loop.count("STG")]
    if not storing:  # sums: as many loads for each number as arrays are as large
        each = sum(size == largest for size, _ in arrays)
        best = max(outer, key=lambda loop: loop.count("LDG"))
        unrolled, turns = max(best.count("LDG") / each, 1), max(largest / threads, 1)
    else:
        best = min(storing, key=lambda loop: loop.issued(TURNS) / loop.stored())
        unrolled, turns = best.stored(), max(written / threads, 1)
    issued = launch.warps * (best.way() + turns / unrolled * best.issued(TURNS))
    loads = max(best.count("LDG"), 1)
    return Work(issued, 0, turns / unrolled * LATENCY, loads * 128 * launch.warps, 0)


def work_of(launch):
    kinds = {"conv_forward_kernel": of_forward, "conv_weights_kernel": of_weights}
    return kinds.get(launch.name, of_each)(launch)


# ---- times --------------------------------------------------------------------------------------


def resident(launch, registers):
    """Blocks on a processor at once."""
    threads = 32 * launch.warps
    by_registers = REGISTERS // (-(-registers // 8) * 8 * threads) if registers else 32
    by_shared = SHARED // (launch.shared + 1024 + 2048)
    return max(1, min(by_registers, by_shared, WARPS // launch.warps, 32))


def seconds(launch, work, blocks):
    """Of one launch, without the gap before it."""
    rounds = max(1, math.ceil(launch.blocks / (PROCESSORS * blocks)))
    at_once = min(blocks, -(-launch.blocks // PROCESSORS))
    alone = work.issued / min(ISSUE, launch.warps) + work.waits
    together = at_once * max(work.issued / ISSUE, work.wavefronts)
    by_bytes = launch.bytes / BANDWIDTH
    return max(rounds * max(alone, together) / CLOCK, by_bytes)


def rows_of(side):
    """(a row for each kernel and layer, seconds of the step, of its roofline)."""
    found, others = launches(side)
    registers = {}
    for stem in {launch.stem for launch in found}:
        registers |= {n: k["registers"] for n, k in
                      kernels.compiled(stem, "float32", ARCHITECTURE).items()}  # fmt: skip
    merged, total, floor = {}, 0.0, 0.0
    for launch in found:
        work = work_of(launch)
        blocks = resident(launch, registers[launch.name])
        time = seconds(launch, work, blocks)
        least = max(2 * work.fma / PEAK, launch.bytes / BANDWIDTH)
        total, floor = total + time + LAUNCH, floor + least
        one = merged.setdefault((launch.name, _layer(launch)), [0, work, launch, blocks, 0.0, 0.0])
        one[0], one[4], one[5] = one[0] + 1, one[4] + time, one[5] + least
    rest = sum(others) / BANDWIDTH + len(others) * LAUNCH
    return merged, total + rest, floor + sum(others) / BANDWIDTH, rest


def _layer(launch):
    if launch.name == "conv_forward_kernel":
        x, y, k = launch.shape(0), launch.shape(5), launch.args[8:10]
    elif launch.name == "conv_weights_kernel":
        x, y, k = launch.shape(0), launch.shape(2), launch.args[7:9]
    else:
        return ""
    return f"{x[1]} to {y[1]}, {k[0]}×{k[1]}, {y[3]}×{y[4]}"


def table(side):
    """Rows for `timing.table`, and a line that sums them up."""
    merged, total, floor, rest = rows_of(side)
    rows = [("kernel, layer", "launches", "instructions / FMA", "wavefronts / FMA", "in flight",
             "blocks / SM", "µs", "roofline µs", "of it")]  # fmt: skip
    for (name, layer), (n, work, launch, blocks, time, least) in merged.items():
        each = [f"{v * launch.blocks * 32 / work.fma:.2f}" if work.fma else ""
                for v in (work.issued, work.wavefronts)]  # fmt: skip
        flying = f"{work.flying * blocks / 1024:.0f} KiB"
        ratio = f"{time / least:.1f}" if least else ""
        rows.append((f"{name} {layer}".strip(), str(n), *each, flying, str(blocks),
                     f"{1e6 * time:.0f}", f"{1e6 * least:.0f}", ratio))  # fmt: skip
    said = (
        f"a step of recipe SSI at {side}² on an H100: {1e3 * total:.2f} ms predicted, "
        f"{1e3 * floor:.2f} ms by the roofline; cupy's own kernels {1e3 * rest:.2f} ms of it"
    )
    return rows, said, {"side": side, "seconds": total, "roofline": floor}


def needs():
    """What is missing, in words, or None."""
    if disassembler() is None:
        return "no nvdisasm was found (pip install nvidia-cuda-nvdisasm)"
    if importlib.util.find_spec("pytest") is None:
        return "no pytest was found, whose stand-in for cupy records the launches"
    return None if kernels.can_write_cubins() else "no NVRTC was found"
