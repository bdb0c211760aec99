"""The report as one self-contained page: no script, no network, light and dark. Owns its HTML; `report.css` its look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from tsae import log
from tsae.evaluation import tables
from tsae.evaluation.pictures import Pair, png_uri
from tsae.evaluation.plots import Plot
from tsae.evaluation.tables import escaped, named, number, share
from tsae.evaluation.verdict import LEVELS, UNSURE, percent

MARKS = {"good": ("✓", "good"), "fair": ("!", "fair"), "poor": ("✗", "poor"), "note": ("i", "note")}
"""Sign and word of each level: colour alone would not do for all eyes."""

SHOWN_LOST, SHOWN_OF_ONE = 60, 6
"""Pictures of lost signs, and of those of one kind of confusion."""

Report = Mapping[str, Any]
Pictures = Mapping[str, Pair]


def pictured_keys(report: Report) -> list[str]:
    """The images whose pictures a card shows."""
    return [*_shown_lost(report), *(row["key"] for row in report["worst"])]


def _shown_lost(report: Report) -> list[str]:
    """Some of each kind of confusion, the most frequent ones first."""
    return [key for row in report["confusions"] for key in row["keys"][:SHOWN_OF_ONE]][:SHOWN_LOST]


def page(
    reports: Sequence[Report], pictures: Sequence[Pictures], plots: Sequence[Sequence[Plot]], across: Sequence[Plot]
) -> str:
    """The whole document.

    Args:
        reports: Of each archive.
        pictures: Of each, those of `pictured_keys`.
        plots: Of each.
        across: Plots that compare them; none for one archive.
    """
    cards = [_card(*parts) for parts in zip(reports, pictures, plots, strict=True)]
    if len(reports) == 1:
        title, body = reports[0]["name"], f"<h1>{escaped(reports[0]['name'])}</h1>{cards[0]}"
    else:
        title = f"{len(reports)} archives"
        closed = [
            f'<details class="card"><summary>{escaped(report["name"])}</summary>{card}</details>'
            for report, card in zip(reports, cards, strict=True)
        ]
        body = f"<h1>{title} compared</h1>{_comparison(reports, across)}{''.join(closed)}"
    style = resources.files("tsae.evaluation").joinpath("report.css").read_text("utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escaped(title)}: evaluation</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n{_footer(reports[0])}\n</body>\n</html>\n"
    )


def _comparison(reports: Sequence[Report], across: Sequence[Plot]) -> str:
    notes = ""
    if len({report["images"] for report in reports}) > 1:
        notes = "<p>The archives were not measured on the same number of images: compare them with care.</p>"
    return f"{_best(reports)}{notes}{tables.comparison(reports)}{_plots(across)}<h2>Each archive</h2>"


def _best(reports: Sequence[Report]) -> str:
    """The verdict on several: the smallest archive of the best level."""
    level = min((report["verdict"]["level"] for report in reports), key=LEVELS.index)
    best = min((r for r in reports if r["verdict"]["level"] == level), key=lambda r: float(r["bytes_per_image"]))
    unread = "" if best["verdict"]["by_reading"] else " (not judged by reading)"
    what = f"The smallest {level} one{unread} is {best['name']}: {number(best['bytes_per_image'], 1)} bytes an image"
    line = f"<strong>{MARKS[level][0]} {escaped(what)}.</strong>{escaped(best['verdict']['line'])}"
    return f'<div class="verdict {level}">{line}</div>'


def _card(report: Report, pictures: Pictures, plots: Sequence[Plot]) -> str:
    by_name = {plot.name: plot for plot in plots}
    quality = [by_name[name] for name in ("psnr", "ssim", "bytes") if name in by_name]
    bands = [by_name[name] for name in ("darkness", "blur", "size") if name in by_name]
    return "\n".join(
        [
            _verdict(report),
            _tiles(report),
            _lost(report, pictures),
            f"<h2>Where reading suffers</h2>{_plots(bands)}{tables.bands(report)}",
            f"<h2>Quality</h2>{tables.quality(report)}{_plots(quality)}",
            _worst(report, pictures),
            f"<h2>Where the bytes went</h2>{tables.columns(report)}",
            f"<h2>By label</h2>{tables.labels(report)}",
            _problems(report),
        ]
    )


def _verdict(report: Report) -> str:
    verdict = report["verdict"]
    marked = [(*MARKS[reason["level"]], escaped(reason["text"])) for reason in verdict["reasons"]]
    reasons = "".join(f'<li><span class="mark" title="{word}">{sign}</span>{text}.</li>' for sign, word, text in marked)
    mark = MARKS[verdict["level"]][0]
    return f'<div class="verdict {verdict["level"]}"><strong>{mark} {escaped(verdict["line"])}</strong><ul>{reasons}</ul></div>'


def _tiles(report: Report) -> str:
    tiles = [
        (number(report["bytes_per_image"], 1), f"bytes an image, all in: 1/{report['ratio_to_raw']:.1f} of the raw pixels"),
        (f"{number(report['psnr_db']['mean'], 1)} dB", f"mean PSNR; 1st percentile {number(report['psnr_db']['p1'], 1)} dB"),
    ]
    if "accuracy" in report:
        accuracy = report["accuracy"]
        before, after = percent(accuracy["originals"]), percent(accuracy["decoded"])
        tiles.append((after, f"of {accuracy['images']:,} signs read rightly; {before} of the originals"))
    tiles.append((percent(report["agreement"]), "read the same as the original"))
    if report["verdict"]["by_reading"]:
        what = f"signs lost by compression; {len(report['gained']):,} read only afterwards"
    else:
        what = f"read otherwise afterwards; {UNSURE}"
    tiles.append((f"{len(report['lost']):,}", what))
    parts = "".join(f'<div class="tile"><b>{escaped(value)}</b><span>{escaped(text)}</span></div>' for value, text in tiles)
    return f'<div class="tiles">{parts}</div>'


def _lost(report: Report, pictures: Pictures) -> str:
    lost = {image["key"]: image for image in report["lost"]}
    if not lost:
        return "<h2>Lost signs</h2><p>None: every sign that the classifier reads from the original it reads afterwards too.</p>"
    keys = [key for key in _shown_lost(report) if key in pictures]
    captions = [
        f"<b>{named(lost[key]['read_original'], report)} → {named(lost[key]['read_decoded'], report)}</b><br>{escaped(key)}<br>"
        f"{share(lost[key]['sure_original'])} → {share(lost[key]['sure_decoded'])} sure<br>{number(lost[key]['psnr_db'], 1)} dB"
        for key in keys
    ]
    text = f"{log.counted(len(lost), 'image')} the classifier reads from the original and not from what came back. "
    text += "Originals above, what came back below, and what was read from each."
    if not report["verdict"]["by_reading"]:
        text += f" They say little: {UNSURE}."
    if len(keys) < len(lost):
        text += f" {len(keys)} of them are shown, some of each kind."
    tables_below = tables.confusions(report) + tables.lost(report)
    return f"<h2>Lost signs</h2><p>{text}</p>{_gallery(keys, captions, pictures)}{tables_below}"


def _worst(report: Report, pictures: Pictures) -> str:
    rows = [row for row in report["worst"] if row["key"] in pictures]
    captions = [
        f"{escaped(row['key'])}<br>{number(row['psnr_db'], 1)} dB, {row['bytes']:,} bytes<br>"
        f"read {named(row['read_original'], report)} → {named(row['read_decoded'], report)}"
        for row in rows
    ]
    pairs = _gallery([row["key"] for row in rows], captions, pictures)
    return f"<h2>The worst {len(rows)} by PSNR</h2><p>Originals above, what came back below.</p>{pairs}"


def _gallery(keys: Sequence[str], captions: Sequence[str], pictures: Pictures) -> str:
    items = [
        f'<li><img src="{pictures[key].original}" alt="original of {escaped(key)}" width="32" height="32">'
        f'<img src="{pictures[key].decoded}" alt="decoded {escaped(key)}" width="32" height="32">{caption}</li>'
        for key, caption in zip(keys, captions, strict=True)
    ]
    return f'<ul class="pictures">{"".join(items)}</ul>'


def _plots(plots: Sequence[Plot]) -> str:
    figures = [
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{png_uri(plot.dark)}">'
        f'<img src="{png_uri(plot.light)}" alt="{escaped(plot.text)}" width="676" height="390"></picture>'
        f"<figcaption>{escaped(plot.text)}</figcaption></figure>"
        for plot in plots
    ]
    return f'<div class="plots">{"".join(figures)}</div>' if figures else ""


def _problems(report: Report) -> str:
    problems, others = report["problems"], report["originals_without_record"]
    parts = []
    if problems["counts"]:
        listed = "".join(f"<li>{escaped(problem['message'])}</li>" for problem in problems["first"])
        counts = ", ".join(f"{images:,} {kind}" for kind, images in problems["counts"].items())
        parts.append(f"<p>{escaped(counts)}.</p><details><summary>Which</summary><ul>{listed}</ul></details>")
    if others["images"]:
        some = ", ".join(map(escaped, others["first"]))
        parts.append(f"<p>{log.counted(others['images'], 'original')} without a record in the archive, among them {some}.</p>")
    if report["archive_failures"]:
        parts.append(f"<p>{report['archive_failures']:,} inputs failed when the archive was made: see its failures table.</p>")
    return f"<h2>Not measured</h2>{''.join(parts)}" if parts else ""


METHOD = """PSNR is measured on red, green and blue of 32x32 pixels, against the original scaled as the archive's images are;
SSIM with a Gaussian window of 11x11 pixels and sigma 1.5, as the mean over the three colours. A sign is lost where the
classifier reads the original as its label says (without a label: as anything) and what came back as something else. Bytes are
those of all files of the archive but its model, which it has once, and its provenance, which only a rerun needs."""


def _footer(report: Report) -> str:
    classifier = report["classifier"]
    name, digest = escaped(classifier["name"]), classifier["sha256"][:16]
    return f"<footer><p>{METHOD}</p><p>Classifier {name} (SHA-256 {digest}…), tsae {escaped(report['tsae'])}.</p></footer>"
