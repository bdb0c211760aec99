"""Tables of the report's page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from tsae.evaluation.plots import band_name
from tsae.evaluation.verdict import percent

OPEN_ROWS = 20
"""A longer list starts folded."""

Report = Mapping[str, Any]


def number(value: float, digits: int = 0) -> str:
    """A number for people."""
    return f"{value:,.{digits}f}"


def share(value: float | None) -> str:
    """A share in percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table that scrolls by itself where it is wide; the first cells are text, and all cells are HTML."""

    def cells(row: Sequence[str], kind: str) -> str:
        marks = [' class="text"' if i < texts else "" for i in range(len(row))]
        scope = ' scope="col"' if kind == "th" else ""
        return "".join(f"<{kind}{scope}{mark}>{cell}</{kind}>" for cell, mark in zip(row, marks, strict=True))

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    table = f"<table><thead><tr>{cells(head, 'th')}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" role="region" tabindex="0" aria-label="{escaped(name)}">{table}</div>'


def escaped(text: object) -> str:
    """A text as HTML."""
    return html.escape(str(text))


def named(label: object, report: Report) -> str:
    """A label with what it stands for, where that is known."""
    name = report["classifier"]["names"].get(label)
    return escaped(label) if name is None else f"{escaped(label)} ({escaped(name)})"


def _part(row: Report, has_labels: bool) -> list[str]:
    """What all tables of parts of the images tell."""
    accuracy = row.get("accuracy", {})
    read = [share(accuracy.get("originals")), share(accuracy.get("decoded"))] if has_labels else []
    psnr = [number(row["psnr_db"]["mean"], 1), number(row["psnr_db"]["p1"], 1)]
    return [number(row["images"]), *read, share(row["agreement"]), number(row["lost"]), *psnr, number(row["bytes"], 1)]


def _part_head(has_labels: bool) -> list[str]:
    read = ["originals read", "decoded read"] if has_labels else []
    return ["images", *read, "read the same", "lost", "mean dB", "p1 dB", "bytes"]


def bands(report: Report) -> str:
    """By darkness, blur and size."""
    has_labels = "accuracy" in report
    kinds = {"darkness": "mean brightness", "blur": "variance of the Laplacian", "size": "shorter side, px"}
    return "".join(
        _table(kind, [what, *_part_head(has_labels)], [[band_name(row), *_part(row, has_labels)] for row in report[kind]])
        for kind, what in kinds.items()
    )


def labels(report: Report) -> str:
    """By label; many of them start folded."""
    has_labels = "accuracy" in report
    rows = [[named(row["label"], report), *_part(row, has_labels)] for row in report["labels"]]
    return _folded(f"{len(rows)} labels", _table("by label", ["label", *_part_head(has_labels)], rows), len(rows))


def _folded(text: str, table: str, rows: int) -> str:
    return table if rows <= OPEN_ROWS else f"<details><summary>{text}</summary>{table}</details>"


def quality(report: Report) -> str:
    """Spread of PSNR and SSIM."""
    names = ("mean", "median", "p5", "p1", "min")
    rows = [
        ["PSNR, dB", *(number(report["psnr_db"][name], 2) for name in names)],
        ["SSIM", *(number(report["ssim"][name], 4) for name in names)],
    ]
    return _table("quality", ["", "mean", "median", "5th percentile", "1st percentile", "worst"], rows)


def columns(report: Report) -> str:
    """Bytes an image by column, with bars."""
    most = max(report["bytes"]["by_column"].values())
    rows = [
        [escaped(name), number(value, 2), share(value / report["bytes_per_image"]), _bar(value / most)]
        for name, value in report["bytes"]["by_column"].items()
    ]
    rows.append(["<b>all</b>", f"<b>{number(report['bytes_per_image'], 2)}</b>", "", ""])
    return _table("bytes by column", ["column or file", "bytes an image", "share", ""], rows)


def _bar(fraction: float) -> str:
    return f'<span class="bar" style="width: {max(1, round(120 * fraction))}px"></span>'


def lost(report: Report) -> str:
    """All images that were lost, by key."""
    rows = [
        [
            escaped(row["key"]),
            "–" if row["label"] is None else named(row["label"], report),
            named(row["read_original"], report),
            named(row["read_decoded"], report),
            share(row["sure_original"]),
            share(row["sure_decoded"]),
            number(row["psnr_db"], 1),
            number(row["bytes"]),
        ]
        for row in report["lost"]
    ]
    head = ["key", "label", "read from the original", "from the decoded", "sure", "then", "dB", "bytes"]
    return _folded(f"All {len(rows):,} lost images by key", _table("lost images", head, rows, texts=4), len(rows))


def confusions(report: Report) -> str:
    """What was read in place of what, the most frequent first."""
    rows = [[named(row["from"], report), named(row["to"], report), number(row["images"])] for row in report["confusions"]]
    table = _table("confusions", ["should be", "read as", "images"], rows, texts=2)
    return _folded(f"{len(rows):,} kinds of confusions", table, len(rows))


def comparison(reports: Sequence[Report]) -> str:
    """Archives side by side, a column each."""
    rows: list[list[str]] = [
        ["verdict", *map(_verdict, reports)],
        ["model", *(escaped(_model(r)) for r in reports)],
        ["images", *(number(r["images"]) for r in reports)],
        ["bytes an image", *(number(r["bytes_per_image"], 1) for r in reports)],
        ["of the raw pixels", *(f"1/{r['ratio_to_raw']:.1f}" for r in reports)],
        ["mean PSNR, dB", *(number(r["psnr_db"]["mean"], 2) for r in reports)],
        ["1st percentile, dB", *(number(r["psnr_db"]["p1"], 2) for r in reports)],
        ["mean SSIM", *(number(r["ssim"]["mean"], 4) for r in reports)],
    ]
    if all("accuracy" in report for report in reports):
        rows += [
            ["accuracy on originals", *(percent(r["accuracy"]["originals"]) for r in reports)],
            ["accuracy on decoded", *(percent(r["accuracy"]["decoded"]) for r in reports)],
            ["points lost", *(f"{r['accuracy']['drop_points']:.2f}".replace("-", "−") for r in reports)],
            ["95 % of that", *(_interval(r["accuracy"]["drop_interval_95_points"]) for r in reports)],
        ]
    rows += [
        ["read the same", *(percent(r["agreement"]) for r in reports)],
        ["signs lost", *(number(len(r["lost"])) for r in reports)],
        ["not measured", *(number(sum(r["problems"]["counts"].values())) for r in reports)],
    ]
    return _table("comparison", ["", *(escaped(report["name"]) for report in reports)], rows)


def _verdict(report: Report) -> str:
    verdict = report["verdict"]
    note = "" if verdict["by_reading"] else "<br>not by reading"
    return f'<span class="level {verdict["level"]}">{verdict["level"]}</span>{note}'


def _model(report: Report) -> str:
    return report["model"] if report["quality"] is None else f"{report['model']}, quality {report['quality']}"


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}".replace("-", "−")
