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
from tsae.selection import Selection, select
from tsae.serve.columns import Columns, Index, Indexer, Labels
from tsae.serve.pages import Pages, Query, describe
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
QUERIES = st.builds(
    Query,
    prefix=st.sampled_from(["", "a", "b/", "é"]),
    label=st.sampled_from([None, "stop", "other"]),
    min_psnr_db=st.sampled_from([None, 25.0]),
    sort=st.sampled_from(["key", "psnr", "bytes"]),
    is_descending=st.booleans(),
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


def plain(records: dict[str, Any], query: Query) -> list[str]:
    """What a query finds, in order."""
    keys = [
        key
        for key, (label, psnr_db, _, _) in records.items()
        if key.startswith(query.prefix)
        and query.label in (None, label)
        and (query.min_psnr_db is None or psnr_db >= query.min_psnr_db)
    ]
    if query.sort == "key":
        return sorted(keys, reverse=query.is_descending)
    sign = -1 if query.is_descending else 1

    def value(key: str) -> tuple[float, str]:
        number = records[key][1] if query.sort == "psnr" else records[key][2]
        return math.inf if math.isnan(number) else sign * number, key

    return sorted(keys, key=value)


@settings(deadline=None)
@given(RECORDS, QUERIES, st.integers(1, 3), st.integers(1, 7))
def test_pages_have_everything_once_in_order(records: dict[str, Any], query: Query, shards: int, limit: int) -> None:
    index = make_index(records, shards)
    pages, expected, found, after = Pages(index), plain(records, query), [], None
    while True:
        page = pages.page(query, limit, after)
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
    assert pages.page(Query(), 5, "b").rows == [1]
    assert pages.page(Query(is_descending=True), 5, "b").rows == [0]
    with pytest.raises(KeyError):
        pages.page(Query(sort="psnr"), 5, "b")


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


def test_labels_that_are_too_long_are_damage() -> None:
    with pytest.raises(ValueError, match="4096"):
        Labels().code("x" * 5000)


@pytest.mark.parametrize("sort", ["key", "psnr", "bytes"])
@pytest.mark.parametrize("is_descending", [False, True])
@pytest.mark.parametrize("is_chosen", [False, True])
def test_queries_mean_what_selections_mean(archive_dir: Path, sort: Any, is_descending: bool, is_chosen: bool) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        index = Indexer().make(archive.files)
        label = next(iter(archive.rows()))["label"]
        least_db = sorted(row["psnr_db"] for row in archive.rows())[10]
        query, selection = Query(sort=sort, is_descending=is_descending), Selection(sort=sort, reverse=is_descending)
        if is_chosen:
            query = dataclasses.replace(query, prefix=label, label=label, min_psnr_db=least_db)
            selection = dataclasses.replace(selection, prefix=label, labels=(label,), min_psnr_db=least_db)
        names = ["key", "psnr_db", "bytes"]
        expected = [row for table in select(archive.files, selection, names) for row in table.to_pylist()]
        found = [describe(index, row) for row in Pages(index).page(query, 1000).rows]
        by = {"key": "key", "psnr": "psnr_db", "bytes": "bytes"}[sort]
        assert [row[by] for row in found] == [row[by] for row in expected]
        assert {row["key"] for row in found} == {row["key"] for row in expected}
