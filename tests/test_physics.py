"""Forward models: what they equal, that adjoints are exact, and what is refused."""

import io
import threading

import numpy as np
import pytest
from scipy import ndimage, signal

from ssi_cupy import physics
from ssi_cupy.engine import backend
from ssi_cupy.engine.checks import InputError
from ssi_cupy.noise import estimate_noise
from ssi_cupy.physics import (
    Clamp,
    Composition,
    Identity,
    PSFConvolution,
    SensorResponse,
    apply,
    from_dict,
    to_dict,
)
from ssi_cupy.tape import Tape

MODES = ("mirror", "nearest", "wrap", "constant")
METHODS = ("fft", "direct")
SIZES = [  # image (Z, Y, X), PSF: odd and even, asymmetric, flat and deep, wider than the image
    ((1, 20, 70), (5, 7)),
    ((1, 33, 60), (4, 6)),
    ((3, 17, 50), (2, 5)),
    ((7, 12, 11), (3, 5, 5)),
    ((6, 9, 55), (4, 3, 6)),
    ((4, 5, 6), (7, 9, 11)),
    ((1, 1, 16), (2, 2, 20)),
]


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def some_psf(*size):
    """Asymmetric: every value differs."""
    return np.random.default_rng(5).uniform(0.1, 1, size)


def gaussian(sigma, radius=8):
    g = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    return np.outer(g, g) / g.sum() ** 2


class EveryOther:
    """A user's own linear model, neither a blur nor the identity."""

    def forward(self, x):
        return x[..., ::2]

    def adjoint(self, y):
        x = np.zeros((*y.shape[:-1], 2 * y.shape[-1]), y.dtype)
        x[..., ::2] = y
        return x


class Square:
    """A user's own model that is not linear, and computes in float64 whatever it is given."""

    def forward(self, x):
        return x.astype(np.float64) ** 2

    def backward(self, gy, x):
        return 2 * x * gy


def gradient(model, x, gy):
    tape = Tape()
    variable = tape.var(x)
    tape.backward(apply(model, variable), gy)
    return variable.grad


def assert_gradient_is_the_slope(model, x):
    gy = normal(*apply(model, x).shape, seed=1)
    v, step = normal(*x.shape, seed=2), 1e-6
    ahead, behind = apply(model, x + step * v), apply(model, x - step * v)
    slope = np.vdot(gy, ahead - behind) / (2 * step)
    assert np.vdot(gradient(model, x, gy), v) == pytest.approx(slope, rel=1e-6)


# ---- convolution --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape, size", SIZES)
def test_convolution_is_scipys(shape, size, mode, method):
    x, psf = normal(2, 1, *shape), some_psf(*size)
    expected = ndimage.convolve(x, psf.reshape((1,) * (5 - psf.ndim) + size), mode=mode)
    y = PSFConvolution(psf, mode, method, normalise=False).forward(x)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("size", [(5, 7), (4, 6), (5, 4)])
def test_convolution_with_zeros_outside_is_signals_too(size):
    x, psf = normal(1, 1, 1, 20, 30), some_psf(*size)
    y = PSFConvolution(psf, "constant", normalise=False).forward(x)[0, 0, 0]
    full = signal.convolve(x[0, 0, 0], psf, mode="full")
    same = signal.convolve(x[0, 0, 0], psf, mode="same")
    window = tuple(slice(k // 2, k // 2 + n) for k, n in zip(size, y.shape, strict=True))
    np.testing.assert_allclose(y, full[window], rtol=0, atol=1e-12)
    ahead = [1 - k % 2 for k in size]  # an even PSF's centre lies one pixel earlier there
    overlap = y[: y.shape[0] - ahead[0], : y.shape[1] - ahead[1]]
    np.testing.assert_allclose(overlap, same[ahead[0] :, ahead[1] :], rtol=0, atol=1e-12)


def test_convolution_of_a_point_is_the_psf():
    x, psf = np.zeros((1, 1, 1, 9, 9)), some_psf(3, 4)
    x[..., 4, 4] = 1
    y = PSFConvolution(psf, normalise=False).forward(x)
    np.testing.assert_allclose(y[0, 0, 0, 3:6, 2:6], psf, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape, size", SIZES)
def test_adjoint_is_exact(shape, size, mode, method):
    model = PSFConvolution(some_psf(*size), mode, method)
    x, y = normal(1, 2, *shape), normal(1, 2, *shape, seed=1)
    ax, aty = model.forward(x), model.adjoint(y)
    error = abs(np.vdot(ax, y) - np.vdot(x, aty))
    assert error <= 1e-12 * np.linalg.norm(ax) * np.linalg.norm(y)
    np.testing.assert_array_equal(gradient(model, x, y), aty)
    np.testing.assert_array_equal(model.backward(y, x), aty)


@pytest.mark.parametrize("method", METHODS)
def test_float32_stays_and_is_near_float64(method):
    x, model = normal(1, 1, 1, 64, 80), PSFConvolution(some_psf(9, 8), method=method)
    exact, y = model.forward(x), model.forward(x.astype(np.float32))
    assert y.dtype == np.float32 and model.adjoint(y).dtype == np.float32
    assert np.abs(y - exact).max() <= 2e-6 * np.abs(exact).max()


def test_normalised_psf_keeps_flux():
    x = np.full((1, 1, 1, 20, 20), 3.0)
    np.testing.assert_allclose(PSFConvolution(7 * some_psf(4, 5)).forward(x), x, rtol=1e-13)


def test_auto_takes_the_direct_way_for_small_psfs_only():
    def by_fft(size, shape):
        return PSFConvolution(np.ones(size))._make_plan(shape, np.float32)[2] is not None

    assert not by_fft((3, 3), (1, 512, 512)) and not by_fft((9, 9), (1, 256, 256))
    assert by_fft((33, 33), (1, 512, 512)) and by_fft((17, 17, 17), (32, 64, 64))


def test_few_transfer_functions_are_kept():
    model = PSFConvolution(gaussian(2), method="fft")
    for n in range(20, 40):
        model.forward(np.ones((1, 1, 1, n, n)))
    assert len(model._plans) == physics.PLANS


@pytest.mark.parametrize("method", METHODS)
def test_bits_do_not_depend_on_threads(method):
    model = Composition(PSFConvolution(some_psf(9, 9), method=method), SensorResponse(0.1))
    x, gy = normal(1, 1, 1, 300, 333, dtype=np.float32), normal(1, 1, 1, 300, 333, dtype=np.float32)
    threads, found = backend.num_threads(), []
    try:
        for number in (1, 2, 3):
            backend.set_num_threads(number)
            found.append((model.forward(x), model.backward(gy, x)))
    finally:
        backend.set_num_threads(threads)
    for y, gx in found[1:]:
        np.testing.assert_array_equal(y, found[0][0])
        np.testing.assert_array_equal(gx, found[0][1])


def test_two_threads_may_use_one_model():
    model = PSFConvolution(gaussian(2), method="fft")
    images = [normal(1, 1, 1, n, n) for n in range(24, 36)]
    expected = [PSFConvolution(gaussian(2), method="fft").forward(x) for x in images]
    wrong = []

    def work():
        for _ in range(3):
            for x, y in zip(images, expected, strict=True):
                if not np.array_equal(model.forward(x), y):
                    wrong.append(x.shape)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("method", METHODS)
def test_steps_allocate_nothing_after_the_first(method):
    model = Composition(Clamp(), PSFConvolution(gaussian(2), method=method), SensorResponse(0.1))
    x, misses = normal(1, 1, 1, 40, 50, dtype=np.float32), []
    pool = backend.Pool()
    with pool:
        for _ in range(3):
            y, saved = apply.forward(model, x)
            gx = apply.backward(y, saved)
            del y, saved, gx
            misses.append(pool.misses)
    assert misses[0] == misses[2]


# ---- sensors ------------------------------------------------------------------------------------


def test_sensor_response_is_the_mean_of_many_readings():
    x = np.linspace(-0.4, 1.4, 10).reshape(1, 1, 1, 2, 5)
    noise = np.random.default_rng(0).normal(size=(200_000, 1, 1, 1, 1, 1))
    model = SensorResponse(0.2, gain=0.8, offset=0.1, low=0.05, high=0.9)
    readings = np.clip(0.8 * x + 0.1 + 0.2 * noise, 0.05, 0.9)
    np.testing.assert_allclose(model.forward(x), readings.mean(axis=0), atol=2e-3)


def test_sensor_without_noise_clips_and_without_bounds_scales():
    x = normal(1, 1, 1, 9, 9)
    clipped = SensorResponse(0, low=-0.5, high=0.7)
    np.testing.assert_array_equal(clipped.forward(x), np.clip(x, -0.5, 0.7))
    unbounded = SensorResponse(0.1, gain=3, offset=1, low=-np.inf, high=np.inf)
    np.testing.assert_allclose(unbounded.forward(x), 3 * x + 1, rtol=1e-14)


@pytest.mark.parametrize("noise", [0, 1e-30, 1e-6, 0.1, 1e6])
def test_sensor_response_is_finite_and_within_its_bounds(noise):
    x = np.array([-3e38, -1e9, -1, 0, 1e-20, 0.5, 1, 2, 1e9, 3e38], np.float32)
    x = x.reshape(1, 1, 1, 2, 5)
    y, slope = SensorResponse(noise).run(x)
    assert np.all((-1e-6 <= y) & (y <= 1 + 1e-6)) and np.all((-1e-6 <= slope) & (slope <= 1))


def test_nan_stays_nan():
    x = np.full((1, 1, 1, 4, 40), np.nan, np.float32)
    for model in (Clamp(), SensorResponse(0.1), PSFConvolution(some_psf(3, 3))):
        assert np.isnan(model.forward(x)).all()


# ---- a user's own model, and models in a row ----------------------------------------------------


def test_identity():
    x = normal(1, 1, 1, 3, 3)
    np.testing.assert_array_equal(apply(Identity(), x), x)
    np.testing.assert_array_equal(gradient(Identity(), x, 2 * x), 2 * x)


def test_a_users_linear_model():
    x, gy = normal(1, 1, 1, 6, 8), normal(1, 1, 1, 6, 4, seed=1)
    model = Composition(PSFConvolution(some_psf(3, 4)), EveryOther())
    assert apply(EveryOther(), x).flags.c_contiguous
    gx = gradient(model, x, gy)
    assert np.vdot(apply(model, x), gy) == pytest.approx(np.vdot(x, gx), rel=1e-12)
    np.testing.assert_array_equal(model.adjoint(gy), gx)


@pytest.mark.parametrize(
    "model",
    [
        Square(),
        Composition(Square(), PSFConvolution(some_psf(4, 3)), SensorResponse(0.3)),
        Composition(SensorResponse(0.2, 0.5), Composition(Square(), EveryOther())),
    ],
)
def test_models_that_are_not_linear(model):
    x = normal(1, 2, 1, 6, 8)
    assert_gradient_is_the_slope(model, x)
    single = x.astype(np.float32)
    y = apply(model, single)
    assert y.dtype == np.float32 and gradient(model, single, y).dtype == np.float32
    if isinstance(model, Composition):
        with pytest.raises(InputError, match="physics: expected linear models"):
            model.adjoint(apply(model, x))


def test_models_leave_their_input_alone():
    x = normal(1, 1, 1, 12, 13)
    before = x.copy()
    for model in (Clamp(), SensorResponse(0.1), PSFConvolution(some_psf(3, 3)), Identity()):
        gradient(model, x, x)
        np.testing.assert_array_equal(x, before)


def made(**methods):
    return type("Made", (), {k: staticmethod(v) for k, v in methods.items()})()


@pytest.mark.parametrize(
    "model",
    [
        None,
        np.ones((3, 3)),
        PSFConvolution,
        made(forward=lambda x: x),
        made(adjoint=lambda y: y, backward=lambda gy, x: gy),
        made(forward=lambda x: 3, adjoint=lambda y: y),
        made(forward=lambda x: x[0], adjoint=lambda y: y),
        made(forward=lambda x: x + 1j, adjoint=lambda y: y),
        made(forward=lambda x: x > 0, adjoint=lambda y: y),
        made(forward=lambda x: x, adjoint=lambda y: y[..., 1:]),
        made(forward=lambda x: x, adjoint=lambda y: None),
        made(forward=lambda x: x, backward=lambda gy, x: gy[0]),
    ],
)
def test_what_is_no_model_is_refused_by_name(model):
    x = normal(1, 1, 1, 4, 4)
    with pytest.raises(InputError, match="^physics: expected"):
        gradient(model, x, x)


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "psf",
    [
        np.zeros((3, 3)),
        np.array([[1.0, -0.1], [0, 0]]),
        np.array([[1.0, np.nan]]),
        np.ones(3),
        np.ones((1, 1, 3, 3)),
        np.ones((0, 3)),
        np.ones((3, 3), bool),
        np.ones((3, 3), complex),
        [["a"]],
    ],
)
def test_unusable_psfs_are_refused_by_name(psf):
    for use in (PSFConvolution, lambda psf: estimate_noise(normal(9, 9), psf)):
        with pytest.raises(InputError, match="^psf: expected"):
            use(psf)


def test_a_psf_may_be_twice_the_image_and_no_larger():
    x = np.ones((1, 1, 1, 5, 8))
    PSFConvolution(np.ones((10, 16))).forward(x)
    for size in ((11, 3), (3, 17), (3, 3, 3)):
        with pytest.raises(InputError, match="^psf: expected at most twice the image's 1×5×8"):
            PSFConvolution(np.ones(size)).forward(x)


@pytest.mark.parametrize(
    "name, make",
    [
        ("mode", lambda: PSFConvolution(np.ones((3, 3)), mode="reflect")),
        ("method", lambda: PSFConvolution(np.ones((3, 3)), method="fast")),
        ("noise", lambda: SensorResponse(-0.1)),
        ("noise", lambda: SensorResponse(np.nan)),
        ("gain", lambda: SensorResponse(0.1, gain=np.inf)),
        ("high", lambda: SensorResponse(0.1, low=1, high=1)),
        ("high", lambda: Clamp(2, 1)),
        ("low", lambda: Clamp("0", 1)),
        ("models", lambda: Composition()),
        ("models", lambda: Composition(Identity(), 3)),
        ("image", lambda: estimate_noise(np.ones((8, 8)), np.ones((3, 3)))),
        ("image", lambda: estimate_noise(np.full((8, 8), np.nan), np.ones((3, 3)))),
    ],
)
def test_bad_settings_are_refused_by_name(name, make):
    with pytest.raises(InputError, match=f"^{name}: expected"):
        make()


# ---- to a file and back -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        Identity(),
        PSFConvolution(some_psf(4, 5), "wrap", "direct", normalise=False),
        PSFConvolution(some_psf(3, 4, 5)),
        Composition(
            Clamp(-0.5, np.inf),
            Composition(PSFConvolution(some_psf(3, 3)), Identity()),
            SensorResponse(0.1, 2, 0.3, -np.inf, 1.5),
        ),
    ],
    ids=str,
)
def test_models_survive_a_file(model):
    file = io.BytesIO()
    np.savez(file, **to_dict(model))
    file.seek(0)
    with np.load(file, allow_pickle=False) as values:
        again = from_dict(dict(values))
    x = normal(1, 1, 4, 6, 7)
    assert repr(again) == repr(model)
    np.testing.assert_array_equal(again.forward(x), model.forward(x))


def test_only_own_models_go_to_a_file():
    with pytest.raises(InputError, match="^physics: expected a model of ssi_cupy"):
        to_dict(Composition(Identity(), EveryOther()))
    unknown = {"class": "Magic"}, {"class": "Clamp", "depth": 3}, {"class": "Composition"}
    for values in ({}, *unknown):
        with pytest.raises(InputError, match="^physics: expected"):
            from_dict(values)
