"""The tables' bench resumes, survives bad images, and says what its figures stand for."""

import csv
import errno
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from bench.papers import figures, images, methods, published, records, table1, tabulate

pytest.importorskip("skimage", reason="the benches need scikit-image")
io = pytest.importorskip("skimage.io")

DATA = images.folder()
REFERENCE = DATA.resolve().parents[1] / "reference"
CHEAP = ["blurry", "input", "richardson_lucy_2", "richardson_lucy_5"]


@pytest.fixture
def folder(tmp_path):
    """Two small images, not square, bright blobs on a dark ground."""
    place, rng = tmp_path / "images", np.random.default_rng(0)
    place.mkdir()
    for name in ("one", "two"):
        blobs = np.kron(rng.integers(0, 200, (8, 10)), np.ones((6, 6)))
        save(place / f"{name}.png", blobs + rng.integers(0, 20, blobs.shape))
    return place


def save(path, image):
    io.imsave(path, np.asarray(image, np.uint8), check_contrast=False)


def run(folder, out, *options, names=CHEAP):
    arguments = ["--images", folder, "--out", out, "--methods", *names, *options]
    return table1.main([str(argument) for argument in arguments])


def rows(out):
    with open(out / "table1.csv", newline="") as file:
        return {(row["image"], row["method"]): row for row in csv.DictReader(file)}


def test_a_run_that_was_cut_goes_on_where_it_stopped(folder, tmp_path, monkeypatch, capsys):
    out, measured, calls = tmp_path / "out", tabulate.measured, []

    def cut(sample, name, method):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append((sample.name, name))
        return measured(sample, name, method)

    monkeypatch.setattr(tabulate, "measured", cut)
    assert run(folder, out) == 130
    assert "goes on from here" in capsys.readouterr().err
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert len(before) == 5

    calls.clear()
    assert run(folder, out) == 0
    assert calls == [("two", name) for name in CHEAP[1:]]
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert set(rows(out)) == {(image, name) for image in ("one", "two") for name in CHEAP}

    calls.clear()
    assert run(folder, out) == 0 and not calls
    (out / "one.input.json").write_text('{"half')
    assert run(folder, out) == 0 and calls == [("one", "input")]


def test_results_of_other_settings_are_never_mixed_in(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(folder, out) == 0
    assert run(folder, out, "--crop", 40, names=["input"]) == 2
    assert "one.input.json with another crop" in capsys.readouterr().err
    assert run(folder, out, "--crop", 40, "--redo", names=["input"]) == 0
    assert set(rows(out)) == {("one", "input"), ("two", "input")}  # the others are of no crop
    assert {row["height"] for row in rows(out).values()} == {"40"}

    image = io.imread(folder / "one.png")
    save(folder / "one.png", 255 - image)
    assert run(folder, out, "--crop", 40, names=["input"]) == 2
    assert "another image" in capsys.readouterr().err


def test_the_recipes_run_and_the_table_says_for_how_many_steps(folder, tmp_path):
    names = ["ssi", "ssi_no_masking", "default"]
    assert run(folder / "one.png", tmp_path, "--steps", 2, "--crop", 32, names=names) == 0
    for row in rows(tmp_path).values():
        assert row["steps"] == "2" and row["device"] == "cpu" and float(row["train"]) > 0
    assert run(folder / "one.png", tmp_path, "--steps", 3, "--crop", 32, names=names) == 2
    text = (tmp_path / "table1.md").read_text()
    assert "Device: default recipe on cpu" in text and "| 2 |" in text


def test_the_table_holds_the_published_figures_beside_ours(folder, tmp_path):
    assert run(folder, tmp_path, names=["input", "richardson_lucy_2", "richardson_lucy_5"]) == 0
    text = (tmp_path / "table1.md").read_text()
    lines = {cells[1]: cells for cells in (line.split(" | ") for line in text.split("\n") if line)
             if len(cells) > 5 for cells in [["", *cells]]}  # fmt: skip
    lucy = lines["| Richardson–Lucy 5"]
    mean = np.mean([float(rows(tmp_path)[name, "richardson_lucy_5"]["psnr"])
                    for name in ("one", "two")])  # fmt: skip
    assert lucy[2] == "2" and lucy[3] == f"{mean:.2f} (22.2)"
    assert [cell.partition(" ")[2] for cell in lucy[4:10]] == [
        "(0.59)", "(0.44)", "(0.12)", "(0.25)", "(0.082)", "(0.00)",
    ]  # fmt: skip
    assert "(0.086)" in lines["| Richardson–Lucy 2"][8]
    assert "(17.8)" in lines["| blurry and noisy (input)"][3]
    assert "Only 2 of 22 images were run" in text and "Date: " in text and "Commit: " in text


def test_rows_of_different_images_are_also_compared_on_those_they_share(folder, tmp_path):
    assert run(folder, tmp_path, names=["input"]) == 0
    assert run(folder / "two.png", tmp_path, names=["blurry"]) == 0
    text = (tmp_path / "table1.md").read_text()
    assert "over the 1 that all methods were run on" in text
    assert text.count("| blurry |") == 2


# ---- bad input -----------------------------------------------------------------------------------


def test_corrupt_images_are_reported_and_the_others_go_on(folder, tmp_path, capsys):
    whole = (folder / "one.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "flipped.png").write_bytes(whole[:60] + bytes(20) + whole[80:])
    (folder / "none.png").write_bytes(b"")
    huge = whole[:16] + struct.pack(">II", 2**30, 2**30) + whole[24:]
    (folder / "huge.png").write_bytes(huge)
    save(folder / "flat.png", np.full((40, 40), 7))
    out = tmp_path / "out"
    assert run(folder, out) == 1
    said, text = capsys.readouterr().err, (out / "table1.md").read_text()
    for name in ("cut", "flipped", "none", "huge", "flat"):
        assert f"table1: {name}: image: expected" in said and f"Not run: {name}" in text
    assert {image for image, _ in rows(out)} == {"one", "two"}


def test_colour_is_made_grey_and_that_is_said(folder, tmp_path, capsys):
    grey = io.imread(folder / "one.png")
    save(folder / "rgb.png", np.stack([grey, grey // 2, 255 - grey], -1))
    save(folder / "rgba.png", np.stack([grey, grey, grey, np.full_like(grey, 90)], -1))
    assert run(folder, tmp_path, names=["input"]) == 0
    assert "rgb: colour converted to grey" in capsys.readouterr().out
    text = (tmp_path / "table1.md").read_text()
    assert "- rgba: transparency dropped, colour converted to grey" in text
    psnr = {name: row["psnr"] for (name, _), row in rows(tmp_path).items()}
    assert psnr["rgba"] == psnr["one"] != psnr["rgb"]


@pytest.mark.parametrize("names", [[], ["*.tif"], ["nothing.png"], ["one.png", "sub"]])
def test_nothing_to_run_on_is_an_error(names, folder, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    sources = [folder / name for name in names] or [empty]
    arguments = ["--out", str(tmp_path / "out"), "--images", *map(str, sources)]
    assert table1.main(arguments) == 2
    assert "--images: expected one file at least" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_images_of_one_name_are_an_error(folder, tmp_path, capsys):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "one.png").write_bytes((folder / "one.png").read_bytes())
    arguments = ["--images", str(folder), str(tmp_path / "more"), "--out", str(tmp_path / "out")]
    assert table1.main(arguments) == 2
    assert "images of different names" in capsys.readouterr().err


def test_missing_data_is_an_error_that_names_the_variable(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SSI_CUPY_DATA", str(tmp_path / "absent"))
    assert table1.main(["--out", str(tmp_path / "out")]) == 2
    assert "SSI_CUPY_DATA" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, value",
    [("--methods", "magic"), ("--methods", "richardson_lucy_0"), ("--crop", "0"),
     ("--steps", "-1"), ("--device", "abacus")],
)  # fmt: skip
def test_options_that_cannot_be_are_named(option, value, folder, tmp_path, capsys):
    assert run(folder, tmp_path, option, value) == 2
    assert f"table1: {option.strip('-')}" in capsys.readouterr().err.replace("--", "")


def test_a_full_disk_is_reported_and_leaves_nothing_half_written(
    folder, tmp_path, monkeypatch, capsys
):
    out, write = tmp_path / "out", Path.write_text

    def full(path, text, **options):
        write(path, text[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    assert run(folder / "one.png", out, "--keep", names=["input"]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        assert run(folder, out, names=["blurry"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    there = {"one.truth.npy", "one.input.npy", "one.input.json", "table1.csv", "table1.md"}
    assert {path.name for path in out.iterdir()} == there
    assert run(folder, out, names=["blurry"]) == 0


# ---- figures -------------------------------------------------------------------------------------


def test_figures_are_drawn_from_what_was_kept(folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out, pictures = tmp_path / "out", tmp_path / "pictures"
    arguments = ["--from", str(out), "--out", str(pictures), "--window", "24"]
    assert run(folder, out) == 0
    assert figures.main(arguments) == 2
    assert "results of table1 --keep" in capsys.readouterr().err
    assert run(folder, out, "--keep") == 0  # for want of the arrays, again
    assert figures.main(arguments) == 0
    for name in ("figure_3.png", "figure_4.png"):
        assert io.imread(pictures / name).std() > 10
    assert figures.main([*arguments, "--images", "three"]) == 2


def test_the_window_is_where_the_detail_is():
    truth = np.zeros((50, 70))
    truth[30:40:2, 50:64:2] = 1
    rows, columns = figures.busiest(truth, 20)
    assert rows.start <= 30 and rows.stop >= 39 and columns.start <= 50 and columns.stop >= 63
    assert truth[figures.busiest(truth, 60)].shape == (50, 60)


# ---- agreement with what was published -----------------------------------------------------------


def test_every_published_figure_belongs_to_a_method_and_a_column():
    columns = {*methods.COLUMNS, "train", "infer"}
    for table in (published.TABLE1, published.TABLE3, published.TABLE4):
        assert set(table.figures) <= set(methods.NAMES)
        assert all(set(figures) <= columns for figures in table.figures.values())


def test_a_record_that_was_changed_is_none(tmp_path):
    record = {"image": "a", "method": "input", "settings": {"crop": 3}}
    records.store(tmp_path, record)
    path = records.path_of(tmp_path, "a", "input")
    assert records.load(path)["settings"] == {"crop": 3}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": {"crop": 4}}))
    assert records.load(path) is None


@pytest.mark.skipif(
    not (REFERENCE.is_dir() and DATA.is_dir()),
    reason=f"the benchmark's images are not at {DATA}: set SSI_CUPY_DATA",
)
def test_the_classical_rows_of_an_image_agree_with_the_reference(tmp_path):
    published = np.load(REFERENCE / "psf_2d_17x17.npy")
    assert abs(images.kernel() - published).max() < 1e-6 * published.max()
    names = ["blurry", "input", *(f"richardson_lucy_{n}" for n in (2, 5, 10, 20))]
    assert run(DATA / "cytoplasm924x624.png", tmp_path, names=names) == 0
    found = rows(tmp_path)
    with open(REFERENCE / "table1_classical_per_image.csv", newline="") as file:
        expected = [row for row in csv.DictReader(file) if row["image"] == "cytoplasm924x624.png"]
    assert len(expected) == len(names)
    for row in expected:
        ours = found["cytoplasm924x624", row["method"]]
        for column in methods.COLUMNS:
            tolerance = 0.05 if column == "psnr" else 0.005
            assert float(ours[column]) == pytest.approx(float(row[column]), abs=tolerance)
