"""What every command shares: versions, help on any terminal, a log, lines in place of a bar."""

import subprocess
import sys

import numpy as np
import pytest

import ssi_cupy
from ssi_cupy import psf, restore
from ssi_cupy.commands import cli
from ssi_cupy.engine.checks import OutOfMemory
from ssi_cupy.files import tiff

COMMANDS = "deconvolve denoise train apply psf demo doctor".split()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).normal(100, 10, (32, 32)).astype(np.float32)
    tiff.write("in.tif", picture)
    tiff.write("psf.tif", psf.gaussian(1.0))
    return tmp_path


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"ssi-cupy {ssi_cupy.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_can_be_read_on_a_terminal_of_ascii(command):
    code = f"from ssi_cupy.commands.cli import main; main([{command!r}, '--help'])"
    run = [sys.executable, "-X", "utf8=0", "-c", code]
    path = {"PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(run, capture_output=True, text=True, env=path)
    assert done.returncode == 0 and "usage: ssi-cupy" in done.stdout, done.stderr


def test_a_tenth_is_a_line_where_nobody_watches(folder, capsys):
    run = ["denoise", "in.tif", "--psf", "psf.tif", "--steps", "20"]
    assert cli.main(run) == 0
    lines = capsys.readouterr().err.splitlines()
    costs = [line for line in lines if "steps of" in line]  # once, if it takes its second
    lines = [line for line in lines if line.startswith("training")]  # not what is compiled
    assert len(costs) <= 1 and len(lines) == 10 and "\r" not in "".join(lines)
    assert lines[0].startswith("training on cpu: step 2 of 20, loss ")
    assert cli.main([*run, "--no-progress"]) == 0
    assert capsys.readouterr().err == ""


def test_a_log_says_what_was_run_and_on_what(folder):
    run = ["denoise", "in.tif", "--steps", "2", "--no-progress", "--tile-size", "24,24"]
    assert cli.main(["--log", "run.log", *run, "--tile-overlap", "2"]) == 0
    log = (folder / "run.log").read_text()
    assert " INFO " in log and "WARNING tiles of" in log


def test_a_log_that_cannot_be_written_is_named(folder, capsys):
    assert cli.main(["--log", "missing/run.log", "doctor"]) == 2
    assert "--log: expected a path that can be written" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OutOfMemory("cpu", 2**40, 2**30), MemoryError("4 TiB")])
def test_too_little_memory_is_one_line_with_a_way_out(folder, capsys, monkeypatch, error):
    def fails(*args, **options):
        raise error

    monkeypatch.setattr(restore, "denoise", fails)
    assert cli.main(["denoise", "in.tif"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "memory" in err and "--tile-size" in err


def test_interrupted_in_a_folder_it_says_what_was_written(folder, capsys, monkeypatch):
    from ssi_cupy.commands import apply_folder
    from ssi_cupy.inversion import SelfSupervisedInverse

    (folder / "many").mkdir()
    for name in "abc":
        tiff.write(folder / "many" / f"{name}.tif", tiff.read("in.tif").data)
    run = ["denoise", "in.tif", "--steps", "2", "--no-progress", "--save-model", "m.npz"]
    assert cli.main(run) == 0
    assert SelfSupervisedInverse.load("m.npz").net is not None
    whole, calls = apply_folder.restore, []

    def stopped_at_the_third(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(apply_folder, "restore", stopped_at_the_third)
    assert cli.main(["apply", "m.npz", "many", "-o", "out"]) == 130
    assert "interrupted; 2 written, out/b.tif the last" in capsys.readouterr().err
    assert sorted(p.name for p in (folder / "out").iterdir()) == ["a.tif", "b.tif"]


def test_a_set_of_images_says_what_it_is(folder):
    from ssi_cupy.training import image_sets

    assert repr(image_sets.gather("in.tif")) == "Images(1: 'in.tif' (1, 1, 32, 32))"
