"""Plots of the report, as PNG files for a light and a dark page. Measures nothing."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SIZE_IN, DPI = (5.2, 3.0), 130
"""676 x 390 pixels: sharp at the width of a phone."""


@dataclasses.dataclass(frozen=True)
class Look:
    """Colours of a plot."""

    paper: str
    ink: str
    rule: str
    first: str
    second: str


LIGHT = Look("#ffffff", "#21242a", "#d9d9de", "#8a8f99", "#1f5fbf")
DARK = Look("#16181d", "#e8e9ec", "#3a3e47", "#9aa0ab", "#7fb2ff")


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot: its name, what it shows in words, and the PNG files for light and dark."""

    name: str
    text: str
    light: bytes
    dark: bytes


def report_plots(figures: dict[str, Any]) -> list[Plot]:
    """All plots of one archive."""
    found = [_histogram(figures, *wanted) for wanted in HISTOGRAMS if figures["distributions"][wanted[0]]["counts"]]
    return found + [_bands(figures, *wanted) for wanted in BANDS if len(figures[wanted[0]]) > 1]


def comparison_plots(reports: Sequence[dict[str, Any]]) -> list[Plot]:
    """Rate against PSNR, and against accuracy, or agreement where labels are missing."""
    has_labels = all("accuracy" in report for report in reports)
    read = _accuracy if has_labels else _agreement
    what = "accuracy on decoded images, %" if has_labels else "read as the original, %"
    return [
        _rates("rate-psnr", reports, lambda report: float(report["psnr_db"]["mean"]), "mean PSNR, dB"),
        _rates("rate-accuracy", reports, read, what),
    ]


def _accuracy(report: dict[str, Any]) -> float:
    return 100 * float(report["accuracy"]["decoded"])


def _agreement(report: dict[str, Any]) -> float:
    return 100 * float(report["agreement"])


HISTOGRAMS = (
    ("psnr_db", "PSNR of an image, dB", "Images by PSNR"),
    ("ssim", "SSIM of an image", "Images by SSIM"),
    ("bytes", "bytes of an image", "Images by the bytes that they take"),
)
BANDS = (
    ("darkness", "mean brightness of the original", "By darkness"),
    ("blur", "variance of the Laplacian (blurred to sharp)", "By blur"),
    ("size", "shorter side of the original, px", "By size"),
)


def _draw(name: str, text: str, paint: Callable[[Axes, Look], None]) -> Plot:
    return Plot(name, text, _png(paint, LIGHT), _png(paint, DARK))


def _png(paint: Callable[[Axes, Look], None], look: Look) -> bytes:
    figure = Figure(figsize=SIZE_IN, dpi=DPI, layout="constrained", facecolor=look.paper)
    axes = figure.add_subplot(facecolor=look.paper)
    paint(axes, look)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(look.rule)
    axes.tick_params(colors=look.ink, labelsize=10)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(look.ink)
        label.set_fontsize(11)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _histogram(figures: dict[str, Any], name: str, label: str, text: str) -> Plot:
    found = figures["distributions"][name]

    def paint(axes: Axes, look: Look) -> None:
        axes.stairs(found["counts"], found["edges"], fill=True, color=look.second)
        axes.set(xlabel=label, ylabel="images")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        if name != "bytes":
            p1 = figures[name]["p1"]
            axes.axvline(p1, color=look.ink, linewidth=1, linestyle="--")
            note = axes.annotate("1st percentile", (p1, 1), (4, -10), ("data", "axes fraction"), "offset points")
            note.set(color=look.ink, fontsize=9, in_layout=False)

    return _draw(name.removesuffix("_db"), text, paint)


def _bands(figures: dict[str, Any], name: str, label: str, text: str) -> Plot:
    """Accuracy of originals and decoded images by band; agreement where there are no labels."""
    rows = figures[name]
    names, places = [band_name(row) for row in rows], list(range(len(rows)))
    has_labels = all("accuracy" in row for row in rows)

    def paint(axes: Axes, look: Look) -> None:
        if has_labels:
            for what, colour, style in (("originals", look.first, "o--"), ("decoded", look.second, "o-")):
                axes.plot(places, [100 * row["accuracy"][what] for row in rows], style, color=colour, label=what)
            axes.legend(frameon=False, labelcolor=look.ink, fontsize=10)
        else:
            axes.plot(places, [100 * row["agreement"] for row in rows], "o-", color=look.second)
        axes.set_xticks(places, names)
        axes.set(xlabel=label, ylabel="read rightly, %" if has_labels else "read as the original, %")
        axes.grid(axis="y", color=look.rule, linewidth=0.6)
        axes.margins(y=0.15)

    return _draw(name, f"{text}: how many are read {'rightly' if has_labels else 'as the original'}", paint)


def band_name(row: dict[str, Any]) -> str:
    """A band for people."""
    low, high = (None if edge is None else f"{edge:.0f}" for edge in (row["from"], row["to"]))
    return f"{low}+" if high is None else f"{low}–{high}"


def _rates(name: str, reports: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float], label: str) -> Plot:
    rows = sorted(reports, key=lambda report: float(report["bytes_per_image"]))
    x, y = [row["bytes_per_image"] for row in rows], [value(row) for row in rows]

    def paint(axes: Axes, look: Look) -> None:
        axes.plot(x, y, "o", color=look.second, markersize=7)
        for number, row in enumerate(rows):
            above = 8 if number % 2 else -14
            note = axes.annotate(row["name"], (x[number], y[number]), (0, above), textcoords="offset points", ha="center")
            note.set(color=look.ink, fontsize=9, in_layout=False)
        axes.set(xlabel="bytes an image, all in", ylabel=label)
        axes.grid(color=look.rule, linewidth=0.6)
        axes.margins(0.2)

    return _draw(name, f"{label[0].upper()}{label[1:]}, against bytes an image", paint)
