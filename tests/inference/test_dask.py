"""Lazy results for Dask arrays: the bits of the local ones, whoever computes them."""

import collections
import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import ssi_cupy
from small_runs import PSF, picture, trained
from ssi_cupy import inference, physics
from ssi_cupy.commands.cli import main
from ssi_cupy.engine.checks import FileError, InputError
from ssi_cupy.files import ome_zarr, tiff, zarr_chunks
from ssi_cupy.inference.dask_arrays import Held
from ssi_cupy.training.step import Training

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

TILES = {"tile_size": 48, "tile_overlap": 16}  # too small an overlap for no trace: never mind


@pytest.fixture(scope="module")
def model():
    return trained(picture((40, 40)))


@pytest.fixture(scope="module")
def image():
    return picture((90, 107))


def same(lazy, array, **how):
    assert isinstance(lazy, da.Array) and lazy.dtype == np.float32
    found = lazy.compute(**how)
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("options", [{}, TILES, {"tile_size": (90, 40)}])
@pytest.mark.parametrize("chunks", [(90, 107), (31, 40), (7, 200)])
def test_the_bits_are_those_of_the_local_result(model, image, chunks, options):
    lazy, local = da.from_array(image, chunks=chunks), model.restore(image, **options)
    for one, other in zip(model.restore(lazy, **options), local, strict=True):
        same(one, other)
    same(model.predict(lazy, **options), local[0], scheduler="synchronous")
    same(model.reblur(lazy, **options), local[1])


def test_any_part_by_itself(model, image):
    lazy, local = model.predict(da.from_array(image, chunks=50), **TILES), None
    local = model.predict(image, **TILES)
    np.testing.assert_array_equal(lazy[60:, 3:9].compute(), local[60:, 3:9])


def test_batches_and_volumes():
    stack = picture((3, 1, 1, 40, 50))
    model = trained(picture((40, 40)))
    for options in ({}, {"tile_size": (1, 24, 24)}):
        lazy = model.predict(da.from_array(stack, chunks=(2, 1, 1, 30, 30)), **options)
        same(lazy, model.predict(stack, **options))
    volume = picture((12, 30, 28))
    model = trained(picture((8, 20, 20)), g=physics.PSFConvolution(np.ones((3, 3, 3))))
    options = {"tile_size": (12, 20, 20), "tile_overlap": (0, 8, 8)}
    lazy = da.from_array(volume, chunks=(5, 20, 20))
    same(model.predict(lazy, **options), model.predict(volume, **options))


def test_a_blur_that_wraps_around_needs_the_whole(image):
    model = trained(picture((40, 40)), g=physics.PSFConvolution(PSF, mode="wrap"))
    lazy = da.from_array(image, chunks=50)
    same(model.reblur(lazy, **TILES), model.reblur(image, **TILES))


def test_small_chunks_are_told_and_made_larger(model, image, caplog):
    lazy = model.predict(da.from_array(image, chunks=5), **TILES)
    assert "chunks of 5×5 pixels are smaller than the halo" in caplog.text
    assert max(map(max, lazy.chunks)) > 16
    caplog.clear()
    whole = da.from_array(image, chunks=image.shape)
    assert model.predict(whole, **TILES).chunks == whole.chunks
    assert "chunks" not in caplog.text


def test_masks(model, image):
    mask = np.zeros(image.shape, bool)
    mask[20:30, 40:60] = True
    spoilt, lazy = np.where(mask, np.nan, image), da.from_array(image, chunks=50)
    local = model.predict(spoilt, mask="nan", **TILES)
    same(model.predict(da.from_array(spoilt, chunks=50), mask="nan", **TILES), local)
    same(model.predict(lazy, mask=mask, **TILES), local)
    same(model.predict(lazy, mask=da.from_array(mask, chunks=20), **TILES), local)


def test_an_array_to_write_to_is_written_at_once(model, image):
    out = np.zeros(image.shape, np.float32)
    assert model.predict(da.from_array(image, chunks=50), out=out, **TILES) is out
    np.testing.assert_array_equal(out, model.predict(image, **TILES))


def test_data_arrays_stay_some(model, image):
    xarray = pytest.importorskip("xarray")
    named = xarray.DataArray(da.from_array(image, chunks=50), dims=("y", "x"), name="cell")
    found = model.predict(named)
    assert found.name == "cell" and isinstance(found.data, da.Array)


def test_complaints_come_at_once(model, image):
    with pytest.raises(InputError, match="image: expected a 2-D image"):
        model.predict(da.zeros((4, 40, 40)))
    with pytest.raises(InputError, match="image: expected an array of real numbers"):
        model.predict(da.zeros((40, 40), dtype=complex))
    with pytest.raises(InputError, match="tile_overlap"):
        model.predict(da.from_array(image), tile_size=40, tile_overlap=50)


def test_a_model_travels_without_its_history(model):
    held = Held(model)
    there = pickle.loads(pickle.dumps(held))
    with there.model() as other:
        assert other.history == [] and model.history
        np.testing.assert_array_equal(other.parameters, model.parameters)
    assert there.token == held.token == Held(model).token


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_schedulers(model, image, scheduler):
    lazy = model.predict(da.from_array(image, chunks=50), **TILES)
    same(lazy, model.predict(image, **TILES), scheduler=scheduler)


# ---- several processes ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(n_workers=2, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_on_a_cluster(model, image, client):
    lazy = model.predict(da.from_array(image, chunks=50), **TILES)
    same(lazy, model.predict(image, **TILES))


def test_a_worker_that_dies_costs_what_it_had_and_nothing_else(model, image, client):
    """What others hold, or had been used before, is not computed again."""
    scheduler, image = client.cluster.scheduler, image[::-1] + 1  # which nobody has computed yet
    seen = Seen(scheduler)
    scheduler.add_plugin(seen)
    future = client.compute(model.predict(da.from_array(image, chunks=50), **TILES))
    while sum(seen.counts.values()) < 3:
        assert not future.done()
        time.sleep(0.01)
    victim = next(iter(client.cluster.workers.values()))
    os.kill(victim.pid, signal.SIGKILL)
    np.testing.assert_array_equal(future.result(), model.predict(image, **TILES))
    scheduler.remove_plugin(seen.name)
    assert seen.lost is not None and len(seen.counts) > 6
    again = {key for key, count in seen.counts.items() if count > 1}
    assert again <= seen.lost


class Seen:
    """A plugin of the scheduler: how often each task was done; what was lost with a worker."""

    name = "seen"

    def __init__(self, scheduler):
        self.scheduler, self.counts, self.lost = scheduler, collections.Counter(), None
        self.held = {}

    def transition(self, key, start, finish, *args, **options):
        if (
            start == "processing"
            and finish == "memory"
            and str(key).startswith(("tile", "restored"))
        ):
            self.counts[key] += 1
            self.held[key] = {w.address for w in self.scheduler.tasks[key].who_has}

    def remove_worker(self, scheduler, worker, **options):
        self.lost = {key for key, workers in self.held.items() if workers <= {worker}}


# ---- Zarr in, Zarr out --------------------------------------------------------------------------


@pytest.fixture
def stored(image, tmp_path):
    zarr = pytest.importorskip("zarr")
    array = zarr.open(
        tmp_path / "in.zarr", mode="w", shape=image.shape, chunks=(40, 50), dtype="f4"
    )
    array[...] = image
    return tmp_path / "in.zarr"


def test_a_zarr_is_written_by_several_runs(model, image, stored, tmp_path, monkeypatch):
    local, out = model.predict(image, **TILES), tmp_path / "out.zarr"

    def lazy():
        return model.predict(da.from_zarr(str(stored)), **TILES)

    def write():
        inference.to_zarr(lazy(), out, axes="YX", spacing={"Y": 0.2, "X": 0.1})

    really, written = zarr_chunks._written, []

    def dies(folder, place, block):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(place)
        really(folder, place, block)

    monkeypatch.setattr(zarr_chunks, "_written", dies)
    with pytest.raises(KeyboardInterrupt), dask.config.set(scheduler="synchronous"):
        write()
    assert not out.exists()
    with pytest.raises(FileError, match=r"out.zarr.part.*begun from another image"):
        inference.to_zarr(lazy() + 1, out)
    monkeypatch.setattr(
        zarr_chunks, "_written", lambda *args: (written.append(args[1]), really(*args))
    )
    with dask.config.set(scheduler="synchronous"):
        write()
    assert len(written) == len({*written}) == np.prod(lazy().numblocks)
    found = ome_zarr.read(out)
    np.testing.assert_array_equal(found.data, local)
    assert found.axes == "YX" and found.spacing == {"Y": 0.2, "X": 0.1}
    assert {p.name for p in out.iterdir()} == {".zattrs", ".zgroup", "0"}
    with pytest.raises(FileError, match="name that is free"):
        write()


QUICK = {"num_iter": 3, "progress": False}


LARGE = dataclasses.replace(  # sees a part of what follows, and is quick
    ssi_cupy.recipes.DEFAULT, at_once=2**14, augment=False, wiener=(), calibrate=False
)


def test_what_is_seen_whole_has_all_that_a_numpy_array_has(image):
    lazy = da.from_array(image, chunks=50)
    for function in (ssi_cupy.deconvolve, ssi_cupy.denoise):
        found = function(lazy, PSF, **QUICK)
        same(found, function(image, PSF, **QUICK))
        assert found.chunks == lazy.chunks
    assert type(ssi_cupy.deconvolve(lazy, PSF, full_output=True, **QUICK).restored) is np.ndarray


def test_a_large_array_is_trained_on_by_parts_and_restored_lazily():
    image = picture((128, 130))
    lazy, options = da.from_array(image, chunks=50), {"recipe": LARGE, **QUICK}
    model = ssi_cupy.SelfSupervisedInverse(physics.PSFConvolution(PSF), LARGE)
    model.fit(image, steps=3, progress=False)
    same(ssi_cupy.deconvolve(lazy, PSF, **options), model.predict(image))
    tiles = {"tile_size": 64, "tile_overlap": 16}
    found = ssi_cupy.denoise(lazy, PSF, **tiles, **options)
    same(found, model.reblur(image, **tiles))
    with pytest.raises(InputError, match="full_output: expected False for a large Dask array"):
        ssi_cupy.deconvolve(lazy, PSF, full_output=True, **options)
    assert ssi_cupy.deconvolve(lazy, PSF, dry_run=True, **options).steps == 3
    mask = np.zeros(image.shape, bool)
    mask[20:30, 40:60] = True
    spoilt = da.from_array(np.where(mask, np.nan, image), chunks=50)
    found = ssi_cupy.deconvolve(spoilt, PSF, mask="nan", **options).compute()
    np.testing.assert_array_equal(
        found, ssi_cupy.deconvolve(lazy, PSF, mask=mask, **options).compute()
    )
    assert np.isfinite(found).all()


def test_stacks_of_large_images_keep_their_axes():
    shape = (128, 130)
    stack = np.stack([picture(shape), np.ones(shape, np.float32), picture(shape, seed=2)])
    options = {"recipe": LARGE, **QUICK}
    lazy = da.from_array(stack.transpose(1, 0, 2), chunks=(70, 1, 70))
    found = ssi_cupy.deconvolve(lazy, PSF, axes="YTX", **options)
    assert isinstance(found, da.Array) and found.shape == (128, 3, 130)
    alone = ssi_cupy.deconvolve(da.from_array(stack[2]), PSF, **options)
    np.testing.assert_array_equal(found[:, 2].compute(), alone.compute())
    np.testing.assert_array_equal(found[:, 1].compute(), stack[1])


DIES = """
import os, sys
from ssi_cupy.commands.cli import main
from ssi_cupy.files import zarr_chunks

really, written = zarr_chunks._written, []

def dies(*args):
    written.append(really(*args))
    if len(written) == 2:
        os._exit(9)

zarr_chunks._written = dies
main(sys.argv[1:])
"""


def test_the_command_line_goes_on_where_it_was_killed(stored, image, tmp_path, monkeypatch, capsys):
    psf, whole, out = (str(tmp_path / name) for name in ("psf.tif", "whole.zarr", "out.zarr"))
    tiff.write(psf, PSF.astype(np.float32), "YX", {})
    command = ["deconvolve", str(stored), "--psf", psf, "--steps", "3", "--no-progress"]
    command += ["--tile-size", "48", "--tile-overlap", "16", "-o"]
    assert main([*command, whole]) == 0
    done = subprocess.run([sys.executable, "-c", DIES, *command, out])
    assert done.returncode == 9 and not (tmp_path / "out.zarr").exists()
    steps = []
    monkeypatch.setattr(Training, "step", lambda self: steps.append(self))  # none is left to do
    assert main([*command, out]) == 0
    assert not steps
    np.testing.assert_array_equal(ome_zarr.read(out).data, ome_zarr.read(whole).data)


def test_a_zarr_that_cannot_be_written_is_known_before(stored, tmp_path, monkeypatch, capsys):
    psf = str(tmp_path / "psf.tif")
    tiff.write(psf, PSF.astype(np.float32), "YX", {})
    monkeypatch.setattr(Training, "step", lambda self: pytest.fail("trained"))
    command = ["deconvolve", str(stored), "--psf", psf, "--tile-size", "48", "-o"]
    assert main([*command, str(tmp_path / "missing" / "out.zarr")]) == 2
    assert "--output: expected" in capsys.readouterr().err
    assert main([*command, str(stored)]) == 2
    assert main([*command, str(tmp_path / "a.zarr"), "--report", str(tmp_path / "r.html")]) == 2
    assert "--report: expected none" in capsys.readouterr().err


def test_apply_takes_a_zarr_too(model, stored, image, tmp_path):
    model.save(tmp_path / "model.npz")
    out = tmp_path / "out.zarr"
    command = ["apply", str(tmp_path / "model.npz"), str(stored), "-o", str(out)]
    assert main([*command, "--result", "restored", "--axes", "YX"]) == 0
    np.testing.assert_array_equal(ome_zarr.read(out).data, model.predict(image))
