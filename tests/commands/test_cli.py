"""The command line: what it writes, what it keeps, what it complains about, how it is stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from ssi_cupy import psf, restore
from ssi_cupy.commands import cli
from ssi_cupy.files import tiff

RNG = np.random.default_rng(0)
STEPS = ("--steps", "3", "--no-progress")


def picture(*shape):
    return RNG.normal(100, 10, shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiff.write("in.tif", picture(32, 32))
    tiff.write("psf.tif", psf.gaussian(1.0))
    return tmp_path


def deconvolve(*more, image="in.tif", kernel="psf.tif", out="out.tif"):
    return cli.main(["deconvolve", image, "--psf", kernel, "-o", out, *STEPS, *more])


# ---- what is written ------------------------------------------------------------------------


def test_deconvolve_writes_all_that_was_asked_for(folder, capsys):
    more = ("--denoised", "denoised.tif", "--save-model", "model.npz")
    assert deconvolve(*more) == 0
    assert "out.tif: 3 steps" in capsys.readouterr().out
    for name in ("out.tif", "denoised.tif"):
        image = tiff.read(name)
        assert (image.data.shape, image.data.dtype) == ((32, 32), np.float32)
        assert np.isfinite(image.data).all()
    assert Path("model.npz").stat().st_size > 0
    assert not np.array_equal(tiff.read("out.tif").data, tiff.read("denoised.tif").data)


@pytest.mark.parametrize("options", [
    "--psf gaussian", "--na 0.5 --wvl 0.6 --spacing 0.15", "--psf gaussian --na 1 --wvl 0.5",
])  # fmt: skip
def test_a_psf_that_nobody_measured_is_learned_and_told(folder, capsys, options):
    tiff.write("in.tif", picture(32, 32), "YX", {"Y": 0.1, "X": 0.1})
    assert cli.main(["deconvolve", "in.tif", "-o", "out.tif", *STEPS, *options.split()]) == 0
    told = capsys.readouterr().out
    assert "learned: LearnedPSF(" in told and " ± " in told
    assert np.isfinite(tiff.read("out.tif").data).all()


@pytest.mark.parametrize("named, options", [
    ("--psf", ""), ("--psf", "--psf psf.tif --na 0.5 --wvl 0.6"), ("--wvl", "--na 0.5"),
    ("--na", "--wvl 0.6"), ("--na", "--na 0 --wvl 0.6 --spacing 0.1"),
    ("--spacing", "--na 0.5 --wvl 0.6"),
    ("--na", "--na 1.4 --wvl 0.6 --ni 1.33 --spacing 0.1"),
])  # fmt: skip
def test_what_is_wrong_with_a_guess_of_the_psf(folder, capsys, named, options):
    assert cli.main(["deconvolve", "in.tif", "-o", "out.tif", *STEPS, *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ssi-cupy: error: {named}: expected ") and error.count("\n") == 1
    assert not Path("out.tif").exists()


def test_same_seed_same_bits(folder):
    for out, seed in (("a.tif", "5"), ("b.tif", "5"), ("c.tif", "6")):
        assert deconvolve("--seed", seed, out=out) == 0
    a, b, c = (tiff.read(name).data for name in ("a.tif", "b.tif", "c.tif"))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize("more", [(), ("--psf", "psf.tif")])
def test_denoise_writes_beside_its_input_by_default(folder, more):
    assert cli.main(["denoise", "in.tif", *STEPS, *more]) == 0
    assert tiff.read("in_denoised.tif").data.shape == (32, 32)


@pytest.mark.parametrize("options, shape", [
    (["--sigma", "1.5"], (13, 13)), (["--sigma", "1", "--ndim", "3", "--size", "5"], (5, 5, 5)),
    (["--sigma", "1,0.5,0.5"], (9, 5, 5)),
])  # fmt: skip
def test_psf_writes_a_gaussian(folder, options, shape):
    assert cli.main(["psf", *options, "-o", "gaussian.tif"]) == 0
    kernel = tiff.read("gaussian.tif").data
    assert kernel.shape == shape and kernel.sum() == pytest.approx(1, rel=1e-6)
    assert np.unravel_index(kernel.argmax(), shape) == tuple(n // 2 for n in shape)


# ---- what is kept ---------------------------------------------------------------------------

SPACING = {"Y": 0.12, "X": 0.1}


OPTICS = "--na 1.2 --wvl 0.52 --ni 1.33 --dxy 0.1 --dz 0.2 --size 5,21,21".split()


@pytest.mark.parametrize(
    "more, function, settings",
    [
        ("", psf.microscope, {}),
        ("--model vectorial --ns 1.38 --pz 5", psf.microscope,
         {"model": "vectorial", "ns": 1.38, "pz": 5}),
        ("--modality confocal --ex-wvl 0.488 --pinhole 0.8", psf.confocal,
         {"ex_wvl": 0.488, "pinhole": 0.8}),
        ("--modality spinning-disk --ex-wvl 0.488 --pitch 2", psf.spinning_disk,
         {"ex_wvl": 0.488, "pitch": 2}),
        ("--modality two-photon", psf.two_photon, {}),
        ("--modality light-sheet --sheet 1.5", psf.light_sheet, {"sheet": 1.5}),
    ],
)  # fmt: skip
def test_psf_writes_what_optics_make_of_a_point(folder, more, function, settings):
    assert cli.main(["psf", *OPTICS, *more.split(), "-o", "optics.tif"]) == 0
    found = tiff.read("optics.tif")
    optics = {"NA": 1.2, "wvl": 0.52, "ni": 1.33, "dxy": 0.1, "dz": 0.2}
    expected = function((5, 21, 21), **optics, **settings)
    np.testing.assert_allclose(found.data, expected, rtol=1e-6)
    assert found.axes == "ZYX" and found.spacing == pytest.approx({"Z": 0.2, "Y": 0.1, "X": 0.1})


@pytest.mark.parametrize(
    "option, command",
    [
        ("--sigma", ""),
        ("--na", "--sigma 1 --na 1.2"),
        ("--sigma", "--sigma 0,-1"),
        ("--na", "--na 1.4 --wvl 0.52 --ni 1.33 --dxy 0.1 --size 9"),
        ("--size", "--na 1.2 --wvl 0.52 --ni 1.33 --dxy 0.1"),
        ("--dz", "--na 1.2 --wvl 0.52 --ni 1.33 --dxy 0.1 --dz 0.1 --size 9,9"),
        ("--dz", "--na 1.2 --wvl 0.52 --ni 1.33 --dxy 0.1 --size 5,9,9"),
        ("--ndim", "--na 1.2 --wvl 0.52 --ni 1.33 --dxy 0.1 --size 9 --ndim 2"),
        ("--pinhole", "--na 1.2 --wvl 0.52 --ni 1.33 --dxy 0.1 --size 9 --pinhole 1"),
        ("--ex-wvl",
         "--na 1.2 --wvl 0.52 --ni 1.33 --dxy 0.1 --size 9 --modality confocal --pinhole 1"),
        ("--sheet", "--na 1.2 --wvl 0.52 --ni 1.33 --dxy 0.1 --size 9 --modality two-photon "
                    "--sheet 1"),
    ],
)  # fmt: skip
def test_psf_names_the_option_that_is_of_no_use(folder, capsys, option, command):
    assert cli.main(["psf", *command.split(), "-o", "optics.tif"]) == 2
    assert f"error: {option}: expected " in capsys.readouterr().err
    assert not os.path.exists("optics.tif")


@pytest.mark.parametrize("axes, shape", [("YX", (32, 32)), ("CYX", (2, 32, 32))])
@pytest.mark.parametrize("flavour", ["imagej", "ome"])
def test_axes_spacing_and_flavour_are_kept(folder, flavour, axes, shape):
    like = tiff.Image(picture(*shape), axes, SPACING, flavour)
    tiff.write("in.tif", like.data, like=like)
    assert deconvolve() == 0
    image = tiff.read("out.tif")
    assert (image.axes, image.data.shape, image.flavour) == (axes, shape, flavour)
    assert image.spacing == pytest.approx(SPACING, rel=1e-6)


def test_a_volume_keeps_its_depth(folder):
    spacing = SPACING | {"Z": 0.4}
    tiff.write("in.tif", picture(16, 16, 16), "ZYX", spacing)
    tiff.write("psf.tif", psf.gaussian(1.0, ndim=3, size=3), "ZYX", spacing)
    assert deconvolve() == 0
    image = tiff.read("out.tif")
    assert (image.axes, image.data.shape) == ("ZYX", (16, 16, 16))
    assert image.spacing == pytest.approx(spacing, rel=1e-6)


def test_pages_are_depth_where_the_psf_is_a_volume(folder):
    tifffile.imwrite("in.tif", picture(16, 16, 16), metadata=None)
    tiff.write("psf.tif", psf.gaussian(1.0, ndim=3, size=3), "ZYX")
    assert deconvolve() == 0
    assert tiff.read("out.tif").axes == "ZYX"


def test_rgb_is_restored_as_channels(folder):
    rgb = np.clip(picture(32, 32, 3), 0, 255).astype(np.uint8)
    tifffile.imwrite("in.tif", rgb, photometric="rgb")
    assert deconvolve() == 0
    image = tiff.read("out.tif")
    assert (image.axes, image.data.shape) == ("CYX", (3, 32, 32))


def test_given_axes_and_spacing_are_written(folder):
    tifffile.imwrite("in.tif", picture(2, 32, 32), photometric="minisblack", metadata=None)
    assert deconvolve("--axes", "CYX", "--spacing", "0.2") == 0
    image = tiff.read("out.tif")
    assert (image.axes, image.spacing) == ("CYX", pytest.approx({"Y": 0.2, "X": 0.2}, rel=1e-6))


# ---- what is refused ------------------------------------------------------------------------


def with_value(value):
    image = picture(32, 32)
    image[3, 4] = value
    return image


BAD_FILES = {
    "nan.tif": with_value(np.nan),
    "infinite.tif": with_value(np.inf),
    "constant.tif": np.full((32, 32), 7.0, np.float32),
    "zero.tif": np.zeros((5, 5), np.float32),
    "negative.tif": -np.ones((5, 5), np.float32),
    "large.tif": np.ones((201, 201), np.float32),
}


@pytest.mark.parametrize("named, options", [
    ("IN", {"image": "missing.tif"}), ("IN", {"image": "text.tif"}), ("IN", {"image": "cut.tif"}),
    ("IN", {"image": "nan.tif"}), ("IN", {"image": "infinite.tif"}),
    ("IN", {"image": "constant.tif"}),
    ("--psf", {"kernel": "missing.tif"}), ("--psf", {"kernel": "zero.tif"}),
    ("--psf", {"kernel": "negative.tif"}), ("--psf", {"kernel": "nan.tif"}),
    ("--psf", {"kernel": "volume.tif"}), ("--psf", {"kernel": "large.tif"}),
    ("--axes", {"image": "pages.tif"}), ("--axes", "--axes QX"), ("--axes", "--axes ZYX"),
    ("--mode", "--mode reflected"), ("--steps", "--steps -1"), ("--recipe", "--recipe none"),
    ("--device", "--device tpu"), ("--precision", "--precision bf16"),
    ("--spacing", "--spacing 1,1,1"), ("--spacing", "--spacing 0"),
    ("--tile-size", "--tile-size 0"), ("--tile-size", "--tile-size 9,9,9"),
    ("--tile-overlap", "--tile-size 16 --tile-overlap 16"),
    ("--spacing", "--psf-spacing 0.1"), ("--resume", "--resume missing.npz"),
    ("--output", {"out": "no/such/folder/out.tif"}), ("--output", {"out": "."}),
    ("--output", {"out": "in.tif"}), ("--denoised", "--denoised out.tif"),
    ("--denoised", "--denoised no/out.tif"), ("--checkpoint", "--checkpoint no/state.npz"),
    ("--save-model", "--save-model no/model.npz"), ("--checkpoint", "--checkpoint in.tif"),
], ids=str)  # fmt: skip
def test_bad_input_is_one_line_that_names_it(folder, capsys, named, options):
    for name, data in BAD_FILES.items():
        tiff.write(name, data)
    tifffile.imwrite("pages.tif", picture(9, 32, 32), metadata=None)
    tifffile.imwrite("volume.tif", np.ones((5, 5, 5), np.float32), metadata=None)
    Path("text.tif").write_text("no TIFF")
    Path("cut.tif").write_bytes(Path("in.tif").read_bytes()[:2000])
    before = sorted(os.listdir())

    more, files = (options.split(), {}) if isinstance(options, str) else ((), options)
    assert deconvolve(*more, **files) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ssi-cupy: error: {named}: expected ")
    assert error.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_outputs_are_checked_before_the_training(folder, monkeypatch):
    monkeypatch.setattr(restore, "deconvolve", lambda *_, **__: pytest.fail("trained"))
    assert deconvolve(out="no/such/folder/out.tif") == 2


# ---- how it is stopped ----------------------------------------------------------------------


def interrupt_at(monkeypatch, call):
    """Ctrl-C, the real signal, during the training."""
    calls = []

    def callback(*_, **__):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)

    original = restore.deconvolve
    monkeypatch.setattr(restore, "deconvolve", lambda *a, **k: original(*a, **k, callback=callback))


@pytest.mark.parametrize("call", [1, 3])
def test_resuming_after_an_interrupt_gives_the_same_bits(folder, capsys, monkeypatch, call):
    command = ("--steps", "6")
    assert deconvolve(*command, out="unbroken.tif") == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, call)
        assert deconvolve(*command, "--checkpoint", "state.npz") == 130
    error = capsys.readouterr().err
    assert error.endswith("add --resume state.npz\n") and "Traceback" not in error
    assert not Path("out.tif").exists()
    assert deconvolve(*command, "--resume", "state.npz") == 0
    assert np.array_equal(tiff.read("out.tif").data, tiff.read("unbroken.tif").data)


def test_an_interrupt_without_checkpoint_leaves_nothing(folder, capsys, monkeypatch):
    before = sorted(os.listdir())
    interrupt_at(monkeypatch, 2)
    assert deconvolve("--steps", "6") == 130
    assert capsys.readouterr().err == "ssi-cupy: interrupted; nothing was written\n"
    assert sorted(os.listdir()) == before


def test_python_m(folder):
    command = [sys.executable, "-m", "ssi_cupy", "psf", "--sigma", "-1", "-o", "gaussian.tif"]
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ssi-cupy: error: --sigma: expected ")


# ---- the demonstration ----------------------------------------------------------------------


def test_demo_reports_every_image_it_compares(folder, capsys):
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    assert cli.main(["demo", "--out", "new/folder", *STEPS]) == 0
    out = Path("new/folder")
    assert sorted(os.listdir(out)) == ["panel.png", "report.json", "restored.tif"]
    report = json.loads((out / "report.json").read_text())
    names = ["input", *(f"richardson_lucy_{n}" for n in (2, 5, 10, 20)), "ssi"]
    assert list(report["metrics"]) == names
    for scores in report["metrics"].values():
        assert set(scores) == {"psnr", "ssim", "mi", "smi", "rmse"}
    assert set(report["seconds"]) == {"train", "infer"}
    assert (report["steps"], report["seed"], report["device"]) == (3, 0, "cpu")
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(names)
    assert tiff.read(out / "restored.tif").data.shape == (256, 256)


def test_demo_names_a_folder_it_cannot_make(folder, capsys):
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    assert cli.main(["demo", "--out", "in.tif/folder", *STEPS]) == 2
    assert "--out: expected a folder" in capsys.readouterr().err


# ---- the README -----------------------------------------------------------------------------


def test_the_readme_s_own_model_evens_out_the_light():
    text = (Path(__file__).parents[2] / "README.md").read_text()
    code = next(part for part in text.split("```") if "class Shading" in part)
    found = {}
    exec(code.removeprefix("python").replace("fit(image,", "fit(image, progress=False,"), found)
    sample, light, image, flat = (found[n] for n in ("sample", "light", "image", "flat"))
    assert flat.shape == image.shape
    before, after = (np.abs(a - sample).mean() for a in (image, flat))
    assert after < before / 2, (before, after)


def test_a_mask_of_a_file_or_of_nan(folder):
    stack, mask = picture(2, 24, 24), np.zeros((24, 24), np.uint8)
    mask[:6, :9] = 255
    tiff.write("mask.tif", mask)
    for name, value in (("a.tif", -9999), ("b.tif", np.nan)):
        tiff.write(name, np.where(mask, value, stack), "TYX")
    assert deconvolve("--mask", "mask.tif", image="a.tif", out="1.tif") == 0
    assert deconvolve("--mask", "nan", image="b.tif", out="2.tif") == 0
    one, two = (tiff.read(name).data for name in ("1.tif", "2.tif"))
    np.testing.assert_array_equal(one, two)
    assert np.isfinite(one).all() and one.shape == stack.shape


def test_a_mask_of_another_shape_is_named(folder, capsys):
    tiff.write("mask.tif", np.zeros((7, 8)))
    assert deconvolve("--mask", "mask.tif") == 2
    assert "--mask: expected 'nan', or an array of bool" in capsys.readouterr().err
