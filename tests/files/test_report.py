"""The report: one file that asks for no other."""

import re
from pathlib import Path

import numpy as np
import pytest

import ssi_cupy
from small_runs import picture
from ssi_cupy.commands import cli
from ssi_cupy.engine.checks import FileError
from ssi_cupy.files import report, tiff
from ssi_cupy.psf import gaussian

pytest.importorskip("matplotlib")
QUICK = {"num_iter": 2, "progress": False, "full_output": True}


@pytest.mark.parametrize(
    "shape, axes", [((40, 32), "YX"), ((8, 24, 20), "ZYX"), ((2, 32, 40), "CYX")]
)
def test_everything_is_inside(tmp_path, shape, axes):
    psf = gaussian(1.0, ndim=3 if "Z" in axes else 2)
    found = ssi_cupy.deconvolve(picture(shape), psf, axes=axes, **QUICK)
    found.report(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"https?://|<link[^>]+href=\"(?!data:)|src=\"(?!data:)", text)
    assert found.verdict.level in text and "rng=0" in text and "num_iter=2" in text
    assert ("XZ section" in text) == ("Z" in axes)
    assert text.count("data:image/png") >= 7
    again = report.page(found)
    assert again == text


def test_the_cut_off_is_where_the_psf_ends():
    sigma = 2.0
    expected = np.sqrt(np.log(100) / 2) / np.pi / sigma
    assert report.cut_off(gaussian(sigma, ndim=2), (128, 128)) == pytest.approx(expected, abs=0.01)
    assert report.cut_off(np.ones((1, 1)), (64, 64)) == 0


def test_a_path_that_cannot_be_written_is_said_before_the_training(tmp_path, capsys):
    tiff.write(tmp_path / "in.tif", picture())
    tiff.write(tmp_path / "psf.tif", gaussian(1.0, ndim=2))
    arguments = ["deconvolve", str(tmp_path / "in.tif"), "--psf", str(tmp_path / "psf.tif"),
                 "-o", str(tmp_path / "out.tif"), "--no-progress", "--steps", "2"]  # fmt: skip
    assert cli.main([*arguments, "--report", str(tmp_path)]) == 2
    assert "--report: expected" in capsys.readouterr().err
    assert cli.main([*arguments, "--report", str(tmp_path / "no" / "r.html")]) == 2
    assert not (tmp_path / "out.tif").exists()
    page, unsure = tmp_path / "r.html", tmp_path / "u.tif"
    assert cli.main([*arguments, "--report", str(page), "--uncertainty", str(unsure)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and out[1].split(":")[0] in ("ok", "doubtful", "failed")
    assert "--steps 2" in page.read_text(encoding="utf-8")
    assert tiff.read(unsure).data.shape == picture().shape
    with pytest.raises(FileError, match="^path: expected"):
        report.check(Path(tmp_path))
