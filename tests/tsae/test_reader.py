"""What `open_archive` returns, on an archive of drawn signs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tsae
from tsae.errors import CorruptDataError, FormatError
from tsae.images import decode_image, resize
from tsae.metrics import psnr_db


def test_keys_are_the_paths_of_the_images(archive_dir: Path, signs_dir: Path) -> None:
    expected = sorted(path.relative_to(signs_dir).as_posix() for path in signs_dir.rglob("*.png"))
    with tsae.open_archive(str(archive_dir)) as archive:
        assert list(archive.keys()) == expected
        assert list(archive) == expected
        assert len(archive) == len(expected) == 40
        some = [key for key in expected if key.startswith("s")]
        assert list(archive.keys("s*")) == some
        assert expected[3] in archive
        assert "no.png" not in archive


def test_one_image_comes_back_like_its_original(archive_dir: Path, signs_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        for key in list(archive.keys())[:5]:
            original = resize(decode_image((signs_dir / key).read_bytes()))
            assert psnr_db(original[None], archive[key][None])[0] > 17


def test_rows_hold_original_sizes_and_labels(archive_dir: Path, signs_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        for row in archive.rows():
            image = decode_image((signs_dir / row["key"]).read_bytes())
            assert (row["width"], row["height"]) == image.size
            assert row["label"] == row["key"].split("/")[0]


def test_a_missing_key_is_a_key_error(archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive, pytest.raises(KeyError, match="nothing"):
        archive["nothing.png"]


def test_info_counts_every_file_but_the_model(archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        info = archive.info()
    files = {path.name: path.stat().st_size for path in archive_dir.rglob("*") if path.is_file()}
    model_bytes = files.pop("model.safetensors")
    assert info["model_bytes"] == model_bytes
    assert info["archive_bytes"] == sum(files.values())
    assert info["bytes_per_image"] == info["archive_bytes"] / 40
    assert (info["images"], info["failures"], info["raw_bytes_per_image"]) == (40, 0, 3072)
    assert (info["model"], info["format_version"]) == ("seed-8x8x8", 1)
    assert info["stream_bytes"] == 40 * 512


def test_another_model_is_refused_by_name(archive_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(archive_dir, tmp_path / "copy")
    model = copy / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    with tsae.open_archive(str(copy)) as archive:
        key = next(archive.keys())
        with pytest.raises(FormatError, match="model.safetensors.*SHA-256"):
            archive[key]


def test_a_flipped_byte_in_a_stream_is_never_a_picture(archive_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(archive_dir, tmp_path / "copy")
    with tsae.open_archive(str(archive_dir)) as archive:
        keys = list(archive.keys())
        stream = archive.record(keys[7]).streams[0]
    shard = next((copy / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[data.find(stream) + 100] ^= 1
    shard.write_bytes(data)
    with tsae.open_archive(str(copy)) as archive, pytest.raises(CorruptDataError):
        archive[keys[7]]


def test_a_future_archive_is_refused(archive_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(archive_dir, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(FormatError, match="99.*update"):
        tsae.open_archive(str(copy))


LIGHT = """
import sys
import tsae
with tsae.open_archive(sys.argv[1]) as archive:
    assert len(list(archive.rows())) == 40
assert "torch" not in sys.modules, "torch"
assert "apache_beam" not in sys.modules, "beam"
archive = tsae.open_archive(sys.argv[1])
archive[next(archive.keys())]
assert "apache_beam" not in sys.modules, "beam to decode"
"""


def test_listing_needs_no_torch_and_decoding_no_beam(archive_dir: Path) -> None:
    subprocess.run([sys.executable, "-c", LIGHT, str(archive_dir)], check=True)


def test_decoding_gives_uint8_of_the_network_size(archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        image = archive[next(archive.keys())]
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
