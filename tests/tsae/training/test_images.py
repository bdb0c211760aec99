"""Training images: where they are read from, and a split that keeps every physical sign on one side."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsae.coding.seed import to_network_input
from tsae.errors import ImageError, InputError
from tsae.images import decode_image, encode_image, resize
from tsae.signs import draw_signs, write_signs
from tsae.training.images import LEAKED_TRACK, ImageSet, load_images, split_images

FILES = [encode_image(sign.image) for sign in draw_signs(6, seed=2)]
PIXELS = np.stack([resize(decode_image(file)) for file in FILES])


def write_parquet(path: Path, /, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def gtsrb(tracks: list[tuple[int, int]], frames: int = 3) -> ImageSet:
    """Images named as GTSRB's are: `<class>/<track>_<frame>.png`; each pixel is its track's number in a set."""
    keys = [f"{label:05d}/{track:05d}_{frame:05d}.png" for label, track in tracks for frame in range(frames)]
    images = np.repeat(np.arange(len(tracks)), frames).astype(np.uint8)
    return ImageSet(keys, np.broadcast_to(images[:, None, None, None], (len(keys), 32, 32, 3)))


def refusal(data: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_images(data)
    assert "\n" not in str(caught.value)
    assert str(data) in str(caught.value)
    return str(caught.value)


# Reading


def test_a_folder_is_read_in_the_order_of_its_keys(tmp_path: Path) -> None:
    keys = write_signs(tmp_path, 8, seed=1)
    images = load_images(tmp_path)
    assert images.keys == sorted(keys)
    assert images.images.shape == (8, 32, 32, 3)
    assert images.images.dtype == np.uint8
    for key, pixels in zip(images.keys, images.images, strict=True):
        np.testing.assert_array_equal(pixels, resize(decode_image((tmp_path / key).read_bytes())))


@pytest.mark.parametrize("with_path_column", [False, True])
def test_a_parquet_file_as_data_set_hubs_have_it(tmp_path: Path, with_path_column: bool) -> None:
    image = [{"bytes": file, "path": f"{9 - index}.png"} for index, file in enumerate(FILES)]
    columns: dict[str, Any] = {"image": image, "label": list(range(6))}
    if with_path_column:
        columns["path"] = [f"b/{index}.png" for index in range(6)]
    images = load_images(write_parquet(tmp_path / "x.parquet", **columns))
    if with_path_column:
        assert images.keys == [f"b/{index}.png" for index in range(6)]
        np.testing.assert_array_equal(images.images, PIXELS)
    else:
        assert images.keys == [f"{index}.png" for index in range(4, 10)]
        np.testing.assert_array_equal(images.images, PIXELS[::-1])


def test_a_parquet_file_with_a_column_of_bytes(tmp_path: Path) -> None:
    images = load_images(write_parquet(tmp_path / "x.parquet", bytes=FILES))
    assert images.keys == sorted(hashlib.sha256(file).hexdigest() for file in FILES)
    assert sorted(pixels.tobytes() for pixels in images.images) == sorted(pixels.tobytes() for pixels in PIXELS)


def test_a_folder_with_train_parquet_is_that_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", image=FILES, path=[f"{index}" for index in range(6)])
    (tmp_path / "other.png").write_bytes(FILES[0])
    assert load_images(tmp_path).keys == [str(index) for index in range(6)]


def test_jpeg_xl_is_read_where_its_decoder_is_there(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(file, "JXL", lossless=True)
    images = load_images(write_parquet(tmp_path / "x.parquet", jxl=[file.getvalue()], path=["a"]))
    np.testing.assert_array_equal(images.images, PIXELS[:1])


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(FILES[0])
    (tmp_path / "note.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "broken.png").symlink_to("nowhere")
    assert load_images(tmp_path).keys == ["a.png"]


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "not there" in refusal(tmp_path / "missing")
    assert "no image found" in refusal(tmp_path)
    assert "none of image" in refusal(write_parquet(tmp_path / "x.parquet", picture=FILES))
    (tmp_path / "y.parquet").write_bytes(b"no parquet")
    assert "not an intact Parquet" in refusal(tmp_path / "y.parquet")
    assert "no image found" in refusal(write_parquet(tmp_path / "z.parquet", image=pa.array([], pa.binary())))


@pytest.mark.parametrize("column", [["text"], [None], [1], [[b"x"]], [{"file": b"x"}], [{"bytes": None, "path": "a"}]])
@pytest.mark.parametrize("paths", [None, ["a.png"]])
def test_a_column_that_holds_no_files_is_refused(tmp_path: Path, column: list[Any], paths: list[str] | None) -> None:
    columns = {"image": column} | ({"path": paths} if paths else {})
    assert "image files" in refusal(write_parquet(tmp_path / "x.parquet", **columns))


def test_damaged_pages_of_a_parquet_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": FILES}), path, use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(data)
    assert "not an intact Parquet" in refusal(path)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(FILES[0])
    (tmp_path / "bad.png").write_bytes(FILES[0][:60])
    with pytest.raises(ImageError, match=r"^bad\.png: "):
        load_images(tmp_path)


# Splitting


def test_tracks_stay_whole() -> None:
    images = gtsrb([(label, track) for label in range(10) for track in range(20)])
    train, valid = split_images(images, "nowhere")
    assert len(train) + len(valid) == len(images)
    assert not set(np.unique(train.images)) & set(np.unique(valid.images))
    assert 0.05 < len(valid) / len(images) < 0.16
    assert train.keys == [key for key in images.keys if key in set(train.keys)]


def test_images_keep_their_keys() -> None:
    images = gtsrb([(label, track) for label in range(5) for track in range(20)])
    value = dict(zip(images.keys, images.images[:, 0, 0, 0], strict=True))
    for part in split_images(images, "nowhere"):
        assert [value[key] for key in part.keys] == part.images[:, 0, 0, 0].tolist()


def test_both_layouts_of_gtsrb_give_the_same_tracks() -> None:
    images = gtsrb([(label, track) for label in range(10) for track in range(10)])
    names = [(key.split("/")[0], key.split("/")[1]) for key in images.keys]
    other = ImageSet([f"some/where/{label}/{label}_{name}" for label, name in names], images.images)
    for a, b in zip(split_images(images, "nowhere"), split_images(other, "nowhere"), strict=True):
        np.testing.assert_array_equal(a.images, b.images)


def test_the_leaked_track_is_left_out_of_both_parts() -> None:
    images = gtsrb([(14, track) for track in range(60)])
    leaked = [key for key in images.keys if key.startswith(f"{LEAKED_TRACK // 1000:05d}/{LEAKED_TRACK % 1000:05d}_")]
    assert len(leaked) == 3
    parts = split_images(images, "nowhere")
    assert sum(map(len, parts)) == len(images) - 3
    assert not set(leaked) & {key for part in parts for key in part.keys}


@pytest.mark.parametrize("as_file", [False, True])
def test_listed_tracks_validate(tmp_path: Path, as_file: bool) -> None:
    (tmp_path / "valid_tracks.json").write_text(json.dumps([3_001, 5_000, LEAKED_TRACK]))
    images = gtsrb([(label, track) for label in (3, 5, 14) for track in (0, 1, 23)])
    data = tmp_path / "train.parquet" if as_file else tmp_path
    if as_file:
        data.write_bytes(b"")
    train, valid = split_images(images, data)
    assert {key[:11] for key in valid.keys} == {"00003/00001", "00005/00000"}
    assert len(train) == len(images) - 3 * 3


@pytest.mark.parametrize("content", ["", "{", "3", '["x"]', "[[1]]", "null", "[" * 100_000])
def test_a_damaged_list_of_tracks_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "valid_tracks.json").write_text(content)
    with pytest.raises(InputError, match=r"valid_tracks\.json") as caught:
        split_images(gtsrb([(0, track) for track in range(50)]), tmp_path)
    assert "\n" not in str(caught.value)


def test_without_tracks_the_split_is_by_key_and_stays_when_images_are_added() -> None:
    keys = [f"sign {index}.png" for index in range(600)]
    images = ImageSet(keys, np.zeros((600, 32, 32, 3), np.uint8))
    fewer = images.take(np.arange(600) % 3 > 0)
    valid, valid_of_fewer = (set(split_images(part, "nowhere")[1].keys) for part in (images, fewer))
    assert valid_of_fewer == valid & set(fewer.keys)
    assert 0.06 < len(valid) / 600 < 0.14


def test_a_split_with_an_empty_side_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 to validate"):
        split_images(ImageSet(["a.png"], np.zeros((1, 32, 32, 3), np.uint8)), "nowhere")
    (tmp_path / "valid_tracks.json").write_text("[0]")
    with pytest.raises(InputError, match="0 images to train"):
        split_images(gtsrb([(0, 0)]), tmp_path)


def test_networks_get_channels_first_in_0_to_1() -> None:
    x = to_network_input(PIXELS)
    assert x.shape == (6, 3, 32, 32)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(np.rint(x * 255).astype(np.uint8), PIXELS.transpose(0, 3, 1, 2))
    assert to_network_input(np.array([[[[0, 51, 255]]]], np.uint8)).ravel().tolist() == [0.0, np.float32(0.2), 1.0]
