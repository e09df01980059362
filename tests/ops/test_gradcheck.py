"""`check_op` accepts every right op and says what is wrong with the others; so does the tape."""

import numpy as np
import pytest

from cases import CASES
from ssi_cupy import InputError
from ssi_cupy.ops import GradientError, check_op
from ssi_cupy.ops.pointwise import relu
from ssi_cupy.tape import Tape, op

X = np.random.default_rng(0).normal(size=(3, 5))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_op_passes(case):
    errors = check_op(case.op, *case.args(), wrt=case.wrt, linear=case.linear, **case.settings)
    assert set(errors) == set(case.wrt) and max(errors.values()) <= 1e-6


def squared(x):
    return x * x, x


def writes(x):
    x += 1
    return x.copy(), None


@pytest.mark.parametrize(
    "wrong, settings, says",
    [
        (op(squared, lambda gy, x: x * gy), {}, "slope"),
        (op(squared, lambda gy, x: (2 * x * gy).astype(np.float32)), {}, "float32, not float64"),
        (op(writes, lambda gy, saved: gy), {}, "written to"),
        (op(squared, lambda gy, x: 2 * x * gy), {"linear": [0]}, "not the adjoint"),
        (op(squared, lambda gy, x: None), {}, "slope"),
    ],
)
def test_a_wrong_op_is_told_so(wrong, settings, says):
    with pytest.raises(GradientError, match=says):
        check_op(wrong, X.copy(), **settings)


@pytest.mark.parametrize(
    "args, settings, says",
    [
        ((X.astype(np.float32),), {}, "wrt"),
        ((X.astype(np.float32),), {"wrt": [0]}, "args\\[0\\]"),
        ((X,), {"step": 0.0}, "step"),
        ((X,), {"tolerance": -1}, "tolerance"),
    ],
)
def test_what_cannot_be_checked_is_named(args, settings, says):
    with pytest.raises(InputError, match=says):
        check_op(relu, *args, **settings)


# ---- the tape -----------------------------------------------------------------------------------


def scaled_forward(x, factor):
    return x * factor, (x, factor)


@pytest.mark.parametrize(
    "backward, says",
    [
        (
            lambda gy, saved: (np.ones(7), None),
            "'scaled' returned a gradient of shape \\(7,\\) for",
        ),
        (lambda gy, saved: (gy,), "'scaled' returned 1 gradients, expected one for each of 2"),
        (lambda gy, saved: gy, "'scaled' returned 1 gradients"),
        (lambda gy, saved: (1.0, None), "shape \\(\\) for input 0, expected its shape \\(3,\\)"),
    ],
)
def test_the_tape_says_which_op_returned_what(backward, says):
    tape = Tape()
    y = op(scaled_forward, backward)(tape.var(np.zeros(3)), 2.0)
    with pytest.raises(ValueError, match=says):
        tape.backward(y, np.ones(3))


def test_the_first_gradient_has_the_shape_of_the_loss():
    tape = Tape()
    y = relu(tape.var(np.ones(3)))
    with pytest.raises(ValueError, match=r"gradient: expected the loss's shape \(3,\), got \(2,\)"):
        tape.backward(y, np.ones(2))


@pytest.mark.parametrize(
    "call",
    [
        lambda v: np.exp(v),
        lambda v: np.sum(v),
        lambda v: np.asarray(v),
        lambda v: np.ones(3) + v,
        lambda v: v * 2,
        lambda v: -v,
        lambda v: v[0],
    ],
)
def test_numpy_on_a_variable_says_use_op(call):
    with pytest.raises(TypeError, match="use op"):
        call(Tape().var(np.ones(3)))
