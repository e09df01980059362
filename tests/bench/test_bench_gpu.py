"""The GPU bench, as far as a machine without a GPU can tell: what it computes and writes."""

import dataclasses
import json
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from bench.__main__ import main
from bench.gpu import layers, networks, parity, parts, sanitize, speed, steps, tables
from bench.speed import networks as cpu_networks
from emulation import emulator, fake_cupy
from small_runs import picture
from ssi_cupy import recipes
from ssi_cupy.unet import PlainUNet, ResidualUNet, UNet

FEW = ("relu", "batch norm", "FFT", "conv 3×3, wide")
ABSENT = "numba tifffile skimage matplotlib imageio PIL torch".split()


def bench(part, out, *options):
    return main(["gpu", "--part", part, "--out", str(out), *map(str, options)])


def written(out, part):
    text = (out / f"gpu_{part}.md").read_text(encoding="utf-8")
    return json.loads((out / f"gpu_{part}.json").read_text()), text


@pytest.fixture
def few(monkeypatch):
    """Some rows, and two recipes."""
    rows = [case for case in parity.cases() if case.name.startswith(FEW)]
    monkeypatch.setattr(parity, "cases", lambda: rows)
    monkeypatch.setattr(recipes, "names", lambda: ["ssi", "noise2same"])
    monkeypatch.setattr(steps, "SIDE", 32)
    monkeypatch.setattr(steps, "RUNS", 2)
    return rows


# ---- without a GPU ------------------------------------------------------------------------------


@pytest.mark.parametrize("part", parts.PARTS)
def test_a_part_without_a_gpu_says_what_is_missing(part, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert bench(part, tmp_path) == 2
    said = capsys.readouterr().err
    assert f"--part {part} needs cupy: pip install" in said and "ssi_cupy doctor" in said
    assert not list(tmp_path.iterdir())


# ---- on a stand-in for one ----------------------------------------------------------------------


def test_what_the_cpu_expects_is_what_parity_and_steps_are_held_against(few, tmp_path, monkeypatch):
    assert bench("expect", tmp_path, "--steps", 4) == 0
    expected = "--expected", tmp_path / "expected.npz"
    with fake_cupy.installed(monkeypatch):
        assert bench("parity", tmp_path, *expected) == 0
        assert bench("steps", tmp_path, "--steps", 4, *expected) == 0
        assert bench("steps", tmp_path, "--steps", 5, *expected) == 2  # of other steps
        assert bench("parity", tmp_path, "--expected", tmp_path / "none.npz") == 2
    told, text = written(tmp_path, "parity")
    assert told["good"] and len(told["rows"]) == 2 * len(few) + 2 and all(told["bits"].values())
    assert "| relu | float32 |" in text and "| conv 3×3, wide, 17 → 33 | tf32x3 |" in text
    assert "fill neighbour" in text
    told, text = written(tmp_path, "steps")
    assert set(told["curves"]) == {"ssi", "noise2same"} and told["machine"]["gpu"]
    assert all(c["two_runs_same"] and c["graph_same_as_eager"] for c in told["curves"].values())
    assert all(c["first_off"] <= steps.LIMIT for c in told["curves"].values())
    assert "4 steps at 32²" in text


def test_wrong_numbers_are_told_and_the_status_is_1(few, tmp_path, monkeypatch, capsys):
    wrong = parity.run

    def off_by_a_little(case, kind, device):
        found = wrong(case, kind, device)
        return [a * (1 + 1e-4) for a in found] if device == "cuda" else found

    monkeypatch.setattr(parity, "run", off_by_a_little)
    with fake_cupy.installed(monkeypatch):
        assert bench("parity", tmp_path, "--rows", "relu") == 1
    told, text = written(tmp_path, "parity")
    assert not told["good"] and "**not good**" in text and "OVER" in capsys.readouterr().out


@pytest.mark.skipif(emulator.compiler() is None, reason="no C++ compiler was found")
def test_parity_needs_none_of_the_packages_of_the_cpu(few, tmp_path, monkeypatch, capsys):
    """With the launcher and the emulated kernels: no loop of Numba's may be called."""
    assert bench("expect", tmp_path, "--steps", 1) == 0
    for name in ABSENT:
        monkeypatch.setitem(sys.modules, name, None)
    with fake_cupy.installed(monkeypatch, emulated=True):
        assert bench("parity", tmp_path, "--rows", "relu") == 2
        assert "needs numba, or --expected FILE" in capsys.readouterr().err
        assert bench("parity", tmp_path, "--expected", tmp_path / "expected.npz") == 0


@pytest.mark.parametrize("status", [0, 9])
def test_the_sanitizer_runs_the_rows_and_its_findings_are_kept(status, tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\necho '========= ERROR SUMMARY' \"$@\"\nexit {status}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with fake_cupy.installed(monkeypatch):
        assert bench("sanitize", tmp_path, "--rows", "relu") == (1 if status else 0)
    told, text = written(tmp_path, "sanitize")
    tools = {"memcheck: relu", "racecheck: relu", "synccheck: relu"}
    assert set(told["runs"]) == tools and "ERROR SUMMARY" in text
    for name, run in told["runs"].items():
        tool = name.partition(":")[0]
        assert f"--tool {tool}" in run["said"][-1] and "--no-pool --rows relu" in run["said"][-1]


def test_every_row_is_of_a_group_that_the_sanitizer_runs():
    groups = sanitize.groups_of(parity.cases())
    assert all(any(group in case.name for group in groups) for case in parity.cases())


def test_no_sanitizer_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with fake_cupy.installed(monkeypatch):
        assert bench("sanitize", tmp_path) == 2
    assert "needs compute-sanitizer" in capsys.readouterr().err


def test_speed_counts_measures_and_tells_what_there_was_no_time_for(tmp_path, monkeypatch):
    monkeypatch.setattr("ssi_cupy.training.step.network_for", lambda *_, **__: UNet(widths=(8, 8)))
    monkeypatch.setattr(speed, "copy_bandwidth", lambda: 1e9)
    monkeypatch.setattr(speed, "product_rate", lambda: 1e9)
    monkeypatch.setattr(speed, "ROUNDS", 2)
    monkeypatch.setattr(speed, "waiting", lambda call: call)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "bench.gpu.rival", raising=False)
    with fake_cupy.installed(monkeypatch):
        with monkeypatch.context() as late:
            late.setattr(parts, "BUDGET", -1)
            assert bench("speed", tmp_path, "--sizes", 32) == 1
        assert "| 32, compiled |" in written(tmp_path, "speed")[1]
        assert bench("speed", tmp_path, "--sizes", 32) == 0
        told, text = written(tmp_path, "speed")
    record, compiled = told["sizes"]
    # every multiply-add of the convolutions: forward, by the weights, and by all but one input
    net, pixels = UNet(widths=(8, 8)), {"down0": 32**2, "down1": 16**2, "up0": 32**2, "head": 32**2}
    products = [
        pixels[unit.split(".")[0]] * inputs * 8 * -(-outputs // 8) * int(np.prod(kernel))
        for unit, (inputs, outputs, kernel) in net.units.items()
    ]
    assert 2 * 2 * sum(products) < record["work"]["flops"] < 1.5 * 3 * 2 * sum(products)
    assert record["work"]["launches"] > 20 and record["work"]["bytes"] > 0
    assert "PyTorch is not installed" in text and "floor: flops / rate" in text


def test_a_compiler_has_its_time_and_no_more():
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="not done within 0.05 s"):
        with speed.ended_after(0.05):
            while time.monotonic() < start + 5:
                pass
    with speed.ended_after(5):
        pass
    assert time.monotonic() < start + 2


def test_what_is_measured_is_kept_and_gone_on_from(few, tmp_path, monkeypatch):
    """Stopped in the middle of a row, the same command measures what is left; with other code or
    other options, all of it."""
    measure, seen = parity.measure, []

    def stopping(name, options):
        seen.append(name)
        if name == stops:
            raise KeyboardInterrupt
        return measure(name, options)

    monkeypatch.setattr(parity, "measure", stopping)
    with fake_cupy.installed(monkeypatch):
        names = parity.names(parts.parser().parse_args(["--part=parity", "--out=."]))
        stops = names[2]
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                bench("parity", tmp_path)
        assert seen == [*names[:3], names[2]]  # what was measured before is not, a second time
        stops = None
        assert bench("parity", tmp_path) == 1  # one was stopped twice: it is told, and left
        assert seen[4:] == names[3:]
        told, text = written(tmp_path, "parity")
        assert told["stopped"] == [names[2]] and "stopped 2 times" in text
        del seen[:]
        monkeypatch.setattr(parts, "code", lambda: "other")
        assert bench("parity", tmp_path) == 0 and seen == names
        del seen[:]
        assert bench("parity", tmp_path) == 0 and not seen
        one = "--rows", "FFT convolution, 1"
        assert bench("parity", tmp_path, *one) == 0 and len(seen) == 2


def test_all_runs_every_part_and_ends_those_that_take_too_long(tmp_path, monkeypatch, capfd):
    ran = []

    def run(command, cwd, timeout):
        ran.append(command)
        part = command[command.index("--part") + 1]
        if part == "speed":
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 2 if part == "tables" else 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert bench("all", tmp_path, "--sizes", 512) == 2
    told = capfd.readouterr()
    assert [c[c.index("--part") + 1] for c in ran] == list(parts.PARTS)
    assert all(c[-2:] == ["--sizes", "512"] and str(tmp_path) in c for c in ran)
    assert "--part speed was ended after" in told.err and "something is missing" in told.out
    assert parts.BUDGET < parts.LIMIT < 8 * 60


@pytest.mark.parametrize("part", ["steps", "parity"])
def test_a_training_that_goes_wrong_is_further_off_than_rounding(part):
    """A gradient of 1.01 times the right one, or a rate that is: not so small an eps's doing."""
    rng = np.random.default_rng(0)
    runs = np.exp(-np.linspace(0, 2, 50) + 1e-3 * np.cumsum(rng.normal(size=(5, 50)), axis=1))
    assert steps.within(runs[1], runs)[0]
    drifts = {"steps": np.linspace(0, 0.2, 50), "parity": 1e-2 * (np.arange(50) > 2)}
    assert not steps.within(runs[0] * np.exp(drifts[part]), runs)[0]
    assert not steps.within(np.full(50, np.nan), runs)[0]


def test_tables_restore_what_they_are_given_and_go_on_where_they_stopped(tmp_path, monkeypatch):
    images = tmp_path / "images.npz"
    np.savez(images, blobs=picture((20, 24)), other=picture((24, 20), 3))
    monkeypatch.setattr(tables, "METHODS", ("ssi",))
    options = "--images", images, "--steps", 3
    with fake_cupy.installed(monkeypatch):
        monkeypatch.setenv("SSI_CUPY_DATA", str(tmp_path / "none"))
        assert bench("tables", tmp_path) == 2  # no images
        with monkeypatch.context() as late:
            late.setattr(parts, "BUDGET", -1)
            assert bench("tables", tmp_path, *options) == 1
        assert "left for the same command again" in written(tmp_path, "tables")[1]
        monkeypatch.setitem(sys.modules, "skimage", None)
        monkeypatch.setitem(sys.modules, "skimage.metrics", None)
        assert bench("tables", tmp_path, *options) == 0
    told, text = written(tmp_path, "tables")
    assert [r["settings"]["precision"] for r in told["images"]] == ["float32"] * 2
    with fake_cupy.installed(monkeypatch):
        told_too = "--methods", "default", "--precision", "tf32"
        assert bench("tables", tmp_path / "tf32", *options, *told_too) == 0
    assert written(tmp_path / "tf32", "tables")[0]["images"][0]["settings"]["precision"] == "tf32"
    assert [r["image"] for r in told["images"]] == ["blobs", "other"]
    assert all(r["device"] == "cuda" and r["steps"] == 3 for r in told["images"])
    assert "ssim" not in text and (tmp_path / "blobs.ssi.npy").exists()


def test_the_rival_on_a_gpu_does_the_step_of_the_rival_on_the_cpu():
    """Its numbers in memory, its losses read at once: the losses fall as the other's do."""
    torch = pytest.importorskip("torch")
    from bench.gpu import rival
    from bench.speed import workload

    torch.manual_seed(0)
    ours = workload.training((32, 32))
    rival = rival.GpuRival(ours, "contiguous", "eager", device="cpu")
    losses = []
    for _ in range(12):
        rival.step()
        losses.append(rival.history[0])
    assert losses[-1] < 0.7 * losses[0] and rival.infer().shape == (1, 1, 32, 32)
    expected = recipes.SSI.mask.density(11, ours.steps)
    assert float(rival.density) == pytest.approx(expected) and rival.done == 12


@pytest.fixture
def torch_on_the_cpu(monkeypatch):
    """PyTorch's half of a comparison, with little to time."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(layers, "DEVICE", "cpu")
    for module in (layers, networks):
        monkeypatch.setattr(module, "waiting", lambda call: call)
        monkeypatch.setattr(module, "ROUNDS", 1)
    chosen = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in chosen]
    yield
    for backend, allowed in zip(chosen, before, strict=True):
        backend.allow_tf32 = allowed


def test_layers_are_the_same_by_every_way(torch_on_the_cpu, tmp_path, monkeypatch):
    small = {
        "2-D": ((3, 9, 1, 11, 13), 17, 3), "1×1": ((2, 16, 1, 5, 7), 17, 1),
        "3-D": ((2, 17, 4, 5, 6), 16, 3),
    }  # fmt: skip
    monkeypatch.setattr(layers, "LAYERS", small)
    with fake_cupy.installed(monkeypatch):
        assert bench("layers", tmp_path) == 0
        told, text = written(tmp_path, "layers")
        assert bench("layers", tmp_path, "--only", "1×1") == 0
        monkeypatch.setattr(parts, "code", lambda: "other")
        monkeypatch.setattr(parts, "BUDGET", -1)
        assert bench("layers", tmp_path) == 1
    assert [r["layer"] for r in told["layers"]] == list(small) and "cuBLAS, TF32" in text
    for record in told["layers"]:
        for way, found in record["ways"].items():
            assert len(found) == (7 if way == "by the input" else 9)
            for who, figures in found.items():
                limit = 2e-3 if "ours" in who else 1e-5  # a CPU's PyTorch has no TF32
                assert 0 <= figures["off"] <= limit and figures["ms"] > 0
    assert "as the time was up" in written(tmp_path, "layers")[1]


def test_networks_are_compared_in_each_precision(torch_on_the_cpu, tmp_path, monkeypatch):
    small = {
        "residual2d": (ResidualUNet(width=8, depth=2), 2, (1, 16, 16), 2),
        "plain2d": (PlainUNet(width=8, depth=2), 1, (1, 16, 16), 1),
    }
    monkeypatch.setattr(cpu_networks, "NETWORKS", small)
    monkeypatch.setattr(
        "ssi_cupy.training.step.network_for", lambda *_, **__: small["residual2d"][0]
    )
    with fake_cupy.installed(monkeypatch):
        assert bench("networks", tmp_path) == 0
    told, text = written(tmp_path, "networks")
    assert "residual2d, 4×1×1×16×16" in text and "ours, tf32x3, the whole step" in text
    for record in told["networks"]:
        assert set(record["ratios"]) == set(record["whole"]) == {"float32", "tf32x3", "tf32"}
        assert len(record["seconds"]) == 3 + 2 * 2 and max(record["apart"]["float32"]) < 1e-4
        assert 1e-5 < record["apart"]["tf32"][0] < 1e-2


def test_every_part_stops_beginning_new_work_in_time():
    assert parts.BUDGET < 8 * 60 and time.monotonic() > 0
    small = steps.recipe("noise2same")
    assert small.patch == 32 and small.network.width == 8
    assert dataclasses.replace(small, patch=None) != recipes.NOISE2SAME


def test_the_speed_of_a_size_is_that_of_the_whole_image(monkeypatch):
    with fake_cupy.installed(monkeypatch):
        assert speed.training(1040).source.shape[-2:] == (1040, 1040)
