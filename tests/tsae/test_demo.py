"""The demo's folder: only a new or empty one, or an earlier demo's, is ever written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsae import demo
from tsae.demo import DemoFolders, draw_images
from tsae.errors import InputError


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DEMO_IMAGES", 3)


def refusal(base: Path) -> str:
    with pytest.raises(InputError) as caught:
        draw_images(DemoFolders(base))
    message = str(caught.value)
    assert message.startswith(f"{base}: ")
    assert "\n" not in message
    assert "--out" in message
    return message


@pytest.mark.parametrize("name", ["images", "archive", "decompressed"])
def test_a_folder_of_ones_own_is_no_earlier_demo(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name / "labels.csv"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert f"({name})" in refusal(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["new", "new/below", ""])
def test_a_new_or_empty_folder_is_taken_and_taken_again(tmp_path: Path, name: str) -> None:
    folders = DemoFolders(tmp_path / name)
    for _ in range(2):
        draw_images(folders)
        assert folders.marker.is_file()
        assert len(list(folders.images.rglob("*.png"))) == 3


def test_a_demo_that_was_killed_while_drawing_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        (tmp_path / "demo" / "images").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "write_signs", killed)
        with pytest.raises(KeyboardInterrupt):
            draw_images(DemoFolders(tmp_path / "demo"))
    draw_images(DemoFolders(tmp_path / "demo"))


def test_a_file_or_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refusal(tmp_path / "file")
    assert "cannot be written" in refusal(tmp_path / "file" / "below")
    assert "cannot be written" in refusal(tmp_path / ("n" * 300))
