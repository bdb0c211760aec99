"""The index of columns and its pages, against plain Python on the same records."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tsae
from tsae.archive import matches
from tsae.selection import SORTS, Selection
from tsae.selection.stored import select
from tsae.serve import columns
from tsae.serve.columns import Columns, Index, Indexer, Labels
from tsae.serve.pages import Pages, describe
from tsae.serve.summary import histogram, summarize

RECORDS = st.dictionaries(
    st.text("ab/é", min_size=1, max_size=4),
    st.tuples(
        st.sampled_from([None, "stop", "yield"]),
        st.sampled_from([math.nan, 20.0, 25.5, 30.0]),
        st.integers(1, 5),
        st.booleans(),
    ),
    max_size=25,
)
SELECTIONS = st.builds(
    Selection,
    prefix=st.sampled_from([None, "a", "b/", "é"]),
    glob=st.sampled_from([None, "*b*", "a?", "a*"]),
    labels=st.sampled_from([None, (), ("stop",), ("other", "yield")]),
    min_psnr_db=st.sampled_from([None, 25.0]),
    max_psnr_db=st.sampled_from([None, 25.5]),
    min_bytes=st.sampled_from([None, 2]),
    max_bytes=st.sampled_from([None, 4]),
    max_px=st.sampled_from([None, 49, 50]),
    quality=st.sampled_from([None, 3]),
    is_lossless=st.sampled_from([None, False, True]),
    sort=st.sampled_from(list(SORTS)),
    reverse=st.booleans(),
)


def make_index(records: dict[str, Any], shards: int) -> Index:
    """Keys ascend within a shard; with more than one, shards overlap."""
    labels, parts, position = Labels(), [], 0
    for shard in range(shards):
        keys = sorted(records)[shard::shards]
        if keys:
            parts.append((position, make_columns(keys, records, labels)))
            position += len(keys)
    return Index(parts, labels)


def make_columns(keys: list[str], records: dict[str, Any], labels: Labels) -> Columns:
    rows = [records[key] for key in keys]
    return Columns(
        keys=(pa.array(keys, pa.string()),),
        widths=np.full(len(keys), 40, np.uint32),
        heights=np.full(len(keys), 50, np.uint32),
        psnrs_db=np.array([row[1] for row in rows], np.float32),
        sizes_bytes=np.array([row[2] for row in rows], np.uint32),
        qualities=np.array([row[2] for row in rows], np.uint8),
        lossless=np.array([row[3] for row in rows], np.bool_),
        crc32s=np.arange(len(keys), dtype=np.uint32),
        labels=np.array([labels.code(row[0]) for row in rows], np.int32),
    )


def plain(records: dict[str, Any], shards: int, wanted: Selection) -> list[str]:
    """What a selection finds, in order."""
    places = [key for shard in range(shards) for key in sorted(records)[shard::shards]]

    def is_in(key: str) -> bool:
        label, psnr_db, size_bytes, is_lossless = records[key]
        return (
            key.startswith(wanted.prefix or "")
            and matches(key, wanted.glob)
            and (wanted.labels is None or label in wanted.labels)
            and (wanted.min_psnr_db is None or psnr_db >= wanted.min_psnr_db)
            and (wanted.max_psnr_db is None or psnr_db <= wanted.max_psnr_db)
            and (wanted.min_bytes is None or size_bytes >= wanted.min_bytes)
            and (wanted.max_bytes is None or size_bytes <= wanted.max_bytes)
            and wanted.max_px != 49
            and wanted.quality in (None, size_bytes)
            and wanted.is_lossless in (None, is_lossless)
        )

    def place(key: str) -> tuple[float, int]:
        number = records[key][1] if wanted.sort == "psnr" else records[key][2]
        return (math.inf if math.isnan(number) else -number if wanted.reverse else number), places.index(key)

    if wanted.sort in ("key", "position"):
        ordered = sorted(records) if wanted.sort == "key" else places
        ordered = ordered[::-1] if wanted.reverse else ordered
    else:
        ordered = sorted(records, key=place)
    return [key for key in ordered if is_in(key)]


@settings(deadline=None)
@given(RECORDS, SELECTIONS, st.integers(1, 3), st.integers(1, 7))
def test_pages_have_everything_once_in_order(records: dict[str, Any], wanted: Selection, shards: int, limit: int) -> None:
    index = make_index(records, shards)
    pages, expected, found, after = Pages(index), plain(records, shards, wanted), [], None
    while True:
        page = pages.page(dataclasses.replace(wanted, limit=limit, after=after))
        assert page.total == len(expected)
        found += [index.key(row) for row in page.rows]
        if not page.has_more:
            break
        assert len(page.rows) == limit
        after = found[-1]
    assert found == expected


@settings(deadline=None)
@given(RECORDS, st.integers(1, 3), st.text("ab/éz", max_size=4))
def test_keys_are_found(records: dict[str, Any], shards: int, other: str) -> None:
    index = make_index(records, shards)
    for key in records:
        row = index.find(key)
        assert row is not None
        assert index.key(row) == key
        assert describe(index, row)["label"] == records[key][0]
    assert (index.find(other) is not None) == (other in records)
    start, end = index.ranks_of(other)
    assert [index.key(index.row(rank)) for rank in range(start, end)] == sorted(k for k in records if k.startswith(other))


def test_after_a_key_that_is_gone_only_the_order_of_keys_goes_on() -> None:
    pages = Pages(make_index({"a": (None, 20.0, 1, False), "c": (None, 30.0, 1, False)}, 1))
    assert pages.page(Selection(sort="key", after="b")).rows == [1]
    assert pages.page(Selection(sort="key", reverse=True, after="b")).rows == [0]
    for sort in ("position", "psnr", "bytes"):
        with pytest.raises(KeyError):
            pages.page(Selection(sort=sort, after="b"))


@settings(deadline=None)
@given(RECORDS.filter(bool), st.integers(1, 3))
def test_figures_add_up(records: dict[str, Any], shards: int) -> None:
    summary = summarize(make_index(records, shards))
    assert summary["images"] == len(records)
    assert summary["bytes"] == sum(row[2] for row in records.values())
    assert summary["lossless"] == sum(row[3] for row in records.values())
    assert sum(summary["bytes_histogram"]["counts"]) == len(records)
    measured = [row[1] for row in records.values() if not math.isnan(row[1])]
    assert sum(summary["psnr_histogram"]["counts"]) == summary["psnr_db"]["measured"] == len(measured)
    assert summary["psnr_db"]["min"] == min(measured, default=None)
    assert sum(row["images"] for row in summary["qualities"]) == len(records)
    for figures in summary["labels"]:
        rows = [row for row in records.values() if row[0] == figures["label"]]
        assert figures["images"] == len(rows)
        psnrs_db = [row[1] for row in rows if not math.isnan(row[1])]
        assert figures["psnr_min_db"] == min(psnrs_db, default=None)
        assert figures["lossless"] == sum(row[3] for row in rows)


@given(st.lists(st.floats(0, 1e6), max_size=50), st.sampled_from([1, 10]))
def test_histograms_have_round_edges_around_everything(values: list[float], least: int) -> None:
    found = histogram(np.array(values, np.float64), least)
    assert sum(found["counts"]) == len(values)
    assert len(found["edges"]) == (len(found["counts"]) + 1 if values else 0)
    assert len(found["counts"]) <= 70
    for i, count in enumerate(found["counts"]):
        assert count == sum(found["edges"][i] <= value < found["edges"][i + 1] for value in values)


def test_an_archive_has_the_columns_of_its_records(archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        index = Indexer().make(archive.files)
        assert not index.damages
        for i, row in enumerate(archive.rows()):
            record = archive.record(row["key"])
            found = describe(index, i)
            assert {name: found[name] for name in row} == row
            assert found["bytes"] == len(record.streams[0]) + len(record.lossless[0] or b"")
            assert found["lossless"] == (record.lossless[0] is not None)
            assert found["quality"] == int(record.codings[0]) - 1
            assert index.columns.crc32s[i] == record.checksums()[0]
            assert index.position(i) == i


def test_a_damaged_shard_is_left_out_and_named(archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        entry = next(iter(archive.files.entries()))

        class Files:
            def entries(self) -> Any:
                return [dataclasses.replace(entry, footer=b"nothing"), entry]

            def open_entry(self, entry: Any) -> Any:
                return archive.files.open_entry(entry)

        damaged = dataclasses.replace(entry, file="other")
        index = Indexer().make(Files())  # type: ignore[arg-type]
        assert damaged.rows == len(index) == 40
        assert len(index.damages) == 1
        assert index.position(0) == 40


def test_what_two_states_share_is_read_once(archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        indexer = Indexer()
        first, second = indexer.make(archive.files), indexer.make(archive.files)
        assert first.columns.keys[0] is second.columns.keys[0]
        assert all(np.shares_memory(part.widths, second.columns.widths) for part in indexer._known.values())


@settings(deadline=None)
@given(RECORDS.filter(lambda records: len(records) > 2), st.data())
def test_a_little_more_takes_its_places_in_the_order(records: dict[str, Any], data: st.DataObject) -> None:
    labels, position, parts = Labels(), 0, []
    few = data.draw(st.sets(st.sampled_from(sorted(records)), min_size=1, max_size=len(records) - 1))
    for keys in (sorted(set(records) - few), *([key] for key in data.draw(st.permutations(sorted(few))))):
        parts.append((position, make_columns(keys, records, labels)))
        position += len(keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "MERGED_SHARE", 0)  # whatever is more is little
        index = Index(parts[:1], labels)
        for end in range(2, len(parts) + 1):
            index = Index(parts[:end], labels, (), index)
    assert [index.key(index.row(rank)) for rank in range(len(index))] == sorted(records)


def test_labels_that_are_too_long_are_damage() -> None:
    with pytest.raises(ValueError, match="4096"):
        Labels().code("x" * 5000)


@pytest.mark.parametrize("sort", list(SORTS))
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("is_chosen", [False, True])
def test_pages_of_memory_are_those_of_shards(archive_dir: Path, sort: Any, reverse: bool, is_chosen: bool) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        index, rows = Indexer().make(archive.files), list(archive.rows())
        selection = Selection(sort=sort, reverse=reverse, limit=3)
        if is_chosen:
            best = describe(index, int(index.columns.psnrs_db.argmax()))
            least_db = min(row["psnr_db"] for row in rows)
            some = {"glob": f"{best['key'][0]}*", "labels": (best["label"], "x"), "min_psnr_db": least_db}
            others = {"min_px": 1, "quality": best["quality"], "is_lossless": best["lossless"]}
            selection = dataclasses.replace(selection, **some, **others)
        assert Pages(index).page(selection).rows
        for after in (None, rows[2]["key"]):
            asked = dataclasses.replace(selection, after=after)
            expected = [key for table in select(archive.files, asked, ["key"]) for key in table.column("key").to_pylist()]
            assert [index.key(row) for row in Pages(index).page(asked).rows] == expected
