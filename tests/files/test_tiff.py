"""TIFFs: pixels, axes and spacing survive in every flavour; a bad file is said to be one."""

import os
from fractions import Fraction

import numpy as np
import pytest
import tifffile

from ssi_cupy.engine.checks import FileError, InputError
from ssi_cupy.files import atomic, tiff

RNG = np.random.default_rng(0)
SPACING = {"Z": 0.5, "Y": 0.12, "X": 0.1}


def array(*shape, dtype=np.uint16):
    return RNG.integers(0, 200, shape).astype(dtype)


def exactly(number):
    """As two whole numbers: of a float, a tifffile of before 2026 drops digits."""
    return Fraction(number).limit_denominator(1000).as_integer_ratio()


def save_imagej(path, data, axes, unit="um", factor=1.0):
    sizes = {axis: size / factor for axis, size in SPACING.items()}
    metadata = {"axes": axes, "unit": unit} | ({"spacing": sizes["Z"]} if "Z" in axes else {})
    resolution = exactly(1 / sizes["X"]), exactly(1 / sizes["Y"])
    tifffile.imwrite(path, data, imagej=True, resolution=resolution, metadata=metadata)


def save_ome(path, data, axes, unit="µm", factor=1.0):
    metadata = {"axes": axes}
    for axis in set(axes) & set("ZYX"):
        metadata |= {f"PhysicalSize{axis}": SPACING[axis] / factor}
        metadata |= {f"PhysicalSize{axis}Unit": unit}
    tifffile.imwrite(path, data, ome=True, metadata=metadata)


def expected_spacing(axes):
    return pytest.approx({axis: SPACING[axis] for axis in axes if axis in "ZYX"}, rel=1e-6)


@pytest.mark.parametrize("axes, shape", [
    ("YX", (7, 9)), ("ZYX", (4, 7, 9)), ("CYX", (2, 7, 9)), ("TYX", (3, 7, 9)),
    ("ZCYX", (4, 2, 7, 9)), ("TZCYX", (3, 4, 2, 7, 9)),
])  # fmt: skip
@pytest.mark.parametrize("flavour, save", [("imagej", save_imagej), ("ome", save_ome)])
def test_axes_spacing_and_flavour_survive_a_round_trip(tmp_path, flavour, save, axes, shape):
    data = array(*shape)
    save(tmp_path / "in.tif", data, axes)
    image = tiff.read(tmp_path / "in.tif")
    assert (image.axes, image.flavour, image.data.dtype) == (axes, flavour, np.uint16)
    assert image.spacing == expected_spacing(axes)
    np.testing.assert_array_equal(image.data, data)

    tiff.write(tmp_path / "out.tif", data + 0.25, like=image)
    again = tiff.read(tmp_path / "out.tif")
    assert (again.axes, again.flavour, again.data.dtype) == (axes, flavour, np.float32)
    assert again.spacing == expected_spacing(axes)
    np.testing.assert_array_equal(again.data, data + np.float32(0.25))


@pytest.mark.parametrize("save, unit, factor", [
    (save_imagej, "micron", 1), (save_imagej, r"\u00B5m", 1), (save_imagej, "nm", 1e-3),
    (save_imagej, "cm", 1e4), (save_ome, "nm", 1e-3), (save_ome, "mm", 1e3),
])  # fmt: skip
def test_units_are_turned_into_micrometres(tmp_path, save, unit, factor):
    save(tmp_path / "in.tif", array(4, 7, 9), "ZYX", unit, factor)
    assert tiff.read(tmp_path / "in.tif").spacing == expected_spacing("ZYX")


@pytest.mark.parametrize("unit", ["pixel", "sec"])
def test_a_unit_that_is_no_length_is_no_spacing(tmp_path, unit):
    save_imagej(tmp_path / "in.tif", array(4, 7, 9), "ZYX", unit)
    assert tiff.read(tmp_path / "in.tif").spacing == {}


def test_plain_file_with_centimetres(tmp_path):
    resolution = exactly(1e4 / SPACING["X"]), exactly(1e4 / SPACING["Y"])
    options = {"resolution": resolution, "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(tmp_path / "in.tif", array(7, 9), **options)
    image = tiff.read(tmp_path / "in.tif")
    assert (image.axes, image.flavour) == ("YX", "plain")
    assert image.spacing == expected_spacing("YX")


def test_print_resolution_is_not_a_pixel_size(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", array(7, 9), resolution=(72, 72), resolutionunit="INCH")
    assert tiff.read(tmp_path / "in.tif").spacing == {}


def test_plain_stack_does_not_say_what_its_pages_are(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", array(4, 7, 9), photometric="minisblack", metadata=None)
    image = tiff.read(tmp_path / "in.tif")
    assert image.axes[0] not in "TZCYXS"
    tiff.write(tmp_path / "out.tif", image.data, axes="ZYX", spacing=SPACING, like=image)
    again = tiff.read(tmp_path / "out.tif")
    assert (again.axes, again.spacing) == ("ZYX", expected_spacing("ZYX"))


def test_unknown_axes_are_kept_as_they_are(tmp_path):
    tiff.write(tmp_path / "out.tif", array(4, 7, 9), axes="QYX")
    assert tiff.read(tmp_path / "out.tif").axes == "QYX"


def test_rgb_is_reported_as_samples_and_written_as_channels(tmp_path):
    data = array(7, 9, 3, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", data, photometric="rgb")
    image = tiff.read(tmp_path / "in.tif")
    assert image.axes == "YXS"
    tiff.write(tmp_path / "out.tif", image.data, like=image)
    again = tiff.read(tmp_path / "out.tif")
    assert again.axes == "CYX"
    np.testing.assert_array_equal(again.data, np.moveaxis(data, -1, 0))


@pytest.mark.parametrize("like", [None, tiff.Image(np.zeros(1), "CZYX", {}, "ome")])
def test_axes_in_another_order_name_the_same_pixels(tmp_path, like):
    data = array(2, 9, 4, 7)
    tiff.write(tmp_path / "out.tif", data, axes="CXZY", like=like)
    again = tiff.read(tmp_path / "out.tif")
    np.testing.assert_array_equal(np.einsum(f"{again.axes}->CXZY", again.data), data)


def test_a_large_file_is_a_bigtiff_that_keeps_its_axes(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff, "CLASSIC_LIMIT", 100)
    tiff.write(tmp_path / "out.tif", array(4, 7, 9), axes="ZYX", spacing=SPACING)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.is_bigtiff
    image = tiff.read(tmp_path / "out.tif")
    assert (image.axes, image.spacing) == ("ZYX", expected_spacing("ZYX"))


def test_wrong_axes_are_named(tmp_path):
    for axes in ("YX", "ZZYX", "TZYX"):
        with pytest.raises(InputError, match="axes"):
            tiff.write(tmp_path / "out.tif", array(4, 7, 9), axes=axes)


# ---- bad files ------------------------------------------------------------------------------


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileError, match=r"image: expected an existing .*no\.tif"):
        tiff.read(tmp_path / "no.tif", "image")


@pytest.mark.parametrize("content", [b"", b"II*\0", b"not a TIFF at all" * 9, b"II*\0\x08\0\0\0"])
def test_what_is_no_tiff_is_named(tmp_path, content):
    (tmp_path / "bad.tif").write_bytes(content)
    with pytest.raises(FileError, match=r"psf: expected a readable TIFF.*bad\.tif"):
        tiff.read(tmp_path / "bad.tif", "psf")


def test_a_folder_is_no_tiff(tmp_path):
    with pytest.raises(FileError, match="image"):
        tiff.read(tmp_path, "image")


def save_pages(path, data, axes):
    with tifffile.TiffWriter(path) as file:
        for page in data:
            file.write(page, rowsperstrip=2, contiguous=False, metadata=None)


def save_deflated(path, data, axes):
    tifffile.imwrite(path, data, compression="zlib", metadata=None)


@pytest.mark.parametrize("save", [save_imagej, save_ome, save_pages, save_deflated])
@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_truncated_file_is_an_error_wherever_it_was_cut(tmp_path, save, fraction):
    save(tmp_path / "in.tif", array(5, 40, 30), "ZYX")
    whole = (tmp_path / "in.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(FileError, match="cut"):
        tiff.read(tmp_path / "cut.tif")


def test_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    tiff.write(tmp_path / "out.tif", array(7, 9))
    before = (tmp_path / "out.tif").read_bytes()

    def half(path, *_, **__):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", half)
    with pytest.raises(FileError, match="output: .*No space left"):
        tiff.write(tmp_path / "out.tif", array(7, 9), argument="output")
    assert (tmp_path / "out.tif").read_bytes() == before
    assert os.listdir(tmp_path) == ["out.tif"]


def test_check_writable_leaves_nothing_behind(tmp_path):
    atomic.check_writable(tmp_path / "new.tif")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", "no/such/folder/out.tif", "file/out.tif"])
def test_check_writable_names_the_path(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="output: "):
        atomic.check_writable(tmp_path / name, "output")
