"""The static export: its layout, read back by this test alone; what it refuses; that it is safe and says the same each time."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tsae
from tests.tsae.web.many import draw_records, write_many
from tsae import archive as ar
from tsae.cli import main
from tsae.errors import InputError
from tsae.images import decode_image
from tsae.web import ServedArchive, export, export_web, read_page
from tsae.web.layout import to_block


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def segment(files: dict[str, bytes], place: dict[str, Any]) -> bytes:
    start = place.get("start", 0)
    return files[place["file"]][start : start + place["bytes"]] if "bytes" in place else files[place["file"]]


def read_block(files: dict[str, bytes], number: int) -> dict[str, Any]:
    """A block as docs/WEB.md tells it."""
    blocks = json.loads(files["archive.json"])["blocks"]
    rows = blocks["rows"][number]
    facts = zlib.decompress(segment(files, blocks["facts"][number]))
    names = ["stream_bytes", "lossless_bytes", "original_bytes", "width", "height", "label"]
    found: dict[str, Any] = {name: np.frombuffer(facts, "<u4", rows, 4 * i * rows) for i, name in enumerate(names)}
    found["psnr"] = np.frombuffer(facts, "<u2", rows, 24 * rows)
    found["coding"] = np.frombuffer(facts, "u1", rows, 26 * rows)
    labels = [None, *json.loads(facts[27 * rows :])]
    found["label"] = [labels[i] for i in found["label"]]
    found["keys"] = zlib.decompress(segment(files, blocks["keys"][number])).decode().split("\0")
    found["records"] = cut(segment(files, blocks["streams"][number]), found["stream_bytes"] + found["lossless_bytes"])
    originals = blocks["originals"][number]
    found["originals"] = [] if originals is None else cut(segment(files, originals), found["original_bytes"])
    return found


def cut(data: bytes, sizes: np.ndarray) -> list[bytes]:
    parts, place = [], 0
    for size in sizes[sizes > 0].tolist():
        part = data[place + 4 : place + 4 + size]
        assert zlib.crc32(part) == int.from_bytes(data[place : place + 4], "little")
        parts.append(part)
        place += 4 + size
    assert place == len(data)
    return parts


def check(files: dict[str, bytes], archive: tsae.Archive) -> None:
    description = json.loads(files["archive.json"])
    assert description["counts"] == dataclasses.asdict(archive.manifest.counts)
    table, start = archive.to_table(), 0
    for number, rows in enumerate(description["blocks"]["rows"]):
        block, part = read_block(files, number), table.slice(start, rows).to_pydict()
        assert block["keys"] == part["key"]
        assert block["label"] == part["label"]
        assert (description["blocks"]["first"][number], description["blocks"]["last"][number]) == (
            min(part["key"]),
            max(part["key"]),
        )
        assert block["coding"].tolist() == part["coding"]
        assert block["width"].tolist() == part["width"]
        assert block["height"].tolist() == part["height"]
        assert [None if p == 0xFFFF else p / 64 for p in block["psnr"].tolist()] == part["psnr_db"]
        assert block["records"] == [s + (x or b"") for s, x in zip(part["stream"], part["lossless"], strict=True)]
        start += rows
    assert start == len(archive)


@pytest.mark.parametrize("block_rows", [4096, 7])
def test_all_that_an_archive_has_is_in_its_export(
    block_rows: int, archive_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "BLOCK_RECORDS", block_rows)
    monkeypatch.setattr(export, "FILE_BYTES", 1500 if block_rows == 7 else 2**24)
    export_web(str(archive_dir), str(tmp_path / "web"))
    files = contents(tmp_path / "web")
    with tsae.open_archive(str(archive_dir)) as archive:
        check(files, archive)
    assert sum(name.startswith("streams/") for name in files) == (1 if block_rows == 4096 else 6)
    assert sum(name.startswith("keys/") for name in files) == 1


def test_shards_and_blocks_need_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.tsae.web.many.SHARD_RECORDS", 13)
    monkeypatch.setattr(export, "BLOCK_RECORDS", 20)
    write_many(tmp_path / "archive", 50, drawn=20)
    export_web(str(tmp_path / "archive"), str(tmp_path / "web"))
    with tsae.open_archive(str(tmp_path / "archive")) as archive:
        files = contents(tmp_path / "web")
        check(files, archive)
        assert json.loads(files["archive.json"])["blocks"]["rows"] == [20, 20, 10]
        assert any(read_block(files, 0)["lossless_bytes"]) or any(read_block(files, 1)["lossless_bytes"])


def test_a_served_archive_has_the_same_layout(archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        served = ServedArchive(archive)
        description = json.loads(served.read("archive.json"))
        places = [place for kind in ("facts", "keys", "streams") for place in description["blocks"][kind]]
        files = {place["file"]: served.read(place["file"]) for place in [*places, description["model"]]}
        check({**files, "archive.json": served.read("archive.json")}, archive)
        for name in ("nothing", "../secret", "facts/000099-0123456789abcdef.bin", "facts/000000-0123456789abcdef.bin"):
            with pytest.raises(KeyError):
                served.read(name)
        assert b"<main" in served.read("index.html")


def test_originals_lie_beside(archive_dir: Path, signs_dir: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    shutil.copytree(signs_dir, some)
    with tsae.open_archive(str(archive_dir)) as archive:
        gone = archive.files.shard_records(0).keys[3]
    (some / gone).unlink()
    done = export_web(str(archive_dir), str(tmp_path / "web"), originals=str(some))
    block = read_block(contents(tmp_path / "web"), 0)
    assert done.originals == len(block["originals"]) == len(block["keys"]) - 1
    assert block["original_bytes"][3] == 0
    assert decode_image(block["originals"][0]).size == (32, 32)


def test_a_list_of_originals_may_have_a_root(archive_dir: Path, signs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(str(path.relative_to(signs_dir)) for path in signs_dir.rglob("*.png")))
    for name, flags in (("list", [str(tmp_path / "list.txt"), "--root", str(signs_dir)]), ("folder", [str(signs_dir)])):
        assert main(["export-web", str(archive_dir), str(tmp_path / name), "--originals", *flags]) == 0
    assert contents(tmp_path / "list") == contents(tmp_path / "folder")


def test_an_export_says_the_same_each_time(archive_dir: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_web(str(archive_dir), str(tmp_path / name))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_overwriting_leaves_nothing_of_the_old_state(archive_dir: Path, tmp_path: Path) -> None:
    write_many(tmp_path / "other", 30, drawn=10, model="seed-8x8x8")
    export_web(str(tmp_path / "other"), str(tmp_path / "web"))
    with pytest.raises(InputError, match="--overwrite"):
        export_web(str(archive_dir), str(tmp_path / "web"))
    export_web(str(archive_dir), str(tmp_path / "web"), overwrite=True)
    export_web(str(archive_dir), str(tmp_path / "fresh"))
    assert contents(tmp_path / "web") == contents(tmp_path / "fresh")


def test_a_folder_with_other_things_is_refused(archive_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "thesis.txt").write_text("mine")
    assert main(["export-web", str(archive_dir), str(tmp_path / "web"), "--overwrite"]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert main(["export-web", str(archive_dir), str(archive_dir / "web")]) == 2
    assert main(["export-web", str(tmp_path), str(tmp_path / "new")]) == 2
    assert [path.name for path in (tmp_path / "web").iterdir()] == ["thesis.txt"]


def test_what_a_killed_export_leaves_is_taken_over(archive_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(Exception):
        pass

    def die(*args: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(export, "describe", die)
        with pytest.raises(KilledError):
            export_web(str(archive_dir), str(tmp_path / "web"))
    assert "archive.json" not in contents(tmp_path / "web")
    assert contents(tmp_path / "web")
    export_web(str(archive_dir), str(tmp_path / "web"))


def test_a_damaged_archive_is_refused_and_an_earlier_export_stays(archive_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(archive_dir, tmp_path / "archive")
    export_web(str(tmp_path / "archive"), str(tmp_path / "web"))
    before = contents(tmp_path / "web")
    shard = next((tmp_path / "archive" / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert main(["export-web", str(tmp_path / "archive"), str(tmp_path / "web"), "--overwrite"]) == 2
    assert contents(tmp_path / "web") == before


def test_the_command_says_what_it_wrote(
    archive_dir: Path, signs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export-web", str(archive_dir), str(tmp_path / "web"), "--originals", str(signs_dir)]) == 0
    files = contents(tmp_path / "web")
    assert f"40 images, 40 originals, {len(files)} files of {sum(map(len, files.values())):,} bytes" in capsys.readouterr().out


def test_to_s3(archive_dir: Path, s3_folder: str) -> None:
    export_web(str(archive_dir), f"{s3_folder}/web")
    assert "archive.json" in ar.Folder(f"{s3_folder}/web").sizes_bytes()


def test_labels_and_psnr_may_be_missing() -> None:
    records = dataclasses.replace(ar.bare_records([b"a", b"bc"], np.full(2, 6, np.uint8), [None, None]), keys=["k", "l"])
    block = to_block(records)
    facts = zlib.decompress(block.facts)
    assert np.frombuffer(facts, "<u2", 2, 48).tolist() == [0xFFFF, 0xFFFF]
    assert json.loads(facts[54:]) == []


def test_drawn_records_are_what_tests_take_them_for() -> None:
    records, images = draw_records(18)
    assert len(set(records.codings.tolist())) >= 3
    assert sum(x is not None for x in records.lossless) == 2
    assert images.shape == (18, 32, 32, 3)


def test_all_modules_of_the_page_are_fetched_at_once() -> None:
    page = read_page()
    index = page["index.html"].decode()
    behind_workers = {"worker.js", "crc32.js"}
    modules = {name for name in page if name.endswith(".js") and name.rpartition("/")[2] not in behind_workers}
    assert {href.removeprefix("./") for href in re.findall(r'rel="modulepreload" href="([^"]+)"', index)} == modules
