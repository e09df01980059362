"""A whole training on a GPU that is not there: graphs, copies between devices, memory.

The stand-in of `emulation/fake_cupy.py` takes cupy's place. What a graph replays is exactly what
was captured, so a number that is frozen, an array that moves or memory that was given back too
early shows as another result than that of the same training run kernel by kernel.
"""

import contextlib
import copy
import dataclasses
import functools
import logging

import numpy as np
import pytest

from emulation import emulator, fake_cupy
from small_runs import SYMMETRIC, model_of, picture, small, training_of, walked
from ssi_cupy import masking, physics, recipes
from ssi_cupy.engine import backend
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.optim import Adam
from ssi_cupy.training.step import NUMBERS, Training
from ssi_cupy.unet import UNet

RECIPES = {
    "default": recipes.DEFAULT,
    "ssi": recipes.SSI,
    "no masking": recipes.SSI_NO_MASKING,
    "two branches": small(recipes.NOISE2SAME),
    "patches": small(recipes.DECONOISING),
    "everything": dataclasses.replace(
        recipes.SSI, mask=masking.StratifiedMask(1 / 16), fill="neighbour", validation_fill=None,
        average=0.9, accumulate=2, augment=True, continuity=0.1, l1=1e-4,
        losses=dataclasses.replace(recipes.SSI.losses, tv=0.1, positivity=0.1),
    ),
}  # fmt: skip


# ---- a graph is the same training ---------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_graph_gives_the_bits_of_eager_steps(device, name):
    arrays, history = walked(training_of(RECIPES[name], graph=False))
    assert device.counts["captures"] == 0
    replayed, history2 = walked(training_of(RECIPES[name]))
    assert device.counts["replays"] >= 8 and device.counts["captures"] >= 2
    assert history2 == history
    for ours, theirs in zip(replayed, arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_graph_learns_a_psf_to_the_bits_of_eager_steps(device):
    """The transfer function is computed within the graph, from parameters that change."""
    found = []
    for graph in (False, True):
        model = model_of(g=physics.LearnedPSF(1.2), graph=graph)
        training = Training(model, picture((18, 21))[None, None, None].astype(np.float64), 10)
        arrays, history = walked(training, 10)
        training.finish()
        found.append((arrays, history, training.learning.trace, model.physics.parameters))
    eager, replayed = found
    assert device.counts["replays"] >= 8 and replayed[1] == eager[1] and replayed[2] == eager[2]
    np.testing.assert_array_equal(replayed[3], eager[3])
    assert np.ptp(np.array(eager[2])[:, 1]) > 0.01
    for ours, theirs in zip(replayed[0], eager[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.skipif(emulator.compiler() is None, reason="no C++ compiler was found")
def test_launches_are_captured_and_replayed(monkeypatch):
    """The way through the launcher, with the kernels themselves, for a small network."""
    tiny = UNet(widths=(8, 8))
    monkeypatch.setattr("ssi_cupy.training.step.network_for", lambda *_, **__: tiny)
    recipe = dataclasses.replace(recipes.SSI, validation_fill="zero")
    with fake_cupy.installed(monkeypatch, emulated=True) as device:
        runs = [walked(training_of(recipe, graph=graph), 4) for graph in (False, True)]
        assert device.counts["replays"] == 6 and device.counts["modules"] > 5
    assert runs[0][1] == runs[1][1]
    for ours, theirs in zip(runs[0][0], runs[1][0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_losses_are_those_of_the_cpu(device, monkeypatch):
    """With an eps at which Adam does not go by the sign of a gradient of nearly nothing."""
    monkeypatch.setattr("ssi_cupy.training.step.Adam", functools.partial(Adam, eps=1.0))
    _, history = walked(training_of())
    model = SelfSupervisedInverse(SYMMETRIC, recipes.DEFAULT, rng=4, device="cpu")
    training = Training(model, picture((18, 21))[None, None, None].astype(np.float64), 20)
    for told in history:
        np.testing.assert_allclose(training.step()["loss"], told["loss"], rtol=1e-5)


@pytest.mark.parametrize("frozen", NUMBERS)
def test_a_frozen_number_would_be_seen(device, frozen, monkeypatch):
    """Were one of the numbers of a step a constant of the graph, the bits would be others."""
    recipe = dataclasses.replace(recipes.SSI, l1=0.0)
    _, history = walked(training_of(recipe, graph=False))
    read = backend.Numbers.__getitem__
    import cupy

    cupy.empty(1, np.float64)[...] = 0.5  # the kernel that writes a number is compiled

    def copied(numbers, name):
        import cupy

        if name != frozen or device.streams[-1].recorded is None:
            return read(numbers, name)
        constant = cupy.empty(1, np.float64)
        constant[...] = float(numbers._host[numbers._at[name]][0])
        return constant

    monkeypatch.setattr(backend.Numbers, "__getitem__", copied)
    _, history2 = walked(training_of(recipe))
    assert history2 != history


@pytest.mark.parametrize("own", [True, False])
def test_memory_of_a_graph_is_not_given_to_others(device, own, monkeypatch):
    """What a callback puts into new memory disturbs no replay; from a common pool it would."""
    import cupy

    _, history = walked(training_of())
    if not own:
        monkeypatch.setattr(cupy.cuda, "using_allocator", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(device.pool, "free_all_blocks", lambda: None)
    training, others = training_of(), []
    for _ in range(8):
        training.step()
        for block in [*device.pool.free]:  # as much as there is
            others += [cupy.zeros(block, np.uint8) for _ in device.pool.free[block][:]]
    touched = any(array.get().any() for array in others)
    assert training.history == history and touched is not own


def test_a_checkpoint_is_gone_on_from_to_the_same_bits(device, tmp_path):
    image, file = picture((18, 21)), tmp_path / "c.npz"
    unbroken = model_of().fit(image, steps=6, progress=False)
    stop = {"callback": lambda r: r["step"] == 2}
    model_of().fit(image, steps=6, progress=False, checkpoint=file, **stop)
    resumed = model_of().fit(image, steps=6, progress=False, resume=file)
    np.testing.assert_array_equal(resumed.parameters.get(), unbroken.parameters.get())
    assert resumed.history == unbroken.history


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_reads_once_uploads_its_numbers_and_takes_no_memory(device, name, graph):
    recipe = RECIPES[name]
    training = training_of(recipe, steps=40, graph=graph)
    for _ in range(24):  # until every transform has come, and those of each shape twice
        training.step()
    before = dict(device.counts)
    training.step()
    more = {name: device.counts[name] - before[name] for name in device.counts}
    assert more["downloads"] == 1 and more["uploads"] == recipe.accumulate
    assert more["mallocs"] == more["waits"] == more["plans"] == more["modules"] == 0
    assert more["replays"] == (recipe.accumulate + 1 if graph else 0)
    if graph:  # drawing the batch, keeping the best parameters
        batches = recipe.accumulate * (recipe.batch if recipe.patch else 1)
        assert more["operations"] <= 8 * batches


LEFT_TO_CUPY = {
    "default": 20,
    "ssi": 10,
    "no masking": 11,
    "two branches": 62,
    "patches": 86,
    "everything": 33,
}  # launches in a step


@pytest.mark.parametrize("name", RECIPES)
def test_numbers_are_computed_by_kernels_of_our_own(device, name):
    """Each of cupy's own is a module that is compiled on first use, for each combination of dtypes.
    What is left to them copies, fills, adds gradients, and multiplies a gain or sums a bias."""
    training = training_of(RECIPES[name], graph=False)
    training.step(), training.step()
    before = dict(device.counts)
    training.step()
    more = {name: device.counts[name] - before[name] for name in ("elementwise", "modules")}
    assert more == {"elementwise": LEFT_TO_CUPY[name], "modules": 0}
    training.finish()
    assert {kernel for kernel, *_ in device.kernels} <= {"copy", "add", "sum", "multiply"}
    assert len(device.kernels) <= 12


# ---- what cannot be captured --------------------------------------------------------------------


class Looking:
    """A forward model of the user's that looks at its numbers on the CPU."""

    def forward(self, x):
        return x if float(x.sum()) > 0 else x * 1

    def adjoint(self, y):
        return y


def test_a_users_own_model_is_run_kernel_by_kernel(device, caplog):
    walked(training_of(g=Looking()), 3)
    assert device.counts["captures"] == 0 and not caplog.records


def test_a_capture_that_fails_is_told_once_and_changes_no_bit(device, caplog, monkeypatch):
    arrays, history = walked(training_of(graph=False))
    forward = physics.PSFConvolution.run

    def looking(self, x):
        float(x.sum())
        return forward(self, x)

    monkeypatch.setattr(physics.PSFConvolution, "run", looking)
    with caplog.at_level(logging.WARNING, "ssi_cupy"):
        replayed, history2 = walked(training_of())
    (record,) = caplog.records
    assert "without a CUDA graph" in record.message and "capturing" in record.message
    assert history2 == history and device.counts["replays"] <= 1  # that of the update
    for ours, theirs in zip(replayed, arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ---- what a launch and a capture cost, and what they need ----------------------------------------


def test_more_shapes_than_plans_are_kept_of_are_captured_all_the_same(device, caplog):
    """Each is captured with the plans of its own first run, before others drive these out."""
    import cupy

    from ssi_cupy.engine.gpu.graph import Capture

    capture, images = Capture(True), {}
    for n in range(physics.PLANS + 2):
        x = cupy.asarray(np.random.default_rng(n).random((1, 1, 1, 12 + 4 * n, 9), np.float32))
        images[n] = x, cupy.zeros(x.shape, x.dtype)

    def blur(x, y):
        y[...] = SYMMETRIC.forward(x)

    with capture as run:
        for _ in range(3):
            for n, (x, y) in images.items():
                y[...] = 0
                run(n, blur, x, y)
                np.testing.assert_allclose(y.get(), SYMMETRIC.forward(x.get()), rtol=1e-5)
    assert capture.enabled and not caplog.records
    assert device.counts["replays"] == 2 * len(images)
    capture.close()


def test_tiles_of_one_shape_are_restored_by_a_graph_to_the_same_bits(device):
    image = picture((60, 44))
    model = model_of(recipes.SSI).fit(picture((18, 21)), steps=2, progress=False)
    eager, tiles = copy.copy(model), {"tile_size": 16, "tile_overlap": 4}
    eager.graph = False
    before = device.counts["replays"]
    expected = eager.predict(image, **tiles)
    assert device.counts["replays"] == before
    np.testing.assert_array_equal(model.predict(image, **tiles), expected)
    assert device.counts["replays"] >= before + 6
    model.predict(image)  # a single tile: not worth one
    assert device.live_graphs == 0


def test_validations_that_are_apart_are_captured(device):
    recipe = dataclasses.replace(small(recipes.DECONOISING), epoch=2)
    training = training_of(recipe)
    walked(training, 4)
    before = dict(device.counts)
    training.step(), training.step()
    more = device.counts["replays"] - before["replays"]
    assert more == 2 * (recipe.accumulate + 1) + training.source.checks
