"""How large patches are, and the boxes that are cut out around them; `patches.py` draws them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..engine.backend import log
from ..engine.checks import InputError
from ..engine.types import Shape


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes along (Z, Y, X), pixels.

    Attributes
    ----------
    patch : tuple of int
        Of what the loss looks at.
    box : tuple of int
        Of what is cut out: the patch and its halo, or the whole image along an axis.
    reach : tuple of int
        How far the PSF reaches.
    wrap : bool
        Whether the other side of the image lies beyond its border.
    margin : tuple of int
        How far beyond the border boxes may go.
    """

    patch: Shape
    box: Shape
    reach: Shape
    wrap: bool = False
    margin: Shape = (0, 0, 0)

    def start(self, at: Sequence[int], shape: Shape) -> Shape:
        """Where the box of a patch at `at` begins in an image of `shape`."""
        start = [a - r for a, r in zip(at, self.reach, strict=True)]
        ends = [n + m - b for n, m, b in zip(shape, self.margin, self.box, strict=True)]
        whole = [self.wrap and end > 0 for end in ends]  # along the whole axis, nothing is beyond
        return tuple(
            s if w else max(-m, min(s, end))
            for s, end, w, m in zip(start, ends, whole, self.margin, strict=True)
        )

    def inside(self, at: Sequence[int], start: Sequence[int]) -> tuple[slice, ...]:
        """The patch within its box: three slices."""
        begin = [a - s for a, s in zip(at, start, strict=True)]
        return tuple(slice(b, b + p) for b, p in zip(begin, self.patch, strict=True))


def geometry(
    shapes: Sequence[Shape],
    patch: int,
    reach: Shape,
    wrap: bool = False,
    multiple: Shape = (1, 1, 1),
) -> tuple[Geometry, list[int]]:
    """The `Geometry` for images of these shapes, and which of them are large enough for it.

    Parameters
    ----------
    shapes : list of (Z, Y, X)
    patch : int
        The side that was asked for. Along an axis on which images are smaller, a patch is too.
    reach : three of int
    wrap : bool
    multiple : three of int
        The box is made one of these where the images have room for it.

    Returns
    -------
    Geometry
    chosen : list of int
        All, where all are of one size. Otherwise those that a box fits into.
    """
    flat = all(shape[0] == 1 for shape in shapes)
    sides = (1 if flat else patch, patch, patch)
    if flat:
        reach = (0, *reach[1:])
    chosen = list(range(len(shapes)))
    if len(set(shapes)) > 1:
        need = [p + 2 * r for p, r in zip(sides, reach, strict=True)]
        fits = [i for i in chosen if all(n >= m for n, m in zip(shapes[i], need, strict=True))]
        if fits and len(fits) < len(chosen):
            few = f"{len(chosen) - len(fits)} of {len(chosen)} images are smaller than a patch"
            log.warning("%s and the reach of the PSF around it (%s pixels): left out", few,
                        " x ".join(map(str, need)))  # fmt: skip
        chosen = fits or chosen
    least = tuple(min(shapes[i][axis] for i in chosen) for axis in range(3))
    alike = [len({shapes[i][axis] for i in chosen}) == 1 for axis in range(3)]
    # Of images of several sizes, a box must leave the larger ones their halo.
    room = [n if same else n - 2 * r for n, r, same in zip(least, reach, alike, strict=True)]
    if min(room) < 1:
        expected = "images larger than twice the reach of the PSF"
        raise InputError("image", expected, f"{least} (Z, Y, X) and a reach of {reach}")
    taken = tuple(min(p, n) for p, n in zip(sides, room, strict=True))
    if taken != sides:
        log.warning("patches of %s pixels do not fit into the images: %s is what is taken",
                    " x ".join(map(str, sides)), " x ".join(map(str, taken)))  # fmt: skip
    box = [min(p + 2 * r, n) for p, r, n in zip(taken, reach, least, strict=True)]
    up = [-(-b // m) * m for b, m in zip(box, multiple, strict=True)]
    box = tuple(u if u <= n else b for u, b, n in zip(up, box, least, strict=True))
    return Geometry(taken, box, tuple(reach), wrap), chosen
