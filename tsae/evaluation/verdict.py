"""What the figures mean for a person: good, fair or poor, and why. Owns the thresholds."""

from __future__ import annotations

from typing import Any

from tsae import log
from tsae.config import SURE

LEVELS = ("good", "fair", "poor")

GOOD_LINE, GOOD_UNREAD_LINE = "Good: the signs stay readable", "Good by PSNR"
"""What is said where all is good: if readings count, and if PSNR alone does."""

LINES = {
    "readability": ("Fair: most signs stay readable, some do not", "Poor: too many signs are no longer readable"),
    "distortion": ("Fair: some images come back coarse", "Poor: some images come back very coarse"),
    "completeness": ("Fair: not all images could be measured", "Poor: records of the archive are damaged"),
}
"""What is said where something is fair or poor, the first of the worst; in order of weight."""

UNSURE = "the classifier is not sure of these originals"

MOST_LOST_POINTS = (0.5, 2.0)
"""Accuracy may fall so far for good and for fair: what is promised of the seed's codec, and four times that."""

MOST_CHANGED_POINTS = (1.0, 4.0)
"""Without labels, so many of 100 readings may change: more than with labels, as wrong readings change most easily."""

LEAST_PSNR_DB = (24.0, 19.0)
"""First percentile for good and for fair. Below, images look worse to people than readings tell."""

SIGNIFICANT_P = 0.05
"""Of McNemar's test; what may well be chance is not called poor."""

FEW_IMAGES = 200
"""Of fewer images, one is half a point and more."""


def judge(figures: dict[str, Any]) -> dict[str, Any]:
    """The verdict on figures of an archive.

    Args:
        figures: Of `figures.describe_images`, with `problems`, `archive_images` and `classifier`.

    Returns:
        `level`; `by_reading`, whether readings count; one `line`, which says if they do not; and `reasons`: each a `level`
        and a `text`. The worst of them is the verdict's.
    """
    by_reading = "accuracy" in figures or not _is_unsure(figures)
    reasons = [_readability(figures), _distortion(figures), _completeness(figures)]
    grades = [LEVELS.index(reason["level"]) if reason["level"] in LEVELS else 0 for reason in reasons]
    worst = max(grades)
    line = list(LINES.values())[grades.index(worst)][worst - 1] if worst else GOOD_LINE if by_reading else GOOD_UNREAD_LINE
    if _is_unsure(figures):
        line += f"; {UNSURE}" if by_reading else f"; not judged by reading: {UNSURE}"
    return {"level": LEVELS[worst], "by_reading": by_reading, "line": f"{line}.", "reasons": reasons + _notes(figures)}


def _is_unsure(figures: dict[str, Any]) -> bool:
    """Whether the classifier does not know such images."""
    return bool(figures["sure"]["originals"] < SURE)


def _level(value: float, limits: tuple[float, float]) -> str:
    """Good up to the first limit, fair up to the second."""
    return LEVELS[sum(value > limit for limit in limits)]


def _reason(level: str, text: str) -> dict[str, str]:
    return {"level": level, "text": text}


def _readability(figures: dict[str, Any]) -> dict[str, str]:
    lost = len(figures["lost"])
    if "accuracy" in figures:
        accuracy = figures["accuracy"]
        before, after = percent(accuracy["originals"]), percent(accuracy["decoded"])
        text = f"Of the originals {before} are read rightly, of what comes back {after}; {log.counted(lost, 'sign')} lost"
        level = _level(accuracy["drop_points"], MOST_LOST_POINTS)
        is_chance = accuracy["mcnemar_p"] >= SIGNIFICANT_P
        return _reason("fair" if level == "poor" and is_chance else level, text)
    text = f"{percent(figures['agreement'])} are read as before (no labels tell what is right); {lost:,} otherwise"
    if _is_unsure(figures):
        return _reason("note", f"{text}. {_unsureness(figures)}, so this says little")
    return _reason(_level(100 * (1 - figures["agreement"]), MOST_CHANGED_POINTS), text)


def _unsureness(figures: dict[str, Any]) -> str:
    sure = percent(figures["sure"]["originals"])
    return f"The classifier is {sure} sure of the originals: it does not know such images well"


def _distortion(figures: dict[str, Any]) -> dict[str, str]:
    p1_db, mean_db = figures["psnr_db"]["p1"], figures["psnr_db"]["mean"]
    level = LEVELS[sum(p1_db < limit for limit in LEAST_PSNR_DB)]
    return _reason(level, f"Mean PSNR is {mean_db:.1f} dB, and 99 % of the images have {p1_db:.1f} dB or more")


def _completeness(figures: dict[str, Any]) -> dict[str, str]:
    counts, images = figures["problems"]["counts"], figures["archive_images"]
    if not counts:
        return _reason("good", f"All {images:,} images of the archive were measured")
    listed = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    level = "poor" if counts.get("damaged records") else "fair"
    return _reason(level, f"{figures['images']:,} of {images:,} images were measured: {listed}")


def _notes(figures: dict[str, Any]) -> list[dict[str, str]]:
    """What a reader must know to take the figures rightly."""
    notes = []
    if _is_unsure(figures) and "accuracy" in figures:
        notes.append(_reason("note", _unsureness(figures)))
    if figures["classifier"]["was_asked"]:
        notes.append(_reason("note", "Compression asked this very classifier what to store better: another may lose more"))
    if figures["images"] < FEW_IMAGES:
        points = 100 / figures["images"]
        notes.append(_reason("note", f"These are few images: one is {points:.1f} points"))
    if "accuracy" in figures and figures["accuracy"]["images"] < figures["images"]:
        others = figures["images"] - figures["accuracy"]["images"]
        notes.append(_reason("note", f"{others:,} have no label that the classifier knows; they count by their readings alone"))
    return notes


def percent(share: float) -> str:
    """A share for people, in hundredths of a percent where that is needed to tell it from all."""
    return f"{100 * share:.2f} %" if 0.99 <= share < 1 else f"{100 * share:.1f} %"
