"""What `open_archive` returns, on an archive of drawn signs."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tsae
from tsae.cli import main
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


def test_info_counts_every_file_but_model_and_provenance(archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        info = archive.info()
    files = {path.relative_to(archive_dir).as_posix(): path.stat().st_size for path in archive_dir.rglob("*") if path.is_file()}
    model_bytes = files.pop("model.safetensors")
    provenance = [name for name in files if name.startswith("provenance/")]
    assert info["provenance_bytes"] == sum(files.pop(name) for name in provenance) > 0
    assert info["model_bytes"] == model_bytes
    assert info["archive_bytes"] == sum(files.values())
    assert info["bytes_per_image"] == info["archive_bytes"] / 40
    assert (info["images"], info["failures"], info["raw_bytes_per_image"]) == (40, 0, 3072)
    assert (info["model"], info["format_version"]) == ("tsae", 1)
    assert (info["quality"], info["target"]) == (5, None)
    assert 40 * 20 < info["stream_bytes"] < 40 * 400
    assert (info["lossless"], info["lossless_bytes"], info["min_psnr_db"]) == (0, 0, None)
    assert json.loads(json.dumps(info)) == info


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
    data[data.find(stream) + len(stream) // 2] ^= 1
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


LATENTS = """
import sys
import numpy as np
import tsae
with tsae.open_archive(sys.argv[1]) as archive:
    np.save(sys.argv[2], archive.latents(list(archive)[5::-1]))
    assert archive.to_table().num_rows == 40
    assert next(iter(archive)) in archive
assert "torch" not in sys.modules, "torch"
"""


def test_latents_are_the_codecs_and_need_no_torch(archive_dir: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LATENTS, str(archive_dir), str(tmp_path / "latents.npy")], check=True)
    latents = np.load(tmp_path / "latents.npy")
    assert (latents.shape, latents.dtype) == ((6, 32, 8, 8), np.int16)
    with tsae.open_archive(str(archive_dir)) as archive:
        keys = list(archive)[5::-1]
        np.testing.assert_array_equal(latents, np.concatenate([archive.codec.latents(archive.record(key)) for key in keys]))
        np.testing.assert_array_equal(archive.latents(keys), latents)
        assert archive.latents([]).shape == (0, 32, 8, 8)


@pytest.fixture(scope="module")
def seed_archive(signs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the model whose latents are stored as they are."""
    archive = tmp_path_factory.mktemp("seed") / "signs"
    assert main(["compress", str(signs_dir), str(archive), "--model", "seed-8x8x8"]) == 0
    return archive


def test_plain_latents_are_the_streams(seed_archive: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LATENTS, str(seed_archive), str(tmp_path / "latents.npy")], check=True)
    latents = np.load(tmp_path / "latents.npy")
    assert (latents.shape, latents.dtype) == ((6, 8, 8, 8), np.int8)
    with tsae.open_archive(str(seed_archive)) as archive:
        assert [one.tobytes() for one in latents] == [archive.record(key).streams[0] for key in list(archive)[5::-1]]
        info = archive.info()
    assert (info["model"], info["quality"], info["target"], info["stream_bytes"]) == ("seed-8x8x8", None, None, 40 * 512)


def test_coded_latents_need_the_model_and_plain_ones_do_not(archive_dir: Path, seed_archive: Path, tmp_path: Path) -> None:
    for source, is_coded in ((archive_dir, True), (seed_archive, False)):
        copy = Path(shutil.copytree(source, tmp_path / f"{is_coded}"))
        (copy / "model.safetensors").unlink()
        with tsae.open_archive(str(copy)) as archive:
            keys = list(archive)[:3]
            if not is_coded:
                assert archive.latents(keys).shape == (3, 8, 8, 8)
                continue
            with pytest.raises(tsae.TsaeError, match=r"model\.safetensors"):
                archive.latents(keys)


def test_a_closed_archive_reads_again(archive_dir: Path) -> None:
    archive = tsae.open_archive(str(archive_dir))
    keys = list(archive)[:2]
    before = archive.latents(keys)
    archive.close()
    np.testing.assert_array_equal(archive.latents(keys), before)


@pytest.fixture(scope="module")
def pictures(archive_dir: Path) -> np.ndarray:
    """All pictures in the order of positions, each found by its key."""
    with tsae.open_archive(str(archive_dir)) as archive:
        return np.stack([archive[key] for key in archive])


@pytest.mark.parametrize("position", [0, 1, 39, -1, -40, np.int64(7)])
def test_a_position_is_that_of_the_key(archive_dir: Path, pictures: np.ndarray, position: int) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        np.testing.assert_array_equal(archive[position], pictures[position])
        np.testing.assert_array_equal(archive[position], archive[list(archive)[position]])


@pytest.mark.parametrize("position", [40, -41, 10**12])
def test_a_position_that_is_not_there_is_an_index_error(archive_dir: Path, position: int) -> None:
    with (
        tsae.open_archive(str(archive_dir)) as archive,
        pytest.raises(IndexError, match=f"position {position}: .* has 40 images"),
    ):
        archive[position]


@pytest.mark.parametrize(
    "part",
    [
        slice(None),
        slice(3, 7),
        slice(-5, None),
        slice(None, None, -1),
        slice(35, 2, -9),
        slice(0, 400, 13),
        slice(7, 7),
        slice(90, 99),
        slice(5, 3),
    ],
)
def test_slices_are_those_of_a_list(archive_dir: Path, pictures: np.ndarray, part: slice) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        found = archive[part]
    assert found.dtype == np.uint8
    assert found.shape == pictures[part].shape
    np.testing.assert_array_equal(found, pictures[part])


def test_pictures_come_in_the_order_asked_for(archive_dir: Path, pictures: np.ndarray) -> None:
    rows = [7, 3, 3, 39, 0, 7]
    with tsae.open_archive(str(archive_dir)) as archive:
        keys = list(archive)
        np.testing.assert_array_equal(archive.decode([keys[row] for row in rows]), pictures[rows])
        assert archive.decode([]).shape == (0, 32, 32, 3)
        assert archive.decode([]).dtype == np.uint8
        with pytest.raises(KeyError, match="nothing"):
            archive.decode([keys[0], "nothing.png"])


def test_only_text_can_be_a_key(archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        assert 0 not in archive
        assert None not in archive
        assert b"a.png" not in archive
        assert "" not in archive


def test_the_psnr_of_a_row_is_that_of_its_picture(archive_dir: Path, signs_dir: Path, pictures: np.ndarray) -> None:
    """Against the resized original, rounded down to 1/64 dB."""
    with tsae.open_archive(str(archive_dir)) as archive:
        rows, info = list(archive.rows()), archive.info()
    originals = np.stack([resize(decode_image((signs_dir / row["key"]).read_bytes())) for row in rows])
    expected = np.floor(psnr_db(originals, pictures) * 64) / 64
    assert [row["psnr_db"] for row in rows] == expected.tolist()
    assert info["psnr_mean_db"] == pytest.approx(expected.mean())
    assert info["psnr_min_db"] == expected.min()


def test_the_table_has_all_columns_in_the_order_of_positions(archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        table = archive.to_table()
        assert table.column_names == ["key", "width", "height", "label", "psnr_db", "coding", "stream", "lossless", "crc32"]
        assert table.column("key").to_pylist() == list(archive)
        assert table.column("stream")[5].as_py() == archive.record(list(archive)[5]).streams[0]


def test_an_archive_can_be_pickled(archive_dir: Path, pictures: np.ndarray) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        archive[0]
        copy = pickle.loads(pickle.dumps(archive))  # noqa: S301
    assert copy.path == archive.path
    assert copy.manifest == archive.manifest
    np.testing.assert_array_equal(copy[3], pictures[3])
    assert len(pickle.dumps(archive)) < 10_000


def test_a_pickled_state_stays_the_state(archive_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(archive_dir, tmp_path / "copy")
    pickled = pickle.dumps(tsae.open_archive(str(copy)))
    (copy / "manifest.json").unlink()
    assert len(list(pickle.loads(pickled))) == 40  # noqa: S301


def test_a_closed_archive_can_be_used_again(archive_dir: Path, pictures: np.ndarray) -> None:
    archive = tsae.open_archive(str(archive_dir))
    before = archive[2]
    for _ in range(2):
        archive.close()
    np.testing.assert_array_equal(archive[2], before)
    with archive as same:
        assert same is archive
    np.testing.assert_array_equal(archive[-2:], pictures[-2:])


def test_threads_can_share_an_archive(archive_dir: Path, pictures: np.ndarray) -> None:
    """Also the loading of its model."""
    archive = tsae.open_archive(str(archive_dir))
    keys = list(archive)

    def read(seed: int) -> bool:
        rows = np.random.default_rng(seed).integers(0, 40, 5)
        by_key = archive.decode([keys[row] for row in rows])
        return bool((by_key == pictures[rows]).all() and (archive[int(rows[0])] == pictures[rows[0]]).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(24)))


def test_decoding_gives_uint8_of_the_network_size(archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        image = archive[next(archive.keys())]
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8


def test_an_iterator_of_keys_will_do_but_a_single_key_will_not(archive_dir: Path, pictures: np.ndarray) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        assert np.array_equal(archive.decode(archive.keys()), pictures)
        assert len(archive.latents(archive.keys())) == len(archive)
        with pytest.raises(ValueError, match="one key, where several"):
            archive.decode(next(archive.keys()))


@pytest.mark.parametrize("key", ["s\udcff.png", "../a.png", "/a.png", "", "a\0b"])
def test_what_cannot_be_a_key_is_not_there(archive_dir: Path, key: str) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        assert key not in archive
        for get in (archive.__getitem__, archive.record, lambda key: archive.decode([key])):
            with pytest.raises(KeyError):
                get(key)


def test_a_position_is_a_whole_number(archive_dir: Path) -> None:
    with tsae.open_archive(str(archive_dir)) as archive:
        with pytest.raises(TypeError):
            archive[1.5]  # type: ignore[index]
        assert np.array_equal(archive[np.int64(3)], archive[3])  # type: ignore[index]


def test_an_open_archive_does_not_depend_on_the_current_folder(
    archive_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(archive_dir.parent)
    archive = tsae.open_archive(archive_dir.name)
    monkeypatch.chdir(tmp_path)
    copy = pickle.loads(pickle.dumps(archive))  # noqa: S301 - our own
    assert len(list(archive.keys())) == len(list(copy.keys())) == 40


def test_info_leaves_out_files_that_are_not_the_archives(archive_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(archive_dir, tmp_path / "copy")
    with tsae.open_archive(str(copy)) as archive:
        before = archive.info()
        (copy / "foo").write_bytes(bytes(100_000))
        assert archive.info() == before
