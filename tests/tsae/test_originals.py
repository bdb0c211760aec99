"""Originals by key, from each kind of INPUT: single ones, and all of them listed."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tsae.errors import ImageError, InputError
from tsae.originals import MissingError, Originals, open_originals


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, and a file beside their folder."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (10 + i, 5), (i, 100, 200)).save(tmp_path / "in" / "a" / f"{i}.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "outside.png")
    return tmp_path / "in"


def as_folder(folder: Path) -> Path:
    return folder


def as_glob(folder: Path) -> Path:
    return folder / "**/*.png"


def as_list(folder: Path) -> Path:
    (folder / "list.txt").write_text("a/0.png\na/1.png\n")
    return folder / "list.txt"


def as_tar(folder: Path) -> Path:
    with tarfile.open(folder / "x.tar", "w") as tar:
        tar.add(folder / "a", "a")
    return folder / "x.tar"


def as_parquet(folder: Path) -> Path:
    names = ["a/0.png", "a/1.png"]
    images = [{"bytes": (folder / name).read_bytes(), "path": name} for name in names]
    pq.write_table(pa.table({"image": images}), folder / "x.parquet")
    return folder / "x.parquet"


@pytest.mark.parametrize("make", [as_folder, as_glob, as_list, as_tar, as_parquet])
def test_each_kind_of_input_has_its_originals(folder: Path, make: object) -> None:
    from tsae.inputs import list_inputs

    source = str(make(folder))  # type: ignore[operator]
    keys = [str(key) for key in list_inputs(source).keys]
    assert len(keys) == 2
    found = Originals(source).map(np.asarray, [keys[1], "no/such.png", keys[0], "../outside.png"])
    assert [isinstance(each, ImageError) for each in found] == [False, True, False, True]
    assert [each.shape for each in found if isinstance(each, np.ndarray)] == [(5, 11, 3), (5, 10, 3)]
    assert isinstance(found[1], MissingError) == (make is not as_folder)  # of a folder that nobody has listed


@pytest.mark.parametrize("make", [as_folder, as_glob, as_list, as_tar, as_parquet])
def test_listed_ones_are_counted_and_told_from_missing_ones(folder: Path, make: object) -> None:
    originals = Originals(str(make(folder)), is_listed=True)  # type: ignore[operator]
    first, second = originals.listing.keys
    found = originals.map(lambda image: image.size, [second, "no/such.png", first])
    assert (found[0], found[2]) == ((11, 5), (10, 5))
    assert isinstance(found[1], MissingError)


def test_listed_ones_have_their_labels(folder: Path) -> None:
    (folder / "labels.csv").write_text("path,label\na/1.png,stop\n")
    originals = Originals(str(folder), is_listed=True)
    assert originals.labels(["a/1.png", "no/such.png", "a/0.png"]) == ["stop", None, None]


def test_a_folder_is_not_listed_for_single_keys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsae.originals.list_inputs", None)
    originals = Originals(str(folder))
    assert originals.map(lambda image: image.size, ["a/1.png"]) == [(11, 5)]
    with pytest.raises(ValueError, match="is not listed"):
        originals.listing


def test_a_list_may_have_another_root(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    listed = tmp_path / "lists" / "list.txt"
    listed.write_text("a/0.png\na/1.png\n")
    assert Originals(str(listed), str(folder)).map(lambda image: image.size, ["a/1.png"]) == [(11, 5)]
    with pytest.raises(InputError, match=r"--root .*: is for lists"):
        Originals(str(folder), str(folder))


def test_a_root_needs_originals() -> None:
    assert open_originals(None) is None
    with pytest.raises(InputError, match="--root here: is for a list of originals; name that with --originals"):
        open_originals(None, "here")


def test_what_is_no_image_is_an_error_of_its_own(folder: Path) -> None:
    (folder / "a" / "0.png").write_text("text")
    broken, intact = Originals(str(folder)).map(lambda image: image.size, ["a/0.png", "a/1.png"])
    assert isinstance(broken, ImageError)
    assert intact == (11, 5)


def test_an_input_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not there"):
        Originals(str(tmp_path / "none"))
