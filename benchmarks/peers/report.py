"""Runs to figures, and figures to a table and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure
from rd.report import number, table

from peers.contest import BARE, CONTESTANTS, FLOOR, OURS, PEER, Contestant, Run

Row = dict[str, Any]

COLOURS = {OURS: "#d62728", PEER: "#1f77b4", BARE: "#8c8c8c", FLOOR: "#222222"}
COLUMNS = (
    "contestant", "wall s", "start-up s", "images/s", "steady", "of best peer", "steady", "of floor", "peak MB", "remark",
)  # fmt: skip


def summarize(runs: Sequence[Run], workers: int) -> list[Row]:
    """A row of medians for each contestant of one direction, with its ratios to others."""
    counted = [run for run in runs if run.round > 0]
    rows = []
    for contestant in CONTESTANTS:
        own = [run for run in counted if run.name == contestant.name]
        if own:
            rows += _floor_row(contestant.name, own, workers) if contestant.group == FLOOR else _rows(contestant, own)
    return [{**row, **_ratios(row, rows)} for row in rows]


def _rows(contestant: Contestant, runs: Sequence[Run]) -> list[Row]:
    """A contestant's row, and for one that timed its work itself a row of that."""
    images, few = max(run.images for run in runs), min(run.images for run in runs)
    failed = next((run.error for run in runs if run.error), "")
    large = [run for run in runs if run.images == images]
    lost = max(run.images - run.returned for run in runs)
    row: Row = {"name": contestant.name, "group": contestant.group, "images": images, "lost": lost, "error": failed}
    if failed:
        return [row]
    row["peak_mb"] = max(run.peak_mb for run in large)
    wall_s, startup_s = (statistics.median(run.wall_s for run in runs if run.images == n) for n in (images, few))
    rows = [{**row, **speeds(images, wall_s, startup_s)}]
    if all("work_s" in run.figures for run in large):
        work_s = statistics.median(run.figures["work_s"] for run in large)
        rows.append({**row, "name": f"{contestant.name}, work alone", **speeds(images, work_s, 0.0)})
    return rows


def _floor_row(name: str, runs: Sequence[Run], workers: int) -> list[Row]:
    """The sum of the steps as images a second on all cores."""
    images = max(run.images for run in runs)
    found = [run.figures for run in runs if run.images == images and not run.error]
    if not found:
        return []
    steps_us = {step: round(statistics.median(figures[step] for figures in found), 2) for step in found[0]}
    wall_s = images * sum(steps_us.values()) / 1e6 / workers
    row = {"name": name, "group": FLOOR, "images": images, "lost": 0, "error": "", "steps_us": steps_us}
    return [{**row, **speeds(images, wall_s, 0.0)}]


def speeds(images: int, wall_s: float, startup_s: float) -> Row:
    """Images a second, with start-up and without; the latter is None where start-up is all there is."""
    steady = images / (wall_s - startup_s) if wall_s > startup_s else None
    return {
        "wall_s": round(wall_s, 3),
        "startup_s": round(startup_s, 3),
        "images_per_s": round(images / wall_s, 1),
        "steady_images_per_s": steady and round(steady, 1),
    }


def _ratios(row: Row, rows: Sequence[Row]) -> Row:
    """A row's speeds by the best peer's, each by the best at that, and its steady speed by the first floor's."""
    floor = next((other["images_per_s"] for other in rows if other["group"] == FLOOR), None)
    return {
        "to_best_peer": _ratio(row.get("images_per_s"), _best(rows, "images_per_s")),
        "steady_to_best_peer": _ratio(row.get("steady_images_per_s"), _best(rows, "steady_images_per_s")),
        "steady_to_floor": _ratio(row.get("steady_images_per_s"), floor),
    }


def _best(rows: Sequence[Row], key: str) -> float | None:
    """The best of the peers that lost nothing."""
    return max((row[key] for row in rows if row["group"] == PEER and not row["lost"] and row.get(key)), default=None)


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else round(a / b, 3)


def markdown(facts: Mapping[str, Any], results: Mapping[str, Sequence[Row]]) -> str:
    """The whole report."""
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    run = f"{facts['date']}, commit {facts['commit']}; {facts['machine']}, Python {facts['python']}, {packages}."
    parts = ["# Throughput", run, f"```\n{facts['command']}\n```", _legend(facts)]
    for direction, rows in results.items():
        parts += [f"## {direction}, {facts['images']:,} images", speed_table(rows), *map(_steps, rows)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _legend(facts: Mapping[str, Any]) -> str:
    return (
        f"Medians of {facts['rounds']} rounds after one to warm up, everyone by turns, {facts['workers']} worker processes "
        "each. Start-up is the whole time for 2 images; steady images/s leave it out. `of best peer` is against the fastest "
        "peer that lost no image, with start-up and steady; `of floor` is steady, by the one with "
        "the usual tools (Pillow, torch), which ours can exceed. Peak MB is that of all processes. "
        f"Left out for lack of a package: {facts['left_out'] or 'none'}."
    )


def _steps(row: Row) -> str:
    steps = ", ".join(f"{step} {value:g}" for step, value in row.get("steps_us", {}).items())
    return f"The {row['name']}, us an image on one core: {steps}." if steps else ""


def speed_table(rows: Sequence[Row]) -> str:
    """A direction's rows as a Markdown table."""
    return table(COLUMNS, list(map(_cells, rows)))


def _cells(row: Row) -> list[str]:
    keys = {"wall_s": 2, "startup_s": 2, "images_per_s": 0, "steady_images_per_s": 0}
    ratios = ("to_best_peer", "steady_to_best_peer", "steady_to_floor")
    remark = f"failed: {row['error']}" if row["error"] else f"lost {row['lost']} images" if row["lost"] else ""
    return [
        row["name"],
        *(number(row.get(key), digits) for key, digits in keys.items()),
        *(number(row[key], 2) for key in ratios),
        number(row.get("peak_mb"), 0),
        remark,
    ]


def plot(results: Mapping[str, Sequence[Row]], file: Path) -> None:
    """Bars of images a second, pale where start-up is left out."""
    heights = [max(1, len(rows)) for rows in results.values()]
    figure = matplotlib.figure.Figure((8, 0.9 + 0.4 * sum(heights) + 0.8 * len(heights)), layout="constrained")
    axes = figure.subplots(len(results), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (direction, rows) in zip(axes, results.items(), strict=True):
        shown = [row for row in rows if "images_per_s" in row][::-1]
        names, colours = [row["name"] for row in shown], [COLOURS[row["group"]] for row in shown]
        ax.barh(names, [row["steady_images_per_s"] or 0 for row in shown], color=colours, alpha=0.35)
        ax.barh(names, [row["images_per_s"] for row in shown], color=colours, height=0.5)
        ax.set_title(f"{direction}: images/s, start-up included; pale: left out", fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
