"""What a file's name means: read and written as that, or refused by name."""

import numpy as np
import pytest
import tifffile

from ssi_cupy.commands import cli
from ssi_cupy.engine.checks import FileError
from ssi_cupy.files import formats, tiff

PIXELS = np.random.default_rng(0).normal(100, 10, (20, 24)).astype(np.float32)


def test_an_ome_name_is_an_ome_file(tmp_path):
    path = tmp_path / "out.ome.tif"
    formats.write(path, PIXELS, "YX", {"Y": 0.2, "X": 0.2})
    with tifffile.TiffFile(path) as file:
        assert file.is_ome and not file.is_imagej
    found = tiff.read(path)
    np.testing.assert_array_equal(found.data, PIXELS)
    assert found.spacing == pytest.approx({"Y": 0.2, "X": 0.2})


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_arrays_of_numpy_are_read(tmp_path, ending):
    path = tmp_path / f"in.{ending}"
    (np.save if ending == "npy" else np.savez)(path, PIXELS)
    found = formats.read(path)
    np.testing.assert_array_equal(found.data, PIXELS)
    assert found.axes == "YX" and found.spacing == {}


def test_from_npy_to_npy_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("in.npy", PIXELS)
    assert cli.main(["denoise", "in.npy", "-o", "out.npy", "--steps", "2", "--no-progress"]) == 0
    found = np.load("out.npy")
    assert found.dtype == np.float32 and found.shape == PIXELS.shape


@pytest.mark.parametrize("name", ["out.gif", "out", "out.jpg"])
def test_what_is_not_written_is_refused_before_the_work(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    tiff.write("in.tif", PIXELS)
    assert cli.main(["denoise", "in.tif", "-o", name, "--steps", "2"]) == 2
    assert (
        "--output: expected a name that ends in .tif, .ome.tif, .npy, " in capsys.readouterr().err
    )
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]


@pytest.mark.parametrize("name", ["a.czi", "a.nd2", "a.lif"])
def test_files_of_microscopes_say_how_to_convert_them(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FileError, match="^IN: expected a TIFF, .*bfconvert.*, got "):
        formats.read(tmp_path / name, "IN")


def test_two_arrays_and_pickled_ones_are_refused(tmp_path):
    np.savez(tmp_path / "two.npz", a=PIXELS, b=PIXELS)
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    for name in ("two.npz", "pickled.npy", "cut.npy", "missing.npy"):
        with pytest.raises(FileError, match="^IN: expected a whole file of one array"):
            formats.read(tmp_path / name, "IN")
