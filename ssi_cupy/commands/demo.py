"""The demonstration: a micrograph is degraded, restored, and compared with Richardson–Lucy.

The micrograph is the stained tissue that scikit-image ships, in its blue channel, where the brown
stain of the cell borders has the most contrast. The benchmark's degradation blurs it as a widefield
microscope does 3 µm out of focus, adds noise, and sets one pixel in a hundred to a random value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import classical, degrade, metrics, psf
from ..engine.checks import FileError, InputError
from ..engine.types import Array, Device, Float32Array, PathLike, PrecisionName, Rng
from ..files import atomic, tiff
from ..restore import deconvolve

MICROSCOPE = {"NA": 0.8, "wvl": 0.6, "ni": 1.33, "dxy": 0.406, "z": 3.0}  # µm
COUNTS = (2, 5, 10, 20)
CORNER, SIZE = (236, 16), 256
# Degraded along with the image and then cut off: what is imaged goes on beyond the frame.
MARGIN = 16
ZOOM = (slice(140, 220), slice(60, 140))


def run(
    out: PathLike,
    *,
    rng: Rng = 0,
    num_iter: int | None = None,
    device: Device = "auto",
    precision: PrecisionName = "float32",
    progress: bool = True,
) -> dict[str, Any]:
    """Run the demonstration; write ``restored.tif``, ``panel.png``, ``report.json``; print scores.

    Parameters
    ----------
    out : str or os.PathLike
        The folder to write to, made if need be.
    rng, num_iter, device, precision, progress
        As in `deconvolve`.

    Returns
    -------
    dict
        What ``report.json`` holds.
    """
    _needs_extra()
    out = _folder(out)
    kernel = psf.microscope((17, 17), **MICROSCOPE)
    truth, image = degraded_micrograph(kernel)
    images = {"input": image}
    for n in COUNTS:
        images[f"richardson_lucy_{n}"] = classical.richardson_lucy(image, kernel, num_iter=n)
    result = deconvolve(
        image, kernel, rng=rng, num_iter=num_iter, device=device, precision=precision,
        progress=progress, full_output=True,
    )  # fmt: skip
    images["ssi"] = np.asarray(result.restored)

    report = {
        "metrics": {name: _scores(truth, image) for name, image in images.items()},
        "seconds": {name: float(result.seconds[name]) for name in ("train", "infer")},
        "steps": int(result.steps),
        "seed": rng,
        "device": str(result.device),
    }
    print(table(report["metrics"]))
    tiff.write(out / "restored.tif", images["ssi"], "YX", argument="out")
    with atomic.replacing(out / "panel.png") as path:
        panel(truth, images, report["metrics"], path)
    with atomic.replacing(out / "report.json") as path:
        path.write_text(json.dumps(report, indent=2) + "\n")
    return report


def degraded_micrograph(kernel: Array) -> tuple[Float32Array, Float32Array]:
    """The truth and what is made of it, both (Y, X) float32."""
    from skimage.data import immunohistochemistry

    (y, x), size = CORNER, SIZE + 2 * MARGIN
    region = immunohistochemistry()[y - MARGIN :, x - MARGIN :, 2][:size, :size]
    truth = degrade.normalise(region)
    image = degrade.degrade(truth, kernel, rng=0)
    inner = (slice(MARGIN, -MARGIN),) * 2
    return tuple(np.ascontiguousarray(a[inner], dtype=np.float32) for a in (truth, image))


def _scores(truth, image):
    return {name: float(v) for name, v in metrics.scores(truth, image, data_range=1.0).items()}


def _folder(out):
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError("out", "a folder that can be made", f"{str(out)!r} ({error})") from None
    for name in ("restored.tif", "panel.png", "report.json"):
        atomic.check_writable(out / name, "out")
    return out


def _needs_extra():
    for name in ("skimage", "matplotlib"):
        try:
            __import__(name)
        except ImportError:
            expected = "the demo extra, pip install 'ssi_cupy[demo]'"
            raise InputError("demo", expected, f"no module {name}") from None


# ---- what is shown --------------------------------------------------------------------------

LABELS = {"input": "Input", "ssi": "Restored"}
LABELS |= {f"richardson_lucy_{n}": f"Richardson–Lucy ({n})" for n in COUNTS}


def table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Scores of several images, as lines of text."""
    columns = list(next(iter(scores.values())))
    lines = [" " * 20 + "".join(f"{name.upper():>8}" for name in columns)]
    for name, row in scores.items():
        digits = (f"{row[c]:8.2f}" if c == "psnr" else f"{row[c]:8.3f}" for c in columns)
        lines.append(f"{LABELS[name]:20}" + "".join(digits))
    return "\n".join(lines)


def panel(
    truth: Array,
    images: Mapping[str, Array],
    scores: Mapping[str, Mapping[str, float]],
    path: PathLike,
) -> None:
    """Truth, input, best Richardson–Lucy and restored: whole, zoomed in, and their spectra."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    best = max((f"richardson_lucy_{n}" for n in COUNTS), key=lambda name: scores[name]["psnr"])
    shown = [("Truth", None, truth)]
    shown += [(LABELS[name], scores[name], images[name]) for name in ("input", best, "ssi")]

    figure = Figure(figsize=(12, 9.6), facecolor="white")
    FigureCanvasAgg(figure)  # not pyplot: its state and its choice of a window are the user's
    axes = figure.subplots(3, len(shown), gridspec_kw={"wspace": 0.03, "hspace": 0.03})
    figure.subplots_adjust(left=0.03, right=0.995, top=0.935, bottom=0.01)
    spectra = [_spectrum(image) for _, _, image in shown]
    low, high = np.percentile(spectra[0], (1, 99.9))
    y, x = ZOOM
    for column, (name, score, image), spectrum in zip(axes.T, shown, spectra, strict=True):
        line = f"PSNR {score['psnr']:.2f} dB   SSIM {score['ssim']:.3f}" if score else ""
        for height, text, size in ((1.10, name, 12), (1.03, line, 10)):
            column[0].text(0.5, height, text, fontsize=size, ha="center",
                           transform=column[0].transAxes)  # fmt: skip
        gray = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
        column[0].imshow(image, **gray)
        corner, width, height = (x.start, y.start), x.stop - x.start, y.stop - y.start
        column[0].add_patch(Rectangle(corner, width, height, fill=False, ec="#ffb000", lw=1.5))
        column[1].imshow(image[ZOOM], **gray)
        column[2].imshow(spectrum, cmap="magma", vmin=low, vmax=high)
    for row, label in zip(axes, ("image", "zoom", "log spectrum"), strict=True):
        row[0].set_ylabel(label, fontsize=11)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    figure.savefig(path, format="png", dpi=90)


def _spectrum(image):
    """Logarithm of the power, zero frequency in the middle; a window keeps the border out."""
    window = np.multiply.outer(*map(np.hanning, image.shape))
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    return np.log10(np.fft.fftshift(power) + 1e-12)
