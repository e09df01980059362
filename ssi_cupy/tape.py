"""A list of what ran, read backwards.

An operation is two pure functions on plain arrays: ``forward(*arrays) -> (y, saved)`` and
``backward(gy, saved) -> gradients``, one for each positional argument, in their order, None where
there is none. `op` joins the two. Called on arrays, the operation just computes. Called on a
`Var`, it also writes itself on the tape that the `Var` belongs to.

>>> import numpy as np
>>> square = op(lambda x: (x * x, x), lambda gy, x: 2 * x * gy)
>>> square(np.float64(3.0))
np.float64(9.0)
>>> tape = Tape()
>>> x = tape.var(np.float64(3.0))
>>> tape.backward(square(square(x)))  # d(x⁴)/dx = 4 x³
>>> x.grad
np.float64(108.0)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


class Var:
    """A value on a tape. After `Tape.backward`, `grad` is the loss's gradient by this value.

    Only variables made by `Tape.var` keep their gradient; those in between give theirs back.

    Attributes
    ----------
    value : array
    tape : Tape
    grad : array of the shape of `value`, or None
    """

    __slots__ = ("value", "tape", "grad")

    def __init__(self, value: Any, tape: Tape) -> None:
        self.value, self.tape, self.grad = value, tape, None

    def __repr__(self) -> str:
        return f"Var({self.value!r})"

    def __array_ufunc__(self, ufunc: Any, *_: Any, **__: Any) -> Any:
        raise _use_op(f"numpy.{ufunc.__name__}")

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise _use_op(f"numpy.{function.__name__}")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise _use_op("a conversion to an array")

    def _operator(self, *_: Any) -> Any:
        raise _use_op("an operator of Python")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _operator
    __rtruediv__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = __neg__ = __abs__ = _operator
    __getitem__ = _operator


def _use_op(what):
    says = "a tape records nothing but ops: use op(forward, backward), or its .value outside of it"
    return TypeError(f"{what} was called on a Var; {says} (ssi_cupy/ops/README.md)")


class Tape:
    """What ran, in order. Used for one forward and one backward pass."""

    def __init__(self) -> None:
        self._records: list[tuple] = []
        self._leaves: list[Var] = []

    def var(self, value: Any) -> Var:
        """A variable whose gradient is wanted."""
        leaf = Var(value, self)
        self._leaves.append(leaf)
        return leaf

    def record(self, y: Any, inputs: tuple, backward: Callable, saved: Any, name: str = "") -> Var:
        """Write down that `y` came from `inputs`; `backward(gy, saved)` gives their gradients.

        `name` is that of the operation, for messages.
        """
        out = Var(y, self)
        self._records.append((out, inputs, backward, saved, name))
        return out

    def backward(self, loss: Var, gradient: Any = None) -> None:
        """Fill in `grad` of every leaf by the chain rule, last record first.

        Parameters
        ----------
        loss : Var
            A scalar, unless `gradient` is given.
        gradient : array, optional
            The gradient by `loss`, in its shape. One where not given.

        Raises
        ------
        ValueError
            If an operation returns another number of gradients than it has inputs, or one of
            another shape than its input; the operation is named.
        """
        if gradient is None:
            if getattr(loss.value, "size", 1) != 1:
                raise ValueError(f"loss: expected a scalar, got shape {loss.value.shape}")
            gradient = loss.value * 0 + 1
        elif _shape(gradient) != _shape(loss.value):
            got = f"expected the loss's shape {_shape(loss.value)}, got {_shape(gradient)}"
            raise ValueError(f"gradient: {got}")
        loss.grad = gradient
        while self._records:  # popped, so that what a record saved is freed as soon as it is used
            out, inputs, backward, saved, name = self._records.pop()
            gy, out.grad = out.grad, None
            if gy is None:
                continue
            gradients = backward(gy, saved)
            if not isinstance(gradients, tuple):
                gradients = (gradients,)
            if len(gradients) != len(inputs):
                raise ValueError(_returned(name, f"{len(gradients)} gradients", len(inputs)))
            for i, (var, g) in enumerate(zip(inputs, gradients, strict=True)):
                if isinstance(var, Var) and g is not None:
                    if _shape(g) != _shape(var.value):
                        got = f"a gradient of shape {_shape(g)} for input {i}"
                        raise ValueError(_returned(name, got, len(inputs), _shape(var.value)))
                    var.grad = g if var.grad is None else var.grad + g
        leaves, self._leaves = self._leaves, []  # no cycle: what is dropped is freed at once
        for leaf in leaves:
            if leaf.grad is None:
                leaf.grad = leaf.value * 0


def _shape(value):
    return getattr(value, "shape", ())


def _returned(name, got, inputs, shape=None):
    expected = f"its shape {shape}" if shape is not None else f"one for each of {inputs} inputs"
    return f"the backward of op {name!r} returned {got}, expected {expected}"


def op(forward: Callable, backward: Callable) -> Callable:
    """Join a forward function and its backward function into one operation.

    Keyword arguments are settings: they go to `forward` as they are and have no gradient.

    Parameters
    ----------
    forward : callable
        ``forward(*arrays, **settings) -> (y, saved)``
    backward : callable
        ``backward(gy, saved) -> gradients``, a tuple of one for each of the arrays, or None.

    Returns
    -------
    callable
        On arrays it returns y, on variables of a tape a `Var`. Its ``forward`` and ``backward``
        are the two functions.
    """
    name = forward.__name__.removesuffix("_forward")

    @functools.wraps(forward)
    def call(*args: Any, **settings: Any) -> Any:
        tape = next((a.tape for a in args if isinstance(a, Var)), None)
        y, saved = forward(*(a.value if isinstance(a, Var) else a for a in args), **settings)
        return y if tape is None else tape.record(y, args, backward, saved, name)

    call.forward, call.backward = forward, backward  # type: ignore[attr-defined]
    return call
