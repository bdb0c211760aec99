"""Labels of files: labels.csv, GTSRB's tables, names of folders, and which of them counts."""

from pathlib import Path

import fsspec
import pytest

from tsae.errors import InputError
from tsae.inputs import labels, list_inputs


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def table(*names: str) -> str:
    """As GTSRB writes them; the class of an image is the number that its name starts with."""
    rows = [f"{name};30;30;5;5;25;25;{int(name.split('_')[0])}" for name in names]
    return "\r\n".join(["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", *rows, ""])


# Names of folders


def test_folders_of_one_depth_give_labels(tmp_path: Path) -> None:
    touch(tmp_path, "Train/0/a.png", "Train/14/b.png", "Train/14/c.png", "note.txt")
    listing = list_inputs(str(tmp_path))
    assert listing.labels == {"Train/0/a.png": "0", "Train/14/b.png": "14", "Train/14/c.png": "14"}
    assert listing.notes == ["labels: 2 folder names; a labels.csv with only the line path,label gives none"]


@pytest.mark.parametrize("name", ["new\nline", "ÿ", "with space", "a.b"])
def test_any_folder_name_is_a_label(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"{name}/a.png", "other/b.png")
    assert list_inputs(str(tmp_path)).labels == {f"{name}/a.png": name, "other/b.png": "other"}


@pytest.mark.parametrize(
    "names", [["a.png", "b.png"], ["0/a.png", "0/b.png"], ["0/a.png", "1/b.png", "c.png"], ["0/a.png", "1/x/b.png"]]
)
def test_other_trees_give_none(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *names)
    listing = list_inputs(str(tmp_path))
    assert (listing.labels, listing.notes) == ({}, [])


def test_globs_and_lists_give_none(tmp_path: Path) -> None:
    touch(tmp_path, "0/a.png", "1/b.png")
    (tmp_path / "list.txt").write_text("0/a.png\n1/b.png\n")
    assert list_inputs(f"{tmp_path}/*/*.png").labels == {}
    assert list_inputs(str(tmp_path / "list.txt")).labels == {}


def test_remote_folders_give_labels_too() -> None:
    for name in ("0/a.png", "1/b.png"):
        fsspec.filesystem("memory").pipe_file(f"/tree/{name}", b"")
    assert list_inputs("memory://tree").labels == {"0/a.png": "0", "1/b.png": "1"}


# GTSRB's tables


def test_tables_of_gtsrb_in_each_folder(tmp_path: Path) -> None:
    touch(tmp_path, "00000/00000_00000.ppm", "00014/00014_00000.ppm", "00014/unknown.ppm")
    (tmp_path / "00000" / "GT-00000.csv").write_text(table("00000_00000.ppm"))
    (tmp_path / "00014" / "GT-00014.csv").write_text(table("00014_00000.ppm", "00014_00001.ppm"))
    listing = list_inputs(str(tmp_path))
    assert listing.labels == {"00000/00000_00000.ppm": "0", "00014/00014_00000.ppm": "14"}
    assert listing.notes == ["labels: of 2 images, from the column ClassId of GT-*.csv"]


def test_the_table_of_test_images(tmp_path: Path) -> None:
    touch(tmp_path, "1_a.ppm", "2_b.ppm")
    (tmp_path / "GT-final_test.test.csv").write_text("Filename;Width\n1_a.ppm;3\n")
    assert list_inputs(str(tmp_path)).labels == {}
    (tmp_path / "GT-final_test.csv").write_text(table("1_a.ppm", "2_b.ppm"))
    assert list_inputs(str(tmp_path)).labels == {"1_a.ppm": "1", "2_b.ppm": "2"}


def test_tables_that_name_no_image_leave_it_to_folders(tmp_path: Path) -> None:
    touch(tmp_path, "0/a.png", "1/b.png")
    (tmp_path / "0" / "GT-0.csv").write_text(table("7_c.ppm"))
    assert list_inputs(str(tmp_path)).labels == {"0/a.png": "0", "1/b.png": "1"}


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "0/a.png")
    (tmp_path / "0" / "GT-0.csv").write_bytes(b"Filename;ClassId\n\xff;1\n")
    with pytest.raises(InputError, match=r"0/GT-0\.csv: labels cannot be read .*; fix or remove the file"):
        list_inputs(str(tmp_path))


# Which counts


def test_labels_csv_counts_alone(tmp_path: Path) -> None:
    touch(tmp_path, "0/1_a.png", "1/1_b.png")
    (tmp_path / "0" / "GT-0.csv").write_text(table("1_a.png"))
    (tmp_path / "labels.csv").write_text("path,label\n1/1_b.png,mine\n")
    assert list_inputs(str(tmp_path)).labels == {"1/1_b.png": "mine"}
    (tmp_path / "labels.csv").write_text("path,label\n")
    listing = list_inputs(str(tmp_path))
    assert (listing.labels, listing.notes) == ({}, [])


def test_the_last_row_of_a_key_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "BATCH", 3)
    touch(tmp_path, *(f"{number}.png" for number in range(10)))
    rows = [f"{number % 10}.png,{number}" for number in (3, 1, 14, 1, 5, 9, 2, 6, 15, 3, 5, 21)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows, "elsewhere.png,1"]))
    expected = {"1.png": "21", "2.png": "2", "3.png": "3", "4.png": "14", "5.png": "5", "6.png": "6", "9.png": "9"}
    assert list_inputs(str(tmp_path)).labels == expected
