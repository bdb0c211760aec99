"""What classifiers learn from: images of files, or of an archive as pixels or latents, with the numbers of their classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tsae.archive import MANIFEST_FILE
from tsae.classifier import Input
from tsae.data.dataset import NO_LABEL, LatentDataset, number_labels
from tsae.errors import InputError
from tsae.inputs import list_inputs
from tsae.reader import Archive, open_archive
from tsae.training.images import ImageSet, load_rows

READ_AT_ONCE = 4096
"""Images of an archive decoded at once."""

CHANNELS = 16
"""The first so many of latents are looked at. Of the 32 of `tsae` the others hold 3 % of the energy beyond the very first;
without them an image is decoded in less time, and takes half the memory."""


L = TypeVar("L", bound="LabelledSet")


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledSet(ImageSet):
    """Images in memory, or their latents in place of them, and what they show.

    Attributes:
        keys: Their names.
        images: uint8 `[N, 32, 32, 3]`; or integers `[N, C, 8, 8]`.
        labels: Numbers of classes, int64 `[N]`.
        classes: Labels in the order of these numbers.
        archive: For latents, where they are from.
    """

    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    archive: Archive | None = None

    @property
    def examples(self) -> tuple[NDArray[Any], ...]:
        """Images, and numbers of classes."""
        return self.images, self.labels

    def take(self: L, chosen: NDArray[np.bool_]) -> L:
        """The images where `chosen`, bool `[N]`, is true; the classes stay."""
        return dataclasses.replace(super().take(chosen), labels=self.labels[chosen])


def load_labelled(data: str | Path, kind: Input) -> LabelledSet:
    """Reads all images of `data` that have a label.

    Args:
        data: An archive; or, for pixels, what `load_images` reads: a folder, whose labels are those that `tsae compress` would
            find (`labels.csv`, GTSRB's own tables, names of folders), or a Parquet file with a column `label`.
        kind: Whether an archive's images are decoded, or taken as the integers that are stored, of their first 16 channels.

    Returns:
        The images in order of their keys; those of an archive in its own.

    Raises:
        InputError: if there is nothing to read, no label, or only one class; or if latents are to be read from image files.
        TsaeError: if an image or the archive is damaged.
    """
    is_archive = (Path(data) / MANIFEST_FILE).is_file()
    if kind == "latents" and not is_archive:
        raise InputError(f"{data}: is no archive, and only archives hold latents; make one with tsae compress")
    found = _from_archive(str(data), kind) if is_archive else _from_files(Path(data))
    if len(found.classes) < 2:
        raise InputError(
            f"{data}: images of {len(found.classes)} classes; give them labels, in a labels.csv (path,label) beside them"
        )
    return found


def _from_archive(path: str, kind: Input) -> LabelledSet:
    archive = open_archive(path)
    channels = min(CHANNELS, archive.manifest.latent_shape[0]) if kind == "latents" else None
    data = LatentDataset(archive, kind, channels=channels, cache_bytes=0)
    keys = list(archive.keys())
    parts = [
        data.__getitems__(range(start, min(start + READ_AT_ONCE, len(data)))) for start in range(0, len(data), READ_AT_ONCE)
    ]
    values = np.concatenate([part.values.numpy() for part in parts])
    images = values.transpose(0, 2, 3, 1) if kind == "pixels" else values
    found = LabelledSet(keys, images, data.labels, tuple(data.classes), archive if kind == "latents" else None)
    return found.take(data.labels != NO_LABEL)


def _from_files(path: Path) -> LabelledSet:
    images, labels = load_rows(path)
    if path.is_dir() and not any(labels):
        of_key = list_inputs(str(path)).labels
        labels = [of_key.get(key) for key in images.keys]
    classes, numbers = number_labels(pa.chunked_array([pa.array(labels, pa.string())]), None)
    return LabelledSet(images.keys, images.images, numbers, tuple(classes)).take(numbers != NO_LABEL)
