"""The noise of an image, from the image itself: one model, which all that depends on noise uses."""

from .counts import clipping, count_step
from .level import estimate_noise
from .model import NoiseModel, known_camera, noise_model
from .outliers import outliers

__all__ = [
    "NoiseModel",
    "clipping",
    "count_step",
    "estimate_noise",
    "known_camera",
    "noise_model",
    "outliers",
]
