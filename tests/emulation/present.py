"""A plugin of pytest (``-p emulation.present``): the stand-in is there from the beginning, as a GPU
would be."""

import pytest

from . import fake_cupy

_installed = fake_cupy.installed(pytest.MonkeyPatch())
_installed.__enter__()
