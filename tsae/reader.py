"""What `open_archive` returns: an archive joined to its codec. Torch is imported only when something is decoded."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tsae.archive import MODEL_FILE, ArchiveFiles, Failure, Manifest, Records
from tsae.config import RAW_BYTES

if TYPE_CHECKING:
    from tsae.codec import Codec


class Archive:
    """A committed archive, for reading; use it as a context manager."""

    def __init__(self, path: str) -> None:
        """Reads the manifest.

        Args:
            path: Local path or URL of the archive.

        Raises:
            FormatError: if there is no archive of this version.
        """
        self._files = ArchiveFiles(path)
        self.path = path

    @property
    def manifest(self) -> Manifest:
        """What the archive is."""
        return self._files.manifest

    def __len__(self) -> int:
        """Number of images."""
        return self.manifest.images

    def __iter__(self) -> Iterator[str]:
        """All keys in order."""
        return self.keys()

    def __contains__(self, key: str) -> bool:
        """Whether there is an image of that key."""
        try:
            self._files.get(key)
        except KeyError:
            return False
        return True

    def __getitem__(self, key: str) -> NDArray[np.uint8]:
        """Decodes one image, uint8 `[32, 32, 3]`, reading one row group.

        Raises:
            KeyError: if there is no such key.
            CorruptDataError: if the record is damaged.
        """
        image: NDArray[np.uint8] = self.decode_records(self.record(key))[0]
        return image

    def record(self, key: str) -> Records:
        """The record of one key.

        Raises:
            KeyError: if there is no such key.
            CorruptDataError: if the record is damaged.
        """
        return self._files.get(key)

    def decode_records(self, records: Records) -> NDArray[np.uint8]:
        """Decodes records of this archive to uint8 `[N, 32, 32, 3]`.

        Raises:
            CorruptDataError: if one cannot be decoded.
            FormatError: if the model is missing or not the archive's.
        """
        return self.codec.decode(records)

    @functools.cached_property
    def codec(self) -> Codec:
        """The archive's own codec, on the CPU.

        Raises:
            FormatError: if the model is missing or not the archive's.
        """
        from tsae.codec import Codec  # imports torch

        return Codec.from_bytes(self._files.model_file(), f"{self.path}/{MODEL_FILE}")

    def keys(self, glob: str | None = None) -> Iterator[str]:
        """All keys in order, or those that a glob matches (`*` also matches `/`)."""
        return self._files.keys(glob)

    def rows(self, glob: str | None = None) -> Iterator[dict[str, Any]]:
        """Key, width, height and label of each image in order, or of those whose key a glob matches."""
        return self._files.rows(["key", "width", "height", "label"], glob)

    def failures(self) -> list[Failure]:
        """What did not come through when the archive was made, sorted by path."""
        return self._files.failures()

    def info(self) -> dict[str, Any]:
        """Counts, sizes and settings; JSON values only.

        `archive_bytes` counts every file of the archive but the model, `bytes_per_image` is that over the images.
        """
        manifest, sizes_bytes = self.manifest, self._files.folder.sizes_bytes()
        model_bytes = sizes_bytes.pop(MODEL_FILE, 0)
        archive_bytes, images = sum(sizes_bytes.values()), len(self)
        per_image = archive_bytes / images if images else None
        return {
            "path": self.path,
            "format_version": manifest.format_version,
            "model": manifest.model,
            "model_sha256": manifest.model_sha256,
            "preprocessing": manifest.preprocessing,
            "created_by": manifest.created_by,
            "images": images,
            "failures": sum(entry.rows for entry in manifest.failures),
            "skipped": manifest.skipped,
            "shards": len(manifest.shards),
            "archive_bytes": archive_bytes,
            "stream_bytes": sum(shard.stream_bytes for shard in manifest.shards),
            "model_bytes": model_bytes,
            "source_bytes": manifest.source_bytes,
            "bytes_per_image": per_image,
            "raw_bytes_per_image": RAW_BYTES,
            "ratio_to_raw": RAW_BYTES / per_image if per_image else None,
            "ratio_to_source": manifest.source_bytes / archive_bytes if archive_bytes else None,
        }

    def close(self) -> None:
        """Closes the files that are open."""
        self._files.close()

    def __enter__(self) -> Archive:
        """Returns itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the archive."""
        self.close()


def open_archive(path: str) -> Archive:
    """Opens a committed archive for reading.

    Args:
        path: Local path or URL.

    Raises:
        FormatError: if there is no archive of this version.
    """
    return Archive(str(path))
