"""The widget's work without a window, its manifest, and the widget itself where napari is."""

import threading
import time

import numpy as np
import pytest

from small_runs import PSF, picture
from ssi_cupy import psf
from ssi_cupy.commands import napari_widget


def test_the_time_limit_ends_the_training_and_gives_a_result():
    steps = []
    options = {"recipe": "ssi", "minutes": 0.0, "stop": threading.Event(), "report": steps.append}
    for kernel in (PSF, None):
        found = napari_widget.task(picture(), kernel, **options)
        assert found.shape == picture().shape and np.isfinite(found).all()
    assert len(steps) == 2  # one of each


def test_cancel_gives_nothing():
    stop = threading.Event()
    options = {"recipe": "ssi", "minutes": 1.0, "stop": stop, "report": lambda step: stop.set()}
    assert napari_widget.task(picture(), PSF, **options) is None


def test_an_error_of_the_thread_is_raised_where_it_is_seen():
    thread = napari_widget._Run(psf.gaussian, -1)
    thread.join()
    with pytest.raises(ValueError, match="^sigma: "):
        thread.outcome()


def test_the_manifest_is_valid():
    npe2 = pytest.importorskip("npe2", reason="npe2 is not installed")
    from pathlib import Path

    manifest = npe2.PluginManifest.from_file(Path(napari_widget.__file__).with_name("napari.yaml"))
    manifest.validate_imports()


def test_the_widget_adds_a_layer_with_scale_and_name(monkeypatch):
    pytest.importorskip("napari", reason="napari is not installed")
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    from napari.components import ViewerModel
    from qtpy.QtWidgets import QApplication

    app = QApplication.instance() or QApplication([])
    viewer = ViewerModel()
    widget = napari_widget.RestoreWidget(viewer)
    viewer.add_image(picture(), name="cells", scale=(0.2, 0.2))
    minutes = next(part for part in widget if part.label == "at most, minutes")
    run = next(part for part in widget if getattr(part, "text", "") == "Restore")
    minutes.value = 0.1
    run.changed.emit(True)
    end = time.monotonic() + 60
    while len(viewer.layers) < 2 and time.monotonic() < end:
        app.processEvents()
        time.sleep(0.01)
    found = viewer.layers[-1]
    assert found.name == "cells restored" and tuple(found.scale) == (0.2, 0.2)
    assert found.data.shape == picture().shape and np.isfinite(found.data).all()


def test_napari_sees_that_the_widget_wants_the_viewer():
    """It gives the viewer to a class whose ``__init__`` has a parameter of this name."""
    import inspect

    assert "napari_viewer" in inspect.signature(napari_widget.RestoreWidget.__init__).parameters
