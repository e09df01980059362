"""The benchmark's images restored on a GPU by the recipes; see `parts.py`.

Pictures are read by imageio or Pillow, where there is one; an ``.npz`` of grey images by name needs
neither. Where scikit-image is missing there is no SSIM: the restored images are kept (.npy), to be
scored where it is.
"""

import time
from pathlib import Path

import numpy as np

from ssi_cupy import metrics

from ..papers import images, methods, records
from . import parts

METHODS = ("ssi", "ssi_no_masking", "default")


def pictures(patterns):
    """name → grey image."""
    if not patterns:
        raise parts.Missing("--images FILE ...: pictures, or an .npz of grey images")
    found = {}
    for path in map(Path, patterns):
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


def tables(options):
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    told, late = [], []
    for name, picture in pictures(options.images).items():
        sample = images.sample(name, picture, "", images.DEGRADATION)
        for method in options.methods or METHODS:
            if records.load(records.path_of(out, name, method)):
                continue
            if time.monotonic() > options.until:
                late.append(f"{name} {method}")
                continue
            settings = {"device": "cuda", "precision": options.precision, "steps": options.steps}
            restored = methods.get(method, **settings).run(sample)
            record = {"image": name, "method": method, "shape": picture.shape,
                      "scores": scored(sample.truth, restored.image), "steps": restored.steps,
                      "seconds": {"train": restored.train, "infer": restored.infer},
                      "settings": settings, "device": restored.device}  # fmt: skip
            records.store(out, record, restored.image)
    told = records.load_all(out)
    columns = sorted({c for record in told for c in record["scores"]})
    rows = [("image", "method", *columns, "training, s", "steps")]
    for r in told:
        scores = (f"{r['scores'].get(c, float('nan')):.4g}" for c in columns)
        rows.append((r["image"], r["method"], *scores, f"{r['seconds']['train']:.1f}", r["steps"]))
    tables = [("scores", rows)]
    if late:
        tables.append(("left for the same command again", [("image",), *((n,) for n in late)]))
    return {"records": told, "left": late}, tables, not late
