"""What a job costs at 10^6 to 10^9 images and 1 to 1,000 workers: arithmetic on measured unit costs, checked where it can be.

    python benchmarks/scale_model.py [--count] [--put-price $] [--get-price $] [--core-hour-price $] [--latency S] [--out DIR]

Reads what `scale_parts.py` and `scaling.py` have measured, of the present design and of the one before it, and the requests
that `--count` counts on an S3 server in this process. Prices are assumed list prices of `scale/model.py`; flags change them.

Writes `scale_model.json`, `.md` and `.png`; `--count` also `scale_requests.json`. Needs `pip install '.[bench,test]'`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure

sys.path.insert(0, str(Path(__file__).parent))

from rd.report import number, table
from rd.run_facts import run_facts
from scale import model
from scale.model import Costs, Prices, Store

SIZES = (10**6, 10**7, 10**8, 10**9)
WORKERS = (1, 10, 100, 1000)
CHECKED_SOURCE = "list"
"""What `scaling.py` compresses is a folder on a disk, which costs the parent about what a list does."""

COLOURS = {1: "#1f77b4", 10: "#2ca02c", 100: "#d62728", 1000: "#9467bd"}
SOURCE_COLOURS = {"list": "#8c8c8c", "containers": "#1f77b4", "files": "#d62728"}

Row = dict[str, Any]


def count_requests(out: Path) -> None:
    """Counts them, and writes them."""
    from scale.requests import coefficients, counting_server

    with counting_server() as server:
        counted = {kind: coefficients(server, kind, is_update=False) for kind in ("files", "container")}
        updates = {kind: coefficients(server, kind, is_update=True) for kind in ("files", "container")}
    facts = run_facts(("moto", "s3fs"))
    (out / "scale_requests.json").write_text(json.dumps({**facts, "job": counted, "update": updates}, indent=1) + "\n")


def load(out: Path) -> tuple[Costs, Costs]:
    """Unit costs before and now."""

    def read(name: str) -> Any:
        return json.loads((out / name).read_text())

    scaling = read("scaling.json")["rows"]
    return (
        model.measured_costs(read("scale_parts-before.json")["rows"], scaling, read("scale_requests-before.json")["job"], True),
        model.measured_costs(read("scale_parts.json")["rows"], scaling, read("scale_requests.json")["job"], False),
    )


def checks(out: Path, costs: Costs) -> list[Row]:
    """Predicted and measured seconds of jobs; the unit costs come from those of 10,000 and 100,000 images by two workers."""
    rows = []
    for name in ("scaling.json", "scaling-one-worker.json"):
        file = out / name
        if not file.exists():
            continue
        workers = 1 if "one" in name else 2
        for row in json.loads(file.read_text())["rows"]:
            if row["direction"] == "compress" and row["images"] >= 10_000:
                predicted_s = model.wall_s(row["images"], workers, CHECKED_SOURCE, costs, None)
                parent_mb = model.parent_bytes(row["images"], CHECKED_SOURCE, costs) / 1e6
                rows.append(
                    {
                        "images": row["images"],
                        "workers": workers,
                        "predicted_s": round(predicted_s, 1),
                        "measured_s": row["wall_s"],
                        "error": round(predicted_s / row["wall_s"] - 1, 3),
                        "predicted_parent_mb": round(parent_mb),
                        "measured_parent_mb": row["parent_mb"],
                    }
                )
    return rows


def part_checks(rows: Sequence[Row], costs: Costs) -> list[Row]:
    """Listing at sizes below the one that the unit costs are of: predicted and measured."""
    found = []
    for source in ("list", "containers"):
        own = sorted((row for row in rows if row["part"] == source), key=lambda row: int(row["images"]))
        for row in own[:-1]:
            images = row["images"]
            found.append(
                {
                    "source": source,
                    "images": images,
                    "predicted_s": round(images * (costs.list_s[source] + costs.plan_s), 2),
                    "measured_s": round(row["list"]["s"] + row["plan"]["s"], 2),
                    "predicted_mb": round((model.BASE_BYTES + images * costs.key_bytes[source]) / 1e6),
                    "measured_mb": max(row["list"]["peak_mb"], row["plan"]["peak_mb"]),
                }
            )
    return found


def update_table(costs: Costs, store: Store) -> str:
    """An update that finds nothing changed."""
    lines = [
        [_size(images), *(_hours(model.update_s(images, source, costs, store)) for source in model.SOURCES)] for images in SIZES
    ]
    return table(["images", *model.SOURCES], lines)


def part_table(rows: Iterable[Row]) -> str:
    """Predicted and measured."""
    head = ["source", "images", "predicted, s", "measured, s", "predicted, MB", "measured, MB"]
    names = ("predicted_s", "measured_s", "predicted_mb", "measured_mb")
    return table(head, [[row["source"], f"{row['images']:,}", *(f"{row[name]:,}" for name in names)] for row in rows])


def predictions(costs: Costs, store: Store, prices: Prices) -> list[Row]:
    """Every size, number of workers and source."""
    rows = []
    for source in model.SOURCES:
        for images in SIZES:
            for workers in WORKERS:
                found = model.stages(images, workers, source, costs, store)
                paid = model.price(images, workers, source, costs, store, prices)
                serial_s = sum(stage.seconds for stage in found if not stage.is_parallel)
                rows.append(
                    {
                        "source": source,
                        "images": images,
                        "workers": workers,
                        "wall_s": round(sum(stage.seconds for stage in found), 1),
                        "serial_s": round(serial_s, 1),
                        "stages_s": {stage.name: round(stage.seconds, 1) for stage in found},
                        "parent_mb": round(model.parent_bytes(images, source, costs) / 1e6),
                        "requests": {k: round(v) for k, v in model.requests(images, source, costs).items()},
                        "usd": {name: round(value, 4) for name, value in paid.items()},
                    }
                )
    return rows


def breaks(costs: Costs, store: Store, workers: int = 100) -> list[Row]:
    """What gives way first, by source and size."""
    rows = []
    for source in model.SOURCES:
        for images in SIZES:
            first, second, *_ = model.limits(images, workers, source, costs, store)
            rows.append(
                {
                    "source": source,
                    "images": images,
                    "first": first.name,
                    "share": round(first.share, 3),
                    "second": second.name,
                    "second_share": round(second.share, 3),
                }
            )
    return rows


def _hours(seconds: float) -> str:
    return (
        f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min" if seconds < 36_000 else f"{seconds / 3600:,.0f} h"
    )


def _size(images: int) -> str:
    return f"10^{len(str(images)) - 1}"


def time_table(rows: Iterable[Row], source: str) -> str:
    """Wall time by size and workers, and the serial part of it."""
    found = [row for row in rows if row["source"] == source]
    head = ["images", *(f"{workers:,} workers" for workers in WORKERS), "serial", "parent, GB", "requests, $"]
    lines = []
    for images in SIZES:
        own = [row for row in found if row["images"] == images]
        lines.append(
            [
                _size(images),
                *(f"{_hours(row['wall_s'])}, ${sum(row['usd'].values()):,.2f}" for row in own),
                _hours(own[0]["serial_s"]),
                number(own[0]["parent_mb"] / 1e3, 1),
                number(own[0]["usd"]["requests"], 2),
            ]
        )
    return table(head, lines)


def break_table(before: Sequence[Row], now: Sequence[Row]) -> str:
    """What gives way first before and now; a share above 1 has."""
    head = ["source", "images", "first, before", "share", "first, now", "share"]
    return table(
        head,
        [
            [b["source"], _size(b["images"]), b["first"], f"{b['share']:.2f}", n["first"], f"{n['share']:.2f}"]
            for b, n in zip(before, now, strict=True)
        ],
    )


def check_table(rows: Iterable[Row]) -> str:
    """Predicted and measured."""
    head = ["images", "workers", "predicted, s", "measured, s", "error", "parent predicted, MB", "measured, MB"]
    return table(
        head,
        [
            [
                f"{row['images']:,}",
                str(row["workers"]),
                number(row["predicted_s"], 1),
                number(row["measured_s"], 1),
                f"{row['error']:+.1%}",
                number(row["predicted_parent_mb"], 0),
                number(row["measured_parent_mb"], 0),
            ]
            for row in rows
        ],
    )


def plot(rows: Sequence[Row], before: Costs, now: Costs, store: Store, file: Path) -> None:
    """Time by workers, money by source, memory before and now."""
    figure = matplotlib.figure.Figure((13, 3.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for workers in WORKERS:
        for source, style in (("containers", "-"), ("files", ":")):
            own = [row for row in rows if row["source"] == source and row["workers"] == workers]
            label = f"{workers:,} workers" if source == "containers" else None
            left.loglog(
                [r["images"] for r in own], [r["wall_s"] / 3600 for r in own], style, color=COLOURS[workers], label=label
            )
    left.set_title("hours; dotted: single files in a store", fontsize=10, loc="left")
    for source in model.SOURCES:
        own = [row for row in rows if row["source"] == source and row["workers"] == 100]
        colour = SOURCE_COLOURS[source]
        middle.loglog([r["images"] for r in own], [r["usd"]["requests"] for r in own], ":", color=colour)
        middle.loglog([r["images"] for r in own], [sum(r["usd"].values()) for r in own], color=colour, label=source)
    middle.set_title("US dollars, 100 workers; dotted: requests", fontsize=10, loc="left")
    for source in model.SOURCES:
        for costs, style in ((before, ":"), (now, "-")):
            gigabytes = [model.parent_bytes(images, source, costs) / 1e9 for images in SIZES]
            right.loglog(SIZES, gigabytes, style, color=SOURCE_COLOURS[source], label=source if style == "-" else None)
    right.axhline(16, color="black", linewidth=0.8)
    right.set_title("GB of the parent; dotted: before; line: 16 GB", fontsize=10, loc="left")
    for ax in figure.axes:
        ax.set_xlabel("images")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=120)


def markdown(facts: Row, result: Row) -> str:
    """The whole report."""
    parts = ["# A model of scale", f"{facts['date']}, commit {facts['commit']}; {facts['machine']}, Python {facts['python']}."]
    parts += [f"```\n{facts['command']}\n```", f"Assumed: {result['prices']}, {result['store']}."]
    parts += ["## Checked", "Whole jobs:", check_table(result["checks"])]
    parts += ["Listing and planning, unit costs of 10^8:", part_table(result["part_checks"])]
    for source in model.SOURCES:
        parts += [f"## From {source}", time_table(result["rows"], source)]
    parts += ["## An update that finds nothing changed", "One process, whatever the workers.", result["updates"]]
    parts += ["## What gives way first", "By 100 workers.", break_table(result["breaks_before"], result["breaks"])]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Reads, adds up, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true", help="count requests first")
    parser.add_argument("--put-price", type=float, default=Prices.put, help="of a million, default: %(default)s")
    parser.add_argument("--get-price", type=float, default=Prices.get, help="of a million, default: %(default)s")
    parser.add_argument("--core-hour-price", type=float, default=Prices.core_hour, help="default: %(default)s")
    parser.add_argument("--latency", type=float, default=Store.latency_s, help="of a small request, in s, default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    if args.count:
        count_requests(args.out)
    prices, store = Prices(args.put_price, args.get_price, args.core_hour_price), Store(args.latency)
    before, now = load(args.out)
    result: Row = {
        "prices": str(prices),
        "store": str(store),
        "checks": checks(args.out, now),
        "part_checks": part_checks(json.loads((args.out / "scale_parts.json").read_text())["rows"], now),
        "updates": update_table(now, store),
        "breaks_before": breaks(before, store),
        "breaks": breaks(now, store),
        "rows": predictions(now, store, prices),
    }
    facts = run_facts(("matplotlib",))
    (args.out / "scale_model.json").write_text(json.dumps({**facts, **result}, indent=1) + "\n")
    (args.out / "scale_model.md").write_text(markdown(facts, result))
    plot(result["rows"], before, now, store, args.out / "scale_model.png")
    print(markdown(facts, result))


if __name__ == "__main__":
    main()
