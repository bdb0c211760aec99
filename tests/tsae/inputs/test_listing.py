"""A listing's columns against plain Python, at sizes that cross batches."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.archive.records import key_fault
from tsae.errors import InputError
from tsae.inputs import Listing, list_inputs, listing, lists, ordering
from tsae.inputs.listing import Finding, may_have_fault
from tsae.inputs.ordering import find_sorted, in_order, take_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PARTS = st.sampled_from(["a", "b.png", "..", ".", "", "C:", "é", "x\0", "a..", ".a", "\n", "https:", "A" * 5000])
KEYS = st.lists(PARTS, min_size=1, max_size=4).map("/".join) | TEXT


@given(st.lists(TEXT, unique=True), st.lists(TEXT))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_rows_are_found(texts: list[str], wanted: list[str]) -> None:
    texts.sort()
    expected = [texts.index(text) if text in texts else -1 for text in wanted]
    column = pa.chunked_array([pa.array(texts[:3], pa.large_string()), pa.array(texts[3:], pa.large_string())])
    assert find_sorted(column, pa.array(wanted, pa.large_string())).tolist() == expected
    assert Listing.of("/", texts).find(wanted).tolist() == expected


@given(st.lists(TEXT), st.integers(1, 9), st.integers(1, 3))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_tables_are_sorted_by_runs(texts: list[str], run_rows: int, samples: int) -> None:
    """Of the rows of one key, the first stays; no chunk is larger than its part."""
    numbers = range(len(texts))
    tables = [
        pa.table({"key": pa.array(texts[i : i + 4], pa.large_string()), "number": pa.array(numbers[i : i + 4], pa.int64())})
        for i in range(0, max(1, len(texts)), 4)
    ]
    first = dict(zip(reversed(texts), reversed(numbers), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "RUN_ROWS", run_rows)
        patch.setattr(ordering, "SAMPLES", samples)
        table, repeated = in_order(tables)
        assert tables == []
        assert table.to_pylist() == [{"key": text, "number": first[text]} for text in sorted(first)]
        assert repeated == len(texts) - len(first)
        rows = np.random.default_rng(len(texts)).permutation(len(table))[:5]
        assert take_rows(table, rows).equals(table.take(pa.array(rows, pa.int64())))
        assert take_rows(table, np.sort(rows)).equals(table.take(pa.array(np.sort(rows), pa.int64())))


def test_few_keys_are_found_among_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one then, as in an update of an archive that many updates have made."""
    keys = pa.chunked_array([pa.array([f"{number:06d}" for number in range(0, 4000, 2)], pa.large_string())])
    wanted = pa.array(["000000", "000001", "003998", "003999", "1", "0", "002000"], pa.large_string())
    expected = find_sorted(keys, wanted).tolist()
    monkeypatch.setattr(ordering, "FEW", 1)
    assert find_sorted(keys, wanted).tolist() == expected == [0, -1, 1999, -1, -1, -1, 1000]


def test_versions_of_files_are_no_dictionary() -> None:
    """Which could not hold those of 10^8 files."""
    finding = Finding("s3://x")
    finding.add("b", size_bytes=1, version="v")
    finding.add("a", size_bytes=2, version="w")
    table = finding.sorted_table("x")
    assert table.schema.field("version").type == pa.large_string()
    assert [item.version for item in Listing("s3://x", table).items(range(2))] == ["w", "v"]


@given(KEYS)
@settings(max_examples=500, deadline=None, derandomize=True)
def test_no_faulty_key_slips_through_in_a_table(key: str) -> None:
    keys = pa.array([key], pa.large_string())
    assert key_fault(key) is None or may_have_fault(keys)[0].as_py()
    finding = Finding("/")
    finding.add_table(pa.table({"key": keys}))
    table = finding.sorted_table("x")
    assert table.column("key").to_pylist() == ([] if key_fault(key) else [key])
    assert [failure.message for failure in finding.failures] == ([key_fault(key)] if key_fault(key) else [])


@given(st.lists(KEYS.filter(lambda key: key.strip() and not set(key) & set("\n\r"))))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_list_is_what_its_lines_are_one_by_one(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """The way of whole columns gives what the way of each path for itself gives."""
    path = tmp_path_factory.getbasetemp() / "in" / "list.txt"
    path.parent.mkdir(exist_ok=True)

    def outcome(text: bytes) -> object:
        path.write_bytes(text)
        try:
            found = list_inputs(str(path))
        except InputError as error:
            return str(error)
        return list(found.keys), sorted(failure.path for failure in found.failures), found.notes

    text = "\n".join(lines).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "SPECIAL", "")
        expected = outcome(text)
    assert outcome(text) == expected


def test_blocks_and_batches_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number % 7}/é{number:04d}.png" for number in np.random.default_rng(0).permutation(1000)]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "list.txt").write_text("\r\n".join([*names, *names[:10]]))
    whole = list_inputs(str(tmp_path / "in" / "list.txt"))
    monkeypatch.setattr(lists, "BLOCK_BYTES", 100)
    monkeypatch.setattr(listing, "BATCH", 64)
    for found in (whole, list_inputs(str(tmp_path / "in" / "list.txt")), list_inputs(str(tmp_path / "in"))):
        assert found.keys == sorted(names)
    assert "names 10 images more than once" in whole.notes[0]


def test_keys_are_a_sequence() -> None:
    keys = Listing.of("/", ["b", "a", "c"]).keys
    assert (keys[0], keys[-1], keys[1:], list(keys), len(keys), "b" in keys) == ("a", "c", ["b", "c"], ["a", "b", "c"], 3, True)
    assert keys == ["a", "b", "c"]
    assert keys != ["a", "b"]
    assert not Listing.of("/", []).keys
    assert "3 in all" in repr(keys)
