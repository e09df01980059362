"""Tiles: what they cover, what they weigh, and that nobody can see where they were."""

import functools
import tracemalloc

import numpy as np
import pytest

from small_runs import Shading, picture
from ssi_cupy import physics, recipes
from ssi_cupy.engine import backend, memory
from ssi_cupy.engine.backend import Pool
from ssi_cupy.engine.checks import InputError
from ssi_cupy.inference import predict, tiling
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.psf import gaussian
from ssi_cupy.training.forward_model import allowed_symmetries, reach_of
from ssi_cupy.unet import PlainUNet, ResidualUNet, UNet, unet_forward

NETS = {
    "2-D": (UNet(widths=(2, 3, 2)), (1, 73, 80)),
    "2-D, five levels": (UNet(widths=(2,) * 5), (1, 340, 32)),
    "3-D": (UNet(3, widths=(2, 2)), (31, 33, 32)),
    "3-D, coarse z": (UNet(3, widths=(2, 2, 2), windows=((1, 2, 2), (2, 2, 2)), aspect=2.0),
                      (36, 73, 77)),
    "one level": (UNet(widths=(3,)), (1, 80, 81)),
    "residual": (ResidualUNet(width=3), (1, 73, 80)),
    "residual, 3-D": (ResidualUNet(3, depth=2, width=2), (31, 33, 32)),
    "plain": (PlainUNet(width=2), (1, 73, 80)),
}  # fmt: skip


# ---- what a network tells of itself -------------------------------------------------------------


@pytest.mark.parametrize("net, shape", NETS.values(), ids=NETS)
def test_reach_is_how_far_a_pixel_changes_the_output(net, shape):
    """With weights above zero nothing cancels, and the change goes as far as it can; but for
    rounding, which loops that work on blocks of pixels spread over these."""
    parameters = np.abs(net.initial_parameters(1, np.float64))
    parameters += parameters.mean()
    options = {"net": net, "statistics": net.initial_statistics(np.float64)}
    x, furthest = np.zeros((1, 1, *shape)), np.zeros(3, int)
    before = unet_forward(x, parameters, **options)[0]
    for step in range(max(net.smallest)):  # the pixels of one window differ in where they lie
        at = [n // 2 + min(step, least - 1) for n, least in zip(shape, net.smallest, strict=True)]
        x[(0, 0, *at)] = 100
        change = np.abs(unet_forward(x, parameters, **options)[0] - before)[0, 0]
        changed = np.nonzero(change > 1e-13 * before.max())
        x[(0, 0, *at)] = 0
        for axis, places in enumerate(changed):
            furthest[axis] = max(furthest[axis], np.abs(places - at[axis]).max())
    for axis, (far, reach) in enumerate(zip(furthest, net.reach, strict=True)):
        assert far == reach or (far < reach and shape[axis] < 2 * reach)
    assert furthest[1] == net.reach[1]


@pytest.mark.parametrize("net, shape", NETS.values(), ids=NETS)
def test_footprint_is_the_most_that_an_inference_writes(net, shape):
    x = np.zeros((1, 1, *shape), np.float32)
    settings = {"net": net, "statistics": net.initial_statistics(), "keep": False}
    with Pool() as pool:
        unet_forward(x, net.initial_parameters(1), **settings)
    assert 0.9 * net.footprint <= pool.nbytes / x.nbytes <= predict.SPARE * net.footprint


# ---- tiling and blending -----------------------------------------------------------------------

SIZES = [
    ((40, 57), 16, 4, 1, 0),
    ((40, 57), (64, 20), (0, 10), (1, 4), (0, 5)),
    ((9, 31, 50), (4, 16, 48), (2, 9, 16), (1, 2, 16), (1, 4, 8)),
    ((100,), 40, 20, 16, 10),
    ((7, 100), 8, 7, 2, 0),
]


@pytest.mark.parametrize("shape, size, overlap, step, blind", SIZES)
def test_weights_of_all_tiles_sum_to_one(shape, size, overlap, step, blind):
    pieces, total = tiling.tiles(shape, size, overlap, step=step, blind=blind), np.zeros(shape)
    lengths = {tuple(b - a for a, b in zip(t.start, t.stop, strict=True)) for t in pieces}
    assert len(lengths) == 1 and len(pieces) > 1  # all of one size: one plan of an FFT is enough
    steps = np.broadcast_to(step, len(shape))
    for tile in pieces:
        for first, last, n, step in zip(tile.start, tile.stop, shape, steps, strict=True):
            assert first % step == 0 and (n - last) % step == 0
        total[tile.box] += functools.reduce(np.multiply.outer, tile.weights)
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("shape, size, overlap, step, blind", SIZES)
def test_tiles_are_put_together_again(shape, size, overlap, step, blind):
    """From rubbish, into a part of what was tiled, with anything in the pixels that are blind."""
    image = np.random.default_rng(0).random((2, *shape))
    origin = (2, 1, 3)[: len(shape)]
    inner = tuple(slice(o, n - o) for o, n in zip(origin, shape, strict=True))
    out = np.full((2, *(s.stop - s.start for s in inner)), np.nan)
    for tile in tiling.tiles(shape, size, overlap, step=step, blind=blind):
        values = image[(..., *tile.box)].copy()
        for axis, w in enumerate(tile.weights):
            values[(slice(None),) * (axis + 1) + (w == 0,)] = 1e6
        tile.add(out, values, origin)
    np.testing.assert_allclose(out, image[(..., *inner)], atol=1e-6)


def test_a_pyramid_rises_from_the_border_to_the_middle_and_not_from_the_images_end():
    first, second = tiling.tiles((9,), 6, 3)
    np.testing.assert_allclose(first.weights[0], [1, 1, 1, 0.75, 0.5, 0.25])
    np.testing.assert_allclose(second.weights[0], [0.25, 0.5, 0.75, 1, 1, 1])


@pytest.mark.parametrize(
    "shape, reach, pixels, tile, overlap",
    [
        ((1, 4000, 3000), (0, 50, 50), 1e6, (1, 1000, 1000), (0, 100, 100)),
        ((1, 4000, 100), (0, 50, 50), 1e5, (1, 1000, 100), (0, 100, 100)),
        ((20, 500, 500), (13, 13, 13), 2e5, (20, 100, 100), (26, 26, 26)),
        ((200, 500, 500), (100, 100, 100), 1e6, (100, 100, 100), (25, 25, 25)),  # never exact
        ((9, 9), (1, 1), 1e6, (9, 9), (2, 2)),
        ((9, 9), (1, 1), 0.1, (1, 1), (0, 0)),
    ],
)
def test_tiles_are_as_large_as_memory_allows(shape, reach, pixels, tile, overlap):
    assert tiling.choose(shape, reach, pixels) == (tile, overlap)


def test_free_memory_is_what_a_container_leaves(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    most = backend.free_memory()
    assert 1e6 < most < 1e14
    for limit, used, free in (("max", "5", most), ("1000", "400", 600), ("1000", "2000", 0)):
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text(used)
        assert backend.free_memory() == pytest.approx(free, rel=0.5)


# ---- tiled inference ----------------------------------------------------------------------------


def model_of(net, psf=None, mode="mirror", recipe=recipes.DEFAULT, g=None, seed=3):
    """As after a training, with a network of random parameters and statistics that suit them."""
    g = g or (physics.Identity() if psf is None else physics.PSFConvolution(psf, mode=mode))
    model = SelfSupervisedInverse(g, recipe)
    rng = np.random.default_rng(seed)
    model.net, model.units = net, (100.0, 50.0)
    model.symmetries = allowed_symmetries(g) if recipe.augment else model.symmetries
    model.parameters = net.initial_parameters(seed)
    model.statistics = net.initial_statistics()
    some = rng.random((1, net.inputs, *(max(16, n) for n in net.smallest)), np.float32)
    unet_forward(some, model.parameters, net=net, batch_statistics=model.statistics)
    return model


def intensities(*shape):
    return (100 + 50 * picture(shape)).astype(np.float32)


def without_seams(model, image, **tiling):
    """That both results are as without tiles at every pixel, to 1e-4 of their range and better."""
    found = model.restore(image, **tiling)
    for whole, tiled in zip(model.restore(image), found, strict=True):
        assert np.ptp(whole) > 2
        np.testing.assert_allclose(tiled, whole, rtol=0, atol=3e-5 * np.ptp(whole))


FLAT = UNet(widths=(3, 4, 3))  # reach 33
CUBES = UNet(3, widths=(3, 4))  # reach 13
BLUR, BLUR_3D = gaussian(1.0), gaussian((1.0, 0.8, 0.8))
SKEW = np.random.default_rng(0).random((3, 6))


@pytest.mark.parametrize(
    "net, psf, shape, size",
    [
        (FLAT, BLUR, (200, 160), 100),
        (FLAT, BLUR, (203, 161), 101),
        (FLAT, BLUR, (202, 90), (97, 95)),
        (FLAT, SKEW, (187, 101), (111, 90)),
        (FLAT, None, (151, 163), (80, 150)),
        (CUBES, BLUR_3D, (9, 61, 70), 50),
        (CUBES, BLUR_3D, (55, 51, 49), (47, 60, 44)),
        (CUBES, None, (61, 47, 33), (39, 40, 40)),
        (ResidualUNet(width=4), SKEW, (133, 121), (101, 90)),
        (ResidualUNet(3, depth=2, width=2), BLUR_3D, (9, 61, 70), 50),
        (PlainUNet(width=4), BLUR, (135, 130), 91),
    ],
)
def test_tiles_leave_no_trace(net, psf, shape, size, caplog):
    """Odd sizes, tiles that do not divide, volumes thinner than a tile; all rotations and flips."""
    without_seams(model_of(net, psf), intensities(*shape), tile_size=size)
    assert not caplog.records


@pytest.mark.parametrize("mode", ["mirror", "nearest", "wrap", "constant"])
@pytest.mark.parametrize("recipe", [recipes.DEFAULT, recipes.SSI], ids=lambda r: r.name)
def test_every_border(mode, recipe):
    model = model_of(UNet(widths=(3, 4)), SKEW, mode, recipe)
    without_seams(model, intensities(97, 83), tile_size=50, tile_overlap=40)


def test_coarse_voxels_and_many_images():
    net = UNet(3, 2, 2, widths=(2, 2, 2), windows=((1, 2, 2), (2, 2, 2)), aspect=2.0)
    image = intensities(2, 2, 6, 101, 70)
    without_seams(model_of(net, BLUR_3D), image, tile_size=(8, 78, 78))


def test_a_model_of_ones_own_is_applied_to_the_whole():
    model = model_of(UNet(widths=(3, 4)), g=Shading((83,)))
    without_seams(model, intensities(97, 83), tile_size=50)
    np.testing.assert_array_equal(
        model.reblur(intensities(97, 83), tile_size=50),
        model.restore(intensities(97, 83), tile_size=50)[1],
    )


def test_a_model_that_is_put_together_reaches_as_far_as_its_parts():
    blur = physics.PSFConvolution(SKEW)
    g = physics.Composition(
        physics.Clamp(0, 400), blur, physics.SensorResponse(1.0, high=300), blur
    )
    assert reach_of(g) == (0, 2, 6)
    without_seams(model_of(UNet(widths=(3, 4)), g=g), intensities(97, 83), tile_size=60)


def test_too_small_tiles_are_blended_and_say_so(caplog):
    """A seam would be a step; blended tiles have none that stands out from the image's own."""
    model, image = model_of(FLAT, BLUR), intensities(190, 150)
    whole, tiled = model.predict(image), model.predict(image, tile_size=48)
    assert "tiles of 48×48 pixels overlap by 12×12; only with 66×66 would" in caplog.text
    more = model.predict(image, tile_size=48, tile_overlap=28)
    off = [np.sqrt(np.mean((image - whole) ** 2)) / np.ptp(whole) for image in (tiled, more)]
    assert 0 < off[1] < off[0] < 0.1


def test_an_image_that_fits_is_not_cut(monkeypatch):
    model, image, seen = model_of(UNet(widths=(3, 4)), BLUR), intensities(120, 110), []
    made, free = predict.Restored.__call__, 2 * predict.memory(model.net, 90**2)
    counted = lambda m, y, shape: made(m, seen.append(y.size) or y, shape)  # noqa: E731
    monkeypatch.setattr(predict.Restored, "__call__", counted)
    whole = model.predict(image)
    monkeypatch.setattr(predict, "free_memory", lambda like: free)
    cut = model.predict(image)
    assert seen[0] >= image.size and len(seen) > 2 and max(seen[1:]) <= 90**2
    np.testing.assert_allclose(cut, whole, rtol=0, atol=1e-5 * np.ptp(whole))


def test_many_images_that_fit_one_by_one_are_taken_one_by_one(monkeypatch):
    model, images, seen = model_of(UNet(widths=(3, 4)), BLUR), intensities(3, 1, 1, 60, 50), []
    made, free = predict.Restored.__call__, 2 * predict.memory(model.net, 80**2)
    whole = model.restore(images)
    counted = lambda m, y, shape: made(m, seen.append(len(y)) or y, shape)  # noqa: E731
    monkeypatch.setattr(predict.Restored, "__call__", counted)
    monkeypatch.setattr(predict, "free_memory", lambda like: free)
    for result, expected in zip(model.restore(images), whole, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5)
    assert seen == [1, 1, 1]


def test_files_are_read_and_written_tile_by_tile(tmp_path):
    model, image = model_of(CUBES, BLUR_3D, recipe=recipes.SSI), intensities(12, 60, 70)
    np.save(tmp_path / "in.npy", (image * 10).astype(np.uint16))
    source = np.load(tmp_path / "in.npy", mmap_mode="r")
    outs = [
        np.lib.format.open_memmap(tmp_path / name, "w+", np.float32, image.shape)
        for name in ("a.npy", "b.npy")
    ]
    expected = model.restore((image * 10).astype(np.uint16), tile_size=48)
    found = model.restore(source, tile_size=48, out=outs)
    for out, same, values in zip(outs, found, expected, strict=True):
        assert same is out
        np.testing.assert_array_equal(out, values)
    only = np.empty(image.shape)
    assert model.predict(source, tile_size=48, out=only) is only
    np.testing.assert_allclose(only, expected[0], rtol=1e-6)


class Lazy:
    """What can be read by slices only, and counts the pixels."""

    def __init__(self, array):
        self.array, self.dtype, self.shape, self.ndim = array, array.dtype, array.shape, array.ndim
        self.size, self.most = array.size, 0

    def __getitem__(self, window):
        block = self.array[window]
        self.most = max(self.most, block.size)
        return block


def test_an_image_is_never_read_whole():
    model, image = model_of(UNet(widths=(3, 4)), BLUR), Lazy(intensities(150, 140))
    tiled = model.predict(image, tile_size=64)
    assert image.most <= 64 * 64
    np.testing.assert_array_equal(tiled, model.predict(image.array, tile_size=64))


@pytest.mark.parametrize(
    "net, shape",
    [(UNet(), (320, 310)), (CUBES, (24, 60, 70)), (UNet(3, widths=(2,)), (24, 60, 70))],
)
def test_memory_of_an_inference_is_foreseen(net, shape):
    model = model_of(net, gaussian(1.5, ndim=len(shape)))
    image = intensities(*shape)
    model.restore(image)  # compiles
    tracemalloc.start()
    model.restore(image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    margin = predict.margin_of(model.physics, model.recipe, ((1,) + shape)[-3:])
    frame = [n + 2 * m for n, m in zip(((1,) + shape)[-3:], margin, strict=True)]
    foreseen = predict.memory(net, np.prod(frame))
    assert 0.5 * foreseen <= peak <= foreseen


# ---- what cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "named, options",
    [
        ("tile_size", {"tile_size": 0}),
        ("tile_size", {"tile_size": 1.5}),
        ("tile_size", {"tile_size": (20, 20, 20)}),
        ("tile_overlap", {"tile_overlap": -1}),
        ("tile_overlap", {"tile_overlap": (1,)}),
        ("tile_overlap", {"tile_size": 20, "tile_overlap": 20}),
        ("tile_overlap", {"tile_size": (20, 30), "tile_overlap": (10, 30)}),
        ("out", {"out": np.zeros((3, 4))}),
        ("out", {"out": np.zeros((40, 50), int)}),
        ("out", {"out": [[0.0]]}),
    ],
)
def test_tiles_that_cannot_be_are_named(named, options):
    with pytest.raises(InputError, match=f"^{named}: expected"):
        model_of(UNet(widths=(3, 4))).predict(intensities(40, 50), **options)


def test_results_may_not_be_written_over_the_image():
    image = intensities(40, 50).astype(np.float32)
    with pytest.raises(InputError, match="^out: expected memory of its own"):
        model_of(UNet(widths=(3, 4))).predict(image, out=image)


def test_a_pair_of_results_needs_a_pair_of_arrays():
    with pytest.raises(InputError, match="^out: expected a pair"):
        model_of(UNet(widths=(3, 4))).restore(intensities(40, 50), out=np.zeros((40, 50)))


def test_nan_is_found_in_whichever_tile_it_is():
    image = intensities(90, 80)
    image[85, 70] = np.nan
    with pytest.raises(InputError, match="^image: expected finite"):
        model_of(UNet(widths=(3, 4))).predict(image, tile_size=48)


@pytest.mark.parametrize("named, settings", [
    ("tile_size", {"tile_size": (8, 8, 8)}), ("step", {"tile_size": 8, "step": (2,)}),
    ("blind", {"tile_size": 8, "tile_overlap": 2, "blind": 2}),
])  # fmt: skip
def test_tiles_by_themselves_are_checked_too(named, settings):
    with pytest.raises(InputError, match=f"^{named}: expected"):
        tiling.tiles((40, 40), **settings)
