"""Files on the command line: several at once, their formats, what is written of them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from ssi_cupy import psf
from ssi_cupy.commands import arguments, cli
from ssi_cupy.files import formats, tiff

RNG = np.random.default_rng(0)
STEPS = ("--steps", "2", "--no-progress")


def picture(*shape):
    return RNG.normal(100, 10, shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiff.write("psf.tif", psf.gaussian(1.0))
    Path("in").mkdir()
    for name in ("a.tif", "b.ome.tif"):
        formats.write(f"in/{name}", picture(24, 24), "YX", {"Y": 0.2, "X": 0.2})
    np.save("in/c.npy", picture(20, 24))
    return tmp_path


def deconvolve(*images, out="out"):
    return cli.main(["deconvolve", *images, "--psf", "psf.tif", "-o", out, *STEPS])


# ---- several ------------------------------------------------------------------------------------


def test_a_folder_is_restored_image_by_image(folder, capsys):
    more = ["--denoised", "blurred"]
    assert cli.main(["deconvolve", "in", "--psf", "psf.tif", "-o", "out", *STEPS, *more]) == 0
    for where in ("out", "blurred"):
        assert sorted(os.listdir(where)) == ["a.tif", "b.ome.tif", "c.npy"]
    assert "3 of 3 images restored" in capsys.readouterr().out
    assert deconvolve("in/a.tif", out="alone.tif") == 0
    np.testing.assert_array_equal(tiff.read("out/a.tif").data, tiff.read("alone.tif").data)
    assert tiff.read("out/b.ome.tif").flavour == "ome"


def test_a_pattern_and_several_names(folder):
    assert deconvolve("in/*.tif", "in/c.npy") == 0
    assert sorted(os.listdir("out")) == ["a.tif", "b.ome.tif", "c.npy"]
    assert cli.main(["denoise", "in/a.tif", "in/c.npy", *STEPS]) == 0
    assert {"a_denoised.tif", "c_denoised.npy"} <= set(os.listdir("in"))


def test_one_bad_image_leaves_the_others(folder, capsys):
    tiff.write("in/blank.tif", np.full((24, 24), 7.0))
    Path("in/broken.tif").write_bytes(b"II*\0")
    assert deconvolve("in") == 1
    assert sorted(os.listdir("out")) == ["a.tif", "b.ome.tif", "c.npy"]
    told = capsys.readouterr()
    assert "3 of 5 images restored" in told.out
    assert told.err.count("left out: ") == 2 and "in/broken.tif" in told.err


@pytest.mark.parametrize("options, told", [
    (["in", "-o", "psf.tif"], "--output: expected a folder"),
    (["in", "-o", "in"], "--output: expected another folder than that"),
    (["in", "-o", "out", "--checkpoint", "c.npz"], "--checkpoint: expected a single image, got 3"),
    (["in/a.tif", "other/a.tif", "-o", "out"], "IN: expected images whose names differ"),
    (["empty", "-o", "out"], "IN: expected files that end in .tif"),
    (["in", "-o", "out", "--recipe", "none"], "--recipe: expected"),
])  # fmt: skip
def test_what_cannot_be_done_with_several_is_named(folder, capsys, options, told):
    Path("empty").mkdir()
    Path("other").mkdir()
    tiff.write("other/a.tif", picture(24, 24))
    assert cli.main(["deconvolve", *options, "--psf", "psf.tif", *STEPS]) == 2
    assert told in capsys.readouterr().err
    assert not Path("out").exists() or not os.listdir("out")


# ---- what is written ------------------------------------------------------------------------


def test_dtype_and_compression(folder, caplog):
    assert cli.main(["denoise", "in/a.tif", "-o", "out.tif", "--dtype", "uint8",
                     "--compression", "zlib", *STEPS]) == 0  # fmt: skip
    with tifffile.TiffFile("out.tif") as file:
        assert file.pages[0].dtype == np.uint8
        assert file.pages[0].compression.name == "ADOBE_DEFLATE"


@pytest.mark.parametrize("options, told", [
    (["--dtype", "float128"], "--dtype: expected one of"),
    (["--compression", "rar"], "--compression: expected one of"),
    (["--series", "3"], "--series: expected a number below 1"),
])  # fmt: skip
def test_bad_settings_are_named_before_the_work(folder, capsys, options, told):
    assert cli.main(["denoise", "in/a.tif", "-o", "out.tif", *options, *STEPS]) == 2
    assert told in capsys.readouterr().err
    assert not Path("out.tif").exists()


def test_a_zarr_image_there_and_back(folder):
    pytest.importorskip("zarr")
    formats.write("in.zarr", picture(3, 24, 24), "ZYX", {"Z": 0.5, "Y": 0.2, "X": 0.2})
    assert cli.main(["denoise", "in.zarr", "-o", "out.zarr", *STEPS]) == 0
    found = formats.read("out.zarr")
    assert found.axes == "ZYX" and found.spacing == pytest.approx({"Z": 0.5, "Y": 0.2, "X": 0.2})


def test_names_of_what_is_written():
    for name, dtype, expected in [
        ("a.tif", "float32", "a.tif"), ("a.OME.TIF", "float32", "a.ome.TIF"),
        ("a.npz", "float32", "a.npy"), ("a.png", "float32", "a.tif"), ("a.png", "uint8", "a.png"),
        ("a.b.zarr", "float32", "a.b.zarr"),
    ]:  # fmt: skip
        assert arguments.target(Path(name), dtype) == expected


# ---- help ---------------------------------------------------------------------------------------


def test_help_on_a_terminal_of_ascii():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "ssi_cupy", "deconvolve", "--help"],
                          capture_output=True, env=environment)  # fmt: skip
    assert done.returncode == 0 and b"--spacing" in done.stdout and not done.stderr


def test_completions_are_printed(capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as ended:
        cli.main(["--print-completion", "bash"])
    assert ended.value.code == 0 and "deconvolve" in capsys.readouterr().out
