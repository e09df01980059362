"""Faults that cross folders: numbers beyond float32, Ctrl-C, a fit beside a prediction."""

import gc
import inspect
import os
import signal
import threading

import numpy as np
import pytest

import ssi_cupy
from small_runs import PSF, picture, trained
from ssi_cupy import classical, degrade, metrics
from ssi_cupy.classical import shared
from ssi_cupy.commands import apply_folder, cli
from ssi_cupy.engine.checks import InputError, OutOfMemory
from ssi_cupy.engine.interrupts import Interrupts
from ssi_cupy.files import tiff
from ssi_cupy.inference import predict

FIT = {"num_iter": 2, "progress": False}


# ---- numbers ------------------------------------------------------------------------------------


def restored(image):
    return ssi_cupy.deconvolve(image, PSF, **FIT)


@pytest.mark.parametrize("change", [
    lambda y: y * 2.5 + 1e9, lambda y: y * 1e-300, lambda y: (y - 0.5) * 6e38,
    lambda y: y * 1e39, lambda y: y * 1e300, lambda y: y - 1e12,
], ids=str)  # fmt: skip
def test_what_float32_cannot_hold_is_refused_by_name(change):
    image = change(picture().astype(np.float64))
    for function in (restored, lambda y: ssi_cupy.denoise(y, **FIT), trained,
                     lambda y: trained([y, y], ssi_cupy.recipes.DECONOISING)):  # fmt: skip
        with pytest.raises(InputError, match="image"):
            function(image)


@pytest.mark.parametrize("scale, offset", [(2.5, 1e5), (1e-30, 0.0), (1e30, 0.0), (1.0, -3e4)])
def test_what_it_can_hold_is_restored_as_the_same_image_in_other_units(scale, offset):
    image = picture().astype(np.float64)
    plain, other = (
        ssi_cupy.deconvolve(y, PSF, num_iter=1, progress=False)
        for y in (image, image * scale + offset)
    )
    step = np.spacing(np.float32(abs(offset) + 1.3 * scale))
    assert np.abs(other.astype(float) - (plain.astype(float) * scale + offset)).max() < (
        0.02 * scale + 2 * step
    )
    assert np.ptp(other) > 0.1 * scale


def test_an_image_far_outside_what_a_model_knows_is_refused():
    model = trained()
    with pytest.raises(InputError, match="image: expected values like"):
        model.predict(picture().astype(np.float64) * 1e300)


CLASSICAL = {
    "richardson_lucy": {}, "richardson_lucy_tv": {}, "tv_admm": {}, "tv_chambolle_pock": {},
    "tv_conjugate_gradient": {}, "wiener": {"balance": 0.1},
}  # fmt: skip


def classically(name, image, **options):
    settings = {"num_iter": 3} if name != "wiener" else {}
    return getattr(classical, name)(image, PSF, **settings | CLASSICAL[name] | options)


@pytest.mark.parametrize("name", CLASSICAL)
def test_classical_methods_do_the_same_in_other_units_or_refuse_by_name(name):
    image = picture().astype(np.float64)
    image -= image.min()
    for change in (lambda y: y * 2.5 + 1e9, lambda y: y * 1e-300, lambda y: y * 6e38,
                   lambda y: y * 1e300, lambda y: y + 1e12):  # fmt: skip
        with pytest.raises(InputError, match="image"):
            classically(name, change(image))
    plain = classically(name, image)
    for scale in (1e-30, 1e30):
        defaults = inspect.signature(getattr(classical, name)).parameters
        own = {"weight", "smoothing"} & set(defaults) if name.startswith("tv_") else ()
        options = {key: defaults[key].default * scale for key in own}  # in the image's units
        other = classically(name, image * scale, **options)
        assert np.abs(other / scale - plain).max() <= 1e-4 * np.abs(plain).max()
    for start in (image + 0.1, (image + 0.1) * 1e-300, (image + 0.1) * 1e300):
        if "lucy" in name:
            again = classically(name, image, initial=start)
            assert np.allclose(again, classically(name, image, initial=image + 0.1), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e299])
def test_scores_do_not_depend_on_the_unit(scale):
    truth = picture((40, 41)).astype(np.float64)
    image = truth + 0.1 * picture((40, 41), seed=2)
    for name, score in metrics.scores(truth, image, data_range=1.5).items():
        other = metrics.scores(truth * scale, image * scale, data_range=1.5 * scale)[name]
        assert other / (scale if name == "rmse" else 1) == pytest.approx(score, rel=1e-6), name


def test_a_score_that_would_be_rounding_is_refused():
    truth = picture((40, 41)).astype(np.float64)
    image = truth + 0.1 * picture((40, 41), seed=2)
    exact = metrics.ssim(truth + 1e4, image + 1e4, data_range=1.5)
    shifted = metrics.ssim(truth + 2**17, image + 2**17, data_range=1.5)
    assert shifted == pytest.approx(exact, abs=1e-3)
    assert metrics.ssim(np.float32(truth + 1e4), np.float32(image + 1e4), data_range=1.5) == (
        pytest.approx(exact, abs=1e-2)
    )
    with pytest.raises(InputError, match="data_range: expected at least"):
        metrics.ssim(truth + 1e9, image + 1e9, data_range=1.5)
    for bad in (truth * 1e303, -truth * 1e303):
        with pytest.raises(InputError, match="truth"):
            metrics.rmse(bad, image)


@pytest.mark.parametrize("where", ["below", "above"])
def test_a_result_asked_for_in_float64_is_no_finer_nonsense(where):
    """`out` may be of any float: what is written to it is what float32 holds, or is refused."""
    model, image = trained(), picture().astype(np.float64)
    plain, out = model.predict(image), np.full(image.shape, np.nan)
    model.predict(image, out=out)
    assert np.array_equal(out.astype(np.float32), plain)
    with pytest.raises(InputError, match="image"):
        model.predict(image * 1e300 if where == "above" else image * 2.5 + 1e39, out=out)
    large = trained(image * 1e6)
    for kind, one in (("u1", model), ("f2", large)):
        with pytest.raises(InputError, match="out"):
            one.predict(image, out=np.zeros(image.shape, kind))
    half = np.zeros(image.shape, np.float16)
    model.predict(image, out=half)
    assert np.allclose(half, plain, atol=2e-3)


def test_normalising_keeps_a_small_contrast_on_a_large_offset():
    image = picture().astype(np.float64)
    plain = degrade.normalise(image)
    assert np.allclose(degrade.normalise(image * 2.5 + 1e9), plain, atol=1e-5)
    assert np.allclose(degrade.normalise(image * 1e-300), plain, atol=1e-6)


# ---- Ctrl-C -------------------------------------------------------------------------------------


class Swallows:
    """A finaliser in which what Ctrl-C raises is lost: Python reports it, and goes on."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10):  # here Python looks for signals
            pass


@pytest.fixture
def lost():
    """What Ctrl-C does at a bad moment."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def interrupt():
        Swallows()
        gc.collect()

    return interrupt


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_that_was_lost_in_a_finaliser_ends_an_inference_at_the_next_tile(lost, monkeypatch):
    model, tiles, really = trained(), [], predict.Restored.__call__

    def network(self, y, shape):
        tiles.append(y.shape)
        if len(tiles) == 2:
            lost()
        return really(self, y, shape)

    monkeypatch.setattr(predict.Restored, "__call__", network)
    with pytest.raises(KeyboardInterrupt):
        model.predict(picture((200, 200)), tile_size=64, tile_overlap=8)
    assert len(tiles) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", set(CLASSICAL) - {"wiener"})
def test_and_a_classical_method_at_the_next_iteration(lost, monkeypatch, name):
    steps, really = [], shared.gradient
    if name == "richardson_lucy":
        really = shared.Blur.__call__

    def step(*arguments, **options):
        steps.append(len(steps))
        if len(steps) == 5:
            lost()
        return really(*arguments, **options)

    place, attribute = (shared.Blur, "__call__") if name == "richardson_lucy" else (
        shared, "gradient")  # fmt: skip
    monkeypatch.setattr(place, attribute, step)
    with pytest.raises(KeyboardInterrupt):
        classically(name, np.abs(picture()), num_iter=100)
    assert len(steps) < 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_was_lost_within_another_is_not_lost_there(lost):
    with pytest.raises(KeyboardInterrupt), Interrupts():
        with Interrupts() as inner:
            lost()
            inner.check()
        pytest.fail("it went on")
    with pytest.raises(KeyboardInterrupt):
        with Interrupts():
            lost()  # and nothing looks, until the end
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_and_a_folder_at_the_next_file(lost, monkeypatch, tmp_path):
    model, seen, really = trained(), [], tiff.write
    (tmp_path / "in").mkdir()
    for i in range(4):
        tiff.write(tmp_path / "in" / f"{i}.tif", picture(), "YX")

    def write(path, *arguments, **options):
        seen.append(path)
        really(path, *arguments, **options)
        if len(seen) == 2:
            lost()

    monkeypatch.setattr(tiff, "write", write)
    with pytest.raises(KeyboardInterrupt):
        apply_folder.apply(model, tmp_path / "in", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["0.tif", "1.tif"]  # whole, and no scraps


def test_interrupts_leave_other_threads_and_other_handlers_alone():
    def own(number, frame):
        pass

    before = signal.signal(signal.SIGINT, own)
    try:
        with Interrupts() as interrupts:
            assert signal.getsignal(signal.SIGINT) is own
            interrupts.check()
    finally:
        signal.signal(signal.SIGINT, before)
    found = []
    thread = threading.Thread(target=lambda: found.append(Interrupts().__enter__().check()))
    thread.start()
    thread.join()
    assert found == [None]


# ---- a fit and a prediction of one model at once ----------------------------------------------


def test_a_prediction_during_a_fit_is_that_of_the_model_before():
    model, image, other = trained(), picture(), picture(seed=5) * 100 + 1000
    before, found = model.predict(image), []
    model.fit(other, steps=3, progress=False, callback=lambda _: found.append(model.predict(image)))
    assert len(found) == 3 and all(np.array_equal(before, one) for one in found)
    assert np.array_equal(model.predict(other), trained(other).predict(other))


def test_a_fit_that_ends_during_a_prediction_changes_nothing_in_it(monkeypatch):
    model, image, other = trained(), picture((64, 64)), picture((64, 64), seed=5) * 100 + 1000
    options = {"tile_size": 32, "tile_overlap": 8}
    expected, really, calls = model.predict(image, **options), predict.Restored.__call__, []

    def network(one, y, shape):
        calls.append(y.shape)
        if len(calls) == 2:
            monkeypatch.setattr(predict.Restored, "__call__", really)
            model.fit(other, steps=2, progress=False)
        return really(one, y, shape)

    monkeypatch.setattr(predict.Restored, "__call__", network)
    assert np.array_equal(model.predict(image, **options), expected)


def test_predictions_of_other_threads_see_the_model_before_or_after_and_nothing_between():
    model, image, other = trained(), picture(), picture(seed=5) * 100 + 1000
    before, found, fails, end = model.predict(image), [], [], threading.Event()

    def predict_on():
        while not end.is_set():
            try:
                found.append(model.predict(image))
            except Exception as error:
                fails.append(error)

    threads = [threading.Thread(target=predict_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        model.fit(other, steps=8, progress=False)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    after = model.predict(image)
    assert len(found) > 2 and not fails
    assert not np.array_equal(before, after)
    for one in found:
        assert np.array_equal(one, before) or np.array_equal(one, after)
    assert np.array_equal(model.predict(other), trained(other, steps=8).predict(other))


# ---- memory, and what the command line says ---------------------------------------------------


def test_too_little_memory_is_one_line(monkeypatch, tmp_path, capsys):
    def none(*_, **__):
        raise OutOfMemory("cpu", 2**40, 2**20)

    tiff.write(tmp_path / "in.tif", picture(), "YX")
    monkeypatch.setattr("ssi_cupy.restore.denoise", none)
    assert cli.main(["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "o.tif")]) == 2
    said = capsys.readouterr().err
    assert "tile_size" in said and len(said.splitlines()) == 1


def test_a_hard_link_to_the_input_is_the_input(tmp_path, capsys):
    tiff.write(tmp_path / "in.tif", picture(), "YX")
    os.link(tmp_path / "in.tif", tmp_path / "out.tif")
    assert cli.main(["denoise", str(tmp_path / "in.tif"), "-o", str(tmp_path / "out.tif")]) == 2
    assert "another file than IN" in capsys.readouterr().err
