"""TIFFs that are damaged or claim what they have not: one line, at once, in little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from ssi_cupy.engine.checks import FileError
from ssi_cupy.files import tiff, tiff_claims
from ssi_cupy.training.image_sets import gather

SHARED = Path(__file__).parents[3] / "shared" / "data" / "bad"
ROOT = Path(__file__).parents[2]
IMAGE = np.random.default_rng(0).integers(0, 4000, (20, 24)).astype(np.uint16)
BOUND = 2 << 30  # bytes of address space that reading may add

READER = """
import json, resource, sys, time
import numpy as np
from ssi_cupy.engine.checks import InputError
from ssi_cupy.files import tiff
from ssi_cupy.training.image_sets import gather
import tifffile
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + %d, resource.RLIM_INFINITY))
said = []
for path in sys.stdin.read().split():
    for function in (tiff.read, gather):
        start, kind, lines = time.monotonic(), "read", 1
        try:
            function(path)
        except InputError as error:
            kind, lines = "refused", len(str(error).splitlines())
        except BaseException as error:
            kind = f"{type(error).__name__}: {error}"
        said.append((path, kind, lines, time.monotonic() - start))
print(json.dumps(said))
"""


def write(path, **options):
    tifffile.imwrite(path, IMAGE, **options)
    return path.read_bytes()


def patched(path, name, value):
    """The same file with one number of its first page changed."""
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags[name].overwrite(value)
    return path


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tag, value", [
    ("ImageWidth", 1174405144), ("ImageLength", 2**31), ("BitsPerSample", 64),
    ("StripByteCounts", (2**30,)), ("StripOffsets", (2**31,)),
])  # fmt: skip
def test_a_header_that_lies_is_refused_before_memory_is_asked_for(
    tmp_path, compression, tag, value, monkeypatch
):
    path = tmp_path / "lying.tif"
    write(path, compression=compression)
    patched(path, tag, value)
    really = tifffile.TiffPageSeries.asarray

    def asarray(series, *a, **k):
        assert series.nbytes < 2**20  # what does not lie about its size may be looked at
        return really(series, *a, **k)

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", asarray)
    for function in (tiff.read, gather):
        with pytest.raises(FileError, match="lying.tif") as caught:
            function(path)
        assert "\n" not in str(caught.value)


def test_what_is_compressed_further_can_be_allowed(tmp_path, monkeypatch):
    path = tmp_path / "black.tif"
    tifffile.imwrite(path, np.zeros((2000, 3000), np.uint16), compression="zlib")
    assert tiff.read(path).data.shape == (2000, 3000)  # small: whatever it is compressed to
    monkeypatch.setattr(tiff_claims, "SMALL", 2**20)
    with pytest.raises(FileError, match="set SSI_CUPY_TIFF_EXPANSION to more"):
        tiff.read(path)
    monkeypatch.setenv("SSI_CUPY_TIFF_EXPANSION", "2000")
    assert tiff.read(path).data.shape == (2000, 3000)


@pytest.mark.parametrize("name", ["lying_header.tif", "series_unlike_page.tif"])
def test_files_that_were_found_in_the_wild(name):
    if not (SHARED / name).exists():
        pytest.skip("the file is not here")
    for function in (tiff.read, gather):
        with pytest.raises(FileError):
            function(SHARED / name)


def damaged(rng, whole):
    """A file with a few bytes changed, cut off, or with a number of its header replaced."""
    data = bytearray(whole)
    kind = rng.integers(4)
    if kind == 0:
        data = data[: rng.integers(1, len(data))]
    elif kind == 1:
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    elif kind == 2:
        for at in rng.integers(0, len(data), 8):
            data[at] = rng.integers(256)
    else:
        at = int(rng.integers(4, max(len(data) - 4, 5)))
        data[at : at + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 10**9])).to_bytes(4, "big")
    return bytes(data)


def test_three_hundred_damaged_files(tmp_path):
    """No traceback, none that takes over 5 s, none that asks for more than `BOUND`."""
    rng, seed = np.random.default_rng(21), tmp_path / "seed.tif"
    stack = {"photometric": "minisblack"}
    originals = [
        write(seed), write(seed, compression="zlib"), write(seed, bigtiff=True),
        write(seed, imagej=True), write(seed, ome=True), write(seed, tile=(16, 16), **stack),
    ]  # fmt: skip
    paths = []
    for i in range(300):
        paths.append(tmp_path / f"{i}.tif")
        paths[-1].write_bytes(damaged(rng, originals[i % len(originals)]))
    done = subprocess.run(
        [sys.executable, "-c", READER % BOUND], input="\n".join(map(str, paths)), text=True,
        capture_output=True, cwd=ROOT, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert len(said) == 600
    assert {kind for _, kind, _, _ in said} == {"read", "refused"}
    assert all(lines == 1 for _, _, lines, _ in said)
    assert max(seconds for *_, seconds in said) < 5
    assert "Traceback" not in done.stderr
