"""Figures of a whole state: totals, histograms, and what each label has. Computed once a state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsae.serve.columns import Index

MAX_LABELS = 1000
"""Labels that are told of, those with most images; the number of all is told as well."""

MAX_BINS = 60
"""Bins of a histogram, about."""

NICE = (1, 2, 5)
"""Bins are as wide as one of these times a power of ten."""


def summarize(index: Index) -> dict[str, Any]:
    """Everything; JSON values."""
    columns = index.columns
    measured = columns.psnrs_db[~np.isnan(columns.psnrs_db)].astype(np.float64)
    qualities = np.bincount(columns.qualities, minlength=1)
    labels = label_figures(index)
    return {
        "images": len(index),
        "bytes": int(columns.sizes_bytes.sum(dtype=np.int64)),
        "lossless": int(columns.lossless.sum()),
        "psnr_db": {"mean": _mean(measured), "min": _least(measured), "measured": len(measured)},
        "psnr_histogram": histogram(measured, 1),
        "bytes_histogram": histogram(columns.sizes_bytes.astype(np.float64), 10),
        "qualities": [{"quality": quality or None, "images": int(n)} for quality, n in enumerate(qualities) if n],
        "labels_total": len(labels),
        "labels": labels[:MAX_LABELS],
        "damaged_shards": list(index.damages[:MAX_LABELS]),
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    return round(float(values.mean()), 3) if len(values) else None


def _least(values: NDArray[np.float64]) -> float | None:
    return float(values.min()) if len(values) else None


def histogram(values: NDArray[np.float64], least_step: int) -> dict[str, Any]:
    """Counts between edges that are round numbers: of bin `i`, `[edges[i], edges[i + 1])`."""
    if not len(values):
        return {"edges": [], "counts": []}
    low, high = float(values.min()), float(values.max())
    step = _nice_step((high - low) / MAX_BINS, least_step)
    first, last = math.floor(low / step), math.floor(high / step) + 1
    counts = np.bincount(np.floor(values / step).astype(np.int64) - first, minlength=last - first)
    return {"edges": [step * i for i in range(first, last + 1)], "counts": counts.tolist()}


def _nice_step(width: float, least: int) -> int:
    step, power = least, 0
    while step < width:
        power += 1
        step = max(least, NICE[power % 3] * 10 ** (power // 3))
    return step


def label_figures(index: Index) -> list[dict[str, Any]]:
    """What each label has, and the images without one (None), those with most images first."""
    columns, bins = index.columns, len(index.labels.names) + 1
    codes = columns.labels.astype(np.int64) + 1
    counts = np.bincount(codes, minlength=bins)
    sizes = np.bincount(codes, columns.sizes_bytes, minlength=bins)
    is_measured = ~np.isnan(columns.psnrs_db)
    measured = np.bincount(codes[is_measured], minlength=bins)
    sums = np.bincount(codes[is_measured], columns.psnrs_db[is_measured].astype(np.float64), minlength=bins)
    least = np.full(bins, np.inf)
    np.minimum.at(least, codes[is_measured], columns.psnrs_db[is_measured].astype(np.float64))
    lossless = np.bincount(codes[columns.lossless], minlength=bins)
    names: list[str | None] = [None, *index.labels.names]
    figures = [
        {
            "label": names[code],
            "images": int(counts[code]),
            "bytes_mean": round(sizes[code] / counts[code], 2),
            "psnr_mean_db": round(sums[code] / measured[code], 3) if measured[code] else None,
            "psnr_min_db": float(least[code]) if measured[code] else None,
            "lossless": int(lossless[code]),
        }
        for code in np.flatnonzero(counts).tolist()
    ]
    return sorted(figures, key=lambda row: (-row["images"], row["label"] or ""))
