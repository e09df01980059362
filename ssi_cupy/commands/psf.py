"""The command ``psf``: a Gaussian, or what optics make of a point."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from .. import psf
from ..engine.checks import InputError
from ..engine.types import Float64Array
from .parser import numbers, whole_numbers

# option → (keyword of `psf.gibson_lanni` and others, what it is); numbers, in µm where lengths
OPTICS = {
    "--na": ("NA", "numerical aperture"),
    "--wvl": ("wvl", "emission wavelength, µm (of two photons: excitation)"),
    "--ni": ("ni", "refractive index of the immersion"),
    "--ns": ("ns", "of the sample (default: as ni)"),
    "--ni0": ("ni0", "of the immersion by design"),
    "--ng": ("ng", "of the coverslip (default: 1.5)"),
    "--ng0": ("ng0", "of the coverslip by design"),
    "--tg": ("tg", "thickness of the coverslip, µm (default: 170)"),
    "--tg0": ("tg0", "of the coverslip by design, µm"),
    "--ti0": ("ti0", "working distance, µm (default: 150)"),
    "--pz": ("pz", "depth of the point in the sample, µm"),
    "--dxy": ("dxy", "size of a pixel, µm"),
    "--dz": ("dz", "distance of planes, µm"),
    "--z": ("z", "how far the middle plane is out of focus, µm"),
}
OF_SOME = {  # option → (keyword, what it is, the modalities that use it)
    "--ex-wvl": ("ex_wvl", "excitation wavelength, µm", "confocal spinning-disk light-sheet"),
    "--pinhole": ("pinhole", "its diameter, Airy units (default: 1)", "confocal spinning-disk"),
    "--pitch": ("pitch", "distance of pinholes, µm", "spinning-disk"),
    "--sheet": ("sheet", "thickness of the sheet (FWHM), µm", "light-sheet"),
    "--sheet-na": ("sheet_NA", "or the aperture that forms it", "light-sheet"),
}
MODALITIES: dict[str, Callable[..., Float64Array]] = {
    "widefield": psf.microscope,
    "confocal": psf.confocal,
    "spinning-disk": psf.spinning_disk,
    "two-photon": psf.two_photon,
    "light-sheet": psf.light_sheet,
}
NEEDED = ("--na", "--wvl", "--ni", "--dxy", "--size")
NEEDED_BY = {"confocal": ("--ex-wvl",), "spinning-disk": ("--ex-wvl", "--pitch"),
             "light-sheet": ("--dz",)}  # fmt: skip
KEYWORD = {option: keyword for option, (keyword, *_) in (OPTICS | OF_SOME).items()}
TYPED = {keyword: option for option, keyword in KEYWORD.items()} | {"shape": "--size"}


def add_options(add: Callable[..., Any]) -> None:
    """Tell a parser's ``add_argument`` the options of the command."""
    add("--sigma", type=numbers, metavar="PIXELS", help="of a Gaussian; or one per axis: 2,1,1")
    add("--ndim", type=int, metavar="N", help="of a Gaussian: 2 (default) or 3")
    add(
        "--size",
        type=whole_numbers,
        metavar="PIXELS",
        help="one for all axes, or as 41,81,81 (default of a Gaussian: 4 sigma to either side)",
    )
    add("--modality", choices=tuple(MODALITIES), help="of optics (default: widefield)")
    add("--model", choices=("scalar", "vectorial"),
        help="of optics: vectorial for an NA above about 1 (default: scalar)")  # fmt: skip
    for option, (keyword, what, *_) in (OPTICS | OF_SOME).items():
        add(option, dest=keyword, type=float, metavar="NUMBER", help=what)
    add("-o", "--output", required=True, metavar="PSF", help="TIFF to write")


def made(args: argparse.Namespace) -> tuple[Float64Array, dict[str, float] | None]:
    """The PSF that the options ask for; its pixel sizes in µm by axis, None of a Gaussian.

    Raises
    ------
    InputError
        For an option that cannot be used, or is of no use with the others.
    """
    given = {o: getattr(args, k) for o, (k, *_) in (OPTICS | OF_SOME).items()}
    given |= {"--modality": args.modality, "--model": args.model}
    given = {option: value for option, value in given.items() if value is not None}
    if args.sigma is not None:
        if given:
            option, value = next(iter(given.items()))
            raise InputError(option, "none, for a Gaussian (--sigma)", value)
        return psf.gaussian(
            _one(args.sigma), ndim=2 if args.ndim is None else args.ndim, size=_one(args.size)
        ), None
    if not given:
        raise InputError("--sigma", "a Gaussian's, or optics as --na 1.2 --wvl 0.52 --ni 1.33",
                         "neither")  # fmt: skip
    if args.ndim is not None:
        raise InputError("--ndim", "none, for optics: --size has a number for each axis", args.ndim)
    modality = args.modality or "widefield"
    for option in (*NEEDED, *NEEDED_BY.get(modality, ())):
        if (args.size if option == "--size" else given.get(option)) is None:
            raise InputError(option, f"a number, for a {modality} microscope", "none")
    for option, (_, what, users) in OF_SOME.items():
        if option in given and modality not in users.split():
            raise InputError(option, f"none, for a {modality} microscope ({what})", given[option])
    settings = {KEYWORD[o]: v for o, v in given.items() if o in KEYWORD}
    if args.model is not None:
        settings["model"] = args.model
    volume = args.dz is not None
    shape = args.size * (3 if volume else 2) if len(args.size) == 1 else args.size
    if volume and len(shape) == 2:
        raise InputError("--dz", "none, for a --size of two axes", f"{args.dz:g}")
    try:
        kernel = MODALITIES[modality](tuple(shape), **settings)
    except InputError as error:
        option = TYPED.get(error.argument, error.argument)
        raise InputError(option, error.expected, error.got) from None
    spacing = {"Y": args.dxy, "X": args.dxy}
    return kernel, spacing | ({"Z": args.dz} if volume else {})


def _one(values):
    """A single number by itself."""
    return values[0] if values is not None and len(values) == 1 else values
