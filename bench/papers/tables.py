"""Records as a CSV file, one row for each image and method, and as a Markdown table of means."""

import csv
import io

from ssi_cupy.files.atomic import replacing

from . import methods

DIGITS = {"psnr": 2, "ssim_range2": 3, "ssim_range1": 3, "mi": 3, "smi": 3, "rmse": 4}
DIGITS |= {"train": 1, "infer": 2}
TITLES = ("PSNR (dB)", "SSIM, range 2", "SSIM, range 1", "MI", "SMI", "RMSE")
TITLES += ("training (s)", "inference (s)")
IN_CSV = ("steps", "device", "date", "commit", "fingerprint")


def write(folder, table, records, failures):
    """``<table.name>.csv`` and ``.md`` in `folder`; return the latter's text."""
    records = sorted(records, key=lambda r: (r["image"], methods.order(r["method"])))
    text = markdown(table, records, failures)
    for ending, content in ((".csv", table_csv(records)), (".md", text)):
        with replacing(folder / (table.name + ending)) as part:
            part.write_text(content, encoding="utf-8")
    return text


def table_csv(records):
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "method", *DIGITS, "height", "width", *IN_CSV])
    for record in records:
        row = [record["image"], record["method"]]
        for column, digits in DIGITS.items():
            value = _value(record, column)
            row.append("" if value is None else f"{value:.{digits + 2}f}")
        row += [*record["shape"], *(record[name] for name in IN_CSV)]
        writer.writerow("" if cell is None else cell for cell in row)
    return out.getvalue()


def markdown(table, records, failures):
    """The means with the published figures beside them, and what they must be read with."""
    by_method = {}
    for record in sorted(records, key=lambda r: methods.order(r["method"])):
        by_method.setdefault(record["method"], {})[record["image"]] = record
    crops = {record["settings"]["crop"] for record in records} - {None}
    parts = [f"# {table.title}", "Ours, and in brackets what was published."]
    parts += _warnings(by_method, crops, table.published.images)
    parts.append(_table(by_method, table.published.figures))

    common = set.intersection(*map(set, by_method.values())) if by_method else set()
    if any(len(rows) > len(common) for rows in by_method.values()):
        parts.append("Rows of different images cannot be compared with each other.")
        if common:
            parts[-1] += f" The means over the {len(common)} that all methods were run on:"
            alike = {m: {i: rows[i] for i in common} for m, rows in by_method.items()}
            parts.append(_table(alike, {}))
    crop = "".join(f"its middle {n} × {n} pixels taken, " for n in crops)
    parts += [table.how.format(crop=crop), table.published.sources]
    parts.append("\n".join([*_circumstances(records), *(f"- Not run: {f}" for f in failures)]))
    return "\n\n".join(parts) + "\n"


def _warnings(by_method, crops, everything):
    numbers = {len(rows) for rows in by_method.values()}
    meant = f"The published means are over all {everything}: fewer need not come near them."
    if len(numbers) > 1 and min(numbers) < everything:
        yield f"**Not every method was run on all {everything} images.** {meant}"
    elif numbers and min(numbers) < everything:
        yield f"**Only {min(numbers)} of {everything} images were run.** {meant}"
    if crops:
        yield "**Crops, not whole images.** The published means are over whole images."


def _table(by_method, figures):
    lines = [("method", "images", *TITLES, "steps"), ("---",) + ("---:",) * (len(TITLES) + 2)]
    for name, rows in by_method.items():
        rows = rows.values()
        cells = [methods.label(name), str(len(rows))]
        for column, digits in DIGITS.items():
            values = [_value(record, column) for record in rows]
            ours = "–" if None in values else f"{sum(values) / len(values):.{digits}f}"
            theirs = figures.get(name, {}).get(column)
            cells.append(f"{ours} ({theirs})" if theirs else ours)
        steps = sorted({record["steps"] for record in rows if record["steps"]})
        lines.append((*cells, "–".join(str(n) for n in dict.fromkeys(steps[:1] + steps[-1:]))))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _circumstances(records):
    def distinct(key):
        return sorted({key(record) for record in records})

    for machine in distinct(_machine):
        yield f"- Machine: {machine}"
    trained = [f"{methods.label(r['method'])} on {r['device']}" for r in records if r["steps"]]
    for line in sorted(set(trained)):
        yield f"- Device: {line}"
    dates = distinct(lambda r: r["date"][:10])
    yield f"- Date: {' to '.join(dict.fromkeys(dates[:1] + dates[-1:]))}"
    yield f"- Commit: {', '.join(distinct(lambda r: r['commit'] or 'unknown'))}"
    for remark in distinct(lambda r: (r["image"], r["remark"])):
        if remark[1]:
            yield f"- {remark[0]}: {remark[1]}"


def _machine(record):
    m = record["machine"]
    versions = [f"{name} {m['packages'][name]}" for name in ("numpy", "scipy", "numba")]
    versions = ", ".join([f"Python {m['python']}", *versions])
    return f"{m['cpu']}, {m['cores']} cores, threads: {m['threads']}; {versions}"


def _value(record, column):
    return record["seconds"][column] if column in ("train", "infer") else record["scores"][column]
