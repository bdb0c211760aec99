"""What the numbers of GTSRB's classes stand for, in a word or two: a page on which 3 is read as 5 tells people nothing."""

from __future__ import annotations

from collections.abc import Sequence

GTSRB = (
    "20", "30", "50", "60", "70", "80", "end of 80", "100", "120", "no overtaking", "no overtaking for lorries", "right of way",
    "priority road", "give way", "stop", "no vehicles", "no lorries", "no entry", "danger", "bend left", "bend right",
    "double bend", "bumpy road", "slippery road", "road narrows", "road works", "traffic lights", "pedestrians", "children",
    "bicycles", "ice", "wild animals", "end of limits", "turn right", "turn left", "ahead", "ahead or right", "ahead or left",
    "keep right", "keep left", "roundabout", "end of no overtaking", "end of no overtaking for lorries",
)  # fmt: skip
"""Of classes 0 to 42 (Stallkamp, Schlipsing, Salmen, Igel 2012)."""


def class_names(classes: Sequence[str]) -> dict[str, str]:
    """Names by label, if the classes are GTSRB's; else none."""
    numbers = [str(number) for number in range(len(GTSRB))]
    return dict(zip(numbers, GTSRB, strict=True)) if sorted(classes) == sorted(numbers) else {}
