"""Training images: from a folder, a Parquet file or a GTSRB folder, split so that no sign is on both sides.

Owns reading and splitting only; what is learned from them is the recipes' matter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tsae.archive import MANIFEST_FILE
from tsae.errors import ImageError, InputError
from tsae.images import ENDINGS, decode_image, resize

GTSRB_KEY = re.compile(r"(?:^|/)(?P<label>\d{1,5})/(?:\d{5}_)?(?P<track>\d{5})_\d{5}\.\w+$")
"""The public layout, `<class>/<track>_<frame>.ppm`, in some copies with the class before the track as well."""

LEAKED_TRACK = 14_023
"""Class 14, track 23 of GTSRB's training set: eight official test images are pixel for pixel frames of it."""

VALID_SHARE = 0.1
"""Share of groups kept for validation where the data does not name its validation tracks."""

Row = tuple[str, bytes, str | None]
"""Key, image file, and label where it stands beside it."""

IMAGE_COLUMNS = ("image", "jxl", "bytes")
"""Columns of a Parquet file looked at for image files, in this order; an `image` struct has a field `bytes`."""


S = TypeVar("S", bound="ImageSet")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in memory, 3 kB each.

    Attributes:
        keys: Their names.
        images: uint8 `[N, 32, 32, 3]`.
    """

    keys: list[str]
    images: NDArray[np.uint8]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.keys)

    @property
    def examples(self) -> tuple[NDArray[Any], ...]:
        """What a step of training takes some of: arrays of N."""
        return (self.images,)

    def take(self: S, chosen: NDArray[np.bool_]) -> S:
        """The images where `chosen`, bool `[N]`, is true."""
        keys = [key for key, take in zip(self.keys, chosen, strict=True) if take]
        return dataclasses.replace(self, keys=keys, images=self.images[chosen])


def load_images(data: str | Path) -> ImageSet:
    """Reads all images of `data` and resizes them to 32x32.

    Args:
        data: See `load_rows`.

    Returns:
        The images in order of their keys.

    Raises:
        InputError: as `load_rows`, as the next.
        ImageError: if an image is damaged; the message names it.
    """
    return load_rows(data)[0]


def load_rows(data: str | Path) -> tuple[ImageSet, list[str | None]]:
    """Reads all images of `data`, and the labels that a Parquet file gives them.

    Args:
        data: A folder of image files, a Parquet file with an image column, or a folder that holds `train.parquet`.

    Returns:
        The images in order of their keys, resized to 32x32; and the label of each from a column `label`, if there is one.

    Raises:
        InputError: if there is nothing to read, a file cannot be read, or a Parquet file has no image column.
        ImageError: if an image is damaged; the message names it.
    """
    path = Path(data)
    if (path / "train.parquet").is_file():
        path = path / "train.parquet"
    if not path.exists():
        raise InputError(f"{path}: not there; name a folder of images or a Parquet file")
    files = _parquet_files(path) if path.is_file() else _folder_files(path)
    with ThreadPoolExecutor() as pool:
        rows = sorted(pool.map(_decode, files), key=lambda row: row[0])
    if not rows:
        raise InputError(f"{path}: no image found (endings {', '.join(sorted(ENDINGS))}); name another folder")
    keys, images, labels = zip(*rows, strict=True)
    return ImageSet(list(keys), np.stack(images)), list(labels)


def _decode(row: Row) -> tuple[str, NDArray[np.uint8], str | None]:
    """Decodes one image, JPEG XL too: training data is the user's own choice."""
    key, file, label = row
    try:
        return key, resize(decode_image(file, ("JXL",))), label
    except ImageError as error:
        raise ImageError(f"{key}: {error}") from error


def _folder_files(folder: Path) -> Iterator[Row]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in ENDINGS and path.is_file():
            try:
                yield path.relative_to(folder).as_posix(), path.read_bytes(), None
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions, or remove it") from error


def _parquet_files(path: Path) -> Iterator[Row]:
    try:
        file = pq.ParquetFile(path)
        column, names = _image_column(file.schema_arrow, path)
        for batch in file.iter_batches(batch_size=256, columns=names):
            for row in batch.to_pylist():
                yield _row(row, column, path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not an intact Parquet file ({reason}); name a folder of images or a Parquet file") from error


def _image_column(schema: pa.Schema, path: Path) -> tuple[str, list[str]]:
    """The column of images, and all columns to read."""
    column = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if column is None:
        raise InputError(
            f"{path}: columns {', '.join(schema.names)}, none of {', '.join(IMAGE_COLUMNS)}; rename the image column"
        )
    if column == "jxl":
        _register_jpeg_xl()
    return column, [column, *(name for name in ("path", "label") if name in schema.names)]


def _row(row: dict[str, Any], column: str, source: Path) -> Row:
    value = row[column]
    struct = value if isinstance(value, dict) else {"bytes": value}
    file, name = struct.get("bytes"), row.get("path") or struct.get("path")
    if not isinstance(file, bytes):
        raise InputError(f"{source}: column {column} holds {type(file).__name__}, not image files; store each file's bytes")
    label = row.get("label")
    return str(name or hashlib.sha256(file).hexdigest()), file, None if label is None else str(label)


def _register_jpeg_xl() -> None:
    try:
        import pillow_jxl  # noqa: F401  (registers the decoder with Pillow)
    except ImportError as error:
        raise InputError("images are JPEG XL, which needs an extra: pip install 'tsae[jxl]'") from error


def split_images(images: S, data: str | Path) -> tuple[S, S]:
    """Splits into training and validation images so that no physical sign is on both sides.

    GTSRB's tracks (30 frames of one sign) stay whole: those that a `valid_tracks.json` beside the data lists
    (`class * 1000 + track`) validate, or else a tenth by hash; its leaked track is left out. Other images are split
    by a hash of their key. Neither split depends on what else is there.

    Args:
        images: All images.
        data: Where they came from; only used to find `valid_tracks.json`: in the folder, or beside the file or archive.

    Returns:
        Training and validation images.

    Raises:
        InputError: if one of the two would be empty, or `valid_tracks.json` is no list of numbers.
    """
    groups = [_track(key) for key in images.keys]
    listed = _listed_tracks(Path(data))
    if listed is None:
        is_valid = np.array(
            [_hashed_share(g if g is not None else k) < VALID_SHARE for k, g in zip(images.keys, groups, strict=True)]
        )
    else:
        is_valid = np.array([group in listed for group in groups])
    is_leaked = np.array([group == LEAKED_TRACK for group in groups])
    train, valid = images.take(~is_valid & ~is_leaked), images.take(is_valid & ~is_leaked)
    if not len(train) or not len(valid):
        raise InputError(f"{data}: {len(train)} images to train and {len(valid)} to validate; both are needed, add images")
    return train, valid


def _track(key: str) -> int | None:
    match = GTSRB_KEY.search(key)
    return int(match["label"]) * 1000 + int(match["track"]) if match else None


def _listed_tracks(data: Path) -> set[int] | None:
    is_plain_folder = data.is_dir() and not (data / MANIFEST_FILE).is_file()
    file = (data if is_plain_folder else data.parent) / "valid_tracks.json"
    if not file.is_file():
        return None
    try:
        return {int(track) for track in json.loads(file.read_bytes())}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{file}: not a JSON list of tracks ({error}); correct or remove it") from error


def _hashed_share(name: object) -> float:
    digest = hashlib.sha256(str(name).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
