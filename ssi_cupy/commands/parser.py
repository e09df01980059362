"""What the command line is told: its commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

PROGRAM = "ssi-cupy"


def parser(run: Mapping[str, Callable]) -> argparse.ArgumentParser:
    """The parser of the command line.

    Parameters
    ----------
    run : dict
        The function of each command, called with what was parsed.
    """
    from .. import __version__, recipes
    from .psf import add_options

    made = argparse.ArgumentParser(PROGRAM, description=(
        "Restore a blurred, noisy image from nothing but itself and its point-spread function."
    ))  # fmt: skip
    made.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    made.add_argument("--log", metavar="FILE", help="also write what happens to this file")
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    device = argparse.ArgumentParser(add_help=False)
    add = device.add_argument
    add("--device", default="auto", metavar="NAME", help="auto (default), cpu or cuda")
    add("--precision", default="float32", metavar="NAME",
        help="float32 (default); tf32x3 or tf32 for a GPU's tensor cores")  # fmt: skip

    training = argparse.ArgumentParser(add_help=False, parents=[device])
    add = training.add_argument
    add("--steps", type=int, metavar="N", help="training steps (default: the recipe's)")
    add("--seed", type=int, default=0, metavar="N", help="same seed, same result (default: 0)")
    add("--no-progress", dest="progress", action="store_false", help="no progress bar")

    limited = argparse.ArgumentParser(add_help=False, parents=[training])
    add = limited.add_argument
    add("--time-limit", type=float, metavar="SECONDS",
        help="as many steps as fit, with all that follows them (--steps at most)")  # fmt: skip
    add("--dry-run", action="store_true", help="tell what it would cost, and do no more")

    files = argparse.ArgumentParser(add_help=False, parents=[limited])
    add = files.add_argument
    add("image", nargs="+", metavar="IN", help="a TIFF, PNG, .npy or .zarr; of several, or of a "
        "folder, each is restored by a training of its own")  # fmt: skip
    add("--series", type=int, metavar="N", help="which image of IN, from 0 (default: the first)")
    add("--dtype", default="float32", metavar="NAME",
        help="of OUT: float32 (default), or as uint16: rounded, cut off, not rescaled")  # fmt: skip
    add("--compression", metavar="NAME", help="of OUT: zlib (default: none)")
    add("--recipe", metavar="NAME", help="one of " + ", ".join(recipes.names()))
    add("--axes", metavar="LETTERS", help="as ZYX or TCYX (default: what the TIFF says)")
    add("--share", metavar="AXES", help="T, C or TC: time points, channels share one training; of "
        "several IN, all of them do (default: each has its own)")  # fmt: skip
    add("--spacing", type=numbers, metavar="Z,Y,X", help="µm per pixel (default: the TIFF's)")
    add("--psf-spacing", type=numbers, metavar="Z,Y,X", help="the same of the PSF")
    add("--mask", metavar="FILE", help="not 0 where IN says nothing; or: nan, for where it is NaN")
    add("--mode", default="mirror", help="beyond the border: mirror, nearest, wrap or constant")
    add("--tile-size", type=whole_numbers, metavar="Z,Y,X", help="apply the network tile by tile")
    add("--tile-overlap", type=whole_numbers, metavar="Z,Y,X", help="of neighbouring tiles")
    add("--no-refine", dest="refine", action="store_const", const=False,
        help="do not put back what the residual still shows")  # fmt: skip
    camera = {"gain": "variance for each unit of light", "read_noise": "σ without light",
              "offset": "reading without light"}  # fmt: skip
    for name, meaning in camera.items():
        add(f"--{name.replace('_', '-')}", type=float, metavar="X",
            help=f"of the camera: {meaning} (default: estimated)")  # fmt: skip
    add("--checkpoint", metavar="FILE", help="keep the state of the training here")
    add("--resume", metavar="FILE", help="go on from a checkpoint, to the same bits")
    add("--save-model", metavar="FILE", help="keep the trained model here (.npz)")
    add("--uncertainty", metavar="OUT", help="TIFF of the result's standard deviation")
    add("--report", metavar="HTML", help="one file that shows and tells all of it")

    def command(name, text, parent=None):
        parents = [parent] if parent else []
        one = commands.add_parser(name, help=text, description=text, parents=parents)
        one.set_defaults(run=run[name], command=name)
        return one.add_argument

    add = command("deconvolve", "Remove blur and noise.", files)
    add("--psf", metavar="PSF", help="TIFF of the point-spread function; or: gaussian, whose width "
        "is learned from the image")  # fmt: skip
    add("--na", dest="NA", type=float, metavar="NUMBER",
        help="without a PSF: numerical aperture, for a guess of that width")  # fmt: skip
    add("--wvl", type=float, metavar="µm", help="of these optics: emission wavelength")
    add("--ni", type=float, metavar="NUMBER", help="refractive index of the immersion: of a volume")
    add(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="the restored image, or a folder for several",
    )
    add("--denoised", metavar="OUT", help="the denoised, still blurred image")

    add = command("denoise", "Remove noise only.", files)
    add("-o", "--output", metavar="OUT", help="default: IN_denoised.tif beside each IN")
    add("--psf", metavar="PSF", help="TIFF of the point-spread function, if it is known")

    add = command("train", "Train a model on many images.", limited)
    add("images", nargs="+", metavar="IN", help="folders, TIFFs, or patterns as 'data/*.tif'")
    add("-o", "--output", required=True, metavar="MODEL", help="the trained model (.npz)")
    add("--recipe", default="deconoising", metavar="NAME",
        help="one of " + ", ".join(recipes.names()) + " (default: deconoising)")  # fmt: skip
    psf = add.__self__.add_mutually_exclusive_group()
    psf.add_argument("--psf", metavar="PSF", help="TIFF of the point-spread function, on the "
                     "images' grid (default: none)")  # fmt: skip
    psf.add_argument("--psf-sigma", type=numbers, metavar="PIXELS",
                     help="of a Gaussian one instead, or one per axis: 2,1,1")  # fmt: skip
    add("--mode", default="mirror", help="beyond the border: mirror, nearest, wrap or constant")
    add("--patch", type=int, metavar="PIXELS", help="side of a patch (default: the recipe's)")
    add("--axes", metavar="LETTERS", help="as ZYX or TYX (default: what the TIFFs say)")
    add("--spacing", type=numbers, metavar="Z,Y,X", help="µm per pixel (default: the TIFFs')")
    add("--no-refine", dest="refine", action="store_const", const=False,
        help="do not put back what the residual still shows")  # fmt: skip
    camera = {"gain": "variance for each unit of light", "read_noise": "σ without light",
              "offset": "reading without light"}  # fmt: skip
    for name, meaning in camera.items():
        add(f"--{name.replace('_', '-')}", type=float, metavar="X",
            help=f"of the camera: {meaning} (default: estimated)")  # fmt: skip
    add("--checkpoint", metavar="FILE", help="keep the state of the training here")
    add("--resume", metavar="FILE", help="go on from a checkpoint, to the same bits")

    text = "Apply a trained model to images that it need not have seen."
    add = command("apply", text, device)
    add("model", metavar="MODEL", help="what `train` wrote")
    add("image", metavar="IN", help="a TIFF, a folder of them, or a pattern as 'data/*.tif'")
    add("-o", "--output", required=True, metavar="OUT", help="a TIFF, or a folder for several")
    add("--result", default="denoised", choices=("denoised", "restored"),
        help="the image without its noise (default), or without its blur too")  # fmt: skip
    add("--axes", metavar="LETTERS", help="as ZYX or TYX (default: what the TIFFs say)")

    add_options(command("psf", "Write a point-spread function: a Gaussian, or of optics."))

    add = command("demo", "Restore a micrograph and compare with Richardson-Lucy.", training)
    add("--out", required=True, metavar="DIR", help="folder for the picture and the report")

    add = command("doctor", "Say what this machine has, what is missing, how to get it.")
    add("--device", default="auto", metavar="NAME", help="must work for exit status 0: cpu, cuda")
    try:
        import shtab
    except ImportError:  # who wants completions installs it
        return made
    shtab.add_argument_to(made, help="print what makes a shell complete the options")
    return made


def numbers(text: str, kind: Callable = float, what: str = "numbers") -> list:
    """The numbers of "1,2,3", for an option."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        message = f"expected {what} with commas between them, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def whole_numbers(text: str) -> list[int]:
    """The whole numbers of "1,2,3"."""
    return numbers(text, int, "whole numbers")
