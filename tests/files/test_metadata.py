"""What a file tells beside its pixels is in the file that is written like it."""

import numpy as np
import pytest
import tifffile

from ssi_cupy.files import tiff

STACK = np.random.default_rng(0).normal(100, 10, (3, 2, 16, 20)).astype(np.float32)


def test_imagejs_times_labels_and_mode_go_through(tmp_path):
    labels = [f"plane {i}" for i in range(6)]
    told = {"axes": "TCYX", "finterval": 2.5, "fps": 0.4, "Labels": labels, "mode": "composite"}
    told |= {"min": 1.0, "max": 99.0, "Ranges": (1.0, 99.0, 5.0, 60.0)}
    tifffile.imwrite(tmp_path / "in.tif", STACK, imagej=True, metadata=told)
    image = tiff.read(tmp_path / "in.tif")
    tiff.write(tmp_path / "out.tif", image.data + 1, like=image)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        found = file.imagej_metadata
    assert {k: found[k] for k in told if k != "axes"} == {k: told[k] for k in told if k != "axes"}
    tiff.write(tmp_path / "one.tif", image.data[0, 0], "YX", like=image)  # fewer planes, no labels
    with tifffile.TiffFile(tmp_path / "one.tif") as file:
        assert not {"Labels", "Ranges"} & set(file.imagej_metadata)
        assert file.imagej_metadata["finterval"] == 2.5


def test_imagejs_colours_of_channels_go_through(tmp_path):
    ramp = np.arange(256, dtype=np.uint8)
    tables = [np.stack([ramp, 0 * ramp, 0 * ramp]), np.stack([0 * ramp, ramp, ramp])]
    told = {"axes": "TCYX", "mode": "composite", "LUTs": tables}
    tifffile.imwrite(tmp_path / "in.tif", STACK, imagej=True, metadata=told)
    tiff.write(tmp_path / "out.tif", STACK + 1, like=tiff.read(tmp_path / "in.tif"))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        np.testing.assert_array_equal(file.imagej_metadata["LUTs"], tables)


def test_omes_names_and_times_go_through(tmp_path):
    told = {"axes": "TCYX", "Name": "cells", "TimeIncrement": 2.5, "TimeIncrementUnit": "s"}
    channels = {"Channel": {"Name": ["DNA", "actin"]}}
    tifffile.imwrite(tmp_path / "in.ome.tif", STACK, ome=True, metadata=told | channels)
    image = tiff.read(tmp_path / "in.ome.tif")
    tiff.write(tmp_path / "out.ome.tif", image.data + 1, like=image)
    again = tiff.read(tmp_path / "out.ome.tif").metadata
    assert again["Name"] == "cells" and again["Channel"] == {"Name": ["DNA", "actin"]}
    assert float(again["TimeIncrement"]) == pytest.approx(2.5)
    assert again["TimeIncrementUnit"] == "s"
