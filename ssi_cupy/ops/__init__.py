"""The mathematics: for each op a forward, the backward right below it, and their loops.

`README.md` in this folder says how to read one and how to add one; `check_op` checks one of yours.
"""

from .gradcheck import GradientError, check_op

__all__ = ["GradientError", "check_op"]
