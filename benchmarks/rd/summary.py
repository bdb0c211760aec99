"""What the curves say about one of our models: the comparisons that the README quotes. Owns which ones, not how."""

from __future__ import annotations

from typing import Any

from rd.curves import Curve, Curves, best_at_bytes, best_at_psnr, best_of, bjontegaard_rate, rate_columns, ratio

EQUAL_DB = (28.0, 30.0, 32.0, 34.0, 36.0, 38.0)
QUOTED_DB = 31.0
QUOTED_BYTES = 512.0
METHODS = ("pchip", "akima")


def summarize(ours: Curve, rivals: Curves, others: Curves) -> dict[str, Any]:
    """All comparisons of one model.

    Args:
        ours: Its curve; the bytes are those of whole archives without the model.
        rivals: Curves among which the best is sought.
        others: Further curves, for the Bjontegaard difference and times only.
    """
    everyone = {**rivals, **others}
    return {
        "at_equal_psnr": [_at_equal_psnr(ours, rivals, psnr_db) for psnr_db in EQUAL_DB],
        "at_own_points": [_at_own_point(ours, rivals, row) for row in range(len(ours.points))],
        "bytes_at_31_db": {name: curve.bytes_at(QUOTED_DB) for name, curve in {"ours": ours, **everyone}.items()},
        "psnr_db_at_512_bytes": {
            name: curve.at_bytes(QUOTED_BYTES, "psnr_mean_db") for name, curve in {"ours": ours, **everyone}.items()
        },
        "bjontegaard_percent": _bjontegaard(ours, rivals, everyone),
        "time_ratios": [_time_ratios(ours, everyone, psnr_db) for psnr_db in EQUAL_DB],
    }


def _at_equal_psnr(ours: Curve, rivals: Curves, psnr_db: float) -> dict[str, Any]:
    size, best = ours.bytes_at(psnr_db), best_at_psnr(rivals, psnr_db)
    name, theirs = best or (None, None)
    return {"psnr_db": psnr_db, "ours": size, "best_rival": name, "theirs": theirs, "ratio": ratio(size, theirs)}


def _at_own_point(ours: Curve, rivals: Curves, row: int) -> dict[str, Any]:
    """The best rival at equal mean PSNR, and the best first percentile at equal bytes."""
    point = ours.points[row]
    name, size = best_at_psnr(rivals, point.psnr_mean_db) or (None, None)
    name_p1, p1_db = best_at_bytes(rivals, point.bytes_per_image, "psnr_p1_db") or (None, None)
    return {
        "setting": point.setting,
        "psnr_db": point.psnr_mean_db,
        "ours": point.bytes_per_image,
        "best_rival": name,
        "theirs": size,
        "ratio": ratio(point.bytes_per_image, size),
        "p1_db": point.psnr_p1_db,
        "best_p1_rival": name_p1,
        "their_p1_db": p1_db,
        "p1_gain_db": None if p1_db is None else point.psnr_p1_db - p1_db,
    }


def _bjontegaard(ours: Curve, rivals: Curves, everyone: Curves) -> dict[str, Any]:
    """By anchor and method, over the span of `EQUAL_DB`."""
    low_db, high_db = EQUAL_DB[0], EQUAL_DB[-1]
    anchors = {"best rival at each PSNR": best_of(rivals, low_db, high_db)}
    anchors.update((name, rate_columns(curve)) for name, curve in everyone.items())
    return {
        name: {method: bjontegaard_rate(anchor, rate_columns(ours), low_db, high_db, method) for method in METHODS}
        for name, anchor in anchors.items()
    }


def _time_ratios(ours: Curve, everyone: Curves, psnr_db: float) -> dict[str, Any]:
    """How many times the rivals' times ours are at a mean PSNR."""
    found: dict[str, Any] = {"psnr_db": psnr_db}
    for what, rival in (("encode", "WebP"), ("encode", "AVIF speed 6"), ("decode", "WebP")):
        theirs = everyone[rival].at_psnr(psnr_db, f"{what}_us") if rival in everyone else None
        found[f"{what} / {rival}"] = ratio(ours.at_psnr(psnr_db, f"{what}_us"), theirs)
    return found
