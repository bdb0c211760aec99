"""Operating points as curves, and comparisons of curves. Numbers only: measures nothing, prints nothing.

Between neighbouring points of a curve, the logarithm of the bytes is linear in PSNR, and so is everything else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rd.points import Point

GRID_DB = 0.05
"""Spacing at which the best of several curves is sampled for the Bjontegaard difference."""


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Points of one coder by rising mean PSNR and rising bytes; points that another one beats in both are left out.

    Attributes:
        points: At least one.
    """

    points: tuple[Point, ...]

    @classmethod
    def of(cls, points: Sequence[Point]) -> Curve:
        """The curve of lossy points in any order."""
        kept: list[Point] = []
        for point in sorted(points, key=lambda p: (-p.psnr_mean_db, p.bytes_per_image)):
            if not kept or (point.bytes_per_image < kept[-1].bytes_per_image and point.psnr_mean_db < kept[-1].psnr_mean_db):
                kept.append(point)
        return cls(tuple(reversed(kept)))

    def column(self, name: str) -> NDArray[np.float64]:
        """An attribute of all points."""
        return np.array([getattr(point, name) for point in self.points], np.float64)

    @property
    def range_db(self) -> tuple[float, float]:
        """Lowest and highest mean PSNR."""
        return self.points[0].psnr_mean_db, self.points[-1].psnr_mean_db

    def bytes_at(self, psnr_db: float) -> float | None:
        """Bytes an image at a mean PSNR; None outside the curve."""
        return _exp(interpolate(psnr_db, self.column("psnr_mean_db"), np.log(self.column("bytes_per_image"))))

    def at_psnr(self, psnr_db: float, name: str) -> float | None:
        """An attribute at a mean PSNR; None outside the curve, or where it was not measured."""
        return interpolate(psnr_db, self.column("psnr_mean_db"), self.column(name))

    def at_bytes(self, bytes_per_image: float, name: str) -> float | None:
        """An attribute at so many bytes an image; None outside the curve."""
        return interpolate(math.log(bytes_per_image), np.log(self.column("bytes_per_image")), self.column(name))


Curves = Mapping[str, Curve]


def interpolate(x: float, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> float | None:
    """Piecewise linear, over rising `xs`; None outside them, and where a value is missing."""
    if not xs[0] <= x <= xs[-1]:
        return None
    y = float(np.interp(x, xs, ys))
    return y if math.isfinite(y) else None


def _exp(x: float | None) -> float | None:
    return None if x is None else math.exp(x)


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """How many times theirs ours is, if both are known."""
    return None if ours is None or theirs is None else ours / theirs


def curves_of(points: Sequence[Point]) -> dict[str, Curve]:
    """The lossy points by their curve, in the order they come."""
    names = dict.fromkeys(point.curve for point in points if not point.is_exact)
    return {name: Curve.of([point for point in points if point.curve == name]) for name in names}


def best_at_psnr(curves: Curves, psnr_db: float) -> tuple[str, float] | None:
    """Which of the curves needs the fewest bytes at a mean PSNR, and how many."""
    found = [(name, size) for name, curve in curves.items() if (size := curve.bytes_at(psnr_db)) is not None]
    return min(found, key=lambda pair: pair[1], default=None)


def best_at_bytes(curves: Curves, bytes_per_image: float, attribute: str) -> tuple[str, float] | None:
    """Which of the curves has the highest value of an attribute at so many bytes, and what it is."""
    found = [
        (name, value) for name, curve in curves.items() if (value := curve.at_bytes(bytes_per_image, attribute)) is not None
    ]
    return max(found, key=lambda pair: pair[1], default=None)


def best_of(curves: Curves, low_db: float, high_db: float) -> tuple[list[float], list[float]]:
    """Mean PSNRs, finely spaced, and the fewest bytes that any of the curves needs there."""
    grid = [low_db + GRID_DB * step for step in range(round((high_db - low_db) / GRID_DB) + 1)]
    found = [(psnr_db, best[1]) for psnr_db in grid if (best := best_at_psnr(curves, psnr_db))]
    return [psnr_db for psnr_db, _ in found], [size for _, size in found]


def bjontegaard_rate(
    anchor: tuple[Sequence[float], Sequence[float]],
    ours: tuple[Sequence[float], Sequence[float]],
    low_db: float,
    high_db: float,
    method: str = "pchip",
) -> dict[str, Any] | None:
    """Mean difference in rate of ours against an anchor at equal PSNR, within a range and where both curves are.

    Args:
        anchor: Mean PSNRs, rising, and bytes.
        ours: Likewise.
        low_db: Start of the range.
        high_db: End of the range.
        method: How the package `bjontegaard` interpolates: "pchip" or "akima".

    Returns:
        Percent (negative where ours is smaller) and the range that was used; None where there is none.
    """
    import bjontegaard

    if min(len(anchor[0]), len(ours[0])) < 2:
        return None
    low, high = max(low_db, anchor[0][0], ours[0][0]), min(high_db, anchor[0][-1], ours[0][-1])
    if high <= low:
        return None
    _, of_anchor, of_ours = bjontegaard.bd_rate(anchor[1], anchor[0], ours[1], ours[0], method, False, True, 0)
    log10_ratio = float(of_ours.integrate(low, high) - of_anchor.integrate(low, high)) / (high - low)
    return {"percent": (10**log10_ratio - 1) * 100, "low_db": low, "high_db": high, "method": method}


def rate_columns(curve: Curve) -> tuple[list[float], list[float]]:
    """What `bjontegaard_rate` takes."""
    return curve.column("psnr_mean_db").tolist(), curve.column("bytes_per_image").tolist()
