"""What a TIFF tells beside pixels, axes and spacing, and what of it a restored image keeps."""

from __future__ import annotations

import math
import xml.etree.ElementTree as xml
from typing import Any

# Of ImageJ: times between frames, labels of planes, how channels are shown. Not the display range
# ("min", "max"): that of restored pixels is another.
IMAGEJ = ("finterval", "fps", "Labels", "mode", "loop", "Info")


def of_file(file: Any) -> dict:
    """What is kept of an open `tifffile.TiffFile`, as `tiff.write` and tifffile name it."""
    if file.is_ome:
        return _of_ome(file.ome_metadata)
    found = file.imagej_metadata or {}
    return {name: found[name] for name in IMAGEJ if name in found}


def _of_ome(text):
    image = next(e for e in xml.fromstring(text).iter() if e.tag.endswith("}Image"))
    pixels = next(e for e in image if e.tag.endswith("}Pixels"))
    found = {"Name": image.get("Name")}
    for name in ("TimeIncrement", "TimeIncrementUnit"):
        found[name] = pixels.get(name)
    names = [e.get("Name") for e in pixels if e.tag.endswith("}Channel")]
    if all(names) and names:
        found["Channel"] = {"Name": names}
    return {name: value for name, value in found.items() if value is not None}


def for_imagej(found: dict, axes: str, shape: tuple) -> dict:
    """What of it fits into an ImageJ hyperstack of those axes."""
    planes = math.prod(shape[:-2])
    kept = {name: value for name, value in found.items() if name in IMAGEJ}
    if len(kept.get("Labels", ())) != planes:
        kept.pop("Labels", None)
    if "C" not in axes:
        kept.pop("mode", None)
    return kept


def for_ome(found: dict, axes: str, shape: tuple) -> dict:
    """What of it fits into an OME-TIFF of those axes."""
    channels = shape[axes.index("C")] if "C" in axes else 1
    kept = {k: v for k, v in found.items() if k in ("Name", "TimeIncrement", "TimeIncrementUnit")}
    names = found.get("Channel", {}).get("Name", ())
    if len(names) == channels:
        kept["Channel"] = {"Name": list(names)}
    return kept
