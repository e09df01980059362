"""One row for each kind of file: pixels, axes, spacing and metadata, there and back."""

import dataclasses
import warnings
import xml.etree.ElementTree as xml

import numpy as np
import pytest
import tifffile

from ssi_cupy.engine.checks import FileError, InputError
from ssi_cupy.files import formats, tiff

RNG = np.random.default_rng(0)
SPACING = {"Z": 0.5, "Y": 0.12, "X": 0.1}


def pixels(*shape, dtype=np.uint16):
    return RNG.integers(0, 200, shape).astype(dtype)


@dataclasses.dataclass
class Row:
    """A kind of file: how one is made elsewhere, what is to be read of it, and what it becomes."""

    name: str
    axes: str
    shape: tuple
    save: object
    spacing: str = ""
    needs: str = ""
    out: str = ""  # another name to write to
    dtype: type = np.uint16
    options: dict = dataclasses.field(default_factory=dict)
    written: str = ""  # axes of what is written, where these are others


def plain(path, data, axes):
    tifffile.imwrite(path, data, photometric="minisblack", metadata=None)


def coloured(path, data, axes):
    tifffile.imwrite(path, data, photometric="rgb")


def imagej(path, data, axes):
    metadata = {"axes": axes, "unit": "um", "finterval": 2.5, "fps": 0.4, "mode": "composite"}
    metadata |= {"spacing": 0.5} if "Z" in axes else {}
    metadata["Labels"] = [f"plane {i}" for i in range(int(np.prod(data.shape[:-2])))]
    tifffile.imwrite(path, data, imagej=True, resolution=(10, 1 / 0.12), metadata=metadata)


def ome(path, data, axes):
    metadata = {"axes": axes, "Name": "cells", "TimeIncrement": 2.5, "TimeIncrementUnit": "s"}
    for axis, size in SPACING.items():
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    if "C" in axes:
        metadata["Channel"] = {"Name": ["DNA", "actin"], "EmissionWavelength": [461, 519],
                               "EmissionWavelengthUnit": ["nm", "nm"]}  # fmt: skip
    tifffile.imwrite(path, data, ome=True, metadata=metadata)


def npy(path, data, axes):
    np.save(path, data)


def npz(path, data, axes):
    np.savez(path, data)


def png(path, data, axes):
    path.write_bytes(pytest.importorskip("imagecodecs").png_encode(data))


def ome_zarr(version):
    def save(path, data, axes):
        zarr = pytest.importorskip("zarr")
        names = axes.lower()
        scale = [SPACING.get(a, 1.0) for a in axes]
        described = [{"name": a, "type": "space", "unit": "micrometer"} for a in names]
        datasets = [{"path": str(i), "coordinateTransformations": [
            {"type": "scale", "scale": [s * 2**i for s in scale]}]} for i in (0, 1)]  # fmt: skip
        told = [{"axes": described, "datasets": datasets, "version": version}]
        kind = 2 if version == "0.4" else 3
        group = zarr.open_group(str(path), mode="w", zarr_format=kind)
        for i, part in enumerate((data, data[..., ::2, ::2])):
            options = {"shape": part.shape, "dtype": part.dtype, "chunks": part.shape}
            group.create_array(str(i), **options)[...] = part
        if version == "0.4":
            group.attrs["multiscales"] = told
        else:
            group.attrs["ome"] = {"multiscales": told, "version": version}

    return save


ROWS = [
    Row("plain.tif", "YX", (20, 24), plain),
    Row("rgb.tif", "YXS", (20, 24, 3), coloured, dtype=np.uint8, written="CYX"),
    *(Row(f"imagej {axes}.tif", axes, shape, imagej, spacing="ZYX" if "Z" in axes else "YX")
      for axes, shape in [("YX", (20, 24)), ("ZYX", (3, 20, 24)), ("TZCYX", (2, 3, 2, 20, 24))]),
    *(Row(f"{axes}.ome.tif", axes, shape, ome, spacing="ZYX")
      for axes, shape in [("YX", (20, 24)), ("ZYX", (3, 20, 24)), ("TZCYX", (2, 3, 2, 20, 24)),
                          ("CZYX", (2, 3, 20, 24))]),
    Row("imagej to ome.tif", "ZYX", (3, 20, 24), imagej, spacing="ZYX", out="out.ome.tif"),
    Row("packed.tif", "ZYX", (3, 20, 24), imagej, spacing="ZYX", options={"compression": "zlib"}),
    Row("sixteen.tif", "ZYX", (3, 20, 24), imagej, spacing="ZYX", options={"dtype": "uint16"}),
    Row("sixteen.ome.tif", "CZYX", (2, 3, 20, 24), ome, spacing="ZYX",
        options={"dtype": "uint16", "compression": "zlib"}),
    Row("signed.tif", "YX", (20, 24), imagej, spacing="YX", options={"dtype": "int16"}),
    Row("array.npy", "YX", (20, 24), npy),
    Row("arrays.npz", "YX", (20, 24), npz, out="out.npy"),
    Row("grey.png", "YX", (20, 24), png, options={"dtype": "uint16"}, needs="imagecodecs"),
    Row("rgb.png", "YXS", (20, 24, 3), png, options={"dtype": "uint8"}, dtype=np.uint8,
        needs="imagecodecs"),
    Row("four.zarr", "CZYX", (2, 3, 20, 24), ome_zarr("0.4"), spacing="ZYX", needs="zarr"),
    Row("five.zarr", "ZYX", (3, 20, 24), ome_zarr("0.5"), spacing="ZYX", needs="zarr",
        options={"compression": "zlib"}),
    Row("flat.zarr", "YX", (20, 24), ome_zarr("0.4"), spacing="YX", needs="zarr",
        options={"dtype": "uint8"}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_there_and_back(row, tmp_path):
    if row.needs:
        pytest.importorskip(row.needs)
    data, source = pixels(*row.shape, dtype=row.dtype), tmp_path / row.name
    row.save(source, data, row.axes)
    image = formats.read(source, "IN")
    np.testing.assert_array_equal(image.data, data)
    assert image.axes == row.axes
    assert image.spacing == pytest.approx({a: SPACING[a] for a in row.spacing})

    target = tmp_path / (row.out or f"out_{row.name}")
    dtype = np.dtype(row.options.get("dtype", "float32"))
    fraction = 0.25 * (dtype.kind == "f")
    formats.write(target, data + fraction, like=image, argument="-o", **row.options)
    again = formats.read(target, "IN")
    assert again.data.dtype == dtype
    assert again.axes == (row.written or row.axes)
    moved = np.moveaxis(data, -1, 0) if row.written == "CYX" else data
    np.testing.assert_array_equal(again.data, (moved + fraction).astype(dtype))
    assert again.spacing == pytest.approx(image.spacing)
    if target.suffix == ".tif":
        check_with_tifffile(row, source, target)


def check_with_tifffile(row, source, target):
    with tifffile.TiffFile(source) as before, tifffile.TiffFile(target) as after:
        wanted = "ADOBE_DEFLATE" if "compression" in row.options else "NONE"
        assert after.pages[0].compression.name == wanted
        if row.save is imagej and after.is_imagej:
            told = ("finterval", "fps", "mode", "Labels", "unit", "spacing")
            kept = {k: before.imagej_metadata[k] for k in told if k in before.imagej_metadata}
            if "C" not in row.axes:
                kept.pop("mode", None)
            assert {k: after.imagej_metadata.get(k) for k in kept} == kept
        if row.save is ome:
            check_xml(before.ome_metadata, after.ome_metadata, row)


REQUIRED = {  # by the schema 2016-06
    "Image": {"ID"}, "Channel": {"ID"},
    "Pixels": {"ID", "DimensionOrder", "Type", "SizeX", "SizeY", "SizeZ", "SizeC", "SizeT"},
}  # fmt: skip
TYPES = {"uint16": "uint16", "float32": "float"}


def check_xml(before, after, row):
    """All that the file told is told, but of what kind the numbers are and where they lie."""
    changed = {"Type", "DimensionOrder", "BigEndian", "Interleaved", "SignificantBits", "UUID"}

    def told(text):
        for element in xml.fromstring(text).iter():
            name = element.tag.rpartition("}")[2]
            if name not in ("TiffData", "UUID"):
                yield name, {k: v for k, v in element.attrib.items() if k not in changed}

    assert list(told(after)) == list(told(before))
    for element in xml.fromstring(after).iter():
        name = element.tag.rpartition("}")[2]
        assert REQUIRED.get(name, set()) <= set(element.attrib)
        if name == "Pixels":
            assert element.get("Type") == TYPES[row.options.get("dtype", "float32")]
    try:
        from ome_types import from_xml
    except ImportError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = from_xml(after)
    assert found.images[0].name == "cells"


@pytest.mark.parametrize("size", [0.12, 1 / 3, 0.0731, 5e-4, 123.456, 2e5])
def test_sizes_of_pixels_are_kept_to_seven_digits(tmp_path, size):
    for axes, shape in (("YX", (8, 9)), ("QYX", (2, 8, 9))):  # ImageJ's, and in centimetres
        tiff.write(tmp_path / "a.tif", pixels(*shape), axes, {"Y": size, "X": size})
        found = tiff.read(tmp_path / "a.tif").spacing
        assert found["X"] == found["Y"] == pytest.approx(size, rel=1e-7)


# ---- what numbers are written -------------------------------------------------------------------


def test_numbers_are_rounded_and_cut_off_with_a_count(tmp_path, caplog):
    data = np.array([[-3.0, 0.4, 0.6, 1.5], [2.5, 65535.4, 65536.0, 1e9]], np.float32)
    formats.write(tmp_path / "out.tif", data, "YX", dtype="uint16")
    found = tiff.read(tmp_path / "out.tif").data
    np.testing.assert_array_equal(found, [[0, 0, 1, 2], [2, 65535, 65535, 65535]])
    assert "1 pixels were below and 2 above, of 8" in caplog.text
    caplog.clear()
    formats.write(tmp_path / "in.tif", np.full((2, 2), 7.2, np.float32), "YX", dtype="uint8")
    assert not caplog.text
    with pytest.raises(InputError, match="^dtype: expected one of floating-point numbers"):
        formats.write(tmp_path / "out.tif", np.full((2, 2), np.nan), "YX", dtype="uint8")


@pytest.mark.parametrize("name, options, told", [
    ("out.png", {}, "dtype: expected uint8 or uint16, for a PNG"),
    ("out.png", {"dtype": "uint8", "compression": "zlib"}, "compression: expected none"),
    ("out.npy", {"compression": "zlib"}, "compression: expected none"),
    ("out.tif", {"compression": "jpeg"}, "compression: expected one of"),
    ("out.tif", {"dtype": "complex64"}, "dtype: expected one of"),
    ("there.zarr", {}, "-o: expected a name that is free"),
])  # fmt: skip
def test_what_cannot_be_written_is_named(tmp_path, name, options, told):
    pytest.importorskip("imagecodecs")
    (tmp_path / "there.zarr").mkdir()
    with pytest.raises(InputError) as caught:
        formats.write(tmp_path / name, pixels(20, 24), "YX", argument="-o", **options)
    assert str(caught.value).startswith(told)
    assert [p.name for p in tmp_path.iterdir()] == ["there.zarr"]


def test_a_volume_is_no_png(tmp_path):
    pytest.importorskip("imagecodecs")
    with pytest.raises(FileError, match="^-o: expected another format: a PNG holds one plane"):
        formats.write(tmp_path / "a.png", pixels(3, 20, 24), "ZYX", argument="-o", dtype="uint8")
    assert not list(tmp_path.iterdir())


def test_a_zarr_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    pytest.importorskip("zarr")
    monkeypatch.setattr("ssi_cupy.files.ome_zarr._multiscales", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        formats.write(tmp_path / "a.zarr", pixels(20, 24), "YX")
    assert not list(tmp_path.iterdir())


# ---- what the numbers in a file mean ---------------------------------------------------------


def test_a_palette_stands_for_colours_or_for_grey(tmp_path):
    index = pixels(20, 24, dtype=np.uint8)
    for grey in (False, True):
        palette = RNG.integers(0, 65535, (3, 256)).astype(np.uint16)
        palette = np.repeat(palette[:1], 3, axis=0) if grey else palette
        path = tmp_path / "palette.tif"
        tifffile.imwrite(path, index, photometric="palette", colormap=palette)
        found = tiff.read(path)
        assert found.axes == ("YX" if grey else "YXS")
        expected = palette[0][index] if grey else np.moveaxis(palette[:, index], 0, -1)
        np.testing.assert_array_equal(found.data, expected)
        layout = tiff.layout(path)
        assert layout.shape == found.data.shape and layout.offset is None
        np.testing.assert_array_equal(layout.pixels(), found.data)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_zero_that_is_white_is_made_black(tmp_path, dtype):
    data = pixels(20, 24, dtype=dtype)
    tifffile.imwrite(tmp_path / "white.tif", data, photometric="miniswhite")
    np.testing.assert_array_equal(
        tiff.read(tmp_path / "white.tif").data, np.iinfo(dtype).max - data
    )


def test_imagejs_inverted_scale_is_how_an_image_is_shown(tmp_path):
    data = pixels(20, 24, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="miniswhite", imagej=True)
    np.testing.assert_array_equal(tiff.read(tmp_path / "a.tif").data, data)


def test_alpha_is_no_channel(tmp_path, caplog):
    data = pixels(20, 24, 4, dtype=np.uint8)
    for name, alpha in (("varied", data[..., 3]), ("opaque", 255)):
        data[..., 3] = alpha
        tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", extrasamples=["unassalpha"])
        caplog.clear()
        found = tiff.read(tmp_path / "a.tif")
        np.testing.assert_array_equal(found.data, data[..., :3])
        assert found.axes == "YXS" and ("alpha" in caplog.text) == (name == "varied")


@pytest.mark.parametrize("count", [3, 4])
def test_planes_are_no_colours(tmp_path, count):
    """tifffile's default calls a stack of three or four planes RGB: none is taken for alpha."""
    data = pixels(count, 20, 24, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", data)
    found = tiff.read(tmp_path / "stack.tif")
    np.testing.assert_array_equal(found.data, data)
    assert found.axes == "QYX"  # which the command line asks for
    four = np.moveaxis(data, 0, -1)
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "samples.tif", four, **options)
    np.testing.assert_array_equal(tiff.read(tmp_path / "samples.tif").data, four)


# ---- files with several images ------------------------------------------------------------------


def test_another_image_of_a_file(tmp_path, caplog):
    path, first, second = tmp_path / "two.tif", pixels(20, 24), pixels(3, 16, 18)
    tifffile.imwrite(path, first)
    tifffile.imwrite(path, second, append=True)
    np.testing.assert_array_equal(formats.read(path).data, first)
    assert "has 2 images, of which the first is taken" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(formats.read(path, "IN", 0).data, first)
    np.testing.assert_array_equal(formats.read(path, "IN", 1).data, second)
    assert not caplog.text
    for number in (2, 7):
        with pytest.raises(FileError, match="^series: expected a number below 2"):
            formats.read(path, "IN", number)


def test_another_image_of_an_ome_file_has_its_own_metadata(tmp_path):
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        for name, size in (("a", 0.1), ("b", 0.3)):
            metadata = {"axes": "YX", "Name": name, "PhysicalSizeX": size, "PhysicalSizeY": size}
            file.write(pixels(20, 24), metadata=metadata)
    image = formats.read(path, "IN", 1)
    assert image.spacing == pytest.approx({"Y": 0.3, "X": 0.3}) and image.metadata["Name"] == "b"
    formats.write(tmp_path / "out.ome.tif", image.data, like=image)
    again = formats.read(tmp_path / "out.ome.tif")
    assert again.metadata["Name"] == "b" and again.spacing == pytest.approx(image.spacing)
    with tifffile.TiffFile(tmp_path / "out.ome.tif") as file:
        assert len(file.series) == 1


# ---- packages that are not there ----------------------------------------------------------------


def test_what_needs_imagecodecs_names_it(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", pixels(20, 24))
    told = "<COMPRESSION.LZW: 5> requires the 'imagecodecs' package"

    def refuse(*args, **options):
        raise ValueError(told)

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", refuse)
    with pytest.raises(FileError, match="pip install imagecodecs"):
        tiff.read(tmp_path / "a.tif")


@pytest.mark.parametrize("name, package", [("a.png", "imagecodecs"), ("a.zarr", "zarr")])
def test_formats_name_the_package_that_they_need(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(FileError, match=f"pip install {package}"):
        formats.read(tmp_path / name)
    with pytest.raises(FileError, match=f"pip install {package}"):
        formats.write(tmp_path / name, pixels(20, 24), "YX", dtype="uint8")


@pytest.mark.parametrize("name", ["a.png", "a.zarr"])
def test_damaged_files_are_said_to_be(tmp_path, name):
    pytest.importorskip({"a.png": "imagecodecs", "a.zarr": "zarr"}[name])
    with pytest.raises(FileError, match="^IN: expected"):
        formats.read(tmp_path / name, "IN")
    if name == "a.png":
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(FileError, match="^IN: expected a readable"):
        formats.read(tmp_path / name, "IN")
