"""Which images of an archive, and in which order: what `ls`, `get`, `sheet`, `serve` and data sets are asked for.

The only home of what can be asked, from which command line and server make their flags and parameters; so it imports nothing
heavy. `matching` tells which rows of a table match, whatever the table is of; `stored` selects from the shards of an archive.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from tsae.errors import InputError

Sort = Literal["position", "key", "psnr", "bytes"]

SORTS: dict[str, str] = dict(zip(get_args(Sort), ("position", "key", "psnr_db", "bytes"), strict=True))
"""What an order is by, and the column that it needs."""

WILDCARD = re.compile(r"[*?\[]")

MAX_COUNT = 2**53 - 1
"""Greatest integer of a filter: what JSON's numbers hold exactly."""

Comparison = Literal["starts with", "matches", "is one of", "is", "at least", "at most"]


@dataclasses.dataclass(frozen=True)
class Filter:
    """What can be asked of an image.

    Attributes:
        name: In flags and parameters, such as `min-psnr`.
        kind: Of the value; with the comparison `is one of`, of each.
        text: What it does, for people.
        comparison: How a value of the image is compared with the one asked for.
        columns: What is compared: it must hold for each.
        metavar: How help names the value.
    """

    name: str
    kind: type
    text: str
    comparison: Comparison
    columns: tuple[str, ...]
    metavar: str | None = None

    @property
    def parameter(self) -> str:
        """The name as Python and URLs have it, such as `min_psnr`."""
        return self.name.replace("-", "_")


@dataclasses.dataclass(frozen=True)
class Condition:
    """A comparison that must hold for a column; null and NaN never pass."""

    column: str
    comparison: Comparison
    value: Any


def _filter(*facts: Any) -> Any:
    return dataclasses.field(default=None, metadata={"filter": Filter(*facts)})


@dataclasses.dataclass(frozen=True)
class Selection:
    """Images that all of these hold for; by itself, all images in the order of positions.

    Attributes:
        glob: Matches the key; `*` also matches `/`.
        prefix: The key starts with it.
        labels: The label is one of them; None takes images without a label too.
        min_psnr_db: Least PSNR in dB of the image from its latents; images without a measured one are left out.
        max_psnr_db: Greatest, likewise.
        min_bytes: Least bytes stored of an image: its stream, and its lossless file where there is one.
        max_bytes: Most.
        min_px: Least width and least height of the original in pixels.
        max_px: Greatest width and greatest height.
        quality: The operating point of its stream; images of a model that has none are left out.
        is_lossless: Whether it is stored losslessly as well.
        sort: What the order is by; images that are equal in it are in the order of positions, those without PSNR are last.
        reverse: Whether greater ones come first.
        after: A key: only images that come after its image in this order, whether or not that one is selected.
        limit: At most so many.
    """

    glob: str | None = _filter("glob", str, "only keys that match; * also matches /", "matches", ("key",), "GLOB")
    prefix: str | None = _filter("prefix", str, "only keys that start with it", "starts with", ("key",), "TEXT")
    labels: tuple[str, ...] | None = _filter(
        "label", str, "only this label; may be given again", "is one of", ("label",), "LABEL"
    )
    min_psnr_db: float | None = _filter(
        "min-psnr", float, "only images that came back so well, or better", "at least", ("psnr_db",), "DB"
    )
    max_psnr_db: float | None = _filter(
        "max-psnr", float, "only images that came back so well, or worse", "at most", ("psnr_db",), "DB"
    )
    min_bytes: int | None = _filter(
        "min-bytes", int, "only images that take so many bytes here, or more", "at least", ("bytes",), "N"
    )
    max_bytes: int | None = _filter(
        "max-bytes", int, "only images that take so many bytes here, or fewer", "at most", ("bytes",), "N"
    )
    min_px: int | None = _filter(
        "min-px", int, "only originals of at least N pixels each way", "at least", ("width", "height"), "N"
    )
    max_px: int | None = _filter(
        "max-px", int, "only originals of at most N pixels each way", "at most", ("width", "height"), "N"
    )
    quality: int | None = _filter("quality", int, "only images of this operating point", "is", ("quality",), "Q")
    is_lossless: bool | None = _filter(
        "lossless", bool, "only images that are stored losslessly as well, or are not", "is", ("is_lossless",)
    )
    sort: Sort = "position"
    reverse: bool = False
    after: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without an archive.

        Raises:
            InputError: if there is no such order, or a count is negative or beyond `MAX_COUNT`.
        """
        if self.sort not in SORTS:
            raise InputError(f"order by {self.sort!r}: there is none; choose one of {', '.join(SORTS)}")
        counts = {each.name: getattr(self, name) for name, each in FILTERS.items() if each.kind is int}
        for name, count in {**counts, "limit": self.limit}.items():
            if count is not None and not 0 <= count <= MAX_COUNT:
                raise InputError(f"{name} {count}: must be 0 to {MAX_COUNT}")

    @property
    def is_in_place(self) -> bool:
        """Whether the order is that of positions."""
        return self.sort == "position" and not self.reverse

    @property
    def conditions(self) -> list[Condition]:
        """What must hold for an image."""
        asked = [(each, getattr(self, name)) for name, each in FILTERS.items()]
        return [
            Condition(column, each.comparison, value) for each, value in asked if value is not None for column in each.columns
        ]

    @property
    def starts(self) -> list[str]:
        """What a key must start with, each of them: where keys are sorted, this narrows where to look."""
        glob = None if self.glob is None else WILDCARD.split(self.glob)[0]
        return [text for text in (self.prefix, glob) if text]

    @property
    def columns(self) -> set[str]:
        """The columns that decide."""
        return {condition.column for condition in self.conditions} | ({SORTS[self.sort]} - {"position"})

    @property
    def knows_bytes(self) -> bool:
        """Whether `bytes` is asked about, so that streams are read."""
        return "bytes" in self.columns


FILTERS: dict[str, Filter] = {
    field.name: field.metadata["filter"] for field in dataclasses.fields(Selection) if "filter" in field.metadata
}
"""What can be asked of images, by the attribute of `Selection`."""


def selection_of(values: Mapping[str, Any], **order: Any) -> Selection:
    """The selection that values by the parameters of filters ask for.

    Args:
        values: Lists become tuples; a filter that has no value lets everything through.
        order: `sort`, `reverse`, `after`, `limit`.

    Raises:
        InputError: as `Selection`.
    """
    asked = {attribute: values.get(each.parameter) for attribute, each in FILTERS.items()}
    given: dict[str, Any] = {
        attribute: tuple(value) if isinstance(value, list) else value for attribute, value in asked.items()
    }
    return Selection(**given, **order)
