"""What a TIFF tells beside pixels, axes and spacing, and what of it a restored image keeps."""

from __future__ import annotations

import math
import xml.etree.ElementTree as xml
from collections.abc import Mapping
from typing import Any

# Of ImageJ: times between frames, labels of planes, how channels are shown (the ranges of values
# that are shown black to white too: a restored image is on the scale of the measured one).
IMAGEJ = ("finterval", "fps", "Labels", "mode", "loop", "Info", "min", "max", "Ranges", "LUTs")


def of_file(file: Any, series: int = 0) -> dict:
    """What is kept of an image of an open `tifffile.TiffFile`, under the names that tifffile has
    for it when it writes; of OME, its whole ``XML``."""
    if file.is_ome:
        return _of_ome(file.ome_metadata, series)
    found = file.imagej_metadata or {}
    return {name: found[name] for name in IMAGEJ if name in found}


def ome_image(text: str, series: int) -> tuple[Any, Any]:
    """(the Image element of that number, its Pixels)."""
    images = [e for e in xml.fromstring(text).iter() if _is(e, "Image")]
    image = images[series if series < len(images) else 0]
    return image, next(e for e in image if _is(e, "Pixels"))


def _is(element, name):
    return element.tag.rpartition("}")[2] == name


def _of_ome(text, series):
    image, pixels = ome_image(text, series)
    found = {"XML": text, "series": series, "Name": image.get("Name")}
    for name in ("TimeIncrement", "TimeIncrementUnit"):
        found[name] = pixels.get(name)
    names = [e.get("Name") for e in pixels if _is(e, "Channel")]
    if all(names) and names:
        found["Channel"] = {"Name": names}
    return {name: value for name, value in found.items() if value is not None}


def for_imagej(found: dict, axes: str, shape: tuple) -> dict:
    """What of it fits into an ImageJ hyperstack of those axes."""
    planes, channels = math.prod(shape[:-2]), shape[axes.index("C")] if "C" in axes else 1
    kept = {name: value for name, value in found.items() if name in IMAGEJ}
    labels = kept.get("Labels", [])
    kept["Labels"] = [labels] if isinstance(labels, str) else labels  # a single one is read as such
    if len(kept["Labels"]) != planes:
        kept.pop("Labels", None)
    if "C" not in axes:
        kept.pop("mode", None)
    for name, each in (("Ranges", 2), ("LUTs", 1)):
        if len(kept.get(name, ())) != each * channels:
            kept.pop(name, None)
    return kept


def for_ome(found: dict, axes: str, shape: tuple) -> dict:
    """What of it fits into an OME-TIFF of those axes."""
    channels = shape[axes.index("C")] if "C" in axes else 1
    kept = {k: v for k, v in found.items() if k in ("Name", "TimeIncrement", "TimeIncrementUnit")}
    names = found.get("Channel", {}).get("Name", ())
    if len(names) == channels:
        kept["Channel"] = {"Name": list(names)}
    return kept


OME_TYPES = {"float32": "float", "float64": "double"}  # others are called as numpy's


def ome_xml(
    found: dict, axes: str, shape: tuple, dtype: str, spacing: Mapping[str, float]
) -> bytes | None:
    """The XML of the file that was read, for pixels of another type: all that it tells of the
    image, and nothing of others. None where it is of an image of another shape.

    Parameters
    ----------
    found : dict
        What `of_file` found.
    axes : str
        Of what is written, ending in YX.
    shape : tuple of int
    dtype : str
    spacing : dict of str to float
        µm.
    """
    if "XML" not in found:
        return None
    root = xml.fromstring(found["XML"])
    images = [e for e in root if _is(e, "Image")]
    if not images:
        return None
    image = images[found["series"] if found["series"] < len(images) else 0]
    pixels = next(e for e in image if _is(e, "Pixels"))
    sizes = dict.fromkeys("XYZCT", 1) | dict(zip(axes, shape, strict=True))
    if any(int(pixels.get(f"Size{a}", 0)) != n for a, n in sizes.items()):
        return None
    if any(int(e.get("SamplesPerPixel", 1)) != 1 for e in pixels if _is(e, "Channel")):
        return None
    for other in images:
        if other is not image:
            root.remove(other)
    order = axes[::-1]
    pixels.set("DimensionOrder", order + "".join(a for a in "ZCT" if a not in order))
    pixels.set("Type", OME_TYPES.get(dtype, dtype))
    for name in ("SignificantBits", "Interleaved", "BigEndian"):
        pixels.attrib.pop(name, None)
    for axis, size in spacing.items():
        pixels.set(f"PhysicalSize{axis}", f"{size:.9g}")
        pixels.set(f"PhysicalSize{axis}Unit", "µm")
    _say_where(pixels, math.prod(shape[:-2]))
    root.attrib.pop("UUID", None)  # that of another file
    return _serialised(root)


def _say_where(pixels, planes):
    """All pixels are in this file, plane after plane."""
    for element in list(pixels):
        if any(_is(element, name) for name in ("TiffData", "BinData", "MetadataOnly")):
            pixels.remove(element)
    channels = sum(_is(element, "Channel") for element in pixels)
    where = xml.Element(pixels.tag.replace("Pixels", "TiffData"))
    where.attrib |= {"IFD": "0", "PlaneCount": str(planes)}
    pixels.insert(channels, where)


def _serialised(root):
    """With the schema's namespace as that of all names, as tifffile writes it."""
    space = root.tag[1:].partition("}")[0] if root.tag.startswith("{") else ""
    for element in root.iter():
        if isinstance(element.tag, str) and element.tag.startswith(f"{{{space}}}"):
            element.tag = element.tag.partition("}")[2]
    if space:
        root.set("xmlns", space)
    return b'<?xml version="1.0" encoding="UTF-8"?>' + xml.tostring(root, encoding="utf-8")
