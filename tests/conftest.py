"""What all tests begin with: the CPU, whatever the machine has, so that "auto" means it.

Who wants the machine's GPU asks for the fixture `gpu`; `fake_cupy.installed` gives a stand-in.
"""

import os
import sys

import pytest


def _gpu():
    """The machine's cupy, if it has found a GPU: before that is hidden, or never."""
    try:
        import cupy

        return cupy if cupy.cuda.runtime.getDeviceCount() else None
    except Exception:  # of the driver, too
        return None


GPU = _gpu()
sys.modules["cupy"] = None
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for processes that a test starts


@pytest.fixture
def gpu(monkeypatch):
    """Within, `import cupy` gives the machine's."""
    if GPU is None:
        pytest.skip("no GPU was found")
    monkeypatch.setitem(sys.modules, "cupy", GPU)
    return GPU
