"""What `open_archive` returns: an archive joined to its codec. Networks are imported only when something is decoded."""

from __future__ import annotations

import dataclasses
import operator
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tsae import paths
from tsae.archive import (
    FILE_NAME,
    MANIFEST_FILE,
    PROVENANCE_FOLDER,
    ArchiveFiles,
    Failure,
    Folder,
    Manifest,
    Records,
    RowGroups,
    digest,
    hold_manifest,
)
from tsae.config import IMAGE_SIZE_PX, RAW_BYTES
from tsae.errors import FormatError
from tsae.selection import Selection
from tsae.selection.stored import positions, select

if TYPE_CHECKING:
    from tsae.codec import Codec
    from tsae.entropy.coder import EntropyCoder
    from tsae.quantize import LatentQuantizer

ROW_COLUMNS = ["key", "width", "height", "label", "psnr_db"]
"""What `Archive.rows` tells of each image."""


class Archive:
    """One committed state of an archive, for reading: a sequence of images that are also found by key.

    A position is a record's place in the order of commits, and of keys within a shard; later commits add positions at
    the end and move none. Any number of threads may read; pickling takes the state along, not the data.
    """

    def __init__(self, path: str, manifest_text: bytes | None = None) -> None:
        """Reads the manifest; on a local disk, later commits then leave what this state needs until it is closed.

        Args:
            path: Local path or URL of the archive.
            manifest_text: The manifest's bytes, where they are known already.

        Raises:
            FormatError: if there is no archive of this version.
        """
        place, self._hold = paths.absolute(path), None
        if manifest_text is None:
            manifest_text, self._hold = hold_manifest(Folder(place))
        self._files = ArchiveFiles(place, manifest_text)
        self.path = path
        self._codec: Codec | None = None
        self._entropy_coder: EntropyCoder | None = None
        self._codec_lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Archive, (self._files.folder.path, self._files.manifest_text)

    @property
    def manifest(self) -> Manifest:
        """What the archive is."""
        return self._files.manifest

    @property
    def state(self) -> str:
        """Which state this is: the SHA-256 of the manifest, 64 hexadecimal digits; the same of every copy."""
        return digest(self._files.manifest_text)

    @property
    def files(self) -> ArchiveFiles:
        """The state's records without their codec, for those who read many."""
        return self._files

    def __len__(self) -> int:
        """Number of images."""
        return self.manifest.images

    def __iter__(self) -> Iterator[str]:
        """All keys in the order of positions."""
        return self.keys()

    def __contains__(self, key: object) -> bool:
        """Whether there is an image of that key."""
        return isinstance(key, str) and self._files.has(key)

    def __getitem__(self, index: str | int | slice) -> NDArray[np.uint8]:
        """Decodes one image by key or position, uint8 `[32, 32, 3]`, or a slice of positions, uint8 `[N, 32, 32, 3]`.

        One image costs reading one row group; negative positions count from the end.

        Raises:
            KeyError: if there is no such key.
            IndexError: if there is no such position.
            TsaeError: if what is needed is damaged.
        """
        if isinstance(index, str):
            return np.asarray(self.decode([index])[0])
        if isinstance(index, slice):
            return self._decode(self._files.records_at(range(len(self))[index]))
        index = operator.index(index)
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"position {index}: {self.path} has {len(self)} images")
        return np.asarray(self._decode(self._files.records_at([position]))[0])

    def decode(self, keys: Iterable[str]) -> NDArray[np.uint8]:
        """Decodes the images of some keys, uint8 `[N, 32, 32, 3]`, in the order asked for; a key may come twice.

        Raises:
            KeyError: if there is no such key.
            TsaeError: if what is needed is damaged.
        """
        return self._decode(self._files.records(keys))

    def latents(self, keys: Iterable[str], channels: int | None = None) -> NDArray[np.int8] | NDArray[np.int16]:
        """The stored integers of some keys, `[N, C, H, W]`, in the order asked for. Needs no torch.

        They are int8 for `seed-8x8x8`, as stored; int16 for `tsae`, on one scale for all qualities: see `docs/FORMAT.md`.

        Args:
            keys: N of them.
            channels: The first so many only, or all. Those of `tsae` are in order of importance, and what a stream holds beyond
                is not decoded: 16 of 32 take less time and half the memory, and hold 97 % of the energy beyond
                the very first.

        Raises:
            KeyError: if there is no such key.
            InputError: if there are not so many channels.
            TsaeError: if what is needed is damaged, or of a coding that this version does not know.
        """
        return self.latents_of_records(self._files.records(keys), channels)

    def latents_of_records(self, records: Records, channels: int | None = None) -> NDArray[np.int8] | NDArray[np.int16]:
        """The same of records of this archive.

        Raises:
            TsaeError: as `latents`.
        """
        from tsae.latents import stored_latents  # imports numba

        return stored_latents(records, self.manifest.latent_shape, self._load_entropy_coder, channels)

    def latent_scale(self) -> LatentQuantizer:
        """What turns these integers into the floats that they stand for: its `dequantize`.

        Raises:
            TsaeError: if the model is missing, or not the archive's, or damaged.
        """
        from tsae.latents import load_scale

        return load_scale(self._files.model_file(), f"{self.path}/{self.manifest.model_file}")

    def row_groups(self, kept: int) -> RowGroups:
        """All row groups, for who reads most of the archive; so many are kept in memory."""
        return RowGroups(self._files, kept)

    def _load_entropy_coder(self) -> EntropyCoder:
        from tsae.latents import load_entropy_coder

        with self._codec_lock:
            if self._entropy_coder is None:
                source = f"{self.path}/{self.manifest.model_file}"
                coder = load_entropy_coder(self._files.model_file(), source)
                self._check_shape(coder.latent_shape)
                self._entropy_coder = coder
            return self._entropy_coder

    def to_table(self) -> pa.Table:
        """All records, in the order of positions, as a table of the shards' columns; each record's checksum holds.

        Raises:
            TsaeError: if a record is damaged.
        """
        return self._files.to_table()

    def record(self, key: str) -> Records:
        """The record of one key, as `Records` of length 1.

        Raises:
            KeyError: if there is no such key.
            TsaeError: if it is damaged.
        """
        return self._files.records([key])

    def decode_records(self, records: Records) -> NDArray[np.uint8]:
        """Decodes records of this archive to uint8 `[N, 32, 32, 3]`.

        Raises:
            CorruptDataError: if one cannot be decoded.
            FormatError: if the model is missing or not the archive's.
        """
        return self._decode(records)

    def _decode(self, records: Records) -> NDArray[np.uint8]:
        return self.codec.decode(records) if len(records) else np.empty((0, IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), np.uint8)

    @property
    def codec(self) -> Codec:
        """The archive's own codec, on the CPU; loaded when it is first needed.

        Raises:
            FormatError: if the model is missing or not the archive's.
            ModelError: if it cannot be used.
        """
        with self._codec_lock:
            if self._codec is None:
                from tsae.codec import shared_codec  # imports networks

                model_file = self._files.model_file()
                codec = shared_codec(model_file, f"{self.path}/{self.manifest.model_file}")
                self._check_shape(codec.latent_shape)
                self._codec = codec
            return self._codec

    def _check_shape(self, of_model: tuple[int, ...]) -> None:
        """Refuses a manifest whose shape, which is what `latents` goes by, is not the model's."""
        if self.manifest.latent_shape != of_model:
            shapes = f"latent_shape {self.manifest.latent_shape}, its model has {of_model}"
            raise FormatError(f"{self.path}/{MANIFEST_FILE}: {shapes}; restore the file")

    def keys(self, which: str | Selection | None = None) -> Iterator[str]:
        """All keys in the order of positions, or those that a glob matches (`*` also matches `/`), or of a selection."""
        for table in select(self._files, _selection(which), ["key"]):
            yield from table.column("key").to_pylist()

    def select(self, which: str | Selection | None, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The images that `keys` would give as tables of these columns, which may be `bytes` and `position` too.

        Raises:
            TsaeError: as `rows`.
        """
        return select(self._files, _selection(which), columns)

    def rows(self, which: str | Selection | None = None) -> Iterator[dict[str, Any]]:
        """Key, width, height, label and PSNR of each image, or of those that `keys` would give, in the same order.

        A selection that asks about `bytes`, what an image takes in the archive, tells them as well.

        Raises:
            InputError: if the selection goes on after a key that is not there.
            TsaeError: if what is needed is damaged.
        """
        selection = _selection(which)
        for table in select(self._files, selection, ROW_COLUMNS + ["bytes"] * selection.knows_bytes):
            yield from table.to_pylist()

    def positions(self, which: str | Selection | None = None) -> NDArray[np.int64]:
        """Positions of the images that `keys` would give, int64 `[N]`, in the same order.

        Raises:
            TsaeError: as `rows`.
        """
        return np.concatenate([np.empty(0, np.int64), *positions(self._files, _selection(which))])

    def records(self, places: Sequence[int]) -> Records:
        """The records at some positions, in the order asked for; each is known to be intact.

        Raises:
            IndexError: if there is no such position; negative ones are not looked for.
            TsaeError: if one is damaged.
        """
        return self._files.records_at(places)

    def failures(self) -> list[Failure]:
        """What did not come through when the archive was made, sorted by path."""
        return self._files.failures()

    def info(self) -> dict[str, Any]:
        """Counts, sizes and settings; JSON values only.

        `archive_bytes` counts every file of the archive but the model and the provenance, which only reruns need;
        `bytes_per_image` is that over the images. Files that are none of an archive's do not count.
        """
        manifest, found = self.manifest, self._files.folder.sizes_bytes()
        model_bytes = found.get(manifest.model_file, 0)
        sizes_bytes = {name: size for name, size in found.items() if name == MANIFEST_FILE or FILE_NAME.fullmatch(name)}
        provenance_bytes = sum(size for name, size in sizes_bytes.items() if name.startswith(f"{PROVENANCE_FOLDER}/"))
        archive_bytes, counts = sum(sizes_bytes.values()) - provenance_bytes, manifest.counts
        per_image = archive_bytes / counts.images if counts.images else None
        return {
            "path": self.path,
            "format_version": manifest.format_version,
            "model": manifest.model,
            "model_sha256": manifest.model_sha256,
            "preprocessing": manifest.preprocessing,
            "quality": manifest.settings.quality,
            "target": manifest.settings.target,
            "min_psnr_db": manifest.settings.min_psnr_db,
            "keep_readable": manifest.settings.keep_readable,
            "doubt": manifest.settings.doubt and dataclasses.asdict(manifest.settings.doubt),
            "created_by": manifest.created_by,
            "images": counts.images,
            "failures": counts.failures,
            "skipped": counts.skipped,
            "shards": counts.shards,
            "lossless": counts.lossless,
            "psnr_mean_db": counts.psnr_mean_db,
            "psnr_min_db": counts.psnr_min_db,
            "archive_bytes": archive_bytes,
            "stream_bytes": counts.stream_bytes,
            "lossless_bytes": counts.lossless_bytes,
            "provenance_bytes": provenance_bytes,
            "model_bytes": model_bytes,
            "source_bytes": counts.source_bytes,
            "bytes_per_image": per_image,
            "raw_bytes_per_image": RAW_BYTES,
            "ratio_to_raw": RAW_BYTES / per_image if per_image else None,
            "ratio_to_source": counts.source_bytes / archive_bytes if archive_bytes else None,
        }

    def close(self) -> None:
        """Forgets what was read, and lets later commits remove it; while they do not, the archive can still be used."""
        if self._hold is not None:
            self._hold.release()
        self._files = ArchiveFiles(self._files.folder.path, self._files.manifest_text)
        self._codec = self._entropy_coder = None

    def __enter__(self) -> Archive:
        """Returns itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the archive."""
        self.close()


def _selection(which: str | Selection | None) -> Selection:
    return which if isinstance(which, Selection) else Selection(glob=which)


def open_archive(path: str) -> Archive:
    """Opens a committed archive for reading.

    Args:
        path: Local path or URL.

    Raises:
        FormatError: if there is no archive of this version.
    """
    return Archive(str(path))
