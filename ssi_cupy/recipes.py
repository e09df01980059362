"""Recipes: everything that is chosen before a training starts, by name.

A recipe is a frozen dataclass, so ``dataclasses.replace(DEFAULT, steps=1000)`` is a recipe too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from . import symmetry
from .engine.checks import (
    Checked,
    InputError,
    checked,
    flag,
    made_of,
    maybe,
    one_of,
    real,
    several,
    text,
    told,
    whole,
)  # fmt: skip
from .losses import Losses
from .masking import FILLS, Fill, NoiseLevel, RandomMask, StratifiedMask
from .optim import Constant, OneCycle, Plateau, StepDecay
from .random import seed_from
from .unet import Network, PlainUNet, ResidualUNet, UNet

__all__ = [
    "DECONOISING", "DECONOISING_MINUS", "DEFAULT", "NOISE2SAME", "NOISE2SAME_3D", "NOISE2SAME_D",
    "NOISE2SAME_D_3D", "NOISE2SELF", "NOISE2SELF_3D", "NOISE2VOID", "SSI", "SSI_NO_MASKING",
    "Recipe", "get", "names", "seed_from",
]  # fmt: skip


def brief(value: object) -> str:
    """`repr` of a dataclass without the fields that are as they are by default."""
    if not dataclasses.is_dataclass(value):
        return repr(value)
    told = [
        f"{f.name}={brief(mine)}"
        for f in dataclasses.fields(value)
        if (mine := getattr(value, f.name)) != f.default
    ]
    return f"{type(value).__name__}({', '.join(told)})"


@dataclass(frozen=True, repr=False)
class Recipe(Checked):
    """How a network is trained on an image, and applied to it.

    Intensities are in units of the normalised image: it runs from about 0 to about 1 or, with
    "standardise", has mean 0 and standard deviation 1.

    Attributes
    ----------
    name : str
    network : UNet, ResidualUNet or PlainUNet
        Its `ndim`, channels, windows and aspect become those that the image asks for.
    network_3d : one of these, optional
        That for volumes, if another.
    steps : int
        Training steps; one step sees the whole image once, or `batch` patches.
    normalise : {"range", "percentile", "standardise"}
        What becomes 0 and 1: the least and greatest pixel, or the 0.5th and 99.5th percentile;
        "standardise" takes off the mean and divides by the standard deviation. Of many images,
        one for all that are trained on.
    crop : int, optional
        Train on the first ``min(Y, X, crop)²`` pixels only.
    at_once : int, optional
        The most pixels that a step looks at: on an image of more than so many, the training is one
        on patches all over it, see `training/large_image.py`.
    patch : int, optional
        Train on random squares (cubes) of so many pixels a side, cut out with a halo as wide as
        the PSF reaches (see `patches.py`), instead of on the whole image. Needed for a set of
        images. There is no `margin` then.
    batch : int
        Patches of one batch.
    epoch : int
        With patches: steps between two validations, on patches that stay the same. `patience` and
        the schedule count validations then.
    mask : RandomMask, StratifiedMask or None
        Which pixels are hidden in each step. None hides none, and the loss looks at all.
    fill : {"zero", "gaussian", "neighbour", "local_mean"}
        What they are filled with.
    fill_sigma : float
        Of "gaussian", around the mean of the image.
    validation_fill : one of these, optional
        What validation pixels are filled with, if something else.
    input_noise : NoiseLevel or None
        Added to the image before pixels are hidden.
    wiener : tuple of float
        Show the network Wiener-filtered copies of the masked image too, one for each: multiples
        of the image's noise-to-signal ratio; see `training/inputs.py`.
    refine : bool
        Put back what the network has missed, see `inference/refinement.py`.
    margin : bool
        Restore what lies up to a PSF's radius beyond the border too, and cut it off at the end;
        see `margin_of`.
    augment : bool or tuple of symmetries
        Train on rotations and flips of the image: only by symmetries that the forward model has, or
        by those that are given (see `symmetry.py`).
    ensemble : bool
        Average the restoration over those rotations and flips.
    losses : Losses
    adaptive : bool
        The losses' ``delta`` and ``tv`` are multiples of the noise estimated from the image, the
        restored image has an upper bound only where the data were clipped there, and outliers are
        masked (see `noise.outliers`). Unless the noise is strong, as many pixels of a `RandomMask`
        stay hidden as at the start.
    clamp : bool
        Cut what the network proposes to [0, 1] before it is blurred.
    broaden : bool
        Broaden the PSF by 3 × 3 weights first, as the authors of SSI do.
    sensor : bool
        Where the image is clipped (many pixels share its least or greatest value), compare it
        with the expected reading of a sensor that clips.
    lr : float
        Of Adam, before the schedule.
    schedule : Constant, Plateau, StepDecay or OneCycle
    l1, l2 : float
        Regularisation of all parameters.
    continuity : float
        Weight of the mean squared difference between neighbouring taps of the network's last
        convolution: against checkerboards, at a cost in sharpness (Kobayashi et al., section 2).
    weight_noise : float
        Of `optim.Adam`, decaying as 1 / step.
    average : float
        Decay of a moving average of the weights, which is what the model keeps; 0 for none.
    calibrate : bool
        After the training, measure means and variances for the batch norms on the whole image
        with nothing hidden, for it is on such images that the network is used. Otherwise the
        running ones of the training stay, which are of images with holes.
    accumulate : int
        Batches whose gradients are added up (their mean, really) before the weights follow it:
        what does not fit into memory at once goes one after the other.
    validation : float
        The fraction of pixels that are always hidden and never in the loss; of a set of images,
        the fraction of images that are held out.
    patience : int
        Stop after so many steps without a better validation loss; 0 for never.
    keep_best : bool
        Keep the parameters of the best validation loss in place of the last ones.
    """

    name: str = checked(text)
    network: UNet | ResidualUNet | PlainUNet = checked(made_of(Network), UNet())
    network_3d: UNet | ResidualUNet | PlainUNet | None = checked(made_of(Network, type(None)), None)
    steps: int = checked(whole(), 3000)
    normalise: Literal["range", "percentile", "standardise"] = checked(
        one_of("range", "percentile", "standardise"), "range"
    )
    crop: int | None = checked(maybe(whole()), None)
    at_once: int | None = checked(maybe(whole(2**14)), None)
    patch: int | None = checked(maybe(whole()), None)
    batch: int = checked(whole(), 1)
    epoch: int = checked(whole(), 10)
    mask: RandomMask | StratifiedMask | None = checked(
        made_of(RandomMask, StratifiedMask, type(None)), RandomMask()
    )
    fill: Fill = checked(one_of(*FILLS), "zero")
    fill_sigma: float = checked(real(0), 0.2)
    validation_fill: Fill | None = checked(one_of(None, *FILLS), None)
    input_noise: NoiseLevel | None = checked(made_of(NoiseLevel, type(None)), None)
    wiener: tuple[float, ...] = checked(several(real(1e-6), 0, 16), ())
    refine: bool = checked(flag, False)
    margin: bool = checked(flag, False)
    augment: bool | tuple[symmetry.Symmetry, ...] = checked(symmetry.check, False)
    ensemble: bool = checked(flag, True)
    losses: Losses = checked(made_of(Losses), Losses())
    adaptive: bool = checked(flag, False)
    clamp: bool = checked(flag, False)
    broaden: bool = checked(flag, False)
    sensor: bool = checked(flag, False)
    lr: float = checked(real(0), 0.01)
    schedule: Constant | Plateau | StepDecay | OneCycle = checked(made_of(Constant), Constant())
    l1: float = checked(real(0), 0.0)
    l2: float = checked(real(0), 0.0)
    continuity: float = checked(real(0), 0.0)
    weight_noise: float = checked(real(0), 0.0)
    average: float = checked(real(0, 1, below=True), 0.0)
    calibrate: bool = checked(flag, False)
    accumulate: int = checked(whole(), 1)
    validation: float = checked(real(0, 0.9), 0.1)
    patience: int = checked(whole(0), 0)
    keep_best: bool = checked(flag, True)

    def __repr__(self) -> str:
        return brief(self)

    def sees_a_part(self, shape: Sequence[int]) -> bool:
        """Whether a step looks at a part of an image of that shape, ([Z,] Y, X) or (1, C, Z, Y, X),
        though the recipe has no `patch`."""
        one = len(shape) in (2, 3) or (len(shape) == 5 and shape[0] == 1)
        cut = self.patch or self.crop or self.at_once is None
        return bool(one and not cut and math.prod(shape) > self.at_once)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.validation and (self.keep_best or self.patience):
            expected = "above 0 where keep_best or patience asks for a validation loss"
            raise InputError("validation", expected, self.validation)


SSI = Recipe(
    name="ssi",
    steps=3000,
    crop=1024,
    mask=RandomMask(start=0.5, end=0.05, decay=0.995),
    fill="zero",
    validation_fill="local_mean",
    input_noise=NoiseLevel(start=0.1, decay=10_000),
    losses=Losses(kind="l2", normalise="pixels", bound=0.1, bound_squared=True),
    clamp=True,
    broaden=True,
    lr=0.01,
    schedule=Plateau(factor=0.9, patience=150),
    l2=1e-6,
    weight_noise=0.1,
    validation=0.1,
    patience=300,
    keep_best=True,
)
"""Kobayashi et al., as their code runs it, but that the validation pixels are really blind (in
theirs the network sees those that are not masked by chance): the mean of their neighbours stands
in for them, so that there are no more zeros in the image than the recipe has. They blur volumes
with ``nearest`` beyond the border, and images with ``mirror``."""

SSI_NO_MASKING = dataclasses.replace(SSI, name="ssi_no_masking", mask=None)
"""The control of the same paper."""

DEFAULT = Recipe(
    name="default",
    network_3d=UNet(widths=(8, 16, 32, 64), taps=(3, 3)),
    steps=600,
    at_once=2**18,
    normalise="percentile",
    mask=RandomMask(start=0.3, end=0.05, over=0.5),
    fill="local_mean",
    wiener=(0.3, 3.0, 30.0),
    refine=True,
    margin=True,
    augment=True,
    losses=Losses(
        kind="huber", delta=2.5, normalise="masked", bound=0.1, bound_squared=False, tv=0.01
    ),
    adaptive=True,
    sensor=True,
    lr=0.01,
    schedule=OneCycle(warmup=0.4),
    calibrate=True,
    validation=0.02,
    keep_best=False,
)
"""What `deconvolve` and `denoise` use."""

NOISE2SELF = Recipe(
    name="noise2self",
    network=ResidualUNet(),
    steps=3000,
    normalise="standardise",
    patch=128,
    batch=16,
    mask=RandomMask(start=0.005, end=0.005),
    fill="gaussian",
    fill_sigma=0.2,
    augment=True,
    ensemble=False,
    losses=Losses(normalise="masked", bound=0, bound_squared=False),
    lr=4e-4,
    schedule=StepDecay(every=500, factor=0.5),
    validation=0,
    keep_best=False,
)
"""Papkov et al., loss (2), the blind spots alone; 2-D. As their code runs it, but that patches are
cut out with a halo and transformed only by symmetries of the PSF."""


def _siamese(name, **weights):
    losses = dataclasses.replace(NOISE2SELF.losses, blind_spot=0, reconstruction=1, **weights)
    return dataclasses.replace(NOISE2SELF, name=name, losses=losses)


def _volumes(recipe, **weights):
    """A recipe of Papkov et al. as they have it for volumes."""
    losses = dataclasses.replace(recipe.losses, **weights)
    return dataclasses.replace(
        recipe, name=f"{recipe.name}_3d", steps=15_000, patch=64, batch=4, losses=losses,
        schedule=StepDecay(every=2000, factor=0.5),
    )  # fmt: skip


NOISE2SAME = _siamese("noise2same", invariance_blurred=2, bound_blurred=0.1)
"""Their loss (3): reconstruction, and the invariance of the re-blurred images."""

NOISE2SAME_D = _siamese("noise2same_d", invariance=2, bound=0.1)
"""Their loss (4): reconstruction, and the invariance of the restored images. Their best in 2-D."""

NOISE2SELF_3D = _volumes(NOISE2SELF)
NOISE2SAME_3D = _volumes(NOISE2SAME, bound_blurred=0)
"""Their best in 3-D, where they leave out the bound."""

NOISE2SAME_D_3D = _volumes(NOISE2SAME_D)

DECONOISING = Recipe(
    name="deconoising",
    network=PlainUNet(),
    steps=2000,
    normalise="standardise",
    patch=100,
    batch=5,
    accumulate=4,
    epoch=10,
    mask=StratifiedMask(1 / 32),
    fill="neighbour",
    augment=True,
    ensemble=False,
    losses=Losses(normalise="masked", bound=0, positivity=1),
    lr=1e-3,
    schedule=Plateau(factor=0.5, patience=10),
    validation=0.1,
)
"""Goncharova et al., "ours+", for many images: 200 epochs of 10 steps of 20 patches. The denoised
image is what they want. As their code runs it, but that patches have a halo and are rotated only
by symmetries of the PSF."""

DECONOISING_MINUS = dataclasses.replace(
    DECONOISING, name="deconoising_minus",
    losses=dataclasses.replace(DECONOISING.losses, positivity=0),
)  # fmt: skip
"""Their "ours−": the restored image may be negative."""

NOISE2VOID = dataclasses.replace(DECONOISING_MINUS, name="noise2void")
"""The same without a PSF, which is Noise2Void (Krull et al. 2019): for the physics `Identity`."""

_ALL = {
    recipe.name: recipe
    for recipe in (
        SSI, SSI_NO_MASKING, DEFAULT, NOISE2SELF, NOISE2SAME, NOISE2SAME_D, NOISE2SELF_3D,
        NOISE2SAME_3D, NOISE2SAME_D_3D, DECONOISING, DECONOISING_MINUS, NOISE2VOID,
    )
}  # fmt: skip


def names() -> tuple[str, ...]:
    """The names of all recipes."""
    return tuple(_ALL)


def get(name: Recipe | str) -> Recipe:
    """The recipe of that name (in any case); a `Recipe` is returned as it is."""
    if isinstance(name, Recipe):
        return name
    if not isinstance(name, str) or name.lower() not in _ALL:
        raise InputError("recipe", "a Recipe or one of " + ", ".join(_ALL), told(name))
    return _ALL[name.lower()]
