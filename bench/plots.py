"""A canvas without a window, a file written whole, the spectrum of an image."""

import numpy as np

from ssi_cupy.files.atomic import replacing


def canvas(width, height):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)  # not pyplot: no window is wanted
    return figure


def save(figure, path):
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=130)
    print(f"written to {path}")


def spectrum(image):
    """Logarithm of the power, frequency 0 in the middle; a window keeps the border out."""
    window = np.multiply.outer(*map(np.hanning, image.shape))
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    return np.log10(np.fft.fftshift(power) + 1e-12)
