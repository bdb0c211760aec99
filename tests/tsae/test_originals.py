"""Originals by key, from each kind of INPUT."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tsae.errors import ImageError, InputError
from tsae.originals import Originals


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
    assert [type(each) for each in found] == [np.ndarray, ImageError, np.ndarray, ImageError]
    assert [each.shape for each in found if isinstance(each, np.ndarray)] == [(5, 11, 3), (5, 10, 3)]


def test_what_is_no_image_is_an_error_of_its_own(folder: Path) -> None:
    (folder / "a" / "0.png").write_text("text")
    broken, intact = Originals(str(folder)).map(lambda image: image.size, ["a/0.png", "a/1.png"])
    assert isinstance(broken, ImageError)
    assert intact == (11, 5)


def test_an_input_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not there"):
        Originals(str(tmp_path / "none"))
