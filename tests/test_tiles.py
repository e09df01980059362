"""Tiles: what they cover, what they weigh, and that nobody can see where they were."""

import numpy as np
import pytest

from ssi_cupy.backend import Pool
from ssi_cupy.unet import UNet, unet_forward

NETS = {
    "2-D": (UNet(widths=(2, 3, 2)), (1, 73, 80)),
    "2-D, five levels": (UNet(widths=(2,) * 5), (1, 340, 32)),
    "3-D": (UNet(3, widths=(2, 2)), (31, 33, 32)),
    "3-D, coarse z": (UNet(3, widths=(2, 2, 2), windows=((1, 2, 2), (2, 2, 2)), aspect=2.0),
                      (36, 73, 77)),
    "one level": (UNet(widths=(3,)), (1, 80, 81)),
}  # fmt: skip


# ---- what a network tells of itself -------------------------------------------------------------


@pytest.mark.parametrize("net, shape", NETS.values(), ids=NETS)
def test_reach_is_how_far_a_pixel_changes_the_output(net, shape):
    """With weights above zero nothing cancels, and the change goes as far as it can."""
    parameters = np.abs(net.initial_parameters(1, np.float64)) + 1e-3
    options = {"net": net, "statistics": net.initial_statistics(np.float64)}
    x, furthest = np.zeros((1, 1, *shape)), np.zeros(3, int)
    before = unet_forward(x, parameters, **options)[0]
    for step in range(max(net.smallest)):  # the pixels of one window differ in where they lie
        at = [n // 2 + min(step, least - 1) for n, least in zip(shape, net.smallest, strict=True)]
        x[(0, 0, *at)] = 1
        changed = np.nonzero((unet_forward(x, parameters, **options)[0] != before)[0, 0])
        x[(0, 0, *at)] = 0
        for axis, places in enumerate(changed):
            furthest[axis] = max(furthest[axis], np.abs(places - at[axis]).max())
    for axis, (far, reach) in enumerate(zip(furthest, net.reach, strict=True)):
        assert far == reach or (far < reach and shape[axis] < 2 * reach)
    assert furthest[1] == net.reach[1]


@pytest.mark.parametrize("net, shape", NETS.values(), ids=NETS)
def test_footprint_is_the_memory_of_an_inference(net, shape):
    x = np.zeros((1, 1, *shape), np.float32)
    with Pool() as pool:
        unet_forward(x, net.initial_parameters(1), net=net, statistics=net.initial_statistics())
    measured = pool.nbytes / x.nbytes  # with what is counted per channel, not per pixel
    assert 0.95 * net.footprint <= measured <= 1.1 * net.footprint
