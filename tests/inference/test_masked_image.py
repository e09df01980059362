"""What is read in the place of a partly masked image: the same by slices as at once."""

import sys

import numpy as np
import pytest

from ssi_cupy.inference.masked_image import masked_image


class OnDisk:
    """What is read by slices alone."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.ndim = array, array.shape, array.dtype, array.ndim

    def __getitem__(self, box):
        return self.array[box]


def scene(shape=(300, 260)):
    rng = np.random.default_rng(0)
    image, mask = rng.random(shape), rng.random(shape) < 0.02
    mask[..., 100:130, 90:110] = True
    return image, mask


@pytest.mark.parametrize("shape", [(300, 260), (6, 300, 150)])
def test_by_slices_it_is_what_it_is_at_once(shape):
    image, mask = scene(shape)
    whole, lazy = masked_image(image, mask), masked_image(OnDisk(image), mask)
    assert (whole != image).any()
    for start in (0, 37, 150, 250):
        box = (slice(None),) * (len(shape) - 2) + (slice(start, start + 50), slice(70, 149))
        np.testing.assert_array_equal(lazy[box], whole[box])


def test_slab_by_slab_it_is_what_it_is_at_once(monkeypatch):
    image, mask = scene()

    def find(y):
        return y > 0.999

    whole = masked_image(image, mask, find)
    monkeypatch.setattr(sys.modules["ssi_cupy.inference.masked_image"], "AT_ONCE", 10_000)
    slabs = masked_image(image, mask, find)
    np.testing.assert_array_equal(slabs, whole)
    assert slabs.dtype == image.dtype
    counts = np.rint(1000 * image).astype(np.uint16)
    found = masked_image(counts, mask)
    assert found.dtype == np.uint16 and (found != counts).any()
