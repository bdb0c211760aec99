"""A listing's columns against plain Python, at sizes that cross batches."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.archive.records import key_fault
from tsae.errors import InputError
from tsae.inputs import Listing, list_inputs, listing, lists
from tsae.inputs.listing import Finding, find_sorted, may_have_fault

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PARTS = st.sampled_from(["a", "b.png", "..", ".", "", "C:", "é", "x\0", "a..", ".a", "\n", "https:", "A" * 5000])
KEYS = st.lists(PARTS, min_size=1, max_size=4).map("/".join) | TEXT


@given(st.lists(TEXT, unique=True), st.lists(TEXT))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_rows_are_found(texts: list[str], wanted: list[str]) -> None:
    texts.sort()
    expected = [texts.index(text) if text in texts else -1 for text in wanted]
    column = pa.array(texts, pa.large_string())
    assert find_sorted(column, pa.array(wanted, pa.large_string())).tolist() == expected
    assert Listing.of("/", texts).find(wanted).tolist() == expected


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
