"""What a run costs is told before, and a time limit is kept."""

import re
import time

import numpy as np
import pytest

import ssi_cupy
from small_runs import PSF, picture, trained
from ssi_cupy.commands.cli import main
from ssi_cupy.engine.checks import InputError
from ssi_cupy.files import tiff
from ssi_cupy.inference import cost
from ssi_cupy.training.progress import in_words


@pytest.fixture
def steps_of_a_tenth(monkeypatch):
    """As if every step took 0.1 s, whatever else this machine does; and nothing followed it."""
    monkeypatch.setattr(cost.Measured, "seconds", 0.1)
    monkeypatch.setattr(cost.Measured, "enough", True)
    monkeypatch.setattr(cost, "_pass_seconds", lambda training: 0.0)
    monkeypatch.setattr(cost, "RIVAL", 0.0)
    monkeypatch.setattr(cost.Plan, "spent", 0.0)


def restored(**options):
    options = {"progress": False, "full_output": True} | options
    return ssi_cupy.deconvolve(picture(), PSF, **options)


def test_a_limit_chooses_the_steps_and_their_number_gives_the_same_bits(steps_of_a_tenth):
    limited = restored(time_limit=2.01)
    assert limited.steps == 19  # of 0.95 of the limit
    assert limited.history[-1]["lr"] < limited.history[9]["lr"] / 10  # the schedule ended
    again = restored(num_iter=19)
    np.testing.assert_array_equal(limited.restored, again.restored)
    np.testing.assert_array_equal(limited.model.parameters, again.model.parameters)


def test_a_limit_is_one_for_all_images(steps_of_a_tenth):
    stack = np.stack([picture(), picture(seed=2), np.zeros((24, 20), np.float32)])
    options = {"axes": "TYX", "progress": False, "full_output": True}
    assert ssi_cupy.deconvolve(stack, PSF, time_limit=2.01, **options).steps == 9


def test_more_time_than_is_of_use(steps_of_a_tenth):
    assert restored(time_limit=1e6, num_iter=4).steps == 4
    usual = ssi_cupy.recipes.DEFAULT.steps
    dry = ssi_cupy.deconvolve(picture(), PSF, time_limit=1e6, dry_run=True)
    assert dry.steps == cost.LONGEST * usual


def test_a_limit_is_kept():
    start = time.perf_counter()
    found = restored(time_limit=4.0)
    assert found.steps > 3 and np.isfinite(found.restored).all()
    assert time.perf_counter() - start < 12.0  # four on a machine that does nothing else


@pytest.mark.parametrize("limit", [1e-3, 0, -1.0, np.nan, "60", True])
def test_a_limit_that_allows_no_step(limit):
    with pytest.raises(InputError, match="time_limit: expected"):
        restored(time_limit=limit)
    with pytest.raises(InputError, match="time_limit: expected"):
        trained(steps=3, time_limit=limit)


def test_a_resumed_training_has_the_steps_that_were_chosen(steps_of_a_tenth, tmp_path):
    def stop(report):
        return report["step"] == 4

    whole = trained(steps=None, time_limit=1.01)
    file = tmp_path / "state.npz"
    trained(steps=None, time_limit=1.01, checkpoint=file, callback=stop)
    resumed = trained(steps=None, time_limit=77.0, resume=file)
    assert len(resumed.history) == 9
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)


def test_a_second_attempt_needs_time():
    assert cost.Plan(None).again(1e9)
    plan = cost.Plan(10.0, trainings=2)
    plan.begun = 1
    assert plan.again(4.9) and not plan.again(5.1)  # for there is another image


def test_the_cost_alone(capfd):
    called = []
    options = {"callback": called.append, "progress": False}
    told = ssi_cupy.deconvolve(picture(), PSF, dry_run=True, num_iter=70, **options)
    assert not called and isinstance(told, cost.Cost)
    assert (told.pixels, told.steps, told.device) == (480, 70, "cpu")
    assert told.seconds > 70 * told.step > 0 and told.memory > 2**20
    model = ssi_cupy.SelfSupervisedInverse(ssi_cupy.physics.PSFConvolution(PSF), rng=4)
    less = model.cost(picture(), steps=70)
    assert less.steps == 70 and model.parameters is None
    assert re.fullmatch(r"480 pixels, 70 steps of .+: about .+ and .+ GB on cpu", str(less))


def test_one_line_says_what_a_run_costs(capfd):
    trained(steps=60, progress=True)
    told = capfd.readouterr().err
    assert len(re.findall("480 pixels, 60 steps of .*: about .* GB on cpu", told)) == 1
    assert re.search("step 6 of 60, loss .*, .* left", told)
    trained(steps=60)
    assert capfd.readouterr().err == ""


def test_the_command_line_tells_and_keeps_to_a_limit(tmp_path, capsys):
    image, psf, out = (str(tmp_path / name) for name in ("in.tif", "psf.tif", "out.tif"))
    tiff.write(image, picture(), "YX", {})
    tiff.write(psf, PSF.astype(np.float32), "YX", {})
    command = ["deconvolve", image, "--psf", psf, "-o", out, "--no-progress"]
    assert main([*command, "--dry-run"]) == 0
    assert "480 pixels, 600 steps of" in capsys.readouterr().out
    assert not (tmp_path / "out.tif").exists()
    assert main([*command, "--time-limit", "1e-9"]) == 2
    assert "--time-limit: expected at least" in capsys.readouterr().err
    assert main([*command, "--time-limit", "1e6", "--steps", "2"]) == 0
    assert (tmp_path / "out.tif").exists()
    command = ["train", image, "-o", str(tmp_path / "model.npz"), "--recipe", "default"]
    assert main([*command, "--dry-run"]) == 0
    assert "480 pixels, 600 steps of" in capsys.readouterr().out
    assert not (tmp_path / "model.npz").exists()


@pytest.mark.parametrize(
    "seconds, words",
    [(0.0081, "8.1 ms"), (0.25, "0.25 s"), (2.44, "2.4 s"), (35.2, "35 s"), (59.6, "1 min"),
     (200, "3 min 20 s"), (3599, "1 h"), (7500, "2 h 5 min")],
)  # fmt: skip
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words
