"""Real volumes, restored: pictures of a light-sheet stack and of a widefield channel.

Each picture shows the measured volume, Richardson–Lucy and the network: the maximum along z, a
section of z and x, and the spectrum of that section. Nothing is scored, for no truth is known.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from scipy.ndimage import map_coordinates

from ssi_cupy import classical, psf, recipes
from ssi_cupy.engine.checks import FileError, InputError
from ssi_cupy.files.atomic import replacing
from ssi_cupy.restore import deconvolve

from ..plots import canvas, save, spectrum
from . import images

LUCY = 10  # iterations


@dataclass(frozen=True)
class Volume:
    """A measured volume (Z, Y, X), its PSF on the same grid, and the pixel sizes in µm."""

    image: np.ndarray
    psf: np.ndarray
    spacing: tuple[float, float, float]
    channel: str
    sharper: np.ndarray | None = None  # the same object, seen better


def lightsheet(folder):
    """A lattice light-sheet stack, taken by moving the stage: plane after plane is displaced.

    To move the planes back would mix the noise of neighbouring pixels, which the training takes to
    be independent. So the PSF, one bead measured upright, is displaced as the planes are.
    """
    image = tifffile.imread(folder / "lightsheet" / "im_raw.tif")
    bead = tifffile.imread(folder / "lightsheet" / "psf.tif")
    angle, step, pixel = np.deg2rad(31.5), 0.3, 0.1  # of the stage's path; µm
    rise, along = step * np.sin(angle), step * np.cos(angle)
    upright, _ = psf.prepare(bead, psf_spacing=(0.1, pixel, pixel), spacing=(rise, pixel, pixel))
    return Volume(image, displaced(upright, along / pixel), (rise, pixel, pixel), "light sheet")


def displaced(kernel, shift):
    """`kernel`, each plane moved along −X by `shift` pixels more than the one before it."""
    depth, height, width = kernel.shape
    middle, reach = depth // 2, int(np.ceil(shift * (depth // 2)))
    z, y, x = np.meshgrid(*map(np.arange, (depth, height, width + 2 * reach)), indexing="ij")
    moved = map_coordinates(kernel, (z, y, x - reach + shift * (z - middle)), order=1)
    light = np.flatnonzero(moved.sum(axis=(0, 1)) > 1e-4 * moved.sum())
    half = int(np.abs(light - (width // 2 + reach)).max())
    moved = moved[..., width // 2 + reach - half : width // 2 + reach + half + 1]
    return moved / moved.sum()


def widefield(folder):
    """A nucleus in widefield, with the PSF of a lens such as it may have been; and confocal."""
    name = "xyzc_16bit__dna_conf_wf.tif"
    both = tifffile.imread(folder / "widefield" / name)  # (Z, C, Y, X)
    optics = {"NA": 0.75, "wvl": 0.46, "ni": 1.0, "ns": 1.33, "ni0": 1.0}
    kernel = psf.microscope(dxy=0.51, dz=0.5, shape=(21, 21, 21), **optics)
    return Volume(both[:, 1], kernel, (0.5, 0.51, 0.51), "widefield", both[:, 0])


SOURCES = {"lightsheet": lightsheet, "widefield": widefield}


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench real", description=__doc__)
    add = parser.add_argument
    add("--out", required=True, metavar="DIR")
    add("--volumes", nargs="+", default=list(SOURCES), metavar="NAME", help=" ".join(SOURCES))
    add("--crop", type=int, nargs=3, metavar=("Z", "Y", "X"), help="the middle of each volume")
    add("--recipe", default="default", metavar="NAME", help=", ".join(recipes.names()))
    add("--steps", type=int, metavar="N", help="training steps (default: the recipe's)")
    add("--device", default="auto", help="auto (default), cpu or cuda")
    options = parser.parse_args(arguments)
    folder, out = images.folder().parent / "real", Path(options.out)
    try:
        for name in options.volumes:
            if name not in SOURCES:
                raise InputError("--volumes", "some of " + ", ".join(SOURCES), repr(name))
            if not (folder / name).is_dir():
                got = f"no folder {str(folder / name)!r}"
                raise FileError("--volumes", "real data (SSI_CUPY_DATA names its folder)", got)
        out.mkdir(parents=True, exist_ok=True)
        for name in options.volumes:
            show(name, SOURCES[name](folder), out, options)
    except InputError as error:
        print(f"real: {error}", file=sys.stderr)
        return 2
    return 0


def show(name, volume, out, options):
    """Restore a volume, draw it, and write down what was done."""
    inside = tuple(
        slice((n - m) // 2, (n - m) // 2 + m)
        for n, m in zip(volume.image.shape, fitting(volume.image.shape, options.crop), strict=True)
    )
    image = volume.image[inside].astype(np.float32)
    start = time.perf_counter()
    dark = float(np.percentile(image, 0.1))
    lucy = classical.richardson_lucy(np.maximum(image - dark, 0), volume.psf, num_iter=LUCY)
    seconds = {"richardson_lucy": time.perf_counter() - start}
    found = deconvolve(
        image, volume.psf, recipe=options.recipe, num_iter=options.steps, device=options.device,
        spacing=volume.spacing, full_output=True, progress=sys.stderr.isatty(),
    )  # fmt: skip
    rows = {"measured": image, f"Richardson–Lucy {LUCY}": lucy}
    rows[f"recipe {options.recipe}, {found.steps} steps"] = found.restored
    if volume.sharper is not None:
        rows["confocal, for comparison"] = volume.sharper[inside]
    save(picture(rows, volume), out / f"real_{name}.png")
    report = {"shape": image.shape, "recipe": options.recipe, "steps": found.steps}
    report |= {"seconds": seconds | found.seconds, "device": found.device}
    with replacing(out / f"real_{name}.json") as part:
        part.write_text(json.dumps(report, indent=1) + "\n")


def fitting(shape, crop):
    return [min(n, m) for n, m in zip(shape, crop or shape, strict=True)]


def picture(rows, volume):
    """A row of three for each volume; grey from the 1st to the 99.9th percentile of each."""
    figure = canvas(9.5, 3.1 * len(rows))
    axes = figure.subplots(len(rows), 3, squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.97, wspace=0.03, hspace=0.12)
    aspect = volume.spacing[0] / volume.spacing[2]
    for (title, image), (top, side, power) in zip(rows.items(), axes, strict=True):
        section = image[:, image.shape[1] // 2].astype(np.float64)
        shown = ((top, image.max(axis=0), 1, "maximum along z"), (side, section, aspect, "z, x"))
        for ax, plane, ratio, what in shown:
            low, high = np.percentile(plane, (1, 99.9))
            ax.imshow(plane, cmap="gray", vmin=low, vmax=high, aspect=ratio)
            ax.set_title(f"{volume.channel}, {title}: {what}", fontsize=7.5)
        scaled = spectrum(section / section.std())
        power.imshow(scaled, cmap="magma", aspect="auto", vmin=-2, vmax=5)
        power.set_title("log spectrum of z, x", fontsize=7.5)
        for ax in (top, side, power):
            ax.set_axis_off()
    return figure
