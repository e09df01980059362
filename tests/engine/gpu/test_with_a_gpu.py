"""What a GPU is given and what it refuses, on the stand-in: devices, copies, memory, own models."""

import functools
import logging

import numpy as np
import pytest

import ssi_cupy
from emulation import emulator, fake_cupy
from small_runs import PSF, SYMMETRIC, picture
from ssi_cupy import physics
from ssi_cupy.classical import shared
from ssi_cupy.engine import backend
from ssi_cupy.engine.checks import OutOfMemory
from ssi_cupy.engine.gpu import driver
from ssi_cupy.inversion import SelfSupervisedInverse
from ssi_cupy.ops.pointwise import relu_forward_kernel
from ssi_cupy.optim import Adam

# ---- which device -------------------------------------------------------------------------------


def test_auto_takes_the_gpu_says_so_once_and_gives_back_what_it_was_given(device, caplog, capsys):
    image = picture((18, 21))
    with caplog.at_level(logging.INFO, "ssi_cupy"):
        for _ in range(2):
            told = ssi_cupy.deconvolve(image, PSF, num_iter=1, progress=True, full_output=True)
    said = [record.message for record in caplog.records if "auto" in record.message]
    assert said == ["device 'auto' is 'cuda': a stand-in for a GPU"]
    assert told.device == "cuda" and "training on cuda" in capsys.readouterr().err
    for result in (told.restored, told.denoised):
        assert type(result) is np.ndarray and result.shape == image.shape
    here = ssi_cupy.deconvolve(image, PSF, num_iter=1, device="cpu", progress=False)
    np.testing.assert_allclose(told.restored, here, atol=1e-2)


@pytest.mark.skipif(emulator.compiler() is None, reason="no C++ compiler was found")
@pytest.mark.parametrize("wrong", [False, True])
def test_a_gpu_is_taken_if_one_kernel_is_right(monkeypatch, wrong):
    with fake_cupy.installed(monkeypatch, emulated=True):
        assert driver.failing() is None and backend.resolve_device("auto") == "cuda"
        driver._failing.cache_clear()
        if wrong:
            monkeypatch.setattr(fake_cupy.ndarray, "get", lambda a: a._a + 1)
            assert driver.failing() == "a GPU that computes right"
        else:
            monkeypatch.setattr(fake_cupy.ndarray, "get", lambda a: 1 / 0)
            assert driver.failing() == "a GPU that works (ZeroDivisionError: division by zero)"
        assert backend.resolve_device("auto") == "cpu"


# ---- what goes over, what waits, what is taken --------------------------------------------------


def test_a_limit_of_the_pool_is_kept_to(device):
    """What the plan of memory counts on is what the user's limit leaves of the device's memory."""
    import cupy

    held = cupy.zeros(1 << 20, np.uint8)
    assert backend.free_memory(held) > 1 << 30
    device.pool.set_limit(3 << 20)
    assert backend.free_memory(held) == 2 << 20
    with pytest.raises(OutOfMemory, match="got 2 MiB that are free"):
        with backend.enough_memory("cuda"):
            cupy.zeros(1 << 22, np.uint8)
    device.pool.set_limit(1)
    assert backend.free_memory(held) == 0


def test_a_psf_of_the_cpu_follows_the_image_to_a_classical_method(device):
    import cupy

    image = cupy.asarray(picture((18, 21)))
    xp, y, psf = shared.inputs(image, PSF, False)
    assert xp is cupy and type(y) is type(psf) is cupy.ndarray
    with pytest.raises(ValueError, match="^arrays: "):
        shared.inputs(picture((18, 21)), cupy.asarray(PSF), False)


# ---- forward models of one's own -----------------------------------------------------------------


class Lit:
    """A model in numpy: what it multiplies by is numpy's."""

    def __init__(self, light):
        self.light = light

    def forward(self, x):
        return self.light * x

    def adjoint(self, y):
        return self.light * y


class LitAnywhere(Lit):
    """The same for both devices."""

    def forward(self, x):
        return backend.placed(self.light, x) * x

    adjoint = forward


class Saturating:
    """Not linear, and by functions that take nothing but numpy's arrays."""

    def forward(self, x):
        return np.asarray(x) / (1 + np.abs(np.asarray(x)))

    def backward(self, gy, x):
        return np.asarray(gy) / (1 + np.abs(np.asarray(x))) ** 2


LIGHT = np.linspace(0.5, 1.5, 21, dtype=np.float32)
OWN = {
    "numpy": lambda: Lit(LIGHT),
    "not linear": Saturating,
    "composed": lambda: physics.Composition(SYMMETRIC, Lit(LIGHT)),
    "both": lambda: LitAnywhere(LIGHT),
}


@pytest.mark.parametrize("name", OWN)
def test_a_model_in_numpy_gets_copies_and_that_is_told_once(device, name, caplog, monkeypatch):
    monkeypatch.setattr("ssi_cupy.training.step.Adam", functools.partial(Adam, eps=0.1))
    image = picture((18, 21))
    with caplog.at_level(logging.WARNING, "ssi_cupy"):
        model = SelfSupervisedInverse(OWN[name](), rng=4).fit(image, steps=3, progress=False)
        found = model.restore(image)
    assert model.device == "cuda"
    said = [record.message for record in caplog.records]
    assert len(said) == (name != "both") and all("gets copies on the CPU: " in s for s in said)
    here = SelfSupervisedInverse(OWN[name](), rng=4, device="cpu")
    here.fit(image, steps=3, progress=False)
    for ours, theirs in zip(found, here.restore(image), strict=True):
        assert type(ours) is np.ndarray
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_an_error_of_a_users_model_is_its_own(device, caplog):
    class Wrong(Lit):
        def forward(self, x):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        SelfSupervisedInverse(Wrong(LIGHT)).fit(picture((18, 21)), steps=1, progress=False)
    assert not caplog.records


# ---- what a GPU refuses -------------------------------------------------------------------------


def _synchronised(x):
    import cupy

    cupy.cuda.get_current_stream().synchronize()


ILLEGAL = {
    "reading a number": lambda x: float(x.sum()),
    "a copy to the host": lambda x: x.get(),
    "a copy from the host": lambda x: x.set(np.zeros(4, np.float32)),
    "waiting": _synchronised,
    "a plan": lambda x: driver.fourier_plans((1, 1, 1, 4, 4), x.dtype, (-2, -1)),
    "a transform without a plan": lambda x: driver.fft().rfftn(x.reshape(2, 2), axes=(0, 1)),
    "memory given back": lambda x: driver.device_pool().free_all_blocks(),
    "a kernel that was never compiled": lambda x: np.arctan2(x, x),
    "numpy among cupy": lambda x: x + np.zeros(4, np.float32),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_what_is_illegal_in_a_capture_is_refused(device, name):
    """As by a GPU: at once, and the capture is spoilt."""
    import cupy

    x, stream = cupy.zeros(4, np.float32), cupy.cuda.Stream(non_blocking=True)
    mixed = name.startswith("numpy")
    if not mixed:
        x.sum()
    with stream:
        stream.begin_capture()
        with pytest.raises(TypeError if mixed else RuntimeError):
            ILLEGAL[name](x)
        if not mixed:
            with pytest.raises(RuntimeError):
                stream.end_capture()


def test_numpy_arrays_among_those_of_the_gpu_are_refused(device):
    import cupy

    here, there = np.zeros(4, np.float32), cupy.zeros(4, np.float32)
    for args in ((here, there), (there, here)):
        with pytest.raises(ValueError, match="^arrays: "):
            backend.namespace(*args)
        with pytest.raises(ValueError, match="^arrays: "):
            relu_forward_kernel(4, *args)
        with pytest.raises(TypeError, match="Unsupported type"):
            np.add(*args)
