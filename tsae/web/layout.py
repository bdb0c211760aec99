"""Records as a page reads them: blocks of records, each in segments. Owns the layout (docs/WEB.md), not files or servers."""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tsae.archive import Manifest, Records
from tsae.archive.records import PSNR_STEP_DB
from tsae.model_file import read_model_file, write_model_file

LAYOUT_VERSION = 1

BLOCK_RECORDS = 4096
"""Records of a block: its keys take some 10 kB, its facts 30, so that the first view needs one small read of each."""

NO_PSNR = 0xFFFF
"""Stands for a PSNR that was not measured; others are multiples of 1/64 dB, at most 6,400 of them."""

PACKING_LEVEL = 6
"""Of zlib: the page has `DecompressionStream`, and higher levels gain 1 %."""

UNUSED_BY_DECODERS = ("analysis.", "network.g_a.")
"""Tensors that only encoders need: half of a model."""


@dataclasses.dataclass(frozen=True)
class Block:
    """The segments of some consecutive records.

    Attributes:
        rows: Number of records.
        first: The least key.
        last: The greatest key.
        facts: What is told of each record, packed.
        keys: Their keys, packed.
        streams: What is decoded.
        originals: What was encoded, where that is known; empty if for no record.
    """

    rows: int
    first: str
    last: str
    facts: bytes
    keys: bytes
    streams: bytes
    originals: bytes


def to_block(records: Records, originals: Sequence[bytes] | None = None, are_intact: Sequence[bool] | None = None) -> Block:
    """Lays out some records.

    Args:
        records: At least one.
        originals: For each an image file that browsers read, or nothing; None for nothing at all.
        are_intact: Whether each is; one that is not gets a checksum that does not match. None if all are.
    """
    originals = originals or [b""] * len(records)
    intact = [True] * len(records) if are_intact is None else are_intact
    streams = zip(records.streams, records.lossless, intact, strict=True)
    return Block(
        len(records),
        min(records.keys),
        max(records.keys),
        _pack(_facts(records, originals)),
        _pack("\0".join(records.keys).encode()),
        b"".join(_checked(stream + (lossless or b""), is_intact) for stream, lossless, is_intact in streams),
        b"".join(_checked(original) for original in originals if original),
    )


def _pack(data: bytes) -> bytes:
    return zlib.compress(data, PACKING_LEVEL)


def _checked(data: bytes, is_intact: bool = True) -> bytes:
    return struct.pack("<I", zlib.crc32(data) ^ (0 if is_intact else 0xFFFFFFFF)) + data


def _facts(records: Records, originals: Sequence[bytes]) -> bytes:
    names = sorted({label for label in records.labels if label is not None})
    numbers = {label: number for number, label in enumerate(names, 1)}
    columns = [
        [len(stream) for stream in records.streams],
        [len(image or b"") for image in records.lossless],
        [len(original) for original in originals],
        records.widths,
        records.heights,
        [0 if label is None else numbers[label] for label in records.labels],
    ]
    steps = np.nan_to_num(records.psnrs_db / PSNR_STEP_DB, nan=NO_PSNR)
    parts = [np.asarray(column, "<u4").tobytes() for column in columns]
    return b"".join([*parts, steps.astype("<u2").tobytes(), records.codings.tobytes(), json.dumps(names).encode()])


def to_model_segment(model_file: bytes, source: str) -> bytes:
    """A model as pages read it: the same container, without what only encoders need, packed.

    Raises:
        ModelError: if it is no model.
    """
    header, tensors = read_model_file(model_file, source)
    facts = {name: header[name] for name in ("name", "architecture", "preprocessing", "training")}
    return _pack(write_model_file(facts, {n: t for n, t in tensors.items() if not n.startswith(UNUSED_BY_DECODERS)}))


def describe(
    manifest: Manifest, title: str, model: dict[str, Any], blocks: dict[str, list[Any]], originals_route: str | None = None
) -> bytes:
    """The description that a page reads first, as JSON.

    Args:
        manifest: Of the archive.
        title: Its name, for people.
        model: The place of the model's segment.
        blocks: By column, in the order of positions.
        originals_route: Where a server gives originals by key; None in exports.
    """
    counts, settings = manifest.counts, manifest.settings
    facts = {
        "format": "tsae-web",
        "format_version": LAYOUT_VERSION,
        "title": title,
        "model_name": manifest.model,
        "model_sha256": manifest.model_sha256,
        "quality": settings.quality,
        "created_by": manifest.created_by,
        "counts": dataclasses.asdict(counts),
        "model": model,
        "blocks": blocks,
        **({} if originals_route is None else {"originals_route": originals_route}),
    }
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
