"""Sets of images: where they come from, what one pass finds, what cannot be one set."""

import numpy as np
import pytest
import tifffile

from ssi_cupy.engine.checks import FileError, InputError
from ssi_cupy.files import tiff
from ssi_cupy.training import image_sets
from ssi_cupy.training.image_sets import gather

RNG = np.random.default_rng(0)


def counts(*shape, dtype=np.uint16):
    return RNG.integers(0, 200, shape).astype(dtype)


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        tifffile.imwrite(tmp_path / f"{'cab'[i]}.tif", counts(20 + i, 30))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._c.tif").write_text("a scrap")
    return tmp_path


# ---- where they come from -------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_names(folder):
    for where in (folder, str(folder), str(folder / "*.tif")):
        found = gather(where)
        assert found.names == ["a.tif", "b.tif", "c.tif"]
        assert found.shapes == [(1, 1, n, 30) for n in (21, 22, 20)]
    assert gather(folder / "b.tif").names == ["b.tif"]


def test_paths_and_arrays_may_be_listed(folder):
    found = gather([folder / "a.tif", counts(40, 41), counts(1, 1, 42, 43)])
    assert [shape[2:] for shape in found.shapes] == [(21, 30), (40, 41), (42, 43)]
    assert gather(counts(4, 2, 5, 20, 21)).shapes == [(2, 5, 20, 21)] * 4


@pytest.mark.parametrize("options", [
    {}, {"compression": "zlib"}, {"byteorder": ">"}, {"tile": (16, 16)}, {"rowsperstrip": 7},
])  # fmt: skip
@pytest.mark.parametrize("shape, axes, box", [
    ((40, 50), "YX", (1, 20, 30)), ((5, 40, 50), "ZYX", (3, 20, 30)),
    ((2, 5, 40, 50), "CZYX", (3, 20, 30)), ((5, 2, 40, 50), "ZCYX", (3, 20, 30)),
])  # fmt: skip
def test_boxes_are_cut_from_files_of_all_kinds(tmp_path, options, shape, axes, box):
    pixels = counts(*shape)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", **options)
    found = gather(tmp_path / "a.tif", axes=axes)
    order = [axes.index(a) for a in "CZYX" if a in axes]
    sizes = dict(zip(axes, shape, strict=True))
    whole = pixels.transpose(order).reshape([sizes.get(a, 1) for a in "CZYX"])
    assert np.array_equal(found.whole(0), whole)
    start = (1 if "Z" in axes else 0, 3, 20)
    cut = tuple(slice(a, a + n) for a, n in zip(start, box, strict=True))
    assert np.array_equal(found.box(0, start, box), whole[(slice(None), *cut)])
    around = found.box(0, (0, -3, 40), (1, 20, 20))  # where it ends, it begins again
    assert np.array_equal(around, np.roll(whole, (3, 10), (2, 3))[:, :1, :20, :20])


def test_time_points_are_images_of_their_own(tmp_path):
    pixels = counts(4, 2, 20, 30)
    tiff.write(tmp_path / "a.tif", pixels, "TCYX")
    found = gather(tmp_path / "a.tif")
    assert found.shapes == [(2, 1, 20, 30)] * 4 and "[T=3]" in found.names[3]
    assert np.array_equal(found.whole(2)[:, 0], pixels[2])


def test_pixel_sizes_of_the_first_file(tmp_path):
    sizes = {"Z": 0.5, "Y": 0.2, "X": 0.1}
    tiff.write(tmp_path / "a.tif", counts(5, 20, 30), "ZYX", sizes)
    tiff.write(tmp_path / "b.tif", counts(20, 30), "YX")
    assert gather(tmp_path / "a.tif").spacing == pytest.approx((0.5, 0.2, 0.1))
    assert gather(tmp_path / "b.tif").spacing is None and gather([counts(20, 20)]).spacing is None


def test_few_compressed_files_are_kept(tmp_path):
    for i in range(4):
        tifffile.imwrite(tmp_path / f"{i}.tif", counts(20, 30), compression="zlib")  # 1200 bytes
    cache = image_sets._Cache(3000)
    layouts = [tiff.layout(tmp_path / f"{i}.tif") for i in range(4)]
    first = cache.get(layouts[0], "image")
    assert cache.get(layouts[0], "image") is first
    for layout in layouts:
        cache.get(layout, "image")
    assert len(cache.kept) == 2 and cache.size == 2400


# ---- what one pass finds --------------------------------------------------------------------


def test_moments_are_those_of_all_pixels_together():
    arrays = [RNG.normal(1e6 + 10 * i, 1 + i, (20 + i, 30)) for i in range(5)]
    found, together = gather(arrays), np.concatenate([a.ravel() for a in arrays])
    exact = together.astype(np.longdouble)  # a mean of 10⁶ spreads: numpy's own sums lose digits
    assert found.moments() == pytest.approx((float(exact.mean()), float(exact.std())), rel=1e-11)
    assert found.ends() == (together.min(), together.max())
    assert found.percentiles((1, 50)) == pytest.approx(np.percentile(together, (1, 50)))
    part = found.subset([1, 3])
    assert part.names == ["image[1]", "image[3]"] and len(found) == 5
    assert part.moments()[0] == pytest.approx(
        np.concatenate([arrays[i].ravel() for i in (1, 3)]).mean()
    )


# ---- what cannot be one set -----------------------------------------------------------------


@pytest.mark.parametrize("arrays, said", [
    ([counts(20, 20), counts(5, 20, 20)], r"2-D \(image\[0\]\) and 3-D \(image\[1\]\)"),
    ([counts(2, 1, 20, 20), counts(1, 1, 20, 20)], "2 channels .* and 1 channels"),
    ([counts(20, 20), np.full((20, 20), np.nan)], r"image\[1\]: expected finite"),
    ([counts(20, 20), counts(20)], r"image\[1\]: expected a 2-D or 3-D or 4-D"),
    ([counts(20, 20), None], r"image\[1\]: expected an array of real numbers"),
    ([], "at least one image"),
])  # fmt: skip
def test_arrays_that_are_no_set(arrays, said):
    with pytest.raises(InputError, match=said):
        gather(arrays)


def test_mixed_kinds_are_warned_of(caplog):
    gather([counts(20, 20), counts(20, 20, dtype=np.uint8)])
    assert "uint16 (image[0]), uint8 (image[1])" in caplog.text


def test_places_without_images(tmp_path):
    for where in (tmp_path, tmp_path / "*.tif", tmp_path / "missing.tif"):
        with pytest.raises(FileError, match="TIFF"):
            gather(where)


def test_a_bad_file_is_raised_or_reported(folder):
    (folder / "d.tif").write_bytes((folder / "a.tif").read_bytes()[:300])
    tifffile.imwrite(folder / "e.tif", np.full((20, 20), np.nan, np.float32))
    with pytest.raises(FileError, match=r"d\.tif"):
        gather(folder)
    said = []
    assert gather(folder, bad=said.append).names == ["a.tif", "b.tif", "c.tif"]
    assert len(said) == 2 and "d.tif" in str(said[0]) and "e.tif" in str(said[1])


def test_axes_that_a_file_does_not_tell_are_asked_for(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", counts(5, 20, 30), photometric="minisblack")
    with pytest.raises(FileError, match="axes: expected a letter"):
        gather(tmp_path)
    assert gather(tmp_path, axes="ZYX").shapes == [(1, 5, 20, 30)]
