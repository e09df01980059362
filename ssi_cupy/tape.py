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


class Var:
    """A value on a tape. After `Tape.backward`, `grad` is the loss's gradient by this value.

    Only variables made by `Tape.var` keep their gradient; those in between give theirs back.
    """

    __slots__ = ("value", "tape", "grad")

    def __init__(self, value, tape):
        self.value, self.tape, self.grad = value, tape, None

    def __repr__(self):
        return f"Var({self.value!r})"


class Tape:
    """What ran, in order. Used for one forward and one backward pass."""

    def __init__(self):
        self._records = []
        self._leaves = []

    def var(self, value):
        """A variable whose gradient is wanted."""
        leaf = Var(value, self)
        self._leaves.append(leaf)
        return leaf

    def record(self, y, inputs, backward, saved):
        """Write down that `y` came from `inputs`; `backward(gy, saved)` gives their gradients."""
        out = Var(y, self)
        self._records.append((out, inputs, backward, saved))
        return out

    def backward(self, loss, gradient=None):
        """Fill in `grad` of every leaf by the chain rule, last record first.

        Parameters
        ----------
        loss : Var
            A scalar, unless `gradient` is given.
        gradient : array, optional
            The gradient by `loss`, in its shape. One where not given.
        """
        if gradient is None:
            if getattr(loss.value, "size", 1) != 1:
                raise ValueError(f"loss: expected a scalar, got shape {loss.value.shape}")
            gradient = loss.value * 0 + 1
        loss.grad = gradient
        while self._records:  # popped, so that what a record saved is freed as soon as it is used
            out, inputs, backward, saved = self._records.pop()
            gy, out.grad = out.grad, None
            if gy is None:
                continue
            gradients = backward(gy, saved)
            if not isinstance(gradients, tuple):
                gradients = (gradients,)
            for var, g in zip(inputs, gradients, strict=True):
                if isinstance(var, Var) and g is not None:
                    var.grad = g if var.grad is None else var.grad + g
        leaves, self._leaves = self._leaves, []  # no cycle: what is dropped is freed at once
        for leaf in leaves:
            if leaf.grad is None:
                leaf.grad = leaf.value * 0


def op(forward, backward):
    """Join a forward function and its backward function into one operation.

    Keyword arguments are settings: they go to `forward` as they are and have no gradient.
    """

    @functools.wraps(forward)
    def call(*args, **settings):
        tape = next((a.tape for a in args if isinstance(a, Var)), None)
        y, saved = forward(*(a.value if isinstance(a, Var) else a for a in args), **settings)
        return y if tape is None else tape.record(y, args, backward, saved)

    call.forward, call.backward = forward, backward
    return call
