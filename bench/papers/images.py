"""The images of the published 2-D benchmark, and what it does to them."""

import functools
import glob
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssi_cupy import degrade
from ssi_cupy.engine.checks import FileError
from ssi_cupy.psf import gibson_lanni

ROOT = Path(__file__).resolve().parents[2]
DEGRADATION = {"alpha": 0.001, "sigma": 0.1, "salt_pepper": 0.01, "bits": 10, "rng": 0}
IMAGES = "files, folders or patterns (default: all 22)"
HOW = """\
Each image is made grey, {crop}scaled to [0, 1] (the truth), blurred with the published kernel and
zeros beyond its border, and given noise, salt and pepper and 10 bits (seed 0). Networks and
Richardson–Lucy take the border as mirrored, TV by conjugate gradients or Chambolle–Pock as zero, as
published. All results are clipped to [0, 1] before they are scored. Classical methods run on the
CPU. The seconds of training are those of its steps, without compiling."""
GREY = (0.2125, 0.7154, 0.0721)  # of red, green, blue, as in scikit-image


@dataclass(frozen=True)
class Sample:
    """The clean image (the truth), it blurred, and it blurred and noisy; all float32 in [0, 1]."""

    name: str
    truth: np.ndarray
    blurry: np.ndarray
    image: np.ndarray
    remark: str  # what was done to make it a grey image, or ""
    psf: np.ndarray


def folder():
    """Where the benchmark's images are, whether they are there or not."""
    return Path(os.environ.get("SSI_CUPY_DATA") or ROOT.parent / "shared" / "data") / "ssi22"


def find(patterns=None):
    """Paths of images, by their names without the ending.

    A folder stands for its PNGs; a pattern without a folder is looked for in `folder`, where no
    such file is in the current one. None stands for all that the benchmark has.
    """
    if patterns is None and not folder().is_dir():
        expected = "the benchmark's images (SSI_CUPY_DATA names the folder that ssi22 is in)"
        raise FileError("--images", expected, f"no folder {str(folder())!r}")
    found = {}
    for pattern in patterns or ["*.png"]:
        path = Path(pattern)
        if path.is_dir():
            pattern = os.path.join(glob.escape(pattern), "*.png")
        elif path.name == pattern and not path.exists():
            pattern = os.path.join(glob.escape(str(folder())), pattern)
        matches = [Path(match) for match in sorted(glob.glob(pattern)) if os.path.isfile(match)]
        if not matches:
            raise FileError("--images", "one file at least", f"none that matches {pattern!r}")
        for match in matches:
            if found.setdefault(match.stem, match).resolve() != match.resolve():
                got = f"{str(found[match.stem])!r} and {str(match)!r}"
                raise FileError("--images", "images of different names", got)
    return found


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def read(path):
    """(a 2-D array, a remark on what was done to make it one)."""
    import imageio.v3 as imageio  # with scikit-image comes imageio, with that Pillow

    try:
        image = imageio.imread(path, plugin="pillow")
    except Exception as error:  # decoders raise whatever they stumble upon in a broken file
        raise FileError("image", "a picture that can be read", f"{path.name} ({error})") from None
    if image.dtype == bool:
        image = image.astype(np.uint8)
    channels, remarks = image.shape[-1] if image.ndim == 3 else 0, []
    if channels in (2, 4):
        image, channels = image[..., :-1], channels - 1
        remarks.append("transparency dropped")
    if channels == 3:
        image = image @ np.array(GREY)
        remarks.append("colour converted to grey")
    elif channels == 1:
        image = image[..., 0]
    if image.ndim != 2:
        raise FileError("image", "a grey or a colour picture", f"{path.name}, {image.shape}")
    return image, ", ".join(remarks)


def centre(image, size):
    """The middle `size` × `size` pixels, or as many as there are."""
    if size is None:
        return image
    start = [max(0, (n - size) // 2) for n in image.shape]
    return image[tuple(slice(s, s + size) for s in start)]


@functools.cache
def kernel(ndim=2):
    """The benchmark's blur: the Gibson–Lanni PSF of a 16×, 0.8 NA dipping lens; in 2-D its first
    plane, 3 µm out of focus.

    As it was published, that is sampled every half pixel along a radius, then interpolated
    linearly, with the image-side angle NA / √(M² + NA²) in the place of NA / M.
    """
    optics = {"NA": 0.8, "wvl": 0.6, "ni": 1.33, "ns": 1.33, "ti0": 3000}
    pixel, magnification = 0.406, 16  # µm
    r = np.arange(25) * pixel / 2
    squeezed = r * magnification / np.hypot(magnification, optics["NA"])
    planes = np.arange(17 if ndim == 3 else 1) - 7.5
    lines = gibson_lanni(squeezed, planes * pixel, **optics)
    distance = np.hypot(*np.mgrid[-8:9, -8:9]) * pixel
    stack = np.array([np.interp(distance, r, line) for line in lines])
    return (stack if ndim == 3 else stack[0]) / stack.sum()


def prepare(path, crop=None):
    """The `Sample` of a file. What is cropped is the clean image, before it is blurred."""
    image, remark = read(path)
    image = centre(image, crop)
    return sample(path.stem, image, remark, DEGRADATION)


def sample(name, image, remark, degradation):
    """The `Sample` of a clean image or volume."""
    truth, psf = degrade.normalise(image), kernel(image.ndim)
    blurry = degrade.blur(truth, psf).astype(np.float32)
    return Sample(name, truth, blurry, degrade.degrade(image, psf, **degradation), remark, psf)
