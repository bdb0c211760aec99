"""Results as Markdown and as a plot. Measures and compares nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
from matplotlib.axes import Axes
from rd.report import COLOURS, OWN_COLOURS, number, table

from tsae.evaluation.plots import band_name

Row = Mapping[str, Any]

SIGNIFICANT_P = 0.05


def to_json(result: Row) -> str:
    """All figures to six digits, a line for each row of a table: short enough for a repository."""

    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.6g}")
        if isinstance(value, dict):
            return {key: rounded(part) for key, part in value.items()}
        return [rounded(part) for part in value] if isinstance(value, list) else value

    def line(value: Any) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n" + ",\n".join(f"  {json.dumps(rounded(row))}" for row in value) + "\n ]"
        return json.dumps(rounded(value))

    return "{\n" + ",\n".join(f" {json.dumps(key)}: {line(value)}" for key, value in result.items()) + "\n}\n"


def name(row: Row) -> str:
    """A point for people."""
    return f"{row['coder']}, {row['setting']}" if row["setting"] else str(row["coder"])


def markdown(result: Row) -> str:
    """The whole report."""
    parts = [
        f"# Readability\n\n{_head(result)}",
        "## Targets",
        _targets(result["targets"]),
        "## Operating points",
        _legend(),
        _points(result["points"]),
        "## Against rivals at equal bytes",
        COMPARED_LEGEND,
        _comparisons(result["comparisons"]),
        "## With `--keep-readable`",
        KEPT_LEGEND,
        _kept(result["kept"]),
        "## Where reading suffers",
        *_bands(result),
    ]
    return "\n\n".join(parts) + "\n"


def _head(result: Row) -> str:
    packages = ", ".join(f"{package} {version}" for package, version in {**result["packages"], **result["libraries"]}.items())
    classifier = result["classifier"]
    return (
        f"{result['images']:,} images of `{result['data']}`, {result['date']}, commit {result['commit']}; {result['machine']}, "
        f"Python {result['python']}, {packages}. Classifier {classifier['name']}, SHA-256 {classifier['sha256'][:16]}…; "
        f"it reads {100 * result['accuracy_originals']:.3f} % of the originals rightly.\n\n```\n{result['command']}\n```"
    )


def _legend() -> str:
    return (
        "Bytes an image: ours are the whole archive but the model, rivals' the files alone. A setting in bytes is "
        "`--target-bytes`: what its quality leaves is spent on what the packaged classifier doubts, so to that one it "
        "loses next to nothing by construction; see the judge below. Points lost: accuracy on the "
        "originals (scaled to 32x32) less accuracy on what came back, with 95 % of 10,000 bootstrap resamples; p by McNemar's "
        "exact test. Lost: images that are read from the original and not from what came back; gained: the other way round. "
        "Their keys are in the JSON file."
    )


def _interval(pair: Sequence[float]) -> str:
    return f"{pair[0]:+.2f} to {pair[1]:+.2f}"


def small(value: float) -> str:
    """A probability; the smallest ones only as far as anybody cares."""
    return "< 1e-20" if value < 1e-20 else f"{value:.2g}"


def _points(rows: Sequence[Row]) -> str:
    head = ("coder", "bytes", "mean dB", "p1 dB", "SSIM", "accuracy", "points lost", "95 %", "p", "agreement", "lost", "gained")
    return table(
        head,
        [
            [
                name(row),
                number(row["bytes_per_image"]),
                number(row["psnr_db"]["mean"], 2),
                number(row["psnr_db"]["p1"], 2),
                number(row["ssim"]["mean"], 4),
                number(100 * row["accuracy"]["decoded"], 3),
                f"{row['accuracy']['drop_points']:+.3f}",
                _interval(row["accuracy"]["drop_interval_95_points"]),
                small(row["accuracy"]["mcnemar_p"]),
                number(100 * row["agreement"], 2),
                number(row["lost"], 0),
                number(row["gained"], 0),
            ]
            for row in rows
        ],
    )


COMPARED_LEGEND = (
    "Settings in bytes have asked the packaged classifier what to store better, and rivals have not: if it reads here as well, "
    "it favours ours. The judge is another classifier, which nobody has asked."
)


def _comparisons(rows: Sequence[Row]) -> str:
    def verdict(row: Row) -> str:
        if row["mcnemar_p"] >= SIGNIFICANT_P:
            return "no difference shown"
        return "better" if row["gain_points"] > 0 else "WORSE"

    def judged(row: Row) -> list[str]:
        found = row.get("by_judge")
        return [f"{found['gain_points']:+.2f}", small(found["mcnemar_p"]), verdict(found)] if found else []

    extra = ("judge: points gained", "p", "ours is") if judged(rows[0]) else ()
    head = ("ours", "bytes", "rival", "bytes", "points gained", "95 %", "only ours", "only theirs", "p", "ours is")
    return table(
        [*head, *extra],
        [
            [
                row["ours"],
                number(row["our_bytes"]),
                row["rival"] + (" (smallest)" if row["is_smallest"] else ""),
                number(row["their_bytes"]),
                f"{row['gain_points']:+.2f}",
                _interval(row["interval_95_points"]),
                number(row["only_ours"], 0),
                number(row["only_theirs"], 0),
                small(row["mcnemar_p"]),
                verdict(row),
                *judged(row),
            ]
            for row in rows
        ],
    )


KEPT_LEGEND = (
    "The same settings, with images stored better that the classifier would read otherwise. A setting in bytes counts that in, "
    "and so may take a lower quality. Judge: another classifier, which compression did not ask."
)


def _kept(rows: Sequence[Row]) -> str:
    has_judge = rows[0]["lost_to_judge"] is not None
    head = [
        "setting",
        "quality",
        "bytes without",
        "bytes with",
        "more",
        "read otherwise without",
        "with",
        "lost without",
        "with",
    ]
    judged = ["lost to the judge without", "with"] if has_judge else []
    return table(
        [*head, *judged],
        [
            [
                name(row),
                "–" if row["quality"] is None else str(row["quality"]),
                number(row["bytes_without"], 2),
                number(row["bytes_per_image"], 2),
                f"{100 * (row['bytes_per_image'] / row['bytes_without'] - 1):+.2f} %",
                number(row["changed_without"], 0),
                number(row["changed"], 0),
                number(row["lost_without"], 0),
                number(row["lost"], 0),
                *([number(row["lost_to_judge_without"], 0), number(row["lost_to_judge"], 0)] if has_judge else []),
            ]
            for row in rows
        ],
    )


def _targets(rows: Sequence[Row]) -> str:
    found = [[row["what"], row["asked"], row["found"], "yes" if row["is_met"] else "NO"] for row in rows]
    return table(("what", "asked", "found", "met"), found)


def _bands(result: Row) -> list[str]:
    """Accuracy by darkness, blur and size, of the originals and of some points."""
    points = [row for row in result["points"] if row["setting"] in ("", "128 bytes", "80 bytes")]
    kinds = {"darkness": "mean brightness", "blur": "variance of the Laplacian", "size": "shorter side, px"}
    found = []
    for kind, what in kinds.items():
        head = [what, "images", "originals", *(f"{name(row)} (dB)" for row in points)]
        rows = []
        for number_of_band, band in enumerate(points[0][kind]):
            cells = [row[kind][number_of_band] for row in points]
            shown = [f"{100 * cell['accuracy']['decoded']:.2f} ({cell['psnr_db']['mean']:.1f})" for cell in cells]
            rows.append([band_name(band), number(band["images"], 0), f"{100 * band['accuracy']['originals']:.2f}", *shown])
        found.append(table(head, rows))
    return found


def draw(path: Path, result: Row) -> None:
    """Writes the plot: accuracy against bytes."""
    figure = matplotlib.figure.Figure(figsize=(9, 5.5), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    rows = sorted(
        (row for row in result["points"] if "bytes" not in row["setting"]), key=lambda row: float(row["bytes_per_image"])
    )
    own = list(dict.fromkeys(row["coder"] for row in rows if row["coder"] not in COLOURS))
    colours = {**COLOURS, **dict(zip(reversed(own), OWN_COLOURS, strict=False))}
    for coder in dict.fromkeys(row["coder"] for row in rows):
        _draw_coder(axes, [row for row in rows if row["coder"] == coder], colours[coder], coder in own)
    axes.axhline(100 * result["accuracy_originals"], color="#444444", linewidth=1, linestyle="--")
    axes.annotate(
        "originals", (1, 100 * result["accuracy_originals"]), (-4, 4), ("axes fraction", "data"), "offset points", ha="right"
    )
    axes.set(xscale="log", xlabel="bytes an image (log scale)", ylabel="signs read rightly, %")
    axes.set_title(f"{result['images']:,} traffic signs of 32x32 pixels ({result['data']})")
    ticks = [40, 60, 80, 100, 128, 200, 256, 350, 512]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)


def _draw_coder(axes: Axes, rows: Sequence[Row], colour: str, is_own: bool) -> None:
    """A line with the 95 % interval of what is lost."""
    x, y = [row["bytes_per_image"] for row in rows], [100 * row["accuracy"]["decoded"] for row in rows]
    originals = [100 * row["accuracy"]["originals"] for row in rows]
    ends = [row["accuracy"]["drop_interval_95_points"] for row in rows]
    spans = [[max(0, end[1] - (o - v)) for end, o, v in zip(ends, originals, y, strict=True)],
             [max(0, (o - v) - end[0]) for end, o, v in zip(ends, originals, y, strict=True)]]  # fmt: skip
    axes.errorbar(
        x, y, spans, color=colour, marker="o", markersize=4, linewidth=2.4 if is_own else 1.4, capsize=2, label=rows[0]["coder"]
    )
