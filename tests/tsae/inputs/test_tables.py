"""Parquet files with a column of images, as Hugging Face lays them out."""

import json
import random
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsae.errors import ImageError, InputError, TsaeError
from tsae.inputs import Item, Listing, Read, list_inputs, map_inputs, tables

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(
    path: Path, names: list[str | None], labels: Any = None, contents: list[bytes | None] | None = None, **options: Any
) -> list[bytes | None]:
    """Writes a Parquet file of images with these names; returns their bytes."""
    contents = contents or [f"image {row} ".encode() * 50 for row in range(len(names))]
    cells = [{"bytes": content, "path": name} for content, name in zip(contents, names, strict=True)]
    columns = {"image": pa.array(cells, IMAGE)} | ({} if labels is None else {"label": labels})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(options.pop("metadata", None)), path, **options)
    return contents


def read_all(listing: Listing) -> dict[str, bytes | str]:
    """By key, the bytes of each image, or why it cannot be read."""

    def read_one(item: Item, read: Read) -> bytes | str:
        try:
            return read()[0]
        except ImageError as error:
            return str(error)

    items = listing.items(listing.rows)
    return {item.key: content for item, content in zip(items, map_inputs(read_one, items, listing.root), strict=True)}


def test_names_are_keys_where_they_can_be(tmp_path: Path) -> None:
    names: list[str | None] = ["b.png", "é/a.jpg", "c"]
    contents = write(tmp_path / "in.parquet", names)
    listing = list_inputs(str(tmp_path / "in.parquet"))
    assert (listing.root, listing.labels, listing.notes) == (f"{tmp_path}/in.parquet", {}, [])
    assert read_all(listing) == dict(zip(names, contents, strict=True))


@pytest.mark.parametrize(
    "names", [["a.png", "a.png"], ["a.png", None], ["a.png", ""], ["a.png", "../b.png"], ["a.png", "/b.png"]]
)
def test_row_numbers_are_keys_where_names_cannot_be(tmp_path: Path, names: list[str | None]) -> None:
    contents = write(tmp_path / "in.parquet", names)
    listing = list_inputs(str(tmp_path / "in.parquet"))
    assert read_all(listing) == {"000000000": contents[0], "000000001": contents[1]}
    assert "keys are row numbers" in listing.notes[0]


def test_names_that_are_all_missing_need_no_note(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", [None, None])
    assert list_inputs(str(tmp_path / "in.parquet")).notes == []


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.large_binary())])])
def test_bytes_of_several_types(tmp_path: Path, kind: pa.DataType) -> None:
    cells = [{"bytes": b"A"}, {"bytes": b"B"}] if pa.types.is_struct(kind) else [b"A", b"B"]
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), tmp_path / "in.parquet")
    assert read_all(list_inputs(str(tmp_path / "in.parquet"))) == {"000000000": b"A", "000000001": b"B"}


def test_several_files_are_folders_below_the_root(tmp_path: Path) -> None:
    first = write(tmp_path / "data" / "train-0.parquet", ["a.png", None], pa.array([1, 2]))
    second = write(tmp_path / "data" / "train-1.parquet", ["a.png", "b.png"], pa.array(["x", None]))
    expected = {
        "train-0.parquet/000000000": first[0], "train-0.parquet/000000001": first[1],
        "train-1.parquet/a.png": second[0], "train-1.parquet/b.png": second[1],
    }  # fmt: skip
    listing = list_inputs(f"{tmp_path}/data/*.parquet")
    assert (listing.root, read_all(listing)) == (f"{tmp_path}/data", expected)
    labels = {"train-0.parquet/000000000": "1", "train-0.parquet/000000001": "2", "train-1.parquet/a.png": "x"}
    assert listing.labels == labels
    (tmp_path / "list.txt").write_text("data/train-1.parquet\n")
    assert list_inputs(str(tmp_path / "list.txt")).keys == ["data/train-1.parquet/a.png", "data/train-1.parquet/b.png"]


def test_a_remote_file() -> None:
    table = pa.table({"image": pa.array([{"bytes": b"A" * 999, "path": "a.png"}], IMAGE), "label": ["x"]})
    with fsspec.filesystem("memory").open("/tables/in.parquet", "wb") as file:
        pq.write_table(table, file)
    listing = list_inputs("memory://tables/in.parquet")
    assert (read_all(listing), listing.labels) == ({"a.png": b"A" * 999}, {"a.png": "x"})


def test_a_column_path_makes_a_list(tmp_path: Path) -> None:
    table = pa.table({"path": ["x.png"], "image": pa.array([{"bytes": b"A", "path": "a.png"}], IMAGE)})
    pq.write_table(table, tmp_path / "in.parquet")
    listing = list_inputs(str(tmp_path / "in.parquet"))
    assert (listing.root, listing.keys) == (str(tmp_path), ["x.png"])


@pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.struct([("path", pa.string())]), pa.list_(pa.binary())])
def test_other_columns_are_refused(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"image": pa.array([None], kind), "other": [1]}), tmp_path / "in.parquet")
    for source in ("in.parquet", "*.parquet"):
        with pytest.raises(InputError, match=r"in\.parquet: no .*column.*image.*other") as caught:
            list_inputs(f"{tmp_path}/{source}")
        assert "\n" not in str(caught.value)


# Labels


def class_names(names: Any) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})}


@pytest.mark.parametrize(
    ("column", "metadata", "expected"),
    [
        (pa.array([3, None, -1]), None, ["3", None, "-1"]),
        (pa.array(["stop", "", "ÿ"]), None, ["stop", None, "ÿ"]),
        (pa.array(["stop", "stop", None]).dictionary_encode(), None, ["stop", "stop", None]),
        (pa.array([True, False, None]), None, ["true", "false", None]),
        (pa.array([1, -1, 7]), class_names(["stop", "yield"]), ["yield", None, "7"]),
        (pa.array([1, 0, None], pa.uint8()), class_names(["stop", "yield"]), ["yield", "stop", None]),
        (pa.array(["1", "0", None]), class_names(["stop", "yield"]), ["1", "0", None]),
        (pa.array([1, 0, 0]), class_names([1, 2]), ["1", "0", "0"]),
        (pa.array([1, 0, 0]), {"huggingface": "{"}, ["1", "0", "0"]),
        (pa.array([1, 0, 0]), {"huggingface": "[]"}, ["1", "0", "0"]),
    ],
)
def test_labels(tmp_path: Path, column: pa.Array, metadata: Any, expected: list[str | None]) -> None:
    write(tmp_path / "in.parquet", ["a", "b", "c"], column, metadata=metadata)
    listing = list_inputs(str(tmp_path / "in.parquet"))
    assert [item.label for item in listing.items(listing.rows)] == expected
    assert listing.notes == []


def test_labels_that_are_none_are_noted(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ["a"], pa.array([[1]]))
    assert "its column label is of type list" in list_inputs(str(tmp_path / "a.parquet")).notes[0]
    write(tmp_path / "a.parquet", ["a", "b"], pa.array(["x" * 5000, "good"]))
    listing = list_inputs(str(tmp_path / "a.parquet"))
    assert listing.labels == {"b": "good"}
    assert "1 labels of more than 4096 bytes" in listing.notes[0]


# Reading


def test_each_row_group_is_read_once_and_in_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str | None] = [f"{row:03d}" for row in range(200)]
    random.Random(0).shuffle(names)
    contents = write(tmp_path / "in.parquet", names, row_group_size=70)
    monkeypatch.setattr(tables, "READ_ROWS", 8)
    listing, read = list_inputs(str(tmp_path / "in.parquet")), []
    iterate = pq.ParquetFile.iter_batches

    def watched(self: pq.ParquetFile, *args: Any, **options: Any) -> Any:
        read.extend(options["row_groups"])
        return iterate(self, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    assert read_all(listing) == dict(zip(names, contents, strict=True))
    assert read == [0, 1, 2]
    some = listing.items(range(3, 5))
    results = map_inputs(lambda item, read: (item.key, read()[0]), some, listing.root)
    assert results == [(f"{row:03d}", contents[names.index(f"{row:03d}")]) for row in (3, 4)]


def test_a_row_without_bytes_is_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a.png").write_bytes(b"beside")
    names: list[str | None] = ["sub/a.png", "missing.png", "../secret.png", f"{tmp_path}/secret.png", "e.png", None]
    write(tmp_path / "in" / "in.parquet", names, contents=[None, None, None, None, b"E", None])
    contents = list(read_all(list_inputs(str(tmp_path / "in" / "in.parquet"))).values())
    assert (contents[0], contents[4]) == (b"beside", b"E")
    for content, reason in zip(
        contents[1:4] + contents[5:], ("No such file", "does not lie", "does not lie", "neither"), strict=True
    ):
        assert isinstance(content, str)
        assert reason in content


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: float) -> None:
    write(tmp_path / "in.parquet", ["a", "b"])
    data = (tmp_path / "in.parquet").read_bytes()
    (tmp_path / "in.parquet").write_bytes(data[: int(keep if keep >= 4 else keep * len(data))])
    for source in ("in.parquet", "*.parquet"):
        with pytest.raises(InputError, match=r"in\.parquet: no .*Parquet file") as caught:
            list_inputs(f"{tmp_path}/{source}")
        assert "\n" not in str(caught.value)


def test_damaged_pages_cost_their_row_group_or_the_listing_never_silence(tmp_path: Path) -> None:
    path, names = tmp_path / "in.parquet", [f"{row:03d}.png" for row in range(60)]
    contents = write(path, list(names), pa.array([str(row) for row in range(60)]), row_group_size=20, write_page_checksum=True)
    expected, data, failed = dict(zip(names, contents, strict=True)), path.read_bytes(), 0
    end = len(data) - int.from_bytes(data[-8:-4], "little") - 8  # pages, not the footer: that can stop the process
    for position in range(4, end, 401):
        path.write_bytes(data[:position] + b"\xff" * 8 + data[position + 8 :])
        try:
            listing = list_inputs(str(path))
        except TsaeError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        found = read_all(listing)
        assert len(found) == 60
        lost = {key for key, content in found.items() if isinstance(content, str)}
        failed += len(lost)
        intact = len(found) - len(lost)
        assert intact >= 40
    assert failed
    assert expected


def test_a_file_that_changes_after_it_was_listed_gives_no_wrong_image(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", ["a", "b"])
    listing = list_inputs(str(tmp_path / "in.parquet"))
    write(tmp_path / "in.parquet", ["0", "a", "b"])
    for content in read_all(listing).values():
        assert "has changed since it was listed; run the command again" in str(content)


def test_names_out_of_order_are_noted_where_it_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH", 2)
    write(tmp_path / "x.parquet", ["b.png", "a.png", "c.png"])
    write(tmp_path / "y.parquet", ["a.png", "b.png", "c.png"])
    listing = list_inputs(str(tmp_path / "x.parquet"))
    assert list(listing.keys) == ["a.png", "b.png", "c.png"]
    assert "sort it" in listing.notes[0]
    assert not list_inputs(str(tmp_path / "y.parquet")).notes


def test_large_cells_come_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "READ_BYTES", 1000)
    cells = [{"bytes": bytes([i]) * 600, "path": f"{i}.png"} for i in range(5)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "x.parquet")
    metadata = pq.ParquetFile(tmp_path / "x.parquet").metadata
    assert tables._rows_at_once(metadata, 0) == 1
    listing = list_inputs(str(tmp_path / "x.parquet"))
    assert read_all(listing) == {f"{i}.png": bytes([i]) * 600 for i in range(5)}


def test_remote_containers_are_listed_side_by_side_as_local_ones_in_turn(tmp_path: Path) -> None:
    for number in range(40):
        names: list[str | None] = [f"{number}/{row}.png" for row in range(3)]
        write(tmp_path / "in" / f"{number}.parquet", names, pa.array(["x", f"label {number}", None]))
    (tmp_path / "in" / "7.parquet").unlink()
    write(tmp_path / "in" / "7.parquet", ["same.png", "same.png"])
    local = list_inputs(f"{tmp_path}/in/*.parquet")
    fsspec.filesystem("memory").put(f"{tmp_path}/in", "/side by side", recursive=True)
    remote = list_inputs("memory://side by side/*.parquet")
    columns = ["key", "label", "container", "position"]
    rows = [listing.select(listing.rows).select(columns).to_pylist() for listing in (local, remote)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 39 * 3 + 2
    assert [len(listing.notes) for listing in (local, remote)] == [1, 1]
    (tmp_path / "in" / "9.parquet").write_bytes(b"no table")
    fsspec.filesystem("memory").put(f"{tmp_path}/in/9.parquet", "/side by side/9.parquet")
    with pytest.raises(InputError, match="9.parquet: no intact Parquet file"):
        list_inputs("memory://side by side/*.parquet")
