"""What all benches that fill a table do: degrade, restore by every method, score, compare.

The folder gets a small file for each image and method, and then a CSV and a Markdown table of all
that are there. The same command again goes on where it stopped, which may be at any moment.
"""

import argparse
import datetime
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from ssi_cupy.engine import backend
from ssi_cupy.engine.checks import FileError, InputError
from ssi_cupy.engine.precision import PRODUCTS

from .. import timing
from . import methods, records, tables
from .published import Published

CODE = ("--", ":/ssi_cupy", ":/bench/*.py")


@dataclass(frozen=True)
class Table:
    """A bench that fills a table.

    Attributes
    ----------
    name : str
        Of the bench, and of the files that it writes.
    title : str
        Of the Markdown table.
    says : str
        What it is, for its help.
    source : module
        `find`, `digest`, `prepare` and `IMAGES`, a word on what is found, as in `images`.
    methods : tuple of str
        What is run unless options say otherwise.
    published : published.Published
        What is shown beside it.
    how : str
        What is done to the images, with "{crop}" where a crop is told.
    """

    name: str
    title: str
    says: str
    source: ModuleType
    methods: tuple[str, ...]
    published: Published
    how: str


def main(arguments, table):
    options = parser(table).parse_args(arguments)
    try:
        return run(options, table)
    except InputError as error:
        status, message = 2, str(error)
    except ImportError as error:
        status, message = 2, f"{error}: pip install 'ssi_cupy[bench]'"
    except OSError as error:
        status, message = 1, f"{error.filename or options.out}: {error.strerror or error}"
    except KeyboardInterrupt:
        status, message = 130, "interrupted; the same command goes on from here"
    print(f"{table.name}: {message}", file=sys.stderr)
    return status


def parser(table):
    made = argparse.ArgumentParser(f"python -m bench {table.name}", description=table.says)
    add = made.add_argument
    add("--out", required=True, metavar="DIR")
    add("--images", nargs="+", metavar="GLOB", help=table.source.IMAGES)
    add("--methods", nargs="+", default=list(table.methods), metavar="NAME",
        help="default: " + " ".join(table.methods))  # fmt: skip
    add("--crop", type=int, metavar="N", help="the middle N × N pixels of each clean image")
    add("--steps", type=int, metavar="N", help="training steps (default: the recipe's)")
    add("--width", type=int, metavar="N", help="of the Siamese networks (default: the recipe's)")
    add("--patch", type=int, metavar="N", help="of theirs (default: the recipe's)")
    add("--batch", type=int, metavar="N", help="of theirs (default: the recipe's)")
    add("--device", default="auto", help="to train on: auto (default), cpu or cuda")
    add("--precision", default="float32", choices=list(PRODUCTS), help="of wide convolutions")
    add("--seed", type=int, default=0, metavar="N", help="of training; the noise's is always 0")
    add("--threads", type=int, metavar="N", help="of the CPU, for training")
    add("--keep", action="store_true", help="keep the restored images (.npy), for the figures")
    add("--redo", action="store_true", help="replace results of other settings")
    return made


def run(options, table):
    for name in ("crop", "steps", "width", "patch", "batch", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise InputError(f"--{name}", "a number above 0", value)
    if options.threads:
        backend.set_num_threads(options.threads)
    paths = table.source.find(options.images)
    chosen = {name: method_of(name, options) for name in dict.fromkeys(options.methods)}
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)

    jobs = {s: missing(out, path, chosen, options, table) for s, path in paths.items()}
    count = sum(map(len, jobs.values()))
    print(f"{count} to run, {len(paths) * len(chosen) - count} done before", flush=True)
    context, failures = circumstances(), []
    for stem, wanted in jobs.items():
        if wanted:
            for failure in restore(out, paths[stem], wanted, chosen, context, options, table):
                print(f"{table.name}: {failure}", file=sys.stderr, flush=True)
                failures.append(failure)
            tables.write(out, table, usable(out, options, table), failures)
    print(f"\n{tables.write(out, table, usable(out, options, table), failures)}")
    return 1 if failures else 0


def missing(out, path, chosen, options, table):
    """The settings of each method whose result is not there yet."""
    digest, wanted = table.source.digest(path), {}
    for name, method in chosen.items():
        settings = settings_of(digest, method, options, table)
        if not done(records.path_of(out, path.stem, name), settings, options):
            wanted[name] = settings
    return wanted


def done(path, settings, options):
    """Whether a result is there; an `InputError` if it is one of other settings."""
    record = records.load(path)
    if record is None:
        return False
    there = record["settings"]
    if there == settings:
        return not options.keep or path.with_suffix(".npy").exists()
    if not options.redo:
        other = ", ".join(key for key in settings if settings[key] != there.get(key))
        expected = "a folder for these settings alone (--redo replaces what is of others)"
        raise FileError("--out", expected, f"{path.name} with another {other}")
    return False


def restore(out, path, wanted, chosen, context, options, table):
    """Restore, score and store one image by all that is wanted; yield what went wrong."""
    try:
        sample = table.source.prepare(path, options.crop)
    except (InputError, MemoryError) as error:
        yield f"{path.stem}: {error or 'out of memory'}"
        return
    if sample.remark:
        print(f"{sample.name}: {sample.remark}")
    if options.keep:
        records.store_array(out / f"{sample.name}.truth.npy", sample.truth)
    for name, settings in wanted.items():
        try:
            record, image = measured(sample, name, chosen[name])
        except (InputError, MemoryError) as error:
            yield f"{sample.name}, {name}: {error or 'out of memory'}"
            continue
        record |= {"settings": settings, "remark": sample.remark, "date": now(), **context}
        records.store(out, record, image if options.keep else None)


def measured(sample, name, method):
    """(what is known of a restored image, the image)."""
    restored = method.run(sample)
    image = np.clip(restored.image, 0, 1)
    scores = methods.scores(sample.truth, image)
    seconds = {"train": restored.train, "infer": restored.infer}
    taken = "".join(f", {what} {s:.1f} s" for what, s in seconds.items() if s)
    print(
        f"{sample.name} {name}: PSNR {scores['psnr']:.2f}, SSIM {scores['ssim_range2']:.3f} "
        f"and {scores['ssim_range1']:.3f}{taken}",
        flush=True,
    )
    record = {"image": sample.name, "method": name, "shape": sample.truth.shape, "scores": scores}
    record |= {"seconds": seconds, "steps": restored.steps, "device": restored.device}
    return record, image


def usable(out, options, table):
    """The records of a folder that these options would make too, of whichever image and method."""
    found = []
    for record in records.load_all(out):
        try:
            method = method_of(record["method"], options)
        except InputError:
            continue
        digest = record["settings"]["image"]
        if record["settings"] == settings_of(digest, method, options, table):
            found.append(record)
    return found


def method_of(name, options):
    device = backend.resolve_device(options.device)
    chosen = {key: getattr(options, key) for key in ("steps", "seed", "width", "patch", "batch")}
    more = {"precision": options.precision, "progress": sys.stderr.isatty()}
    return methods.get(name, device=device, **more, **chosen)


def settings_of(digest, method, options, table):
    """All that a score depends on, but for the code."""
    data = {"image": digest, "crop": options.crop, "degradation": table.source.DEGRADATION}
    return data | {"method": method.settings}


def circumstances():
    """The machine, and the commit, with a + where the files differ from it."""
    commit = timing.git("rev-parse", "--short", "HEAD")
    changed = "+" if timing.git("status", "--porcelain", *CODE) else ""
    machine = timing.machine(backend.num_threads())
    return {"machine": machine, "commit": commit and commit + changed}


def now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
