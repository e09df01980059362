"""Images of printed text, as in Goncharova et al. (2020), section 4.1: rendered, blurred, noisy.

Theirs are cut from a book. These are words in random order from the first page of another whose
author is long dead (L. Carroll, "Alice's Adventures in Wonderland", 1865), in the fonts that
matplotlib brings along: black on white, 8 bits.
"""

import functools

import numpy as np

from ssi_cupy import psf
from ssi_cupy.physics import PSFConvolution

SIDE, PAGE = 128, 1024  # pixels of an image, and of the page that it is cut from
SIGMA, NOISE = 1.0, 100.0
FONTS = ("DejaVuSerif.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono.ttf")
SIZES = (13, 19)  # pixels

WORDS = """
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing
to do: once or twice she had peeped into the book her sister was reading, but it had no pictures or
conversations in it, "and what is the use of a book," thought Alice "without pictures or
conversations?" So she was considering in her own mind (as well as she could, for the hot day made
her feel very sleepy and stupid), whether the pleasure of making a daisy-chain would be worth the
trouble of getting up and picking the daisies, when suddenly a White Rabbit with pink eyes ran close
by her. There was nothing so very remarkable in that; nor did Alice think it so very much out of the
way to hear the Rabbit say to itself, "Oh dear! Oh dear! I shall be late!" (when she thought it over
afterwards, it occurred to her that she ought to have wondered at this, but at the time it all
seemed quite natural); but when the Rabbit actually took a watch out of its waistcoat-pocket, and
looked at it, and then hurried on, Alice started to her feet, for it flashed across her mind that
she had never before seen a rabbit with either a waistcoat-pocket, or a watch to take out of it, and
burning with curiosity, she ran across the field after it, and fortunately was just in time to see
it pop down a large rabbit-hole under the hedge.
""".split()


def clean(count, seed):
    """(count, 128, 128) uint8: pages of text, cut up."""
    rng, pages = np.random.default_rng([seed, 0]), []
    while sum(map(len, pages)) < count:
        cut = page(rng).reshape(PAGE // SIDE, SIDE, PAGE // SIDE, SIDE).swapaxes(1, 2)
        pages.append(cut.reshape(-1, SIDE, SIDE))
    return np.concatenate(pages)[:count]


def page(rng):
    """A page of words in random order, in one font and size."""
    from PIL import Image, ImageDraw

    picture = Image.new("L", (PAGE, PAGE), 255)
    font = _font(FONTS[rng.integers(len(FONTS))], int(rng.integers(*SIZES)))
    step, draw = round(1.25 * font.size), ImageDraw.Draw(picture)
    for y in range(-int(rng.integers(step)), PAGE, step):
        line = " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=PAGE // 16))
        draw.text((-int(rng.integers(40)), y), line, fill=0, font=font)
    return np.asarray(picture)


@functools.cache
def _font(name, size):
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size)


def images(count, seed):
    """(truth, image): blurred with σ = 1 pixel, and that with noise of 100 grey levels; float32."""
    g = PSFConvolution(psf.gaussian(SIGMA))
    noise = np.random.default_rng([seed, 1])
    truth = np.empty((count, SIDE, SIDE), np.float32)
    sharp = clean(count, seed)
    for i in range(0, count, 256):
        part = sharp[i : i + 256, None, None].astype(np.float32)
        truth[i : i + 256] = g.forward(part)[:, 0, 0]
    return truth, truth + noise.normal(0, NOISE, truth.shape).astype(np.float32)
