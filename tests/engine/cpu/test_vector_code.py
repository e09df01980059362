"""Vector code as it is for other processors: sums stay in registers, however many and wide they
are, and are those of the plain loops."""

import dataclasses
import functools
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding, ir

from ssi_cupy.engine.cpu import llvm, register_tiles, winograd_products, winograd_transforms

ROOT = Path(__file__).parents[3]
PROCESSORS = {  # (triple, name, what it has)
    "AVX-512": ("x86_64-unknown-linux-gnu", "skylake-avx512", llvm.Registers(64, 32, True)),
    "AVX2": ("x86_64-unknown-linux-gnu", "haswell", llvm.Registers(32, 16, True)),
    "AVX": ("x86_64-unknown-linux-gnu", "sandybridge", llvm.Registers(32, 16, False)),
    "SSE": ("x86_64-unknown-linux-gnu", "x86-64", llvm.Registers(16, 16, False)),
    "NEON": ("aarch64-unknown-linux-gnu", "cortex-a76", llvm.Registers(16, 32, True)),
    "Apple": ("arm64-apple-darwin", "apple-m1", llvm.Registers(16, 32, True)),
}
PIECES = {
    name: piece
    for module in (register_tiles, winograd_products, winograd_transforms)
    for name, piece in vars(module).items()
    if isinstance(piece, llvm.VectorCode)
}
SUMS = [name for name in PIECES if name.endswith("_tile") or name.startswith("matrix_tile")]
ARRAYS, REALS, WHETHER = {"x", "w", "g", "y", "out"}, {"scale", "shift"}, {"activate"}


def operands(piece):
    code = piece.write.__code__
    return code.co_varnames[1 : code.co_argcount]


@functools.cache
def machine(processor):
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    triple, name, _ = PROCESSORS[processor]
    return binding.Target.from_triple(triple).create_target_machine(cpu=name, opt=3)


def module_of(piece, scalar, registers, target):
    """A function "piece" of the operands, optimised."""
    module, integer = ir.Module(), ir.IntType(64)
    module.triple, module.data_layout = target.triple, str(target.target_data)
    kinds = {"taps": integer.as_pointer()} | dict.fromkeys(WHETHER, ir.IntType(1))
    kinds |= dict.fromkeys(ARRAYS, scalar.as_pointer()) | dict.fromkeys(REALS, scalar)
    names = operands(piece)
    kind = ir.FunctionType(ir.VoidType(), [kinds.get(name, integer) for name in names])
    builder = ir.IRBuilder(ir.Function(module, kind, "piece").append_basic_block())
    piece.write(llvm.Code(builder, scalar, registers), *builder.function.args)
    builder.ret_void()
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    options = binding.create_pipeline_tuning_options(speed_level=3)
    passes = binding.create_pass_builder(target, options)
    passes.getModulePassManager().run(parsed, passes)
    return parsed


# ---- what a compiler makes of it ----------------------------------------------------------------


def innermost_loops(text):
    """The lines from a label to a jump back to it, where there is no other such loop in them."""
    lines = text.splitlines()
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"([.\w]+):", line))}
    found = []
    for i, line in enumerate(lines):
        jump = re.match(r"\s+(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z)\s+(?:.*,\s*)?([.\w]+)\s*$", line)
        if jump and labels.get(jump[1], i) < i:
            found.append(range(labels[jump[1]], i + 1))
    return [
        lines[loop.start : loop.stop]
        for loop in found
        if not any(other != loop and other[0] in loop and other[-1] in loop for other in found)
    ]


@pytest.mark.parametrize("processor", PROCESSORS)
def test_what_a_processor_has(processor):
    assert llvm.registers_of(machine(processor)) == PROCESSORS[processor][2]


@pytest.mark.parametrize("scalar", [ir.FloatType(), ir.DoubleType()], ids=str)
@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("name", SUMS)
def test_sums_stay_in_registers(name, processor, scalar):
    target = machine(processor)
    module = module_of(PIECES[name], scalar, PROCESSORS[processor][2], target)
    loops = innermost_loops(target.emit_assembly(module))
    busy = [x for x in loops if any(re.search("fmadd|fmla|mulp", line) for line in x)]
    assert busy
    for loop in busy:
        assert not [line for line in loop if re.search(r"\(%rsp|\(%rbp|\[sp|\[x29", line)]


# ---- what it computes ---------------------------------------------------------------------------

CONVOLUTIONS = """
import sys
import numpy as np
from ssi_cupy.engine import backend
from ssi_cupy.engine.cpu import llvm
from ssi_cupy.ops.conv import conv_backward, conv_forward

*registers, pretended = map(int, sys.argv[1:])
registers = llvm.Registers(*registers)
if pretended:
    llvm.registers = lambda: registers
assert llvm.registers() == registers, llvm.registers()
rng = np.random.default_rng(0)
for inputs, outputs, r in ((9, 10, 3), (9, 10, 5), (3, 9, 5)):  # the last by plain sums
    shapes = (2, inputs, 1, 37, 45), (outputs, inputs, 1, r, r), (2, outputs, 1, 37, 45)
    x, w, gy = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    affine = rng.normal(size=(2, inputs)).astype(np.float32)
    found = []
    for threads in (1, 3):
        backend.set_num_threads(threads)
        y, saved = conv_forward(x, w, affine=affine)
        gx, gw = conv_backward(gy, saved)
        found.append((y, gx, gw))
    for one, three in zip(*found):
        np.testing.assert_array_equal(one, three)
    def windows(a):
        a = np.pad(a[:, :, 0].astype(float), 2 * [(0, 0)] + 2 * [(r // 2, r // 2)])
        return np.lib.stride_tricks.sliding_window_view(a, (r, r), (2, 3))
    seen = np.maximum(affine[0][:, None, None, None] * x + affine[1][:, None, None, None], 0)
    expected = (
        np.einsum("niyxkl,oikl->noyx", windows(seen), w[:, :, 0]),
        np.einsum("noyxkl,oikl->niyx", windows(gy), w[:, :, 0, ::-1, ::-1]),
        np.einsum("niyxkl,noyx->oikl", windows(seen), gy[:, :, 0]),
    )
    for ours, sums in zip(found[0], expected):
        assert np.max(np.abs(ours[:, :, 0] - sums)) <= 1e-5 * np.max(np.abs(sums))
"""
LIKE = {"AVX2": "haswell", "SSE": "generic"}  # numba makes such code here


@pytest.mark.parametrize("processor", ["AVX2", "SSE", "NEON"])
def test_other_registers_give_the_same_sums(processor, tmp_path):
    """NEON's by as many and as wide registers as it has: what they are called changes nothing."""
    registers = PROCESSORS[processor][2]
    pretended = processor not in LIKE
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    if not pretended:
        if platform.machine().lower() not in ("x86_64", "amd64"):
            pytest.skip("this is no x86-64")
        environment |= {"NUMBA_CPU_NAME": LIKE[processor], "NUMBA_CPU_FEATURES": ""}
    numbers = map(str, map(int, (*dataclasses.astuple(registers), pretended)))
    command = [sys.executable, "-c", CONVOLUTIONS, *numbers]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


VECTORS = """
import numpy as np
from ssi_cupy.engine.cpu import llvm
from ssi_cupy.ops.direct_convolution import direct_convolution_forward
direct_convolution_forward(np.ones((1, 1, 1, 60, 60)), np.ones((1, 3, 3)))
print(llvm.registers().bytes)
"""


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names of x86")
def test_the_cache_knows_which_processor_its_code_is_for(tmp_path):
    kept = []
    for name in ("generic", "nehalem", "generic"):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_CPU_NAME": name,
                                    "NUMBA_CPU_FEATURES": ""}  # fmt: skip
        command = [sys.executable, "-c", VECTORS]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
        assert done.stdout.split() == [b"16"]
        kept.append(len(list(tmp_path.rglob("direct_convolution*.nbc"))))
    assert kept == [1, 2, 2]
