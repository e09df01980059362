"""Figures 3 and 4 of Kobayashi et al., from the images that ``table1 --keep`` has left.

Figure 3: crops of three images, restored, and the spectra of the whole images. Figure 4: what
Richardson–Lucy gains and loses with each iteration.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from ssi_cupy.engine.checks import FileError, InputError

from ..plots import canvas, save, spectrum
from . import methods, records

SHOWN = ("usaf768x812", "fishembryo700x700", "characters875x1355")  # in the paper's Figure 3
LUCY = "richardson_lucy"  # the best count of iterations
COLUMNS = ("truth", "input", "tv_chambolle_pock", LUCY, "ssi_no_masking", "ssi", "default")
TITLES = {"truth": "Truth", "input": "Input", "tv_chambolle_pock": "Chambolle–Pock TV"}
TITLES |= {"ssi_no_masking": "SSI, no masking", "ssi": "SSI", "default": "Default recipe"}
COLOURS = {"input": "#888888", "ssi": "#0072b2", "default": "#d55e00"}
GREY = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
SMALL = {"fontsize": 8.5, "linespacing": 1.25, "pad": 3}


def main(arguments):
    parser = argparse.ArgumentParser("python -m bench figures", description=__doc__)
    add = parser.add_argument
    add("--from", dest="source", required=True, metavar="DIR", help="what table1 --keep wrote to")
    add("--out", required=True, metavar="DIR")
    add("--images", nargs="+", metavar="NAME", help="three (default: the paper's, where kept)")
    add("--window", type=int, default=80, metavar="N", help="side of the crops (default: 80)")
    options = parser.parse_args(arguments)
    try:
        kept = Kept(Path(options.source))
        names = kept.choose(options.images)
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        save(figure_3(kept, names, options.window), out / "figure_3.png")
        lucy = kept.lucy()
        if lucy:
            save(
                figure_4(kept, names[min(1, len(names) - 1)], options.window), out / "figure_4.png"
            )
        else:
            print("figure 4 needs Richardson–Lucy, which was not run", file=sys.stderr)
        return 0 if lucy else 1
    except InputError as error:
        print(f"figures: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"figures: {error.filename or options.out}: {error.strerror}", file=sys.stderr)
        return 1


class Kept:
    """The records of a folder, by image and method, and the arrays beside them."""

    def __init__(self, folder):
        self.folder, self.records = folder, {}
        for record in records.load_all(folder):
            self.records.setdefault(record["image"], {})[record["method"]] = record
        crops = {r["settings"]["crop"] for rows in self.records.values() for r in rows.values()}
        if len(crops) > 1:
            raise FileError("--from", "results of one crop", f"those of {sorted(map(str, crops))}")

    def choose(self, wanted):
        """Names of up to three images that have been kept."""
        there = [n for n in self.records if (self.folder / f"{n}.truth.npy").exists()]
        if not there:
            expected = "results of table1 --keep"
            raise FileError("--from", expected, f"none in {str(self.folder)!r}")
        if wanted:
            for name in wanted:
                if name not in there:
                    raise InputError("--images", f"some of {', '.join(there)}", repr(name))
            return wanted
        return sorted(there, key=lambda n: SHOWN.index(n) if n in SHOWN else len(SHOWN))[:3]

    def image(self, name, method):
        """An array, or None where it was not kept."""
        path = self.folder / f"{name}.{method}.npy"
        return np.load(path, allow_pickle=False) if path.exists() else None

    def lucy(self):
        """The counts of iterations that there are results of."""
        names = {method for rows in self.records.values() for method in rows}
        return sorted(filter(None, map(methods.iterations, names)))

    def score(self, name, method, column="psnr"):
        return self.records[name][method]["scores"][column]

    def caption(self, name, method):
        """A line below a method's name."""
        if method == "truth":
            return ""
        steps = self.records[name][method]["steps"]
        steps = f", {steps} steps" if steps else ""
        return f"\n{self.score(name, method):.2f} dB{steps}"

    def best_lucy(self, name):
        """The Richardson–Lucy of highest PSNR, or None."""
        run = [method for method in self.records[name] if methods.iterations(method)]
        return max(run, key=lambda method: self.score(name, method), default=None)

    def mean(self, method, column):
        """Over all images; None where an image was not restored by it."""
        rows = [rows.get(method) for rows in self.records.values()]
        return None if None in rows else np.mean([row["scores"][column] for row in rows])


def figure_3(kept, names, window):
    """Two rows for each image: crops, and spectra of the whole."""
    shown = [
        column
        for column in COLUMNS
        if any(kept.image(n, kept.best_lucy(n) if column == LUCY else column) is not None
               for n in names)
    ]  # fmt: skip
    cell = 1.75
    figure = canvas(cell * len(shown) + 0.35, 2 * cell * len(names) + 0.3 * len(names) + 0.3)
    blocks = figure.subfigures(len(names), 1, squeeze=False)[:, 0]
    for name, block in zip(names, blocks, strict=True):
        axes = block.subplots(2, len(shown), squeeze=False)
        block.subplots_adjust(
            left=0.3 / figure.get_figwidth(), right=0.998, bottom=0.005, top=0.87,
            wspace=0.03, hspace=0.03,
        )  # fmt: skip
        truth = kept.image(name, "truth")
        place, spectra = busiest(truth, window), spectrum(truth)
        low, high = np.percentile(spectra, (1, 99.9))
        for column, (above, below) in zip(shown, axes.T, strict=True):
            method = kept.best_lucy(name) if column == LUCY else column
            image = kept.image(name, method)
            for ax in (above, below):
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set_visible(False)
            if image is None:
                above.text(0.5, 0.5, "not run", ha="center", va="center", color="#888888")
                continue
            title = TITLES.get(method) or methods.label(method)
            above.set_title(title + kept.caption(name, method), **SMALL)
            above.imshow(image[place], **GREY)
            below.imshow(spectrum(image), cmap="magma", vmin=low, vmax=high, aspect="auto")
        axes[0, 0].set_ylabel(name, fontsize=8)
        axes[1, 0].set_ylabel("log spectrum", fontsize=8)
    return figure


def figure_4(kept, name, window):
    """Above: one image after more and more iterations. Below: scores against iterations."""
    lucy = [f"richardson_lucy_{n}" for n in kept.lucy()]
    row = ["truth", "input", *lucy, "ssi", "default"]
    row = [method for method in row if kept.image(name, method) is not None]
    cell = 1.6
    width = max(cell * len(row) + 0.1, 7.5)
    figure = canvas(width, 5.0)
    above, below = figure.subfigures(2, 1, height_ratios=(cell + 0.5, 5.0 - cell - 0.5))
    axes = above.subplots(1, len(row), squeeze=False)[0]
    above.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.82, wspace=0.04)
    place = busiest(kept.image(name, "truth"), window)
    for method, ax in zip(row, axes, strict=True):
        ax.imshow(kept.image(name, method)[place], **GREY)
        title = TITLES.get(method) or f"{methods.iterations(method)} iterations"
        ax.set_title(title + kept.caption(name, method), **SMALL)
        ax.set_axis_off()

    axes = below.subplots(1, 2)
    below.subplots_adjust(left=0.07, right=0.985, bottom=0.29, top=0.9, wspace=0.16)
    for ax, column, title in zip(
        axes, ("psnr", "ssim_range2"), ("PSNR (dB)", "SSIM (range 2)"), strict=True
    ):
        trade_off(ax, kept, column)
        ax.set_title(title, fontsize=9)
    lines, labels = axes[0].get_legend_handles_labels()
    below.legend(lines, labels, loc="lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def trade_off(ax, kept, column):
    """A score against the iterations of Richardson–Lucy; the others' as lines."""
    counts, label = kept.lucy(), "Richardson–Lucy, each image"
    lucy = {n: f"richardson_lucy_{n}" for n in counts}
    for rows in kept.records.values():
        points = [(n, rows[lucy[n]]["scores"][column]) for n in counts if lucy[n] in rows]
        if not points:
            continue
        ax.plot(*np.transpose(points), color="#bbbbbb", lw=0.6, zorder=1, label=label)
        label = None
    means = [(n, kept.mean(lucy[n], column)) for n in counts]
    means = [point for point in means if point[1] is not None]
    if means:
        label = f"mean of {len(kept.records)}"
        ax.plot(*np.transpose(means), "o-", color="black", ms=4, label=label)
    for method, colour in COLOURS.items():
        if (value := kept.mean(method, column)) is not None:
            ax.axhline(value, color=colour, ls="--", lw=1.3, label=f"{TITLES[method]}, mean")
    ax.set(xscale="log")
    ax.set_xlabel("iterations of Richardson–Lucy", fontsize=8)
    ax.minorticks_off()
    ax.set_xticks(counts, [str(n) for n in counts])
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def busiest(truth, size):
    """Slices of the window with most detail: the mean of the gradient's length, blurred a little.

    Blurred, so that noise of the clean image does not count as detail.
    """
    from scipy.ndimage import gaussian_gradient_magnitude, uniform_filter

    sides = [min(size, n) for n in truth.shape]
    detail = uniform_filter(gaussian_gradient_magnitude(truth.astype(np.float64), 2), sides)
    inner = tuple(
        slice(s // 2, n - (s - s // 2) + 1) for s, n in zip(sides, truth.shape, strict=True)
    )
    start = np.unravel_index(detail[inner].argmax(), detail[inner].shape)
    return tuple(slice(a, a + s) for a, s in zip(start, sides, strict=True))
