"""How close an image is to the truth: the five scores of the published tables.

Let p be the joint histogram of both images' values and H the entropy. Mutual information is
given relative to the joint entropy, so that it is 1 for images that determine each other::

    MI = (H(truth) + H(image) - H(truth, image)) / H(truth, image)

Spectral mutual information (SMI) is the same of the images' discrete cosine transforms. It hardly
sees noise that is spread over all frequencies, but sees frequencies that were moved or lost.
Both follow Kobayashi et al. (2020), section 3.
"""

from __future__ import annotations

import math

import numpy as np

from .engine.arrays import as_array
from .engine.checks import DeviceError, InputError, positive, real_array, varying
from .engine.types import ArrayLike

BINS = 256
MOST = 1e300  # of an image's values
FARTHEST = 1e5  # from 0 that values may lie, in units of their range


def psnr(truth: ArrayLike, image: ArrayLike, *, data_range: float) -> float:
    """Peak signal-to-noise ratio, ``10 log10(data_range² / mean((truth - image)²))``.

    Parameters
    ----------
    truth, image : numpy.ndarray of one shape, any real dtype
    data_range : float
        The span of values that an image can have: 1 for [0, 1], 255 for 8 bits.

    Returns
    -------
    float
        In dB. Infinite for equal images.

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    data_range = positive(data_range, "data_range")
    error = rmse(truth, image)
    return 20 * (math.log10(data_range) - math.log10(error)) if error else math.inf


def rmse(truth: ArrayLike, image: ArrayLike) -> float:
    """Root of the mean squared difference, in the images' unit.

    Parameters and errors as in `psnr`.
    """
    truth, image = _pair(truth, image)
    difference = np.subtract(truth, image, dtype=np.float64)
    exponent = _exponent(difference)
    return math.ldexp(math.sqrt(np.mean(np.ldexp(difference, -exponent) ** 2)), exponent)


def ssim(truth: ArrayLike, image: ArrayLike, *, data_range: float) -> float:
    """Mean structural similarity: scikit-image's, with its default window of 7 pixels.

    Parameters
    ----------
    truth, image : numpy.ndarray of one shape, any real dtype
        At least 7 pixels along each axis.
    data_range : float
        The span of values that an image can have. (The table of Kobayashi et al. has 2 for
        images in [0, 1], that of Papkov et al. has 1.)

    Returns
    -------
    float
        At most 1, which equal images have.

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    ImportError
        If scikit-image is missing.
    """
    truth, image = _pair(truth, image)
    data_range = positive(data_range, "data_range")
    largest = max(float(np.abs(array).max()) for array in (truth, image))
    if not largest <= FARTHEST * data_range:  # its variances would be rounding
        expected = f"at least 1/{FARTHEST:g} of the largest value, {largest:g}"
        raise InputError("data_range", expected, f"{data_range:g}")
    if min(truth.shape, default=0) < 7:
        raise InputError("truth", "at least 7 pixels along each axis", f"shape {truth.shape}")
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise ImportError("ssim needs scikit-image: pip install ssi-cupy[demo]") from None
    exponent = math.frexp(data_range)[1]  # it squares squares
    truth, image = (np.ldexp(array.astype(np.float64), -exponent) for array in (truth, image))
    data_range = math.ldexp(data_range, -exponent)
    return float(structural_similarity(truth, image, data_range=data_range))


def mutual_information(truth: ArrayLike, image: ArrayLike) -> float:
    """Mutual information over joint entropy, of a histogram of 256 × 256 bins.

    The bins span each image's own range, so the value does not depend on brightness or contrast.

    Parameters
    ----------
    truth, image : numpy.ndarray of one shape, any real dtype
        `truth` must not be constant.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    """
    truth, image = _pair(truth, image)
    varying(truth, "truth")
    truth, image = map(_near_one, (truth, image))
    joint = np.histogram2d(truth.ravel(), image.ravel(), bins=BINS)[0] / truth.size
    together = _entropy(joint)
    return float((_entropy(joint.sum(0)) + _entropy(joint.sum(1)) - together) / together)


def spectral_mutual_information(truth: ArrayLike, image: ArrayLike) -> float:
    """`mutual_information` of the two images' discrete cosine transforms (DCT-II, all axes).

    Each image is divided by its 2-norm first. Parameters and errors as in `mutual_information`.

    Notes
    -----
    The definition is that of Kobayashi et al. It is a score of few numbers: the brightest of them
    spans the histogram, and 98 % of a spectrum or more lie in the bin of 0. Much depends on where
    that bin ends, and a constant that is added to an image moves its ends. The benchmark's USAF
    target with 0.02 added, of a range of 1, has 0.11 against itself, its nuclei have 0.19.
    """
    truth, image = _pair(truth, image)
    varying(truth, "truth")
    if not image.any():
        raise InputError("image", "a value other than zero", "zeros only")
    return mutual_information(_spectrum(truth), _spectrum(image))


def scores(truth: ArrayLike, image: ArrayLike, *, data_range: float = 1.0) -> dict[str, float]:
    """All scores at once.

    Parameters
    ----------
    truth, image : numpy.ndarray of one shape, any real dtype
    data_range : float
        The span of values that an image can have, for `psnr` and `ssim`.

    Returns
    -------
    dict of str to float
        With the keys psnr (dB), ssim, mi, smi and rmse (the images' unit).

    Raises
    ------
    InputError
        If an argument cannot be used; the message names it.
    ImportError
        If scikit-image is missing.
    """
    return {
        "psnr": psnr(truth, image, data_range=data_range),
        "ssim": ssim(truth, image, data_range=data_range),
        "mi": mutual_information(truth, image),
        "smi": spectral_mutual_information(truth, image),
        "rmse": rmse(truth, image),
    }


def _pair(truth, image):
    """Both as numpy arrays of one shape, whose values and differences float64 can hold."""
    truth, image = as_array(truth, "truth"), as_array(image, "image")
    truth, image = real_array(truth, "truth"), real_array(image, "image")
    for array, argument in ((truth, "truth"), (image, "image")):
        if not isinstance(array, np.ndarray):
            raise DeviceError(argument, "a numpy array (cupy's .get() makes one)", str(type(array)))
        if not np.abs(array).max() <= MOST:
            raise InputError(argument, f"values up to {MOST:g}", f"{np.abs(array).max():g}")
    if truth.shape != image.shape:
        raise InputError("image", f"the shape of truth, {truth.shape}", f"shape {image.shape}")
    return truth, image


def _exponent(array):
    """Of the largest power of two in an array: divided by it, squares neither vanish nor overflow.

    Scaling by powers of two changes no digit.
    """
    return math.frexp(float(np.abs(array).max()))[1]


def _near_one(array):
    """The array, or a multiple of it in float64, if its values are as extreme as no image's."""
    exponent = _exponent(array)
    return array if abs(exponent) < 100 else np.ldexp(array.astype(np.float64), -exponent)


def _entropy(p):
    """-Σ p log p, in nats."""
    p = p[p > 0]
    return -np.sum(p * np.log(p))


def _spectrum(image):
    from scipy.fft import dctn

    image = _near_one(image.astype(np.float64))
    return dctn(image / np.linalg.norm(image))
