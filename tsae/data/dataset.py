"""An archive as a map-style data set: whole batches from row groups, in as few copies as there can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from tsae.archive import digest, shown
from tsae.config import IMAGE_SIZE_PX
from tsae.data.cache import SharedCache
from tsae.data.order import WINDOW
from tsae.errors import InputError
from tsae.reader import Archive, open_archive
from tsae.selection import Selection

Kind = Literal["latents", "floats", "pixels"]

KINDS = ("latents", "floats", "pixels")

KEPT_GROUPS = 2 * WINDOW
"""Row groups kept in memory by each process: those that are mixed, and those that are mixed next. 32 MB."""

CACHE_BYTES = 512 * 2**20
"""Memory for decoded images, which all processes share: of `tsae` 130,000 as latents or 170,000 as pixels."""

PRELOADED_AT_ONCE = 1024
"""Images decoded at once where all are."""

NO_LABEL = -1


class Batch(NamedTuple):
    """Images of a batch.

    Attributes:
        values: `[N, ...]`, see `LatentDataset`.
        labels: Numbers of classes, int64 `[N]`; -1 where there is no label.
        positions: In the archive, int64 `[N]`.
    """

    values: Tensor
    labels: Tensor
    positions: Tensor


class Item(NamedTuple):
    """One image; the fields of `Batch` without their first axis."""

    values: Tensor
    label: int
    position: int


class LatentDataset(Dataset[Item]):
    """Images of an archive, as latents or pixels, by number. Gives DataLoaders whole batches; see `collate`.

    `kind` says what `values` are:

    * "latents": the stored integers, int8 `[C, H, W]` of `seed-8x8x8` and int16 `[C, H, W]` of `tsae`
    * "floats": what they stand for, float32 `[C, H, W]`: `offset[c] + scale[c] * value`, of `tsae` in grey levels
    * "pixels": decoded, uint8 `[3, 32, 32]` (in memory, colours are the last axis, torch's `channels_last`)

    What has been decoded stays in memory that workers share, up to `cache_bytes`: later epochs cost copies alone. Images beyond
    that are decoded in each epoch. With `preload` all are decoded now.

    `fingerprint` tells which images these are, in which order: it is another one when the archive has changed.

    It may be pickled and used in any number of processes and threads; only workers of multiprocessing, such as a DataLoader's,
    share what is decoded. Each process keeps up to `kept_groups` row groups of
    250 kB as they are stored. Latents need no torch to be decoded, but this class does.
    """

    def __init__(
        self,
        archive: str | Archive,
        kind: Kind = "latents",
        which: str | Selection | None = None,
        *,
        classes: Sequence[str] | None = None,
        channels: int | None = None,
        kept_groups: int = KEPT_GROUPS,
        cache_bytes: int = CACHE_BYTES,
        preload: bool = False,
    ) -> None:
        """Reads positions and labels, 16 bytes an image.

        Args:
            archive: Path, URL or open archive; the state that it is in now is kept.
            kind: What values are.
            which: A glob or selection; its order is that of the data set.
            classes: Labels in the order of their numbers, such as those of another data set; None takes those that there
                are, sorted: by value if all are whole numbers, else as text.
            channels: The first so many of latents only, or all; see `Archive.latents`.
            kept_groups: Row groups that a process keeps.
            cache_bytes: Most memory for decoded images: 3 kB each as pixels; as latents 512 bytes (`seed-8x8x8`) or 4 kB
                (`tsae`), as floats 2 or 8 kB. At most half of what the system has for sharing is used; 0 keeps none.
            preload: Decode all images now, however many bytes that takes.

        Raises:
            InputError: if there is no such kind, a label is none of `classes`, there are not so many channels, or memory is too
                small for `preload`.
            TsaeError: if the archive cannot be read.
        """
        if kind not in KINDS:
            raise InputError(f"kind {kind!r}: there is none; choose one of {', '.join(KINDS)}")
        self.archive = archive if isinstance(archive, Archive) else open_archive(archive)
        there_are = self.archive.manifest.latent_shape[0]
        if channels is not None and (kind == "pixels" or not 1 <= channels <= there_are):
            raise InputError(f"channels {channels}: of latents, these have {there_are}; of pixels, all")
        self.kind = kind
        self.channels = channels
        tables = list(self.archive.select(which, ["position", "label"]))
        table = (
            pa.concat_tables(tables)
            if tables
            else pa.table({"position": pa.array([], pa.int64()), "label": pa.array([], pa.string())})
        )
        self.positions: NDArray[np.int64] = table.column("position").to_numpy()
        self.classes, self.labels = number_labels(table.column("label"), classes)
        self._row_groups = self.archive.row_groups(kept_groups)
        self.groups: NDArray[np.intp] = self._row_groups.of(self.positions)
        self.fingerprint = digest(self.archive.state.encode() + self.positions.tobytes())[:16]
        self._scale = self.archive.latent_scale().of_first(channels) if kind == "floats" else None
        self._cache = SharedCache(len(self), *self._form(), None if preload else cache_bytes)
        if preload:
            for start in range(0, len(self), PRELOADED_AT_ONCE):
                self._values(np.arange(start, min(start + PRELOADED_AT_ONCE, len(self))))

    def _form(self) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and dtype of an image's values, as they lie in memory."""
        if self.kind == "pixels":
            return (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), torch.uint8
        is_plain = self.archive.manifest.settings.quality is None
        latents = torch.int8 if is_plain else torch.int16
        channels, *size = self.archive.manifest.latent_shape
        return (self.channels or channels, *size), torch.float32 if self.kind == "floats" else latents

    def __len__(self) -> int:
        """Number of images."""
        return len(self.positions)

    def __getitem__(self, index: int) -> Item:
        """One image; negative numbers count from the end.

        Raises:
            IndexError: if there is none of that number.
            TsaeError: if it is damaged.
        """
        values, labels, positions = self.__getitems__([index])
        return Item(values[0], int(labels[0]), int(positions[0]))

    def __getitems__(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """A batch of any images, in the order asked for; DataLoaders call it.

        Raises:
            IndexError: if there is none of such a number.
            TsaeError: if one is damaged; the message names it.
        """
        numbers = np.asarray(indices, np.int64)
        positions = self.positions[numbers]
        values = self._values(numbers % max(1, len(self)))
        if self.kind == "pixels":
            values = values.permute(0, 3, 1, 2)
        return Batch(values, torch.from_numpy(self.labels[numbers]), torch.from_numpy(positions))

    def _values(self, numbers: NDArray[np.int64]) -> Tensor:
        """What is there already, and the rest decoded."""
        is_there = self._cache.has(numbers)
        if is_there.all():
            return self._cache.take(numbers)
        decoded = torch.from_numpy(self._decode(self.positions[numbers[~is_there]]))
        self._cache.put(numbers[~is_there], decoded)
        if not is_there.any():
            return decoded
        values = torch.empty((len(numbers), *decoded.shape[1:]), dtype=decoded.dtype)
        values[torch.from_numpy(~is_there)] = decoded
        values[torch.from_numpy(is_there)] = self._cache.take(numbers[is_there])
        return values

    def _decode(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        records = self._row_groups.records(positions)
        if self.kind == "pixels":
            return self.archive.decode_records(records)
        latents = self.archive.latents_of_records(records, self.channels)
        if self._scale is not None:
            return self._scale.dequantize(latents)
        return latents if latents.flags.writeable else latents.copy()


def number_labels(labels: pa.ChunkedArray, classes: Sequence[str] | None) -> tuple[list[str], NDArray[np.int64]]:
    """Numbers classes.

    Args:
        labels: N texts, some of them null.
        classes: See `LatentDataset`.

    Returns:
        Names of classes, and the number of each label among them, int64 `[N]`; -1 where there is none.

    Raises:
        InputError: if a label is none of `classes`.
    """
    column = pa.chunked_array(labels.chunks, pa.string()).combine_chunks().dictionary_encode()
    found: list[str] = column.dictionary.to_pylist()
    names = _sorted(found) if classes is None else list(classes)
    numbers = {name: number for number, name in enumerate(names)}
    strange = next((name for name in found if name not in numbers), None)
    if strange is not None:
        raise InputError(f"label {shown(strange)}: none of the {len(names)} classes; add it, or select images without it")
    of_entry = np.array([*(numbers[name] for name in found), NO_LABEL], np.int64)
    return names, of_entry[column.indices.fill_null(len(found)).to_numpy()]


def _sorted(names: list[str]) -> list[str]:
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)


def collate(batch: Batch | Sequence[Item]) -> Batch:
    """For `DataLoader(..., collate_fn=)`: batches pass as they are; single images, as wrappers may give, are stacked.

    Args:
        batch: What `LatentDataset` gave.
    """
    if isinstance(batch, Batch):
        return batch
    values, labels, positions = zip(*batch, strict=True)
    return Batch(torch.stack(values), torch.tensor(labels), torch.tensor(positions))
