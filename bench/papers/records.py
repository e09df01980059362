"""One small JSON file for each image and method, written whole, so that a run can be cut."""

import hashlib
import io
import json

import numpy as np

from ssi_cupy.files.atomic import replacing


def fingerprint(settings):
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def path_of(folder, image, method):
    return folder / f"{image}.{method}.json"


def load(path):
    """The record in a file; None if there is none, or it is none."""
    try:
        record = json.loads(path.read_text())
        return record if record["fingerprint"] == fingerprint(record["settings"]) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def load_all(folder):
    """All records of a folder."""
    found = (load(path) for path in sorted(folder.glob("*.json")))
    return [record for record in found if record]


def store(folder, record, array=None):
    """Write a record, and beside it the array that it is about, if any.

    What was there before goes first, and the record comes last: one that is found is complete,
    and an array beside it is its own.
    """
    path = path_of(folder, record["image"], record["method"])
    path.unlink(missing_ok=True)
    path.with_suffix(".npy").unlink(missing_ok=True)
    if array is not None:
        store_array(path.with_suffix(".npy"), array)
    record = record | {"fingerprint": fingerprint(record["settings"])}
    with replacing(path) as part:
        part.write_text(json.dumps(record, indent=1) + "\n")


def store_array(path, array):
    content = io.BytesIO()  # numpy's own writing does not say that a disk is full
    np.save(content, np.asarray(array, np.float32))
    with replacing(path) as part:
        part.write_bytes(content.getbuffer())
