"""Keys, lists of paths and descriptions of archives as real ones are, of any size, without an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tsae import archive as ar
from tsae.archive.files import digested_name
from tsae.archive.lists import LIST_SHARDS
from tsae.config import DEFAULT_MODEL
from tsae.jobs.plan import SHARD_IMAGES
from tsae.jobs.task_results import TaskResult
from tsae.model_facts import read_model_facts
from tsae.paths import Folder
from tsae.zoo import read_model_file

BATCH = 2**20
"""Keys made at once."""

STRIDE = 1_000_003
"""A prime: `number * STRIDE % count` goes through all numbers below a count that it does not divide, in no order."""

STREAM_BYTES = 150
"""Of an image, on average."""

TEMPLATES = 64
"""Shards that are really written, so that the footers in a row group of a list differ as those of real ones do."""

TRACK, CLASS = 30, 30_000
"""Images of a track, and of a class."""


def key(number: int) -> str:
    """The key of an image, as GTSRB names them."""
    return f"{number // CLASS:05d}/{number // TRACK % (CLASS // TRACK):05d}_{number % TRACK:05d}.png"


def keys(numbers: NDArray[np.int64]) -> pa.Array:
    """The same of many, as a column."""
    text = np.frombuffer(b"00000/00000_00000.png", np.uint8)
    letters = np.tile(text, (len(numbers), 1))
    for start, part in ((0, numbers // CLASS), (6, numbers // TRACK % (CLASS // TRACK)), (12, numbers % TRACK)):
        for digit in range(5):
            letters[:, start + digit] += (part // 10 ** (4 - digit) % 10).astype(np.uint8)
    ends = np.arange(len(numbers) + 1, dtype=np.int64) * len(text)
    return pa.LargeStringArray.from_buffers(len(numbers), pa.py_buffer(ends), pa.py_buffer(letters))


def number_batches(count: int, shuffled: bool = False) -> Iterator[NDArray[np.int64]]:
    """All numbers below a count, in order or in none."""
    for start in range(0, count, BATCH):
        numbers = np.arange(start, min(start + BATCH, count), dtype=np.int64)
        yield numbers * STRIDE % count if shuffled else numbers


def write_path_list(file: Path, count: int, shuffled: bool) -> None:
    """A list of images, as `compress` takes it: a Parquet file with a column `path`."""
    schema = pa.schema([("path", pa.large_string())])
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
        for numbers in number_batches(count, shuffled):
            writer.write_table(pa.table([keys(numbers)], schema))


def write_containers(folder: Path, count: int, rows: int) -> None:
    """Parquet files of images that have names and labels, but no more than a byte each of pixels."""
    folder.mkdir(parents=True)
    for part, start in enumerate(range(0, count, rows)):
        numbers = np.arange(start, min(start + rows, count), dtype=np.int64)
        fields = [pa.array([b"x"]).take(pa.array(np.zeros(len(numbers), np.int64))), keys(numbers).cast(pa.string())]
        image = pa.StructArray.from_arrays(fields, ["bytes", "path"])
        pq.write_table(pa.table({"image": image, "label": pa.array(numbers // CLASS)}), folder / f"{part:05d}.parquet")


def shard_ranges(count: int) -> list[range]:
    """The numbers of the images of each shard, full ones as far as they go."""
    return [range(start, min(start + SHARD_IMAGES, count)) for start in range(0, count, SHARD_IMAGES)]


def records(numbers: range, rng: np.random.Generator) -> ar.Records:
    """Records as those of signs are, but their streams are random bytes of about the right lengths."""
    rows = len(numbers)
    sizes = rng.integers(25, 100, (2, rows)).astype(np.uint32)
    lengths = rng.integers(STREAM_BYTES // 2, STREAM_BYTES * 3 // 2, rows)
    streams = [rng.bytes(int(length - 1)) + b"\1" for length in lengths]
    return ar.Records(
        keys=[key(number) for number in numbers],
        streams=streams,
        codings=np.full(rows, CODING, np.uint8),
        widths=sizes[0],
        heights=sizes[1],
        labels=[f"{number // CLASS:05d}" for number in numbers],
        psnrs_db=ar.stored_psnr_db(rng.normal(32.4, 3.4, rows)),
        lossless=[None] * rows,
    )


CODING = 8
"""Of the records: a quality of the packaged model."""


def origins(names: Sequence[str], rng: np.random.Generator) -> dict[str, ar.Origin]:
    """States of files, as a store tells them."""
    return {name: ar.Origin(int(rng.integers(2000, 9000)), f'"{rng.bytes(16).hex()}"', rng.bytes(16)) for name in names}


class Shards:
    """Entries of shards that are not there, made from some that are."""

    def __init__(self, folder: Folder, count: int) -> None:
        """Writes the templates.

        Args:
            folder: The archive.
            count: Images of it.
        """
        self.folder, self.ranges = folder, shard_ranges(count)
        self.model = read_model_file(DEFAULT_MODEL)
        self._sha256 = ar.digest(self.model)
        self._rng = np.random.default_rng(count)
        self._templates = [self.real(number)[0] for number in range(min(TEMPLATES, len(self.ranges)))]
        self._ends = [_ends(entry.footer, numbers) for entry, numbers in zip(self._templates, self.ranges, strict=False)]

    def real(self, number: int) -> tuple[ar.ShardEntry, ar.Records]:
        """A shard that is written."""
        found = records(self.ranges[number], self._rng)
        known = origins(found.keys, self._rng)
        return ar.write_shard(self.folder, number, found, known, self._sha256), found

    def entry(self, number: int) -> ar.ShardEntry:
        """A shard that is only described: the footer is a template's, with this shard's keys in place of that one's."""
        place = number % len(self._templates)
        template, numbers = self._templates[place], self.ranges[number]
        if number == place or len(numbers) != template.rows:
            return template if number == place else self.real(number)[0]
        sha256 = self._rng.bytes(32).hex()
        name = digested_name("shards", number, sha256)
        provenance = digested_name("provenance", number, self._rng.bytes(32).hex())
        return dataclasses.replace(
            template,
            file=name,
            sha256=sha256,
            first_key=key(numbers[0]),
            last_key=key(numbers[-1]),
            provenance=provenance,
            footer=self._footer(place, numbers),
            crc32s=self._rng.bytes(len(template.crc32s)),
        )

    def _footer(self, place: int, numbers: range) -> bytes:
        """A template's footer with other keys; all keys have one length, so no other byte changes."""
        footer = self._templates[place].footer
        for row in self._ends[place]:
            footer = footer.replace(key(self.ranges[place][row]).encode(), key(numbers[row]).encode())
        return footer

    def entries(self) -> Iterator[ar.ShardEntry]:
        """Of all shards."""
        return map(self.entry, range(len(self.ranges)))

    def manifest(self, lists: tuple[ar.ListEntry, ...], counts: ar.Counts) -> ar.Manifest:
        """What makes an archive of lists."""
        facts = read_model_facts(self.model, DEFAULT_MODEL)
        return ar.Manifest(
            requires=(),
            model=facts.name,
            model_file=ar.MODEL_FILE,
            model_bytes=len(self.model),
            model_sha256=self._sha256,
            latent_shape=facts.latent_shape,
            preprocessing=facts.preprocessing.to_json(),
            settings=settings(),
            created_by="benchmarks/scale_parts.py",
            counts=counts,
            lists=lists,
            failures=(),
        )


def _ends(footer: bytes, numbers: range) -> list[int]:
    """The rows whose keys a footer names: first and last of each row group."""
    found, start = [], footer.find(b".png")
    names = {key(number): row for row, number in enumerate(numbers)}
    while start >= 0:
        row = names.get(footer[start - 17 : start + 4].decode("utf-8", "replace"))
        found += [] if row is None or row in found else [row]
        start = footer.find(b".png", start + 1)
    return found


def settings() -> ar.Settings:
    """Of a job whose input is not there."""
    return ar.Settings(source="/benchmark", root="/benchmark", verify=True, min_psnr_db=None, quality=CODING)


def results(shards: Shards) -> Iterator[TaskResult]:
    """What the tasks of a job come to."""
    stages_s = {"read": 1.2, "encode": 3.4, "write": 0.1}
    for task, entry in enumerate(shards.entries()):
        yield TaskResult(task, entry, None, entry.rows, entry.source_bytes, stages_s)


def described(folder: Folder, count: int, wanted: int) -> ar.Manifest:
    """An archive of that many records of which only the shard with one of them is there."""
    shards = Shards(folder, count)
    lists: list[ar.ListEntry] = []
    batch: list[ar.ShardEntry] = []
    totals = np.zeros(3, np.int64)
    for number in range(len(shards.ranges)):
        batch.append(shards.real(number)[0] if wanted in shards.ranges[number] else shards.entry(number))
        totals += (batch[-1].rows, batch[-1].source_bytes, batch[-1].stream_bytes)
        if len(batch) == LIST_SHARDS or number == len(shards.ranges) - 1:
            (written,) = ar.write_lists(folder, None, {}, batch)
            lists.append(written)
            batch = []
    ar.write(folder, ar.MODEL_FILE, shards.model)
    counts = ar.Counts(*map(int, (totals[0], len(shards.ranges), 0, 0, *totals[1:], 0, 0)), 32.4, 20.0)
    manifest = shards.manifest(tuple(lists), counts)
    ar.commit(folder, manifest, None)
    return manifest
