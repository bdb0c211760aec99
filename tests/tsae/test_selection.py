"""What a selection takes of an archive, against the same done with lists, and what it reads for that."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tsae.archive import ArchiveFiles, Manifest, Records, Shard, concatenate, matches
from tsae.errors import InputError
from tsae.paths import Folder
from tsae.selection import SORTS, Selection, stored
from tsae.selection.stored import positions, select

COLUMNS = ["key", "width", "height", "label", "psnr_db", "bytes", "quality", "is_lossless", "position"]


@pytest.fixture(scope="module")
def records(make_records: Callable[..., Records]) -> list[Records]:
    """Four shards, the second of several row groups, the last with keys among those of the first; some PSNRs are unknown."""
    parts = [make_records(5, "b/"), make_records(1_200, "d/", 512), make_records(3, "f/"), make_records(7, "a/x/")]
    parts[2].psnrs_db[:] = np.nan
    parts[1].psnrs_db[::9] = np.nan
    return parts


@pytest.fixture(scope="module")
def files(
    records: list[Records], write_state: Callable[..., Manifest], tmp_path_factory: pytest.TempPathFactory
) -> ArchiveFiles:
    path = tmp_path_factory.mktemp("selection") / "archive"
    write_state(Folder(str(path)), records[:2])
    write_state(Folder(str(path)), records[2:])
    return ArchiveFiles(str(path))


@pytest.fixture(scope="module")
def rows(records: list[Records]) -> list[dict[str, Any]]:
    """What there is to be selected, in the order of positions."""
    every = concatenate(records)
    columns = zip(
        every.keys,
        every.widths,
        every.heights,
        every.labels,
        every.psnrs_db,
        every.streams,
        every.lossless,
        every.codings,
        strict=True,
    )
    return [
        {
            "key": key,
            "width": int(width),
            "height": int(height),
            "label": label,
            "psnr_db": None if np.isnan(psnr_db) else float(psnr_db),
            "bytes": len(stream) + len(lossless or b""),
            "quality": int(coding) - 1 if coding > 1 else None,
            "is_lossless": lossless is not None,
            "position": position,
        }
        for position, (key, width, height, label, psnr_db, stream, lossless, coding) in enumerate(columns)
    ]


def found(files: ArchiveFiles, selection: Selection, columns: list[str] = COLUMNS) -> list[dict[str, Any]]:
    return [row for table in select(files, selection, columns) for row in table.to_pylist()]


def is_in(row: dict[str, Any], s: Selection) -> bool:
    def within(value: Any, least: Any, most: Any) -> bool:
        if least is None and most is None:
            return True
        return value is not None and (least is None or value >= least) and (most is None or value <= most)

    return (
        matches(row["key"], s.glob)
        and row["key"].startswith(s.prefix or "")
        and (s.labels is None or row["label"] in s.labels)
        and within(row["psnr_db"], s.min_psnr_db, s.max_psnr_db)
        and within(row["bytes"], s.min_bytes, s.max_bytes)
        and s.quality in (None, row["quality"])
        and s.is_lossless in (None, row["is_lossless"])
        and within(min(row["width"], row["height"]), s.min_px, None)
        and within(max(row["width"], row["height"]), None, s.max_px)
    )


def expected(rows: list[dict[str, Any]], s: Selection) -> list[dict[str, Any]]:
    column, sign = SORTS[s.sort], -1 if s.reverse else 1
    known = [row for row in rows if row[column] is not None]
    ordered = sorted(known, key=lambda row: row[column], reverse=s.reverse)  # stable, but reversed ties are not
    if column != "key":
        ordered = sorted(known, key=lambda row: (sign * row[column], row["position"]))
    ordered += [row for row in rows if row[column] is None]
    if s.after is not None:
        ordered = ordered[[row["key"] for row in ordered].index(s.after) + 1 :]
    return [row for row in ordered if is_in(row, s)][: s.limit]


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"glob": "b/*"},
        {"glob": "*/00001.png"},
        {"glob": "[bf]/0000[01].png"},
        {"glob": "d/0?000.png"},
        {"glob": "B/*"},
        {"glob": "b/00001.png"},
        {"prefix": "d/011"},
        {"prefix": "d/011", "glob": "*5.png"},
        {"prefix": "b/", "glob": "d/*"},
        {"labels": ("stop",)},
        {"labels": ("", "Ende – 80"), "max_psnr_db": 30},
        {"labels": ()},
        {"labels": ("none such",)},
        {"min_psnr_db": 31.5, "max_psnr_db": 40},
        {"max_psnr_db": 20},
        {"min_bytes": 43, "max_bytes": 520},
        {"min_px": 40, "max_px": 90},
        {"is_lossless": True},
        {"is_lossless": False, "prefix": "d/"},
        {"quality": 5},
        {"quality": 0},
    ],
)
@pytest.mark.parametrize(
    "order",
    [
        {},
        {"limit": 3},
        {"limit": 0},
        {"reverse": True},
        {"sort": "key"},
        {"sort": "key", "reverse": True, "limit": 700},
        {"sort": "psnr"},
        {"sort": "psnr", "limit": 5},
        {"sort": "psnr", "reverse": True},
        {"sort": "bytes", "reverse": True, "limit": 11},
        {"after": "d/00700.png"},
        {"after": "f/00001.png", "sort": "psnr"},
        {"after": "d/00701.png", "sort": "psnr", "reverse": True},
        {"after": "d/00701.png", "sort": "bytes", "limit": 400},
        {"after": "d/00003.png", "sort": "key"},
        {"after": "d/00003.png", "reverse": True},
    ],
)
def test_a_selection_is_what_lists_give(
    files: ArchiveFiles, rows: list[dict[str, Any]], filters: dict[str, Any], order: dict[str, Any]
) -> None:
    selection = Selection(**filters, **order)
    assert found(files, selection) == expected(rows, selection)
    places = list(itertools.chain.from_iterable(part.tolist() for part in positions(files, selection)))
    assert places == [row["position"] for row in expected(rows, selection)]


def test_pages_put_together_are_the_whole(files: ArchiveFiles, rows: list[dict[str, Any]]) -> None:
    for sort, reverse in itertools.product(("position", "key", "psnr", "bytes"), (False, True)):
        pages, after = [], None
        while page := found(files, Selection(sort=sort, reverse=reverse, limit=400, after=after), ["key"]):
            pages += page
            after = page[-1]["key"]
        assert pages == [{"key": row["key"]} for row in expected(rows, Selection(sort=sort, reverse=reverse))]


def test_a_limited_order_forgets_what_it_does_not_need(
    files: ArchiveFiles, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PRUNED_ROWS", 10)
    for sort, reverse in itertools.product(("key", "psnr", "bytes"), (False, True)):
        selection = Selection(sort=sort, reverse=reverse, limit=9)
        assert found(files, selection) == expected(rows, selection)


@pytest.mark.parametrize(
    ("selection", "columns", "read", "groups"),
    [
        (Selection(), ["key"], {"key"}, 6),
        (Selection(), ["position"], set(), 0),
        (Selection(glob="b/*"), ["key"], {"key"}, 1),
        (Selection(glob="d/000[01]*"), ["key"], {"key"}, 1),
        (Selection(prefix="d/", limit=2), ["key"], {"key"}, 1),
        (Selection(labels=("stop",)), ["position"], {"label"}, 6),
        (Selection(max_psnr_db=10), ["key"], {"key", "psnr_db"}, 4),
        (Selection(sort="psnr"), ["key"], {"key", "psnr_db"}, 6),
        (Selection(min_bytes=1), ["key"], {"key", "lossless", "stream"}, 6),
        (Selection(glob="no*"), ["key"], set(), 0),
    ],
)
def test_only_what_is_needed_is_read(
    files: ArchiveFiles,
    monkeypatch: pytest.MonkeyPatch,
    selection: Selection,
    columns: list[str],
    read: set[str],
    groups: int,
) -> None:
    calls: list[set[str]] = []
    original = Shard.table

    def spy(self: Shard, row_group: int, names: Any = None) -> Any:
        calls.append(set(names))
        return original(self, row_group, names)

    monkeypatch.setattr(Shard, "table", spy)
    found(files, selection, columns)
    assert set().union(*calls) == read
    assert len(calls) == groups


def test_where_no_order_is_asked_for_nothing_is_gathered(files: ArchiveFiles) -> None:
    """The first image comes before the second row group is read."""
    parts = select(files, Selection(glob="d/*"), ["key"])
    assert len(next(parts)) < 600


@pytest.mark.parametrize("wrong", [{"sort": "colour"}, {"limit": -1}, {"min_bytes": -1}, {"max_px": 10**20}])
def test_what_cannot_be_asked_for_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Selection(**wrong)


@pytest.mark.parametrize("key", ["none.png", "", "../x"])
def test_after_a_key_that_is_not_there_is_refused(files: ArchiveFiles, key: str) -> None:
    with pytest.raises(InputError, match="no image of that key"):
        found(files, Selection(after=key))
