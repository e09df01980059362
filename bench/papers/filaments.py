"""A volume of random filaments, in the place of the microtubules of Papkov et al. (section 3).

Theirs are not at hand; these are of that size, thin and smooth as they are, and known to the last
voxel.
"""

import re
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from ssi_cupy.engine.checks import InputError

from . import images

DEGRADATION = {"alpha": 0.001, "sigma": 0.1, "salt_pepper": 0.0, "bits": 10, "rng": 0}
IMAGES = "sizes of volumes, ZxYxX (default: the paper's 128x256x512)"
HOW = """\
A volume of random filaments (`bench/papers/filaments.py`) takes the place of the microtubules of
the paper, which are not at hand: only the order of the methods, and what they gain, can be
compared. It is {crop}
blurred with the published kernel of 17³ voxels and zeros beyond its border, and given noise and
10 bits (seed 0). Networks and Richardson–Lucy take the border as mirrored. All results are clipped
to [0, 1] before they are scored."""

STRAIGHTNESS = 150.0  # persistence length, voxels
WIDTH = 1.2  # σ of a filament's cross-section, voxels
DENSITY = 1.5e-2  # filament length per voxel
STEP = 0.5  # voxels between the points that draw a filament


@dataclass(frozen=True)
class Size:
    """What takes a file's place here."""

    shape: tuple[int, int, int]

    @property
    def stem(self):
        return "filaments" + "x".join(map(str, self.shape))


def find(names=None):
    """`Size` by name, of names as "64x128x128"."""
    found = {}
    for name in names or ["128x256x512"]:
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", name):
            raise InputError("--images", "sizes of volumes, ZxYxX", repr(name))
        size = Size(tuple(map(int, name.split("x"))))
        found[size.stem] = size
    return found


def digest(size):
    return f"{size.stem}, density {DENSITY}, width {WIDTH}, seed 0"


def prepare(size, crop=None):
    """The `Sample` of a volume, or of the middle of each of its planes."""
    whole = volume(size.shape)
    if crop:
        whole = np.stack([images.centre(plane, crop) for plane in whole])
    return images.sample(size.stem, whole, "", DEGRADATION)


def volume(shape, seed=0):
    """Worm-like chains of random place and direction, each drawn with its own brightness.

    Parameters
    ----------
    shape : (Z, Y, X)
    seed : int

    Returns
    -------
    (Z, Y, X) array of float32
        Scaled to [0, 1].
    """
    rng = np.random.default_rng(seed)
    image, size = np.zeros(shape), np.array(shape)
    length, wanted = 0.0, DENSITY * size.prod()
    while length < wanted:
        points = _chain(rng, size)
        _draw(image, points, rng.uniform(0.5, 1.0))
        length += STEP * len(points)
    image = gaussian_filter(image, WIDTH, mode="constant")
    return (image / image.max()).astype(np.float32)


def _chain(rng, size):
    """Points of one filament, from a random one until it leaves the volume in both directions."""
    start, heading = rng.uniform(0, size - 1), rng.normal(size=3)
    heading /= np.linalg.norm(heading)
    halves = [_walk(rng, start, sign * heading, size) for sign in (1, -1)]
    return np.concatenate([halves[0], halves[1][1:]])


def _walk(rng, point, heading, size):
    """A random walk of headings, whose correlation falls off as exp(−length / STRAIGHTNESS)."""
    points, turn = [], np.sqrt(STEP / STRAIGHTNESS)
    while np.all(point >= 0) and np.all(point <= size - 1):
        points.append(point)
        point = point + STEP * heading
        heading = heading + turn * rng.normal(size=3)
        heading = heading / np.linalg.norm(heading)
    return np.array(points)


def _draw(image, points, brightness):
    """Share each point out among its 8 nearest voxels."""
    low = np.minimum(points.astype(int), np.array(image.shape) - 2)
    part = points - low
    for corner in np.ndindex(2, 2, 2):
        share = np.prod(np.where(corner, part, 1 - part), axis=1)
        np.add.at(image, tuple((low + corner).T), brightness * share)
