"""Images coded and decoded: by our jobs, and by rivals at chosen sizes. Knows no classifier."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rd.points import Images, select
from rd.rivals import OPTIONS, PillowCoder, versions

import tsae
from tsae.cli import main as run_tsae
from tsae.images import decode_image, resize
from tsae.inputs import Item, Read, list_inputs, map_inputs

RIVALS = ("WebP", "JPEG XL", "AVIF")

SAMPLE_IMAGES = 128
"""By which a rival's setting is sought; then all images are coded, and the search repeated if they come out too small."""


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Images of an INPUT.

    Attributes:
        flags: What names them to `tsae compress`.
        keys: Sorted.
        labels: None where there is none.
        sizes_px: Shorter sides as they were taken, int64 `[N]`.
        images: uint8 `[N, 32, 32, 3]`.
    """

    flags: tuple[str, ...]
    keys: list[str]
    labels: list[str | None]
    sizes_px: np.ndarray
    images: Images

    @classmethod
    def load(cls, source: str, limit: int | None, folder: Path) -> Data:
        """All images of a folder, or a part of them, which becomes a list in another folder so that jobs see the same part."""
        listing = list_inputs(source)
        items = listing.items(np.asarray(select(len(listing.keys), limit), np.int64))
        flags: tuple[str, ...] = (source,)
        if limit is not None:
            (folder / "part.txt").write_text("".join(f"{item.key}\n" for item in items))
            flags = (str(folder / "part.txt"), f"--root={listing.root}")
        sizes, images = zip(*map_inputs(_read, items, listing.root), strict=True)
        return cls(flags, [item.key for item in items], [item.label for item in items], np.array(sizes), np.stack(images))

    @property
    def digest(self) -> str:
        """Names the set of images."""
        return hashlib.sha256(self.images.tobytes()).hexdigest()[:16]


def _read(item: Item, read: Read) -> tuple[int, Images]:
    """Shorter side in px, and pixels."""
    image = decode_image(read()[0])
    return min(image.size), resize(image)


@dataclasses.dataclass(frozen=True, eq=False)
class Coded:
    """What one setting made of all images.

    Attributes:
        coder: Model or format.
        setting: What was asked for.
        bytes_per_image: Ours: the archive but the model; others': the files alone.
        decoded: uint8 `[N, 32, 32, 3]`.
        sizes_bytes: Of each image, what is stored of itself, int64 `[N]`.
        facts: What else is to be told of ours.
    """

    coder: str
    setting: str
    bytes_per_image: float
    decoded: Images
    sizes_bytes: np.ndarray
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether a job of ours made it."""
        return bool(self.facts)

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.coder}, {self.setting}" if self.setting else self.coder


def compress(data: Data, archive: Path, model: str, setting: str, *flags: str) -> Coded:
    """Runs `tsae compress`, and opens what it made."""
    with contextlib.redirect_stdout(sys.stderr):
        status = run_tsae(["compress", *data.flags, str(archive), f"--model={model}", "--workers=1", *flags])
    assert status == 0, f"{model} {flags}: exit code {status}"
    with tsae.open_archive(str(archive)) as opened:
        info, records = opened.info(), opened.files.records(data.keys)
        sizes = [len(stream) + len(file or b"") for stream, file in zip(records.streams, records.lossless, strict=True)]
        facts = {name: info[name] for name in ("quality", "doubt", "lossless", "model_bytes")}
        return Coded(model, setting, info["bytes_per_image"], opened.decode(data.keys), np.array(sizes), facts)


def code_rival(data: Data, rival: str, least_bytes: float, cache: Path | None) -> Coded:
    """A rival at the lowest quality whose files are at least so large on average: it gets no fewer bytes than we do.

    Where even its smallest files are larger, these are taken.
    """
    sample = data.images[select(len(data.images), SAMPLE_IMAGES)]
    wanted, tried = least_bytes, -1
    while True:
        quality = max(_find_quality(rival, wanted, sample), tried + 1)
        found = _code(data, rival, quality, cache)
        if found.bytes_per_image >= least_bytes or quality == 100:
            return found
        wanted, tried = least_bytes * _mean_bytes(rival, quality, sample) / found.bytes_per_image, quality


def _find_quality(rival: str, least_bytes: float, images: Images) -> int:
    """The lowest quality whose files are so large on average; 100 if there is none."""
    low, high = 0, 100
    while low < high:
        middle = (low + high) // 2
        if _mean_bytes(rival, middle, images) >= least_bytes:
            high = middle
        else:
            low = middle + 1
    return low


def _coder(rival: str, quality: int) -> PillowCoder:
    return PillowCoder(rival, f"quality {quality}", {**OPTIONS[rival], "quality": quality})


def _mean_bytes(rival: str, quality: int, images: Images) -> float:
    files = _coder(rival, quality).encode(images)
    return sum(map(len, files)) / len(files)


def _code(data: Data, rival: str, quality: int, cache: Path | None) -> Coded:
    """All images; from the cache if the same versions of the libraries have coded the same images before."""
    about = f"{data.digest} {rival} {quality} {sorted(versions().items())}"
    file = cache and cache / f"{hashlib.sha256(about.encode()).hexdigest()[:16]}.npz"
    if file is None or not file.is_file():
        coder = _coder(rival, quality)
        files = coder.encode(data.images)
        decoded, sizes = coder.decode(files), np.array([len(one) for one in files])
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, decoded=decoded, sizes=sizes)
    else:
        with np.load(file) as stored:
            decoded, sizes = stored["decoded"], stored["sizes"]
    print(f"{rival} quality {quality}: {sizes.mean():.1f} bytes", file=sys.stderr, flush=True)
    return Coded(rival, f"quality {quality}", float(sizes.mean()), decoded, sizes)
