"""What `denoising` found, as a Markdown table and as Figures 3 and 4 of Goncharova et al."""

import numpy as np

from ssi_cupy.files.atomic import replacing

TITLES = {"mice": "confocal, mice", "BPAE_B": "confocal, BPAE", "text": "text, noise 100"}
HOW = """\
The range of PSNR, which the paper does not tell, is the truth's greatest value less its least,
image by image, and the figure the mean over the images. Confocal: one noisy frame each is trained
on, with 2 % of its pixels held out, and scored against the mean of many. Text: trained on the noisy
images, a tenth of them held out, and scored on 64 others. "Convolved" is Noise2Void's result,
blurred with the Gaussian of σ = 1 pixel that ours has. Negative: the mean of |min(z, 0)| of the
phantom z that ours makes, grey levels. Published figures are of other data: there ours− is ahead
of Noise2Void by 0.3 to 0.6 dB, and ours+ by −1.0 to 0.7 dB."""


def write(out, found):
    """``denoising.md``, ``figure_3.png`` and ``figure_4.png`` in `out`; return the text."""
    report = markdown(found)
    with replacing(out / "denoising.md") as part:
        part.write_text(report, encoding="utf-8")
    shown = [name for name in TITLES if (name, "ours_plus_1") in found]
    if shown:
        _save(
            figure_3(out, [n for n in shown if (n, "ours_minus_1") in found]), out / "figure_3.png"
        )
    if len(sweep(found)) > 1:
        _save(figure_4(out, sweep(found)), out / "figure_4.png")
    return report


def markdown(found):
    head = ("set", "noisy", "Noise2Void", "N2V convolved", "ours− (λ = 0)", "ours+ (λ = 1)",
            "negative, λ = 0", "λ = 1", "training, ours+")  # fmt: skip
    lines = [head, ("---",) + ("---:",) * (len(head) - 1)]
    for name, title in TITLES.items():
        rows = {m: found.get((name, m)) for m in ("n2v_0", "ours_minus_1", "ours_plus_1")}
        if not any(rows.values()):
            continue
        n2v, minus, plus = rows.values()
        some = next(filter(None, rows.values()))
        cells = [_number(some, "psnr_input"), _number(n2v, "psnr"), _number(n2v, "psnr_convolved"),
                 _number(minus, "psnr"), _number(plus, "psnr"), _negative(minus),
                 _negative(plus), f"{_number(plus, 'train', 0)} s"]  # fmt: skip
        lines.append((title, *cells))
    parts = ["# Blind-spot denoising with a PSF", "PSNR in dB.", _table(lines)]
    if swept := sweep(found):
        lines = [("σ trained with", *(f"{sigma:g}" for sigma in swept)),
                 ("---",) + ("---:",) * len(swept),
                 ("PSNR on text", *(_number(r, "psnr") for r in swept.values()))]  # fmt: skip
        best = max(swept, key=lambda sigma: swept[sigma]["psnr"])
        parts += ["The text is blurred with σ = 1; trained with λ = 1 and other σ:", _table(lines),
                  f"Best: σ = {best:g}."]  # fmt: skip
    return "\n\n".join([*parts, HOW, *_circumstances(found)]) + "\n"


def sweep(found):
    """σ → record, of the trainings of ours+ on text."""
    rows = [r for (name, method), r in found.items()
            if name == "text" and method.startswith("ours_plus_")]  # fmt: skip
    return {r["settings"]["sigma"]: r for r in sorted(rows, key=lambda r: r["settings"]["sigma"])}


def _table(lines):
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(record, key, digits=2):
    return "–" if record is None else f"{record[key]:.{digits}f}"


def _negative(record):
    return "–" if record is None else f"{record['negative']:.2g}"


def _circumstances(found):
    lines = set()
    for record in found.values():
        s, m = record["settings"], record["machine"]
        images = f", {s['images']} images of text" if "images" in s else ""
        lines.add(f"- Network: {s['width']} channels, {s['depth']} levels, {record['parameters']} "
                  f"parameters; {s['steps']} steps of {s['patches']} patches of {s['patch']}²"
                  f"{images}; seed {s['seed']}")  # fmt: skip
        where = f"{m['cpu']}, {m['cores']} cores, threads: {m['threads']}; {record['device']}"
        lines.add(f"- Machine: {where}; {record['date'][:10]}; commit {record['commit']}")
    yield "\n".join(sorted(lines, reverse=True))


# ---- pictures -------------------------------------------------------------------------------

ARRAYS = ("truth", "image", "denoised", "restored", "blurred")


def arrays(out, name, method):
    """name → the first image, of a training's results."""
    return dict(zip(ARRAYS, np.load(out / f"{name}.{method}.npy"), strict=True))


def figure_3(out, names, window=96):
    """Denoised images and phantoms, without and with positivity, of a detail of each set."""
    from matplotlib.figure import Figure

    titles = ("noisy", "Noise2Void", "denoised, λ = 0", "denoised, λ = 1", "phantom, λ = 0",
              "phantom, λ = 1", "truth")  # fmt: skip
    figure = Figure(figsize=(2 * len(titles), 2.15 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(titles), squeeze=False)
    for row, name in zip(axes, names, strict=True):
        plus, minus = (arrays(out, name, f"ours_{sign}_1") for sign in ("plus", "minus"))
        n2v = out / f"{name}.n2v_0.npy"
        plain = arrays(out, name, "n2v_0")["denoised"] if n2v.exists() else np.zeros_like(
            plus["truth"])  # fmt: skip
        cut = _busiest(plus["truth"], window)
        low, high = np.percentile(plus["truth"][cut], (0.5, 99.5))
        images = (plus["image"], plain, minus["denoised"], plus["denoised"], minus["restored"],
                  plus["restored"], plus["truth"])  # fmt: skip
        for axis, title, image in zip(row, titles, images, strict=True):
            # A phantom has brighter points than the image that it makes; blue is below zero.
            if title.startswith("phantom"):
                top = high + (high - low) / 4
                axis.imshow(image[cut], cmap=_signed(), vmin=-top, vmax=top)
            else:
                axis.imshow(image[cut], cmap="gray", vmin=low, vmax=high)
            axis.set_title(title, fontsize=9)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(TITLES[name], fontsize=9)
    return figure


def _signed():
    """Grey from 0 up, blue from 0 down."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = [(0, "#40a0ff"), (0.5, "black"), (1, "white")]
    return LinearSegmentedColormap.from_list("signed", stops)


def _busiest(image, window):
    """The window of an image in which it varies most."""
    window = min(window, *image.shape)
    starts = [range(0, n - window + 1, max(1, window // 2)) for n in image.shape]
    places = [np.s_[y : y + window, x : x + window] for y in starts[0] for x in starts[1]]
    return max(places, key=lambda cut: float(image[cut].std()))


def figure_4(out, swept):
    """PSNR against the σ that was trained with, and what the results look like."""
    from matplotlib.figure import Figure

    sigmas = list(swept)
    figure = Figure(figsize=(1.6 * (len(sigmas) + 1), 5), layout="constrained")
    grid = figure.add_gridspec(2, len(sigmas) + 1, height_ratios=(2, 1))
    axis = figure.add_subplot(grid[0, :])
    axis.plot(sigmas, [swept[s]["psnr"] for s in sigmas], "o-", color="#0072b2")
    axis.axvline(1, color="#d55e00", linewidth=1)
    axis.set(xlabel="σ of the PSF trained with, pixels (the text is blurred with 1)",
             ylabel="PSNR, dB")  # fmt: skip
    for i, sigma in enumerate(sigmas):
        shown = arrays(out, "text", f"ours_plus_{sigma:g}")
        _text(figure.add_subplot(grid[1, i]), shown["denoised"], f"σ = {sigma:g}")
    _text(figure.add_subplot(grid[1, -1]), shown["truth"], "truth")
    return figure


def _text(axis, image, title):
    axis.imshow(image[:64, :64], cmap="gray", vmin=0, vmax=255)
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[])


def _save(figure, path):
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=80)
