"""Deconvolution without learning: what a self-supervised restoration has to beat.

All functions take the image, then the point-spread function (PSF), and compute in float64. The
result is float32 on the scale of the image, which is not clipped unless asked for. Images may be
2-D or 3-D. `richardson_lucy` and the TV methods with a `mode` see the blur through
`physics.PSFConvolution`, as the network does; the others divide spectra. How strong a method is to
be, `calibrate` chooses by data that it was not shown; so does "auto" in the place of a setting.
"""

from .calibrate import Calibration, calibrate
from .richardson_lucy import richardson_lucy, richardson_lucy_tv
from .total_variation import tv_admm, tv_chambolle_pock, tv_conjugate_gradient
from .width import WidthProfile, width_profile
from .wiener import radial_power_spectrum, wiener

__all__ = [
    "Calibration",
    "WidthProfile",
    "calibrate",
    "radial_power_spectrum",
    "richardson_lucy",
    "richardson_lucy_tv",
    "tv_admm",
    "tv_chambolle_pock",
    "tv_conjugate_gradient",
    "width_profile",
    "wiener",
]
