"""What `bench noise` restores: images and volumes by kind, PSFs, and noise, in two halves.

Settings are chosen on the tuning half alone; the judging half says what they are worth. No image
is in both. Light from beyond the border is in the data, as it is in a microscope's: a larger piece
is blurred, and its middle is what a method gets to see.
"""

import functools
import zlib
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ssi_cupy import degrade
from ssi_cupy.engine.checks import InputError
from ssi_cupy.psf import gaussian, microscope

from ..papers import filaments, images

GREY = np.array(images.GREY)
# name → kind; what begins with "ssi22:" is of the benchmark's images.
TUNING = {
    "camera": "smooth", "grass": "texture", "page": "text", "moon": "smooth", "clock": "smooth",
    "stars-1": "stars", "ssi22:nuclei924x624": "cells", "ssi22:tubules1024x1024": "cells",
    "ssi22:fishembryo700x700": "smooth",
}  # fmt: skip
JUDGING = {
    "coins": "smooth", "brick": "texture", "text": "text", "cell": "cells", "stars-2": "stars",
    "immunohistochemistry": "dark on bright", "gravel": "texture", "hubble_deep_field": "stars",
    "ssi22:neurons768x768": "cells", "ssi22:membrane924x924": "cells",
}  # fmt: skip
HALVES = {"tuning": TUNING, "judging": JUDGING}
VOLUMES = ("filaments", "shells", "nucleus")  # of another seed in each half
PSFS = ("gauss1.5", "gauss3", "paper", "motion", "astigmatic", "airy")
NOISES = ("s0.003", "s0.01", "s0.03", "s0.1", "s0.3", "p1000", "p100", "p10", "p2")
PHOTONS = ("p1000", "p100", "p10")


@dataclass(frozen=True)
class Case:
    """A truth in [0, 1] that was blurred and got noise; of a volume, `aspect` is Z over X."""

    image: str
    psf: str
    noise: str
    half: str
    aspect: int = 0  # 0 is an image

    @property
    def name(self):
        form = f"-{self.aspect}to1" if self.aspect else ""
        return f"{self.image.removeprefix('ssi22:')}{form}-{self.psf}-{self.noise}"

    @property
    def kind(self):
        return "volume" if self.aspect else HALVES[self.half][self.image]


def cases(half, volumes=False):
    """The cells of the table. Images take turns, such that each meets most PSFs and noises."""
    if volumes:
        return [
            Case(f"{name}-{half}", "microscope", noise, half, aspect)
            for aspect in (1, 3) for name in VOLUMES for noise in PHOTONS
        ]  # fmt: skip
    names = list(HALVES[half])
    if not images.folder().is_dir():
        names = [name for name in names if not name.startswith("ssi22:")]
    return [
        Case(names[(7 * i + 3 * j) % len(names)], psf, noise, half)
        for i, psf in enumerate(PSFS) for j, noise in enumerate(NOISES)
    ]  # fmt: skip


def make(case, size):
    """(truth, image, psf): the truth in units of the image, which are photons where it has some.

    `size` pixels a side, or of a volume along Y and X.
    """
    psf = kernel(case.psf, case.aspect)
    reach = [k // 2 for k in psf.shape]
    if case.aspect:
        depth = max(8, 3 * size // (8 * case.aspect))
        shape = [n + 2 * r for n, r in zip((depth, size, size), reach, strict=True)]
        large = volume(case.image, shape, case.aspect)
    else:
        large = picture(case.image, [size + 2 * r for r in reach])
    large = degrade.normalise(large).astype(np.float64)
    inside = tuple(slice(r, n - r) for r, n in zip(reach, large.shape, strict=True))
    blurred = degrade.blur(large, psf, mode="mirror")[inside]
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    level = float(case.noise[1:])
    if case.noise[0] == "s":
        return large[inside], blurred + level * rng.standard_normal(blurred.shape), psf
    counts = rng.poisson(level * np.maximum(blurred, 0)).astype(np.float64)
    return level * large[inside], counts, psf


@functools.cache
def kernel(name, aspect=0):
    """A PSF by name."""
    if aspect:  # NA 0.8 in water, at 0.13 µm across
        shape = (11 if aspect > 1 else 17, 15, 15)
        return microscope(shape, dxy=0.13, dz=0.13 * aspect, NA=0.8, wvl=0.52, ni=1.33)
    if name.startswith("gauss"):
        return gaussian(float(name.removeprefix("gauss")))
    if name == "paper":
        return images.kernel(2)
    if name == "motion":  # 9 pixels along a slope of 30°
        points = np.linspace(-4, 4, 400)
        across, down = 6 + points * np.cos(np.pi / 6), 6 + points * np.sin(np.pi / 6)
        psf = np.histogram2d(down, across, bins=13, range=[[-0.5, 12.5]] * 2)[0]
    elif name == "astigmatic":
        down, across = np.mgrid[-12:13, -12:13]
        u, v = (across + down) / np.sqrt(2), (across - down) / np.sqrt(2)
        psf = np.exp(-(u**2) / (2 * 3.0**2) - v**2 / (2 * 1.0**2))
    elif name == "airy":  # the first dark ring at 3.7 pixels
        from scipy.special import j1

        r = np.hypot(*np.mgrid[-15:16, -15:16]) * 3.8317 / 3.7
        psf = np.where(r == 0, 1, 2 * j1(r) / np.where(r == 0, 1, r)) ** 2
    else:
        raise InputError("psf", "one of " + ", ".join(PSFS), repr(name))
    return psf / psf.sum()


def picture(name, shape):
    """The middle `shape` pixels of an image, mirrored where it has not so many."""
    if name.startswith("ssi22:"):
        image = images.read(images.folder() / f"{name.removeprefix('ssi22:')}.png")[0]
    elif name.startswith("stars"):
        return stars(int(name.removeprefix("stars-")), shape)
    else:
        from skimage import data

        image = getattr(data, name)()
        image = image @ GREY if image.ndim == 3 else image
    image = np.asarray(image, np.float64)
    excess = [max(0, n - k) for n, k in zip(shape, image.shape, strict=True)]
    image = np.pad(image, [(e // 2, e - e // 2) for e in excess], mode="symmetric")
    start = [(k - n) // 2 for n, k in zip(shape, image.shape, strict=True)]
    return image[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))]


def stars(seed, shape):
    """Points of light of very different brightness on a dark sky, and a faint nebula."""
    rng = np.random.default_rng(seed)
    sky = ndimage.gaussian_filter(rng.standard_normal(shape), 12, mode="wrap")
    sky = 0.02 + 0.01 * np.clip(sky / sky.std(), 0, 2)
    for _ in range(shape[0] * shape[1] // 400):
        at = tuple(rng.integers(0, n) for n in shape)
        sky[at] += 0.05 * (1 - rng.random()) ** -0.8
    return np.minimum(ndimage.gaussian_filter(sky, 0.6), np.quantile(sky, 0.9999))


def volume(name, shape, aspect):
    """Filaments, shells or a textured nucleus; tuning and judging differ by their seed."""
    kind, half = name.split("-")
    rng = np.random.default_rng(["tuning", "judging"].index(half))
    tall = (shape[0] * aspect, *shape[1:])
    if kind == "filaments":
        found = filaments.volume(tall, ["tuning", "judging"].index(half)).astype(np.float64)
    else:
        z, y, x = np.ogrid[tuple(slice(n) for n in tall)]
        found = np.zeros(tall)
        for _ in range(6 if kind == "shells" else 1):
            if kind == "shells":
                centre, radius = [rng.uniform(0.1, 0.9) * n for n in tall], rng.uniform(4, 10)
            else:
                centre, radius = [n / 2 for n in tall], 0.4 * min(tall[1:])
            r = np.sqrt(sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True)))
            if kind == "shells":
                found += rng.uniform(0.4, 1) * np.exp(-((r - radius) ** 2) / 2)
            else:
                texture = ndimage.gaussian_filter(rng.standard_normal(tall), 1.5)
                inside = 1 / (1 + np.exp(r - radius))
                found += inside * (1 + 0.4 * texture / texture.std()).clip(0.1)
        found += 0.02
    return found.reshape(shape[0], aspect, *shape[1:]).mean(1)
