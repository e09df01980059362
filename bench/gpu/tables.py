"""The benchmark's images restored on a GPU by the recipes; see `parts.py`.

Pictures are read by imageio or Pillow, where there is one; an ``.npz`` of grey images by name needs
neither. Where scikit-image is missing there is no SSIM: the restored images are kept (.npy), to be
scored where it is.
"""

import functools
from pathlib import Path

import numpy as np

from ssi_cupy import metrics

from ..papers import images, methods, records
from . import parts

METHODS = ("default", "ssi", "ssi_no_masking", "noise2same_d_bound")


def pictures(patterns):
    """name → grey image: of the files that are named, or the benchmark's where these are."""
    return _pictures(tuple(patterns or ()))


@functools.lru_cache(maxsize=1)
def _pictures(files):
    files = files or sorted(images.folder().glob("*.png"))
    if not files:
        raise parts.Missing("--images FILE ...: pictures, or an .npz of grey images")
    found = {}
    for path in map(Path, files):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                found |= dict(file)
        else:
            found[path.stem] = _picture(path)
    return found


def _picture(path):
    try:
        return images.read(path)[0]
    except ImportError:
        try:
            from PIL import Image
        except ImportError:
            raise parts.Missing(f"imageio or Pillow to read {path.name}, or an .npz") from None
        return np.asarray(Image.open(path).convert("L"))


def scored(truth, image):
    """The scores that can be computed here."""
    image = np.clip(image, 0, 1)
    try:
        return methods.scores(truth, image)
    except ImportError:  # scikit-image, of which SSIM is
        both = truth, image
        return {
            "psnr": metrics.psnr(*both, data_range=1),
            "rmse": metrics.rmse(*both),
            "mi": metrics.mutual_information(*both),
            "smi": metrics.spectral_mutual_information(*both),
        }


def names(options):
    chosen = pictures(options.images)
    return [f"{name} {method}" for name in chosen for method in options.methods or METHODS]


def measure(name, options):
    name, method = name.rsplit(" ", 1)
    picture = pictures(options.images)[name]
    sample = images.sample(name, picture, "", images.DEGRADATION)
    settings = {"device": "cuda", "precision": options.precision, "steps": options.steps}
    restored = methods.get(method, **settings).run(sample)
    record = {"image": name, "method": method, "shape": picture.shape,
              "scores": scored(sample.truth, restored.image), "steps": restored.steps,
              "seconds": {"train": restored.train, "infer": restored.infer},
              "settings": settings, "device": restored.device}  # fmt: skip
    records.store(Path(options.out), record, restored.image)
    return record


def told(found, options):
    each = list(found.values())
    columns = sorted({c for record in each for c in record["scores"]})

    def cells(scores):
        return [f"{scores.get(c, float('nan')):.4g}" for c in columns]

    rows = [("image", "method", *columns, "training, s", "steps")]
    for r in each:
        times = f"{r['seconds']['train']:.1f}", r["steps"]
        rows.append((r["image"], r["method"], *cells(r["scores"]), *times))
    means = [("method", "images", *columns)]
    for method in dict.fromkeys(r["method"] for r in each):
        some = [r["scores"] for r in each if r["method"] == method]
        mean = {c: np.mean([scores.get(c, np.nan) for scores in some]) for c in columns}
        means.append((method, len(some), *cells(mean)))
    return {"images": each}, [("means", means), ("scores", rows)], True
