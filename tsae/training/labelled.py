"""What classifiers learn from: images of files, or of an archive as pixels or latents, with the numbers of their classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from tsae.archive import MANIFEST_FILE
from tsae.classifier import Input
from tsae.data.dataset import NO_LABEL, LatentDataset, number_labels
from tsae.errors import InputError
from tsae.inputs import list_inputs
from tsae.progress import Progress
from tsae.reader import Archive, open_archive
from tsae.training.images import ImageSet, load_rows
from tsae.training.teacher import Teacher

READ_AT_ONCE = 4096
"""Images of an archive decoded at once."""

TAUGHT_AT_ONCE = 256
"""Of these, read by a teacher at once."""

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
        archive: For latents, where they are from; of several archives, the first.
        readings: For latents, what a teacher reads from the images that they stand for: its logits, float16 `[N, K]`.
    """

    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    archive: Archive | None = None
    readings: NDArray[np.float16] | None = None

    @property
    def examples(self) -> tuple[NDArray[Any], ...]:
        """Images, numbers of classes, and readings if there are any."""
        return (self.images, self.labels) if self.readings is None else (self.images, self.labels, self.readings)

    def take(self: L, chosen: NDArray[np.bool_]) -> L:
        """The images where `chosen`, bool `[N]`, is true; the classes stay."""
        readings = None if self.readings is None else self.readings[chosen]
        return dataclasses.replace(super().take(chosen), labels=self.labels[chosen], readings=readings)


Source = str | Path | Sequence[str | Path]
"""A place of images, or several archives."""


def places_of(data: Source) -> list[Path]:
    """The one place, or all of them."""
    return [Path(place) for place in ([data] if isinstance(data, str | Path) else data)]


def load_labelled(data: Source, kind: Input, teacher: Teacher | None = None) -> LabelledSet:
    """Reads all images of `data` that have a label.

    Args:
        data: An archive, or several of one model, such as of several qualities; or, for pixels, what `load_images` reads: a
            folder, whose labels are those that `tsae compress` would find (`labels.csv`, GTSRB's own tables, names of
            folders), or a Parquet file with a column `label`.
        kind: Whether an archive's images are decoded, or taken as the integers that are stored, of their first 16 channels.
        teacher: What is to read the images that latents stand for, which are decoded for it; None is nothing.

    Returns:
        The images in order of their keys; those of an archive in its own, those of several one archive after the other.

    Raises:
        InputError: if there is nothing to read, no label, or only one class; if latents are to be read from image files; if
            several places are not archives of one model; or if the teacher does not know a label of an archive.
        TsaeError: if an image or an archive is damaged.
    """
    places = places_of(data)
    for place in places:
        if not (place / MANIFEST_FILE).is_file() and (kind == "latents" or len(places) > 1):
            why = "only archives hold latents" if kind == "latents" else "only archives can be given several at once"
            raise InputError(f"{place}: is no archive, and {why}; make one with tsae compress")
    found = _together([_load(place, kind, teacher) for place in places], places)
    if len(found.classes) < 2:
        raise InputError(
            f"{places[0]}: images of {len(found.classes)} classes; give them labels, in a labels.csv (path,label) beside them"
        )
    return found


def _load(place: Path, kind: Input, teacher: Teacher | None) -> LabelledSet:
    return _from_archive(str(place), kind, teacher) if (place / MANIFEST_FILE).is_file() else _from_files(place)


def _together(parts: list[LabelledSet], places: list[Path]) -> LabelledSet:
    """All images of several archives."""
    if len(parts) == 1:
        return parts[0]
    models = [part.archive and part.archive.manifest.model_sha256 for part in parts]
    for place, model in zip(places, models, strict=True):
        if model != models[0]:
            raise InputError(f"{place}: holds latents of another model than {places[0]}; give archives of one model")
    labels = pa.chunked_array([pa.array(np.array(part.classes, object)[part.labels], pa.string()) for part in parts])
    classes, numbers = number_labels(labels, None)
    images = np.concatenate([part.images for part in parts])
    keys = [key for part in parts for key in part.keys]
    readings = [part.readings for part in parts if part.readings is not None]
    return LabelledSet(keys, images, numbers, tuple(classes), parts[0].archive, np.concatenate(readings) if readings else None)


def _from_archive(path: str, kind: Input, teacher: Teacher | None) -> LabelledSet:
    archive = open_archive(path)
    channels = min(CHANNELS, archive.manifest.latent_shape[0]) if kind == "latents" else None
    data = LatentDataset(archive, kind, channels=channels, cache_bytes=0)
    if teacher is not None:
        teacher.columns(data.classes)  # refuses what it does not know now, not after minutes of reading
    keys = list(archive.keys())
    parts = [
        data.__getitems__(range(start, min(start + READ_AT_ONCE, len(data)))) for start in range(0, len(data), READ_AT_ONCE)
    ]
    values = np.concatenate([part.values.numpy() for part in parts])
    images = values.transpose(0, 2, 3, 1) if kind == "pixels" else values
    found = LabelledSet(keys, images, data.labels, tuple(data.classes), archive if kind == "latents" else None)
    if kind == "latents" and teacher is not None:
        found = dataclasses.replace(found, readings=_read_by(teacher, archive, path))
    return found.take(data.labels != NO_LABEL)


def _read_by(teacher: Teacher, archive: Archive, path: str) -> NDArray[np.float16]:
    """What a teacher reads from all images of an archive, in order."""
    keys, readings = list(archive.keys()), []
    with Progress(len(keys), f"reading {path}") as progress:
        for start in range(0, len(keys), READ_AT_ONCE):
            images = archive.decode(keys[start : start + READ_AT_ONCE])
            for first in range(0, len(images), TAUGHT_AT_ONCE):
                few = torch.from_numpy(images[first : first + TAUGHT_AT_ONCE])
                readings.append(teacher.read(few).half().cpu().numpy())
            progress.update(len(images))
    return np.concatenate(readings)


def _from_files(path: Path) -> LabelledSet:
    images, labels = load_rows(path)
    if path.is_dir() and not any(labels):
        of_key = list_inputs(str(path)).labels
        labels = [of_key.get(key) for key in images.keys]
    classes, numbers = number_labels(pa.chunked_array([pa.array(labels, pa.string())]), None)
    return LabelledSet(images.keys, images.images, numbers, tuple(classes)).take(numbers != NO_LABEL)
