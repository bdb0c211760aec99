"""Results as Markdown tables and as a plot. Measures and compares nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from rd.curves import curves_of
from rd.points import Point

POINT_COLUMNS = (
    "coder", "setting", "bytes", "coded", "mean PSNR", "PSNR of MSE", "p1 PSNR", "SSIM", "encode us", "decode us",
)  # fmt: skip

SHOWN_BYTES, SHOWN_DB = (33, 3100), (24.5, 43.0)
"""Range of the plot."""

COLOURS = {
    "JPEG": "#8c8c8c",
    "WebP": "#1f77b4",
    "AVIF": "#2ca02c",
    "JPEG XL": "#9467bd",
    "PCA, ideal entropy": "#b59a57",
    "bmshj2018-hyperprior": "#e08a1e",
}
OWN_COLOURS = ("#d62728", "#222222", "#17becf", "#7f2020")
LEFT = ("AVIF", "PCA, ideal entropy", "bmshj2018-hyperprior")
"""Curves whose name is left of their upper end; others' is right of it, and ours below their lower end."""

HIDDEN = ("AVIF speed 6",)
"""Curves that are there for their times: on the plot they would lie on another one."""


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """A number for people; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}{unit}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned so that it can be read as it is."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def point_row(point: Point) -> list[str]:
    """A row of the table of all points; an exact point has no PSNR."""
    psnrs = [point.psnr_mean_db, point.psnr_of_mse_db, point.psnr_p1_db]
    return [
        point.curve,
        point.setting,
        number(point.bytes_per_image),
        number(point.stream_bytes),
        *("exact" if point.is_exact else number(psnr, 2) for psnr in psnrs),
        number(point.ssim, 4),
        number(point.encode_us, 0),
        number(point.decode_us, 0),
    ]


def markdown(facts: Mapping[str, Any], points: Sequence[Point], summaries: Mapping[str, Any]) -> str:
    """The whole report."""
    parts = [f"# Rate and distortion\n\n{_head(facts)}", "## Operating points", _legend(facts, points)]
    parts += [table(POINT_COLUMNS, list(map(point_row, points)))]
    for name, summary in summaries.items():
        parts += [f"## {name} against the best rival", *_summary_tables(summary)]
    return "\n\n".join(parts) + "\n"


def _head(facts: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in {**facts["packages"], **facts["libraries"]}.items())
    return (
        f"{facts['images']:,} images of `{facts['data']}` at 32x32, {facts['date']}, commit {facts['commit']}; "
        f"{facts['machine']}, Python {facts['python']}, {packages}.\n\n```\n{facts['command']}\n```"
    )


def _legend(facts: Mapping[str, Any], points: Sequence[Point]) -> str:
    models = {point.curve: point.model_bytes for point in points if point.model_bytes}
    sizes = ", ".join(f"{name} {size:,} bytes" for name, size in models.items())
    return (
        "Bytes an image: for our models the whole archive but the model, `coded` of them coded images; for others the files "
        f"alone, or for learned ones the strings alone. PSNR in dB, on RGB. Times are us an image, one thread, medians of "
        f"{facts['rounds']} rounds on {facts['timing_images']} images, all coders by turns; ours are the codec "
        f"alone, in batches. AVIF is speed 2 unless it says otherwise; it and JPEG are 4:4:4. "
        f"Models, once for all images: {sizes}."
    )


def _summary_tables(summary: Mapping[str, Any]) -> list[str]:
    if len(summary["at_own_points"]) == 1:
        return [_own_points_table(summary["at_own_points"])]
    return [
        _equal_psnr_table(summary["at_equal_psnr"]),
        _own_points_table(summary["at_own_points"]),
        _quoted_table(summary),
        _bjontegaard_table(summary["bjontegaard_percent"]),
        _time_table(summary["time_ratios"]),
    ]


def _equal_psnr_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("mean PSNR", "our bytes", "best rival", "its bytes", "ratio")
    return table(
        head,
        [
            [number(r["psnr_db"], 0), number(r["ours"]), r["best_rival"] or "–", number(r["theirs"]), number(r["ratio"], 3)]
            for r in rows
        ],
    )


def _own_points_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("setting", "our bytes", "mean PSNR", "best rival at equal PSNR", "its bytes", "ratio", "our p1")
    return table(
        (*head, "rival of best p1 at equal bytes", "its p1"),
        [
            [
                r["setting"] or "–",
                number(r["ours"]),
                number(r["psnr_db"], 2),
                r["best_rival"] or "–",
                number(r["theirs"]),
                number(r["ratio"], 3),
                number(r["p1_db"], 2),
                r["best_p1_rival"] or "–",
                number(r["their_p1_db"], 2),
            ]
            for r in rows
        ],
    )


def _quoted_table(summary: Mapping[str, Any]) -> str:
    sizes, psnrs = summary["bytes_at_31_db"], summary["psnr_db_at_512_bytes"]
    return table(
        ("coder", "bytes at 31 dB", "mean PSNR at 512 bytes"), [[n, number(sizes[n]), number(psnrs[n], 2)] for n in sizes]
    )


def _bjontegaard_table(found: Mapping[str, Any]) -> str:
    rows = []
    for anchor, methods in found.items():
        used = methods["pchip"]
        span = f"{used['low_db']:.1f} to {used['high_db']:.1f} dB" if used else "–"
        rows += [[anchor, *(number(m and m["percent"], 1, " %") for m in methods.values()), span]]
    return table(("Bjontegaard rate difference against", "pchip", "akima", "over"), rows)


def _time_table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in rows[0] if name != "psnr_db"]
    return table(
        ("our time at", *names), [[number(r["psnr_db"], 0, " dB"), *(number(r[name], 2) for name in names)] for r in rows]
    )


def draw(path: Path, points: Sequence[Point], own: Sequence[str], title: str) -> None:
    """Writes the plot, PNG."""
    figure = matplotlib.figure.Figure(figsize=(9, 6), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    curves = curves_of(points)
    own_colours = dict(zip(sorted(own, key=lambda name: -len(curves[name].points)), OWN_COLOURS * len(own), strict=False))
    for name, curve in curves.items():
        if name not in HIDDEN:
            _draw_curve(axes, name, list(curve.points), own_colours.get(name))
    for point in points:
        if point.is_exact:
            _draw_exact(axes, point)
    _dress(axes, title)
    figure.savefig(path)


def _draw_curve(axes: Axes, name: str, points: Sequence[Point], own_colour: str | None) -> None:
    """A line with its name at the upper end, ours bold; a single point is a diamond."""
    x, y = [point.bytes_per_image for point in points], [point.psnr_mean_db for point in points]
    colour = own_colour or COLOURS.get(name, "#444444")
    marker, size = ("o", 3.5) if len(points) > 1 else ("D", 7)
    line = "--" if name not in COLOURS or "ideal" in name else "-"
    style = "-" if own_colour else line
    axes.plot(
        x,
        y,
        style,
        color=colour,
        marker=marker,
        markersize=size,
        linewidth=2.6 if own_colour else 1.5,
        zorder=3 if own_colour else 2,
    )
    shown = [i for i in range(len(x)) if x[i] <= SHOWN_BYTES[1] and y[i] <= SHOWN_DB[1]]
    if shown and own_colour and len(points) > 1:
        _label(axes, name, (x[shown[0]], y[shown[0]]), (0, -14), "center", colour, "bold")
    elif shown:
        side = (-8, "right") if name in LEFT else (8, "left")
        _label(axes, name, (x[shown[-1]], y[shown[-1]]), (side[0], 0), side[1], colour, "bold" if own_colour else "normal")


def _label(
    axes: Axes, text: str, place: tuple[float, float], offset: tuple[int, int], align: str, colour: str, weight: str
) -> None:
    """A name beside a point, with a white rim so that lines may pass behind it."""
    axes.annotate(
        text,
        place,
        offset,
        textcoords="offset points",
        color=colour,
        fontweight=weight,
        horizontalalignment=align,
        verticalalignment="center",
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _draw_exact(axes: Axes, point: Point) -> None:
    """A lossless coder: a mark on the upper edge, where its PSNR would be far above."""
    axes.plot(point.bytes_per_image, SHOWN_DB[1], "v", color="#444444", markersize=6, clip_on=False)
    if point.bytes_per_image < SHOWN_BYTES[1]:
        axes.annotate(
            f"{point.curve}, {point.bytes_per_image:,.0f}",
            (point.bytes_per_image, SHOWN_DB[1]),
            (0, -8),
            textcoords="offset points",
            color="#444444",
            fontsize=8.5,
            rotation=90,
            horizontalalignment="center",
            verticalalignment="top",
        )


def _dress(axes: Axes, title: str) -> None:
    ticks = [40, 50, 70, 100, 150, 200, 300, 400, 512, 700, 1000, 1500, 2000, 3000]
    axes.set(xscale="log", xlim=SHOWN_BYTES, ylim=SHOWN_DB, title=title)
    axes.set(xlabel="bytes an image (log scale)", ylabel="mean PSNR, dB")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
