"""A restoration as one HTML file: pictures and script are inside, nothing is asked of a network."""

from __future__ import annotations

import base64
import html
import io
import platform
from typing import Any

import numpy as np

from ..engine.backend import host
from ..engine.checks import FileError
from ..engine.types import Array, PathLike
from .atomic import check_writable, replacing

WIDEST = 1200  # pixels of a picture; larger ones are averaged
ZOOM, ZOOMS = 48, 3  # pixels of a zoom's side; how many
COLOURS = {"ok": "#1a7f37", "doubtful": "#9a6700", "failed": "#cf222e"}
BEFORE, DENOISED, AFTER = "#8c8c8c", "#2f81c7", "#c7442f"
STYLE = """
:root{color-scheme:light}*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:#1f2328;background:#fff;max-width:68rem;
margin:0 auto;padding:1.5rem 1rem}h1{font-size:1.5rem;margin:0 0 .5rem}h2{font-size:1.15rem;
margin:2rem 0 .5rem;border-bottom:1px solid #d0d7de;padding-bottom:.2rem}
p,ul{margin:.4rem 0}.badge{color:#fff;border-radius:.4rem;padding:.1rem .6rem}
figure{margin:.6rem 0}figcaption{color:#59636e;font-size:.9rem}img{max-width:100%;display:block}
.row{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr))}
.row.wide{grid-template-columns:repeat(auto-fill,minmax(20rem,1fr))}.row img,.pair img{width:100%}
.pixels{image-rendering:pixelated}.slider{position:relative;max-width:44rem}
.slider img{width:100%}.slider .top{position:absolute;inset:0;clip-path:inset(0 0 0 50%)}
.slider .line{position:absolute;top:0;bottom:0;left:50%;width:2px;background:#fff;
box-shadow:0 0 3px #000}.slider+input{width:100%;max-width:44rem}
.names{display:flex;justify-content:space-between;max-width:44rem;color:#59636e;font-size:.9rem}
.pair{display:none}table{border-collapse:collapse;font-size:.9rem}
td{padding:.15rem .8rem .15rem 0;vertical-align:top;overflow-wrap:anywhere}
td:first-child{color:#59636e;white-space:nowrap}
pre{background:#f6f8fa;padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}
@media print{.slider,.slider+input,.names{display:none}.pair{display:grid;gap:1rem;
grid-template-columns:1fr 1fr}h2{break-after:avoid}figure{break-inside:avoid}}
"""
SCRIPT = """
const top_=document.querySelector('.top'),line=document.querySelector('.line');
document.querySelector('.slider+input').addEventListener('input',event=>{
top_.style.clipPath=`inset(0 0 0 ${event.target.value}%)`;
line.style.left=event.target.value+'%'})
"""


def check(path: PathLike, argument: str = "path") -> None:
    """An error now, not after the training, where no report could be written.

    Raises
    ------
    FileError
        If the path cannot be written.
    ImportError
        If matplotlib is missing.
    """
    check_writable(path, argument)
    _matplotlib()


def write(path: PathLike, result: Any, command: str = "", argument: str = "path") -> None:
    """Write the report of a `Restoration`, whole or not at all.

    Parameters
    ----------
    path : path
    result : Restoration
        Of several images, the last is shown: that is the one of its model and history.
    command : str
        What repeats the run to the same bits; by default a call in Python.
    argument : str
        What the path is called in an error.
    """
    check(path, argument)
    text = page(result, command)
    with replacing(path, argument) as part:
        try:
            part.write_text(text, encoding="utf-8")
        except OSError as error:
            got = f"{str(path)!r} ({error.strerror or error})"
            raise FileError(argument, "a path that can be written", got) from None


def page(result: Any, command: str = "") -> str:
    """The HTML text."""
    axes = str(result.settings["axes"])
    last = tuple(slice(None) if a in "ZYX" else -1 for a in axes)
    spatial = [a for a in axes if a in "ZYX"]
    order = [spatial.index(a) for a in "ZYX" if a in spatial]
    given = (result.image, result.restored, result.denoised, result.uncertainty)
    y, x, gx, u = (host(np.asarray(host(a))[last]).astype(float).transpose(order) for a in given)
    verdict, noise = result.verdict, (result.verdict.numbers or {}).get("noise", 0.0)
    low, high = np.percentile(y, (0.5, 99.8))
    grey = {"low": float(low), "high": float(max(high, low + 1e-30))}
    flat = [a if a.ndim == 2 else a.max(axis=0) for a in (y, x)]
    parts = [_head(verdict), _slider(*flat, grey, y.ndim == 3)]
    if y.ndim == 3:
        parts.append(_sections(y, x, grey))
    parts += [
        _zooms(*flat, grey),
        _plots(y, x, gx, result, noise),
        _maps(y, gx, u, noise),
        _settings(result, command, y),
    ]
    title = f"Restoration: {verdict.level}"
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    icon = '<link rel="icon" href="data:,">'
    return (
        f'<!doctype html><html lang="en"><head>{meta}{icon}<title>{title}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}<script>{SCRIPT}</script>"
        "</body></html>\n"
    )


# ---- its parts ------------------------------------------------------------------------------


def _head(verdict):
    reasons = "".join(f"<li>{html.escape(_sentence(r.text))}</li>" for r in verdict.reasons)
    note = f"<p>{html.escape(_sentence(verdict.note))}</p>" if verdict.note else ""
    colour = COLOURS[verdict.level]
    badge = f'<span class="badge" style="background:{colour}">{verdict.level}</span>'
    told = html.escape(_sentence(verdict.summary))
    return f"<h1>Restoration {badge}</h1><ul>{reasons}</ul><p>{told}</p>{note}"


def _sentence(text):
    return text[:1].upper() + text[1:] + "."


def _slider(before, after, grey, volume):
    one, two = (_grey(a, **grey) for a in (before, after))
    what = ", maximum along Z" if volume else ""
    scale = f"Both in one grey scale, {grey['low']:.4g} to {grey['high']:.4g}{what}."
    return (
        f'<h2>Before and after</h2><div class="slider"><img src="{one}" alt="before">'
        f'<img class="top" src="{two}" alt="after"><div class="line"></div></div>'
        '<input type="range" min="0" max="100" value="50" aria-label="before or after">'
        '<div class="names"><span>before</span><span>after</span></div>'
        f'<div class="pair">{_figure(one, "before")}{_figure(two, "after")}</div>'
        f"<figcaption>{scale}</figcaption>"
    )


def _sections(y, x, grey):
    row = int(np.argmax(x.max(axis=0).var(axis=1)))
    shown = [_figure(_grey(a[:, row], **grey), name, "pixels")
             for a, name in ((y, "before"), (x, "after"))]  # fmt: skip
    return f'<h2>XZ section at Y = {row}</h2><div class="row wide">{"".join(shown)}</div>'


def _zooms(before, after, grey):
    """The places where most has changed."""
    from scipy.ndimage import uniform_filter

    side = min(ZOOM, *before.shape)
    change = uniform_filter((after - before) - uniform_filter(after - before, 9), 3) ** 2
    change = uniform_filter(change, side, mode="constant")
    found = []
    for _ in range(ZOOMS):
        at = np.unravel_index(np.argmax(change), change.shape)
        if not change[at] > 0:
            break
        y, x = (int(min(max(i - side // 2, 0), n - side))
                for i, n in zip(at, change.shape, strict=True))  # fmt: skip
        change[max(y - side // 2, 0) : y + side + side // 2,
               max(x - side // 2, 0) : x + side + side // 2] = 0  # fmt: skip
        both = [a[y : y + side, x : x + side] for a in (before, after)]
        gap = np.full((side, 1), grey["high"])
        picture = _grey(np.hstack([both[0], gap, both[1]]), **grey)
        found.append(_figure(picture, f"Y {y} to {y + side}, X {x} to {x + side}", "pixels"))
    return f'<h2>Where most has changed</h2><div class="row wide">{"".join(found)}</div>'


def _plots(y, x, gx, result, noise):
    figures = []
    figure, plot = _axes("cycles per pixel", "power", "Spectra")
    for image, name, colour in ((y, "image", BEFORE), (gx, "re-blurred", DENOISED),
                                (x, "restored", AFTER)):  # fmt: skip
        plot.semilogy(*radial(image), label=name, color=colour)
    cut = cut_off(getattr(result.model.physics, "psf", None), y.shape)
    if cut:
        plot.axvline(cut, color="black", ls="--", lw=1, label="the PSF passes less than 1 %")
    plot.legend(frameon=False, fontsize=8)
    said = "Beyond the dashed line a restored image is a guess: no data tell of it." if cut else ""
    figures.append(_figure(_png(figure), said))

    figure, plot = _axes("residual / noise", "share of pixels", "Residual")
    if noise > 0:
        z = np.clip((y - gx) / noise, -6, 6).ravel()
        plot.hist(z, bins=61, range=(-6, 6), density=True, color=BEFORE, label="image − re-blurred")
        line = np.linspace(-6, 6, 241)
        gauss = np.exp(-(line**2) / 2) / np.sqrt(2 * np.pi)
        plot.plot(line, gauss, color=AFTER, label="noise model")
        plot.legend(frameon=False, fontsize=8)
    figures.append(_figure(_png(figure), f"The noise is {noise:.3g} in the image's units."))

    figure, plot = _axes("step", "loss", "Training")
    steps = [row["step"] for row in result.history]
    for name, colour, label in (("loss", BEFORE, "loss"), ("validation", AFTER, "held out")):
        values = np.array([row[name] for row in result.history], float)
        if np.isfinite(values).any() and (values > 0).any():
            plot.semilogy(steps, values, color=colour, lw=0.8, label=label)
    plot.legend(frameon=False, fontsize=8)
    figures.append(_figure(_png(figure), ""))
    return f'<h2>What the numbers say</h2><div class="row wide">{"".join(figures)}</div>'


def _maps(y, gx, u, noise):
    residual = y - gx
    if residual.ndim == 3:
        middle = len(residual) // 2
        residual, u = residual[middle], u[middle]
    reach = 4 * noise or float(np.abs(residual).max()) or 1.0
    shown = [_figure(_grey(residual, -reach, reach), f"residual, −{reach:.3g} to {reach:.3g}")]
    if np.isfinite(u).all():
        top = float(np.percentile(u, 99.5)) or 1.0
        shown.append(_figure(_grey(u, 0, top, "magma"), "uncertainty, one standard deviation, 0 to "
                             f"{top:.3g}; of what the PSF passes, no more"))  # fmt: skip
    return f'<h2>Residual and uncertainty</h2><div class="row wide">{"".join(shown)}</div>'


def _settings(result, command, y):
    import scipy

    from .. import __version__

    told, recipe = result.settings, result.settings["recipe"]
    rows = {
        "image": f"{' × '.join(map(str, y.shape))}, {result.image.dtype}, axes {told['axes']}",
        "seed": told["seed"], "steps": result.steps, "device": result.device,
        "precision": told["precision"], "spacing": told["spacing"], "refined": told["refine"],
        "seconds": ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items()),
        "versions": f"ssi_cupy {__version__}, numpy {np.__version__}, scipy {scipy.__version__}, "
                    f"Python {platform.python_version()}",
        "recipe": recipe,
    }  # fmt: skip
    for name, value in sorted((result.verdict.numbers or {}).items()):
        rows[name] = f"{value:.4g}"
    command = command or (
        f"ssi_cupy.deconvolve(image, psf, recipe={recipe.name!r}, num_iter={result.steps}, "
        f"rng={told['seed']}, axes={told['axes']!r}, spacing={told['spacing']!r}, "
        f"refine={told['refine']}, precision={told['precision']!r}, device={result.device!r})"
    )
    cells = "".join(
        f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>"
        for k, v in rows.items()
    )
    again = f"<p>To the same bits, on the same machine:</p><pre>{html.escape(command)}</pre>"
    return f"<h2>How it was made</h2>{again}<table>{cells}</table>"


# ---- curves and pictures --------------------------------------------------------------------


def radial(image: Array) -> tuple[Array, Array]:
    """(frequency in cycles per pixel, mean power there) of an image, under a Hann window."""
    window = np.ones(image.shape)
    for axis, n in enumerate(image.shape):
        profile = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
        window *= np.expand_dims(profile, [a for a in range(image.ndim) if a != axis])
    power = np.abs(np.fft.rfftn((image - image.mean()) * window)) ** 2 / (window**2).sum()
    bins = max(8, min(64, max(image.shape) // 4))
    index = np.minimum((_frequencies(image.shape) * 2 * bins).astype(int), bins)
    count = np.bincount(index.ravel(), minlength=bins + 1)[:bins]
    total = np.bincount(index.ravel(), power.ravel(), bins + 1)[:bins]
    found = count > 0
    return ((np.arange(bins) + 0.5) / (2 * bins))[found], total[found] / count[found]


def cut_off(psf: Array | None, shape: tuple[int, ...]) -> float:
    """The frequency from which on a PSF passes less than 1 % in all directions; 0 for none."""
    if psf is None or psf.size == 1:
        return 0.0
    psf = np.asarray(host(psf)).reshape(psf.shape[-len(shape) :])
    grid = np.zeros(shape)
    folded = (np.arange(k) % n for k, n in zip(psf.shape, shape, strict=True))
    np.add.at(grid, np.ix_(*folded), psf / psf.sum())
    passed = _frequencies(shape)[np.abs(np.fft.rfftn(grid)) >= 0.01]
    found = float(passed.max())
    return found if found < 0.5 else 0.0


def _frequencies(shape):
    lines = [np.fft.fftfreq(n) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1])]
    return np.sqrt(sum(a**2 for a in np.meshgrid(*lines, indexing="ij", sparse=True)))


def _matplotlib():
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ImportError("a report needs matplotlib: pip install ssi-cupy[demo]") from None


def _axes(x, y, title):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 3.0), layout="constrained", facecolor="white")
    plot = figure.subplots()
    plot.set_xlabel(x)
    plot.set_ylabel(y)
    plot.set_title(title, fontsize=10)
    plot.spines[["top", "right"]].set_visible(False)
    return figure, plot


def _png(figure):
    buffer = io.BytesIO()
    # no date and no version within: the same run, the same file
    figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
    return _data(buffer)


def _grey(image, low, high, cmap="gray"):
    """A picture of an image, averaged where it is larger than a screen."""
    from matplotlib.image import imsave

    factor = -(-max(image.shape) // WIDEST)
    if factor > 1:
        sides = [n // factor * factor for n in image.shape]
        image = image[: sides[0], : sides[1]]
        image = image.reshape(sides[0] // factor, factor, -1, factor).mean(axis=(1, 3))
    buffer = io.BytesIO()
    imsave(buffer, image, format="png", cmap=cmap, vmin=low, vmax=high, metadata={"Software": None})
    return _data(buffer)


def _data(buffer):
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _figure(source, caption, style=""):
    said = html.escape(caption)
    return (f'<figure><img class="{style}" src="{source}" alt="{said}">'
            f"<figcaption>{said}</figcaption></figure>")  # fmt: skip
