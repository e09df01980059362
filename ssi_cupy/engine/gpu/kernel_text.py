"""The text of the CUDA kernels: where it is, what it declares, and what a call's arguments become.

A kernel's own signature in its `.cu` file is what its arguments are held against: number, dtype,
rank, contiguity. An array is passed by value as a small struct, its address and its shape; scalars
as exactly the type that is written there. Types that the text leaves open (`real`, `weight`) are
those of the arrays that come, and become a line in front of the text: one compiled module for each
combination. Nothing here needs a GPU or cupy.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

OPEN = {"real": ("float32", "float64"), "weight": ("uint8", "float32", "float64")}
C_TYPES = {"float32": "float", "float64": "double", "uint8": "unsigned char"}
OPTIONS = ("-std=c++17", "--fmad=false")


# ---- text -------------------------------------------------------------------------------------


def folder():
    """Where the kernels are: inside an installed package, beside it in a checkout."""
    here = Path(__file__).parents[2]
    return here / "kernels" if (here / "kernels").is_dir() else here.parent / "kernels"


@functools.cache
def stems():
    """The names of all kernel files."""
    return sorted(path.stem for path in folder().glob("*.cu"))


@functools.cache
def text(stem):
    """`<stem>.cu` with what it includes pasted in, each file once.

    Pasted, because a compiler's cache looks at the text that it is given and at no other file.
    """
    seen = set()

    def expand(name):
        if name in seen:
            return ""
        seen.add(name)
        lines = (folder() / name).read_text(encoding="utf-8").splitlines()
        found = [re.fullmatch(r'#include "([\w.]+)"', line) for line in lines]
        return "\n".join(
            expand(include[1]) if include else line
            for line, include in zip(lines, found, strict=True)
            if line != "#pragma once"
        )

    # Not every system can write all signs of the comments to a file, as compilers do in between.
    return re.sub(r"[^\x00-\x7f]", "~", expand(f"{stem}.cu")) + "\n"


def source(stem, types):
    """The text to compile: a line for each type that is left open, and the file.

    Parameters
    ----------
    stem : str
    types : tuple of (str, str)
        As ``(("real", "float32"),)``. Others that the file may name get the first that is allowed.
    """
    chosen = {name: allowed[0] for name, allowed in OPEN.items()} | dict(types)
    lines = [f"typedef {C_TYPES[dtype]} {name};" for name, dtype in chosen.items()]
    return "\n".join([*lines, text(stem)])


# ---- signatures -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel as its text declares it; `ndim` is None for a scalar."""

    name: str
    type: str
    ndim: int | None
    const: bool


_KERNEL = re.compile(
    r'extern "C" __global__ void\s+(?:__launch_bounds__\([\w *,]+\)\s+)?(\w+)\(([^)]*)\)'
)
_PARAMETER = re.compile(r"(?:Array<(const )?(\w+), (\d)>|(\w+)) (\w+)")


@functools.cache
def signatures(stem):
    """name → tuple of `Parameter` of each kernel in a file."""
    found = {}
    for name, declared in _KERNEL.findall(text(stem)):
        parts = re.split(r",(?![^<]*>)", " ".join(declared.split()))
        found[name] = tuple(_parameter(part.strip()) for part in parts)
    return found


def kernel_names(text):
    """The names of all kernels of a text."""
    return [name for name, _ in _KERNEL.findall(text)]


def _parameter(declared):
    match = _PARAMETER.fullmatch(declared)
    if match is None:
        raise SyntaxError(f"a kernel's parameter must be Array<type, n> or a number: {declared!r}")
    const, array_type, ndim, scalar_type, name = match.groups()
    return Parameter(name, array_type or scalar_type, int(ndim) if ndim else None, bool(const))


def arguments(stem, name, args, address):
    """What the arguments of a call become.

    Parameters
    ----------
    stem, name : str
    args : sequence
        Arrays and numbers.
    address : callable
        Of an array's memory.

    Returns
    -------
    types : tuple of (str, str)
        What the open types are, for `source`.
    values : list
        An array of one element for each argument: a struct, or a number of the declared type.

    Raises
    ------
    TypeError
        If an argument does not fit what the text declares; it is named.
    """
    parameters = signatures(stem).get(name)
    if parameters is None:
        raise TypeError(f"{stem}.cu has no kernel {name}")
    if len(args) != len(parameters):
        raise TypeError(f"{name}: expected {len(parameters)} arguments, got {len(args)}")
    types = {}
    for parameter, value in zip(parameters, args, strict=True):
        if parameter.ndim is not None:
            _check_array(name, parameter, value, types)
    values = []
    for parameter, value in zip(parameters, args, strict=True):
        if parameter.ndim is not None:
            values.append(struct(address(value), value.shape))
        elif parameter.type in OPEN and parameter.type not in types:
            raise TypeError(f"{name}: no array says what the type of {parameter.name} is")
        else:
            values.append(np.array([value], types.get(parameter.type, parameter.type)))
            if values[-1][0] != value and np.dtype(values[-1].dtype).kind in "iub":
                raise TypeError(f"{name}: {parameter.name} is {parameter.type}, not {value!r}")
    return tuple(sorted(types.items())), values


def _check_array(name, parameter, array, types):
    def wrong(expected, got):
        return TypeError(f"{name}: {parameter.name} must be {expected}, not {got}")

    if not hasattr(array, "dtype") or not hasattr(array, "flags"):
        raise wrong("an array", type(array).__name__)
    dtype = _name(array.dtype)
    if parameter.type in OPEN:
        allowed = OPEN[parameter.type]
        known = types.setdefault(parameter.type, dtype)
        if dtype not in allowed or dtype != known:
            raise wrong(known if known in allowed else " or ".join(allowed), dtype)
    elif dtype != parameter.type:
        raise wrong(parameter.type, dtype)
    if array.ndim != parameter.ndim:
        raise wrong(f"{parameter.ndim}-D", f"{array.ndim}-D")
    if not array.flags.c_contiguous:
        raise wrong("C-contiguous", f"of strides {array.strides}")


@functools.lru_cache(maxsize=64)
def _name(dtype):
    return dtype.name  # numpy makes it anew each time, which takes longer than a launch


@functools.cache
def _struct(ndim):
    return np.dtype([("data", np.uint64), ("shape", np.int64, (ndim,))], align=True)


def struct(address, shape):
    """`Array<T, N>` of `common.cuh`: an address and a shape."""
    return np.array([(address, shape)], _struct(len(shape)))
