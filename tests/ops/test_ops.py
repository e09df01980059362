"""Every row of `cases.py`: right values, right gradients, exact adjoints, the same bits."""

import numpy as np
import pytest

from cases import CASES
from running import relative, run
from ssi_cupy.engine import backend

every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


@every_case
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_forward_equals_reference(case, dtype, tolerance):
    args = case.args(dtype)
    expected = case.reference(*case.args(np.float64))
    y = case.op(*args, **case.settings)
    assert y.dtype == dtype and y.shape == np.shape(expected)
    assert relative(y, expected) <= tolerance


@every_case
def test_gradient_equals_directional_derivative(case):
    args = case.args()
    _, gy, gradients = run(case, args)
    rng = np.random.default_rng(3)
    for i, gradient in zip(case.wrt, gradients, strict=True):
        assert gradient.shape == args[i].shape and gradient.dtype == args[i].dtype
        v = rng.normal(size=args[i].shape)
        step = 1e-6

        def along(t, i=i, v=v):
            moved = list(args)
            moved[i] = args[i] + t * v
            return np.vdot(gy, case.op(*moved, **case.settings))

        slope = (along(-2 * step) - 8 * along(-step) + 8 * along(step) - along(2 * step)) / (
            12 * step
        )
        told = np.vdot(gradient, v)
        size = np.linalg.norm(gradient) * np.linalg.norm(v) / np.sqrt(v.size)
        assert abs(slope - told) <= 1e-6 * max(abs(told), size)


@every_case
def test_float32_gradient_is_the_float64_gradient(case):
    exact = run(case, case.args(np.float64))[2]
    for gradient, expected in zip(run(case, case.args(np.float32))[2], exact, strict=True):
        assert gradient.dtype == np.float32
        assert relative(gradient, expected) <= 2e-5


@pytest.mark.parametrize("case", [c for c in CASES if c.linear], ids=lambda c: c.name)
def test_adjoint_is_exact(case):
    """<A x, y> = <x, Aᵀ y>, in units of |A x| |y|."""
    args = case.args()
    for i in case.linear:
        others = [
            np.zeros_like(a) if j in case.linear and j != i else a for j, a in enumerate(args)
        ]
        nothing = [np.zeros_like(a) if j == i else a for j, a in enumerate(others)]
        y, gy, gradients = run(case, others)
        y = y - case.op(*nothing, **case.settings)  # without the bias
        left, right = np.vdot(y, gy), np.vdot(others[i], gradients[case.wrt.index(i)])
        assert abs(left - right) <= 1e-12 * np.linalg.norm(y) * np.linalg.norm(gy)


@every_case
def test_inputs_are_left_alone(case):
    args, before = case.args(np.float32), case.args(np.float32)
    run(case, args)
    for a, b in zip(args, before, strict=True):
        np.testing.assert_array_equal(a, b)


@every_case
def test_threads_change_no_bit(case):
    args, threads = case.args(np.float32), backend.num_threads()
    try:
        backend.set_num_threads(1)
        y1, _, g1 = run(case, args)
        backend.set_num_threads(3)
        y3, _, g3 = run(case, args)
    finally:
        backend.set_num_threads(threads)
    np.testing.assert_array_equal(y1, y3)
    for a, b in zip(g1, g3, strict=True):
        np.testing.assert_array_equal(a, b)
