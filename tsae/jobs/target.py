"""Choosing the quality that reaches a target, and what is stored better, from a sample of the input."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae.errors import ImageError, InputError
from tsae.images import decode_image, resize
from tsae.inputs import Item, Listing, Read, map_inputs
from tsae.jobs.encoding import MISREAD_ONLY, Classify
from tsae.jobs.plan import SHARD_IMAGES
from tsae.jobs.trial import Choice, Trials, try_qualities

if TYPE_CHECKING:
    from tsae.codec import Codec

SAMPLE_IMAGES = 512
"""Images that are tried; their mean bytes are within about 2 % of all images' then."""

ARCHIVE_BYTES, LISTED_BYTES = 4500, 1.0
"""What an archive has beside its shards: manifest and list once, and the list's copy of the footers by image; a little more
than `benchmarks/overhead.py` shows, since a target is not to be exceeded."""


LOOSE = 0.1
"""A limit of doubt above which a lower quality with a lower limit loses fewer signs. Of 4,410 images at 20 targets, another
classifier, which had not been asked, lost about equally few with 0.05 to 0.3, and a quarter more without
(docs/EVALUATION.md)."""


@dataclasses.dataclass(frozen=True)
class Target:
    """What an archive is to reach.

    Attributes:
        bytes_per_image: Most bytes of the archive an image, all but the model; or None.
        psnr_db: Least mean PSNR; or None.
    """

    bytes_per_image: float | None = None
    psnr_db: float | None = None

    def __str__(self) -> str:
        """As the manifest has it."""
        return f"{self.bytes_per_image:g} bytes" if self.bytes_per_image is not None else f"{self.psnr_db:g} dB"


def choose_quality(
    listing: Listing, codec: Codec, target: Target, settings: ar.Settings, classify: Classify | None = None
) -> Choice:
    """The best quality within a number of bytes, or the lowest one that reaches a PSNR.

    Args:
        listing: The input.
        codec: A model with qualities.
        target: What is to be reached.
        settings: Of the job, but for the quality; with `doubt`, a limit is chosen, too, by which bytes that the quality leaves
            are used.
        classify: The settings' classifier; None if they have none.

    Raises:
        InputError: if no quality reaches it, or no image of the sample can be read.
    """
    trials = try_qualities(read_sample(listing), codec, settings, overhead_bytes(listing), len(listing.keys), classify)
    limits: list[float | None] = []
    if trials.spends_by_doubt or settings.keep_readable is not None:
        limits.append(MISREAD_ONLY)
    if settings.keep_readable is None:
        limits.append(None)  # where all that is misread would take too much, no image is stored better than others
    for limit in limits:
        choices = [trials.choice(quality, limit) for quality in range(1, trials.qualities + 1)]
        if reaching := [choice for choice in choices if _reaches(choice, target)]:
            return reaching[0] if target.bytes_per_image is None else _spend(trials, reaching, target.bytes_per_image)
    nearest = choices[-1] if target.bytes_per_image is None else min(choices, key=lambda choice: choice.bytes_per_image)
    raise InputError(f"target of {target}: not to be had here; the nearest is {nearest}; choose another target")


def _reaches(choice: Choice, target: Target) -> bool:
    if target.bytes_per_image is not None:
        return choice.most_bytes <= target.bytes_per_image
    return choice.least_psnr_db >= (target.psnr_db or 0)


def _spend(trials: Trials, reaching: Sequence[Choice], most_bytes: float) -> Choice:
    """The best use of bytes.

    Args:
        trials: Of the sample.
        reaching: A choice at each quality at which misread images alone, or none, can be stored better; lowest first.
        most_bytes: An image.
    """
    if not trials.spends_by_doubt or reaching[-1].limit is None:
        return reaching[-1]
    if reaching[-1].quality == trials.qualities:
        return dataclasses.replace(reaching[-1], limit=None)  # nothing is better
    found = [_least_limit(trials, choice.quality, most_bytes) for choice in reaching]
    best_first = found[::-1]
    return next((choice for choice in best_first if (choice.limit or 0) <= LOOSE), min(best_first, key=lambda c: c.limit or 0))


def _least_limit(trials: Trials, quality: int, most_bytes: float) -> Choice:
    """The choice of the least limit of doubt within the bytes; that of misread images only must be."""
    limits = trials.limits(quality)
    low, high = 0, len(limits) - 1  # bytes fall with the limit, nearly always
    while low < high:
        middle = (low + high) // 2
        if trials.choice(quality, limits[middle]).most_bytes <= most_bytes:
            high = middle
        else:
            low = middle + 1
    return trials.choice(quality, limits[high])


def read_sample(listing: Listing) -> NDArray[np.uint8]:
    """Up to `SAMPLE_IMAGES` images, evenly from the whole list, uint8 `[N, 32, 32, 3]`; what cannot be read is passed over.

    Raises:
        InputError: if none can be read.
    """
    count = min(len(listing.keys), SAMPLE_IMAGES)
    rows = np.array([i * len(listing.keys) // count for i in range(count)], np.int64)
    found = [image for image in map_inputs(_read, listing.items(rows), listing.root) if image is not None]
    if not found:
        raise InputError(f"{listing.root}: none of {count} images could be read, to choose a quality; give one with --quality")
    return np.stack(found)


def _read(item: Item, read: Read) -> NDArray[np.uint8] | None:
    try:
        return resize(decode_image(read()[0]))
    except ImageError:
        return None


def overhead_bytes(listing: Listing) -> float:
    """Bytes an image that an archive of these inputs has beside its streams: of a shard with their keys and labels.

    Args:
        listing: At least one key.
    """
    items = listing.items(listing.rows[:SHARD_IMAGES])
    rng, count = np.random.default_rng(0), len(items)
    streams = [rng.bytes(int(size)) for size in rng.integers(20, 200, count)]
    records = dataclasses.replace(
        ar.bare_records(streams, rng.choice(CODINGS, count), [None] * count),
        keys=[item.key for item in items],
        widths=rng.integers(25, 250, count).astype(np.uint32),
        heights=rng.integers(25, 250, count).astype(np.uint32),
        labels=[item.label for item in items],
        psnrs_db=ar.stored_psnr_db(rng.normal(33, 3, count)),
    )
    shard = ar.shard_to_bytes(records, {"format_version": 1, "model_sha256": "0" * 64})
    return (len(shard) - sum(map(len, streams))) / count + LISTED_BYTES + ARCHIVE_BYTES / len(listing.keys)


CODINGS = np.array([4, 4, 4, 5, 6], np.uint8)
"""As mixed as those of images some of which are faint."""
