"""The benches run, at a size that takes no time; what they find is read elsewhere."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding

from bench.__main__ import FOLDERS, main
from bench.gpu import estimate, kernels
from ssi_cupy.engine.backend import num_threads

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments):
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_benches_are_listed_and_explain_themselves(capsys):
    listed = bench()
    for name in FOLDERS:
        assert f"\n  {name} " in listed
        with pytest.raises(SystemExit, match="^0$"):
            main([name, "--help"])
        assert "--out" in capsys.readouterr().out, name


def test_an_unknown_bench_is_an_error():
    done = subprocess.run([sys.executable, "-m", "bench", "none"], cwd=ROOT, capture_output=True)
    assert done.returncode == 2


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_step_agrees_with_pytorch_and_is_timed(tmp_path):
    printed = bench("step", "--sizes", 64, "--rounds", 1, "--threads", 1, "--out", tmp_path)
    found = json.loads((tmp_path / "step.json").read_text())
    (result,), vectors = found["results"], found["machine"]["vectors"]
    assert f"vectors: ours {vectors['ours']}; torch {vectors['torch']}" in printed
    for what in ("step", "infer", "memory"):
        assert f"64² {what}" in printed
        assert result[what]["ours"] > 0 and result[what]["torch"] > 0


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.skipif(not binding.get_host_cpu_features().get("avx2"), reason="no AVX2 here")
def test_both_sides_are_held_to_avx2():
    code = "from bench import timing; timing.use_isa('avx2'); print(timing.vectors())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    vectors = {"ours": "256 bits, 16 registers", "torch": "AVX2", "oneDNN": "at most AVX2"}
    assert done.stdout.strip() == str(vectors), done.stderr


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_networks_agree_with_pytorch_and_are_timed(tmp_path):
    small = ("--networks", "plain2d", "residual2d", "--batch", 1, "--size", 16)
    printed = bench("networks", *small, "--rounds", 1, "--threads", 1, "--out", tmp_path)
    results = json.loads((tmp_path / "networks.json").read_text())["results"]
    assert [r["parameters"] for r in results] == [1_677_377, 5_563_680]
    assert "residual2d, 2 branches, 2×1×1×16×16" in printed
    assert all(r["ours"] > 0 and r["torch"] > 0 and r["memory"] > 0 for r in results)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_the_default_network_agrees_with_pytorch(tmp_path):
    options = ("--networks", "unet2d", "--batch", 2, "--size", 32, "--rounds", 1, "--threads", 1)
    assert "unet2d, 1 branches, 2×4×1×32×32" in bench("networks", *options, "--out", tmp_path)
    (result,) = json.loads((tmp_path / "networks.json").read_text())["results"]
    assert result["parameters"] == 554_657


def test_roofline_finds_every_convolution(tmp_path):
    threads = num_threads()
    bench("roofline", "--size", 32, "--rounds", 1, "--threads", threads, "--out", tmp_path)
    result = json.loads((tmp_path / "roofline.json").read_text())
    convolutions = [p for name, p in result["parts"].items() if name.startswith("conv_forward")]
    assert sum(p["calls"] for p in convolutions) >= 2 * 19 - 1  # forward, and to the inputs
    assert all(p["flops"] > 0 and p["bytes"] > 0 for p in convolutions)
    assert 0 < result["explained"] <= 1


def test_roofline_of_a_volume_by_the_default_recipe(tmp_path):
    printed = bench("roofline", "--shape", 6, 16, 16, "--rounds", 1, "--out", tmp_path)
    assert "a step of recipe default at 6×16×16" in printed
    result = json.loads((tmp_path / "roofline_3d.json").read_text())
    assert any("3×3×3" in name for name in result["parts"])


def test_scaling_is_timed_and_drawn(tmp_path):
    options = ["--side", "32", "--sides", "32", "256", "--rounds", "1", "--threads", "2"]
    assert "efficiency" in bench("scaling", *options, "--out", tmp_path)
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert found["efficiency"]["1"] == 1 and found["efficiency"]["2"] > 0
    assert set(found["seconds_by_side"]) == {"32", "256"} and found["spread"] == 0
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_what_an_image_costs_by_its_size(tmp_path):
    out, plot = tmp_path / "size.jsonl", tmp_path / "size.png"
    run = ["size", "--cases", "600x500", "8x64x64", "--steps", 2, "--out", out, "--plot", plot]
    printed = bench(*run)
    assert "0.30 million" in printed and "training" in printed and plot.stat().st_size > 10_000
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["pixels"] for row in rows] == [300_000, 32_768]
    assert all(row["peak"] > row["before"] > 0 and row["psnr"] > 0 for row in rows)
    assert "million" not in bench(*run)  # what is known is not done again


def test_volume_is_predicted_from_file_to_file(tmp_path):
    options = ("--shape", 20, 70, 61, "--tile-size", 40, "--widths", 2, 2)
    bench("volume", *options, "--files", tmp_path, "--out", tmp_path)
    result = json.loads((tmp_path / "volume.json").read_text())
    assert result["difference"] <= 1e-5 and result["peak_resident"] > result["bytes"]
    assert [path.name for path in tmp_path.iterdir()] == ["volume.json"]  # and no volumes


def test_convolution_compares_two_ways_to_blur(tmp_path):
    bench("convolution", "--shape", 8, 16, 16, "--psfs", 5, 9, "--rounds", 1, "--out", tmp_path)
    results = json.loads((tmp_path / "convolution.json").read_text())["results"]
    assert [r["psf"] for r in results] == [5, 9] and all(r["step_ratio"] > 0 for r in results)


def test_denoising_resumes_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    thin = "--sets text --width 4 --depth 2 --patch 16 --patches 2 --steps 2 --images 4".split()
    command = ("denoising", *thin, "--sigmas", 0, 1, "--out", tmp_path)
    printed = bench(*command)
    assert "| text, noise 100 | 5." in printed and "σ trained with | 0 | 1 |" in printed
    assert len(list(tmp_path.glob("*.json"))) == 4
    for name in ("figure_3.png", "figure_4.png", "denoising.md"):
        assert (tmp_path / name).stat().st_size > 0
    assert "text ours" not in bench(*command)  # nothing is trained again
    command = [sys.executable, "-m", "bench", *map(str, command), "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "another seed" in done.stderr


@pytest.mark.skipif(kernels.compiler() is None, reason=kernels.MISSING)
def test_kernels_are_compiled_and_listed(tmp_path):
    which = "--stems", "pool", "--architectures", 75, 90, "--side", 64
    printed = bench("kernels", *which, "--out", tmp_path)
    assert "max_pool_forward_kernel" in printed and "4 kernels, 0 of them spill" in printed
    made = json.loads((tmp_path / "kernels.json").read_text())
    assert all(of["registers"]["90"] > 0 and of["spills"] == 0 for of in made["kernels"])
    if estimate.needs() is None:
        assert "at 64² on an H100" in printed
        assert 0 < made["step"]["roofline"] < made["step"]["seconds"] < 1
