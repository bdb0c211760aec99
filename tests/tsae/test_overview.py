"""Contact sheets of selections: which images stand where, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tsae
from tsae.cli import main
from tsae.images import decode_image, resize


def enlarged(image: np.ndarray) -> np.ndarray:
    return image.repeat(3, axis=0).repeat(3, axis=1)


def where(sheet: np.ndarray, image: np.ndarray) -> tuple[int, int] | None:
    """Top and left of an enlarged image in a sheet."""
    block = enlarged(image)
    for y, x in np.argwhere((sheet == block[0, 0]).all(-1)):
        if np.array_equal(sheet[y : y + len(block), x : x + len(block)], block):
            return int(y), int(x)
    return None


def test_a_sheet_shows_the_worst_first_below_their_originals(
    archive_dir: Path, signs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "sheet.png"
    command = ["sheet", str(archive_dir), "-o", str(out), "--originals", str(signs_dir), "--sort", "psnr", "--limit", "5"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{out}: 5 images\n"
    sheet = np.asarray(Image.open(out))
    with tsae.open_archive(str(archive_dir)) as archive:
        keys = list(archive.keys(tsae.Selection(sort="psnr", limit=5)))
        below = [where(sheet, archive[key]) for key in keys]
    above = [where(sheet, resize(decode_image((signs_dir / key).read_bytes()))) for key in keys]
    assert None not in [*above, *below]
    assert [x for _, x in above] == [x for _, x in below] == sorted(x for _, x in below)
    assert all(upper[0] + 96 <= lower[0] <= upper[0] + 104 for upper, lower in zip(above, below, strict=True))


def test_a_list_of_originals_may_have_a_root(archive_dir: Path, signs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(str(path.relative_to(signs_dir)) for path in signs_dir.rglob("*.png")))
    command = ["sheet", str(archive_dir), "--limit", "5", "-o"]
    for name, flags in (("list", ["list.txt", "--root", str(signs_dir)]), ("folder", [str(signs_dir)])):
        flags[0] = str(tmp_path / flags[0])
        assert main([*command, str(tmp_path / f"{name}.png"), "--originals", *flags]) == 0
    assert (tmp_path / "list.png").read_bytes() == (tmp_path / "folder.png").read_bytes()


def test_a_sheet_without_originals_shows_a_glob(archive_dir: Path, tmp_path: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        keys = list(archive)
        some = keys[0].split("/")[0]
        inside, outside = archive[keys[0]], next(archive[key] for key in keys if not key.startswith(some))
    for ending in ("png", "webp"):
        assert main(["sheet", str(archive_dir), f"{some}/*", "-o", str(tmp_path / f"s.{ending}")]) == 0
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert where(sheet, inside)
    assert where(sheet, outside) is None
    assert Image.open(tmp_path / "s.webp").size == sheet.shape[1::-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["none*", "-o", "s.png"], "no image is selected"),
        (["-o", "s.gif"], "the ending is none of"),
        (["-o", "s"], "the ending is none of"),
        (["-o", "s.png", "--originals", "nowhere"], "nowhere: not there"),
        (["-o", "s.png", "--root", "here"], "--root here: is for a list of originals"),
        (["-o", "folder.png"], "cannot be written"),
        (["-o", "s.png", "--after", "none"], "no image of that key"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    archive_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    assert main(["sheet", str(archive_dir), *flags]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_an_original_that_is_no_image_is_named(archive_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        key = next(archive.keys())
    (tmp_path / key).parent.mkdir(parents=True)
    (tmp_path / key).write_bytes(b"no image")
    assert main(["sheet", str(archive_dir), key, "-o", str(tmp_path / "s.png"), "--originals", str(tmp_path)]) == 2
    assert f"{tmp_path}: {key}: the original " in capfd.readouterr().err
