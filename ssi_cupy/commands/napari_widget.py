"""The widget of napari: an image layer and a PSF in, the restored image as a layer.

Only napari imports what it needs, when it makes the widget: extra ``napari``.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

NO_PSF, GAUSSIAN = "none: remove noise only", "Gaussian"


def task(
    image: Any,
    psf: Any,
    *,
    recipe: Any,
    minutes: Any,
    stop: Any,
    report: Any,
    spacing: Any = None,
    axes: str | None = None,
) -> Any:
    """Restore until done, out of time or stopped; no part of it knows of windows.

    Parameters
    ----------
    image : array
    psf : array or None
        None to remove noise only.
    recipe : str
    minutes : float
        After so many the training ends, and what it has learnt is used.
    stop : threading.Event
        Set by Cancel: nothing comes back then.
    report : callable
        Called with a dict after each step.
    spacing, axes
        As in `deconvolve`.

    Returns
    -------
    array of float32, or None
    """
    from ..recipes import get
    from ..restore import deconvolve, denoise

    start = time.monotonic()

    def after(step):
        report(step)
        return stop.is_set() or time.monotonic() - start > 60 * minutes

    options = {"spacing": spacing, "axes": axes, "progress": False, "callback": after}
    options["recipe"] = get(recipe)
    found = denoise(image, **options) if psf is None else deconvolve(image, psf, **options)
    return None if stop.is_set() else found


class RestoreWidget:
    """Makes the widget, a container of magicgui, for a viewer of napari.

    A class, as napari looks at the signature of ``__init__`` for who wants the viewer; a plain one,
    as this module is imported where there is no magicgui.
    """

    def __init__(self, napari_viewer: Any) -> None:
        raise NotImplementedError  # what __new__ returns is of another class

    def __new__(cls, napari_viewer: Any) -> Any:
        return _container(napari_viewer)


def _container(napari_viewer):
    from magicgui import widgets
    from napari.layers import Image
    from napari.qt.threading import thread_worker
    from napari.utils.notifications import show_error, show_info

    from .. import recipes
    from ..psf import gaussian

    def images(widget):
        return [layer for layer in napari_viewer.layers if isinstance(layer, Image)]

    image = widgets.ComboBox(label="image", choices=images)
    kind = widgets.ComboBox(label="PSF", choices=[GAUSSIAN, "a layer", NO_PSF])
    sigma = widgets.FloatSpinBox(label="sigma, pixels", value=1.5, min=0.1, step=0.1)
    layer = widgets.ComboBox(label="PSF layer", choices=images)
    recipe = widgets.ComboBox(label="recipe", choices=list(recipes.names()))
    recipe.value = recipes.DEFAULT.name
    minutes = widgets.FloatSpinBox(label="at most, minutes", value=10.0, min=0.1, max=1e4)
    run, cancel = widgets.PushButton(text="Restore"), widgets.PushButton(text="Cancel")
    bar = widgets.ProgressBar(label="steps", value=0, max=1)
    cancel.enabled = False
    stop = threading.Event()

    def psf_of(rank):
        if kind.value == NO_PSF:
            return None
        if kind.value == GAUSSIAN:
            return gaussian(sigma.value, ndim=rank)
        if layer.value is None:
            raise ValueError("PSF layer: expected a layer, got none")
        return np.asarray(layer.value.data)

    def start():
        source = image.value
        if source is None:
            show_error("image: expected a layer, got none")
            return
        data, scale = source.data, tuple(float(s) for s in source.scale)
        colours = bool(source.rgb)
        axes = "TZYX"[-(data.ndim - colours) :] + "C" * colours
        rank = 2 + ("Z" in axes)
        try:
            psf = psf_of(rank)
        except ValueError as error:
            show_error(str(error))
            return
        stop.clear()
        steps = {}

        @thread_worker
        def work():
            thread = _Run(task, data, psf, recipe=recipe.value, minutes=minutes.value, stop=stop,
                          report=steps.update, axes=axes, spacing=scale[-rank:])  # fmt: skip
            while thread.is_alive():
                thread.join(0.1)
                yield dict(steps)
            return thread.outcome()

        def show(found):
            ended()
            if found is None:
                show_info("cancelled: nothing was changed")
                return
            name = f"{source.name} {'denoised' if psf is None else 'restored'}"
            napari_viewer.add_image(found, name=name, scale=scale, rgb=colours, units=source.units)
            show_info(f"{name}: done after {steps.get('step', 0)} steps")

        def failed(error):
            ended()
            show_error(str(error))

        worker = work()
        worker.yielded.connect(progress)
        worker.returned.connect(show)
        worker.errored.connect(failed)
        run.enabled, cancel.enabled = False, True
        worker.start()

    def progress(step):
        if step:
            bar.max, bar.value = int(step["steps"]), int(step["step"])
            bar.label = f"loss {step['loss']:.3g}"

    def ended():
        run.enabled, cancel.enabled = True, False

    def layers_changed(event=None):
        image.reset_choices()
        layer.reset_choices()

    napari_viewer.layers.events.inserted.connect(layers_changed)
    napari_viewer.layers.events.removed.connect(layers_changed)
    run.changed.connect(start)
    cancel.changed.connect(stop.set)
    return widgets.Container(
        widgets=[image, kind, sigma, layer, recipe, minutes, run, cancel, bar], labels=True
    )


class _Run(threading.Thread):
    """A function in a thread of its own, and what came of it."""

    def __init__(self, function, *args, **options):
        super().__init__(daemon=True)
        self._call, self._found, self._error = (function, args, options), None, None
        self.start()

    def run(self):
        function, args, options = self._call
        try:
            self._found = function(*args, **options)
        except Exception as error:  # raised again where the user sees it
            self._error = error

    def outcome(self):
        if self._error is not None:
            raise self._error
        return self._found
