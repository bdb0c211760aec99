"""What a URL's query asks of records: a parameter for each filter of `tsae.selection`, and the order."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import Depends, Query

from tsae.selection import FILTERS, MAX_COUNT, Filter, Selection, Sort, selection_of

SORT = Annotated[Sort, Query(description="What the order is by; images that were not measured come last where it is `psnr`")]
ORDER = Annotated[Literal["asc", "desc"], Query(description="`desc`: the greatest or last first")]


def _annotation(each: Filter) -> Any:
    kind: Any = list[str] if each.comparison == "is one of" else each.kind
    limits: dict[str, Any] = {"ge": 0, "le": MAX_COUNT} if each.kind is int else {}
    limits |= {"allow_inf_nan": False} if each.kind is float else {}
    return Annotated[kind | None, Query(description=each.text, **limits)]


def _parameters() -> Iterator[inspect.Parameter]:
    """By their names in URLs, which are those of flags with `_`."""
    kind = inspect.Parameter.KEYWORD_ONLY
    for each in FILTERS.values():
        yield inspect.Parameter(each.parameter, kind, default=None, annotation=_annotation(each))
    yield inspect.Parameter("sort", kind, default="key", annotation=SORT)
    yield inspect.Parameter("order", kind, default="asc", annotation=ORDER)


def _selection(**values: Any) -> Selection:
    """The selection of a query, without a page of it."""
    return selection_of(values, sort=values["sort"], reverse=values["order"] == "desc")


_selection.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]

Selected = Annotated[Selection, Depends(_selection)]
"""For routes: what their query selects."""
