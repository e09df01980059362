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

    def made(y, template, spacing, inputs):
        return UNet(widths=(8, 8), inputs=inputs)

    monkeypatch.setattr("ssi_cupy.training.step.network_for", made)


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

        def nearly_full():  # from when the graph is made on
            device.limit = device.allocated + 500_000

        monkeypatch.setattr(device.pool, "free_all_blocks", nearly_full)
        model.fit(picture((64, 64)), **FIT | {"steps": 5})
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


# ---- limits, and Ctrl-C -------------------------------------------------------------------------


def python(code):
    """(what a process of its own writes to stdout, to stderr)."""
    import subprocess
    import sys
    from pathlib import Path

    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_free_memory_is_what_the_limit_of_a_process_leaves():
    pytest.importorskip("resource")
    out, _ = python(
        "import resource\nfrom ssi_cupy.engine.memory import free_memory\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))\n"
        "print(free_memory())"
    )
    assert 2**26 < int(out) <= 2**27


def test_free_memory_is_what_all_groups_of_the_process_leave(tmp_path, monkeypatch):
    """In version 2 of control groups a limit may be set anywhere above the process's own."""
    (tmp_path / "groups" / "a" / "b").mkdir(parents=True)
    (tmp_path / "own").write_text("1:name=old:/x\n0::/a/b\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "groups")
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "own")
    for group, limit, used, free in (("a/b", 9000, 1000, 8000), ("a", 5000, 1000, 4000),
                                     (".", 2500, 1000, 1500)):  # fmt: skip
        (tmp_path / "groups" / group / "memory.max").write_text(f"{limit}")
        (tmp_path / "groups" / group / "memory.current").write_text(f"{used}")
        assert memory.free_memory() == free


def test_too_little_memory_says_what_to_set():
    error = OutOfMemory("cpu", 2**30, 2**20)
    for part in ("1,024 MiB", "1 MiB", "tile_size", "patch"):
        assert part in str(error)


def test_no_line_of_python_runs_when_a_view_of_the_pool_is_gone():
    """What is raised in a finaliser written in Python, as Ctrl-C may be, is reported and lost."""
    import sys

    with memory.Pool() as pool:
        array = memory.empty((3, 4), np.float32)
        address, seen = array.ctypes.data, []
        sys.setprofile(lambda frame, event, _: seen.append(event))
        del array
        sys.setprofile(None)
        assert "call" not in seen
        assert memory.empty((3, 4), np.float32).ctypes.data == address and pool.misses == 1


def test_a_pool_that_is_dropped_frees_its_memory_at_once_and_spares_what_is_in_use():
    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        with memory.Pool():
            used = memory.empty(2**18, np.float32)
            used[...] = 3
            memory.empty(2**20, np.float32)
        assert tracemalloc.get_traced_memory()[0] < 3 * 2**20
        assert (used == 3).all()
    finally:
        tracemalloc.stop()
        gc.enable()


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
