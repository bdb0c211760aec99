"""What facts of images come to: the figures of the report card, as JSON can hold them. Measures nothing."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsae.archive import EXACT_PSNR_DB
from tsae.evaluation.facts import Readings
from tsae.evaluation.statistics import mcnemar_p, paired_interval

WORST_IMAGES = 32

LUMA_EDGES = (0, 20, 40, 60, 90, 120, 256)
"""Of the bands by brightness, in grey levels: a sign in the dark, at dusk, by day."""

SIZE_EDGES_PX = (0, 30, 40, 50, 70, 100, 1 << 32)
"""Of the bands by the shorter side of the original."""

SHARPNESS_BANDS = 5
"""By sharpness, equally many images: its unit says nothing by itself."""

NO_LABEL = "(none)"

Row = dict[str, Any]
Mask = NDArray[np.bool_]


def describe_images(readings: Readings) -> Row:
    """All figures that follow from the facts of images, at least one."""
    facts = readings.facts
    return {
        "images": len(facts),
        "psnr_db": spread(facts.psnrs_db),
        "ssim": spread(facts.ssims),
        "agreement": _mean(readings.agrees),
        **({"accuracy": _accuracy(readings)} if readings.is_labelled.any() else {}),
        "sure": {"originals": _mean(facts.sure_original), "decoded": _mean(facts.sure_decoded)},
        "lost": _images(readings, np.flatnonzero(readings.is_lost)),
        "gained": _images(readings, np.flatnonzero(readings.is_gained)),
        "confusions": _confusions(readings),
        "labels": _by_label(readings),
        "darkness": _by_band(readings, facts.lumas, LUMA_EDGES),
        "blur": _by_band(readings, facts.sharpness, _quantiles(facts.sharpness)),
        "size": _by_band(readings, facts.sizes_px, SIZE_EDGES_PX),
        "distributions": {
            "psnr_db": _histogram(facts.psnrs_db[facts.psnrs_db < EXACT_PSNR_DB]),
            "ssim": _histogram(facts.ssims),
            "bytes": _histogram(facts.sizes_bytes),
        },
        "exact": int((facts.psnrs_db >= EXACT_PSNR_DB).sum()),
        "worst": _images(readings, np.argsort(facts.psnrs_db, kind="stable")[:WORST_IMAGES]),
    }


def spread(values: NDArray[np.float64]) -> Row:
    """Mean, median, low percentiles and the least of some values."""
    p1, p5, median = np.percentile(values, [1, 5, 50]).tolist()
    return {"mean": _mean(values), "median": median, "p1": p1, "p5": p5, "min": float(values.min())}


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean(dtype=np.float64))


def _accuracy(readings: Readings) -> Row:
    """Accuracy where the truth is known, and what the difference is worth."""
    known = readings.is_labelled
    lost, gained, images = int(readings.is_lost[known].sum()), int(readings.is_gained[known].sum()), int(known.sum())
    low, high = paired_interval(lost, gained, images)
    return {
        **_shares_right(readings, known),
        "images": images,
        "lost": lost,
        "gained": gained,
        "drop_points": 100 * (lost - gained) / images,
        "drop_interval_95_points": [100 * low, 100 * high],
        "mcnemar_p": mcnemar_p(lost, gained),
    }


def _shares_right(readings: Readings, mask: Mask) -> Row:
    return {"originals": _mean(readings.right_original[mask]), "decoded": _mean(readings.right_decoded[mask])}


def _images(readings: Readings, rows: NDArray[np.intp]) -> list[Row]:
    """What is told of single images."""
    facts, classes = readings.facts, readings.classes
    return [
        {
            "key": facts.keys[row],
            "label": facts.labels[row],
            "read_original": classes[facts.read_original[row]],
            "read_decoded": classes[facts.read_decoded[row]],
            "sure_original": float(facts.sure_original[row]),
            "sure_decoded": float(facts.sure_decoded[row]),
            "psnr_db": float(facts.psnrs_db[row]),
            "ssim": float(facts.ssims[row]),
            "bytes": int(facts.sizes_bytes[row]),
        }
        for row in rows.tolist()
    ]


def _confusions(readings: Readings) -> list[Row]:
    """Of the lost images, what was read in place of what, the most frequent first."""
    facts, classes = readings.facts, readings.classes
    found: dict[tuple[int, int], list[int]] = {}
    for row in np.flatnonzero(readings.is_lost).tolist():
        found.setdefault((int(readings.expected[row]), int(facts.read_decoded[row])), []).append(row)
    order = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"from": classes[a], "to": classes[b], "images": len(rows), "keys": [facts.keys[row] for row in rows]}
        for (a, b), rows in order
    ]


def _by_label(readings: Readings) -> list[Row]:
    """Figures of each label; numbers in their order, then names."""
    labels = [NO_LABEL if label is None else label for label in readings.facts.labels]
    names, numbers = np.unique(np.array(labels, object).astype(str), return_inverse=True)
    rows = [{"label": str(name), **part(readings, numbers == number)} for number, name in enumerate(names)]
    return sorted(rows, key=lambda row: _in_order(row["label"]))


def _in_order(label: str) -> tuple[bool, int, str]:
    """Sorts numbers by their value, before names."""
    is_number = label.isdecimal()
    return not is_number, len(label) if is_number else 0, label


def part(readings: Readings, mask: Mask) -> Row:
    """Figures of some images, at least one."""
    facts, known = readings.facts, readings.is_labelled & mask
    psnrs_db = facts.psnrs_db[mask]
    return {
        "images": int(mask.sum()),
        "bytes": _mean(facts.sizes_bytes[mask]),
        "psnr_db": {"mean": _mean(psnrs_db), "p1": float(np.percentile(psnrs_db, 1))},
        "ssim": _mean(facts.ssims[mask]),
        **({"accuracy": _shares_right(readings, known)} if known.any() else {}),
        "agreement": _mean(readings.agrees[mask]),
        "lost": int(readings.is_lost[mask].sum()),
    }


def _quantiles(values: NDArray[np.float64]) -> list[float]:
    """Edges of bands of equally many images; fewer bands where values repeat."""
    inner = np.quantile(values, np.linspace(0, 1, SHARPNESS_BANDS + 1)[1:-1])
    return [0.0, *np.unique(inner[inner > 0]).tolist(), float("inf")]


def _by_band(readings: Readings, values: NDArray[Any], edges: Sequence[float]) -> list[Row]:
    """Figures of bands of a property, from an edge up to the next; bands without images are left out."""
    found = []
    for low, high in itertools.pairwise(edges):
        mask = (values >= low) & (values < high)
        if mask.any():
            top = None if high == edges[-1] else high
            found.append({"from": low, "to": top, **part(readings, mask)})
    return found


def _histogram(values: NDArray[Any]) -> Row:
    """Counts of up to 40 bins of a round width."""
    if not len(values):
        return {"edges": [], "counts": []}
    low, high = float(values.min()), float(values.max())
    width = round_width((high - low) / 40)
    edges = np.arange(np.floor(low / width), np.floor(high / width) + 2) * width
    return {"edges": edges.tolist(), "counts": np.histogram(values, edges)[0].tolist()}


def round_width(width: float) -> float:
    """The next 1, 2 or 5 times a power of ten; 1 for none."""
    if width <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(width))
    return float(next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= width * (1 - 1e-9)))


def columns_per_image(sizes_bytes: Counter[str], images: int) -> dict[str, float]:
    """Bytes by column as means, the largest first."""
    return {name: size / images for name, size in sizes_bytes.most_common()}
