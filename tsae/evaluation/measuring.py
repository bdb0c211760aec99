"""Facts of each image of an archive, from its records and their originals, one row group at a time."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae.errors import CorruptDataError, ImageError, InputError, TsaeError
from tsae.evaluation.facts import Facts
from tsae.images import resize
from tsae.metrics import laplacian_variance, mean_luma, psnr_db, ssim
from tsae.originals import MissingError, Originals
from tsae.progress import Progress
from tsae.reader import Archive

if TYPE_CHECKING:
    from tsae.classifier import SignClassifier

BATCH_IMAGES = 512
"""Images whose pixels are in memory at once; SSIM takes the most, some 0.4 MB an image for moments."""

MISSING, UNREADABLE, DAMAGED = "missing originals", "unreadable originals", "damaged records"
"""Kinds of problems."""

KEPT_PROBLEMS = 1000
"""Of each kind, so many are told one by one; the others are counted."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why an image was not measured; or several of them, where a damaged file does not tell which.

    Attributes:
        kind: One of the three.
        key: None where it is not known.
        message: One line.
        images: How many.
    """

    kind: str
    key: str | None
    message: str
    images: int = 1


class Problems:
    """All problems by number, and the first of each kind by themselves.

    Attributes:
        counts: Images by kind.
        first: Some of them.
        keys: Of all of them that tell one.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: list[Problem] = []
        self.keys: list[str] = []
        self._kept: Counter[str] = Counter()

    def add(self, problem: Problem) -> None:
        """Adds one."""
        self.counts[problem.kind] += problem.images
        self._kept[problem.kind] += 1
        if self._kept[problem.kind] <= KEPT_PROBLEMS:
            self.first.append(problem)
        if problem.key is not None:
            self.keys.append(problem.key)


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What came of an archive.

    Attributes:
        facts: Of the images that could be measured, in the order of positions.
        problems: The others.
        unarchived: How many originals the archive does not have.
        some_unarchived: The first of their keys.
    """

    facts: Facts
    problems: Problems
    unarchived: int
    some_unarchived: list[str]


SHOWN_UNARCHIVED = 20


def measure(archive: Archive, originals: Originals, classifier: SignClassifier) -> Measured:
    """Measures all images of an archive that can be.

    Args:
        archive: Opened.
        originals: Its input, listed.
        classifier: Reads signs.

    Raises:
        InputError: if no image could be measured.
        TsaeError: if the archive's model cannot be used. A damaged record, shard or list is a problem among the results.
    """
    problems, listing = Problems(), originals.listing
    parts = list[Facts]()
    is_archived = np.zeros(len(listing.keys), bool)
    _ = archive.codec
    with Progress(len(archive), "evaluating") as progress:
        for records in _batches(archive, problems):
            rows = listing.find(records.keys)
            is_archived[rows[rows >= 0]] = True
            parts += _measure_batch(archive, records, originals, classifier, problems)
            progress.update(len(records))
    rows = listing.find(problems.keys)
    is_archived[rows[rows >= 0]] = True
    if not parts:
        reason = f" (first: {problems.first[0].message})" if problems.first else ""
        raise InputError(f"{archive.path}: none of {len(archive):,} images could be measured{reason}; check --originals")
    others = np.flatnonzero(~is_archived)
    some = [listing.keys[row] for row in others[:SHOWN_UNARCHIVED].tolist()]
    return Measured(Facts.join(parts), problems, len(others), some)


def _batches(archive: Archive, problems: Problems) -> Iterator[ar.Records]:
    """All intact records in the order of positions; problems for the others."""
    files, number = archive.files, 0
    for entry in files.manifest.lists:
        try:
            files.entry(number)
        except TsaeError as error:
            problems.add(Problem(DAMAGED, None, f"{entry.images:,} records are lost with their list: {error}", entry.images))
            number += entry.rows
            continue
        for shard in range(number, number + entry.rows):
            yield from _batches_of_shard(files, shard, problems)
        number += entry.rows


def _batches_of_shard(files: ar.ArchiveFiles, shard: int, problems: Problems) -> Iterator[ar.Records]:
    entry = files.facts(shard)
    read = 0
    try:
        reader = files.shard(shard)
        for row_group, (records, damages) in enumerate(ar.salvage(reader)):
            read += reader.describe(row_group)[2]
            for damage in damages:
                lost = 1 if damage.key is not None else reader.describe(row_group)[2]
                where = ar.shown(damage.key) if damage.key is not None else entry["file"]
                problems.add(Problem(DAMAGED, damage.key, f"{where}: {damage.message}", lost))
            for start in range(0, len(records), BATCH_IMAGES):
                yield records.take(range(start, min(start + BATCH_IMAGES, len(records))))
    except TsaeError as error:
        lost = entry["rows"] - read
        problems.add(Problem(DAMAGED, None, f"{entry['file']}: {lost:,} records are lost: {error}", lost))


def _measure_batch(
    archive: Archive, records: ar.Records, originals: Originals, classifier: SignClassifier, problems: Problems
) -> list[Facts]:
    """Facts of those that can be measured, if there are any."""
    records, decoded = _decode(archive, records, problems)
    images: dict[int, NDArray[np.uint8]] = {}
    for row, (key, original) in enumerate(zip(records.keys, originals.map(resize, records.keys), strict=True)):
        if isinstance(original, MissingError):
            problems.add(Problem(MISSING, key, f"{ar.shown(key)}: not in {originals.source}"))
        elif isinstance(original, ImageError):
            problems.add(Problem(UNREADABLE, key, f"{ar.shown(key)}: the original cannot be read: {original}"))
        else:
            images[row] = original
    if not images:
        return []
    rows, records = list(images), records.take(list(images))
    return [_facts(records, originals.labels(records.keys), np.stack(list(images.values())), decoded[rows], classifier)]


def _decode(archive: Archive, records: ar.Records, problems: Problems) -> tuple[ar.Records, NDArray[np.uint8]]:
    """The records that can be decoded, and their images; where one cannot, each by itself."""
    try:
        return records, archive.decode_records(records)
    except CorruptDataError as error:
        if len(records) == 1:
            problems.add(Problem(DAMAGED, records.keys[0], str(error)))
            return records.take([]), archive.decode_records(records.take([]))
    parts = [_decode(archive, records.take([row]), problems) for row in range(len(records))]
    return ar.concatenate([part for part, _ in parts]), np.concatenate([images for _, images in parts])


def _facts(
    records: ar.Records,
    labels_beside: list[str | None],
    originals: NDArray[np.uint8],
    decoded: NDArray[np.uint8],
    classifier: SignClassifier,
) -> Facts:
    """Facts of records whose originals and decoded images are at hand."""
    before, after = classifier.probabilities(originals), classifier.probabilities(decoded)
    pairs = zip(records.labels, labels_beside, strict=True)
    return Facts(
        keys=records.keys,
        labels=[beside if label is None else label for label, beside in pairs],
        sizes_px=np.minimum(records.widths, records.heights).astype(np.int64),
        sizes_bytes=np.array(records.sizes_bytes(), np.int64),
        is_exact=np.array([exact is not None for exact in records.lossless], bool),
        psnrs_db=np.minimum(psnr_db(originals, decoded), ar.EXACT_PSNR_DB),
        ssims=ssim(originals, decoded),
        lumas=mean_luma(originals),
        sharpness=laplacian_variance(originals),
        read_original=before.argmax(1).astype(np.int64),
        read_decoded=after.argmax(1).astype(np.int64),
        sure_original=before.max(1).astype(np.float64),
        sure_decoded=after.max(1).astype(np.float64),
    )
