"""Memory: none is lost over many calls, and where it runs out one error says so."""

import gc
import tracemalloc

import numpy as np
import pytest

import ssi_cupy
from emulation import fake_cupy
from small_runs import PSF, picture
from ssi_cupy import physics, recipes
from ssi_cupy.engine import memory
from ssi_cupy.engine.checks import OutOfMemory
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.unet import UNet

FIT = {"steps": 3, "progress": False}


@pytest.fixture
def tiny(monkeypatch):
    """A small network, for tests that train it often."""
    net = UNet(widths=(8, 8))
    monkeypatch.setattr("ssi_cupy.training.step.network_for", lambda *_, **__: net)


def restored(seed, device):
    """One call as users make it, of another image and another PSF each time."""
    psf = np.random.default_rng(seed).random((3 + seed % 2, 3))
    options = {"num_iter": 3, "rng": seed, "progress": False, "device": device}
    return ssi_cupy.deconvolve(picture((16, 18), seed), psf, **options)


# ---- leaks ------------------------------------------------------------------------------------


def test_a_hundred_calls_leave_the_gpu_as_they_found_it(tiny, monkeypatch):
    """No array, graph, plan or pool is left: the package holds small tables and nothing else."""
    levels = []
    with fake_cupy.installed(monkeypatch) as device:
        for seed in range(100):
            restored(seed, "cuda")
            levels.append((device.pool.used_bytes(), device.live_graphs, device.live_plans))
        assert device.counts["replays"] >= 200
        assert device.allocated == device.pool.total_bytes()  # those of the graphs are given back
    assert {level[1:] for level in levels} == {(0, 0)}
    used = [level[0] for level in levels]  # the tables of the latest shapes and PSFs
    assert max(used[60:]) <= max(used[20:60]) < 1 << 17


def test_a_hundred_calls_leave_the_cpu_as_they_found_it(tiny):
    tracemalloc.start()
    try:
        for seed in range(20):  # until caches are full
            restored(seed, "cpu")
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for seed in range(20, 100):
            restored(seed, "cpu")
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 1 << 20
    finally:
        tracemalloc.stop()


# ---- too little of it -------------------------------------------------------------------------


def state(model):
    return {name: value for name, value in vars(model).items() if name != "seconds"}


@pytest.mark.parametrize("limit", [200_000, 3_000_000, 6_000_000])
@pytest.mark.parametrize("trained", [False, True])
def test_a_gpu_with_too_little_memory_says_how_much_is_needed(limit, trained, monkeypatch):
    """In the preparation, in the first step: the model stays as it was, and all is given back."""
    with fake_cupy.installed(monkeypatch) as device:
        g = physics.PSFConvolution(PSF, method="fft")
        model = SelfSupervisedInverse(g, recipes.SSI, device="cuda")
        if trained:
            model.fit(picture(), **FIT)
        before, used = state(model), device.pool.used_bytes()
        device.limit = device.allocated + limit
        with pytest.raises(OutOfMemory, match="^memory: expected .* MiB on 'cuda', got .* free"):
            model.fit(picture((96, 96)), **FIT)
        assert state(model) == before
        assert device.pool.used_bytes() - used < 1 << 16 and device.live_graphs == 0
        assert device.pool.free_bytes() == 0
        device.limit = 1 << 34
        model.fit(picture((96, 96)), **FIT)  # and all is well again


def test_too_little_for_a_graph_is_told_and_done_without(monkeypatch, caplog):
    """A graph's memory is its own. Where there is none left for it, there was for single steps."""
    with fake_cupy.installed(monkeypatch) as device:
        model = SelfSupervisedInverse(physics.PSFConvolution(PSF), recipes.SSI, device="cuda")
        monkeypatch.setattr(device.pool, "free_all_blocks", lambda: None)
        stop = {"callback": lambda r: setattr(device, "limit", device.allocated + 500_000)}
        model.fit(picture((64, 64)), **FIT | {"steps": 5} | stop)
        assert len(model.history) == 5
    assert "Out of memory" in caplog.text and "without a CUDA graph" in caplog.text


def test_a_cpu_with_too_little_memory_says_how_much_is_needed(monkeypatch):
    def refuse(size):
        raise np._core._exceptions._ArrayMemoryError((size,), np.dtype(np.uint8))

    model = SelfSupervisedInverse(physics.PSFConvolution(PSF), recipes.SSI, device="cpu")
    before = state(model)
    monkeypatch.setattr(memory, "aligned", refuse)
    with pytest.raises(OutOfMemory, match="^memory: expected .* MiB on 'cpu'") as caught:
        model.fit(picture(), **FIT)
    assert state(model) == before and caught.value.needed > 0 and caught.value.free > 0


def test_free_memory_where_there_is_neither_proc_nor_sysconf(monkeypatch):
    import os
    import sys
    import types

    from ssi_cupy.engine import memory

    told = types.SimpleNamespace(virtual_memory=lambda: types.SimpleNamespace(available=12345))
    monkeypatch.setattr(os, "sysconf_names", {}, raising=False)
    monkeypatch.setitem(sys.modules, "psutil", told)
    assert memory._elsewhere() == 12345
    monkeypatch.setitem(sys.modules, "psutil", None)  # as if it were not installed
    assert memory._elsewhere() == 4 << 30
