"""Every op, mask and random number on the GPU against the CPU; see `parts.py`."""

import sys
from pathlib import Path

import numpy as np

from ssi_cupy import masking, random
from ssi_cupy.engine.backend import host, on_device
from ssi_cupy.engine.precision import Precision
from ssi_cupy.tape import Tape

from . import parts

# Of the array's largest value. The last two are of float32, and rounded alike on both devices.
LIMITS = {"float64": 1e-10, "float32": 1e-5, "tf32x3": 1e-5, "tf32": 1e-5}


def cases():
    """The rows of tests/cases.py, which are not packaged."""
    tests = str(parts.ROOT / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    from cases import CASES

    return CASES


def kinds(case):
    """What a row is run in; the precisions of tensor cores if it is of a wide convolution."""
    return list(LIMITS)[: 4 if "wide" in case.name else 2]


def run(case, kind, device):
    """y and the gradients of a row on a device, as arrays of the CPU."""
    with Precision(kind if kind.startswith("tf32") else "float32"):
        return _run(case, np.dtype("float64" if kind == "float64" else "float32"), device)


def _run(case, dtype, device):
    args = _moved(case.args(dtype), device)
    settings = {name: _moved(value, device) for name, value in case.settings.items()}
    tape = Tape()
    inputs = [tape.var(a) if i in case.wrt else a for i, a in enumerate(args)]
    y = case.op(*inputs, **settings)
    gy = np.random.default_rng(7).normal(size=y.value.shape).astype(y.value.dtype)
    tape.backward(y, on_device(gy, device))
    return [np.asarray(host(a)) for a in (y.value, *(inputs[i].grad for i in case.wrt))]


def _moved(value, device):
    """Arrays, alone or in tuples, on a device."""
    if isinstance(value, tuple):
        return tuple(_moved(part, device) for part in value)
    return on_device(value, device) if isinstance(value, np.ndarray) else value


def draws(device):
    """Masks, fills and random numbers by name: these have the same bits everywhere."""
    like = on_device(np.zeros(1, np.float32), device)
    place = {"seed": 0xFEDCBA9876543210, "stream": 3, "step": 4_000_000_000, "like": like}
    found = {
        "bits": random.bits((3, 1025), **place),
        "normal float32": random.normal((777,), **place),
        "normal float64": random.normal((777,), dtype=np.float64, **place),
    }
    shape = (2, 3, 1, 33, 31)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    image = on_device(image, device)
    masks = {
        "random mask": masking.RandomMask(0.4, 0.4).draw(shape, 1, 2, 10, like),
        "stratified mask": masking.StratifiedMask(0.1).draw(shape, 1, 2, 10, like),
        "validation pixels": masking.validation_pixels(shape, 0.1, 4, like),
    }
    for how in masking.FILLS:
        hidden = masks["random mask"]
        found[f"fill {how}"] = masking.fill(image, hidden, how, 2, 3, mean=0.1, noise=0.3)
    return {name: host(array) for name, array in (found | masks).items()}


def off(got, wanted):
    """The largest difference, in units of the largest value; NaN where the shapes differ."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return float("nan")
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    return float(np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-30))


BITS = "masks and random numbers"


def chosen(options):
    """name → (number, row, kind) of those that are asked for."""
    found = {}
    for number, case in enumerate(cases()):
        if not options.rows or options.rows in case.name:
            found |= {f"{number} {case.name}, {kind}": (number, case, kind) for kind in kinds(case)}
    return found


def names(options):
    there, found = parts.expected(options), chosen(options)
    for number, case, kind in found.values() if there else ():
        if f"{number}.{kind}.0" not in there or str(there[f"{number}.name"]) != case.name:
            raise parts.Missing(f"--expected of these very rows: {case.name!r} is not in it")
    return [*found, *([] if options.rows else [BITS])]


def measure(name, options):
    there = parts.expected(options)
    if name == BITS:
        got = draws("cuda")
        wanted = {n: there[f"draw.{n}"] for n in got} if there else draws("cpu")
        return {n: bool(np.array_equal(a, wanted[n])) for n, a in got.items()}
    number, case, kind = chosen(options)[name]
    if there is None:
        wanted = run(case, kind, "cpu")
    else:
        wanted = [there[f"{number}.{kind}.{i}"] for i in range(1 + len(case.wrt))]
    value, *gradients = map(off, run(case, kind, "cuda"), wanted)
    right = all(e <= LIMITS[kind] for e in (value, *gradients))
    return {"row": case.name, "kind": kind, "value": value, "gradients": gradients, "good": right}


def told(records, options):
    bits = records.get(BITS, {})
    rows = [r for name, r in records.items() if name != BITS]
    table = [("row", "in", "value", "gradients", "limit")]
    for r in rows:
        worst = f"{max(r['gradients']):.1e}" if r["gradients"] else ""
        over = "" if r["good"] else "OVER"
        table.append((r["row"], r["kind"], f"{r['value']:.1e}", worst, over))
    result = {"limits": LIMITS, "rows": rows, "bits": bits}
    tables = [("ops", table), (BITS, [("numbers", "same bits"), *bits.items()])]
    return result, tables, all(r["good"] for r in rows) and all(bits.values())


def expect(options):
    """Write what the CPU computes: of each row, each draw, and each recipe's training."""
    from . import steps

    if not parts.has_numba():
        raise parts.Missing("numba")
    arrays = {}
    for number, case in enumerate(cases()):
        arrays[f"{number}.name"] = np.array(case.name)
        for kind in kinds(case):
            for i, array in enumerate(run(case, kind, "cpu")):
                arrays[f"{number}.{kind}.{i}"] = array
    arrays |= {f"draw.{name}": array for name, array in draws("cpu").items()}
    arrays |= steps.expected(options)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "expected.npz", **arrays)
    size = (folder / "expected.npz").stat().st_size
    print(f"{folder / 'expected.npz'}: {len(cases())} rows, {len(steps.names())} recipes, {size} B")
    return 0
