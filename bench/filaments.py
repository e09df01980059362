"""A volume of random filaments, in the place of the microtubules of Papkov et al. (section 3).

Theirs are not at hand; these are of that size, thin and smooth as they are, and known to the last
voxel.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

STRAIGHTNESS = 150.0  # persistence length, voxels
WIDTH = 1.2  # σ of a filament's cross-section, voxels
DENSITY = 1.5e-2  # filament length per voxel
STEP = 0.5  # voxels between the points that draw a filament


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
