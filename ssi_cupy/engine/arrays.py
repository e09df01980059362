"""Whatever holds numbers in rows, made an array: the one door of all public functions.

Nothing is imported for it. Who has a tensor of some library has imported that library, and a
tensor says by its attributes what can be done with it.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from .checks import DeviceError, InputError
from .devices import is_cupy
from .gpu import driver
from .types import T

# How DataArrays name their axes, lower case.
LETTERS = {"time": "T", "frame": "T", "channel": "C", "channels": "C", "wavelength": "C"}
_MICROMETRES = {"nm": 1e-3, "um": 1.0, "µm": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3}
_MICROMETRES |= {"nanometer": 1e-3, "micrometer": 1.0, "micrometre": 1.0, "\u03bcm": 1.0}
HELD = "__dlpack__", "__array_interface__", "__cuda_array_interface__"  # by what is in memory
CUDA = 2, 13  # kDLCUDA and kDLCUDAManaged, of the DLPack standard


def as_array(array: Any, argument: str) -> Any:
    """`array` as a numpy array, or as a cupy array where it lies on a GPU.

    Parameters
    ----------
    array : object
        An array of numpy or cupy comes back as it is. Nothing is copied of what shares its memory:
        by ``__cuda_array_interface__``, ``__array__`` or ``__dlpack__``, in this order. Of what
        only has a shape, a dtype and slices, all is read.
    argument : str
        Its name in the caller's signature.

    Raises
    ------
    InputError
        For what is sparse, has masked pixels, or is no array at all. Which dtypes are numbers,
        `checks.numbers` says.
    DeviceError
        For one on a GPU that is not the current one, or that cupy is not there for.
    """
    if type(array) in (np.ndarray, np.memmap):
        return array
    if is_cupy(array):
        return _current(array, argument)
    array = _unwrapped(array, argument)
    try:
        if _is_on_gpu(array):
            return _on_gpu(array, argument)
        return _plain_floats(_read(array))
    except DeviceError:
        raise
    except (TypeError, ValueError, RuntimeError, BufferError, NotImplementedError) as error:
        got = f"{_type(array)} ({error})"
        raise InputError(argument, "an array of numbers", " ".join(got.split())) from None


def by_slices(array: Any, argument: str) -> Any:
    """`array` itself where it is read by slices, as those of Dask, Zarr and HDF5: it may be larger
    than memory. All others as of `as_array`."""
    array = _unwrapped(array, argument)
    if not held(array) and all(
        hasattr(array, n) for n in ("shape", "dtype", "ndim", "__getitem__")
    ):
        return array
    return as_array(array, argument)


def held(array: Any) -> bool:
    """Whether it lies in memory, or is mapped to it: not what is read by slices alone."""
    inner = array.data if is_data_array(array) else array
    return any(hasattr(inner, name) for name in HELD) or is_cupy(inner)


def parted(array: Any) -> tuple[Any, Any]:
    """(`array` without its mask, the mask or None): of a masked array of numpy or Dask, and of what
    else has both ``data`` and ``mask``, as astropy's."""
    inner = array.data if is_data_array(array) else array
    if np.ma.isMaskedArray(getattr(inner, "_meta", None)):  # of Dask, which would drop it
        inner = inner.compute()
    mask = getattr(inner, "mask", None)
    if mask is None or not hasattr(inner, "data") or not hasattr(mask, "shape"):
        return array, None
    return inner.data, mask if np.any(mask) else None


def _unwrapped(array, argument):
    """`array` without what it wears; what cannot be used is refused by its name."""
    if is_data_array(array):
        return _unwrapped(array.data, argument)
    if hasattr(array, "data_vars"):
        raise InputError(argument, "an array, as dataset['name']", _type(array))
    if hasattr(array, "nnz") and (hasattr(array, "todense") or hasattr(array, "toarray")):
        raise InputError(argument, "a dense array, as .toarray() makes one", _type(array))
    mask = parted(array)[1]
    if mask is not None:
        got = f"{_type(array)} with {np.count_nonzero(mask)} masked pixels"
        raise InputError(argument, "an array without masked pixels, as .filled(value) makes", got)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        if array.layout != torch.strided:
            raise InputError(argument, "a dense tensor, as .to_dense() makes", str(array.layout))
        array = array.detach()
        return array.float() if array.dtype == torch.bfloat16 else array
    return array


def _on_gpu(array, argument):
    missing = driver.missing()
    if missing:
        raise DeviceError(argument, "an array in the CPU's memory", f"one on a GPU: {missing}")
    if hasattr(array, "__cuda_array_interface__"):
        return _current(driver.upload(array), argument)  # shares its memory
    return _current(driver.from_dlpack(array), argument)


def _is_on_gpu(array):
    if hasattr(array, "__cuda_array_interface__"):
        return True
    other = hasattr(array, "__array__") or not hasattr(array, "__dlpack__")
    return not other and int(array.__dlpack_device__()[0]) in CUDA


def _current(array, argument):
    """A cupy array, if it is on the current GPU: nothing goes from one to another by itself."""
    current = driver.current()
    if array.device.id != current:
        expected = f"an array on GPU {current}, the current one"
        raise DeviceError(argument, expected, f"one on GPU {array.device.id}")
    return array


def _read(array):
    if hasattr(array, "__array__"):
        return np.asarray(array)
    if hasattr(array, "__dlpack__"):
        return np.from_dlpack(array)
    if all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__")):
        return np.asarray(array[(slice(None),) * len(array.shape)])
    return np.asarray(array)


def _plain_floats(array):
    """bfloat16 and the like are no kind of numpy's own; float32 holds all of them."""
    few = array.dtype.kind == "V" and "float" in array.dtype.name
    return array.astype(np.float32) if few else array


def _type(array):
    return f"{type(array).__module__.partition('.')[0]}.{type(array).__name__}"


# ---- arrays that name their axes --------------------------------------------------------------


def is_data_array(array: Any) -> bool:
    """Whether this is an `xarray.DataArray`."""
    return all(hasattr(array, name) for name in ("dims", "coords", "attrs", "data", "copy"))


def dims_of(array: Any, argument: str = "image") -> str | None:
    """The letters of T, C, Z, Y, X that the dims of a DataArray mean; None for any other array.

    Raises
    ------
    InputError
        For a name that means none: the argument ``axes`` is needed then.
    """
    if not is_data_array(array):
        return None
    names = [str(name) for name in array.dims]
    found = [LETTERS.get(n.lower(), n.upper() if n.upper() in "TCZYX" else "") for n in names]
    if not all(found) or len(set(found)) != len(found):
        expected = "the argument axes, or dims that are called t, c, z, y, x"
        raise InputError(argument, expected, ", ".join(names))
    return "".join(found)


def spacing_of(array: Any, letters: str) -> Any:
    """µm between pixels along the axes Z, Y, X of a DataArray, from its coordinates.

    Coordinates are in µm where their ``units`` do not say otherwise; whole numbers without units
    count pixels, and are no sizes.

    Returns
    -------
    tuple of float, or None
        None for any other array, and where an axis has no even steps.
    """
    if not is_data_array(array):
        return None
    sizes = []
    for name, letter in zip(array.dims, letters, strict=True):
        if letter in "ZYX":
            step = _step(array.coords[name]) if name in array.coords else None
            if step is None:
                return None
            sizes.append((letter, step))
    return tuple(step for _, step in sorted(sizes, key=lambda pair: "ZYX".index(pair[0])))


def _step(coordinate):
    units = coordinate.attrs.get("units")
    places = np.asarray(coordinate.data)
    if places.size < 2 or places.dtype.kind not in ("f" if units is None else "uif"):
        return None
    unit = 1.0 if units is None else _MICROMETRES.get(str(units).lower())
    steps = np.diff(places.astype(np.float64))
    if unit is None or steps[0] == 0 or not np.allclose(steps, steps[0], rtol=1e-3):
        return None
    return float(abs(steps.mean()) * unit)


def named_as(result: Any, image: Any) -> Any:
    """`result` as a DataArray with the name, coordinates and attributes of `image`, if it is one.

    A result of another shape is left as it is.
    """
    same = is_data_array(image) and tuple(image.shape) == tuple(result.shape)
    return image.copy(data=result) if same else result


def any_array(function: T) -> T:
    """For a function of an image first: what is no array is made one; a DataArray comes back."""

    @functools.wraps(function)  # type: ignore[arg-type]
    def wrapped(image, *args, **options):
        return named_as(function(as_array(image, "image"), *args, **options), image)

    return wrapped  # type: ignore[return-value]
