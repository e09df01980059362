"""The bench of restoration against noise: what it degrades; that it goes on where it stopped."""

import json

import numpy as np
import pytest

from bench.trust import noise, specimens
from ssi_cupy.noise import estimate_noise


def generated(half):
    """The cases that need neither scikit-image nor the benchmark's images."""
    return [c for c in specimens.cases(half) if c.image.startswith("stars")]


def test_no_image_is_in_both_halves():
    assert not set(specimens.TUNING) & set(specimens.JUDGING)
    for half, images in specimens.HALVES.items():
        found = specimens.cases(half)
        assert len({c.name for c in found}) == len(specimens.PSFS) * len(specimens.NOISES)
        assert {c.image for c in found} <= set(images)
        assert len({c.kind for c in found}) >= 3
        assert len({c.name for c in specimens.cases(half, volumes=True)}) == 18


@pytest.mark.parametrize("half", specimens.HALVES)
def test_light_comes_from_beyond_the_border(half):
    for case in generated(half):
        truth, image, psf = specimens.make(case, 40)
        assert truth.shape == image.shape == (40, 40) and psf.sum() == pytest.approx(1)
        if case.noise[0] == "p":
            assert (image == np.rint(image)).all() and image.min() >= 0
            assert truth.max() <= float(case.noise[1:])
        else:
            level = float(case.noise[1:])
            assert estimate_noise(image, psf) == pytest.approx(level, rel=0.35)


@pytest.mark.parametrize("aspect", [1, 3])
@pytest.mark.parametrize("kind", specimens.VOLUMES)
def test_volumes(kind, aspect):
    case = specimens.Case(f"{kind}-tuning", "microscope", "p100", "tuning", aspect)
    truth, image, psf = specimens.make(case, 24)
    assert truth.shape == image.shape and truth.ndim == psf.ndim == 3
    assert 50 < truth.max() <= 100 and noise.psnr(truth, truth + 1) > 30


def test_a_run_goes_on_where_it_stopped(tmp_path, capsys):
    case = next(c for c in generated("judging") if c.noise == "s0.1")
    run = ["--out", str(tmp_path), "--size", "32", "--steps", "2", "--cases", case.name]
    assert noise.main(run) == 0
    record = json.loads((tmp_path / f"{case.name}.json").read_text())
    assert set(record["classical"]) == {"richardson_lucy", "richardson_lucy_tv", "wiener", "tv"}
    assert record["half"] == "judging" and list(record["default"]) == ["0"]
    for method, score in record["usual"].items():  # no habit beats the oracle
        assert score <= record["classical"][method][0]
    assert noise.main([*run, "--seeds", "2"]) == 0
    again = json.loads((tmp_path / f"{case.name}.json").read_text())
    assert again["default"]["0"] == record["default"]["0"] != again["default"]["1"]
    assert again["classical"] == record["classical"]
    table = (tmp_path / "noise_judging.md").read_text()
    assert case.image in table and "mean gain" in capsys.readouterr().out
    assert (tmp_path / "noise_judging.png").stat().st_size > 1000


def test_bad_input(tmp_path, capsys):
    assert noise.main(["--out", str(tmp_path), "--size", "8"]) == 2
    assert "--size" in capsys.readouterr().err
