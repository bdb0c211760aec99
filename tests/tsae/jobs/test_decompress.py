"""Output names, as an algorithm: whatever the keys, no two images meet. And what outputs tell of their origin."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tsae
from tsae import archive as ar
from tsae import paths
from tsae.errors import InputError
from tsae.jobs import decompress
from tsae.jobs.output_names import find_whole_names, output_name
from tsae.png import read_head

PARTS = st.lists(
    st.sampled_from(["a", "b", "a.png", "a.jpg", "a.png.png", "a.jpg.png", "b.bmp", ".png", "a.png.jpg"]),
    min_size=1,
    max_size=3,
)


def is_file_tree(names: list[str]) -> bool:
    """Whether files of these names can lie in one folder: none twice, none a folder of another."""
    return len(set(names)) == len(names) and not any(other.startswith(f"{name}/") for name in names for other in names)


@given(st.sets(PARTS.map("/".join), max_size=12).filter(lambda keys: is_file_tree(list(keys))))
def test_outputs_never_meet(keys: set[str]) -> None:
    whole = find_whole_names(keys)
    names = [output_name(key, whole) for key in keys]
    assert len(set(names)) == len(names)
    assert all(name.endswith(".png") for name in names)
    assert all(name.startswith(key.rpartition(".")[0]) for name, key in zip(names, keys, strict=True))


def test_only_those_that_meet_keep_their_endings() -> None:
    keys = ["a.png", "a.jpg", "b.jpg", "c.ppm", "d/a.png"]
    assert find_whole_names(keys) == {"a.png", "a.jpg"}


def test_outputs_tell_the_stored_checksum_and_the_model(archive_dir: Path, tmp_path: Path) -> None:
    job, _, _ = decompress.plan(str(archive_dir), str(tmp_path / "out"), None, False, False)
    decompress.write_images(decompress.decode_images(decompress.read_records(0, job), job), job)
    files = ar.ArchiveFiles(str(archive_dir))
    rows = files.shard(0).columns(["key", "crc32"])
    assert len(rows) == 40
    for row in rows:
        tag = f"{row['crc32']:08x} {files.manifest.model_sha256[:16]}"
        assert read_head((tmp_path / "out" / row["key"]).read_bytes()) == ((32, 32), tag)


def test_an_output_that_is_there_costs_one_bounded_read(
    archive_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _, _ = decompress.plan(str(archive_dir), str(tmp_path / "out"), None, False, False)
    decompress.write_images(decompress.decode_images(decompress.read_records(0, job), job), job)
    read, sizes = paths.Folder.read, []

    def counted(folder: paths.Folder, name: str, most_bytes: int | None = None) -> bytes:
        sizes.append(most_bytes)
        return read(folder, name, most_bytes)

    monkeypatch.setattr(paths.Folder, "read", counted)
    assert decompress.read_records(0, job).present == 40
    assert sizes == [128] * 40


def test_a_place_that_does_not_answer_is_an_error_of_one_line(archive_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(path: str) -> None:
        raise OSError(f"{path}: EndpointConnectionError:\nno answer")

    monkeypatch.setattr(paths, "kind", silent)
    with pytest.raises(InputError, match="cannot be reached .*no answer") as caught:
        decompress.plan(str(archive_dir), "s3://bucket/out", None, False, False)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_missing_is_asked_for_once_and_not_each_of_its_files(
    archive_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr(ar.Folder, "read", lambda folder, name, *args: read.append(name) or REAL_READ(folder, name, *args))
    job, _, images = decompress.plan(str(archive_dir), str(tmp_path / "out"), None, False, False)
    assert len(decompress.read_records(0, job).records) == images
    assert not [name for name in read if name.endswith(".png")]
    decompress.decompress_shard(0, job)
    read.clear()
    assert decompress.read_records(0, job).present == images
    assert len([name for name in read if name.endswith(".png")]) == images


REAL_READ = ar.Folder.read


def test_a_place_below_a_file_is_taken(archive_dir: Path, tmp_path: Path) -> None:
    job, _, _ = decompress.plan(str(archive_dir), str(tmp_path / "out"), None, False, False)
    (tmp_path / "out").mkdir()
    folder = next(name for name in (output_name(key, frozenset()) for key in all_keys(archive_dir)) if "/" in name).split("/")[
        0
    ]
    (tmp_path / "out" / folder).write_text("mine")
    failures = decompress.read_records(0, job).failures
    assert failures
    assert {failure.error for failure in failures} == {"FileExistsError"}


def all_keys(archive: Path) -> list[str]:
    with tsae.open_archive(str(archive)) as opened:
        return list(opened)
