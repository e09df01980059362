"""The stand-in of `emulation/fake_cupy.py` in cupy's place."""

import pytest

from emulation import fake_cupy


@pytest.fixture
def device(monkeypatch):
    with fake_cupy.installed(monkeypatch) as device:
        yield device
